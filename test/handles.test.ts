import assert from 'node:assert/strict'
import type { Transport } from '../src/index.js'
import { churnStale } from './harness/churn.js'
import { assertBytes } from './harness/client.js'
import { BorrowedEcho, ChunkEcho } from './harness/echo-protocols.js'
import { KiB } from './harness/memory.js'
import { Recorder } from './harness/recorder.js'
import { forEachEngine, portOf, settle } from './harness/suite.js'
import { echoThrough } from './harness/traffic.js'

forEachEngine('handles and slots', (test) => {
  test('ids name the shard and are never used again', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const ids = new Set<string>()
    for (let round = 0; round < 60; round++) {
      const pairs = [await t.join(accepting), await t.join(accepting), await t.join(accepting)]
      for (const { client, protocol } of pairs) {
        assert.match(protocol.transport.id, /^\d+-\d+$/)
        ids.add(protocol.transport.id)
        client.end()
      }
      await Promise.all(pairs.map(({ protocol }) => protocol.lost()))
    }
    assert.equal(ids.size, 180)
  })

  test('nothing that is done to a lost transport reaches its successor', async (t) => {
    await churnStale(t, 600)
  })

  test('a transport aborted in the turn in which its successor is accepted', async (t) => {
    // The abort and the writes of the old one wait in the ring while the batch that accepts the new one is handled.
    const accepting = await t.serveEach(() => new Recorder())
    for (let round = 0; round < 50; round++) {
      const old = await t.join(accepting)
      old.protocol.transport.write('old')
      old.protocol.transport.abort()
      const { client, protocol } = await t.join(accepting)
      old.protocol.transport.write('stale')
      old.protocol.transport.abort()
      protocol.transport.write('new')
      protocol.transport.close()
      assert.equal((await client.readToEnd()).toString(), 'new')
      client.end()
      assert.equal(await protocol.lost(), null)
    }
  })
})

forEachEngine('two servers in one thread', (test) => {
  test('each has its own port, protocols, counts and end', async (t) => {
    const first = await t.serveEach(() => new Recorder())
    const second = await t.serveEach(() => new Recorder())
    assert.notEqual(portOf(first.server), portOf(second.server))
    const one = await t.join(first)
    const two = await t.join(second)
    await one.client.write('to the first')
    await two.client.write('to the second')
    assert.equal((await one.protocol.receivedAtLeast(12)).toString(), 'to the first')
    assert.equal((await two.protocol.receivedAtLeast(13)).toString(), 'to the second')
    assert.notEqual(one.protocol.transport.id, two.protocol.transport.id)
    await first.server.abort()
    assert.notEqual(await one.protocol.lost(), null)
    await assert.rejects(t.connect(portOf(first.server)), { code: 'ECONNREFUSED' })
    await settle(two)
    await settle(await t.join(second))
    assert.deepEqual(two.protocol.events, ['made'])
    // And a new one after the first is gone.
    const third = await t.serveEach(() => new Recorder())
    await settle(await t.join(third))
    await second.server.close()
    await two.protocol.lost()
    await settle(await t.join(third))
  })

  test('traffic through both at the same time, and from one to the other', async (t) => {
    const chunked = await t.serve(() => new ChunkEcho())
    const borrowed = await t.serve(() => new BorrowedEcho())
    const target = await t.pair(() => new Recorder())
    const forwarding = await t.serveEach(() => new Recorder())
    const source = await t.join(forwarding)
    source.protocol.dataReceived = (chunk) => (target.protocol.transport as Transport).write(chunk)
    const data = t.random.bytes(500 * KiB)
    const clients = [await t.connect(chunked), await t.connect(borrowed), await t.connect(chunked)]
    await Promise.all([
      ...clients.map((client) => echoThrough(client, t.random.bytes(2000 * KiB), t.random, 60 * KiB)),
      source.client.write(data),
      target.client.readExactly(data.length).then((received) => assertBytes(received, data)),
    ])
  })
})
