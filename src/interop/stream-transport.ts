import type { AsyncResource } from 'node:async_hooks'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { ShardloopError } from '../errors.js'
import { STREAM_LINGER_MS, TIME_MAX_MS } from '../limits.js'
import type { StartTlsOptions } from '../tls/start-tls.js'
import { checkedProtocol, isThenable, thrownError } from '../workers/callback-results.js'
import { callExceptionHandler, exceptionContext } from '../workers/exception-handler.js'
import { shardId } from '../workers/identity.js'
import { invalid } from '../workers/invalid.js'
import type { ExtraInfo, Protocol, SocketAddress, Transport, WriteData } from '../workers/protocol.js'
import { isOverwritten, type LentBytes, lentByLoops, withLent } from '../workers/shard-loops.js'
import {
  connectionResource,
  NO_PROTOCOL,
  RECEIVE_BORROWED,
  RECEIVE_CHUNKS,
  type Receiving,
  receivingOf,
} from '../workers/transport.js'
import { type Watermarks, WRITE_DATA_EXPECTED, watermarksOf } from '../workers/writing.js'
import type { DuplexOptions, TransportDuplex } from './duplex.js'

/** As they were before the program may have replaced them (a test runner's timers). */
const [later, never] = [setTimeout, clearTimeout]

/** Bounds of one. */
export interface StreamTransportTerms {
  readonly writeHighBytes: number
  readonly writeMaxBytes: number
}

/** A promise of `writeOwned`. */
interface OwnedWrite {
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

let sequence = 0
/** What a stream's `bytesReceived` lends at the moment. */
let lent: LentBytes | undefined

/** A stream of Node's as a connection of a protocol, see `fromDuplex`. */
export class StreamTransport implements Transport {
  readonly id: string = `${shardId ?? 0}-stream-${++sequence}`
  protocol: Protocol = NO_PROTOCOL
  readonly #stream: Duplex
  readonly #terms: StreamTransportTerms
  readonly #resource: AsyncResource = connectionResource()
  #receiving: Receiving = RECEIVE_CHUNKS
  /** Why it ends, when it was aborted or the stream failed; null: aborted without an error. */
  #error: Error | null | undefined = undefined
  /** `close` or `abort` was called, or it is lost: no more events but its end. */
  #closing = false
  #lost = false
  /** The stream was given back by `duplex`. */
  #detached = false
  #barred = false
  #paused = false
  /** The peer's end came while reading was paused. */
  #heldEnd = false
  #limits: Watermarks
  /** `pauseWriting` was called last. */
  #isFull = false
  #looksForFull = false
  #isCorked = false
  readonly #owned: Set<OwnedWrite> = new Set()
  #idle: NodeJS.Timeout | undefined = undefined
  #whenLost: (() => void)[] = []

  constructor(stream: Duplex, terms: StreamTransportTerms) {
    this.#stream = stream
    this.#terms = terms
    this.#limits = watermarksOf({ high: terms.writeHighBytes }, terms.writeHighBytes)
  }

