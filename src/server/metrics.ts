import {
  LOOP_LAG_BUCKETS,
  LOOP_LAG_FIRST_NS,
  METRIC_ACCEPT_ERRORS,
  METRIC_ACCEPT_ERRORS_ABORTED,
  METRIC_ACCEPT_ERRORS_DESCRIPTORS,
  METRIC_ACCEPT_ERRORS_MEMORY,
  METRIC_ACCEPT_ERRORS_OTHER,
  METRIC_BATCHES,
  METRIC_BUSY_POLL_NS,
  METRIC_BYTES_READ,
  METRIC_BYTES_WRITTEN,
  METRIC_CONNECTIONS_ACCEPTED,
  METRIC_CONNECTIONS_CLOSED,
  METRIC_CONNECTIONS_CONNECTED,
  METRIC_CONNECTIONS_HANDED_OVER,
  METRIC_CONNECTS_FAILED,
  METRIC_COUNT,
  METRIC_DATAGRAMS_DROPPED,
  METRIC_DATAGRAMS_RECEIVED,
  METRIC_DATAGRAMS_SENT,
  METRIC_DATAGRAMS_TRUNCATED,
  METRIC_EVENTS,
  METRIC_LOOP_BUSY_NS,
  METRIC_LOOP_LAG_FIRST_BUCKET,
  METRIC_LOOP_LAG_LAST_NS,
  METRIC_LOOP_LAG_MAX_NS,
  METRIC_LOOP_TURNS,
  METRIC_MODERATION_NS,
  METRIC_NATIVE_CALLS,
  METRIC_POLLS,
  METRIC_READS,
  METRIC_RESETS_DETACHED,
  METRIC_RESETS_IDLE_TIMEOUT,
  METRIC_RESETS_OTHER,
  METRIC_RESETS_PEER,
  METRIC_RESETS_PROGRAM,
  METRIC_RESETS_SERVER,
  METRIC_RESETS_SHARD_DEATH,
  METRIC_RESETS_TIMED_OUT,
  METRIC_TAKEN_OVER,
  METRIC_TLS_FAILED_ABANDONED,
  METRIC_TLS_FAILED_ALERT,
  METRIC_TLS_FAILED_CERTIFICATE,
  METRIC_TLS_FAILED_INCOMPATIBLE,
  METRIC_TLS_FAILED_PROTOCOL,
  METRIC_TLS_FAILED_TIMEOUT,
  METRIC_TLS_HANDSHAKES,
  METRIC_TLS_RESUMED,
  METRIC_TLS_TRUNCATED,
  METRIC_WRITE_OVERFLOWS,
  METRIC_WRITES,
} from '../native/abi.js'
import { native } from '../native/index.js'
import {
  EXECUTOR_CANCELLED,
  EXECUTOR_COMPLETED,
  EXECUTOR_FAILED,
  EXECUTOR_QUEUE_TIME,
  EXECUTOR_QUEUED,
  EXECUTOR_REFUSED,
  EXECUTOR_RUN_TIME,
  EXECUTOR_RUNNING,
  EXECUTOR_THREADS,
  type ExecutorTimes,
  executorCounters,
  readTimes,
} from '../workers/executor-counters.js'

/** How long a loop was away from its poll, in milliseconds: what an event that came just then had to wait. */
export interface LoopLag {
  readonly mean: number
  readonly max: number
  readonly last: number
  /** Sum over all turns of the loop. */
  readonly sum: number
  /** Turns of the loop by their lag, cumulative as in Prometheus: the last bucket, whose end is Infinity, has all. */
  readonly histogram: readonly LoopLagBucket[]
}

/** How many turns of the loop had at most this lag. */
export interface LoopLagBucket {
  readonly leMs: number
  readonly count: number
}

