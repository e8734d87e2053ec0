import assert from 'node:assert/strict'
import type { ResetCounts } from '../src/index.js'
import { eventually } from './harness/deferred.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { MiB } from './harness/memory.js'
import { Recorder } from './harness/recorder.js'
import { assertCode, forEachEngine, type Pair, type TestContext } from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/obedient-module.js', import.meta.url)

/** Ways to end a connection out of order, by how they are counted. */
const RESETS: Partial<
  Record<keyof ResetCounts, (t: TestContext, pair: Pair<Recorder>) => Promise<void> | void>
> = {
  peer: (_, { client }) => client.reset(),
  idleTimeout: (_, { protocol }) => protocol.transport.setIdleTimeout(1),
  writeOverflow: (t, { client, protocol }) => {
    client.pause()
    protocol.transport.write(t.random.bytes(16 * MiB))
  },
  detached: (t, { client, protocol }) => {
    client.pause()
    const memory = new Uint8Array(t.random.bytes(8 * MiB))
    protocol.transport.writeOwned(memory).catch(() => {})
    structuredClone(memory.buffer, { transfer: [memory.buffer] })
    client.resume() // there is room to send them: then it is noticed
  },
  program: (_, { protocol }) => protocol.transport.abort(),
  server: async (_, { server }) => server.abort(),
}

// A peer may read what a shard has sent before the shard has counted it, hence `eventually`.
forEachEngine('metrics', (test, engine) => {
  test('count connections and bytes both ways, and say how the loop does', async (t) => {
    const server = await t.serve(() => new ChunkEcho())
    const fresh = server.metrics().total
    assert.equal(fresh.connectionsTotal, 0)
    assert.equal(fresh.bytesRead, 0n)
    const clients = await Promise.all([t.connect(server), t.connect(server)])
    for (const client of clients) {
      await client.write('hello')
      await client.readExactly(5)
    }
    await eventually(() => server.metrics().total.bytesWritten === 10n)
    const { total, shards } = server.metrics()
    assert.deepEqual(shards, [total])
    assert.equal(total.connectionsOpen, 2)
    assert.equal(total.connectionsTotal, 2)
    assert.equal(total.bytesRead, 10n)
    assert.equal(total.acceptErrors, 0)
    assert.ok(total.batches >= 1 && total.events >= 4)
    assert.equal(total.eventsPerBatch, total.events / total.batches)
    assert.ok(total.reads >= 2 && total.writes >= 2 && total.polls >= 1)
    assert.ok(total.loopLagMs.max >= total.loopLagMs.mean && total.loopLagMs.mean > 0)
    await clients[0]?.destroy()
    await eventually(() => server.metrics().total.connectionsOpen === 1)
    assert.equal(server.metrics().total.connectionsTotal, 2)
  })

  for (const [cause, reset] of Object.entries(RESETS)) {
    if (cause === 'detached' && engine === 'tokio') {
      test.skip(
        `count ... by its cause: ${cause}`,
        'what is to be sent is copied, so detaching it ends no connection',
      )
      continue
    }
    test(`count a connection that does not end in order by its cause: ${cause}`, async (t) => {
      const pair = await t.pair(() => new Recorder(), { writeMaxBytes: 12 * MiB })
      const { server, client, protocol } = pair
      const before = server.metrics().total
      assert.deepEqual(new Set(Object.values(before.resets)), new Set([0]))
      await reset(t, pair)
      await protocol.lost()
      await client.destroy()
      const { resets, writeOverflows } = server.metrics().total
      assert.deepEqual(resets, { ...before.resets, [cause]: 1 })
      assert.equal(writeOverflows, resets.writeOverflow)
    })
  }

  test('count a failed callback as the program, and an orderly end not at all', async (t) => {
    const server = await t.serve(
      () => ({
        dataReceived() {
          throw new Error('thrown')
        },
      }),
      { exceptionHandler: () => {} },
    )
    const [failing, ending] = [await t.connect(server), await t.connect(server)]
    await failing.write('?')
    assertCode(await failing.untilClose(), 'ECONNRESET')
    ending.end()
    await ending.untilClose()
    const { resets, connectionsTotal } = server.metrics().total
    assert.equal(resets.program, 1)
    assert.equal(
      Object.values(resets).reduce((sum, count) => sum + count),
      1,
    )
    assert.equal(connectionsTotal, 2)
  })

  test('have the lag of every turn of the loop in a cumulative histogram', async (t) => {
    const server = await t.serve(() => new ChunkEcho())
    const before = server.metrics().total.loopLagMs.histogram
    const blockedMs = 40
    for (const end = performance.now() + blockedMs; performance.now() < end; );
    await eventually(() => server.metrics().total.loopLagMs.max >= blockedMs)
    const { histogram, max, sum } = server.metrics().total.loopLagMs
    assert.equal(histogram.length, 20)
    assert.equal(histogram[0]?.leMs, 0.064)
    assert.equal(histogram.at(-1)?.leMs, Number.POSITIVE_INFINITY)
    for (const [index, { leMs, count }] of histogram.entries()) {
      const next = histogram[index + 1]
      assert.ok(next === undefined || (next.count >= count && next.leMs >= 2 * leMs))
    }
    assert.ok(sum >= max)
    const above = (buckets: typeof histogram): number =>
      (buckets.at(-1)?.count as number) - (buckets.find(({ leMs }) => leMs === 32.768)?.count as number)
    assert.ok(above(histogram) > above(before), 'the turn of 40 ms is above 32.768 ms')
  })

  test('are by shard, and their total is the sum', async (t) => {
    const server = await t.serve(MODULE, { shards: 3 })
    const clients = await Promise.all(Array.from({ length: 30 }, () => t.connect(server)))
    for (const client of clients) {
      await client.write('hello\n')
      await client.readLine()
    }
    await eventually(() => server.metrics().total.bytesWritten === 180n)
    const { total, shards } = server.metrics()
    assert.equal(shards.length, 3)
    assert.equal(total.connectionsOpen, 30)
    assert.equal(total.bytesRead, 180n)
    assert.equal(
      shards.reduce((sum, { connectionsOpen }) => sum + connectionsOpen, 0),
      30,
    )
    assert.equal(
      shards.reduce((sum, { bytesRead }) => sum + bytesRead, 0n),
      180n,
    )
    assert.equal(total.restarts, 0)
    for (const [bucket, { count }] of total.loopLagMs.histogram.entries()) {
      assert.equal(
        shards.reduce((sum, { loopLagMs }) => sum + (loopLagMs.histogram[bucket]?.count ?? 0), 0),
        count,
      )
    }
    assert.equal(total.loopLagMs.max, Math.max(...shards.map(({ loopLagMs }) => loopLagMs.max)))
  })

  test('answer while every shard spins, and stay after the end', async (t) => {
    const server = await t.serve(MODULE, { shards: 1 })
    const client = await t.connect(server)
    await client.write('spin\n')
    assert.equal(await client.readLine(), 'spinning')
    assert.equal(server.metrics().total.connectionsOpen, 1)
    assert.equal(server.metrics().total.bytesRead, 5n)
    await eventually(() => server.metrics().total.bytesWritten === 9n)
    await server.abort()
    assert.equal(server.metrics().total.bytesRead, 5n)
    assert.equal(server.metrics().total.connectionsTotal, 1)
    await client.readToClose()
  })
})
