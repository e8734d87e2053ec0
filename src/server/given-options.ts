import { inspect } from 'node:util'
import { ShardloopError } from '../errors.js'
import { HOSTS_MAX, NAME_MAX_LENGTH, SHARDS_MAX, VALUE_SHOWN_MAX_LENGTH } from '../limits.js'
import type { ExceptionContext } from '../workers/shard-loop.js'
import { automaticShards } from './cpu-quota.js'

/** Reads options by name, remembering which names exist. A value of undefined is as good as none. */
export class GivenOptions {
  readonly #given: Readonly<Record<string, unknown>>
  readonly #known = new Set<string>()

  constructor(given: Readonly<Record<string, unknown>>) {
    this.#given = given
  }

  integer(name: string, min: number, max: number, fallback: number): number {
    const value = this.#take(name)
    if (value === undefined) return fallback
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
    throw wrong(name, value, `an integer from ${min} to ${max}`)
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.#take(name)
    if (value === undefined) return fallback
    if (typeof value === 'boolean') return value
    throw wrong(name, value, 'true or false')
  }

  oneOf<Choice extends string>(name: string, choices: readonly Choice[], fallback: Choice): Choice {
    const value = this.#take(name)
    if (value === undefined) return fallback
    const found = choices.find((choice) => choice === value)
    if (found !== undefined) return found
    throw wrong(name, value, choices.map((choice) => `'${choice}'`).join(' or '))
  }

  callable(name: string): ((context: ExceptionContext) => void) | undefined {
    const value = this.#take(name)
    if (value === undefined || typeof value === 'function')
      return value as (context: ExceptionContext) => void
    throw wrong(name, value, 'a function')
  }

  name(): string | undefined {
    const value = this.#take('name')
    if (value === undefined) return undefined
    if (typeof value === 'string' && value.length >= 1 && value.length <= NAME_MAX_LENGTH) return value
    throw wrong('name', value, `a string of 1 to ${NAME_MAX_LENGTH} characters`)
  }

  hosts(): readonly string[] | null {
    const value = this.#take('host')
    if (value === undefined) return null
    const hosts: unknown[] = Array.isArray(value) ? value : [value]
    const fits = hosts.length >= 1 && hosts.length <= HOSTS_MAX
    if (fits && hosts.every((host) => typeof host === 'string' && host.length > 0 && !/[\0%]/.test(host))) {
      return Object.freeze([...new Set(hosts as string[])])
    }
    throw wrong('host', value, `an address or a host name, or 1 to ${HOSTS_MAX} of them`)
  }

  shards(): number | null {
    const value = this.#take('shards')
    if (value === undefined) return null
    if (value === 'auto') return automaticShards()
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= SHARDS_MAX)
      return value
    throw wrong('shards', value, `'auto' or an integer from 0 to ${SHARDS_MAX}`)
  }

  engine(): 'mio' {
    const value = this.#take('engine')
    if (value === undefined || value === 'auto' || value === 'mio') return 'mio'
    if (value === 'tokio') throw wrong('engine', value, "'auto' or 'mio': 'tokio' is not available yet")
    throw wrong('engine', value, "'auto' or 'mio'")
  }

  refuseUnknown(): void {
    for (const key of Object.keys(this.#given)) {
      if (this.#known.has(key)) continue
      throw new ShardloopError(
        'ERR_SHARDLOOP_OPTION',
        `unknown option ${show(key)}; known are ${[...this.#known].join(', ')}`,
      )
    }
  }

  #take(name: string): unknown {
    this.#known.add(name)
    return this.#given[name]
  }
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
