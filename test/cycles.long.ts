import assert from 'node:assert/strict'
import type { Stock } from './fixtures/cycles.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

const CYCLES = 300
/** A V8 heap that was busier keeps more room for itself. */
const ROOM_BYTES = 16 << 20
/** What is in use wanders by this much from run to run. Each server leaves some hundred bytes on purpose (`CallBook`). */
const NOISE_BYTES = 1 << 20

async function cycles(t: TestContext, kind: 'shard' | 'bare'): Promise<{ before: Stock; after: Stock }> {
  const child = t.start('cycles', [kind, String(CYCLES)])
  const [line] = await child.line(/^\{.*/)
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  return JSON.parse(line)
}

forEachEngine('300 starts and ends of a shard', (test) => {
  const name = 'leave descriptors and threads as they were, and take no more memory than bare worker threads'
  if (process.platform !== 'linux') {
    test.skip(name, 'needs /proc')
    return
  }
  test(
    name,
    async (t) => {
      const shard = await cycles(t, 'shard')
      const bare = await cycles(t, 'bare')
      const growth = (of: { before: Stock; after: Stock }, memory: 'rssBytes' | 'usedBytes'): number =>
        of.after[memory] - of.before[memory]
      const show = (memory: 'rssBytes' | 'usedBytes'): string =>
        `${mebibytes(growth(shard, memory))} MiB more; bare worker threads: ${mebibytes(growth(bare, memory))} MiB more`
      console.log(
        `memory in use after ${CYCLES} cycles: ${show('usedBytes')}\nresident memory: ${show('rssBytes')}`,
      )
      assert.equal(shard.after.descriptors, shard.before.descriptors)
      assert.equal(shard.after.threads, shard.before.threads)
      assert.ok(growth(shard, 'usedBytes') <= growth(bare, 'usedBytes') + NOISE_BYTES)
      assert.ok(growth(shard, 'rssBytes') <= Math.max(0, growth(bare, 'rssBytes')) + ROOM_BYTES)
    },
    { timeoutMs: 300_000 },
  )
})

function mebibytes(bytes: number): string {
  return (bytes / (1 << 20)).toFixed(1)
}
