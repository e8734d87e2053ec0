import type { EventEmitter } from 'node:events'
import type { TlsError } from '../errors.js'
import type { TlsServerOptions } from '../tls/server-options.js'
import type { EngineName } from '../workers/engine.js'
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
  /** How often its thread was replaced, as of its last change. */
  readonly restarts: number
  /**
   * Milliseconds for which its thread has been running without a look at its poll (in JavaScript, in a blocking call, in
   * the garbage collector); 0 below 10. Read from shared memory at the moment of asking.
   */
  readonly stalledMs: number
}

/** A shard that is stuck, or was. */
export interface ShardStall {
  readonly id: number
  /** Milliseconds. */
  readonly stalledMs: number
}

/** An answer for a health check. */
export interface ServerHealth {
  /**
   * `ok`: every shard is ready, and none is stuck. `degraded`: some are not, others serve in their place. `down`: none
   * can serve at the moment. `draining`, `closed`: the server ends, or has ended.
   */
  readonly status: 'ok' | 'degraded' | 'down' | 'draining' | 'closed'
  /** Ids of the shards that are ready and not stuck. */
  readonly serving: readonly number[]
  /** Ids of those that are stuck: for longer than `stallAfterMs`, or a second when that is off. */
  readonly stalled: readonly number[]
  /** Ids of those that start or are replaced. */
  readonly starting: readonly number[]
  /** Ids of those that died too often and are not replaced. */
  readonly failed: readonly number[]
}

/** A signal that is an event and nothing else; SIGINT and SIGTERM drain. */
export type EventSignal = 'SIGHUP' | 'SIGUSR2'

/** What `server.events` emits. */
export interface ServerEvents {
  /**
   * Every shard has failed and the server had to end (ERR_SHARDLOOP_SHARD_DIED, `cause` is the error of the first death
   * of the shard that failed first). Emitted when all is closed, before 'close'. As with any EventEmitter, without a
   * listener the process fails with it. Not emitted in shards.
   */
  error: [error: Error]
  /** The server is closed: no listener, no connection. Once, last. */
  close: []
  /**
   * A shard's state changed. A death is told as `starting` when the shard is replaced and as `failed` when not, with its
   * reason. When no server of the process has a listener, deaths are logged.
   */
  shard: [change: ShardChange]
  /**
   * A shard has been stuck for `stallAfterMs`. Its new connections are served by others meanwhile. Logged when the server has
   * no listener. Not emitted in shards.
   */
  stalled: [stall: ShardStall]
  /** A shard that was told as stuck turns again; `stalledMs` is how long it was stuck. Not emitted in shards. */
  recovered: [stall: ShardStall]
  /**
   * The process got SIGHUP or SIGUSR2. While a server with `signals: true` has a listener for this, or a shard has one by
   * `onSignal`, the signal does not end the process. Emitted on the main thread, by servers with `signals: true`; in a
   * shard use `onSignal`.
   */
  signal: [signal: EventSignal]
  /** New handshakes have the certificates that were read just now, by `reloadTls` or because a file has changed. Not emitted in shards. */
  tlsReloaded: []
  /**
   * A file of `tls` has changed, and what is in the files now cannot be used: the configuration of before goes on, until they change
   * again. Logged as well. Not emitted in shards.
   */
  tlsReloadFailed: [failure: { readonly error: Error }]
  /**
   * A TLS handshake of somebody who connected failed: no protocol was made. Each shard tells 16 in a second; all are counted by
   * `metrics()`, and logged at the level `'debug'`. Not emitted in shards.
   */
  tlsClientError: [failure: { readonly shardId: number; readonly error: TlsError }]
}

/**
 * A running server. In a shard it is a handle of the same shape: it shows what the supervisor last told, and its control
 * methods are carried out by the supervisor.
 */
export interface Server extends AsyncDisposable {
  readonly name: string
  /**
   * One listener per address, whatever the number of shards. Never empty, but for this: a shard that starts late runs the
   * program from its beginning, and there the handles of servers that are over, and after which 1,000 others have ended,
   * have neither sockets nor addresses, and are named after their call.
   */
  readonly sockets: readonly ListenerSocket[]
  /** Where the server listens, or listened. Never empty where `sockets` is not. */
  readonly addresses: readonly SocketAddress[]
  /** The shards, by id; one for `shards: 0`. A snapshot. */
  readonly shards: readonly ShardInfo[]
  /** What it runs on, or ran. */
  readonly engine: EngineName
  readonly events: EventEmitter<ServerEvents>
  /** Counters of all shards and of the executor, read without asking them; after the end, the last ones. */
  metrics(): ServerMetrics
  /** Whether it can serve, told without asking a shard: it answers while all of them are stuck. */
  health(): ServerHealth
  /**
   * The same by shard in Prometheus's text format (content type `text/plain; version=0.0.4; charset=utf-8`), rendered by
   * prom-client, with the server's name as the label `server`. Servers of the same shards share their counters.
   */
  prometheus(): Promise<string>
  /**
   * Stops accepting, lets what is in flight finish, and resolves when all is closed; what is left after `deadlineMs`
   * (default `drainTimeoutMs`) is aborted. A connection closes when its protocol closes it (`draining`), or by itself as
   * soon as it owes its peer nothing: an idle one at once, others after their answer (the rule is at
   * `Protocol.draining`). Called again it returns the same promise; an earlier deadline
   * counts. The last server of the process ends the shards too.
   */
  drain(options?: { readonly deadlineMs?: number }): Promise<void>
  /**
   * Reads the files of `tls` again, or takes other options in their place (all of them: what is left out has its default), for the
   * handshakes to come; connections stay. Tickets and sessions go on, unless who may connect has changed. Rejects with
   * ERR_SHARDLOOP_OPTION when they cannot be used, and then all stays as it was; with ERR_SHARDLOOP_STATE in a shard, for a server
   * without `tls`, and for one that is closed.
   */
  reloadTls(options?: TlsServerOptions): Promise<void>
  /** `drain()` with the default deadline. */
  close(): Promise<void>
  /** Aborts every connection at once, and closes; a drain under way is cut short. */
  abort(): Promise<void>
}
