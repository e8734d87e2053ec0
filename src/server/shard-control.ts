import type { ServeOrder, SupervisorMessage } from './messages.js'
import type { ServerMetrics } from './metrics.js'

/** How a shard's thread ended. */
export interface ShardDeath {
  readonly shard: number
  /** What was thrown, or why it was terminated; undefined when it just ended (`process.exit`). */
  readonly error: unknown
  readonly exitCode: number
}

/** Steps of a drain. Both happen at the latest when the shard's thread ends; neither rejects. */
export interface DrainSteps {
  /** It takes no more connections. */
  readonly unlistened: Promise<void>
  /** Its last connection is lost. */
  readonly drained: Promise<void>
}

/** One shard, as a server orders it about: a worker thread, or for `shards: 0` the loop of this thread. */
export interface ShardControl {
  readonly id: number
  /** Whether the program's entry ran to its end there. */
  readonly hasRunEntry: boolean
  /** Resolves when it listens; rejects with what kept it from that. */
  serve(order: ServeOrder): Promise<void>
  drain(server: number): DrainSteps
  /** Aborts the server's connections; `drained` follows, unless the shard is stuck. */
  abort(server: number): void
  /** Ends a stuck thread; to other servers on it this is its death. */
  terminate(why: Error): void
}

/** A server among those that share the shards. */
export interface ShardUser {
  readonly key: string
  shardDied(death: ShardDeath): void
  drain(options?: { readonly deadlineMs?: number }): Promise<void>
  abort(): Promise<void>
}

/** The shards that a server runs on. */
export interface ShardGroup {
  /** Starts what does not run yet. */
  start(): readonly ShardControl[]
  /** What every shard shall know about its servers. */
  announce(message: SupervisorMessage): void
  /** Counters, also after the end. */
  metrics(): ServerMetrics
  /** The server is over. The last one's leaving ends the shards; resolves then, with the first that ended by an error. */
  leave(user: ShardUser): Promise<ShardDeath | null>
  /** The server did not start. When it is the last, ends the shards and resolves to true when they are gone. */
  discard(user: ShardUser): Promise<boolean>
}
