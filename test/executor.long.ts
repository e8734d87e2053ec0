import assert from 'node:assert/strict'
import type { Server } from '../src/index.js'
import { Client } from './harness/client.js'
import { eventually } from './harness/deferred.js'
import { serveTasks, TASKS, TaskClient } from './harness/executor.js'
import { openDescriptors, threadCount } from './harness/leaks.js'
import { collectGarbage, MiB } from './harness/memory.js'
import { forEachEngine, portOf, type TestContext } from './harness/suite.js'

const THREADS = 2
const SHARDS = 2
const SECONDS = 30
const KILL_EVERY_MS = 500
/** Tasks that each storm has at once. */
const AT_ONCE = 40
/** Memory of heaps that come and go wanders by this much. */
const NOISE_BYTES = 48 * MiB

/** What became of tasks. */
interface Tally {
  called: number
  right: number
  aborted: number
  refused: number
  /** Told by a shard that died: nobody is there to hear more. */
  lost: number
}

forEachEngine('the executor under abort storms', (test) => {
  test(
    `${SECONDS} s of aborts at random moments while shards die: each task settles once and right, and nothing is left`,
    async (t) => {
      const [threads, descriptors] = [threadCount(), openDescriptors().size]
      const server = await serveTasks(t, {
        shards: SHARDS,
        maxRestarts: 10_000,
        restartWindowMs: 1, // so that every replacement is at once
        executor: { maxThreads: THREADS, maxQueue: 4 * AT_ONCE },
      })
      const tally: Tally = { called: 0, right: 0, aborted: 0, refused: 0, lost: 0 }
      const before = server.metrics().executor
      const end = performance.now() + SECONDS * 1000
      const storming = (): boolean => performance.now() < end
      let [mostThreads, killed] = [0, 0]
      server.events.on('shard', ({ exitCode }) => {
        if (exitCode !== undefined) killed++
      })
      const sampler = setInterval(() => {
        mostThreads = Math.max(mostThreads, server.metrics().executor.threads)
      }, 5)
      const main = Array.from({ length: AT_ONCE }, () => stormOfMain(t, tally, storming))
      const remote = Array.from({ length: 2 * SHARDS }, () => stormOfShard(t, server, tally, storming))
      const kills = killing(t, server, storming)
      await new Promise((resolve) => setTimeout(resolve, (SECONDS * 1000) / 2))
      await collectGarbage()
      const memory = process.memoryUsage().rss
      await Promise.all([...main, ...remote])
      await kills
      clearInterval(sampler)
      await eventually(() => {
        const { running, queued } = server.metrics().executor
        return running === 0 && queued === 0
      })
      await collectGarbage()
      const grown = process.memoryUsage().rss - memory
      const after = server.metrics().executor
      console.log(tally, {
        killed,
        mostThreads,
        grownMiB: Math.round(grown / MiB),
        queueMs: after.queueMs.p99,
      })
      assert.equal(tally.right + tally.aborted + tally.refused + tally.lost, tally.called)
      assert.ok(tally.right > 500 && tally.aborted > 500 && killed >= SECONDS / 3, 'there was a storm')
      assert.ok(mostThreads <= THREADS, `${mostThreads} threads at once`)
      assert.equal(after.failed, before.failed)
      const told = after.completed - before.completed + (after.cancelled - before.cancelled)
      assert.ok(told <= tally.called - tally.refused, `${told} of ${tally.called}`)
      assert.ok(told >= tally.right + tally.aborted - tally.lost, `${told}: ${JSON.stringify(tally)}`)
      assert.ok(grown < NOISE_BYTES, `${grown} bytes more than half way`)
      // Who comes behind the storm is served as before it.
      assert.equal(await t.loop.runInExecutor(TASKS, ['after']), 'after')
      await server.close()
      assert.equal(server.metrics().executor.threads, 0)
      await eventually(() => threadCount() === threads && openDescriptors().size === descriptors)
    },
    { timeoutMs: (SECONDS + 40) * 1000 },
  )
})

/** One task after the other on the main thread; half of them are aborted somewhere between the call and the end. */
async function stormOfMain(t: TestContext, tally: Tally, goesOn: () => boolean): Promise<void> {
  while (goesOn()) {
    tally.called++
    const expected = t.random.below(1_000_000)
    const controller = new AbortController()
    const reason = new Error(`aborted ${expected}`)
    const { signal } = controller
    const task = t.loop.runInExecutor(TASKS, [t.random.below(4), expected], { name: 'busy', signal })
    const timer =
      t.random.below(2) === 0 ? setTimeout(() => controller.abort(reason), t.random.below(100)) : undefined
    try {
      assert.equal(await task, expected)
      tally.right++
    } catch (error) {
      if ((error as { code?: string }).code === 'ERR_SHARDLOOP_EXECUTOR_FULL') tally.refused++
      else {
        assert.equal(error, reason)
        tally.aborted++
      }
    }
    clearTimeout(timer)
    controller.abort() // which means nothing any more
  }
}

/** The same in a shard, some at once, over a connection that lives as long as its shard. */
async function stormOfShard(
  t: TestContext,
  server: Server,
  tally: Tally,
  goesOn: () => boolean,
): Promise<void> {
  while (goesOn()) {
    const client = new TaskClient(await Client.open(portOf(server), { mayBreak: true }))
    const open = new Set<number>()
    try {
      while (goesOn() || open.size > 0) {
        while (goesOn() && open.size < AT_ONCE / 4) {
          const expected = ++tally.called // which no other task has
          open.add(expected)
          await client.send({ do: 'run', id: expected, name: 'busy', args: [t.random.below(4), expected] })
          if (t.random.below(2) === 0) await client.send({ do: 'abort', id: expected })
        }
        const { id, result, error } = await client.next()
        assert.ok(open.delete(id as number), `${id} was answered once`)
        if (error === undefined) {
          assert.equal(result, id)
          tally.right++
        } else if (error.code === 'ERR_SHARDLOOP_EXECUTOR_FULL') tally.refused++
        else {
          assert.equal(error.message, `aborted ${id}`)
          tally.aborted++
        }
      }
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error
      tally.lost += open.size // the shard has died
    }
    await client.client.destroy()
  }
}

/** Ends a shard again and again. */
async function killing(t: TestContext, server: Server, goesOn: () => boolean): Promise<void> {
  while (goesOn()) {
    await new Promise((resolve) => setTimeout(resolve, KILL_EVERY_MS))
    const killer = new TaskClient(await Client.open(portOf(server), { mayBreak: true }))
    await killer.send({ do: t.random.below(2) === 0 ? 'exit' : 'throw' }).catch(() => {})
    await killer.client.destroy()
  }
}