  /** @internal @throws what the factory throws; then the stream is as it was */
  begin(factory: () => Protocol, head: Uint8Array | undefined): void {
    this.protocol = checkedProtocol(this.#resource.runInAsyncScope(factory))
    this.#receiving = receivingOf(this.protocol)
    const stream = this.#stream
    stream.pause()
    // Whether our half stays open is the protocol's to say, once the peer has ended its own.
    stream.allowHalfOpen = true
    const isOver = stream.readableEnded
    if (head !== undefined && head.length > 0) {
      if (isOver) process.nextTick(this.#data, Buffer.from(head))
      else stream.unshift(head)
    }
    stream.on('data', this.#data)
    stream.on('end', this.#end)
    stream.on('error', this.#failed)
    stream.on('close', this.#gone)
    this.#call('connectionMade', this)
    if (isOver) process.nextTick(this.#end)
    if (!this.#paused && !this.#detached) stream.resume()
  }

  write(data: WriteData): void {
    if (this.#isRefused()) return
    const isText = typeof data === 'string'
    if (!isText && !(data instanceof Uint8Array)) throw invalid('data', data, WRITE_DATA_EXPECTED)
    if (data.length > 0) this.#send(isText ? Buffer.from(data) : Buffer.from(data)) // a copy: the stream keeps it
  }

  writev(pieces: readonly WriteData[]): void {
    if (!Array.isArray(pieces)) throw invalid('pieces', pieces, 'an array of Uint8Array or string')
    for (const piece of pieces) {
      if (typeof piece !== 'string' && !(piece instanceof Uint8Array))
        throw invalid('a piece', piece, WRITE_DATA_EXPECTED)
    }
    for (const piece of pieces) this.write(piece)
  }

  writeOwned(data: Uint8Array): Promise<void> {
    if (!(data instanceof Uint8Array)) throw invalid('data', data, 'a Uint8Array or a Buffer')
    if (this.#isRefused() || this.#stream.destroyed) return Promise.reject(this.#error ?? this.#closedError())
    if (isOverwritten(data.buffer)) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_BORROW',
        'writeOwned was given borrowed memory, which is overwritten when bytesReceived has returned: use writeBorrowed or write',
      )
    }
    return new Promise((resolve, reject) => {
      const write = { resolve, reject }
      this.#owned.add(write)
      this.#send(data, (error) => {
        // A stream that is destroyed may call back without an error: then the end of the connection tells.
        if (error || this.#stream.destroyed || !this.#owned.delete(write)) return
        resolve()
      })
    })
  }

  writeBorrowed(start: number, end: number): void {
    const range = lent ?? lentByLoops()
    if (range === undefined) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_BORROW',
        'writeBorrowed was called outside bytesReceived: the range was lent until that callback returned; copy it to keep it',
      )
    }
    const isWithin = Number.isInteger(start) && Number.isInteger(end) && start <= end
    if (!isWithin || start < range.start || end > range.end) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_BORROW',
        `the range ${start} to ${end} is not within the borrowed one, ${range.start} to ${range.end}`,
      )
    }
    if (this.#isRefused() || start === end) return
    const bytes = range.memory.subarray(start, end)
    // A chunk of a stream is nobody else's once it was handed out.
    this.#send(range === lent ? bytes : Buffer.from(bytes))
  }

  writeEof(): void {
    if (this.#closing || this.#barred) return
    this.#barred = true
    this.#stream.end()
  }

  canWriteEof(): boolean {
    return true
  }

  close(): void {
    if (this.#closing) return
    this.#closing = true
    const stream = this.#stream
    const linger = (): void => this.#linger()
    if (stream.writableFinished) process.nextTick(linger)
    else if (stream.writable || stream.writableEnded) stream.once('finish', linger)
    else stream.destroy()
    if (stream.writable) stream.end()
    // What nobody receives any more does not keep the peer from taking what is sent.
    stream.resume()
  }

  abort(error?: Error): void {
    if (this.#lost) return
    this.#error ??= error ?? null
    this.#closing = true
    reset(this.#stream)
  }

  isClosing(): boolean {
    return this.#closing
  }

  pauseReading(): void {
    if (this.#paused || this.#closing) return
    this.#paused = true
    this.#stream.pause()
  }

  resumeReading(): void {
    if (!this.#paused || this.#closing) return
    this.#paused = false
    this.#stream.resume()
    if (this.#heldEnd) process.nextTick(this.#end)
  }

  isReading(): boolean {
    return !this.#paused && !this.#closing
  }

  setWriteBufferLimits(limits: Partial<Watermarks> = {}): void {
    const watermarks = watermarksOf(limits, this.#terms.writeHighBytes)
    if (this.#closing) return
    this.#limits = watermarks
    this.#lookForFull()
  }

  getWriteBufferLimits(): Watermarks {
    return this.#limits
  }

  getWriteBufferSize(): number {
    return this.#lost ? 0 : this.#stream.writableLength
  }

  getExtraInfo<Name extends keyof ExtraInfo>(name: Name): ExtraInfo[Name] | undefined
  getExtraInfo<Name extends keyof ExtraInfo, Default>(
    name: Name,
    fallback: Default,
  ): ExtraInfo[Name] | Default
  getExtraInfo(name: keyof ExtraInfo, fallback?: unknown): unknown {
    const { remoteAddress, remotePort, remoteFamily, localAddress, localPort, localFamily } = this
      .#stream as Socket
    if (name === 'peername') return addressOf(remoteAddress, remotePort, remoteFamily) ?? fallback
    if (name === 'sockname') return addressOf(localAddress, localPort, localFamily) ?? fallback
    return fallback
  }

  setIdleTimeout(ms: number): void {
    if (!(Number.isInteger(ms) && ms >= 0 && ms <= TIME_MAX_MS))
      throw invalid('ms', ms, `an integer from 0 to ${TIME_MAX_MS}`)
    if (this.#idle !== undefined) never(this.#idle)
    this.#idle = ms === 0 || this.#lost ? undefined : later(this.#silent, ms).unref()
  }

  setProtocol(protocol: Protocol): void {
    if (protocol === null || typeof protocol !== 'object') throw invalid('protocol', protocol, 'an object')
    this.protocol = protocol
    this.#receiving = receivingOf(protocol)
  }

  /** The stream itself, which is the caller's again. */
  duplex({ allowHalfOpen = false }: DuplexOptions = {}): TransportDuplex {
    const stream = this.#stream
    if (!this.#detached) {
      this.#detached = true
      stream.pause()
      stream.off('data', this.#data).off('end', this.#end).off('error', this.#failed)
      stream.allowHalfOpen = allowHalfOpen
      // As one that nobody has read yet: it flows when somebody listens.
      ;(stream as { readableFlowing: boolean | null }).readableFlowing = null
      this.protocol = NO_PROTOCOL
      this.#receiving = RECEIVE_CHUNKS
      this.setIdleTimeout(0)
    }
    return stream as TransportDuplex
  }

  /** The stream is the caller's, and node:tls can secure it. */
  startTls(_options: StartTlsOptions): Promise<void> {
    const message = `connection ${this.id} is a stream of Node's: secure that by node:tls, before fromDuplex`
    return Promise.reject(new ShardloopError('ERR_SHARDLOOP_STATE', message))
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close()
    if (this.#lost) return Promise.resolve()
    return new Promise((resolve) => this.#whenLost.push(resolve))
  }

  /** Whether nothing can be written any more. @throws ShardloopError ERR_SHARDLOOP_STATE after `writeEof` */
  #isRefused(): boolean {
    if (this.#closing) return true
    if (this.#barred)
      throw new ShardloopError('ERR_SHARDLOOP_STATE', `connection ${this.id} was written to after writeEof`)
    return false
  }

  #send(bytes: Uint8Array, sent?: (error?: Error | null) => void): void {
    const stream = this.#stream
    if (stream.destroyed) return
    // What is written in one tick goes as one.
    if (!this.#isCorked) {
      this.#isCorked = true
      stream.cork()
      process.nextTick(() => {
        this.#isCorked = false
        stream.uncork()
      })
    }
    stream.write(bytes, (error) => {
      sent?.(error)
      this.#flushed()
    })
    const { writeMaxBytes } = this.#terms
    if (stream.writableLength > writeMaxBytes) {
      this.abort(
        new ShardloopError(
          'ERR_SHARDLOOP_WRITE_OVERFLOW',
          `connection ${this.id} had more than ${writeMaxBytes} bytes waiting to be sent (writeMaxBytes): stop writing at pauseWriting, or raise the limit`,
        ),
      )
    } else if (stream.writableLength > this.#limits.high) this.#lookForFull()
  }

  /** Behind the callback that writes. */
  #lookForFull(): void {
    if (this.#looksForFull) return
    this.#looksForFull = true
    process.nextTick(() => {
      this.#looksForFull = false
      if (!this.#isFull && this.#stream.writableLength > this.#limits.high && !this.#lost) {
        this.#isFull = true
        this.#call('pauseWriting')
      } else this.#lookForRoom()
    })
  }

  #lookForRoom(): void {
    if (!this.#isFull || this.#stream.writableLength > this.#limits.low || this.#stream.destroyed) return
    this.#isFull = false
    this.#call('resumeWriting')
  }

  /** The stream is done with a write. */
  #flushed(): void {
    this.#idle?.refresh()
    this.#lookForRoom()
  }

  readonly #silent = (): void => {
    if (this.protocol.idleTimedOut !== undefined && !this.#closing) {
      this.#idle?.refresh()
      this.#call('idleTimedOut')
    } else this.abort(new ShardloopError('ERR_SHARDLOOP_IDLE_TIMEOUT', `connection ${this.id} was idle`))
  }

  readonly #data = (chunk: Buffer): void => {
    if (this.#closing) return
    this.#idle?.refresh()
    this.#receive(chunk)
  }

  #receive(chunk: Buffer): void {
    if (this.#receiving === RECEIVE_CHUNKS) this.#call('dataReceived', chunk)
    else if (this.#receiving === RECEIVE_BORROWED) {
      const before = lent
      lent = { memory: chunk, start: 0, end: chunk.length }
      withLent(lent, () => this.#call('bytesReceived', chunk, 0, chunk.length))
      lent = before
    } else this.#fill(chunk)
  }

  /** Into memory of the protocol's own, in as many rounds as it takes. */
  #fill(chunk: Buffer): void {
    let rest = chunk
    while (rest.length > 0 && !this.#closing) {
      if (this.#paused || this.#detached) {
        this.#stream.unshift(rest)
        return
      }
      const target = this.#call('getBuffer', rest.length)
      if (this.#closing) return
      if (!(target instanceof Uint8Array) || target.length === 0) {
        const expected = 'getBuffer returned no memory; expected a Uint8Array of at least 1 byte'
        this.#threw('getBuffer', new ShardloopError('ERR_SHARDLOOP_ARGUMENT', expected))
        return
      }
      const bytes = Math.min(target.length, rest.length)
      rest.copy(target, 0, 0, bytes)
      rest = rest.subarray(bytes)
      this.#call('bufferUpdated', bytes)
      if (this.#receiving === RECEIVE_CHUNKS || this.#receiving === RECEIVE_BORROWED) {
        // Given to a protocol of another kind in between.
        if (rest.length > 0 && !this.#closing) {
          if (this.#paused || this.#detached) this.#stream.unshift(rest)
          else this.#receive(rest)
        }
        return
      }
    }
  }

  readonly #end = (): void => {
    if (this.#closing || this.#detached) return
    this.#heldEnd = this.#paused
    if (this.#paused) return
    const keep = this.#call('eofReceived')
    if (keep === true) return
    if (isThenable(keep)) {
      // Half open until it is there.
      keep.then(
        (kept) => {
          if (kept !== true) this.close()
        },
        () => {},
      )
    } else this.close()
  }

  readonly #failed = (error: Error): void => {
    if (this.#error === undefined) this.#error = error
    this.#closing = true
    if (!this.#stream.destroyed) this.#stream.destroy()
  }

  readonly #gone = (): void => {
    if (this.#lost) return
    this.setIdleTimeout(0)
    this.#closing = true
    this.#lost = true
    const error = this.#error ?? null
    for (const write of this.#owned) write.reject(error ?? this.#closedError())
    this.#owned.clear()
    this.#call('connectionLost', error)
    this.#resource.emitDestroy()
    for (const resolve of this.#whenLost) resolve()
  }

  /**
   * All is sent, and so the connection is over for its protocol. A socket that is closed with input that was not read resets its
   * peer, which then may lose what it has not read: so the stream goes on until the peer's end.
   */
  #linger(): void {
    const stream = this.#stream
    const destroy = (): void => void stream.destroy()
    this.#gone()
    if (stream.readableEnded) destroy()
    else {
      stream.once('end', destroy)
      const timer = later(destroy, STREAM_LINGER_MS).unref()
      stream.once('close', () => never(timer))
    }
  }

  /** Calls a callback, if the protocol has it. What it throws, or its promise rejects with, aborts. */
  #call(name: keyof Protocol, ...given: unknown[]): unknown {
    const callback = this.protocol[name] as ((...given: unknown[]) => unknown) | undefined
    if (callback === undefined) return undefined
    try {
      const result = this.#resource.runInAsyncScope(callback, this.protocol, ...given)
      if (isThenable(result)) result.then(undefined, (error: unknown) => this.#threw(name, error))
      return result
    } catch (error) {
      this.#threw(name, error)
      return undefined
    }
  }

  #threw(name: keyof Protocol, error: unknown): void {
    const message = `${name} of connection ${this.id} threw; the connection was aborted`
    const context = exceptionContext(message, error, { transport: this, protocol: this.protocol })
    this.abort(thrownError(name, error))
    callExceptionHandler(context)
  }

  #closedError(): ShardloopError {
    return new ShardloopError(
      'ERR_SHARDLOOP_CLOSED',
      `connection ${this.id} was closed before these bytes were sent`,
    )
  }
}

/** So that the peer sees that it is broken, where there is a way to say so. */
function reset(stream: Duplex & { resetAndDestroy?(): unknown }): void {
  try {
    if (!stream.destroyed) stream.resetAndDestroy?.()
  } catch {
    // A net.Socket that is not of TCP itself: a TLSSocket, a Unix socket.
  }
  stream.destroy()
}

function addressOf(address?: string, port?: number, family?: string): SocketAddress | undefined {
  if (typeof address !== 'string' || typeof port !== 'number') return undefined
  return { address, port, family: family === 'IPv6' ? 'IPv6' : 'IPv4' }
}
