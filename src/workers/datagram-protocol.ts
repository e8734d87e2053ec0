import type { ExtraInfo, IpSocketAddress, SocketAddress, UnixSocketAddress, WriteData } from './protocol.js'
import type { SocketOptions } from './transport-socket.js'

/** What a callback may return: a promise is watched; its rejection ends the endpoint, and a server that drains waits for it. */
type CallbackResult = void | PromiseLike<void>

/**
 * What an endpoint does with its events: asyncio's DatagramProtocol. Every method is optional. They run on the endpoint's
 * thread, in its own async context. A throw, or the rejection of a returned promise, aborts this endpoint alone
 * (`connectionLost` gets that error) and reaches the exception handler.
 */
export interface DatagramProtocol {
  /** The endpoint is there; called once, first. */
  connectionMade?(transport: DatagramTransport): CallbackResult
  /**
   * A datagram. `data` is the protocol's to keep; `address` is frozen, and the same object for the same peer as long as that is
   * among the latest few thousand.
   */
  datagramReceived?(data: Buffer, address: SocketAddress): CallbackResult
  /**
   * Datagrams were lost or refused, and the endpoint goes on. An error of the system in Node's shape: ECONNREFUSED when the port
   * of a connected endpoint's peer is closed, EMSGSIZE for one that is too long, EACCES, ENETUNREACH … Or ShardloopError
   * ERR_SHARDLOOP_DATAGRAM_DROPPED: more than `writeMaxBytes` waited.
   */
  errorReceived?(error: DatagramError): CallbackResult
  /** Exactly once, last; null after `close()` (but see there) or `abort()`, else what broke the endpoint. */
  connectionLost?(error: Error | null): CallbackResult
  /** More than the high watermark waits to be sent. */
  pauseWriting?(): CallbackResult
  /** No more than the low watermark waits to be sent. */
  resumeWriting?(): CallbackResult
}

/** Makes the protocol of an endpoint; runs on the endpoint's thread. */
export type DatagramProtocolFactory = () => DatagramProtocol

/** What `errorReceived` gets: the same error several times in a row comes once. */
export type DatagramError = Error & {
  /** How many datagrams, or reports of the system, it stands for: 1 or more. */
  readonly count: number
}

/** Where a datagram goes: an IP address (no name: see `loop.getaddrinfo`) and port, or the name of a Unix socket. */
export type DatagramDestination = Pick<IpSocketAddress, 'address' | 'port'> | UnixSocketAddress | string

/** Options of an endpoint's socket. Sizes in bytes. */
export interface DatagramSocketOptions
  extends Pick<SocketOptions, 'receiveBufferSize' | 'sendBufferSize' | 'ttl' | 'reuseAddress' | 'reusePort'> {
  /** Whether it may send to broadcast addresses. */
  broadcast: boolean
  /** Hops that what it sends to a group may take: 1 stays in the network. */
  multicastTtl: number
  /** Whether what it sends to a group comes back to members on this machine. */
  multicastLoop: boolean
  /** Whether an IPv6 socket refuses IPv4. */
  readonly ipv6Only: boolean
  /**
   * Packets that the kernel dropped because the receive buffer was full, since the socket was opened. With `offload` a packet
   * may have had several datagrams. Linux only.
   */
  readonly drops: number
}

/** A view of an endpoint's socket: it can be inspected and tuned, not read or closed. */
export interface DatagramTransportSocket {
  /** Our end; throws EBADF once the endpoint is lost, as the others do. */
  getsockname(): SocketAddress
  /** The peer's end; throws ENOTCONN when it is not connected. */
  getpeername(): SocketAddress
  /** The descriptor's number, or -1 once the endpoint is lost. */
  fileno(): number
  getOption<Name extends keyof DatagramSocketOptions>(name: Name): DatagramSocketOptions[Name]
  setOption<Name extends keyof DatagramSocketOptions>(name: Name, value: DatagramSocketOptions[Name]): void
}

/** What `getExtraInfo` of an endpoint knows about. */
export interface DatagramExtraInfo extends Omit<ExtraInfo, 'socket'> {
  socket: DatagramTransportSocket
}

/** An endpoint's sending side and switches. Lives on its thread; never crosses threads. */
export interface DatagramTransport extends AsyncDisposable {
  /** `shard-d` and the number that it has among the thread's endpoints. */
  readonly id: string
  /** The protocol that receives this endpoint's events. */
  readonly protocol: DatagramProtocol
  /**
   * Sends a datagram; never blocks. Value semantics: the caller may reuse `data` at once. An empty one is sent, too. Ignored
   * after `close`, `abort` or the loss of the endpoint.
   *
   * What the kernel has no room for waits, up to `writeMaxBytes`; beyond that datagrams are dropped, and `errorReceived` is told
   * how many. What the kernel refuses is told there as well.
   *
   * @param data at most 65,507 bytes
   * @param address required unless the endpoint is connected; then it is none, or the peer's
   * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT
   */
  sendto(data: WriteData, address?: DatagramDestination | null): void
  /**
   * Stops receiving, sends what is queued, then closes; `connectionLost(null)` follows, or ETIMEDOUT when nothing of what is queued
   * could be sent for 5 seconds.
   */
  close(): void
  /** Closes at once and drops what is queued; `connectionLost(error ?? null)` follows. */
  abort(error?: Error): void
  /** Whether `close` or `abort` was called or the endpoint is lost. */
  isClosing(): boolean
  /** Meanwhile datagrams wait in the kernel, which drops what its receive buffer has no room for. */
  pauseReading(): void
  resumeReading(): void
  isReading(): boolean
  /** Watermarks in bytes. Defaults: high 64 KiB, low a quarter of high, as in asyncio. */
  setWriteBufferLimits(limits?: { readonly high?: number; readonly low?: number }): void
  getWriteBufferLimits(): { readonly high: number; readonly low: number }
  /** What waits to be sent, in bytes; each datagram counts for its address and 64 bytes more than it has. */
  getWriteBufferSize(): number
  getExtraInfo<Name extends keyof DatagramExtraInfo>(name: Name): DatagramExtraInfo[Name] | undefined
  getExtraInfo<Name extends keyof DatagramExtraInfo, Default>(
    name: Name,
    fallback: Default,
  ): DatagramExtraInfo[Name] | Default
  /**
   * Joins a group: what is sent to its address and the endpoint's port is received. Throws the system's error.
   * @param group an IP address
   * @param interfaceName an interface's address (IPv4), name or number. Default: the system chooses
   */
  joinMulticast(group: string, interfaceName?: string): void
  /** Leaves it again. */
  leaveMulticast(group: string, interfaceName?: string): void
  /** By which interface what is sent to groups leaves: its address for IPv4, its name or number for IPv6. */
  setMulticastInterface(interfaceName: string): void
  /** `close()`; resolves when `connectionLost` was called. For `await using`. */
  [Symbol.asyncDispose](): Promise<void>
}
