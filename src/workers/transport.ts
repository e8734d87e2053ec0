import { AsyncResource } from 'node:async_hooks'
import { brand } from '../brand.js'
import { ShardloopError, type SystemError, systemError } from '../errors.js'
import { type DuplexOptions, DuplexProtocol, duplexOf, type TransportDuplex } from '../interop/duplex.js'
import {
  CLOSE_PROGRAM,
  COMMAND_ABORT,
  COMMAND_CLOSE,
  COMMAND_FINISH,
  COMMAND_IDLE_TIMEOUT,
  COMMAND_MODE,
  COMMAND_PAUSE,
  COMMAND_RESUME,
  COMMAND_UNANSWERED,
  COMMAND_WRITE_EOF,
  COMMAND_WRITE_LIMITS,
  DIRECT_WRITE_BYTES,
} from '../native/abi.js'
import { isTlsInfo, TlsSession, tlsInfoOf } from '../tls/session.js'
import { type StartTlsOptions, startTls } from '../tls/start-tls.js'
import { closedError } from './close-reasons.js'
import type { ConnectionOwner } from './connection-server.js'
import { invalid } from './invalid.js'
import type { ExtraInfo, Protocol, SocketAddress, Transport, WriteData } from './protocol.js'
import type { FileSend, Rare } from './rare.js'
import type { ShardLoop } from './shard-loop.js'
import { ConnectionSocket, isFailure, peerAddress } from './transport-socket.js'
import { type Watermarks, WRITE_DATA_EXPECTED, watermarksOf } from './writing.js'

/** How a protocol takes bytes: `dataReceived`, `bytesReceived`, or `getBuffer` and `bufferUpdated`. */
export type Receiving = typeof RECEIVE_CHUNKS | typeof RECEIVE_BORROWED | typeof RECEIVE_BUFFERED
export const RECEIVE_CHUNKS = 0
export const RECEIVE_BORROWED = 1
export const RECEIVE_BUFFERED = 2

/** The way of a protocol, by the methods it has. */
export function receivingOf(protocol: Protocol): Receiving {
  if (protocol.bytesReceived !== undefined) return RECEIVE_BORROWED
  return protocol.getBuffer !== undefined ? RECEIVE_BUFFERED : RECEIVE_CHUNKS
}

/** A string of more characters is encoded on its own; a shorter one takes at most three times its length in the slab. */
const TEXT_MAX_LENGTH = DIRECT_WRITE_BYTES - 1

/** One TCP connection. Its fields are few, for there may be very many of them. */
export class TcpTransport implements Transport {
  /** @internal */ readonly loop: ShardLoop
  /** @internal */ readonly server: ConnectionOwner
  /** @internal The native handle. */ readonly handle: number
  /** @internal Callbacks run in this connection's own async context. */ readonly resource: AsyncResource
  /**
   * @internal Why it ends, when it was not the peer or the system that ended it; null: aborted without an error. Also when
   * its peer resets before that is done.
   */
  error: Error | null | undefined = undefined
  /** @internal `close` or `abort` was called, or it is lost: no more events but its end. */ closing = false
  /** @internal connectionLost was or is being called. */ lost = false
  /** @internal */ paused = false
  /** @internal */ receiving: Receiving = RECEIVE_CHUNKS
  /** @internal The batch in which, or behind which, it was written to last; 0: not since it received. */ wroteIn = 0
  protocol: Protocol
  /** Writing is refused: after `writeEof`, and while a file is sent. */
  private barred = false
  private rare: Rare | undefined = undefined
  private readonly sequence: number

  /** @param resource the async context of its callbacks; one of its own when there is none */
  constructor(
    loop: ShardLoop,
    server: ConnectionOwner,
    handle: number,
    sequence: number,
    resource?: AsyncResource,
  ) {
    this.loop = loop
    this.server = server
    this.handle = handle
    this.sequence = sequence
    this.protocol = NO_PROTOCOL
    this.resource = resource ?? connectionResource()
  }

  get id(): string {
    return `${this.loop.shardId}-${this.sequence}`
  }

  write(data: WriteData): void {
    if (typeof data === 'string') {
      this.writeText(data, 'utf8')
      return
    }
    if (this.closing || this.barred) {
      this.refuseWrite()
      return
    }
    if (!(data instanceof Uint8Array)) throw invalid('data', data, WRITE_DATA_EXPECTED)
    if (data.length === 0) return
    this.wroteIn = this.loop.batch
    if (data.length >= DIRECT_WRITE_BYTES) this.loop.calls.write(this.handle, data)
    else this.loop.commands.write(this.handle, data)
  }

