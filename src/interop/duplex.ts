import { Duplex } from 'node:stream'
import { ShardloopError } from '../errors.js'
import {
  DUPLEX_HIGH_WATER_MAX_BYTES,
  DUPLEX_PIECE_BYTES,
  DUPLEX_PIECES_AT_ONCE,
  DUPLEX_UNCONFIRMED_BYTES,
} from '../limits.js'
import { invalid } from '../workers/invalid.js'
import type { Protocol, SocketAddress } from '../workers/protocol.js'
import type { TcpTransport } from '../workers/transport.js'
import { InactivityTimer } from './inactivity-timer.js'

/** Options of `transport.duplex`. */
export interface DuplexOptions {
  /** True: our half stays open when the peer has ended its own, until `end` is called. Default false, as in node:net. */
  readonly allowHalfOpen?: boolean
  /**
   * Bytes that the stream holds before reading from the connection pauses, and that wait to be taken before `write` returns
   * false. 0 to 2^30. Default: Node's (16 KiB, from Node.js 22 on 64 KiB).
   */
  readonly highWaterMark?: number
}

type WriteCallback = (error?: Error | null) => void
interface Written {
  readonly chunk: Uint8Array | string
  readonly encoding: BufferEncoding
}

/** What is written to be told when everything before it has been sent. */
const NOTHING = Buffer.alloc(0)

/**
 * A connection as a stream of Node's, with the members of `net.Socket` that libraries use. It belongs to its thread.
 *
 * As in node:net `destroy` drops what the kernel has not taken, `end` sends it, and `'close'` tells whether there was an error.
 * Other than there: a destroyed stream whose connection has unread input does not reset it before the peer has what was sent;
 * `write` and `end` of text and small buffers copy. `ref` and `unref` do nothing: a connection keeps its thread as its server does.
 */
export class TransportDuplex extends Duplex {
  /** The connection. Its protocol is this stream's: use one or the other to read and write. */
  readonly transport: TcpTransport
  /** Bytes received. */
  bytesRead = 0
  /** @internal net.Socket's: never so, since a transport stands. */ readonly connecting: boolean = false
  /** @internal */ readonly pending: boolean = false
  /** Milliseconds of `setTimeout`; undefined before it was called. */
  timeout: number | undefined = undefined
  private sent = 0
  /** Bytes written since the batch began, or since native code said that none wait: it tells of a full connection only by then. */
  private unconfirmed = 0
  private batch = 0
  private timer: InactivityTimer | undefined = undefined
  /** `destroySoon`: the end of what is written is that of the connection. */
  private endsSoon = false
  private whenLost: (() => void) | undefined = undefined
  /** The batch in which bytes were last received. */
  private receivedIn = 0
  /** The peer's end has come in the same batch as bytes, and is not told yet. */
  private endsLater = false

  /** @internal @param transport whose protocol is {@link DuplexProtocol} */
  constructor(transport: TcpTransport, options: DuplexOptions = NO_OPTIONS) {
    // Strings come as they are, and 'close' is emitted here, with net.Socket's argument.
    super({ allowHalfOpen: false, ...options, decodeStrings: false, emitClose: false })
    this.transport = transport
  }

  /** @internal */
  override _read(): void {
    if (this.transport.paused) this.transport.resumeReading()
  }

  /** @internal */
  override _write(chunk: Uint8Array | string, encoding: BufferEncoding, callback: WriteCallback): void {
    if (this.transport.closing) callback(closedError(this.transport))
    else if (chunk.length > DUPLEX_PIECE_BYTES) this.sendLarge(bytesOf(chunk, encoding), callback)
    else this.taken(this.send(chunk, encoding), callback)
  }

  /** @internal */
  override _writev(chunks: readonly Written[], callback: WriteCallback): void {
    this.sendFrom(chunks, 0, callback)
  }

  /** @internal */
  override _final(callback: WriteCallback): void {
    const { transport } = this
    if (transport.closing) callback()
    else if (this.endsSoon) {
      transport.close()
      callback()
    } else if (this.isBehind()) {
      this.whenSent(callback)
      transport.writeEof()
    } else {
      transport.writeEof()
      callback()
    }
  }

