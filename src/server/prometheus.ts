import type { Registry } from 'prom-client'
import type { ExecutorTimes } from '../workers/executor-counters.js'
import type {
  AcceptErrorCounts,
  DatagramCounts,
  ExecutorMetrics,
  LoopLagBucket,
  ResetCounts,
  ServerMetrics,
  ShardMetrics,
  TlsFailureCounts,
} from './metrics.js'

const MS_PER_SECOND = 1_000
const NS_PER_MS = 1_000_000
const NS_PER_SECOND = 1_000_000_000

/** One figure of a shard, with the labels that it has besides `server` and `shard`. */
interface Sample {
  readonly value: number
  readonly labels?: Readonly<Record<string, string>>
}

/** A metric with one sample per shard, or one per shard and value of `label`. */
interface Family {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge'
  readonly label?: string
  samples(shard: ShardMetrics): readonly Sample[]
}

const CAUSES: Readonly<Record<keyof ResetCounts, string>> = {
  peer: 'peer',
  timedOut: 'timed_out',
  idleTimeout: 'idle_timeout',
  writeOverflow: 'write_overflow',
  detached: 'detached',
  program: 'program',
  server: 'server',
  shardDeath: 'shard_death',
  other: 'other',
}

const KINDS: Readonly<Record<keyof AcceptErrorCounts, string>> = {
  descriptors: 'descriptors',
  memory: 'memory',
  aborted: 'aborted',
  other: 'other',
}

const OUTCOMES: Readonly<Record<keyof DatagramCounts, string>> = {
  received: 'received',
  sent: 'sent',
  dropped: 'dropped',
  truncated: 'truncated',
}

const TLS_FAILURES: Readonly<Record<keyof TlsFailureCounts, string>> = {
  certificate: 'certificate',
  alert: 'alert',
  protocol: 'protocol',
  incompatible: 'incompatible',
  timeout: 'timeout',
  abandoned: 'abandoned',
}

function counter(name: string, help: string, read: (shard: ShardMetrics) => number | bigint): Family {
  return { name, help, type: 'counter', samples: (shard) => [{ value: Number(read(shard)) }] }
}

function gauge(name: string, help: string, read: (shard: ShardMetrics) => number): Family {
  return { name, help, type: 'gauge', samples: (shard) => [{ value: read(shard) }] }
}

/** Counters of the same events by `label`, whose values `names` spells. */
function countersBy<Key extends string>(
  label: string,
  names: Readonly<Record<Key, string>>,
  name: string,
  help: string,
  read: (shard: ShardMetrics) => Readonly<Record<Key, number>>,
): Family {
  const keys = Object.keys(names) as Key[]
  const samples = (shard: ShardMetrics): Sample[] => {
    const counts = read(shard)
    return keys.map((key) => ({ value: counts[key], labels: { [label]: names[key] } }))
  }
  return { name, help, type: 'counter', label, samples }
}

const FAMILIES: readonly Family[] = [
  gauge('shardloop_connections_open', 'Connections that are open.', (shard) => shard.connectionsOpen),
  counter('shardloop_connections_total', 'Connections accepted.', (shard) => shard.connectionsTotal),
  counter(
    'shardloop_connections_made_total',
    'Connections made to others.',
    (shard) => shard.connectionsMade,
  ),
  counter(
    'shardloop_connects_failed_total',
    'Attempts to connect that failed or were called off.',
    (shard) => shard.connectsFailed,
  ),
  counter(
    'shardloop_connections_taken_over_total',
    'Connections accepted out of the queue of another shard.',
    (shard) => shard.connectionsTakenOver,
  ),
  countersBy(
    'cause',
    CAUSES,
    'shardloop_connection_resets_total',
    'Connections that did not end in order, by cause.',
    (shard) => shard.resets,
  ),
  countersBy(
    'kind',
    KINDS,
    'shardloop_accept_errors_total',
    'Failed accepts, by kind, those that are tried again included.',
    (shard) => shard.acceptErrorsByKind,
  ),
  countersBy(
    'outcome',
    OUTCOMES,
    'shardloop_datagrams_total',
    'Datagrams, by what became of them.',
    (shard) => shard.datagrams,
  ),
  counter(
    'shardloop_tls_handshakes_total',
    'TLS handshakes that were completed.',
    ({ tls }) => tls.handshakes,
  ),
  counter('shardloop_tls_resumed_total', 'TLS handshakes that resumed a session.', ({ tls }) => tls.resumed),
  countersBy(
    'cause',
    TLS_FAILURES,
    'shardloop_tls_handshakes_failed_total',
    'TLS handshakes that failed, by cause.',
    ({ tls }) => tls.failed,
  ),
  counter(
    'shardloop_tls_truncated_total',
    'TLS connections whose peer ended them without close_notify.',
    ({ tls }) => tls.truncated,
  ),
  counter('shardloop_received_bytes_total', 'Bytes received.', (shard) => shard.bytesRead),
  counter('shardloop_sent_bytes_total', 'Bytes handed to the kernel.', (shard) => shard.bytesWritten),
  counter('shardloop_batches_total', 'Calls into JavaScript with events.', (shard) => shard.batches),
  counter('shardloop_events_total', 'Events delivered to JavaScript.', (shard) => shard.events),
  counter('shardloop_read_calls_total', 'System calls that read from connections.', (shard) => shard.reads),
  counter('shardloop_write_calls_total', 'System calls that wrote to connections.', (shard) => shard.writes),
  counter('shardloop_poll_calls_total', 'System calls that asked for readiness.', (shard) => shard.polls),
  counter(
    'shardloop_busy_poll_seconds_total',
    'Time spent looking for the next event instead of sleeping.',
    (shard) => shard.busyPollMs / 1000,
  ),
  counter(
    'shardloop_moderation_seconds_total',
    'Time slept between two batches, so that the next is larger.',
    (shard) => shard.moderationMs / 1000,
  ),
  counter(
    'shardloop_native_calls_total',
    'Calls from JavaScript into the native core on the path of bytes and connections.',
    (shard) => shard.nativeCalls,
  ),
  counter('shardloop_shard_restarts_total', 'Replacements of the shard.', (shard) => shard.restarts),
  gauge(
    'shardloop_loop_lag_max_seconds',
    'Longest time that the loop was away from its poll.',
    (shard) => shard.loopLagMs.max / MS_PER_SECOND,
  ),
]

