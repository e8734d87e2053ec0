import type { X509Certificate } from 'node:crypto'
import type { DuplexOptions, TransportDuplex } from '../interop/duplex.js'
import type { TlsVersion } from '../tls/common-options.js'
import type { TlsCipher, TlsSession } from '../tls/session.js'
import type { StartTlsOptions } from '../tls/start-tls.js'
import type { TransportSocket } from './transport-socket.js'

/** What can be written. A string is sent as UTF-8. */
export type WriteData = Uint8Array | string

/** What a callback may return: a promise is watched, and its rejection closes the connection. */
type CallbackResult = void | PromiseLike<void>

/**
 * What a connection does with its events: asyncio's Protocol, StreamingProtocol and BufferedProtocol in one
 * interface. Every method is optional. They run on the shard's thread, in the order of the wire, each
 * connection in its own async context. A throw, or the rejection of a returned promise, aborts this
 * connection alone (`connectionLost` gets that error) and reaches the exception handler.
 *
 * How bytes arrive is chosen by which method exists, in this order:
 * 1. `bytesReceived(slab, start, end)`: borrowed; no allocation. The range is valid until the callback returns.
 * 2. `getBuffer(sizeHint)` and `bufferUpdated(bytes)`: into memory of the protocol's own.
 * 3. `dataReceived(chunk)`: a Buffer that stays valid for as long as it is kept.
 */
export interface Protocol {
  /** The connection is there; called once, first. */
  connectionMade?(transport: Transport): CallbackResult
  /** Bytes from the peer, in order. `chunk` is the protocol's to keep. */
  dataReceived?(chunk: Buffer): CallbackResult
  /**
   * Bytes from the peer in `slab[start..end)`, borrowed until the callback returns. `transport.writeBorrowed`
   * sends (a part of) them without a copy. Other bytes of `slab` belong to other connections.
   */
  bytesReceived?(slab: Buffer, start: number, end: number): CallbackResult
  /** Memory to receive into, at least 1 byte; `sizeHint` bytes are waiting. */
  getBuffer?(sizeHint: number): Uint8Array
  /** The first `bytes` bytes of the last `getBuffer()` are filled. */
  bufferUpdated?(bytes: number): CallbackResult
  /** The peer will send no more. `true` keeps our writing half open; else the transport closes itself after flushing. */
  eofReceived?(): boolean | CallbackResult
  /** Exactly once, last; `null` after `close()` or the peer's orderly end, else what broke the connection. */
  connectionLost?(error: Error | null): CallbackResult
  /** More than the high watermark waits to be sent. */
  pauseWriting?(): CallbackResult
  /** No more than the low watermark waits to be sent. */
  resumeWriting?(): CallbackResult
  /** No byte moved for `setIdleTimeout`. Without this method the connection is aborted (`ERR_SHARDLOOP_IDLE_TIMEOUT`). */
  idleTimedOut?(): CallbackResult
  /**
   * The server drains: say goodbye, and close when what is in flight is done; what is open at the deadline is aborted.
   * Called once for a connection; one that comes out of the accept queue after that gets it right behind
   * `connectionMade`.
   *
   * A connection whose protocol has no such method is served on, and closed as soon as it owes its peer nothing: it has
   * written since it last received bytes (or never received any), no received byte waits for it, and no promise that a
   * callback returned is pending. So one answer to one request needs nothing; whoever answers in several parts or
   * several requests at once without returning a promise, or never answers, should have this method. For a sink it is
   * `draining() { transport.close() }`.
   */
  draining?(): CallbackResult
}

/** Makes the protocol of a new connection; runs on the shard's thread. */
export type ProtocolFactory = () => Protocol

/** Where one end of a connection is over TCP, in the shape of Node's `net.AddressInfo`. */
export interface IpSocketAddress {
  readonly address: string
  readonly family: 'IPv4' | 'IPv6'
  readonly port: number
}

/**
 * The name of a Unix socket, as in node:net: a path; on Linux an abstract name begins with a zero character (unix(7)). Empty
 * for a socket without a name, as most clients are. (It is a string, and has none of the other kind's properties.)
 */
export type UnixSocketAddress = string & { readonly [Name in keyof IpSocketAddress]?: undefined }

/** Where one end of a connection is. */
export type SocketAddress = IpSocketAddress | UnixSocketAddress

