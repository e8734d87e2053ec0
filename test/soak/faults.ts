/** Faults that a soak plants in its server when it is told, to show that it finds them. */
import { openSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { shardId } from 'shardloop'
import { KiB, MiB } from '../harness/memory.js'

/** What the shards leak, by one of these every so often. */
const LEAKS = {
  'leak-descriptor': { everyMs: 400, leak: () => openSync('/dev/null', 'r') },
  'leak-thread': {
    everyMs: 800,
    leak: () => void new Worker('setInterval(() => {}, 1e9)', { eval: true }).unref(),
  },
  'leak-heap': {
    everyMs: 250,
    leak: () => kept.push(Array.from({ length: 32_768 }, (_, index) => ({ index }))),
  },
  'leak-buffer': { everyMs: 250, leak: () => kept.push(new Uint8Array(MiB).fill(1)) },
  'leak-resident': { everyMs: 50, leak: leakPages },
} as const

/** Each by the check that finds it. */
export const FAULTS = {
  'leak-descriptor': 'descriptors',
  'leak-thread': 'threads',
  'leak-heap': 'JavaScript heap',
  'leak-buffer': 'array buffers',
  /** Memory that neither V8 nor Node counts. */
  'leak-resident': 'resident memory',
  /** A bit of an echo is flipped. */
  corrupt: 'content',
  /** A connection gets no echo any more. */
  hang: 'hangs',
  /** A connection is closed before it has all of its echo. */
  cut: 'connections',
  /** A callback throws. */
  throw: 'exceptions',
  /** A shard dies, and is replaced. */
  die: 'shards',
} as const

export type Fault = keyof typeof FAULTS

/** Faults of a connection; one in so many has them. */
export const FAULTY_CONNECTIONS = 10
const DIES_AFTER_MS = 2_000
const PAGE_BYTES = 64 * KiB

const kept: unknown[] = []
/** The part of WebAssembly.Memory that is used here; Node's types have none of it. */
interface PageMemory {
  readonly buffer: ArrayBuffer
  /** Returns how many pages there were. */
  grow(pages: number): number
}
const { WebAssembly } = globalThis as unknown as {
  WebAssembly: { Memory: new (size: { initial: number }) => PageMemory }
}
let pages: PageMemory | undefined

/** Starts the fault in this shard, when it is one of the shard and not of its connections. */
export function plant(fault: Fault | null): void {
  if (fault === null) return
  if (fault in LEAKS) {
    const { everyMs, leak } = LEAKS[fault as keyof typeof LEAKS]
    setInterval(leak, everyMs).unref()
  } else if (fault === 'die' && shardId === 0) {
    setTimeout(() => {
      throw new Error('died as it was told')
    }, DIES_AFTER_MS).unref()
  }
}

/** A MiB of a WebAssembly memory, which counts neither as heap nor as ArrayBuffer. */
function leakPages(): void {
  pages ??= new WebAssembly.Memory({ initial: 0 })
  const from = pages.grow(MiB / PAGE_BYTES) * PAGE_BYTES
  new Uint8Array(pages.buffer, from, MiB).fill(1)
}