  /** @internal */
  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    const { transport } = this
    this.timer?.stop()
    const gone = (): void => {
      callback(error)
      process.nextTick(emitClose, this, error !== null)
    }
    if (transport.lost) {
      gone()
      return
    }
    this.whenLost = gone
    if (transport.closing) return
    // What the kernel has, the peer gets; what it has not was dropped by whoever destroys a stream before its end.
    if (this.writableFinished || !this.isBehind()) transport.close()
    else transport.abort()
  }

  /** Ends after what is written, then destroys. */
  destroySoon(): void {
    if (!this.writableEnded) this.endsSoon = true
    if (this.writable) this.end()
    if (this.writableFinished) this.destroy()
    else this.once('finish', this.destroy)
  }

  /** Destroys with a reset that the peer sees. */
  resetAndDestroy(): this {
    this.transport.abort()
    return this.destroy()
  }

  /**
   * Emits `'timeout'` once when no byte moved for that long, until one does again. 0 ends it. The connection stays.
   * @param milliseconds resolution 100
   */
  setTimeout(milliseconds: number, callback?: () => void): this {
    if (this.destroyed) return this
    if (!(typeof milliseconds === 'number' && milliseconds >= 0 && milliseconds <= 0x7fffffff))
      throw invalid('milliseconds', milliseconds, 'a number from 0 to 2147483647')
    if (callback !== undefined && typeof callback !== 'function')
      throw invalid('callback', callback, 'a function')
    this.timeout = milliseconds
    if (milliseconds > 0 || this.timer !== undefined) {
      this.timer ??= new InactivityTimer(this.transport)
      this.timer.set(Math.ceil(milliseconds))
    }
    if (callback !== undefined) {
      if (milliseconds > 0) this.once('timeout', callback)
      else this.removeListener('timeout', callback)
    }
    return this
  }

  setNoDelay(enable = true): this {
    this.option('noDelay', Boolean(enable))
    return this
  }

  /** @param initialDelay milliseconds of silence before the first probe; 0 leaves the system's */
  setKeepAlive(enable = false, initialDelay = 0): this {
    this.option('keepAlive', Boolean(enable))
    const seconds = Math.floor(initialDelay / 1000)
    if (enable && seconds > 0) this.option('keepAliveTime', seconds)
    return this
  }

  ref(): this {
    return this
  }

  unref(): this {
    return this
  }

  /** Our end. Empty for a Unix socket. */
  address(): { address?: string; family?: string; port?: number } {
    return ipOf(this.transport.getExtraInfo('sockname')) ?? {}
  }

  get localAddress(): string | undefined {
    return ipOf(this.transport.getExtraInfo('sockname'))?.address
  }

  get localPort(): number | undefined {
    return ipOf(this.transport.getExtraInfo('sockname'))?.port
  }

  get localFamily(): string | undefined {
    return ipOf(this.transport.getExtraInfo('sockname'))?.family
  }

  get remoteAddress(): string | undefined {
    return ipOf(this.transport.getExtraInfo('peername'))?.address
  }

  get remotePort(): number | undefined {
    return ipOf(this.transport.getExtraInfo('peername'))?.port
  }

  get remoteFamily(): string | undefined {
    return ipOf(this.transport.getExtraInfo('peername'))?.family
  }

  /** Bytes written, those that wait included. */
  get bytesWritten(): number {
    let bytes = this.sent
    for (const { chunk, encoding } of waiting(this))
      bytes += typeof chunk === 'string' ? Buffer.byteLength(chunk, encoding) : chunk.length
    return bytes
  }

  /** @internal */
  get bufferSize(): number {
    return this.writableLength
  }

  get readyState(): 'open' | 'readOnly' | 'writeOnly' | 'closed' {
    if (this.readable) return this.writable ? 'open' : 'readOnly'
    return this.writable ? 'writeOnly' : 'closed'
  }

  /** @internal net.Socket's, which libraries call to tell of activity: native code sees it. */
  _unrefTimer(): void {}

  /** @internal */
  received(chunk: Buffer): void {
    this.bytesRead += chunk.length
    this.receivedIn = this.transport.loop.batch
    this.timer?.active()
    if (!this.push(chunk)) this.transport.pauseReading()
  }

  /**
   * @internal The peer has ended its half. Behind what the bytes before it have set going by next ticks and promises: in node:net each
   * is an event of its own, and node:http aborts at the end what it has not answered.
   */
  ended(): void {
    this.endsLater = this.receivedIn === this.transport.loop.batch
    if (this.endsLater) soon(() => this.endLate())
    else this.endReading()
  }

  private endLate(): void {
    if (!this.endsLater) return
    this.endsLater = false
    if (!this.destroyed) this.endReading()
  }

  private endReading(): void {
    this.push(null)
    this.read(0) // 'end' comes also when nobody reads and nothing is left
  }

  /** @internal The connection is gone. */
  lost(error: Error | null): void {
    this.endLate()
    // A stream that was not at its end is destroyed: who waits for that end hears of it. That its server was stopped by force is no
    // reason to end the process where nobody listens; net.Socket has no such error.
    const isUnheard = this.listenerCount('error') === 0 && isServerAborted(error)
    if (!this.destroyed) this.destroy(isUnheard ? undefined : (error ?? undefined))
    const gone = this.whenLost
    this.whenLost = undefined
    gone?.()
  }

  /** @internal Whether silence is to be told here, rather than to end the connection. */
  get mindsSilence(): boolean {
    return this.timer?.isArmed === true
  }

  /** @internal Native code says that no byte moved. */
  silent(): void {
    if (this.timer?.isOver() === true) this.emit('timeout')
  }

  /** @returns how many bytes it was */
  private send(chunk: Uint8Array | string, encoding: BufferEncoding): number {
    const { transport } = this
    this.timer?.active()
    if (typeof chunk === 'string') {
      if (encoding === 'utf8' || encoding === 'latin1') return transport.writeText(chunk, encoding)
      chunk = Buffer.from(chunk, encoding)
    }
    transport.write(chunk)
    return chunk.length
  }

  /** Bytes were written: the callback is called at once while the connection takes them, else when it has. */
  private taken(bytes: number, callback: WriteCallback): void {
    if (this.hasRoom(bytes)) callback()
    else this.whenSent(callback)
  }

  /** @param bytes were written right now */
  private hasRoom(bytes: number): boolean {
    this.sent += bytes
    const { batch } = this.transport.loop
    this.unconfirmed = batch === this.batch ? this.unconfirmed + bytes : bytes
    this.batch = batch
    return this.unconfirmed <= DUPLEX_UNCONFIRMED_BYTES || !this.isBehind()
  }

  /** Whether the kernel has not taken all that was written; what it can take it has taken. */
  private isBehind(): boolean {
    const { loop, handle, lost } = this.transport
    if (lost) return false
    loop.calls.flush()
    this.unconfirmed = 0
    return loop.native.bufferedBytes(handle) > 0
  }

  private whenSent(callback: WriteCallback): void {
    // When the connection is lost first its end tells of it.
    const told = (): void => callback()
    this.transport.writeOwned(NOTHING).then(told, told)
  }

  private sendFrom(chunks: readonly Written[], from: number, callback: WriteCallback): void {
    for (let at = from; at < chunks.length; at++) {
      const { chunk, encoding } = chunks[at] as Written
      const goOn = (error?: Error | null): void => {
        if (error) callback(error)
        else this.sendFrom(chunks, at + 1, callback)
      }
      if (this.transport.closing) {
        callback(closedError(this.transport))
        return
      }
      if (chunk.length > DUPLEX_PIECE_BYTES) {
        this.sendLarge(bytesOf(chunk, encoding), goOn)
        return
      }
      if (!this.hasRoom(this.send(chunk, encoding))) {
        this.whenSent(goOn)
        return
      }
    }
    callback()
  }

  /** In pieces, as the connection takes them: native code keeps what it does not. */
  private sendLarge(bytes: Uint8Array, callback: WriteCallback, from = 0): void {
    let at = from
    for (let pieces = 0; at < bytes.length; pieces++) {
      if (this.transport.closing) {
        callback(closedError(this.transport))
        return
      }
      const piece = bytes.subarray(at, at + DUPLEX_PIECE_BYTES)
      at += piece.length
      this.send(piece, 'utf8')
      this.sent += piece.length
      if (this.isBehind() || pieces === DUPLEX_PIECES_AT_ONCE) {
        this.whenSent(() => this.sendLarge(bytes, callback, at))
        return
      }
    }
    callback()
  }

  private option(name: 'noDelay' | 'keepAlive' | 'keepAliveTime', value: boolean | number): void {
    const { transport } = this
    if (transport.lost || typeof transport.getExtraInfo('sockname') === 'string') return // as node:net: not of TCP, or over
    transport.getExtraInfo('socket')?.setOption(name, value)
  }
}

