import assert from 'node:assert/strict'
import { crash, WAYS } from './harness/crashes.js'
import { forEachEngine } from './harness/suite.js'

forEachEngine('connections that queue up while a shard dies', (test) => {
  for (const shards of [1, 2]) {
    for (const [way, reason] of WAYS) {
      test(`are answered by ${shards === 1 ? 'its replacement' : 'others'} (${way})`, async (t) => {
        const { answered, failed } = await crash(t, way, reason, {
          crashes: 2,
          queued: 50,
          shards,
          residents: 10,
        })
        assert.deepEqual({ answered, failed }, { answered: 100, failed: 0 })
      })
    }
  }
})
