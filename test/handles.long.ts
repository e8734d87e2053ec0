import { churnStale } from './harness/churn.js'
import { forEachEngine } from './harness/suite.js'

forEachEngine('handles and slots, long', (test) => {
  test(
    'nothing reaches a successor when the generations of a slot have wrapped round',
    (t) => churnStale(t, 10_000),
    { timeoutMs: 240_000 },
  )
})