/** Hands a connection's events to its stream. It has some methods at times only: then their getters are undefined. */
export class DuplexProtocol implements Protocol {
  /** Undefined before the connection is made. */
  duplex!: TransportDuplex

  dataReceived(chunk: Buffer): void {
    this.duplex.received(chunk)
  }

  eofReceived(): boolean {
    this.duplex.ended()
    return true // the stream ends our half
  }

  connectionLost(error: Error | null): void {
    this.duplex.lost(error)
  }

  /** Where the stream has a timeout. Else the server's own ends the connection. */
  get idleTimedOut(): () => void {
    return (this.duplex.mindsSilence ? this.silent : undefined) as () => void
  }

  /** Where somebody listens to `'draining'`. Else the connection is closed as soon as nothing is owed to the peer. */
  get draining(): () => void {
    return (this.duplex.listenerCount('draining') > 0 ? this.told : undefined) as () => void
  }

  private silent(): void {
    this.duplex.silent()
  }

  private told(): void {
    this.duplex.emit('draining')
  }
}

/** @throws ShardloopError ERR_SHARDLOOP_ARGUMENT */
export function duplexOf(transport: TcpTransport, options: DuplexOptions = NO_OPTIONS): TransportDuplex {
  const { allowHalfOpen, highWaterMark } = options
  if (allowHalfOpen !== undefined && typeof allowHalfOpen !== 'boolean')
    throw invalid('allowHalfOpen', allowHalfOpen, 'a boolean')
  const isMark =
    Number.isInteger(highWaterMark) &&
    (highWaterMark as number) >= 0 &&
    (highWaterMark as number) <= DUPLEX_HIGH_WATER_MAX_BYTES
  if (highWaterMark !== undefined && !isMark)
    throw invalid('highWaterMark', highWaterMark, `an integer from 0 to ${DUPLEX_HIGH_WATER_MAX_BYTES}`)
  const { protocol } = transport
  if (protocol instanceof DuplexProtocol) return protocol.duplex
  const own = new DuplexProtocol()
  own.duplex = new TransportDuplex(transport, options)
  transport.setProtocol(own)
  if (transport.lost) own.duplex.destroy()
  return own.duplex
}

const NO_OPTIONS: DuplexOptions = {}
/** As it was before the program may have replaced it. */
const soon = setImmediate

function isServerAborted(error: Error | null): boolean {
  return error instanceof ShardloopError && error.code === 'ERR_SHARDLOOP_SERVER_ABORTED'
}

function closedError({ id }: TcpTransport): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_CLOSED',
    `connection ${id} is closed: nothing can be written to it`,
  )
}

function bytesOf(chunk: Uint8Array | string, encoding: BufferEncoding): Uint8Array {
  return typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk
}

/** What waits in the stream, behind what was given to the connection. */
function waiting(duplex: TransportDuplex): readonly Written[] {
  const state = (duplex as unknown as { _writableState: { getBuffer(): readonly Written[] } })._writableState
  return state.getBuffer()
}

function ipOf(address: SocketAddress | undefined): Exclude<SocketAddress, string> | undefined {
  return typeof address === 'string' ? undefined : address
}

function emitClose(duplex: TransportDuplex, hadError: boolean): void {
  duplex.emit('close', hadError)
}
