import assert from 'node:assert/strict'
import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { loadgenProgram } from '../bench/load.js'
import type { Server } from '../src/index.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { tellSkipped } from './harness/skip.js'
import { forEachEngine, type TestContext, whereIs } from './harness/suite.js'

/** As many come in one of so many runs of a second at the latest. */
const TRIES = 8
/**
 * What is read of MANY in a run, which has half a second of warm-up before its second, when they keep to their schedule: 180,000. Fewer:
 * somebody else has the processor that they are sent by, they come in no order that a rest could wait for, and all rests are in vain.
 */
const ON_SCHEDULE = 170_000
/** And where they come a few at a time. */
const LARGE_BATCH = 6
/** As many as keep a shard busy a few at a time, on a schedule that does not wait for it. */
const MANY = ['--conns', '128', '--rate', '120000']

forEachEngine('rests between small batches', (test, engine) => {
  const rests = engine === 'mio' && process.platform === 'linux' && availableParallelism() > 1

  test('come where many peers keep a shard busy, and make its batches larger', async (t) => {
    const server = await t.serve(() => new ChunkEcho())
    const quick = await t.serve(() => new ChunkEcho(), { moderation: false })
    const without = await measured(t, server, MANY)
    assert.equal(without.moderationMs, 0, 'a server of this thread has refused')
    await quick.close()
    let last = without
    const rested = (): boolean => last.moderationMs > 50 && last.perBatch > 1.5 * without.perBatch
    for (let tries = 0; tries === 0 || (rests && !rested() && tries < TRIES); tries++)
      last = await measured(t, server, MANY)
    const told = JSON.stringify({ last, without })
    assert.ok(last.moderationMs < 1000, told)
    if (!rests) assert.equal(last.moderationMs, 0)
    else if (!rested()) {
      assert.ok(last.reads < ON_SCHEDULE || without.perBatch > LARGE_BATCH, told)
      tellSkipped('moderation', 'rests', `of 180,000 messages on a schedule ${last.reads} came here`)
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
    class Later extends ChunkEcho {
      override dataReceived(chunk: Buffer): void {
        super.dataReceived(chunk)
        setImmediate(() => {})
      }
    }
    const { moderationMs, reads } = await measured(t, await t.serve(() => new Later()), MANY)
    // There is none while ends are told of at the end of the run, perhaps.
    assert.ok(reads > 1000 && moderationMs < 5, `${moderationMs} ms, ${reads} reads`)
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