/** Connections that did not end in order, by what ended them. */
export interface ResetCounts {
  /** Reset by the peer. */
  readonly peer: number
  /** Given up by the system, for the peer was silent. */
  readonly timedOut: number
  /** Aborted by their idle timeout (`ERR_SHARDLOOP_IDLE_TIMEOUT`). */
  readonly idleTimeout: number
  /** Aborted because more than `writeMaxBytes` was queued for them. */
  readonly writeOverflow: number
  /** Aborted because memory with their bytes was detached. */
  readonly detached: number
  /** Aborted by `transport.abort()`, or because a callback failed. */
  readonly program: number
  /** Aborted by the server's `abort()`, or at the deadline of its drain. */
  readonly server: number
  /** Open when their shard died. */
  readonly shardDeath: number
  /** Ended by any other error of the system. */
  readonly other: number
}

/** Failed accepts, by what they failed for. */
export interface AcceptErrorCounts {
  /** No descriptor was free, or a shard's table of connections was full. */
  readonly descriptors: number
  readonly memory: number
  /** The connection was broken before it was accepted. */
  readonly aborted: number
  readonly other: number
}

/** Datagrams. What the kernel drops because a receive buffer is full is an option of the endpoint's socket (`drops`). */
export interface DatagramCounts {
  readonly received: number
  /** Handed to the kernel. */
  readonly sent: number
  /** Not sent: on top of `writeMaxBytes`, refused by the system, or waiting when their endpoint was aborted or broke. */
  readonly dropped: number
  /** Received, but longer than 65,536 bytes, and dropped. */
  readonly truncated: number
}

/** TLS handshakes that failed, by why. */
export interface TlsFailureCounts {
  /** The peer's certificate was not accepted. */
  readonly certificate: number
  /** The peer ended it by an alert: it may have refused our certificate. */
  readonly alert: number
  /** What the peer sent was no TLS, or malformed. */
  readonly protocol: number
  /** No version, cipher, group, application protocol or certificate suited both. */
  readonly incompatible: number
  readonly timeout: number
  /** The peer left meanwhile. */
  readonly abandoned: number
}

/** TLS, of connections accepted and made. */
export interface TlsCounts {
  /** Handshakes that were completed. */
  readonly handshakes: number
  /** Those of them that resumed a session. */
  readonly resumed: number
  readonly failed: TlsFailureCounts
  /** Connections whose peer ended them without TLS's own end (ERR_SHARDLOOP_TLS_TRUNCATED). */
  readonly truncated: number
}

/** Counters of one shard since it started, or of all of them. A shard's servers share its counters. */
export interface ShardMetrics {
  readonly connectionsOpen: number
  /** Connections that the shard has made to others, by `createConnection` and its like. */
  readonly connectionsMade: number
  /** Attempts to make one that failed, those called off included: of several addresses of a host each counts. */
  readonly connectsFailed: number
  /** Connections accepted. One that a dying shard had accepted and left to another counts at both. */
  readonly connectionsTotal: number
  /** Connections that came to the queue of another shard, which was stuck, down or busier. */
  readonly connectionsTakenOver: number
  readonly datagrams: DatagramCounts
  readonly tls: TlsCounts
  /** From sockets: with TLS its records, those of handshakes included. */
  readonly bytesRead: bigint
  /** To sockets, likewise. */
  readonly bytesWritten: bigint
  /** Calls from the native core into JavaScript. */
  readonly batches: number
  /** Events delivered by them. */
  readonly events: number
  /** 0 before the first batch. */
  readonly eventsPerBatch: number
  /** Connections that did not end in order. */
  readonly resets: ResetCounts
  /** Failed accepts, by whatever cause, those that are tried again included. */
  readonly acceptErrors: number
  readonly acceptErrorsByKind: AcceptErrorCounts
  /** System calls that read from connections. */
  readonly reads: number
  /** System calls that wrote to connections. */
  readonly writes: number
  /** System calls that asked which sockets are ready. */
  readonly polls: number
  /**
   * Time spent looking for the next event instead of sleeping, in milliseconds: the engine mio does when few connections'
   * events follow each other within some 60 µs. It is part of `loopLagMs.sum`. 0 on tokio. Looking for messages of other
   * threads is not counted.
   */
  readonly busyPollMs: number
  /**
   * Time slept between two batches, in milliseconds, so that the next is larger (interrupt moderation): the engine mio does for
   * some 70 µs at a time when many peers keep it busy a few events at a time. It takes no processor, and is part of
   * `loopLagMs.sum`, as timers and other work wait for it. 0 on tokio and on macOS.
   */
  readonly moderationMs: number
  /**
   * Calls from JavaScript into the native core on the path of bytes and connections: commands ring or write slab full,
   * a read slab replaced, large or owned writes, a peer's address.
   */
  readonly nativeCalls: number
  /** Connections aborted because more was queued for them than `writeMaxBytes`. */
  readonly writeOverflows: number
  readonly loopLagMs: LoopLag
  /** How often the shard was replaced. */
  readonly restarts: number
}

