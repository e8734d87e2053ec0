import type { X509Certificate } from 'node:crypto'
import { Duplex } from 'node:stream'
import type { PeerCertificate } from 'node:tls'
import { brand } from '../brand.js'
import { ShardloopError } from '../errors.js'
import { DUPLEX_HIGH_WATER_MAX_BYTES, TIME_MAX_MS } from '../limits.js'
import { invalid } from '../workers/invalid.js'
import type { Protocol, SocketAddress } from '../workers/protocol.js'
import type { TcpTransport } from '../workers/transport.js'
import { DuplexWrites, type WriteCallback, type Written } from './duplex-writes.js'
import { InactivityTimer } from './inactivity-timer.js'

/** As it was before the program may have replaced it (a test runner's timers). */
const later = setImmediate

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

/**
 * A connection as a stream of Node's, with the members of `net.Socket` that libraries use: it can be given where one is wanted. It
 * belongs to its thread, and emits what net.Socket does in the same order; beside that `'draining'`, when its server drains.
 *
 * What is different:
 * - What a listener throws, and an error given to `destroy` that nobody listens to, aborts this connection alone and reaches the
 *   exception handler. That the connection broke is an error that nobody has to listen to.
 * - `destroy` resets the connection when the kernel has not taken all that was written (net.Socket ends it as if that were all).
 *   What the kernel has taken the peer gets, also when input is left unread.
 * - `setTimeout` has a resolution of 100 ms.
 * - `ref` and `unref` do nothing: a connection keeps its thread as its server does.
 */
export class TransportDuplex extends Duplex {
  /** The connection. Its protocol is this stream's: use one or the other to read and write. */
  readonly transport: TcpTransport
  /** Bytes received. */
  bytesRead = 0
  /** Milliseconds of `setTimeout`; undefined before it was called. */
  declare readonly timeout?: number
  // Undefined for a Unix socket, as there.
  declare readonly localAddress?: string
  declare readonly localPort?: number
  declare readonly localFamily?: string
  declare readonly remoteAddress: string | undefined
  declare readonly remotePort: number | undefined
  declare readonly remoteFamily: string | undefined
  private readonly writes: DuplexWrites
  private timer: InactivityTimer | undefined = undefined
  /** `destroySoon`: the end of what is written is that of the connection. */
  private endsSoon = false
  /** What the connection ended with. */
  private brokenBy: Error | null = null
  private hadError = false
  private isClosed = false
  private asksToFinish = false
  /**
   * A chunk was pushed in this tick for someone who reads by 'readable'. It comes alone, as with net.Socket: in the newest Node.js
   * `read()` gives one chunk, and some who read once for each 'readable' (aedes) would leave the second.
   */
  private hasPushed = false
  /** The batch in which bytes were last received. */
  private receivedIn = 0
  /** The peer's end has come in the same batch as bytes, and is not told yet. */
  private endsLater = false

  /** @internal @param transport whose protocol is {@link DuplexProtocol} */
  constructor(transport: TcpTransport, { allowHalfOpen = false, highWaterMark }: DuplexOptions = NO_OPTIONS) {
    // Strings come as they are, and 'close' is emitted here, with net.Socket's argument.
    const marks = highWaterMark === undefined ? NO_OPTIONS : { highWaterMark }
    super({ allowHalfOpen, ...marks, decodeStrings: false, emitClose: false })
    this.transport = transport
    this.writes = new DuplexWrites(transport, () => {
      this.timer?.active()
      if (transport.server.isDraining) this.askToFinish()
    })
    if (!allowHalfOpen) this.once('end', refuseWrites)
  }

  /** Never throws what a listener does. */
  override emit(event: string | symbol, ...args: unknown[]): boolean {
    try {
      return super.emit(event, ...args)
    } catch (error) {
      const isUnheard = event === 'error' && this.listenerCount('error') === 0
      // As a protocol without `connectionLost` is not told.
      if (isUnheard && error === this.brokenBy) return false
      const what = isUnheard ? "'error' without a listener" : `a listener of '${String(event)}'`
      this.transport.loop.failed(error, this.transport, what)
      return true
    }
  }

