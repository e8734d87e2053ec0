import { forEachEngine } from './harness/suite.js'
import { ENDINGS, type Ending, endUnderLoad } from './harness/teardown.js'

const ROUNDS = 60
/** Processes at a time: each waits for its own start for the most part. */
const LANES = 2

forEachEngine('ends under load, long', (test) => {
  for (const ending of Object.keys(ENDINGS) as Ending[]) {
    test(
      `${ending} at ${ROUNDS} random moments`,
      async (t) => {
        let round = 0
        const lane = async (): Promise<void> => {
          while (round++ < ROUNDS) await endUnderLoad(t, ending)
        }
        await Promise.all(Array.from({ length: LANES }, lane))
      },
      { timeoutMs: 180_000 },
    )
  }
})
