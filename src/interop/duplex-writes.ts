import { constants } from 'node:os'
import { systemError } from '../errors.js'
import { DUPLEX_PIECE_BYTES, DUPLEX_PIECES_AT_ONCE, DUPLEX_UNCONFIRMED_BYTES } from '../limits.js'
import type { TcpTransport } from '../workers/transport.js'

/** What `Writable` hands out, and what it wants to be called. */
export type WriteCallback = (error?: Error | null) => void
export interface Written {
  readonly chunk: Uint8Array | string
  readonly encoding: BufferEncoding
}

/** What is written to be told when everything before it has been sent. */
const NOTHING = Buffer.alloc(0)

/**
 * The sending half of a connection as a stream. A write's callback is called at once for as long as the kernel takes what is
 * written, so far as that is known here; else when it has taken it. So the stream fills up, and `write` returns false.
 *
 * What waits in native code stays below the server's `writeMaxBytes`, whatever is written at once: it is told of by the low
 * watermark that is set here, and by asking.
 */
export class DuplexWrites {
  /** Bytes given to the connection, or being given to it in pieces. */
  bytes = 0
  /** Native code says that more waits than the high watermark. */
  private isFull = false
  /** Bytes written in this batch since native code was last asked whether any wait. It does not tell by itself before the next. */
  private unconfirmed = 0
  private batch = 0
  private readonly transport: TcpTransport
  private readonly unconfirmedMax: number
  private readonly pieceBytes: number
  /** Called when a callback that had to wait is called. */
  private readonly moved: () => void

  constructor(transport: TcpTransport, moved: () => void) {
    this.transport = transport
    this.moved = moved
    const { writeMaxBytes } = transport.server
    // Below the bound in the worst case: a full watermark, the unconfirmed bytes of two batches, and a piece.
    this.unconfirmedMax = Math.min(DUPLEX_UNCONFIRMED_BYTES, writeMaxBytes >> 3)
    this.pieceBytes = Math.max(1, Math.min(DUPLEX_PIECE_BYTES, writeMaxBytes >> 1))
    if (!transport.closing && transport.getWriteBufferLimits().high > this.unconfirmedMax)
      transport.setWriteBufferLimits({ high: this.unconfirmedMax })
  }

  paused(): void {
    this.isFull = true
  }

  resumed(): void {
    this.isFull = false
  }

  write(chunk: Uint8Array | string, encoding: BufferEncoding, callback: WriteCallback): void {
    const { transport } = this
    if (!transport.isWritable) callback(transport.refusal())
    else if (this.isLarge(chunk)) {
      if (this.sendLarge(bytesOf(chunk, encoding), 0, callback)) callback()
    } else if (this.hasRoom(this.send(chunk, encoding))) callback()
    else this.whenSent(callback)
  }

  writeAll(chunks: readonly Written[], from: number, callback: WriteCallback): void {
    const { transport } = this
    for (let at = from; at < chunks.length; at++) {
      const { chunk, encoding } = chunks[at] as Written
      const goOn = (error?: Error | null): void => {
        if (error) callback(error)
        else this.writeAll(chunks, at + 1, callback)
      }
      if (!transport.isWritable) {
        callback(transport.refusal())
        return
      }
      if (this.isLarge(chunk)) {
        if (!this.sendLarge(bytesOf(chunk, encoding), 0, goOn)) return
      } else if (!this.hasRoom(this.send(chunk, encoding))) {
        this.whenSent(goOn)
        return
      }
    }
    callback()
  }

  /** Whether the kernel has not taken all that was written; what it can take it has taken. */
  isBehind(): boolean {
    const { loop, handle, lost } = this.transport
    if (lost) return false
    loop.calls.flush()
    this.unconfirmed = 0
    return loop.native.bufferedBytes(handle) > 0
  }

  /** Calls back when the kernel has taken all that was written; with an error if the connection broke before. */
  whenSent(callback: WriteCallback): void {
    const { transport } = this
    transport.writeOwned(NOTHING).then(
      () => {
        this.moved()
        callback()
      },
      // Of a stream that was destroyed it is as in the newest net.Socket.
      (reason: Error) =>
        callback(transport.error === null ? systemError(constants.errno.ECANCELED, 'write') : reason),
    )
  }

  /** What may not be given to native code at once. A character takes at most three bytes. */
  private isLarge(chunk: Uint8Array | string): boolean {
    return chunk.length > this.pieceBytes || (typeof chunk === 'string' && chunk.length * 3 > this.pieceBytes)
  }

  /** @returns how many bytes it was */
  private send(chunk: Uint8Array | string, encoding: BufferEncoding): number {
    const { transport } = this
    if (typeof chunk === 'string') {
      if (encoding === 'utf8' || encoding === 'latin1') {
        const bytes = transport.writeText(chunk, encoding)
        this.bytes += bytes
        return bytes
      }
      chunk = Buffer.from(chunk, encoding)
    }
    transport.write(chunk)
    this.bytes += chunk.length
    return chunk.length
  }

  /** @param bytes were written right now */
  private hasRoom(bytes: number): boolean {
    const { batch } = this.transport.loop
    this.unconfirmed = batch === this.batch ? this.unconfirmed + bytes : bytes
    this.batch = batch
    return (this.unconfirmed <= this.unconfirmedMax && !this.isFull) || !this.isBehind()
  }

  /**
   * In pieces, as the connection takes them: native code keeps what it does not.
   * @returns whether all of it was sent at once; else `callback` is called when it was, or cannot be
   */
  private sendLarge(bytes: Uint8Array, from: number, callback: WriteCallback): boolean {
    const { transport } = this
    if (from === 0) this.bytes += bytes.length
    let at = from
    for (let pieces = 1; at < bytes.length; pieces++) {
      if (!transport.isWritable) {
        callback(transport.refusal())
        return false
      }
      const piece = bytes.subarray(at, at + this.pieceBytes)
      at += piece.length
      transport.write(piece)
      if (this.isBehind() || pieces === DUPLEX_PIECES_AT_ONCE) {
        this.whenSent((error) => {
          if (error || transport.lost) callback(error)
          else if (this.sendLarge(bytes, at, callback)) callback()
        })
        return false
      }
    }
    return true
  }
}

function bytesOf(chunk: Uint8Array | string, encoding: BufferEncoding): Uint8Array {
  return typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk
}