/** What the executor does, of the whole process and since its start, whoever called. */
export interface ExecutorMetrics {
  /** Threads that there are, those that are ending included. */
  readonly threads: number
  /** Tasks that have a thread. */
  readonly running: number
  /** Tasks that wait for one. */
  readonly queued: number
  readonly completed: number
  /** Tasks that threw, could not be imported or sent, or whose thread died. */
  readonly failed: number
  /** Tasks that were aborted, or whose shard or loop has ended. */
  readonly cancelled: number
  /** Calls that were refused, as too many waited (ERR_SHARDLOOP_EXECUTOR_FULL). */
  readonly refused: number
  /** From the call until a thread takes the task, of tasks that completed or failed. */
  readonly queueMs: ExecutorTimes
  /** From then until there is a result, the import of the module included. */
  readonly runMs: ExecutorTimes
}

/** A snapshot. It is read from memory that the shards write to, so it answers while they are blocked. */
export interface ServerMetrics {
  readonly total: ShardMetrics
  /** By shard id. */
  readonly shards: readonly ShardMetrics[]
  readonly executor: ExecutorMetrics
}

const NS_PER_MS = 1e6

/** Reads one counter of a shard. */
export function readCounter(token: number, metric: number): number {
  const out = new BigUint64Array(METRIC_COUNT)
  native.readMetrics(token, out)
  return Number(out[metric] ?? 0n)
}

/**
 * Reads the counters of the shards with these native tokens. Any thread may.
 *
 * @param restarts by shard, as the supervisor counts them
 */
export function readServerMetrics(tokens: readonly number[], restarts: readonly number[]): ServerMetrics {
  const counters = tokens.map((token) => {
    const out = new BigUint64Array(METRIC_COUNT)
    native.readMetrics(token, out)
    return out
  })
  const restartsTotal = restarts.reduce((sum, count) => sum + count, 0)
  return {
    total: shape(total(counters), restartsTotal),
    shards: counters.map((shard, id) => shape(shard, restarts[id] ?? 0)),
    executor: readExecutorMetrics(),
  }
}

