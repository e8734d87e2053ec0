import assert from 'node:assert/strict'
import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { loadgenProgram } from '../bench/load.js'
import type { Protocol, Server, Transport } from '../src/index.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { tellSkipped } from './harness/skip.js'
import { forEachEngine, type TestContext, whereIs } from './harness/suite.js'

/** As many come in one of so many runs of a second at the latest. */
const TRIES = 8
/** A shard rests where it has more events than this in a second. */
const BUSY_PER_SEC = 80_000
/** As many as keep a shard busy a few at a time, on a schedule that does not wait for it. */
const MANY = ['--conns', '128', '--rate', '120000']

forEachEngine('rests between small batches', (test, engine) => {
  const rests = engine === 'mio' && process.platform === 'linux' && availableParallelism() > 1

  test('come where many peers keep a shard busy, and make its batches larger', async (t) => {
    const server = await t.serve(() => new ChunkEcho())
    const plain = await t.serve(() => new ChunkEcho())
    let last = { reads: 0, moderationMs: 0, perBatch: 0 }
    for (let tries = 0; tries === 0 || (rests && last.moderationMs < 50 && tries < TRIES); tries++)
      last = await measured(t, server, MANY)
    assert.ok(last.moderationMs < 1000, JSON.stringify(last))
    if (!rests) assert.equal(last.moderationMs, 0)
    else if (last.moderationMs < 50) {
      assert.ok(last.reads < BUSY_PER_SEC, JSON.stringify(last))
      tellSkipped('moderation', 'rests', `a shard has ${last.reads} events a second here`)
    } else {
      // The same thread with a server that does not want it.
      const unmoderated = await t.serve(() => new ChunkEcho(), { moderation: false })
      const without = await measured(t, plain, MANY)
      assert.equal(without.moderationMs, 0)
      assert.ok(last.perBatch > 1.5 * without.perBatch, JSON.stringify({ last, without }))
      await unmoderated.close()
      let again = { moderationMs: 0 }
      for (let tries = 0; again.moderationMs === 0 && tries < TRIES; tries++)
        again = await measured(t, plain, MANY)
      assert.ok(again.moderationMs > 0)
    }
  })

  test('do not come where few peers wait for their answers', async (t) => {
    const server = await t.serve(() => new ChunkEcho())
    for (const conns of ['1', '8']) {
      const { moderationMs, reads } = await measured(t, server, ['--conns', conns])
      // A peer may seem far because it got no processor.
      assert.ok(moderationMs < 20 && reads > 0, `${moderationMs} ms of a second with ${conns}`)
    }
  })

  test('do not come while immediates wait', async (t) => {
    const rested: number[] = []
    class Later implements Protocol {
      transport!: Transport
      connectionMade(transport: Transport): void {
        this.transport = transport
      }
      dataReceived(chunk: Buffer): void {
        const before = server.metrics().total.moderationMs
        setImmediate(() => {
          rested.push(server.metrics().total.moderationMs - before)
          this.transport.write(chunk)
        })
      }
    }
    const server: Server = await t.serve(() => new Later())
    await measured(t, server, MANY)
    assert.ok(rested.length > 100)
    assert.deepEqual(new Set(rested), new Set([0]))
  })

  test('leave the thread time for timers and other work', async (t) => {
    const server = await t.serve(() => new ChunkEcho())
    const done = { timers: 0, files: 0 }
    let ended = false
    const beside = async (kind: keyof typeof done, run: () => Promise<unknown>): Promise<void> => {
      for (; !ended; done[kind] += 1) await run()
    }
    const all = [beside('timers', () => delay(1)), beside('files', () => stat('/'))]
    await measured(t, server, MANY)
    ended = true
    await Promise.all(all)
    assert.ok(done.timers >= 100 && done.files >= 100, JSON.stringify(done))
  })
})

/** What a server has done in a second under such a load. */
async function measured(
  t: TestContext,
  server: Server,
  load: readonly string[],
): Promise<{ reads: number; moderationMs: number; perBatch: number }> {
  const before = server.metrics().total
  const args = ['echo', '--json', '--tolerate', '--secs', '1', '--addr', `127.0.0.1:${whereIs(server)}`]
  const run = t.spawn([...args, ...load], { command: loadgenProgram('loadgen') })
  assert.deepEqual(await run.untilExit(), { code: 0, signal: null }, run.describe())
  const after = server.metrics().total
  return {
    reads: after.reads - before.reads,
    moderationMs: after.moderationMs - before.moderationMs,
    perBatch: (after.events - before.events) / (after.batches - before.batches),
  }
}
