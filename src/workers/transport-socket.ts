import type { SocketAddress } from './protocol.js'

/** Socket options that can be read, with the type of their value. Sizes in bytes, times in seconds. */
export interface SocketOptions {
  noDelay: boolean
  keepAlive: boolean
  /** Seconds of silence before the first keep-alive probe. */
  keepAliveTime: number
  /** Seconds between keep-alive probes. */
  keepAliveInterval: number
  /** Probes without answer before the connection is dropped. */
  keepAliveRetries: number
  receiveBufferSize: number
  sendBufferSize: number
  /** IP_TTL, or IPV6_UNICAST_HOPS for an IPv6 socket. */
  ttl: number
  /** Whether SO_REUSEADDR is set. */
  readonly reuseAddress: boolean
  /** Whether SO_REUSEPORT is set. */
  readonly reusePort: boolean
}

/** A view of an open socket, like asyncio's TransportSocket: it can be inspected and tuned, not read or closed. */
export interface TransportSocket {
  /** Our end; throws the system's error when the descriptor is closed. */
  getsockname(): SocketAddress
  /** The peer's end. */
  getpeername(): SocketAddress
  /** The descriptor's number, or -1 when it is closed. It stays the transport's: do not close or read it. */
  fileno(): number
  getOption<Name extends keyof SocketOptions>(name: Name): SocketOptions[Name]
  setOption<Name extends keyof SocketOptions>(name: Name, value: SocketOptions[Name]): void
}
