import { inspect } from 'node:util'
import { ShardloopError } from '../errors.js'
import { CALL_FAILURES_MAX, ENDED_CALLS_MAX } from '../limits.js'
import type { EndedCall } from '../server/messages.js'
import type { CallPlace } from './call-counter.js'
import { ENGINES } from './engine.js'
import { packError, type TransferredError } from './error-transfer.js'

/**
 * How a call ended. Its server ran: FIRST_RAN and the engine's place in ENGINES. Or `createServer` rejected: FAILED, or
 * FIRST_FAILURE and the failure's number.
 */
const NOT_OVER = 0
const FIRST_RAN = 1
const FAILED: number = FIRST_RAN + ENGINES.length
const FIRST_FAILURE: number = FAILED + 1

/** A history as a message. */
export interface PastCalls {
  readonly servers: readonly EndedCall[]
  readonly failures: readonly TransferredError[]
  readonly outcomes: ReadonlyMap<string | undefined, readonly number[]>
}

/**
 * Calls of `createServer` that are over. They are kept because a shard that starts later runs the program from its
 * beginning and comes by them again, so that it must go the same way: of each call a number tells how it ended; beside
 * these there are the latest servers with their addresses, and failures, each once however often it came.
 * A call costs eight bytes for good, and a new name its entry.
 */
export class CallHistory {
  /** Servers that ran, by key; the one that ended first is the first. At most ENDED_CALLS_MAX. */
  readonly #servers = new Map<string, EndedCall>()
  /** At most CALL_FAILURES_MAX. */
  readonly #failures: TransferredError[] = []
  readonly #failureNumbers = new Map<string, number>()
  /** By the calls' name, in their order. */
  readonly #outcomes = new Map<string | undefined, number[]>()

  /** For a shard that starts. */
  pack(): PastCalls {
    return { servers: [...this.#servers.values()], failures: this.#failures, outcomes: this.#outcomes }
  }

  /** Takes over what another thread packed, into a history that is empty. */
  unpack({ servers, failures, outcomes }: PastCalls): void {
    for (const failure of failures) this.#keep(failure) // at its place, which outcomes tell
    for (const [name, each] of outcomes) this.#outcomes.set(name, [...each])
    for (const call of servers) this.add(call)
  }

  add(call: EndedCall): void {
    const { place } = call
    if (call.error !== null) {
      this.#setOutcome(place, this.#numberOf(call.error))
      return
    }
    this.#setOutcome(place, FIRST_RAN + ENGINES.indexOf(call.engine))
    this.#servers.delete(place.key) // told twice, it is as young as the second time
    this.#servers.set(place.key, call)
    for (const oldest of this.#servers.keys()) {
      if (this.#servers.size <= ENDED_CALLS_MAX) break
      this.#servers.delete(oldest)
    }
  }

  /** The call at that place; undefined when it is not over. */
  find(place: CallPlace): EndedCall | undefined {
    const outcome = this.#outcomes.get(place.name)?.[place.nth - 1] ?? NOT_OVER
    if (outcome === NOT_OVER) return undefined
    const over = { place, name: place.name ?? place.key, sockets: [] }
    const engine = ENGINES[outcome - FIRST_RAN]
    if (engine !== undefined) return this.#servers.get(place.key) ?? { ...over, engine, error: null }
    const failure = this.#failures[outcome - FIRST_FAILURE]
    return { ...over, engine: null, error: failure ?? packError(forgottenFailure(place)) }
  }

  #setOutcome({ name, nth }: CallPlace, outcome: number): void {
    const outcomes = this.#outcomes.get(name) ?? [NOT_OVER]
    while (outcomes.length < nth) outcomes.push(NOT_OVER)
    outcomes[nth - 1] = outcome
    this.#outcomes.set(name, outcomes)
  }

  /**
   * The outcome of a call that failed like this. A program that tries again gets the same failure over and over; should it
   * be another each time, those of a kind leave half of the places to other kinds.
   */
  #numberOf(error: TransferredError): number {
    const known = this.#failureNumbers.get(describe(error))
    if (known !== undefined) return known
    const ofKind = this.#failureNumbers.get(kindOf(error))
    const places = ofKind === undefined ? CALL_FAILURES_MAX : CALL_FAILURES_MAX / 2
    return this.#failures.length < places ? this.#keep(error) : (ofKind ?? FAILED)
  }

  #keep(error: TransferredError): number {
    const number = FIRST_FAILURE + this.#failures.push(error) - 1
    for (const key of [describe(error), kindOf(error)]) {
      if (!this.#failureNumbers.has(key)) this.#failureNumbers.set(key, number)
    }
    return number
  }
}

/** The same for failures that differ in their stacks only. */
function describe(error: TransferredError): string {
  return inspect(withoutStack(error), {
    depth: null,
    maxArrayLength: null,
    maxStringLength: null,
    customInspect: false,
  })
}

function withoutStack(error: TransferredError): object {
  if (error.kind === 'value') return error
  const { stack: _, cause, errors, ...rest } = error
  return {
    ...rest,
    cause: cause === null ? null : withoutStack(cause),
    errors: errors?.map(withoutStack) ?? null,
  }
}

/** What programs tell failures apart by. */
function kindOf(error: TransferredError): string {
  return error.kind === 'value' ? 'value' : `${error.name} ${String(error.properties['code'])}`
}

function forgottenFailure({ key }: CallPlace): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_START',
    `createServer (${key}) failed on the main thread; why is not known here, as calls have failed in more than ` +
      `${CALL_FAILURES_MAX} ways`,
  )
}
