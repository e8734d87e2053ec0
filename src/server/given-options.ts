import { inspect } from 'node:util'
import { ShardloopError } from '../errors.js'
import {
  HOSTS_MAX,
  NAME_MAX_LENGTH,
  RESOURCE_LIMIT_MAX_MB,
  SHARDS_MAX,
  TIME_MAX_MS,
  VALUE_SHOWN_MAX_LENGTH,
} from '../limits.js'
import { ENGINES, type EngineName } from '../workers/engine.js'
import {
  EXPECTED_LOG_LEVEL,
  expectedLogger,
  isLogLevel,
  type Logger,
  type LogLevel,
} from '../workers/logger.js'
import type { ExceptionContext } from '../workers/shard-loop.js'
import { isUnixPath, UNIX_PATH_EXPECTED } from '../workers/unix-path.js'
import { automaticShards } from './cpu-quota.js'
import type { ShardResourceLimits } from './worker-shard.js'

const RESOURCE_LIMITS: readonly (keyof ShardResourceLimits)[] = [
  'maxOldGenerationSizeMb',
  'maxYoungGenerationSizeMb',
  'codeRangeSizeMb',
  'stackSizeMb',
]

const ENGINE_CHOICES: readonly ('auto' | EngineName)[] = ['auto', ...ENGINES]

/** Reads options by name, remembering which names exist. A value of undefined is as good as none. */
export class GivenOptions {
  readonly #given: Readonly<Record<string, unknown>>
  /** A list, not a set: there are few, and a connection is made with each. */
  readonly #known: string[] = []

  constructor(given: Readonly<Record<string, unknown>>) {
    this.#given = given
  }

  integer<Fallback extends number | null>(
    name: string,
    min: number,
    max: number,
    fallback: Fallback,
  ): number | Fallback {
    const value = this.take(name)
    if (value === undefined) return fallback
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
    throw wrong(name, value, `an integer from ${min} to ${max}`)
  }

  /** A time that may be 0 for never. */
  milliseconds(name: string, min: number, fallback: number): number {
    const value = this.take(name)
    if (value === undefined) return fallback
    const fits = typeof value === 'number' && Number.isInteger(value) && value <= TIME_MAX_MS
    if (fits && (value === 0 || value >= min)) return value
    throw wrong(name, value, `0 or an integer from ${min} to ${TIME_MAX_MS}`)
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.take(name)
    if (value === undefined) return fallback
    if (typeof value === 'boolean') return value
    throw wrong(name, value, 'true or false')
  }

  oneOf<Choice extends string>(name: string, choices: readonly Choice[], fallback: Choice): Choice {
    const value = this.take(name)
    if (value === undefined) return fallback
    const found = choices.find((choice) => choice === value)
    if (found !== undefined) return found
    throw wrong(name, value, choices.map((choice) => `'${choice}'`).join(' or '))
  }

  callable(name: string): ((context: ExceptionContext) => void) | undefined {
    const value = this.take(name)
    if (value === undefined || typeof value === 'function')
      return value as (context: ExceptionContext) => void
    throw wrong(name, value, 'a function')
  }

  logger(): Logger | undefined {
    const value = this.take('logger')
    if (value === undefined) return undefined
    const expected = expectedLogger(value)
    if (expected === null) return value as Logger
    throw wrong('logger', value, expected)
  }

  logLevel(): LogLevel | null {
    const value = this.take('logLevel')
    if (value === undefined) return null
    if (isLogLevel(value)) return value
    throw wrong('logLevel', value, `one of ${EXPECTED_LOG_LEVEL}`)
  }

  signal(): AbortSignal | undefined {
    const value = this.take('signal')
    if (value === undefined || value instanceof AbortSignal) return value as AbortSignal | undefined
    throw wrong('signal', value, 'an AbortSignal')
  }

