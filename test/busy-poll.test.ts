import assert from 'node:assert/strict'
import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { loadgenProgram } from '../bench/load.js'
import type { Protocol, Server, Transport } from '../src/index.js'
import { callable } from './harness/calls.js'
import { Deferred } from './harness/deferred.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { tellSkipped } from './harness/skip.js'
import {
  forEachEngine,
  forEachTransport,
  PLAIN_TRANSPORTS,
  type TestContext,
  whereIs,
} from './harness/suite.js'

/** A look ends at something found in one of so many seconds at the latest. */
const TRIES = 8
/**
 * A round trip from which on a peer that answers at once is none that is looked for: as long as that a sleeping thread takes until it
 * runs on some virtual machines.
 */
const FAR_US = 40

forEachTransport(
  'looking for the next event',
  (test, engine) => {
    test('happens where one peer answers at once, and is counted', async (t) => {
      const server = await t.serve(() => new ChunkEcho())
      // With one processor the peer has none while we look. On tokio another thread looks.
      const looks = engine === 'mio' && availableParallelism() > 1
      const measured = (): { busyPollMs: number; reads: number; turns: number } => {
        const { busyPollMs, loopLagMs, reads } = server.metrics().total
        return { busyPollMs, reads, turns: loopLagMs.histogram.at(-1)?.count ?? 0 }
      }
      /** Many messages were found by looking: the loop turned less often than they came. */
      const found = ({ busyPollMs, reads, turns }: ReturnType<typeof measured>): boolean =>
        busyPollMs > 0 && turns < (reads * 3) / 4
      let [elapsedMs, last] = [0, measured()]
      for (let tries = 0; tries === 0 || (looks && !found(last) && tries < TRIES); tries++) {
        const [began, before] = [performance.now(), measured()]
        await pingPong(t, server)
        elapsedMs += performance.now() - began
        const after = measured()
        last = { ...after, reads: after.reads - before.reads, turns: after.turns - before.turns }
      }
      const told = JSON.stringify({ ...last, elapsedMs })
      if (looks && !found(last)) {
        const roundTripUs = 1e6 / last.reads // in a second
        assert.ok(roundTripUs > FAR_US && last.busyPollMs < elapsedMs / 20, told)
        tellSkipped(
          'busy-poll',
          'a peer that is looked for',
          `it takes ${Math.round(roundTripUs)} µs to be woken here`,
        )
      } else assert.ok(last.busyPollMs < elapsedMs, told)
      if (engine !== 'mio') assert.equal(last.busyPollMs, 0)
    })

    test('leaves the thread time for timers and other work', async (t) => {
      const server = await t.serve(() => new ChunkEcho())
      const load = pingPong(t, server)
      const done = { timers: 0, files: 0 }
      let ended = false
      const beside = async (kind: keyof typeof done, run: () => Promise<unknown>): Promise<void> => {
        while (!ended) {
          await run()
          done[kind] += 1
        }
      }
      const all = [beside('timers', () => delay(1)), beside('files', () => stat('/'))]
      await load
      ended = true
      await Promise.all(all)
      assert.ok(done.timers >= 100 && done.files >= 100, JSON.stringify(done))
    })

    test('does not happen while immediates wait', async (t) => {
      const looked: number[] = []
      class Later implements Protocol {
        transport!: Transport
        connectionMade(transport: Transport): void {
          this.transport = transport
        }
        dataReceived(chunk: Buffer): void {
          const before = server.metrics().total.busyPollMs
          setImmediate(() => {
            looked.push(server.metrics().total.busyPollMs - before)
            this.transport.write(chunk)
          })
        }
      }
      const server: Server = await t.serve(() => new Later())
      await pingPong(t, server)
      assert.ok(looked.length > 100)
      assert.deepEqual(new Set(looked), new Set([0]))
    })
  },
  PLAIN_TRANSPORTS,
) // the load generator's echo is over these

forEachEngine('looking for the next message', (test, engine) => {
  test('happens where a thread answers at once', async (t) => {
    await callable(t)
    const loopCount = (): number => performance.nodeTiming.uvMetricsInfo.loopCount
    let turnsPerCall = Number.POSITIVE_INFINITY
    for (let tries = 0; tries < TRIES && turnsPerCall > 0.75; tries++) {
      const before = loopCount()
      const calls = await callsFor(t, 500)
      turnsPerCall = (loopCount() - before) / calls
    }
    // With one processor the other thread has none while this one looks.
    if (availableParallelism() > 1)
      assert.ok(turnsPerCall <= 0.75, `${turnsPerCall} turns of the loop a call`)
  })

  test('does not keep what was written', async (t) => {
    await callable(t)
    const made = new Deferred<Transport>()
    const server = await t.serve(() => ({
      connectionMade: (transport: Transport) => made.resolve(transport),
    }))
    await t.connect(server)
    const transport = await made.promise
    await callsFor(t, 100) // now both threads look
    let held = 0
    const end = performance.now() + 500
    while (performance.now() < end) {
      const before = server.metrics().total.writes
      transport.write('x')
      await t.loop.call(0, 'echo')
      // On tokio another thread writes.
      if (engine === 'mio' && server.metrics().total.writes === before) held += 1
    }
    assert.equal(held, 0)
  })

  test('leaves the thread time for sockets, timers and other work', async (t) => {
    await callable(t)
    const client = await t.connect(await t.serve(() => new ChunkEcho()))
    const done = { echoes: 0, timers: 0, files: 0, immediates: 0 }
    let ended = false
    const beside = async (kind: keyof typeof done, run: () => Promise<unknown>): Promise<void> => {
      for (; !ended; done[kind] += 1) await run()
    }
    const all = [
      beside('echoes', async () => {
        await client.write('to this thread\n')
        await client.readLine()
      }),
      beside('timers', () => delay(1)),
      beside('files', () => stat('/')),
      beside('immediates', () => new Promise(setImmediate)),
    ]
    const calls = await callsFor(t, 500)
    ended = true
    await Promise.all(all)
    assert.ok(
      calls >= 100 && Object.values(done).every((count) => count >= 50),
      JSON.stringify({ calls, ...done }),
    )
  })
})

/** Calls one behind the other for so long; how many. */
async function callsFor(t: TestContext, ms: number): Promise<number> {
  let calls = 0
  for (const end = performance.now() + ms; performance.now() < end; calls++)
    await t.loop.call(0, 'echo', calls)
  return calls
}

/** One connection that sends a message, waits for it to come back and sends the next, for a second. */
async function pingPong(t: TestContext, server: Server): Promise<void> {
  const where = whereIs(server)
  const addr = typeof where === 'string' ? `unix:${where}` : `127.0.0.1:${where}`
  const args = ['--addr', addr, '--conns', '1', '--size', '64', '--pipeline', '1']
  const load = t.spawn(['echo', '--json', '--secs', '1', ...args], { command: loadgenProgram('loadgen') })
  assert.deepEqual(await load.untilExit(), { code: 0, signal: null }, load.describe())
}
