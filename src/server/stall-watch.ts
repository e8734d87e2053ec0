import { ShardloopError, systemError } from '../errors.js'
import { native } from '../native/index.js'
import type { ShardUser } from './shard-control.js'

/** A server, as far as stuck shards concern it. */
type StallObserver = Pick<ShardUser, 'stallAfterMs' | 'killAfterMs' | 'shardStalled' | 'shardRecovered'>

/** A shard that is stuck now. */
interface Stall {
  /** On performance.now()'s clock. */
  readonly since: number
  readonly timers: NodeJS.Timeout[]
  readonly told: StallObserver[]
}

/**
 * Tells servers which shards are stuck, and ends those that stay so. The guardian, a native thread, watches them, and
 * calls when one has been stuck for the shortest time that any server asks for; timers here do the rest. So nothing
 * wakes up while all shards turn.
 */
export class StallWatch {
  readonly #tokens: readonly number[]
  readonly #terminate: (shard: number, why: Error) => void
  readonly #stalls = new Map<number, Stall>()
  #observers: readonly StallObserver[] = []

  /**
   * Starts the guardian; throws the system's error when it cannot have a thread or a poll.
   * @param tokens metrics tokens of the shards, by shard id
   */
  constructor(tokens: readonly number[], terminate: (shard: number, why: Error) => void) {
    this.#tokens = tokens
    this.#terminate = terminate
    const failure = native.startGuardian((token, life, stalledMs, over) => {
      const shard = tokens.indexOf(token)
      if (over) this.#ended(shard, stalledMs)
      // Its death may have overtaken the report, which then is of no interest any more.
      else if (native.shardLives(token, life)) this.#began(shard, stalledMs)
    })
    if (failure !== null) throw systemError(failure.errno, failure.syscall)
  }

  /** From now on for these servers. */
  watchFor(observers: Iterable<StallObserver>): void {
    this.#observers = [...observers]
    const times = this.#observers.flatMap(({ stallAfterMs, killAfterMs }) => [stallAfterMs, killAfterMs])
    const shortest = Math.min(...times.filter((ms) => ms > 0))
    native.reportStallsAfter(Number.isFinite(shortest) ? shortest : 0)
  }

  /** The shard's thread is gone, stuck or not. */
  died(shard: number): void {
    this.#clear(shard)
  }

  /** Ends the guardian. */
  end(): void {
    for (const shard of [...this.#stalls.keys()]) this.#clear(shard)
    native.stopGuardian()
  }

  #ended(shard: number, stalledMs: number): void {
    const stall = this.#clear(shard)
    if (stall === undefined) return // it was told as a death
    for (const observer of this.#observers) {
      const isTold = stall.told.includes(observer)
      const isToBeTold = observer.stallAfterMs > 0 && observer.stallAfterMs <= stalledMs
      // What passed while this thread was busy is told too.
      if (!isTold && isToBeTold) observer.shardStalled(shard, stalledMs)
      if (isTold || isToBeTold) observer.shardRecovered(shard, stalledMs)
    }
  }

  #began(shard: number, reportedMs: number): void {
    this.#clear(shard)
    // This thread may have been busy itself since the report.
    const stalledMs = Math.max(reportedMs, this.#stalledMs(shard))
    const stall: Stall = { since: performance.now() - stalledMs, timers: [], told: [] }
    this.#stalls.set(shard, stall)
    for (const observer of this.#observers) {
      const { stallAfterMs, killAfterMs } = observer
      if (killAfterMs > 0) this.#killAfter(shard, stall, killAfterMs)
      if (stallAfterMs === 0) continue
      this.#after(stall, stallAfterMs, () => {
        stall.told.push(observer)
        observer.shardStalled(shard, performance.now() - stall.since)
      })
    }
  }

  /** When the stall has lasted that long: at once, if it has. */
  #after(stall: Stall, ms: number, act: () => void): void {
    stall.timers.push(setTimeout(act, Math.max(0, Math.ceil(stall.since + ms - performance.now()))))
  }

  #killAfter(shard: number, stall: Stall, killAfterMs: number): void {
    this.#after(stall, killAfterMs, () => this.#kill(shard, stall, killAfterMs))
  }

  #kill(shard: number, stall: Stall, killAfterMs: number): void {
    const stalledMs = this.#stalledMs(shard)
    if (stalledMs < killAfterMs) {
      // It has come back just now, and the report of that is on its way; or a timer was early by its rounding.
      if (stalledMs > 0) this.#killAfter(shard, stall, killAfterMs)
      return
    }
    // From now on nobody is told of it but as of a death.
    this.#clear(shard)
    const message = `shard ${shard} was stuck for ${Math.round(stalledMs)} ms (killAfterMs is ${killAfterMs}) and was terminated`
    this.#terminate(shard, new ShardloopError('ERR_SHARDLOOP_SHARD_DIED', message))
  }

  #stalledMs(shard: number): number {
    const token = this.#tokens[shard]
    return token === undefined ? 0 : native.stalledMs(token)
  }

  #clear(shard: number): Stall | undefined {
    const stall = this.#stalls.get(shard)
    for (const timer of stall?.timers ?? []) clearTimeout(timer)
    this.#stalls.delete(shard)
    return stall
  }
}
