import assert from 'node:assert/strict'
import { quantile } from '../bench/statistics.js'
import { saveTimeline } from '../bench/timeline.js'
import type { Holding, Ledger } from './fixtures/soaked-server.js'
import { Client } from './harness/client.js'
import { WAYS } from './harness/crashes.js'
import { KiB, MiB } from './harness/memory.js'
import { Residents } from './harness/residents.js'
import { forEachEngine } from './harness/suite.js'

/** A shorter soak is for whoever works on it: memory needs a minute to reach its level. */
const SECONDS = Number(process.env['SHARDLOOP_SOAK_SECS'] ?? 300)
const KILL_EVERY_MS = 200
/** Longest that a shard is blocked before it dies. */
const BLOCK_MAX_MS = 30
const SHARDS = 3
const RESIDENTS = 30
const VISITORS = 4
/** Memory of three heaps of which some are young and some about to die wanders by this much. */
const NOISE_BYTES = 24 * MiB
/** What three shards that serve need beyond three that do not. The dead have left nothing: malloc kept 200 MiB of theirs. */
const SERVING_BYTES = 80 * MiB

forEachEngine('a soak with a kill every 200 ms', (test, engine) => {
  const name = `${SECONDS} s: descriptors, threads and memory stay flat, and who fails had lived on a shard that died`
  if (process.platform !== 'linux') {
    test.skip(name, 'needs /proc')
    return
  }
  test(
    name,
    async (t) => {
      const options = {
        shards: SHARDS,
        maxRestarts: 10_000,
        restartWindowMs: 1, // so that every replacement is at once
        killAfterMs: 1_000,
        resourceLimits: { maxOldGenerationSizeMb: 32 },
      }
      const child = t.start('soaked-server', [JSON.stringify(options)])
      const port = Number((await child.line(/"port":(\d+)/))[1])
      const residents = new Residents(port, t.random)
      const end = performance.now() + SECONDS * 1000
      const soaking = (): boolean => performance.now() < end
      let [visits, broken, orders] = [0, 0, 0]

      const visit = async (): Promise<void> => {
        while (soaking()) {
          const client = await Client.open(port, { mayBreak: true })
          const answer = client.write('who\n').then(async () => {
            await client.readLine()
            // libuv reports a reset that comes with the answer as a mere end, behind it.
            await new Promise((resolve) => setImmediate(resolve))
            assert.ok(!client.ended, 'the server does not end first')
            client.end()
            await client.readToEnd()
          })
          await answer.catch(() => broken++)
          await client.destroy()
          visits++
        }
      }
      const refill = async (): Promise<void> => {
        while (soaking()) {
          await residents.fill(RESIDENTS)
          await residents.until(() => residents.broken.length > 0 || !soaking())
          broken += residents.broken.splice(0).length
        }
      }
      const killed: Promise<void>[] = []
      const kill = async (): Promise<void> => {
        const client = await Client.open(port, { mayBreak: true })
        const [way] = t.random.pick(WAYS)
        orders++
        await client.write(`die ${way} ${t.random.below(BLOCK_MAX_MS)}\n`).catch(() => {})
        await client.untilReset()
        broken++
      }
      const killing = setInterval(() => killed.push(kill()), KILL_EVERY_MS)
      await Promise.all([refill(), ...Array.from({ length: VISITORS }, visit)])
      clearInterval(killing)
      await Promise.all(killed)
      await residents.echoOnce() // so that whoever broke with the last of them has noticed
      broken += residents.broken.length
      await residents.end()
      child.process.stdin.end(String(broken))
      const ledger = JSON.parse((await child.line(/"ledger":(\{.*\})\}$/))[1] as string) as Ledger
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())

      const holdings = child.lines
        .filter((line) => line.includes('"holding"'))
        .map((line) => (JSON.parse(line) as { holding: Holding }).holding)
      const facts = [
        `${orders} orders to die, ${ledger.deaths} deaths: ${JSON.stringify(ledger.reasons)}`,
        `${visits} visits and ${Math.round(residents.echoed / MiB)} MiB echoed and compared; ${broken} connections broken, ${ledger.connectionsLost} told as lost, ${ledger.resetByDeath} counted; ${ledger.takenOver} taken over by other shards`,
      ]
      const curve = (title: string, read: (of: Holding) => number, unit = '') => ({
        title,
        points: holdings.map((one) => ({ atSecs: one.atSecs, value: read(one) })),
        format: (value: number) => `${Math.round(value)}${unit}`,
      })
      const file = saveTimeline(
        `supervision-soak-${engine}`,
        `A kill every ${KILL_EVERY_MS} ms (${engine})`,
        facts,
        [
          curve('resident memory', ({ rssBytes }) => rssBytes / MiB, ' MiB'),
          curve('open descriptors', ({ descriptors }) => descriptors),
          curve('threads', ({ threads }) => threads),
          curve('deaths of shards', ({ deaths }) => deaths),
        ],
      )
      // The lower quartile: what stays lifts it as it lifts all, while what dying heaps hold for a moment (30 MiB, about half of
      // the time, so that a median is now without them and now with them) does not.
      const level = (from: number, to: number, read: (of: Holding) => number): number =>
        quantile(
          holdings.filter(({ atSecs }) => atSecs >= from * SECONDS && atSecs < to * SECONDS).map(read),
          0.25,
        )
      const [first, last] = [holdings[0] as Holding, holdings.at(-1) as Holding]
      const rss = (of: Holding): number => of.rssBytes
      const growth = level(0.8, 1, rss) - level(0.2, 0.4, rss)
      const grown = level(0.8, 1, rss) - rss(first)
      const memory = `resident memory: ${Math.round(grown / MiB)} MiB more than before the first death; ${Math.round(growth / KiB)} KiB of them since the first third`
      console.log([...facts, memory, file].join('\n'))

      assert.equal(ledger.connectionsLost, broken, 'told as lost')
      assert.equal(ledger.resetByDeath, broken, 'reset, as the counters say')
      // The last to die need not have been replaced.
      assert.ok(ledger.restarts <= ledger.deaths && ledger.restarts >= ledger.deaths - SHARDS)
      assert.ok(ledger.deaths > orders / 3, `${ledger.deaths} deaths`)
      assert.ok(ledger.takenOver > 0)
      assert.equal(last.threads, first.threads)
      assert.ok(
        last.descriptors <= first.descriptors + RESIDENTS,
        `${last.descriptors} descriptors, ${first.descriptors} before`,
      )
      assert.ok(growth < NOISE_BYTES, `${growth} bytes more at the end`)
      assert.ok(grown < SERVING_BYTES, `${grown} bytes more than before the first death`)
    },
    { timeoutMs: SECONDS * 1000 + 60_000 },
  )
})