const EXECUTOR_LEVELS: readonly [name: 'threads' | 'running' | 'queued', help: string][] = [
  ['threads', 'Threads of the executor.'],
  ['running', 'Tasks that have a thread of the executor.'],
  ['queued', 'Tasks that wait for a thread of the executor.'],
]

const EXECUTOR_ENDS = ['completed', 'failed', 'cancelled', 'refused'] as const

/**
 * The metrics of a server in Prometheus's text format, in base units, by shard: a sum over shards is the reader's to
 * take. prom-client is loaded by the first call, so that threads which never render do without.
 */
export async function renderPrometheus(server: string, metrics: ServerMetrics): Promise<string> {
  const client = await import('prom-client')
  const { Counter, Gauge, Registry } = client
  // Of its own: the global one is the program's. New for each call, as the figures are counted elsewhere.
  const registry = new Registry()
  const shards = metrics.shards.map((shard, id) => ({ shard, labels: { server, shard: String(id) } }))
  for (const { name, help, type, label, samples } of FAMILIES) {
    const labelNames = ['server', 'shard', ...(label === undefined ? [] : [label])]
    const options = { name, help, labelNames, registers: [registry] }
    const metric = type === 'counter' ? new Counter(options) : new Gauge(options)
    for (const { shard, labels } of shards) {
      for (const sample of samples(shard)) metric.inc({ ...labels, ...sample.labels }, sample.value)
    }
  }
  const lags = shards.map(({ shard: { loopLagMs }, labels }) => ({ ...loopLagMs, labels }))
  register(
    registry,
    histogramOf('shardloop_loop_lag_seconds', 'Time that a turn of the loop was away from its poll.', lags),
  )
  registerExecutor(registry, client, server, metrics.executor)
  return await registry.metrics()
}

/** The executor is the process's: its figures have no shard. */
function registerExecutor(
  registry: Registry,
  { Counter, Gauge }: typeof import('prom-client'),
  server: string,
  executor: ExecutorMetrics,
): void {
  const registers = [registry]
  for (const [level, help] of EXECUTOR_LEVELS) {
    const name = `shardloop_executor_${level}`
    new Gauge({ name, help, labelNames: ['server'], registers }).set({ server }, executor[level])
  }
  const tasks = new Counter({
    name: 'shardloop_executor_tasks_total',
    help: 'Tasks of the executor by how they ended.',
    labelNames: ['server', 'end'],
    registers,
  })
  for (const end of EXECUTOR_ENDS) tasks.inc({ server, end }, executor[end])
  const times = ({ histogram, sum }: ExecutorTimes): Timed[] => [{ histogram, sum, labels: { server } }]
  const [queue, run] = ['shardloop_executor_queue_seconds', 'shardloop_executor_run_seconds'] as const
  register(registry, histogramOf(queue, 'Time that a task waited for a thread.', times(executor.queueMs)))
  register(registry, histogramOf(run, 'Time that a task took on its thread.', times(executor.runMs)))
}

function register(registry: Registry, metric: object): void {
  registry.registerMetric(metric as Parameters<Registry['registerMetric']>[0])
}

/** Times that were counted by length. */
interface Timed {
  readonly labels: Readonly<Record<string, string>>
  readonly histogram: readonly LoopLagBucket[]
  /** Milliseconds. */
  readonly sum: number
}

/**
 * prom-client's own Histogram takes single observations only, and these are counted by bucket already. A registry asks
 * a metric for no more than this.
 */
function histogramOf(name: string, help: string, series: readonly Timed[]): object {
  const values = series.flatMap(({ labels, histogram, sum }) => {
    const buckets = histogram.map(({ leMs, count }) => ({
      metricName: `${name}_bucket`,
      labels: {
        ...labels,
        le: Number.isFinite(leMs) ? Math.round(leMs * NS_PER_MS) / NS_PER_SECOND : '+Inf',
      },
      value: count,
    }))
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels, value: sum / MS_PER_SECOND },
      { metricName: `${name}_count`, labels, value: histogram.at(-1)?.count ?? 0 },
    ]
  })
  return { name, get: async () => ({ name, help, type: 'histogram', aggregator: 'sum', values }) }
}
