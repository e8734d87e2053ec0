import assert from 'node:assert/strict'
import { forEachEngine, type TestContext } from './harness/suite.js'

const CYCLES = 300
/** Both processes' memory wanders by some MiB from run to run. */
const NOISE_BYTES = 12 << 20

interface Stock {
  readonly descriptors: number
  readonly threads: number
  readonly rssBytes: number
}

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
      const growth = ({ before, after }: { before: Stock; after: Stock }): number =>
        after.rssBytes - before.rssBytes
      console.log(
        `resident memory after ${CYCLES} cycles: ${mebibytes(growth(shard))} MiB more; bare worker threads: ${mebibytes(growth(bare))} MiB more`,
      )
      assert.equal(shard.after.descriptors, shard.before.descriptors)
      assert.equal(shard.after.threads, shard.before.threads)
      assert.ok(growth(shard) <= Math.max(0, growth(bare)) + NOISE_BYTES)
    },
    { timeoutMs: 300_000 },
  )
})

function mebibytes(bytes: number): string {
  return (bytes / (1 << 20)).toFixed(1)
}
