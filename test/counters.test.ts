import assert from 'node:assert/strict'
import type { ShardMetrics } from '../src/index.js'
import { DIRECT_WRITE_BYTES } from '../src/native/abi.js'
import { native } from '../src/native/index.js'
import { ECHOES, RECEIVE_MODES } from './harness/echo-protocols.js'
import { BorrowedRecorder, Recorder } from './harness/recorder.js'
import { type Accepting, forEachEngine, settle, type TestContext } from './harness/suite.js'

const CONNECTIONS = 64

/**
 * Counts calls from JavaScript into the native shard while `run` runs: those on the path of bytes by the shard's own
 * counter, all others by method.
 */
async function countNativeCalls(
  server: { metrics(): { readonly total: ShardMetrics } },
  run: () => Promise<void> | void,
): Promise<Record<string, number>> {
  const calls: Record<string, number> = {}
  const prototype = native.NativeShard.prototype as unknown as Record<string, (...args: unknown[]) => unknown>
  const originals = { ...prototype }
  for (const [name, original] of Object.entries(originals)) {
    if (typeof original !== 'function' || name === 'constructor') continue
    prototype[name] = function (this: unknown, ...args: unknown[]) {
      calls[name] = (calls[name] ?? 0) + 1
      return original.apply(this, args)
    }
  }
  const before = server.metrics().total.nativeCalls
  try {
    await run()
  } finally {
    Object.assign(prototype, originals)
  }
  const hot = server.metrics().total.nativeCalls - before
  return hot === 0 ? calls : { ...calls, hot }
}

type Counted = 'batches' | 'events' | 'reads' | 'writes' | 'polls'

function difference(before: ShardMetrics, after: ShardMetrics): Record<Counted, number> {
  const names: readonly Counted[] = ['batches', 'events', 'reads', 'writes', 'polls']
  return Object.fromEntries(names.map((name) => [name, after[name] - before[name]])) as Record<
    Counted,
    number
  >
}

async function serveMany<Made extends Recorder>(t: TestContext, make: () => Made): Promise<Accepting<Made>> {
  const accepting = await t.serveEach(make)
  for (let count = 0; count < CONNECTIONS; count++) await t.join(accepting)
  const last = accepting.protocols.at(-1) as Made
  await settle({ client: accepting.clients.at(-1) as never, protocol: last })
  return accepting
}

forEachEngine('counters', (test, engine) => {
  /** An I/O thread wakes JavaScript with what it has: the rest of what is ready comes in further batches, but not in many. */
  const mostBatches = (rounds: number): number => (engine === 'mio' ? rounds : rounds * (CONNECTIONS / 8))

  for (const Made of [Recorder, BorrowedRecorder]) {
    test(`one call into JavaScript for a whole batch (${Made.name})`, async (t) => {
      const accepting = await serveMany(t, () => new Made())
      const { server, clients, protocols } = accepting
      const order: string[] = []
      for (const protocol of protocols) {
        const record = protocol as unknown as { record(bytes: Uint8Array): void }
        const original = record.record
        record.record = (bytes) => {
          if (order.length === 0) queueMicrotask(() => order.push('microtask'))
          order.push('received')
          original.call(protocol, bytes)
        }
      }
      const before = server.metrics().total
      const expected = protocols.map((protocol) => protocol.received + 64)
      // One turn of the client: all of them are readable when the server polls.
      for (const client of clients) client.socket.write(t.random.bytes(64))
      await Promise.all(
        protocols.map((protocol, index) => protocol.receivedAtLeast(expected[index] as number)),
      )
      assert.equal(order.filter((step) => step === 'received').length, CONNECTIONS)
      // Microtasks run when a call into JavaScript returns.
      if (engine === 'mio')
        assert.equal(order.indexOf('microtask'), CONNECTIONS, 'all callbacks came in the same call')
      const { batches, events, reads } = difference(before, server.metrics().total)
      assert.deepEqual({ events, reads }, { events: CONNECTIONS, reads: CONNECTIONS })
      assert.ok(batches >= 1 && batches <= mostBatches(1), `${batches} batches`)
    })
  }

  for (const mode of RECEIVE_MODES) {
    test(`${mode}: an echo round of ${CONNECTIONS} is one batch, one read and one write each`, async (t) => {
      const server = await t.serve(() => new ECHOES[mode]())
      const clients = await Promise.all(Array.from({ length: CONNECTIONS }, () => t.connect(server)))
      const round = async (): Promise<void> => {
        for (const client of clients) client.socket.write('x'.repeat(64))
        await Promise.all(clients.map((client) => client.readExactly(64)))
      }
      await round()
      const before = server.metrics().total
      let calls: Record<string, number> = {}
      calls = await countNativeCalls(server, async () => {
        for (let count = 0; count < 20; count++) await round()
      })
      const counted = difference(before, server.metrics().total)
      assert.equal(counted.events, 20 * CONNECTIONS)
      assert.ok(counted.batches >= 20 && counted.batches <= mostBatches(20), `${counted.batches} batches`)
      assert.equal(counted.reads, 20 * CONNECTIONS, 'a short read ends the read')
      assert.equal(counted.writes, 20 * CONNECTIONS)
      assert.deepEqual(calls, {}, 'no native call for a small write')
    })
  }

  test('small writes in one turn become few writes of the kernel, without a native call', async (t) => {
    const { accepting, client, protocol } = await t.pair(() => new Recorder())
    const before = accepting.server.metrics().total
    const calls = await countNativeCalls(accepting.server, async () => {
      for (let count = 0; count < 1000; count++) protocol.transport.write('0123456789')
      await client.readExactly(10_000)
    })
    assert.deepEqual(calls, {})
    assert.equal(difference(before, accepting.server.metrics().total).writes, 1)
  })

  test('the ring is flushed by one native call each time it is full, not by one for each write', async (t) => {
    const accepting = await serveMany(t, () => new Recorder())
    const rounds = 400
    const calls = await countNativeCalls(accepting.server, async () => {
      for (let round = 0; round < rounds; round++) {
        for (const { transport } of accepting.protocols) transport.write('0123456789')
      }
      await Promise.all(accepting.clients.map((client) => client.readExactly(10 * rounds)))
    })
    const writes = rounds * CONNECTIONS
    assert.deepEqual(Object.keys(calls), ['hot'])
    assert.ok((calls['hot'] as number) <= writes / 1000, `${calls['hot']} flushes for ${writes} writes`)
  })

  test('a large write is one native call and one write of the kernel', async (t) => {
    const { accepting, client, protocol } = await t.pair(() => new Recorder())
    const before = accepting.server.metrics().total
    const calls = await countNativeCalls(accepting.server, async () => {
      protocol.transport.write(Buffer.alloc(DIRECT_WRITE_BYTES))
      await client.readExactly(DIRECT_WRITE_BYTES)
    })
    assert.deepEqual(calls, { hot: 1 })
    assert.equal(difference(before, accepting.server.metrics().total).writes, 1)
  })

  test('an idle server polls and calls nothing', async (t) => {
    const accepting = await serveMany(t, () => new Recorder())
    const before = accepting.server.metrics().total
    // The client's own timer is what the loop waits for here: many turns without an event for the server.
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setTimeout(resolve, 5))
    const counted = difference(before, accepting.server.metrics().total)
    assert.deepEqual({ batches: counted.batches, events: counted.events }, { batches: 0, events: 0 })
    assert.ok(counted.polls <= 1, `${counted.polls} polls`)
  })
})
