import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fixtureUrl } from './harness/child.js'
import { forEachEngine, portOf, type TestContext } from './harness/suite.js'

/** What the fixture measures in the loaded shard. */
interface Report {
  readonly latenciesMs: number[]
  readonly wrong: string[]
  /** Share of the time that the shard's loop did not wait. */
  readonly busy: number
}

const CHECKED_MS = 1000
/** How often something happens at least in that time; an unloaded shard does it hundreds of times. */
const TIMES_MIN = 3
/**
 * An event waits for the batch that runs: some 10 ms here, more on a machine that has other things to do. A shard that
 * starves Node's own handles takes seconds, or for ever. (How it compares with node:net is for the benchmark to say.)
 */
const MEDIAN_MAX_MS = 400

forEachEngine('a fully loaded shard', (test) => {
  for (const what of ['timer', 'immediate', 'fs', 'fetch', 'message'] as const) {
    test(`${what} goes on`, async (t) => {
      const url = await serveHttp(t)
      const server = await t.serve(fixtureUrl('loaded-shard'), { shards: 1 })
      const load = t.start('load-clients', [String(portOf(server)), '64'])
      await load.line(/^ready$/)
      const client = await t.connect(server)
      const before = server.metrics().total.events
      await client.write(`!${what} ${CHECKED_MS} ${url}\n`)
      const report: Report = JSON.parse(await client.readLine())
      const events = server.metrics().total.events - before
      assert.deepEqual(report.wrong, [])
      const times = report.latenciesMs.length
      assert.ok(times >= TIMES_MIN, `${times} times`)
      const median = report.latenciesMs.sort((a, b) => a - b)[times >> 1] as number
      assert.ok(median < MEDIAN_MAX_MS, `median ${median} ms of ${times}`)
      assert.ok(report.busy > 0.8, `the shard was loaded: busy ${report.busy}`)
      assert.ok(events > 1000, `${events} events meanwhile`)
      load.send('stop')
      const end = await load.untilExit()
      assert.deepEqual(end, { code: 0, signal: null }, load.describe())
    })
  }
})

async function serveHttp(t: TestContext): Promise<string> {
  const http = createServer((request, response) => response.end(`you asked for ${request.url}`))
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve))
  t.defer(() => {
    http.closeAllConnections()
    return new Promise((resolve) => http.close(resolve))
  })
  return `http://127.0.0.1:${(http.address() as AddressInfo).port}`
}
