import assert from 'node:assert/strict'
import { createServer } from '../src/index.js'
import { ENDED_CALLS_MAX } from '../src/limits.js'
import type { Stock } from './fixtures/cycles.js'
import { collectGarbage } from './harness/memory.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

const CYCLES = 300
const HEAP_MODULE = new URL('./fixtures/servers/heap-module.js', import.meta.url)
const GREETER_MODULE = new URL('./fixtures/servers/greeter-module.js', import.meta.url)
/**
 * V8 gives a main thread that has more to do a larger young generation, up to 32 MiB, and keeps it: of both kinds it stays
 * at its smallest, so that what is compared is what a cycle leaves.
 */
const NODE_OPTIONS = '--max-semi-space-size=1'
/** What is in use wanders by this much from run to run; a KiB that each cycle leaves is more. */
const USED_NOISE_BYTES = 256 << 10
/** Each arena of malloc grows once to what the busiest thread of its kind had, and threads come by them in any order. */
const RESIDENT_NOISE_BYTES = 8 << 20

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
      assert.ok(growth(shard, 'usedBytes') <= Math.max(growth(bare, 'usedBytes'), 0) + USED_NOISE_BYTES)
      assert.ok(growth(shard, 'rssBytes') <= Math.max(growth(bare, 'rssBytes'), 0) + RESIDENT_NOISE_BYTES)
    },
    { timeoutMs: 300_000 },
  )
})

forEachEngine('a shard that lives on, and its supervisor', (test) => {
  test(
    'keep next to nothing of servers that come and go beside their own',
    async (t) => {
      const options = { host: '127.0.0.1', shards: 1, engine: t.engine }
      const client = await t.connect(await t.serve(HEAP_MODULE, options))
      const heapBytes = async (): Promise<[shard: number, supervisor: number]> => {
        await client.write('?')
        const shard = Number(await client.readLine())
        await collectGarbage()
        return [shard, process.memoryUsage().heapUsed]
      }
      const comeAndGo = async (count: number): Promise<void> => {
        for (let ended = 0; ended < count; ended++)
          await (await createServer(GREETER_MODULE, options)).close()
      }
      /** A heap wanders by 150 kB from one collection to the next, whatever happens: of several, the least. */
      const levels = async (): Promise<[shard: number, supervisor: number]> => {
        const least: [number, number] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]
        for (let reading = 0; reading < 8; reading++) {
          await comeAndGo(100)
          const [shard, supervisor] = await heapBytes()
          least[0] = Math.min(least[0], shard)
          least[1] = Math.min(least[1], supervisor)
        }
        return least
      }
      await comeAndGo(3 * ENDED_CALLS_MAX) // they know of as many as they ever will, and their code is compiled
      const [shardBefore, supervisorBefore] = await levels()
      const count = 5_000
      await comeAndGo(count)
      const [shard, supervisor] = await levels()
      const growth = [shard - shardBefore, supervisor - supervisorBefore]
      console.log(`${growth.join(' and ')} bytes more in their heaps after ${count} servers`)
      assert.ok(Math.max(...growth) < count * 100, `${growth} bytes`)
      await client.destroy()
    },
    { timeoutMs: 300_000 },
  )
})

function mebibytes(bytes: number): string {
  return (bytes / (1 << 20)).toFixed(1)
}