function readExecutorMetrics(): ExecutorMetrics {
  const counters = executorCounters()
  const read = (counter: number): number => Number(Atomics.load(counters, counter))
  return {
    threads: read(EXECUTOR_THREADS),
    running: read(EXECUTOR_RUNNING),
    queued: read(EXECUTOR_QUEUED),
    completed: read(EXECUTOR_COMPLETED),
    failed: read(EXECUTOR_FAILED),
    cancelled: read(EXECUTOR_CANCELLED),
    refused: read(EXECUTOR_REFUSED),
    queueMs: readTimes(counters, EXECUTOR_QUEUE_TIME),
    runMs: readTimes(counters, EXECUTOR_RUN_TIME),
  }
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

function shape(counters: BigUint64Array, restarts: number): ShardMetrics {
  const count = (metric: number): number => Number(counters[metric] ?? 0n)
  const per = (sum: number, of: number): number => (of === 0 ? 0 : sum / of)
  const connectionsTotal = count(METRIC_CONNECTIONS_ACCEPTED)
  const connectionsMade = count(METRIC_CONNECTIONS_CONNECTED)
  const gone = count(METRIC_CONNECTIONS_CLOSED) + count(METRIC_CONNECTIONS_HANDED_OVER)
  return {
    // The shard counts on while it is read: a connection may be seen closed that was not yet seen accepted.
    connectionsOpen: Math.max(0, connectionsTotal + connectionsMade - gone),
    connectionsMade,
    connectsFailed: count(METRIC_CONNECTS_FAILED),
    connectionsTotal,
    connectionsTakenOver: count(METRIC_TAKEN_OVER),
    resets: {
      peer: count(METRIC_RESETS_PEER),
      timedOut: count(METRIC_RESETS_TIMED_OUT),
      idleTimeout: count(METRIC_RESETS_IDLE_TIMEOUT),
      writeOverflow: count(METRIC_WRITE_OVERFLOWS),
      detached: count(METRIC_RESETS_DETACHED),
      program: count(METRIC_RESETS_PROGRAM),
      server: count(METRIC_RESETS_SERVER),
      shardDeath: count(METRIC_RESETS_SHARD_DEATH),
      other: count(METRIC_RESETS_OTHER),
    },
    datagrams: {
      received: count(METRIC_DATAGRAMS_RECEIVED),
      sent: count(METRIC_DATAGRAMS_SENT),
      dropped: count(METRIC_DATAGRAMS_DROPPED),
      truncated: count(METRIC_DATAGRAMS_TRUNCATED),
    },
    tls: {
      handshakes: count(METRIC_TLS_HANDSHAKES),
      resumed: count(METRIC_TLS_RESUMED),
      failed: {
        certificate: count(METRIC_TLS_FAILED_CERTIFICATE),
        alert: count(METRIC_TLS_FAILED_ALERT),
        protocol: count(METRIC_TLS_FAILED_PROTOCOL),
        incompatible: count(METRIC_TLS_FAILED_INCOMPATIBLE),
        timeout: count(METRIC_TLS_FAILED_TIMEOUT),
        abandoned: count(METRIC_TLS_FAILED_ABANDONED),
      },
      truncated: count(METRIC_TLS_TRUNCATED),
    },
    bytesRead: counters[METRIC_BYTES_READ] ?? 0n,
    bytesWritten: counters[METRIC_BYTES_WRITTEN] ?? 0n,
    batches: count(METRIC_BATCHES),
    events: count(METRIC_EVENTS),
    eventsPerBatch: per(count(METRIC_EVENTS), count(METRIC_BATCHES)),
    acceptErrors: count(METRIC_ACCEPT_ERRORS),
    acceptErrorsByKind: {
      descriptors: count(METRIC_ACCEPT_ERRORS_DESCRIPTORS),
      memory: count(METRIC_ACCEPT_ERRORS_MEMORY),
      aborted: count(METRIC_ACCEPT_ERRORS_ABORTED),
      other: count(METRIC_ACCEPT_ERRORS_OTHER),
    },
    reads: count(METRIC_READS),
    writes: count(METRIC_WRITES),
    polls: count(METRIC_POLLS),
    busyPollMs: count(METRIC_BUSY_POLL_NS) / NS_PER_MS,
    moderationMs: count(METRIC_MODERATION_NS) / NS_PER_MS,
    nativeCalls: count(METRIC_NATIVE_CALLS),
    writeOverflows: count(METRIC_WRITE_OVERFLOWS),
    loopLagMs: {
      mean: per(count(METRIC_LOOP_BUSY_NS), count(METRIC_LOOP_TURNS)) / NS_PER_MS,
      max: count(METRIC_LOOP_LAG_MAX_NS) / NS_PER_MS,
      last: count(METRIC_LOOP_LAG_LAST_NS) / NS_PER_MS,
      sum: count(METRIC_LOOP_BUSY_NS) / NS_PER_MS,
      histogram: loopLagHistogram(count),
    },
    restarts,
  }
}

function loopLagHistogram(count: (metric: number) => number): LoopLagBucket[] {
  let turns = 0
  return Array.from({ length: LOOP_LAG_BUCKETS }, (_, bucket) => {
    turns += count(METRIC_LOOP_LAG_FIRST_BUCKET + bucket)
    const isLast = bucket === LOOP_LAG_BUCKETS - 1
    const leMs = isLast ? Number.POSITIVE_INFINITY : (LOOP_LAG_FIRST_NS * 2 ** bucket) / NS_PER_MS
    return { leMs, count: turns }
  })
}