  name(): string | undefined {
    const value = this.take('name')
    if (value === undefined) return undefined
    if (typeof value === 'string' && value.length >= 1 && value.length <= NAME_MAX_LENGTH) return value
    throw wrong('name', value, `a string of 1 to ${NAME_MAX_LENGTH} characters`)
  }

  hosts(): readonly string[] | null {
    const value = this.take('host')
    if (value === undefined) return null
    const hosts: unknown[] = Array.isArray(value) ? value : [value]
    const fits = hosts.length >= 1 && hosts.length <= HOSTS_MAX
    if (fits && hosts.every((host) => typeof host === 'string' && host.length > 0 && !/[\0%]/.test(host))) {
      return Object.freeze([...new Set(hosts as string[])])
    }
    throw wrong('host', value, `an address or a host name, or 1 to ${HOSTS_MAX} of them`)
  }

  path(): string | null {
    const value = this.take('path')
    if (value === undefined) return null
    if (isUnixPath(value)) return value
    throw wrong('path', value, UNIX_PATH_EXPECTED)
  }

  /** Refuses options that mean nothing beside what else was given. @param expected for the message */
  refuse(names: readonly string[], expected: string): void {
    for (const name of names) {
      const value = this.#given[name]
      if (value !== undefined) throw wrong(name, value, expected)
    }
  }

  shards(): number | null {
    const value = this.take('shards')
    if (value === undefined) return null
    if (value === 'auto') return automaticShards()
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= SHARDS_MAX)
      return value
    throw wrong('shards', value, `'auto' or an integer from 0 to ${SHARDS_MAX}`)
  }

  engine(): EngineName | null {
    const choice = this.oneOf('engine', ENGINE_CHOICES, 'auto')
    return choice === 'auto' ? null : choice
  }

  /** One that is read elsewhere. */
  parsed<Value>(name: string, parse: (value: unknown) => Value): Value {
    return parse(this.take(name))
  }

  resourceLimits(): ShardResourceLimits | null {
    const value = this.take('resourceLimits')
    if (value === undefined) return null
    return parseResourceLimits('resourceLimits', value)
  }

  /** @param hidden those that were read and must not be given: the message does not name them */
  refuseUnknown(hidden: readonly string[] = []): void {
    for (const key of Object.keys(this.#given)) {
      if (this.#known.includes(key)) continue
      const known = this.#known.filter((name) => !hidden.includes(name))
      throw new ShardloopError(
        'ERR_SHARDLOOP_OPTION',
        `unknown option ${show(key)}; known are ${known.join(', ')}`,
      )
    }
  }

  protected take(name: string): unknown {
    this.#known.push(name)
    return this.#given[name]
  }
}

/** Bounds of a thread's memory. @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parseResourceLimits(name: string, value: unknown): ShardResourceLimits {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong(name, value, `an object with some of ${RESOURCE_LIMITS.join(', ')}`)
  const limits: Record<string, number> = {}
  for (const [key, limit] of Object.entries(value)) {
    if (!RESOURCE_LIMITS.some((known) => known === key))
      throw wrong(name, value, `none but ${RESOURCE_LIMITS.join(', ')}`)
    if (limit === undefined) continue
    if (typeof limit !== 'number' || !(limit > 0 && limit <= RESOURCE_LIMIT_MAX_MB))
      throw wrong(`${name}.${key}`, limit, `MiB, above 0 and at most ${RESOURCE_LIMIT_MAX_MB}`)
    limits[key] = limit
  }
  return Object.freeze(limits)
}

/** The error for an option that cannot be. */
export function wrong(name: string, value: unknown, expected: string): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_OPTION',
    `option ${name}: expected ${expected}, given ${show(value)}`,
  )
}

/** A value as messages show it. */
export function show(value: unknown): string {
  const text = inspect(value, { depth: 1, breakLength: Number.POSITIVE_INFINITY })
  return text.length > VALUE_SHOWN_MAX_LENGTH ? `${text.slice(0, VALUE_SHOWN_MAX_LENGTH)}…` : text
}
