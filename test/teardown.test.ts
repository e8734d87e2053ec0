import assert from 'node:assert/strict'
import { forEachEngine } from './harness/suite.js'
import { ENDINGS, type Ending, endUnderLoad } from './harness/teardown.js'

/** Rounds of each; many more in teardown.long.ts. */
const ROUNDS = 3
/** Each starts a process, and up to five threads in it one after the other. */
const ROUND_TIMEOUT_MS = 20_000

forEachEngine('ends under load', (test) => {
  for (const ending of Object.keys(ENDINGS) as Ending[]) {
    test(
      `${ending} at random moments is the end that was asked for, never a crash`,
      async (t) => {
        for (let round = 0; round < ROUNDS; round++) await endUnderLoad(t, ending)
      },
      { timeoutMs: ROUNDS * ROUND_TIMEOUT_MS },
    )
  }

  for (const where of ['thread', 'shard'] as const) {
    for (const source of ['callback', 'nextTick', 'timer']) {
      test(`what was written before process.exit in a ${source} of a ${where} reaches the peer`, async (t) => {
        const child = t.start('exiting-server', [where])
        const port = Number((await child.line(/^ready (\d+)$/))[1])
        const client = await t.connect(port)
        await client.write(source)
        assert.equal((await client.readExactly(8)).toString(), 'good bye')
        // A shard takes its server along, but not the process.
        assert.deepEqual(
          await child.untilExit(),
          { code: where === 'shard' ? 0 : 3, signal: null },
          child.describe(),
        )
      })
    }
  }
})