  /** @internal */
  override _read(): void {
    const { transport } = this
    if (transport.paused && this.isReceiving) transport.resumeReading()
    if (transport.server.isDraining) this.askToFinish()
  }

  /** @internal */
  override _write(chunk: Uint8Array | string, encoding: BufferEncoding, callback: WriteCallback): void {
    this.timer?.active()
    this.writes.write(chunk, encoding, callback)
    if (this.transport.server.isDraining) this.askToFinish()
  }

  /** @internal */
  override _writev(chunks: readonly Written[], callback: WriteCallback): void {
    this.timer?.active()
    this.writes.writeAll(chunks, 0, callback)
    if (this.transport.server.isDraining) this.askToFinish()
  }

  /** @internal */
  override _final(callback: WriteCallback): void {
    const { transport } = this
    if (transport.closing) callback()
    else if (this.endsSoon && !this.writes.isBehind()) {
      // Not before: a connection that closes is not read any more, and its peer may wait for that.
      transport.close()
      process.nextTick(callback)
    } else {
      this.writes.whenSent(callback)
      transport.writeEof()
    }
  }

  /** @internal */
  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    const { transport } = this
    this.timer?.stop()
    this.hadError = error !== null
    if (!transport.closing && this.isReceiving) {
      if (this.writableFinished || !this.writes.isBehind()) transport.close()
      else transport.abort()
    }
    callback(error)
    // Else `lost` does.
    if (transport.lost || !this.isReceiving) this.emitClose()
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
    if (this.isReceiving) this.transport.abort()
    return this.destroy()
  }

  /** @internal It is connected already. @throws ShardloopError ERR_SHARDLOOP_STATE */
  connect(..._to: unknown[]): this {
    throw new ShardloopError('ERR_SHARDLOOP_STATE', `connection ${this.transport.id} is connected already`)
  }

  /**
   * Emits `'timeout'` once when no byte moved for that long, until one does again. 0 ends it. The connection stays.
   * @param milliseconds resolution 100
   */
  setTimeout(milliseconds: number, callback?: () => void): this {
    if (this.destroyed) return this
    if (!(typeof milliseconds === 'number' && milliseconds >= 0 && Number.isFinite(milliseconds)))
      throw invalid('milliseconds', milliseconds, 'a number, 0 or more')
    if (callback !== undefined && typeof callback !== 'function')
      throw invalid('callback', callback, 'a function')
    ;(this as { timeout?: number }).timeout = milliseconds
    if (milliseconds > 0 || this.timer !== undefined) {
      this.timer ??= new InactivityTimer(this.transport)
      this.timer.set(Math.min(Math.ceil(milliseconds), TIME_MAX_MS))
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
    return { ...ipOf(this.transport.getExtraInfo('sockname')) }
  }

  /** Bytes written, those that wait included. */
  get bytesWritten(): number {
    let { bytes } = this.writes
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

  /** @internal net.Socket's: a transport stands. */
  get connecting(): boolean {
    return false
  }

  /** @internal */
  get pending(): boolean {
    return this.destroyed
  }

  /** @internal */
  get autoSelectFamilyAttemptedAddresses(): string[] {
    return []
  }

  /** Whether it is TLS: true, or undefined as in net.Socket. This and those below are tls.TLSSocket's. */
  get encrypted(): true | undefined {
    return this.transport.tls === null ? undefined : true
  }

  /** Whether the peer has shown a certificate that was verified. Undefined without TLS, as is what follows. */
  get authorized(): boolean | undefined {
    return this.transport.tls?.authorized
  }

  /** The application protocol that was negotiated, or false. */
  get alpnProtocol(): string | false | undefined {
    const { tls } = this.transport
    return tls === null ? undefined : (tls.alpn ?? false)
  }

  /** The name that the client asked for, or false. */
  get servername(): string | false | undefined {
    const { tls } = this.transport
    return tls === null ? undefined : (tls.servername ?? false)
  }

  /** The peer's certificate; an empty object when it has shown none. @param detailed with those behind it as `issuerCertificate` */
  getPeerCertificate(detailed = false): PeerCertificate | Record<string, never> | undefined {
    return this.transport.tls?.legacyCertificate(detailed)
  }

  getPeerX509Certificate(): X509Certificate | undefined {
    return this.transport.tls?.peerCertificates[0]
  }

  /** `'TLSv1.2'` or `'TLSv1.3'`. */
  getProtocol(): string | undefined {
    return this.transport.tls?.version
  }

  getCipher(): { name: string; standardName: string; version: string } | undefined {
    const cipher = this.transport.tls?.cipher
    return cipher && { ...cipher, standardName: cipher.name }
  }

  isSessionReused(): boolean | undefined {
    return this.transport.tls?.sessionReused
  }

  /** @internal net.Socket's, which libraries call to tell of activity: native code sees it. */
  _unrefTimer(): void {}

  /** @internal */
  received(chunk: Buffer): void {
    if (this.hasPushed) {
      // `_read`, which comes behind 'readable', has it delivered.
      this.transport.pauseReading()
      this.transport.holdRest(chunk)
      return
    }
    this.bytesRead += chunk.length
    this.receivedIn = this.transport.loop.batch
    this.timer?.active()
    if (!this.push(chunk)) this.transport.pauseReading()
    if (this.readableFlowing === false) {
      this.hasPushed = true
      process.nextTick(() => {
        this.hasPushed = false
      })
    }
  }

  /**
   * @internal The peer has ended its half. Behind what the bytes before it have set going by next ticks and promises: in node:net each
   * is an event of its own, and node:http aborts at the end what it has not answered.
   */
  peerEnded(): void {
    this.endsLater = this.receivedIn === this.transport.loop.batch
    if (this.endsLater) later(() => this.endLate())
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
    // A stream that was not at its end is destroyed: who waits for that end hears of it.
    this.brokenBy = error
    if (this.destroyed) this.emitClose()
    else this.destroy(error ?? undefined)
  }

  /** @internal More waits to be sent than the high watermark, or no more than the low one. */
  full(isFull: boolean): void {
    if (isFull) this.writes.paused()
    else this.writes.resumed()
  }

  /** @internal Whether silence is to be told here, rather than to end the connection. */
  get mindsSilence(): boolean {
    return this.timer?.isArmed === true
  }

  /** @internal Native code says that no byte moved. */
  silent(): void {
    if (this.timer?.isOver() === true) this.emit('timeout')
  }

  /** @internal Whether something waits here that native code does not know of. */
  get owes(): boolean {
    return this.readableLength > 0 || this.writableLength > 0
  }

  /** The server drains, and something moved: asks again whether anything is owed, behind what is under way. */
  private askToFinish(): void {
    if (this.asksToFinish) return
    this.asksToFinish = true
    process.nextTick(() => {
      this.asksToFinish = false
      this.transport.finish()
    })
  }

  /** Whether the connection's events come here: it may have been given to another protocol. */
  private get isReceiving(): boolean {
    return (this.transport.protocol as Partial<DuplexProtocol>).duplex === this
  }

  /** As a handle of Node's that is closed: behind 'error', and behind the callbacks of writes. */
  private emitClose(): void {
    if (this.isClosed) return
    this.isClosed = true
    const { hadError } = this
    later(() => this.emit('close', hadError))
  }

  /** As in node:net it is no error where it cannot be set: a Unix socket has no delay, and the connection may be over. */
  private option(name: 'noDelay' | 'keepAlive' | 'keepAliveTime', value: boolean | number): void {
    const { transport } = this
    if (transport.lost || typeof transport.getExtraInfo('peername') === 'string') return
    try {
      transport.getExtraInfo('socket')?.setOption(name, value)
    } catch {}
  }
}

// Optional in net.Socket's type, which an accessor of a class cannot be.
for (const [end, info] of [
  ['local', 'sockname'],
  ['remote', 'peername'],
] as const) {
  for (const part of ['address', 'port', 'family'] as const) {
    Object.defineProperty(
      TransportDuplex.prototype,
      end + (part[0] as string).toUpperCase() + part.slice(1),
      {
        configurable: true,
        get(this: TransportDuplex) {
          return ipOf(this.transport.getExtraInfo(info))?.[part]
        },
      },
    )
  }
}

/** Of net.Socket, for those who look at them or set them. Not each stream needs its own. */
Object.assign(TransportDuplex.prototype, { server: null, _server: null, _parent: null, _host: null })

/** Hands a connection's events to its stream. It has some methods at times only: then their getters are undefined. */
export class DuplexProtocol implements Protocol {
  /** Undefined before the connection is made. */
  duplex!: TransportDuplex

  dataReceived(chunk: Buffer): void {
    this.duplex.received(chunk)
  }

  eofReceived(): boolean {
    this.duplex.peerEnded()
    return true // the stream ends our half
  }

  connectionLost(error: Error | null): void {
    this.duplex.lost(error)
  }

  pauseWriting(): void {
    this.duplex.full(true)
  }

  resumeWriting(): void {
    this.duplex.full(false)
  }

  /** Where the stream has a timeout. Else the server's own ends the connection. */
  get idleTimedOut(): () => void {
    return (this.duplex.mindsSilence ? this.silent : undefined) as () => void
  }

  /** Where somebody listens to `'draining'`. Else the connection is closed as soon as nothing is owed to the peer. */
  get draining(): () => void {
    const { duplex } = this
    return (duplex.listenerCount('draining') > 0 || duplex.owes ? this.told : undefined) as () => void
  }

  private silent(): void {
    this.duplex.silent()
  }

  private told(): void {
    this.duplex.emit('draining')
  }
}

brand(DuplexProtocol, 'duplex-protocol')

/** @throws ShardloopError ERR_SHARDLOOP_ARGUMENT */
export function duplexOf(transport: TcpTransport, options: DuplexOptions = NO_OPTIONS): TransportDuplex {
  const { allowHalfOpen, highWaterMark, ...unknown } = options
  for (const name of Object.keys(unknown)) throw invalid('an option', name, 'allowHalfOpen or highWaterMark')
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
  if (transport.getExtraInfo('pipe') !== undefined)
    throw new ShardloopError('ERR_SHARDLOOP_STATE', `pipe ${transport.id} has one direction: it is no Duplex`)
  const own = new DuplexProtocol()
  own.duplex = new TransportDuplex(transport, options)
  transport.setProtocol(own)
  if (transport.lost) own.duplex.destroy()
  return own.duplex
}

const NO_OPTIONS: DuplexOptions = {}
type Ip = Exclude<SocketAddress, string>

function ipOf(address: SocketAddress | undefined): Ip | undefined {
  return typeof address === 'string' ? undefined : address
}

/** What waits in the stream, behind what was given to the connection. */
function waiting(duplex: TransportDuplex): readonly Written[] {
  return (duplex as unknown as { readonly writableBuffer: readonly Written[] }).writableBuffer
}

/** The peer has ended, and so has this stream by itself: whoever writes on is told so, as by net.Socket. */
function refuseWrites(this: TransportDuplex): void {
  Object.defineProperty(this, 'write', { value: writeAfterEnd, configurable: true, writable: true })
}

function writeAfterEnd(
  this: TransportDuplex,
  chunk: Uint8Array | string,
  encoding?: BufferEncoding | WriteCallback,
  callback?: WriteCallback,
): boolean {
  if (!this.writableEnded)
    return Duplex.prototype.write.call(this, chunk, encoding as BufferEncoding, callback)
  const error = Object.assign(new Error('This socket has been ended by the other party'), { code: 'EPIPE' })
  const told = typeof encoding === 'function' ? encoding : callback
  if (typeof told === 'function') process.nextTick(told, error)
  this.destroy(error)
  return false
}
