import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import type { Server, ShardMetrics } from '../src/index.js'
import { native } from '../src/native/index.js'
import { readServerMetrics } from '../src/server/metrics.js'
import { renderPrometheus } from '../src/server/prometheus.js'
import { eventually } from './harness/deferred.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { forEachEngine } from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/obedient-module.js', import.meta.url)

interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

interface Exposition {
  readonly help: ReadonlyMap<string, string>
  readonly types: ReadonlyMap<string, string>
  readonly samples: readonly Sample[]
}

/** Reads the text format; throws on a line that is none of it. */
function parse(text: string): Exposition {
  const [help, types, samples] = [new Map<string, string>(), new Map<string, string>(), [] as Sample[]]
  for (const line of text.split('\n')) {
    if (line === '') continue
    const comment = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line)
    if (comment !== null) {
      const [, kind, name, rest] = comment as unknown as [string, string, string, string]
      const into = kind === 'HELP' ? help : types
      assert.ok(!into.has(name), `${name} has one ${kind}`)
      into.set(name, rest)
      continue
    }
    const sample = /^([a-z_]+)\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)*)\} (\S+)$/.exec(line)
    assert.ok(sample !== null, `a sample: ${line}`)
    const [, name, list, value] = sample as unknown as [string, string, string, string]
    const labels: Record<string, string> = {}
    for (const [, key, quoted] of list.matchAll(/([a-z]+)="((?:[^"\\]|\\.)*)"/g))
      labels[key as string] = JSON.parse(`"${quoted}"`)
    samples.push({ name, labels, value: Number(value) })
  }
  return { help, types, samples }
}

/** The samples of a name by shard; of those, the ones with `labels`. */
function values(
  { samples }: Exposition,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): Record<string, number> {
  const found = samples.filter(
    (sample) =>
      sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  )
  return Object.fromEntries(found.map(({ labels: { shard }, value }) => [shard, value]))
}

/** Counters of a server that has nothing to do: the text and the snapshot are of the same moment. */
async function still(server: Server): Promise<{ text: Exposition; shards: readonly ShardMetrics[] }> {
  for (;;) {
    const before = server.metrics().shards
    const text = parse(await server.prometheus())
    const after = server.metrics().shards
    const show = (shards: readonly ShardMetrics[]): string =>
      JSON.stringify(shards, (_, value) => (typeof value === 'bigint' ? String(value) : value))
    if (show(before) === show(after)) return { text, shards: after }
  }
}

