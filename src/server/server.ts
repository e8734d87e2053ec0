import type { EventEmitter } from 'node:events'
import type { SocketAddress } from '../workers/protocol.js'
import type { SocketOptions } from '../workers/transport-socket.js'
import type { ShardChange, ShardState } from './messages.js'
import type { ServerMetrics } from './metrics.js'

/** Options that a listening socket can tell. */
export interface ListenerOptions
  extends Pick<
    SocketOptions,
    'reuseAddress' | 'reusePort' | 'noDelay' | 'receiveBufferSize' | 'sendBufferSize'
  > {
  /** Whether an IPv6 listener refuses IPv4; false for an IPv4 listener. */
  ipv6Only: boolean
}

/** A view of a listening socket. It stays the server's: do not accept on its descriptor or close it. */
export interface ListenerSocket {
  /** Where it listens; throws EBADF once it is closed. */
  getsockname(): SocketAddress
  /** The descriptor's number, or -1 once it is closed. */
  fileno(): number
  /** Throws EBADF once it is closed. */
  getOption<Name extends keyof ListenerOptions>(name: Name): ListenerOptions[Name]
}

/** One shard as its server sees it. */
export interface ShardInfo {
  /** 0-based. */
  readonly id: number
  readonly state: ShardState
}

/** What `server.events` emits. */
export interface ServerEvents {
  /**
   * A shard died and the server had to end (ERR_SHARDLOOP_SHARD_DIED, `cause` is the original error). Emitted when all
   * is closed, before 'close'. As with any EventEmitter, without a listener the process fails with it. Not emitted in
   * shards.
   */
  error: [error: Error]
  /** The server is closed: no listener, no connection. Once, last. */
  close: []
  /** A shard's state changed. */
  shard: [change: ShardChange]
}

/**
 * A running server. In a shard it is a handle of the same shape: it shows what the supervisor last told, and its control
 * methods are carried out by the supervisor.
 */
export interface Server extends AsyncDisposable {
  readonly name: string
  /** One listener per address, whatever the number of shards. Never empty. */
  readonly sockets: readonly ListenerSocket[]
  /** Where the server listens, or listened. Never empty. */
  readonly addresses: readonly SocketAddress[]
  /** The shards, by id; one for `shards: 0`. A snapshot. */
  readonly shards: readonly ShardInfo[]
  /** The engine that runs. */
  readonly engine: 'mio'
  readonly events: EventEmitter<ServerEvents>
  /** Counters of all shards, read without asking them; after the end, the last ones. */
  metrics(): ServerMetrics
  /**
   * Stops accepting, sends what is queued, closes every connection, and resolves when all is closed; what is left after
   * `deadlineMs` (default `drainTimeoutMs`) is aborted. Called again it returns the same promise; an earlier deadline
   * counts. The last server of the process ends the shards too.
   */
  drain(options?: { readonly deadlineMs?: number }): Promise<void>
  /** `drain()` with the default deadline. */
  close(): Promise<void>
  /** Aborts every connection at once, and closes; a drain under way is cut short. */
  abort(): Promise<void>
}
