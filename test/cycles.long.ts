import assert from 'node:assert/strict'
import type { Stock } from './fixtures/cycles.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

const CYCLES = 300
/**
 * V8 gives a main thread that has more to do a larger young generation, up to 32 MiB, and keeps it: of both kinds it stays
 * at its smallest, so that what is compared is what a cycle leaves.
 */
const NODE_OPTIONS = '--max-semi-space-size=1'
/** What is in use wanders by some 100 KiB from run to run; a KiB left by each cycle would be 300. */
const USED_NOISE_BYTES = 256 << 10
/** Each arena of malloc grows once to what the busiest thread of its kind had, and threads come by them in any order. */
const RESIDENT_NOISE_BYTES = 4 << 20

async function cycles(t: TestContext, kind: 'shard' | 'bare'): Promise<{ before: Stock; after: Stock }> {
  const child = t.start('cycles', [kind, String(CYCLES)], { env: { NODE_OPTIONS } })
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
      assert.ok(growth(shard, 'usedBytes') <= growth(bare, 'usedBytes') + USED_NOISE_BYTES)
      assert.ok(growth(shard, 'rssBytes') <= growth(bare, 'rssBytes') + RESIDENT_NOISE_BYTES)
    },
    { timeoutMs: 300_000 },
  )
})

function mebibytes(bytes: number): string {
  return (bytes / (1 << 20)).toFixed(1)
}
