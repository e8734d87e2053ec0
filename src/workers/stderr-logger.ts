import { inspect } from 'node:util'
import { type LogFields, type Logger, type LogLevel, type RecordLevel, rankOf } from './logger.js'

/** Words that need no quotes. */
const PLAIN = /^[\w.:/@[\]-]+$/

/**
 * The logger for those who set none: a line on standard error for each record, with time, level, shard, message and fields,
 * followed by the stack of an error:
 *
 * ```text
 * 2026-01-31T12:00:00.000Z WARN  shardloop shard 0: accepting pauses: Too many open files errno=24
 * ```
 */
export class StderrLogger implements Logger {
  level: LogLevel
  readonly #bindings: LogFields

  constructor(level: LogLevel, bindings: LogFields) {
    this.level = level
    this.#bindings = bindings
  }

  isLevelEnabled(level: string): boolean {
    return rankOf(level as LogLevel) >= rankOf(this.level)
  }

  child(bindings: object): Logger {
    return new StderrLogger(this.level, { ...this.#bindings, ...bindings })
  }

  trace(fields: object | string, message?: string): void {
    this.#write('trace', fields, message)
  }

  debug(fields: object | string, message?: string): void {
    this.#write('debug', fields, message)
  }

  info(fields: object | string, message?: string): void {
    this.#write('info', fields, message)
  }

  warn(fields: object | string, message?: string): void {
    this.#write('warn', fields, message)
  }

  error(fields: object | string, message?: string): void {
    this.#write('error', fields, message)
  }

  fatal(fields: object | string, message?: string): void {
    this.#write('fatal', fields, message)
  }

  #write(level: RecordLevel, fields: object | string, message: string | undefined): void {
    if (!this.isLevelEnabled(level)) return
    const [given, text] = typeof fields === 'string' ? [{}, fields] : [fields, message ?? '']
    // An error in the place of fields, as pino takes it.
    const own = given instanceof Error ? { err: given } : given
    process.stderr.write(line(level, text, { ...this.#bindings, ...own }))
  }
}

function line(level: RecordLevel, message: string, fields: LogFields): string {
  const { shard, err, ...others } = fields
  const where = typeof shard === 'number' ? `shardloop shard ${shard}` : 'shardloop'
  let text = `${new Date().toISOString()} ${level.toUpperCase().padEnd(5)} ${where}: ${onOneLine(message)}`
  for (const [key, value] of Object.entries(others)) {
    if (value !== undefined) text += ` ${key}=${shown(value)}`
  }
  return 'err' in fields ? `${text}\n${inspect(err)}\n` : `${text}\n`
}

function shown(value: unknown): string {
  if (typeof value === 'string') return PLAIN.test(value) ? value : JSON.stringify(value)
  return onOneLine(inspect(value, { depth: 1, breakLength: Number.POSITIVE_INFINITY }))
}

/** What a peer or a program wrote shall not look like another record. */
function onOneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  return text.replace(/[\x00-\x1f\x7f]/g, (character) => JSON.stringify(character).slice(1, -1))
}
