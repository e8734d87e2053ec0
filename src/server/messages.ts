import type { CallPlace } from '../workers/call-counter.js'
import type { PastCalls } from '../workers/call-history.js'
import type { EngineName } from '../workers/engine.js'
import type { TransferredError } from '../workers/error-transfer.js'
import type { LogLevel } from '../workers/logger.js'
import type { SocketAddress } from '../workers/protocol.js'
import type { HandledSignal } from '../workers/signal-listeners.js'

/**
 * What a shard is doing for one server. `starting`: its first thread, or a replacement, does not listen yet. `ready`: it
 * serves. `draining`: it takes no more connections and finishes those it has. `stopped`: it is done. `failed`: it died
 * and is not replaced for this server, because it died too often or because the server was draining.
 */
export type ShardState = 'starting' | 'ready' | 'draining' | 'stopped' | 'failed'

/** A change of one shard, as `server.events` reports it. */
export interface ShardChange {
  /** 0-based. A replacement has the number of the shard that died. */
  readonly id: number
  readonly state: ShardState
  /** Threads that the shard was given to replace one that died, so far; counted over all servers of the process. */
  readonly restarts: number
  /** Why, when it did not go as asked: the message of what was thrown, or how the thread ended. */
  readonly reason?: string
  /**
   * What the shard died of, as it was thrown there; missing when the thread just ended (`process.exit`). On the main
   * thread only: the handles in other shards get the reason.
   */
  readonly error?: unknown
  /** The exit code of the thread that died. */
  readonly exitCode?: number
  /** Connections that were open when its thread died, of all servers of the process; their peers saw a reset. */
  readonly connectionsLost?: number
  /** Milliseconds until the replacement's thread is started, when there will be one. 0: it is started now. */
  readonly restartInMs?: number
}

/** As much of a change as other threads are told: an error need not be one that can be sent. */
export type ToldShardChange = Omit<ShardChange, 'error'>

/** A listening socket as shards know it, for `server.sockets` there. */
export interface ListenerDescription {
  readonly address: SocketAddress
  /** The descriptor's number; descriptors are process-wide. */
  readonly fd: number
  /** Socket options that could be read, as the kernel's numbers. A listener's options do not change. */
  readonly options: Readonly<Record<string, number>>
}

/** Tells a shard to serve one server. */
export interface ServeOrder {
  /** Number of the server, unique in the process. */
  readonly server: number
  /** Which call of `createServer` this is, see `CallCounter`. */
  readonly key: string
  readonly name: string
  /** URL of the module with the factory; null when the factory comes from the shard's own call. */
  readonly module: string | null
  /** Native tokens of the listeners that are this shard's. */
  readonly listeners: readonly number[]
  readonly sockets: readonly ListenerDescription[]
  /** The shards' states when the order was sent. */
  readonly shards: readonly ToldShardChange[]
  readonly writeHighBytes: number
  readonly writeLowBytes: number
  readonly writeMaxBytes: number
  readonly idleTimeoutMs: number
  readonly moderation: boolean
  /** Token of the native TlsServer; 0 for none. */
  readonly tls: number
  readonly tlsUpgrade: boolean
  /** Whether it is a datagram server, whose listeners are its sockets. */
  readonly datagrams: boolean
  readonly stallAfterMs: number
  /** null: as the thread has it. */
  readonly logLevel: LogLevel | null
}

/** A server that is over, or never came to be: calls that a shard makes later are matched to it too. */
export type EndedCall = {
  readonly place: CallPlace
  readonly name: string
  readonly sockets: readonly ListenerDescription[]
} & (
  | { readonly engine: EngineName; readonly error: null }
  /** Why the supervisor's `createServer` rejected. */
  | { readonly engine: null; readonly error: TransferredError }
)

/** From the supervisor to a shard. */
export type SupervisorMessage =
  | { readonly type: 'serve'; readonly order: ServeOrder }
  /** Stop listening, then close every connection after flushing. Answered by `unlistened`, then `drained`. */
  | { readonly type: 'drain'; readonly server: number }
  /** Abort every connection; `drained` follows. */
  | { readonly type: 'abort'; readonly server: number }
  /** What was over when the shard was started; sent first. */
  | { readonly type: 'past'; readonly calls: PastCalls }
  | { readonly type: 'ended'; readonly call: EndedCall }
  | { readonly type: 'shard'; readonly key: string; readonly change: ToldShardChange }
  /** The process got a signal that the shard subscribed to. */
  | { readonly type: 'signal'; readonly signal: HandledSignal }
  /** No server is left: free the loop and let the thread end. */
  | { readonly type: 'stop' }

/** From a shard to the supervisor. */
export type ShardMessage =
  /** The entry's module has been evaluated. */
  | { readonly type: 'imported' }
  | { readonly type: 'listening'; readonly server: number }
  | { readonly type: 'refused'; readonly server: number; readonly error: TransferredError }
  | { readonly type: 'unlistened'; readonly server: number }
  | { readonly type: 'drained'; readonly server: number }
  /** Its loop is freed; the thread ends when nothing of the program keeps it. */
  | { readonly type: 'released' }
  /** Something in the shard listens to a signal now; once for each, until `unsubscribe` or the thread's end. */
  | { readonly type: 'subscribe'; readonly signal: HandledSignal }
  | { readonly type: 'unsubscribe'; readonly signal: HandledSignal }
  /** A TLS handshake failed; of many at once not each is told. */
  | { readonly type: 'tlsClientError'; readonly key: string; readonly error: TransferredError }
  /** A control method of the shard's handle was called. */
  | { readonly type: 'control'; readonly key: string; readonly action: 'abort' }
  | {
      readonly type: 'control'
      readonly key: string
      readonly action: 'drain'
      readonly deadlineMs: number | null
    }

/** What a shard asks for on its own account, rather than in answer to an order. */
export type ShardRequest = Extract<
  ShardMessage,
  { type: 'control' | 'subscribe' | 'unsubscribe' | 'tlsClientError' }
>
