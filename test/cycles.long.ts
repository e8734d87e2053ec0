import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { compileC } from '../bench/c-program.js'
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
/** The heap wanders by this much from run to run, as V8 compiles more or less of the code. */
const HEAP_NOISE_BYTES = 256 << 10
/** Less than half a KiB that each cycle leaves. */
const MALLOC_NOISE_BYTES = 128 << 10
/** Each arena of malloc grows once to what the busiest thread of its kind had, and threads come by them in any order. */
const RESIDENT_NOISE_BYTES = 8 << 20
const MALLOC_SOURCE = fileURLToPath(new URL('../../test/fixtures/malloc.c', import.meta.url))
const MALLOC_ADDON = fileURLToPath(new URL('../../target/test-addons/malloc.node', import.meta.url))

async function cycles(
  t: TestContext,
  kind: 'shard' | 'bare',
  addon: string,
): Promise<{ before: Stock; after: Stock }> {
  const child = t.start('cycles', [kind, String(CYCLES), addon], { env: { NODE_OPTIONS } })
  const [line] = await child.line(/^\{.*/)
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  return JSON.parse(line)
}

forEachEngine('300 starts and ends of a shard', (test) => {
  const name = 'leave descriptors and threads as they were, and take no more memory than bare worker threads'
  const header = (process.report.getReport() as { header: { glibcVersionRuntime?: string } }).header
  if (header.glibcVersionRuntime === undefined) {
    test.skip(name, 'needs mallinfo2 of glibc')
    return
  }
  test(
    name,
    async (t) => {
      const addon = compileC(MALLOC_SOURCE, MALLOC_ADDON, { flags: ['-shared', '-fPIC'] })
      if ('absent' in addon) throw new Error(addon.absent)
      const shard = await cycles(t, 'shard', addon.path)
      const bare = await cycles(t, 'bare', addon.path)
      assert.equal(shard.after.descriptors, shard.before.descriptors)
      assert.equal(shard.after.threads, shard.before.threads)
      const grown: [memory: 'heapBytes' | 'mallocBytes' | 'rssBytes', noiseBytes: number][] = [
        ['heapBytes', HEAP_NOISE_BYTES],
        ['mallocBytes', MALLOC_NOISE_BYTES],
        ['rssBytes', RESIDENT_NOISE_BYTES],
      ]
      for (const [memory, noiseBytes] of grown) {
        const [ofShard, ofBare] = [shard, bare].map(
          ({ before, after }) => after[memory] - before[memory],
        ) as [number, number]
        const shown = `${memory} after ${CYCLES} cycles: ${kibibytes(ofShard)} KiB more; of bare worker threads: ${kibibytes(ofBare)} KiB more`
        console.log(shown)
        assert.ok(ofShard <= Math.max(ofBare, 0) + noiseBytes, shown)
      }
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

function kibibytes(bytes: number): number {
  return Math.round(bytes / 1024)
}
