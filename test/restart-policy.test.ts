import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { RestartPolicy } from '../src/server/restart-policy.js'

const policy = suite('restart policy')
const WINDOW_MS = 60_000

policy('replaces the first at once, then after twice as long each time, up to ten seconds', () => {
  const shard = new RestartPolicy({ maxRestarts: 12, restartWindowMs: WINDOW_MS }, () => 0)
  const delays = Array.from({ length: 12 }, (_, nth) => shard.died(nth, 1000 + nth))
  assert.deepEqual(
    delays.map((after) => ('restartInMs' in after ? after.restartInMs : null)),
    [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000],
  )
})

policy('spreads a delay between its half and its whole', () => {
  const delayAt = (random: number): object => {
    const shard = new RestartPolicy({ maxRestarts: 9, restartWindowMs: WINDOW_MS }, () => random)
    shard.died('first', 0)
    shard.died('second', 0)
    return shard.died('third', 0)
  }
  assert.deepEqual(delayAt(0), { restartInMs: 100 })
  assert.deepEqual(delayAt(0.5), { restartInMs: 150 })
  assert.deepEqual(delayAt(0.999), { restartInMs: 200 })
})

policy('gives up after maxRestarts, with the first death of the loop', () => {
  const shard = new RestartPolicy({ maxRestarts: 2, restartWindowMs: WINDOW_MS })
  shard.died('a', 0)
  shard.died('b', 10)
  assert.deepEqual(shard.died('c', 20), { firstDeath: 'a' })
})

policy('with maxRestarts 0 gives up at once', () => {
  const shard = new RestartPolicy({ maxRestarts: 0, restartWindowMs: WINDOW_MS })
  assert.deepEqual(shard.died('a', 5), { firstDeath: 'a' })
})

policy('forgets what is older than the window', () => {
  const shard = new RestartPolicy({ maxRestarts: 1, restartWindowMs: 100 }, () => 0)
  for (const atMs of [0, 100, 200, 301]) assert.deepEqual(shard.died(`at ${atMs}`, atMs), { restartInMs: 0 })
  assert.deepEqual(shard.died('too soon', 400), { firstDeath: 'at 301' })
})

policy.run()
