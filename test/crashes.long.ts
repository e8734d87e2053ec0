import assert from 'node:assert/strict'
import { crash, type Tally, WAYS } from './harness/crashes.js'
import { forEachEngine } from './harness/suite.js'

forEachEngine('1,000 queued connections over 5 crashes', (test) => {
  const tallies: Record<string, Tally> = {}
  for (const shards of [1, 2]) {
    for (const [way, reason] of WAYS) {
      test(
        `${way}, shards ${shards}: none is lost`,
        async (t) => {
          const tally = await crash(t, way, reason, { crashes: 5, queued: 200, shards, residents: 0 })
          tallies[`${way}, shards ${shards}`] = tally
          assert.equal(tally.failed, 0)
        },
        { timeoutMs: 60_000 },
      )
    }
  }

  test(
    '100 crashes under load with 200 queued each: all are answered, and only who lived on the shard fails',
    async (t) => {
      const tally = await crash(t, 'throw', /died/, { crashes: 100, queued: 200, shards: 2, residents: 40 })
      tallies['100 crashes'] = tally
      assert.equal(tally.failed, 0)
      console.table(tallies)
    },
    { timeoutMs: 300_000 },
  )
})