  /** @internal As `write` of text in that encoding. @returns how many bytes that is; 0 when it is not written (any more) */
  writeText(text: string, encoding: 'utf8' | 'latin1'): number {
    if (this.closing || this.barred) {
      this.refuseWrite()
      return 0
    }
    if (text.length === 0) return 0
    this.wroteIn = this.loop.batch
    if (text.length <= TEXT_MAX_LENGTH) return this.loop.commands.writeText(this.handle, text, encoding)
    const bytes = Buffer.from(text, encoding)
    this.loop.calls.write(this.handle, bytes)
    return bytes.length
  }

  writev(pieces: readonly WriteData[]): void {
    if (!Array.isArray(pieces)) throw invalid('pieces', pieces, 'an array of Uint8Array or string')
    for (const piece of pieces) {
      if (typeof piece !== 'string' && !(piece instanceof Uint8Array)) {
        throw invalid('a piece', piece, WRITE_DATA_EXPECTED)
      }
    }
    // Pieces in the ring leave together, by one system call, with whatever else goes to this connection.
    for (const piece of pieces) this.write(piece)
  }

  writeOwned(data: Uint8Array): Promise<void> {
    if (!(data instanceof Uint8Array)) throw invalid('data', data, 'a Uint8Array or a Buffer')
    if (this.closing || this.barred) {
      this.refuseWrite()
      return Promise.reject(this.error ?? closedError(this.id))
    }
    if (this.loop.slabs.isBorrowed(data.buffer)) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_BORROW',
        'writeOwned was given borrowed memory, which is overwritten when bytesReceived has returned: use writeBorrowed or write',
      )
    }
    return this.own(data)
  }

  private own(data: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      // What cannot be written (any more) is lost with its connection, whose end rejects it.
      this.loop.native.writeOwned(this.handle, data)
      this.wroteIn = this.loop.batch
      const rare = this.rarely()
      rare.owned ??= []
      rare.owned.push({ resolve, reject })
    })
  }

  writeBorrowed(start: number, end: number): void {
    const { borrow } = this.loop
    if (borrow.end < 0) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_BORROW',
        'writeBorrowed was called outside bytesReceived: the range was lent until that callback returned; copy it to keep it',
      )
    }
    if (
      !(
        Number.isInteger(start) &&
        Number.isInteger(end) &&
        start <= end &&
        start >= borrow.start &&
        end <= borrow.end
      )
    ) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_BORROW',
        `the range ${start} to ${end} is not within the borrowed one, ${borrow.start} to ${borrow.end}`,
      )
    }
    if (this.closing || this.barred) {
      this.refuseWrite()
      return
    }
    if (start === end) return
    this.wroteIn = this.loop.batch
    if (borrow.slab < 0) this.write((borrow.memory as Buffer).subarray(start, end))
    else this.loop.writeFromSlab(this.handle, borrow.slab, start, end - start)
  }

  writeEof(): void {
    if (this.closing || (this.barred && this.rare?.sending === undefined)) return
    this.barred = true
    if (this.rare?.sending !== undefined) this.rare.sending.thenEof = true
    else this.loop.commands.push(COMMAND_WRITE_EOF, this.handle, 0, 0)
  }

  canWriteEof(): boolean {
    return true
  }

  close(): void {
    if (this.closing) return
    this.closing = true
    this.dropHeld()
    // Behind a file that is sent: should the kernel not send it by itself, more of it has still to be written.
    if (this.rare?.sending === undefined) this.loop.commands.push(COMMAND_CLOSE, this.handle, 0, 0)
  }

  abort(error?: Error): void {
    this.abortFor(CLOSE_PROGRAM, error)
  }

  /** @internal @param reason a CLOSE_ constant, by which it is counted */
  abortFor(reason: number, error?: Error): void {
    if (this.lost) return
    // After `close` it still cuts short what waits to be flushed.
    this.error ??= error ?? null
    this.closing = true
    this.dropHeld()
    this.loop.commands.push(COMMAND_ABORT, this.handle, reason, 0)
  }

  isClosing(): boolean {
    return this.closing
  }

  pauseReading(): void {
    if (this.paused || this.closing) return
    this.paused = true
    this.loop.commands.push(COMMAND_PAUSE, this.handle, 0, 0)
  }

  resumeReading(): void {
    if (!this.paused || this.closing) return
    this.paused = false
    if (this.rare?.held === undefined) this.loop.commands.push(COMMAND_RESUME, this.handle, 0, 0)
    else this.releaseLater()
  }

  isReading(): boolean {
    return !this.paused && !this.closing
  }

  setWriteBufferLimits(limits: Partial<Watermarks> = {}): void {
    const watermarks = watermarksOf(limits, this.server.writeHighBytes)
    if (this.closing) return
    this.rarely().limits = watermarks
    this.loop.commands.push(COMMAND_WRITE_LIMITS, this.handle, watermarks.high, watermarks.low)
  }

  getWriteBufferLimits(): Watermarks {
    return this.rare?.limits ?? { high: this.server.writeHighBytes, low: this.server.writeLowBytes }
  }

  getWriteBufferSize(): number {
    return this.lost ? 0 : this.loop.native.bufferedBytes(this.handle)
  }

  getExtraInfo<Name extends keyof ExtraInfo>(name: Name): ExtraInfo[Name] | undefined
  getExtraInfo<Name extends keyof ExtraInfo, Default>(
    name: Name,
    fallback: Default,
  ): ExtraInfo[Name] | Default
  getExtraInfo(name: keyof ExtraInfo, fallback?: unknown): unknown {
    switch (name) {
      case 'socket':
        return this.socket()
      case 'peername':
        return this.peername() ?? fallback
      case 'sockname':
        return this.sockname() ?? fallback
      case 'pipe':
        return this.pipe() ?? fallback
      default:
        return isTlsInfo(name) ? (tlsInfoOf(this.tls, name) ?? fallback) : fallback
    }
  }

  setIdleTimeout(ms: number): void {
    if (!(Number.isInteger(ms) && ms >= 0 && ms <= 0x7fffffff)) {
      throw invalid('ms', ms, 'an integer from 0 to 2147483647')
    }
    if (!this.closing) this.loop.commands.push(COMMAND_IDLE_TIMEOUT, this.handle, ms, 0)
  }

  setProtocol(protocol: Protocol): void {
    if (protocol === null || typeof protocol !== 'object') throw invalid('protocol', protocol, 'an object')
    this.protocol = protocol
    this.receiving = receivingOf(protocol)
    if (this.rare?.atRest !== undefined) delete this.rare.atRest
    if (!this.closing) {
      this.loop.commands.push(COMMAND_MODE, this.handle, this.receiving === RECEIVE_CHUNKS ? 0 : 1, 0)
      // Behind the callback that calls this one: the new protocol may not be ready for more before.
      if (this.server.isDraining) process.nextTick(() => this.loop.beginDraining(this))
    }
  }

  duplex(options?: DuplexOptions): TransportDuplex {
    return duplexOf(this, options)
  }

  startTls(options: StartTlsOptions): Promise<void> {
    return startTls(this, options)
  }

  /** @internal What TLS agreed on; null where there is none, or was not asked for by the end of the connection. */
  get tls(): TlsSession | null {
    if (this.rare?.tls !== undefined) return this.rare.tls
    // Not asked of native code where there is none: Express, say, looks at each connection whether it is `encrypted`.
    if (this.lost || (this.server.tls === 0 && this.rare?.secured !== true)) return null
    const info = this.loop.native.tlsInfo(this.handle)
    const session = info === null ? null : new TlsSession(info, this.rare?.unverified !== true)
    this.rarely().tls = session
    return session
  }

  /** @internal A client's has TLS. @param verified false where its peer's certificate, whatever it be, was accepted */
  noteTls(verified: boolean): void {
    const rare = this.rarely()
    rare.secured = true
    if (!verified) rare.unverified = true
  }

  /** @internal */
  get isUpgrading(): boolean {
    return this.rare?.upgrade !== undefined
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close()
    if (this.lost) return Promise.resolve()
    return new Promise((resolve) => {
      const rare = this.rarely()
      rare.whenLost ??= []
      rare.whenLost.push(resolve)
    })
  }

  /** @internal Asks to be told when nothing is owed to the peer, unless the protocol sees to its end itself. */
  finish(): void {
    if (!this.closing && this.protocol.draining === undefined) {
      this.loop.commands.push(COMMAND_FINISH, this.handle, 0, 0)
    }
  }

  /** @internal What native code took for answered, by a write that came before this, is not. */
  unanswered(): void {
    this.loop.commands.push(COMMAND_UNANSWERED, this.handle, 0, 0)
  }

  /**
   * @internal The protocol has `draining`, and has dealt with all that it was given, whether it has written since or not.
   * @param atRest called when nothing more had come. What had is delivered instead, and the protocol asks again
   */
  askForRest(atRest: () => void): void {
    if (this.closing) return
    this.rarely().atRest = atRest
    this.wroteIn = this.loop.batch // what comes later in this batch is not dealt with
    this.loop.commands.push(COMMAND_FINISH, this.handle, 1, 0)
  }

  /** @internal Native code says that nothing is owed. */
  answered(): void {
    // What waits here is not known there. When it is dealt with, `finish` asks again.
    if (this.holds) return
    if (this.protocol.draining !== undefined) this.rare?.atRest?.()
    else if ((this.rare?.promises?.pending ?? 0) === 0) this.close()
  }

  /** @internal False when `draining` was called before. */
  tellDraining(): boolean {
    const rare = this.rarely()
    if (rare.toldDraining === true) return false
    rare.toldDraining = true
    return true
  }

  /** @internal A callback returned a promise: what to call when it is fulfilled. */
  promised(): () => void {
    const rare = this.rarely()
    // One function for all of a connection's promises.
    if (rare.promises === undefined) {
      const promises = {
        pending: 0,
        fulfilled: (): void => {
          if (--promises.pending === 0 && this.server.isDraining) this.finish()
        },
      }
      rare.promises = promises
    }
    rare.promises.pending++
    return rare.promises.fulfilled
  }

  /** @internal Keeps an event of the batch in which reading was paused; null is the peer's end. */
  hold(event: Buffer | null): void {
    const rare = this.rarely()
    rare.held ??= []
    rare.held.push(event)
  }

  /** @internal Keeps the rest of an event that was handed out in part: it comes before what is held already. */
  holdRest(rest: Buffer): void {
    const rare = this.rarely()
    rare.held ??= []
    rare.held.unshift(rest)
  }

  /** @internal Whether earlier events wait, so that a new one must wait behind them. */
  get holds(): boolean {
    return this.rare !== undefined && this.rare.held !== undefined
  }

  /** @internal The first owned writes are flushed. */
  ownedFlushed(count: number): void {
    const flushed = this.rare?.owned?.splice(0, count) ?? []
    for (const write of flushed) write.resolve()
  }

  /** @internal Where it was asked for. */
  noteSource(source: string): void {
    this.rarely().source = source
  }

  /** @internal Its peer's address. */
  notePeername(peername: SocketAddress): void {
    this.rarely().peername = peername
  }

  /** @internal What log records tell of it. */
  describe(): Record<string, unknown> {
    const source = this.rare?.source
    return {
      connection: this.id,
      ...(this.server.name !== null && { server: this.server.name }),
      peername: this.peername(),
      protocol: this.protocol.constructor?.name,
      ...(source !== undefined && { createdAt: source }),
    }
  }

  /**
   * @internal Bars writing, and has the kernel send a range of a file behind what was written. Resolves with the number of
   * bytes sent, or with the error that the file met with; rejects when the connection ends first.
   * @param count -1: to the end of the file
   * @throws ShardloopError ERR_SHARDLOOP_STATE when writing is barred already; EBADF
   */
  sendFile(fd: number, offset: number, count: number): Promise<number | SystemError> {
    const failure = this.loop.native.sendFile(this.handle, fd, offset, count)
    if (failure !== null) throw systemError(failure.errno, failure.syscall)
    this.wroteIn = this.loop.batch
    return new Promise((ended, lost) => {
      const { sending } = this.rare as { sending: FileSend }
      Object.assign(sending, { ended, lost })
    })
  }

  /**
   * @internal A file will be sent: nobody else writes until the returned function is called, and what `writeEof` and `close`
   * do waits for that. It also counts as a promise that a drain waits for.
   */
  barWriting(): () => void {
    if (this.closing) throw this.error ?? closedError(this.id)
    this.refuseWrite()
    if (this.isUpgrading) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_STATE',
        `connection ${this.id} becomes TLS (startTls): wait until it is before a file is sent`,
      )
    }
    if (this.protocol instanceof DuplexProtocol) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_STATE',
        `connection ${this.id} is a stream (duplex): a file would come between what is written there; pipe it into that`,
      )
    }
    const fulfilled = this.promised()
    const sending: FileSend = { ended: () => {}, lost: () => {}, thenEof: false }
    this.rarely().sending = sending
    this.barred = true
    return () => {
      delete this.rarely().sending
      this.barred = sending.thenEof
      if (this.lost) return
      if (this.closing) this.loop.commands.push(COMMAND_CLOSE, this.handle, 0, 0)
      else if (sending.thenEof) this.loop.commands.push(COMMAND_WRITE_EOF, this.handle, 0, 0)
      fulfilled()
    }
  }

  /** @internal As `writeOwned`, while {@link TcpTransport.barWriting} keeps others from writing. */
  writeBarred(data: Uint8Array): Promise<void> {
    const isAborted = this.error !== undefined
    if (isAborted || this.lost) return Promise.reject(this.error ?? closedError(this.id))
    return this.own(data)
  }

  /** @internal @param high the upper half of the number of bytes, or the negative errno */
  fileSent(low: number, high: number): void {
    this.rare?.sending?.ended(high < 0 ? systemError(-high, 'sendfile') : high * 2 ** 32 + (low >>> 0))
  }

  /** @internal The connection is gone: keeps what is still asked for afterwards. */
  ended(error: Error | null): void {
    if (this.rare?.peername === undefined) {
      const peer = this.loop.calls.peer(this.handle)
      if (peer !== null) this.rarely().peer = peer
    }
    this.closing = true
    this.lost = true
    this.dropHeld()
    this.rare?.sending?.lost(error ?? closedError(this.id))
    this.rare?.upgrade?.reject(error ?? closedError(this.id))
    // They go on behind the batch, and so behind connectionLost.
    for (const resolve of this.rare?.whenLost ?? []) resolve()
    const owned = this.rare?.owned
    if (owned !== undefined && owned.length > 0) {
      const reason = error ?? closedError(this.id)
      for (const write of owned.splice(0)) write.reject(reason)
    }
  }

  private socket(): ConnectionSocket {
    const rare = this.rarely()
    rare.socket ??= new ConnectionSocket(this, () => this.peername())
    return rare.socket
  }

  private peername(): SocketAddress | undefined {
    const known = this.rare?.peername
    if (known !== undefined) return known
    const peer = this.rare?.peer ?? (this.lost ? null : this.loop.calls.peer(this.handle))
    if (peer === null) return undefined
    const peername = peerAddress(peer)
    this.rarely().peername = peername
    return peername
  }

  /** @internal The peer is a Unix socket with a name. It is asked for at once: native code does not keep it. */
  learnPeername(): void {
    const address = this.loop.native.peerAddress(this.handle)
    if (!isFailure(address)) this.rarely().peername = address as SocketAddress
  }

  /** @internal The call that fails when its peer does, but for EPIPE. */
  get failingCall(): 'read' | 'write' {
    return 'read'
  }

  /** Its descriptor, where it is a pipe. */
  protected pipe(): number | undefined {
    return undefined
  }

  private sockname(): SocketAddress | undefined {
    const known = this.rare?.sockname
    if (known !== undefined) return known
    if (this.lost) return undefined // the slot may be another connection's by now
    const address = this.loop.native.localAddress(this.handle)
    if (isFailure(address)) return undefined
    const sockname = address as SocketAddress
    this.rarely().sockname = sockname
    return sockname
  }

  /** @internal */
  rarely(): Rare {
    this.rare ??= {}
    return this.rare
  }

  private dropHeld(): void {
    if (this.rare?.held !== undefined) delete this.rare.held
  }

  /** @internal Held events come after the callback that resumed, as if they were just received. */
  releaseLater(): void {
    const rare = this.rarely()
    if (rare.releasing === true) return
    rare.releasing = true
    process.nextTick(() => {
      rare.releasing = false
      while (rare.held !== undefined && rare.upgrade === undefined && !this.paused && !this.closing) {
        const event = rare.held.shift()
        if (event === undefined) {
          delete rare.held
          this.loop.commands.push(COMMAND_RESUME, this.handle, 0, 0)
          if (this.server.isDraining) this.finish()
        } else {
          if (event !== null) this.unanswered()
          this.loop.deliverHeld(this, event)
        }
      }
    })
  }

  /** @internal Whether what is written now goes to the peer. */
  get isWritable(): boolean {
    return !this.closing && !this.barred
  }

  /** @internal Why it does not. */
  refusal(): ShardloopError {
    if (!this.barred || this.closing) return closedError(this.id)
    const why = this.rare?.sending === undefined ? 'after writeEof' : 'while a file is sent (sendFile)'
    return new ShardloopError('ERR_SHARDLOOP_STATE', `connection ${this.id} was written to ${why}`)
  }

  private refuseWrite(): void {
    if (this.barred && !this.closing) throw this.refusal()
  }
}

brand(TcpTransport, 'transport')

/** An async context for a connection, which goes on from that of the caller. */
export function connectionResource(): AsyncResource {
  return new AsyncResource('SHARDLOOP_CONNECTION', RESOURCE_OPTIONS)
}

/** @internal Of a connection whose factory has not made one. */
export const NO_PROTOCOL: Protocol = {}
/** We never emit a destroy event by the garbage collector's leave: following objects there costs more than it tells. */
const RESOURCE_OPTIONS = { requireManualDestroy: true }
