import assert from 'node:assert/strict'
import { forEachEngine } from './harness/suite.js'
import { ENDINGS, type Ending, endUnderLoad } from './harness/teardown.js'

/** Rounds of each; many more in teardown.long.ts. */
const ROUNDS = 3

forEachEngine('ends under load', (test) => {
  for (const ending of Object.keys(ENDINGS) as Ending[]) {
    test(`${ending} at random moments is the end that was asked for, never a crash`, async (t) => {
      for (let round = 0; round < ROUNDS; round++) await endUnderLoad(t, ending)
    })
  }

  test('what was written before process.exit reaches the peer', async (t) => {
    for (let round = 0; round < 3; round++) {
      const child = t.start('exiting-server')
      const port = Number((await child.line(/^ready (\d+)$/))[1])
      const client = await t.connect(port)
      await client.write('exit')
      assert.equal((await client.readExactly(8)).toString(), 'good bye')
      assert.deepEqual(await child.untilExit(), { code: 3, signal: null }, child.describe())
    }
  })
})
