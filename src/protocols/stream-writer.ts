import type { ExtraInfo, Transport, WriteData } from '../workers/protocol.js'
import type { FlowControl } from './flow-control.js'
import { NO_OPTIONS, type WaitOptions } from './waiters.js'

/**
 * The sending half of a stream: asyncio's StreamWriter. It writes at once, to the transport: nothing waits here. Whoever
 * writes more than the peer reads should wait as `write` or `drain` says.
 */
export class StreamWriter implements AsyncDisposable {
  private readonly flow: FlowControl
  /** @internal Whether bytes came since it last wrote. */ owes = false

  /** @internal */
  constructor(flow: FlowControl) {
    this.flow = flow
  }

  get transport(): Transport {
    return this.flow.transport
  }

  /**
   * Queues bytes; see `Transport.write`. Returns what to await before more is written: nothing while there is room, else the
   * promise of `drain`. It may be ignored: then what is on its way is bounded by `writeMaxBytes` alone.
   */
  write(data: WriteData): Promise<void> | undefined {
    this.flow.transport.write(data)
    this.owes = false
    return this.flow.written(data.length)
  }

  /** Queues several pieces as one; in all else as `write`. */
  writev(pieces: readonly WriteData[]): Promise<void> | undefined {
    this.flow.transport.writev(pieces)
    this.owes = false
    let bytes = 0
    for (const { length } of pieces) bytes += length
    return this.flow.written(bytes)
  }

  /** `writev` under the name that asyncio has for it. The pieces need not be lines. */
  writeLines(pieces: readonly WriteData[]): Promise<void> | undefined {
    return this.writev(pieces)
  }

  /**
   * Resolves at once while there is room, else when no more than the low watermark waits to be sent. Rejects when the
   * connection is lost: with what broke it, or with ERR_SHARDLOOP_CLOSED.
   */
  drain(options: WaitOptions = NO_OPTIONS): Promise<void> {
    return this.flow.drained(options.signal)
  }

  /** Closes our half behind what is queued: the peer reads an end, and can still write. */
  writeEof(): void {
    this.owes = false
    this.flow.transport.writeEof()
  }

  canWriteEof(): boolean {
    return this.flow.transport.canWriteEof()
  }

  /** Sends what is queued, then closes. A read that waits is at the end. */
  close(): void {
    this.flow.transport.close()
  }

  isClosing(): boolean {
    return this.flow.transport.isClosing()
  }

  /** Resolves when the connection is closed; rejects with what broke it. It does not close by itself. */
  waitClosed(options: WaitOptions = NO_OPTIONS): Promise<void> {
    return this.flow.ended(options.signal)
  }

  getExtraInfo<Name extends keyof ExtraInfo>(name: Name): ExtraInfo[Name] | undefined
  getExtraInfo<Name extends keyof ExtraInfo, Default>(
    name: Name,
    fallback: Default,
  ): ExtraInfo[Name] | Default
  getExtraInfo(name: keyof ExtraInfo, fallback?: unknown): unknown {
    return this.flow.transport.getExtraInfo(name, fallback)
  }

  /** `close()`; resolves when the connection is closed, however it ended. For `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.flow.transport[Symbol.asyncDispose]()
  }
}
