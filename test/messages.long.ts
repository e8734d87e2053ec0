import assert from 'node:assert/strict'
import type { Server } from '../src/index.js'
import { untilReady } from './harness/calls.js'
import { threadCount } from './harness/leaks.js'
import { arrayBufferBytes, MiB } from './harness/memory.js'
import { MessageTraffic, type TrafficReport } from './harness/message-traffic.js'
import { forEachEngine } from './harness/suite.js'

const SECONDS = Number(process.env['SHARDLOOP_SOAK_SECS'] ?? 30)
const SHARDS = [0, 1, 2]
/** Messages a second that the slowest machine makes. */
const RATE_MIN = 35_000
const GROWTH_MAX_BYTES = 16 * MiB
const MODULE = new URL('./fixtures/servers/traffic-module.js', import.meta.url)

forEachEngine('messages between four threads of which three die at random', (test) => {
  test(
    `${SECONDS} s: in order, none twice, none lost by who lives on, and every call settles once`,
    async (t) => {
      const { loop, random } = t
      const violations: unknown[] = []
      loop.expose('violation', (what) => void violations.push(what))
      const traffic = new MessageTraffic(loop, 'the supervisor', random, (what) => void violations.push(what))
      const server = await t.serve(MODULE, {
        shards: SHARDS.length,
        maxRestarts: 10_000,
        restartWindowMs: 1,
        killAfterMs: 1_500,
      })
      traffic.start(SHARDS)
      const before = await arrayBufferBytes()
      const threads = process.platform === 'linux' ? threadCount() : 0
      let deaths = 0
      server.events.on('shard', ({ exitCode }) => {
        if (exitCode !== undefined) deaths += 1
      })
      const end = performance.now() + SECONDS * 1000
      while (performance.now() < end) {
        await new Promise((resolve) => setTimeout(resolve, random.between(1, 600)))
        const shard = random.pick(SHARDS)
        const way = random.pick(['exit', 'throw', 'exit', 'throw', 'stuck'])
        if (server.shards[shard]?.state !== 'ready') continue
        const died = deathOf(server, shard)
        // One that has only just died, by another order, dies all the same; or it is not there yet, and says so.
        const refused = await loop
          .call(shard, 'die', way)
          .catch(({ message }) => /not running|exposes/.test(message))
        if (refused !== true) await died
        // Most often the next one dies only when this one is back.
        if (random.below(4) > 0) await untilReady(server, shard)
      }
      for (const shard of SHARDS) await untilReady(server, shard)
      await new Promise((resolve) => setTimeout(resolve, 500))
      // All fall silent, and then what was said has arrived: calls end each lane.
      await Promise.all([traffic.stop(), ...SHARDS.map((shard) => loop.call(shard, 'stop traffic'))])
      const reports = [traffic.report()]
      for (const shard of SHARDS) reports.push((await loop.call(shard, 'traffic seen')) as TrafficReport)
      assert.deepEqual(violations, [])
      for (const [from, { life, sent, calls, settled }] of reports.entries()) {
        assert.equal(settled, calls, `calls of ${life}`)
        for (const [to, { seen }] of reports.entries()) {
          const target = to === 0 ? 'supervisor' : String(to - 1)
          if (from !== to) assert.equal(seen[life], sent[target], `the latest of ${life} to ${target}`)
        }
      }
      const messages = reports.reduce((sum, report) => sum + report.messages, 0)
      const grown = (await arrayBufferBytes()) - before
      console.log(
        `${messages} messages read by the threads that live, ${deaths} deaths, ${Math.round(grown / 1024)} KiB more`,
      )
      assert.ok(messages > SECONDS * RATE_MIN, `${messages} messages`)
      assert.ok(deaths > SECONDS / 4, `${deaths} deaths`)
      assert.ok(grown < GROWTH_MAX_BYTES, `${grown} bytes of memory more`)
      if (threads > 0) assert.ok(threadCount() <= threads + 4, `${threadCount()} threads, ${threads} before`)
    },
    { timeoutMs: (SECONDS + 60) * 1000 },
  )
})

/** The next death of this shard. */
function deathOf(server: Server, shard: number): Promise<void> {
  return new Promise((resolve) => {
    server.events.on('shard', function died({ id, exitCode }) {
      if (id !== shard || exitCode === undefined) return
      server.events.off('shard', died)
      resolve()
    })
  })
}
