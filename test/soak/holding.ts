/** What a soaked server tells of itself, and what its threads say to each other for that. */

/** What one thread's JavaScript holds, in bytes. */
export interface ThreadMemory {
  readonly heapBytes: number
  /** Outside of the heap, ArrayBuffers among them. */
  readonly externalBytes: number
  readonly bufferBytes: number
}

/** What the server's process holds; its lines after the first. */
export interface Holding {
  /** Seconds since the server is ready. */
  readonly atSecs: number
  /** Only connections that last were open, and garbage had been collected. */
  readonly isQuiet: boolean
  readonly residentBytes: number
  readonly descriptors: number
  readonly threads: number
  readonly connections: number
  readonly supervisor: ThreadMemory
  /** By shard; what each told last. */
  readonly shards: readonly ThreadMemory[]
  /** Of shards, since the start. */
  readonly deaths: number
  /** That callbacks threw, since the start. */
  readonly exceptions: number
  /** What the first death and the first exception said, and that a shard did not tell of itself. */
  readonly causes: readonly string[]
}

/** Name of the BroadcastChannel between the server's threads. */
export const CHANNEL = 'soak'

/** What the supervisor asks there. */
export interface Question {
  readonly ask: number
  /** Collect garbage first. */
  readonly collect: boolean
}

/** What a shard says there: an answer, or that a callback threw. */
export type ShardSays =
  | { readonly answer: number; readonly shard: number; readonly memory: ThreadMemory }
  | { readonly exception: string }

/** What this thread holds. */
export function threadMemory(): ThreadMemory {
  const { heapUsed, external, arrayBuffers } = process.memoryUsage()
  return { heapBytes: heapUsed, externalBytes: external, bufferBytes: arrayBuffers }
}
