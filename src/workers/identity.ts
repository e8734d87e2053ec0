import { type MessagePort, workerData } from 'node:worker_threads'
import type { EngineName } from './engine.js'

/** Where a shard's identity stands in its `workerData`. Worker data is not inherited, as an environment would be. */
export const IDENTITY_KEY = 'shardloop'

/** What the supervisor tells a new shard about itself. */
export interface ShardIdentity {
  /** 0-based number of this shard. */
  readonly shardId: number
  /** What all shards run on. */
  readonly engine: EngineName
  /** The program's entry, `process.argv[1]` of the main thread; null when it has none (`node -e`). */
  readonly entry: string | null
  /** URL of the module with tsx's `register`, when the parent runs under tsx. */
  readonly tsxApi: string | null
  /** Native metrics tokens of all shards, by shard id. */
  readonly metricsTokens: readonly number[]
  /** The shard's end of its channel to the supervisor. */
  readonly port: MessagePort
  /** The same to the executor, see `ExecutorRequest`. */
  readonly executorPort: MessagePort
  /** See `ExecutorCounters`. */
  readonly executorCounters: SharedArrayBuffer
}

/** The identity of the shard that runs in this thread, or null in any other thread. */
export function shardIdentity(): ShardIdentity | null {
  if (typeof workerData !== 'object' || workerData === null) return null
  return ((workerData as Record<string, unknown>)[IDENTITY_KEY] as ShardIdentity | undefined) ?? null
}

/** The number of the shard that runs in this thread (0-based), or null outside of shards. */
export const shardId: number | null = shardIdentity()?.shardId ?? null

/**
 * Whether a call of `createServer` in this thread is the one that starts and controls the server: true on the main
 * thread and in workers of the program's own, false in a shard.
 */
export const isSupervisor: boolean = shardId === null