forEachEngine('prometheus', (test) => {
  test('prom-client is not loaded before it is needed', async (t) => {
    const loaded = (): boolean =>
      Object.keys(createRequire(import.meta.url).cache).some((file) => /[\\/]prom-client[\\/]/.test(file))
    const server = await t.serve(() => new ChunkEcho())
    server.metrics()
    assert.equal(loaded(), false)
    await server.prometheus()
    assert.equal(loaded(), true)
  })

  test('tells what metrics() tells, by shard, with help and type', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, name: 'told "so"\\' })
    const clients = await Promise.all(Array.from({ length: 10 }, () => t.connect(server)))
    for (const client of clients) {
      await client.write('hello\n')
      await client.readLine()
    }
    clients[0]?.reset()
    await clients[0]?.untilClose()
    await eventually(
      () => server.metrics().total.resets.peer === 1 && server.metrics().total.bytesWritten === 60n,
    )
    const { text, shards } = await still(server)
    const read: Record<string, (shard: ShardMetrics) => number> = {
      shardloop_connections_open: (shard) => shard.connectionsOpen,
      shardloop_connections_total: (shard) => shard.connectionsTotal,
      shardloop_connections_made_total: (shard) => shard.connectionsMade,
      shardloop_connects_failed_total: (shard) => shard.connectsFailed,
      shardloop_connections_taken_over_total: (shard) => shard.connectionsTakenOver,
      shardloop_received_bytes_total: (shard) => Number(shard.bytesRead),
      shardloop_sent_bytes_total: (shard) => Number(shard.bytesWritten),
      shardloop_batches_total: (shard) => shard.batches,
      shardloop_events_total: (shard) => shard.events,
      shardloop_read_calls_total: (shard) => shard.reads,
      shardloop_write_calls_total: (shard) => shard.writes,
      shardloop_poll_calls_total: (shard) => shard.polls,
      shardloop_busy_poll_seconds_total: (shard) => shard.busyPollMs / 1000,
      shardloop_moderation_seconds_total: (shard) => shard.moderationMs / 1000,
      shardloop_native_calls_total: (shard) => shard.nativeCalls,
      shardloop_shard_restarts_total: (shard) => shard.restarts,
      shardloop_loop_lag_max_seconds: (shard) => shard.loopLagMs.max / 1000,
    }
    for (const [name, of] of Object.entries(read))
      assert.deepEqual(
        values(text, name),
        { 0: of(shards[0] as ShardMetrics), 1: of(shards[1] as ShardMetrics) },
        name,
      )
    for (const [shard, metrics] of shards.entries()) {
      const of = (name: string, label: string): Record<string, number> =>
        Object.fromEntries(
          text.samples
            .filter((sample) => sample.name === name && sample.labels['shard'] === String(shard))
            .map(({ labels, value }) => [camel(labels[label] as string), value]),
        )
      assert.deepEqual(of('shardloop_connection_resets_total', 'cause'), metrics.resets)
      assert.deepEqual(of('shardloop_accept_errors_total', 'kind'), metrics.acceptErrorsByKind)
    }
    assert.ok(text.samples.every(({ labels }) => labels['server'] === 'told "so"\\'))
    const families = new Set(text.samples.map(({ name }) => name.replace(/_(bucket|sum|count)$/, '')))
    assert.deepEqual([...families].sort(), [...text.types.keys()].sort())
    assert.deepEqual([...families].sort(), [...text.help.keys()].sort())
    for (const [name, type] of text.types) assert.equal(type === 'counter', name.endsWith('_total'), name)
    assert.equal(text.types.get('shardloop_loop_lag_seconds'), 'histogram')
    assert.equal(text.types.get('shardloop_connections_open'), 'gauge')
  })

  test('the loop lag is a histogram in seconds', async (t) => {
    const server = await t.serve(MODULE, { shards: 2 })
    const { text, shards } = await still(server)
    for (const [shard, { loopLagMs }] of shards.entries()) {
      const buckets = text.samples.filter(
        ({ name, labels }) =>
          name === 'shardloop_loop_lag_seconds_bucket' && labels['shard'] === String(shard),
      )
      assert.deepEqual(
        buckets.map(({ labels, value }) => [labels['le'], value]),
        loopLagMs.histogram.map(({ leMs, count }, index) => [
          leMs === Number.POSITIVE_INFINITY ? '+Inf' : String((64 * 2 ** index) / 1e6),
          count,
        ]),
      )
      const last = loopLagMs.histogram.at(-1)?.count
      assert.equal(values(text, 'shardloop_loop_lag_seconds_count')[shard], last)
      assert.equal(values(text, 'shardloop_loop_lag_seconds_sum')[shard], loopLagMs.sum / 1000)
    }
  })

  test('two servers differ by their label, and may be rendered again and again', async (t) => {
    const first = await t.serve(MODULE, { shards: 1, name: 'first' })
    const second = await t.serve(() => new ChunkEcho(), { name: 'second' })
    for (const server of [first, second, first]) {
      const { samples } = parse(await server.prometheus())
      assert.ok(samples.length > 0 && samples.every(({ labels }) => labels['server'] === server.name))
    }
  })

  test('answers while every shard spins', async (t) => {
    const server = await t.serve(MODULE, { shards: 1 })
    const client = await t.connect(server)
    await client.write('spin\n')
    assert.equal(await client.readLine(), 'spinning')
    const text = parse(await server.prometheus())
    assert.deepEqual(values(text, 'shardloop_connections_open'), { 0: 1 })
    await server.abort()
    await client.readToClose()
  })

  test('counters are exact up to 2^53', async () => {
    const exact = 2n ** 53n - 1n
    const token = native.allocateMetrics()
    const metrics = readServerMetrics([token], [7])
    native.freeMetrics(token)
    const [fresh] = metrics.shards as [ShardMetrics]
    assert.equal(fresh.restarts, 7)
    assert.equal(metrics.total.restarts, 7)
    const rendered = await renderPrometheus('exact', { ...metrics, shards: [{ ...fresh, bytesRead: exact }] })
    assert.match(rendered, /^shardloop_received_bytes_total\{server="exact",shard="0"\} 9007199254740991$/m)
    assert.match(rendered, /^shardloop_shard_restarts_total\{server="exact",shard="0"\} 7$/m)
  })
})

/** As the snapshot spells what a label's value names. */
function camel(value: string): string {
  return value.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}
