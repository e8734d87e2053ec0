import { shardIdentity } from './identity.js'
import { threadSingletonGetter } from './thread-singleton.js'

/**
 * The executor's counters, in memory that all threads of the process see: the main thread and the shards count, and anybody
 * reads them without asking. 64-bit words; times are microseconds.
 */
export const EXECUTOR_THREADS = 0
export const EXECUTOR_RUNNING = 1
export const EXECUTOR_QUEUED = 2
export const EXECUTOR_COMPLETED = 3
export const EXECUTOR_FAILED = 4
export const EXECUTOR_CANCELLED = 5
export const EXECUTOR_REFUSED = 6
/** No counter: how many tasks one thread may have in the executor; 0 while that is not decided. */
export const EXECUTOR_PENDING_MAX = 7
export const EXECUTOR_QUEUE_TIME = 8

/** Times below this many microseconds have a bucket each; above it every power of two is cut into as many. */
const STEPS = 16
const STEP_BITS = 4
/** The largest time is 2^32 microseconds, 71 minutes; what is longer counts as that. */
const TIME_BITS = 32
const TIME_BUCKETS = STEPS + (TIME_BITS - STEP_BITS) * STEPS
/** Sum, largest, buckets. */
const TIME_WORDS = 2 + TIME_BUCKETS
export const EXECUTOR_RUN_TIME: number = EXECUTOR_QUEUE_TIME + TIME_WORDS
const WORDS = EXECUTOR_RUN_TIME + TIME_WORDS

export type ExecutorCounters = BigUint64Array<SharedArrayBuffer>

/** Those of the process: in a shard the supervisor's; a worker thread of the program's own has none but zeros. */
export const executorCounters: () => ExecutorCounters = threadSingletonGetter('executor-counters', () => {
  const shared = shardIdentity()?.executorCounters
  return new BigUint64Array(shared ?? new SharedArrayBuffer(WORDS * BigUint64Array.BYTES_PER_ELEMENT))
})

/** Counts an event, or several; or fewer, for what is a level. */
export function count(counters: ExecutorCounters, counter: number, events = 1): void {
  Atomics.add(counters, counter, BigInt(events))
}

/** Sets what has one writer, the main thread. */
export function set(counters: ExecutorCounters, counter: number, value: number): void {
  Atomics.store(counters, counter, BigInt(value))
}

/** Adds a time to those that begin at the word `first`. The main thread only. */
export function recordTime(counters: ExecutorCounters, first: number, ms: number): void {
  const us = Math.min(Math.max(1, Math.ceil(ms * 1000)), 2 ** TIME_BITS)
  Atomics.add(counters, first, BigInt(us))
  if (BigInt(us) > Atomics.load(counters, first + 1)) Atomics.store(counters, first + 1, BigInt(us))
  Atomics.add(counters, first + 2 + bucketOf(us - 1), 1n)
}

/** How long something took, of all times that were recorded; milliseconds. Percentiles are at most 1/16 too large. */
export interface ExecutorTimes {
  readonly count: number
  readonly mean: number
  readonly p50: number
  readonly p99: number
  readonly max: number
  readonly sum: number
  /** By length, cumulative as in Prometheus: the last bucket, whose end is Infinity, has all. */
  readonly histogram: readonly { readonly leMs: number; readonly count: number }[]
}

export function readTimes(counters: ExecutorCounters, first: number): ExecutorTimes {
  const [sum, max] = [Number(Atomics.load(counters, first)), Number(Atomics.load(counters, first + 1))]
  const buckets = Array.from({ length: TIME_BUCKETS }, (_, bucket) =>
    Number(Atomics.load(counters, first + 2 + bucket)),
  )
  const all = buckets.reduce((total, held) => total + held, 0)
  const percentile = (part: number): number => Math.min(max, percentileOf(buckets, all * part))
  return {
    count: all,
    mean: all === 0 ? 0 : sum / all / 1000,
    p50: percentile(0.5) / 1000,
    p99: percentile(0.99) / 1000,
    max: max / 1000,
    sum: sum / 1000,
    histogram: histogramOf(buckets, all),
  }
}

/** The end, in microseconds, of the bucket in which so many times have come together. */
function percentileOf(buckets: readonly number[], wanted: number): number {
  let held = 0
  for (const [bucket, times] of buckets.entries()) {
    held += times
    if (times > 0 && held >= wanted) return endOf(bucket)
  }
  return 0
}

/** As fine as the histogram of a loop's lag: from 64 µs on by powers of two, up to 17 seconds. */
function histogramOf(buckets: readonly number[], all: number): { leMs: number; count: number }[] {
  const [firstBits, edges] = [6, 19]
  const histogram: { leMs: number; count: number }[] = []
  let [held, bucket] = [0, 0]
  for (let bits = firstBits; bits < firstBits + edges; bits += 1) {
    for (; bucket < bucketOf(2 ** bits); bucket += 1) held += buckets[bucket] ?? 0
    histogram.push({ leMs: 2 ** bits / 1000, count: held })
  }
  histogram.push({ leMs: Number.POSITIVE_INFINITY, count: all })
  return histogram
}

/** @param us 0 to 2^32 - 1 */
function bucketOf(us: number): number {
  if (us < STEPS) return us
  const bits = 31 - Math.clz32(us)
  return STEPS + (bits - STEP_BITS) * STEPS + ((us >>> (bits - STEP_BITS)) & (STEPS - 1))
}

/** The longest time of a bucket, in microseconds. */
function endOf(bucket: number): number {
  if (bucket < STEPS) return bucket + 1
  const power = Math.floor((bucket - STEPS) / STEPS)
  return (STEPS + (bucket % STEPS) + 1) * 2 ** power
}
