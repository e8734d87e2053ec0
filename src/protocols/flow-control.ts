import { ShardloopError } from '../errors.js'
import { STREAM_TURN_BYTES } from '../limits.js'
import type { Transport } from '../workers/protocol.js'
import type { TcpTransport } from '../workers/transport.js'
import { Waiters } from './waiters.js'

/** As it was before the program may have replaced it (a test runner's timers). */
const nextTurn = setImmediate

/** A stream's writing half between its transport and who writes: who has to wait, and for how long. */
export class FlowControl {
  readonly transport: Transport
  /** What the connection ended with; undefined while it stands. */
  private lostWith: Error | null | undefined = undefined
  private paused = false
  /**
   * Bytes that were written since it was last known how much waits: whether that is too much is told with the next events
   * only. Past a bound who writes waits for these.
   */
  private untold = 0
  private bound: number
  private looking = false
  private drains: Waiters | null = null
  private ends: Waiters | null = null
  private closed: ShardloopError | null = null

  constructor(transport: Transport) {
    this.transport = transport
    this.bound = boundOf(transport)
  }

  /** @returns a promise to wait for, when it should be waited; whoever does not is in no danger of its rejection */
  written(bytes: number): Promise<void> | undefined {
    this.untold += bytes
    if (!this.paused && this.untold <= this.bound && !this.transport.isClosing()) return undefined
    const drained = this.drained(undefined)
    drained.catch(() => {})
    return drained
  }

  /** Resolves when no more waits to be sent than may; rejects when the connection is lost before. */
  drained(signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) return Promise.reject(signal.reason)
    if (this.lostWith !== undefined) return Promise.reject(this.loss())
    if (!this.paused) {
      this.bound = boundOf(this.transport)
      if (this.untold <= this.bound && !this.transport.isClosing()) return Promise.resolve()
      this.lookNextTurn()
    }
    this.drains ??= new Waiters()
    return this.drains.add(signal)
  }

  /** Resolves when the connection is closed; rejects with what broke it. */
  ended(signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) return Promise.reject(signal.reason)
    if (this.lostWith === undefined) {
      this.ends ??= new Waiters()
      return this.ends.add(signal)
    }
    return this.lostWith === null ? Promise.resolve() : Promise.reject(this.lostWith)
  }

  /** Events came, and none of them was a pause. */
  told(): void {
    if (this.untold <= this.bound) this.untold = 0
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
    this.untold = 0
    this.drains?.resolve()
  }

  lost(error: Error | null): void {
    this.lostWith = error
    if (this.drains !== null && this.drains.size > 0) this.drains.reject(this.loss())
    if (this.ends === null) return
    if (error === null) this.ends.resolve()
    else this.ends.reject(error)
  }

  /** Whether the connection is lost, and this is what those hear of it who wait for more. */
  isLoss(error: unknown): boolean {
    // A handler may throw undefined, too.
    return error instanceof Error && (error === this.lostWith || error === this.closed)
  }

  /** What waits is dropped, and `lost` is about to be called. */
  private get isAborted(): boolean {
    return (this.transport as Partial<TcpTransport>).error !== undefined
  }

  private loss(): Error {
    if (this.lostWith) return this.lostWith
    this.closed ??= new ShardloopError(
      'ERR_SHARDLOOP_CLOSED',
      `connection ${this.transport.id} was closed, and nothing can be written to it`,
    )
    return this.closed
  }

  private lookNextTurn(): void {
    if (this.looking) return
    this.looking = true
    nextTurn(() => {
      this.looking = false
      this.look()
    })
  }

  /** The loop has turned: what was written is sent, or it is known how much of it is not. */
  private look(): void {
    // Then it is `resume` or `lost` that ends the wait.
    if (this.paused || this.lostWith !== undefined || this.isAborted) return
    this.bound = boundOf(this.transport)
    const { high } = this.transport.getWriteBufferLimits()
    if (this.transport.getWriteBufferSize() > high) {
      // An I/O thread may not have told of the pause yet: it will, unless that is over before.
      this.lookNextTurn()
      return
    }
    this.untold = 0
    this.drains?.resolve()
  }
}

function boundOf(transport: Transport): number {
  return Math.min(transport.getWriteBufferLimits().high, STREAM_TURN_BYTES)
}
