import type { EngineName } from '../workers/engine.js'
import type { EndedCall, ServeOrder, SupervisorMessage } from './messages.js'
import type { ServerMetrics } from './metrics.js'

/** How a shard's thread ended. */
export interface ShardDeath {
  readonly shard: number
  /** What was thrown, or why it was terminated; undefined when it just ended (`process.exit`). */
  readonly error: unknown
  readonly exitCode: number
  /** Connections that were open, and were reset. */
  readonly connectionsLost: number
}

/** What becomes of a shard that died: a replacement, or, as it died too often, nothing: then the first of its deaths. */
export type AfterDeath = { readonly restartInMs: number } | { readonly firstDeath: ShardDeath }

/** Steps of a drain. Both happen at the latest when the shard's thread ends; neither rejects. */
export interface DrainSteps {
  /** It takes no more connections. */
  readonly unlistened: Promise<void>
  /** Its last connection is lost. */
  readonly drained: Promise<void>
}

/** One shard, as a server orders it about: a worker thread and its replacements, or for `shards: 0` the loop of this thread. */
export interface ShardControl {
  readonly id: number
  /** Whether the program's entry ran to its end there. */
  readonly hasRunEntry: boolean
  /** Whether it has no thread at the moment. */
  readonly isDown: boolean
  /** Threads that it was given after its first. */
  readonly restarts: number
  /** The first of the deaths for which it is not replaced any more, or null. */
  readonly failure: ShardDeath | null
  /** Resolves when it listens for the first time; rejects with what kept it from that. Replacements serve the user too. */
  serve(user: ShardUser): Promise<void>
  /** From now on no replacement serves this server. */
  drain(server: number): DrainSteps
  /** Aborts the server's connections; `drained` follows, unless the shard is stuck. */
  abort(server: number): void
  /** Ends a stuck thread; servers on it that do not drain get a replacement. */
  terminate(why: Error): void
}

/** A server among those that share the shards. */
export interface ShardUser {
  readonly key: string
  /** Number of the server, unique in the process. */
  readonly server: number
  /** Milliseconds that a replacement has to listen. */
  readonly startTimeoutMs: number
  /** Milliseconds after which it wants to know of a stuck shard; 0 is never. */
  readonly stallAfterMs: number
  /** Milliseconds after which a stuck shard is terminated; 0 is never. */
  readonly killAfterMs: number
  /** Whether its `createServer` has not returned: what happens then rejects it. */
  readonly isStarting: boolean
  /** Whether anybody listens to what becomes of its shards. */
  readonly isWatched: boolean
  orderFor(shard: number): ServeOrder
  /** What a shard is told that starts while the server drains, for its program's call; null while the server serves. */
  endedCall(): EndedCall | null
  /** A replacement listens. */
  shardListens(shard: number): void
  shardDied(death: ShardDeath, after: AfterDeath): void
  shardStalled(shard: number, stalledMs: number): void
  /** It turns again. Follows every `shardStalled`, unless the shard dies. */
  shardRecovered(shard: number, stalledMs: number): void
  /** A handshake of a connection to it failed. */
  tlsClientError(shard: number, error: unknown): void
  drain(options?: { readonly deadlineMs?: number }): Promise<void>
  abort(): Promise<void>
}

/** The shards that a server runs on. */
export interface ShardGroup {
  /** What they run on. */
  readonly engine: EngineName
  /** Those that there are; their threads start with their first server. Throws ERR_SHARDLOOP_START when all have failed. */
  start(): readonly ShardControl[]
  /** From now on shards take over connections of the server from those that are stuck or down. */
  guard(server: number, listeners: readonly number[]): void
  /** The server takes no more connections. What waits for shards that are stuck or down is given to the others. */
  unguard(server: number): void
  /** What every shard shall know about its servers. */
  announce(message: SupervisorMessage): void
  /** Counters, also after the end. */
  metrics(): ServerMetrics
  /** Milliseconds for which a shard has been stuck in JavaScript. */
  stalledMs(shard: number): number
  /** The server is over. The last one's leaving ends the shards; resolves then, with the first that ended by an error. */
  leave(user: ShardUser): Promise<ShardDeath | null>
  /** The server did not start. When it is the last, ends the shards and resolves to true when they are gone. */
  discard(user: ShardUser): Promise<boolean>
}
