import assert from 'node:assert/strict'
import { eventually } from './harness/deferred.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { forEachEngine } from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/obedient-module.js', import.meta.url)

// A peer may read what a shard has sent before the shard has counted it, hence `eventually`.
forEachEngine('metrics', (test) => {
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
