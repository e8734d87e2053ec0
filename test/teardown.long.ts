import { forEachEngine } from './harness/suite.js'
import { ENDINGS, type Ending, endUnderLoad } from './harness/teardown.js'

const ROUNDS = 60

forEachEngine('ends under load, long', (test) => {
  for (const ending of Object.keys(ENDINGS) as Ending[]) {
    test(
      `${ending} at ${ROUNDS} random moments`,
      async (t) => {
        for (let round = 0; round < ROUNDS; round++) await endUnderLoad(t, ending)
      },
      { timeoutMs: 180_000 },
    )
  }
})