/** What `getExtraInfo` knows about. */
export interface ExtraInfo {
  /** The socket itself, for addresses, descriptor and options. */
  socket: TransportSocket
  /** Our end. */
  sockname: SocketAddress
  /** The peer's end. */
  peername: SocketAddress
  /** Of a pipe: its descriptor, or -1 once it is closed. It stays the transport's. */
  pipe: number
  /** What TLS agreed on. This and the ones below are undefined without TLS, and when the connection has ended before they were asked for. */
  sslObject: TlsSession
  cipher: TlsCipher
  /** The peer's own certificate; undefined when it has shown none. */
  peercert: X509Certificate
  /** The application protocol that was negotiated (ALPN); undefined when none was. */
  alpn: string
  /** The name that the client asked for (SNI); undefined when it asked for none. */
  servername: string
  tlsVersion: TlsVersion
  /** Whether an earlier session was resumed. */
  sessionReused: boolean
}

/** One connection's sending side and switches. Lives on its shard's thread; never crosses threads. */
export interface Transport extends AsyncDisposable {
  /** `shard-sequence`: the number of the shard, and how many connections it had until this one, itself included. */
  readonly id: string
  /** The protocol that receives this connection's events. */
  readonly protocol: Protocol
  /**
   * Queues bytes; never blocks. Value semantics: the caller may reuse `data` at once. Ignored after `close`,
   * `abort`, `writeEof` (which throws ERR_SHARDLOOP_STATE) or the loss of the connection, as in asyncio.
   */
  write(data: WriteData): void
  /** Queues several pieces as one. */
  writev(pieces: readonly WriteData[]): void
  /**
   * Queues bytes that the caller promises not to change until the returned promise resolves; they are not
   * copied. Rejects with what ended the connection when that came first.
   */
  writeOwned(data: Uint8Array): Promise<void>
  /**
   * Inside `bytesReceived` only: sends bytes `start..end` of the borrowed slab without a copy, to this or any
   * other connection of the shard. Throws ERR_SHARDLOOP_BORROW outside, or beyond the borrowed range.
   */
  writeBorrowed(start: number, end: number): void
  /** Closes our writing half after what is queued; the peer reads an end. */
  writeEof(): void
  canWriteEof(): boolean
  /**
   * Stops reading, sends what is queued, then closes; `connectionLost(null)` follows. What the peer has not taken by then the system
   * delivers. A peer that still sends meanwhile has 2 seconds to take it (1,024 such peers of a shard at a time), and is reset then.
   */
  close(): void
  /** Closes at once and drops what is queued (the peer sees a reset); `connectionLost(error ?? null)` follows. */
  abort(error?: Error): void
  /** Whether `close` or `abort` was called or the connection is lost. */
  isClosing(): boolean
  pauseReading(): void
  resumeReading(): void
  isReading(): boolean
  /** Watermarks in bytes. Defaults: high 64 KiB, low a quarter of high, as in asyncio. */
  setWriteBufferLimits(limits?: { readonly high?: number; readonly low?: number }): void
  getWriteBufferLimits(): { readonly high: number; readonly low: number }
  /** Bytes that wait to be sent, those not yet handed to the kernel by the current batch included. */
  getWriteBufferSize(): number
  getExtraInfo<Name extends keyof ExtraInfo>(name: Name): ExtraInfo[Name] | undefined
  getExtraInfo<Name extends keyof ExtraInfo, Default>(
    name: Name,
    fallback: Default,
  ): ExtraInfo[Name] | Default
  /** Milliseconds without a byte in either direction before `idleTimedOut`; 0 switches off. Resolution 100 ms. */
  setIdleTimeout(ms: number): void
  /**
   * Gives this connection to another protocol from the next event on; `connectionMade` is not called again, nor is
   * `draining` when another protocol of this connection was told already.
   */
  setProtocol(protocol: Protocol): void
  /**
   * Gives this connection to a stream of Node's from the next event on, as `setProtocol` does to a protocol, for libraries that
   * take a `net.Socket`. The same stream each time. What was received before is not in it: `unshift` that.
   * A transport of `fromDuplex` gives back what it was made of, without what {@link TransportDuplex} adds.
   */
  duplex(options?: DuplexOptions): TransportDuplex
  /**
   * Makes the connection TLS, as both sides have agreed (STARTTLS). What was written before leaves as plain text; what is written from
   * now on is encrypted, and waits for the handshake. What comes from now on belongs to TLS, and so does what the protocol has
   * received already behind the line by which that was agreed: it gives it back (`received`). Resolves when the handshake is done, before
   * anything is delivered that it brings; rejects with a `TlsError`, with which the connection ends, or with what is wrong with
   * the options or the connection's state, and then it goes on as it was.
   */
  startTls(options: StartTlsOptions): Promise<void>
  /** `close()`; resolves when `connectionLost` was called. For `await using`. */
  [Symbol.asyncDispose](): Promise<void>
}
