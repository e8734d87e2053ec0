import { threadId } from 'node:worker_threads'
import { LOOP_KEEP_MS, SHARDS_MAX } from '../limits.js'
import { native } from '../native/index.js'
import { chooseEngine, type EngineName } from './engine.js'
import { shardIdentity } from './identity.js'
import { ShardLoop } from './shard-loop.js'
import { threadChildren } from './thread-children.js'
import { threadLog } from './thread-log.js'
import { threadSingletonGetter } from './thread-singleton.js'

/** As it was before the program may have replaced it (a test runner's timers). */
const later = setTimeout

/** The thread's loop, as one of its users holds it. */
export interface HeldLoop {
  readonly loop: ShardLoop
  readonly engine: EngineName
  /** Native token of the loop's counters. */
  readonly metricsToken: number
}

/**
 * The one ShardLoop of this thread, so with one engine at a time: made for its first user, closed after its last, so that
 * a thread without servers has no handle that keeps it alive. While one closes the next may be there already, on any engine;
 * but a shard is on one engine for as long as its thread lives.
 */
export class ThreadLoop {
  #held: HeldLoop | null = null
  #users = 0
  /** Closes a loop that has no users any more. */
  #closing: NodeJS.Timeout | undefined

  /**
   * Every call that returns is paired with one `release`.
   * @param wanted null for `'auto'`: the engine that runs in this thread, if one does
   * @throws ShardloopError ERR_SHARDLOOP_OPTION when another one runs; what the addon says when it cannot make the loop
   */
  acquire(wanted: EngineName | null): HeldLoop {
    const kept = this.#held
    if (kept !== null && this.#users > 0 && (wanted === null || wanted === kept.engine)) {
      this.#users += 1
      return kept
    }
    clearTimeout(this.#closing)
    if (kept !== null && this.#users === 0 && wanted !== null && wanted !== kept.engine)
      void this.#close(kept)
    const running = this.#held?.engine ?? shardIdentity()?.engine ?? null
    const engine = chooseEngine(wanted, running, 'all servers and connections of a thread share its loop')
    this.#held ??= open(engine, () => this.releaseLater())
    this.#users += 1
    return this.#held
  }

  /** Whether a descriptor is that of a connection, an endpoint or a listener of this thread. It looks through all of them. */
  uses(fd: number): boolean {
    const loop = this.#held?.loop
    if (loop === undefined) return false
    for (const endpoint of loop.datagrams) if (endpoint.fd === fd) return true
    return loop.native.uses(fd)
  }

  /** As `release`, but a loop without users is kept for a moment: who has made one connection soon makes the next. */
  releaseLater(): void {
    this.#users -= 1
    const held = this.#held
    if (this.#users > 0 || held === null) return
    this.#closing = later(() => void this.#close(held), LOOP_KEEP_MS).unref()
  }

  /**
   * Aborts the connections that this thread has made to others. Resolves when they are gone, with those that were called off,
   * and with them the loop, if it has no other users. Those that are made meanwhile are others' affair.
   */
  async abortClients(): Promise<void> {
    await this.#held?.loop.outgoing.abort()
    await this.closeUnused()
  }

  /** Closes the loop at once if nobody uses it any more, in place of keeping it for a moment. */
  async closeUnused(): Promise<void> {
    if (this.#users === 0 && this.#held !== null) await this.#close(this.#held)
  }

  /** As `release`, when the thread is about to end: what it has made to others ends in good order, so that it can. */
  async releaseAtEnd(): Promise<void> {
    // What it has started does not outlive it.
    const childrenGone = threadChildren().close()
    this.#held?.loop.outgoing.close()
    for (const endpoint of this.#held?.loop.datagrams ?? []) endpoint.close()
    await childrenGone
    return this.release()
  }

  /** Resolves when the loop's handles are closed, or at once when others still use it. */
  async release(): Promise<void> {
    this.#users -= 1
    const held = this.#held
    if (this.#users > 0 || held === null) return
    await this.#close(held)
  }

  async #close(held: HeldLoop): Promise<void> {
    clearTimeout(this.#closing)
    this.#held = null
    await held.loop.close()
    // A shard's counters belong to the supervisor, which reads them after the shard is gone.
    if (shardIdentity() === null) native.freeMetrics(held.metricsToken)
  }
}

function open(engine: EngineName, clientGone: () => void): HeldLoop {
  const identity = shardIdentity()
  const metricsToken = identity?.metricsTokens[identity.shardId] ?? native.allocateMetrics()
  // Shards have the numbers below SHARDS_MAX; so a worker of the program's own cannot give out a shard's transport ids.
  const shardId = identity?.shardId ?? (threadId === 0 ? 0 : SHARDS_MAX + threadId)
  try {
    const loop = new ShardLoop({
      shardId,
      engine,
      metricsToken,
      supervised: identity !== null,
      clientGone,
    })
    threadLog().nameConnections((handle) => loop.idOf(handle))
    return { loop, engine, metricsToken }
  } catch (error) {
    if (identity === null) native.freeMetrics(metricsToken)
    throw error
  }
}

/** The loop of the calling thread. */
export const threadLoop: () => ThreadLoop = threadSingletonGetter('thread-loop', () => new ThreadLoop())
