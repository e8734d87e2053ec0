import {
  METRIC_ACCEPT_ERRORS,
  METRIC_BATCHES,
  METRIC_BYTES_READ,
  METRIC_BYTES_WRITTEN,
  METRIC_CONNECTIONS_ACCEPTED,
  METRIC_CONNECTIONS_CLOSED,
  METRIC_COUNT,
  METRIC_EVENTS,
  METRIC_LOOP_BUSY_NS,
  METRIC_LOOP_LAG_LAST_NS,
  METRIC_LOOP_LAG_MAX_NS,
  METRIC_LOOP_TURNS,
  METRIC_NATIVE_CALLS,
  METRIC_POLLS,
  METRIC_READS,
  METRIC_WRITE_OVERFLOWS,
  METRIC_WRITES,
} from '../native/abi.js'
import { native } from '../native/index.js'

/** How long a loop was away from its poll, in milliseconds: what an event that came just then had to wait. */
export interface LoopLag {
  readonly mean: number
  readonly max: number
  readonly last: number
}

/** Counters of one shard since it started, or of all of them. A shard's servers share its counters. */
export interface ShardMetrics {
  readonly connectionsOpen: number
  /** Connections accepted. */
  readonly connectionsTotal: number
  readonly bytesRead: bigint
  readonly bytesWritten: bigint
  /** Calls from the native core into JavaScript. */
  readonly batches: number
  /** Events delivered by them. */
  readonly events: number
  /** 0 before the first batch. */
  readonly eventsPerBatch: number
  /** Failed accepts, by whatever cause. */
  readonly acceptErrors: number
  /** System calls that read from connections. */
  readonly reads: number
  /** System calls that wrote to connections. */
  readonly writes: number
  /** System calls that asked which sockets are ready. */
  readonly polls: number
  /**
   * Calls from JavaScript into the native core on the path of bytes and connections: commands ring or write slab full,
   * a read slab replaced, large or owned writes, a peer's address.
   */
  readonly nativeCalls: number
  /** Connections aborted because more was queued for them than `writeMaxBytes`. */
  readonly writeOverflows: number
  readonly loopLagMs: LoopLag
}

/** A snapshot. It is read from memory that the shards write to, so it answers while they are blocked. */
export interface ServerMetrics {
  readonly total: ShardMetrics
  /** By shard id. */
  readonly shards: readonly ShardMetrics[]
}

const NS_PER_MS = 1e6

/** Reads the counters of the shards with these native tokens. Any thread may. */
export function readServerMetrics(tokens: readonly number[]): ServerMetrics {
  const counters = tokens.map((token) => {
    const out = new BigUint64Array(METRIC_COUNT)
    native.readMetrics(token, out)
    return out
  })
  return { total: shape(total(counters)), shards: counters.map(shape) }
}

/** Sums; of lags the largest, as a mean over shards would hide the one that is stuck. */
function total(counters: readonly BigUint64Array[]): BigUint64Array {
  const sum = new BigUint64Array(METRIC_COUNT)
  for (const shard of counters) {
    for (let metric = 0; metric < METRIC_COUNT; metric += 1) {
      const [before, value] = [sum[metric] ?? 0n, shard[metric] ?? 0n]
      const isLag = metric === METRIC_LOOP_LAG_MAX_NS || metric === METRIC_LOOP_LAG_LAST_NS
      sum[metric] = isLag ? (value > before ? value : before) : before + value
    }
  }
  return sum
}

function shape(counters: BigUint64Array): ShardMetrics {
  const count = (metric: number): number => Number(counters[metric] ?? 0n)
  const per = (sum: number, of: number): number => (of === 0 ? 0 : sum / of)
  const connectionsTotal = count(METRIC_CONNECTIONS_ACCEPTED)
  return {
    // The shard counts on while it is read: a connection may be seen closed that was not yet seen accepted.
    connectionsOpen: Math.max(0, connectionsTotal - count(METRIC_CONNECTIONS_CLOSED)),
    connectionsTotal,
    bytesRead: counters[METRIC_BYTES_READ] ?? 0n,
    bytesWritten: counters[METRIC_BYTES_WRITTEN] ?? 0n,
    batches: count(METRIC_BATCHES),
    events: count(METRIC_EVENTS),
    eventsPerBatch: per(count(METRIC_EVENTS), count(METRIC_BATCHES)),
    acceptErrors: count(METRIC_ACCEPT_ERRORS),
    reads: count(METRIC_READS),
    writes: count(METRIC_WRITES),
    polls: count(METRIC_POLLS),
    nativeCalls: count(METRIC_NATIVE_CALLS),
    writeOverflows: count(METRIC_WRITE_OVERFLOWS),
    loopLagMs: {
      mean: per(count(METRIC_LOOP_BUSY_NS), count(METRIC_LOOP_TURNS)) / NS_PER_MS,
      max: count(METRIC_LOOP_LAG_MAX_NS) / NS_PER_MS,
      last: count(METRIC_LOOP_LAG_LAST_NS) / NS_PER_MS,
    },
  }
}
