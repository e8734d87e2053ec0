/** A shard dies in the middle of handshakes, or when they are done and its JavaScript has not heard of it: others go on with them. */
import assert from 'node:assert/strict'
import type { Server } from '../../src/index.js'
import { CRASH_MODULE, crash, hold, letGo, mortal, nextDeath, WAYS } from '../harness/crashes.js'
import { eventually } from '../harness/deferred.js'
import { HALF_HELLO_BYTES, Halting, type Until } from '../harness/halting.js'
import { forEachTransport, type TestContext } from '../harness/suite.js'

function several(t: TestContext, server: Server, until: Until, count: number): Halting[] {
  return Array.from({ length: count }, () => new Halting(t, server, until))
}

/** In the middle of their handshakes, half of them in the middle of their hello; the server has all that they have sent. */
async function halfDone(t: TestContext, server: Server, count: number): Promise<Halting[]> {
  const begun = several(t, server, 'half a hello', count)
  const read = (): number => Number(server.metrics().total.bytesRead)
  const before = read()
  await eventually(() => read() >= before + count * HALF_HELLO_BYTES)
  const greeted = several(t, server, 'a hello', count)
  for (const client of greeted) await client.until(() => client.gate.received > 0)
  return [...begun, ...greeted]
}

const HALF_DONE = 8
const NEW = 20

forEachTransport(
  'handshakes on a shard that dies',
  (test, engine, transport) => {
    for (const [way, reason] of transport === 'tls1.3' ? WAYS : WAYS.slice(0, 1)) {
      for (const early of [false, true]) {
        const when = early ? 'before its end' : 'behind its end'
        test(`half done ones are finished ${when} at another one (${way})`, async (t) => {
          // What is asked of the other shard below is done long before this one is ended as stuck.
          const server = await t.serve(CRASH_MODULE, {
            ...mortal(way, 2),
            ...(way === 'terminate' && { killAfterMs: 3_000 }),
          })
          const died = nextDeath(server)
          const killer = await t.connect(server)
          const clients = await halfDone(t, server, HALF_DONE)
          const held = await hold(killer, way)
          const { connectionsOpen } = server.metrics().shards[held.shard] as { connectionsOpen: number }
          // Nobody waits for a shard that is stuck.
          const fresh = several(t, server, 'all of it', NEW)
          for (const client of fresh) assert.equal(await client.answer, 1 - held.shard)
          if (early) {
            for (const client of clients) client.go()
            // There the thread that does the I/O is not blocked.
            if (engine === 'tokio')
              for (const client of clients) assert.equal(await client.answer, 1 - held.shard)
          }
          letGo(held)
          const change = await died
          assert.equal(change.id, held.shard)
          assert.match(change.reason ?? '', reason)
          assert.equal(change.connectionsLost, 1, 'that of who gave the order')
          if (!early) for (const client of clients) client.go()
          for (const client of clients) await client.answer
          const { connectionsTakenOver, tls, resets } = server.metrics().total
          assert.ok(connectionsTakenOver >= connectionsOpen - 1, `${connectionsTakenOver} were taken over`)
          assert.equal(tls.handshakes, 1 + clients.length + fresh.length)
          assert.deepEqual(Object.values(tls.failed), Array(6).fill(0))
          assert.equal(resets.shardDeath, 1)
          await killer.untilReset()
        })
      }
    }

    test('that is the only one are finished at its replacement, what was said already included', async (t) => {
      const server = await t.serve(CRASH_MODULE, mortal('exit', 1))
      const died = nextDeath(server)
      const killer = await t.connect(server)
      const clients = await halfDone(t, server, HALF_DONE)
      const held = await hold(killer, 'exit')
      const fresh = several(t, server, 'all of it', NEW)
      if (engine === 'tokio') {
        // Their handshakes are done by the thread that does the I/O, and JavaScript does not hear of them.
        for (const client of clients.filter((_, at) => at % 2 === 0)) {
          client.go()
          await client.until(() => client.isSecure)
        }
      }
      letGo(held)
      assert.equal((await died).connectionsLost, 1)
      for (const client of clients) client.go()
      for (const client of [...clients, ...fresh]) assert.equal(await client.answer, 0)
      const { tls } = server.metrics().total
      assert.equal(tls.handshakes, 1 + clients.length + fresh.length)
      await killer.untilReset()
    })
  },
  ['tls1.2', 'tls1.3'],
)

forEachTransport(
  'connections with TLS that queue up while a shard dies',
  (test) => {
    for (const shards of [1, 2]) {
      for (const [way, reason] of WAYS.filter(([name]) => /throw|exit|terminate/.test(name))) {
        test(`are answered by ${shards === 1 ? 'its replacement' : 'others'} (${way})`, async (t) => {
          const { answered, failed } = await crash(t, way, reason, {
            crashes: 1,
            queued: 50,
            shards,
            residents: 10,
          })
          assert.deepEqual({ answered, failed }, { answered: 50, failed: 0 })
        })
      }
    }
  },
  ['tls'],
)
