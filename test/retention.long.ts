import { holdDrips } from './harness/drips.js'
import { forEachEngine } from './harness/suite.js'

forEachEngine('chunks, long', (test) => {
  test(
    '10,000 connections that keep one byte each stay under the retention limit',
    async (t) => {
      await holdDrips(t, 10_000)
    },
    { timeoutMs: 180_000 },
  )
})
