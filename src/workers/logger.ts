import { inspect } from 'node:util'
import { ShardloopError } from '../errors.js'
import { VALUE_SHOWN_MAX_LENGTH } from '../limits.js'

/** From the most verbose on; `'silent'` lets nothing through. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

/** How grave a record is at least to be logged. */
export type LogLevel = (typeof LOG_LEVELS)[number]

/** How grave a record is. */
export type RecordLevel = Exclude<LogLevel, 'silent'>

export const LOG_LEVEL_DEFAULT: LogLevel = 'warn'

/** What a record is about, by name; an error as `err`. */
export type LogFields = Readonly<Record<string, unknown>>

/** Logs one record. */
export interface LogMethod {
  (fields: object, message?: string): void
  (message: string): void
}

/**
 * Where log records go: what pino's loggers are, so that one of them, or of any library with the same methods, can be
 * given as it is. Methods are called on the logger, in the thread that it was set in.
 */
export interface Logger {
  readonly trace: LogMethod
  readonly debug: LogMethod
  readonly info: LogMethod
  readonly warn: LogMethod
  readonly error: LogMethod
  readonly fatal: LogMethod
  /** A logger whose records carry these fields too. shardloop does not call it. */
  child?(bindings: object): Logger
  /** What the logger itself lets through. shardloop does not read it. */
  readonly level?: string
  /** Asked before a record is made; what the logger would throw away is not made. */
  isLevelEnabled?(level: string): boolean
}

const METHODS = LOG_LEVELS.filter((level): level is RecordLevel => level !== 'silent')

/** The place of a level among all. */
export function rankOf(level: LogLevel): number {
  return LOG_LEVELS.indexOf(level)
}

export function isLogLevel(value: unknown): value is LogLevel {
  return LOG_LEVELS.some((level) => level === value)
}

/** What was expected in the place of a value that is no logger; null for one that is. */
export function expectedLogger(value: unknown): string | null {
  const methods = `the methods ${METHODS.join(', ')}`
  const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function'
  if (!isObject) return `a logger: an object with ${methods}`
  const missing = METHODS.filter((method) => typeof (value as Partial<Logger>)[method] !== 'function')
  return missing.length === 0 ? null : `a logger with ${methods} (it lacks ${missing.join(', ')})`
}

/** The levels as messages name them. */
export const EXPECTED_LOG_LEVEL: string = LOG_LEVELS.map((level) => `'${level}'`).join(', ')

/**
 * Checks what `setLogger` was given.
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT, ERR_SHARDLOOP_OPTION
 */
export function parseLoggerArguments(logger: unknown, options: unknown): LogLevel {
  const expected = logger === null ? null : expectedLogger(logger)
  if (expected !== null)
    throw new ShardloopError(
      'ERR_SHARDLOOP_ARGUMENT',
      `setLogger: expected ${expected}, or null, given ${show(logger)}`,
    )
  if (typeof options !== 'object' || options === null)
    throw new ShardloopError('ERR_SHARDLOOP_OPTION', `setLogger: expected { level }, given ${show(options)}`)
  const { level = LOG_LEVEL_DEFAULT, ...unknown } = options as { level?: unknown }
  const [stray] = Object.keys(unknown)
  if (stray !== undefined)
    throw new ShardloopError('ERR_SHARDLOOP_OPTION', `unknown option ${show(stray)}; known is level`)
  if (!isLogLevel(level))
    throw new ShardloopError(
      'ERR_SHARDLOOP_OPTION',
      `option level: expected one of ${EXPECTED_LOG_LEVEL}, given ${show(level)}`,
    )
  return level
}

function show(value: unknown): string {
  return inspect(value, { depth: 0 }).slice(0, VALUE_SHOWN_MAX_LENGTH)
}
