import { ShardloopError } from '../errors.js'
import { ENDED_CALLS_MAX } from '../limits.js'
import type { EndedCall } from '../server/messages.js'
import type { CallPlace } from './call-counter.js'
import { packError } from './error-transfer.js'

/** How a call ended: `createServer` rejected, or its server ran. */
const FAILED = 1
const RAN = 2

/** A history as a message. */
export interface PastCalls {
  readonly recent: readonly EndedCall[]
  readonly outcomes: ReadonlyMap<string | undefined, Uint8Array>
}

/**
 * Calls of `createServer` that are over. They are kept because a shard that starts later runs the program from its
 * beginning and comes by them again: the latest `ENDED_CALLS_MAX` whole, of older ones a byte each, whether they failed.
 */
export class CallHistory {
  /** By key, the oldest first. */
  readonly #recent = new Map<string, EndedCall>()
  /** By `options.name`, in the order of the calls; 0 for one that is not over. */
  readonly #outcomes = new Map<string | undefined, Uint8Array>()

  /** Those that are kept whole, the oldest first. */
  get recent(): readonly EndedCall[] {
    return [...this.#recent.values()]
  }

  /** For a shard that starts. */
  pack(): PastCalls {
    return { recent: this.recent, outcomes: this.#outcomes }
  }

  /** Takes over what another thread's history packed. */
  unpack({ recent, outcomes }: PastCalls): void {
    for (const [option, each] of outcomes) this.#outcomes.set(option, each)
    for (const call of recent) this.add(call)
  }

  add(call: EndedCall): void {
    const { place, error } = call
    this.#setOutcome(place, error === null ? RAN : FAILED)
    this.#recent.set(place.key, call)
    for (const oldest of this.#recent.keys()) {
      if (this.#recent.size <= ENDED_CALLS_MAX) break
      this.#recent.delete(oldest)
    }
  }

  /** The call at that place; undefined when it is not over. */
  find(place: CallPlace): EndedCall | undefined {
    const known = this.#recent.get(place.key)
    if (known !== undefined) return known
    const outcome = this.#outcomes.get(place.option)?.[place.nth - 1]
    if (outcome !== RAN && outcome !== FAILED) return undefined
    const error = outcome === FAILED ? packError(forgottenFailure(place)) : null
    return { place, name: place.option ?? place.key, sockets: [], engine: 'mio', error }
  }

  #setOutcome({ option, nth }: CallPlace, outcome: number): void {
    let outcomes = this.#outcomes.get(option) ?? new Uint8Array(1)
    if (nth > outcomes.length) {
      const longer = new Uint8Array(2 * nth)
      longer.set(outcomes)
      outcomes = longer
    }
    outcomes[nth - 1] = outcome
    this.#outcomes.set(option, outcomes)
  }
}

function forgottenFailure({ key }: CallPlace): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_START',
    `createServer (${key}) failed on the main thread; why is not known any more, as ${ENDED_CALLS_MAX} later calls are over`,
  )
}
