/**
 * Loaded before a server's program (`node --import`): how long the main thread's loop would have kept somebody waiting who came at any
 * time, every 0.1 ms of it. A timer would tell no less than its own resolution, 1 ms; so an immediate looks at the clock in each turn
 * of the loop, which does not sleep meanwhile. Understands `reset` and `report` on stdin, as `../inside.ts` has it; the program
 * does not know of it, and ends as it does without.
 */
import { createInterface } from 'node:readline'
import { isMainThread } from 'node:worker_threads'
import type { InsideRequest } from '../inside.js'
import { latencySummary } from '../measured-inside.js'

/** From one that might have come to the next. */
const PROBE_US = 100
/** Nothing is compared with what did not wait at all. */
const LEAST_US = 1

// Worker threads load it, too.
if (isMainThread) measure()

function measure(): void {
  let late: number[] = []
  let dueUs = 0
  /** From `reset` to `report`: it keeps the loop from sleeping, which would look like lag, and from ending. */
  let looks = false
  const turn = (): void => {
    if (!looks) return
    const nowUs = performance.now() * 1000
    for (; dueUs <= nowUs; dueUs += PROBE_US) late.push(Math.max(LEAST_US, nowUs - dueUs))
    setImmediate(turn)
  }
  createInterface({ input: process.stdin }).on('line', (line) => {
    const begins = (line.trim() as InsideRequest) === 'reset'
    if (begins && !looks) setImmediate(turn)
    looks = begins
    if (begins) {
      late = []
      dueUs = performance.now() * 1000
    }
    console.log(JSON.stringify(latencySummary(late)))
  })
  process.stdin.unref()
}
