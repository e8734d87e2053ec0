/**
 * Loaded before a server's program (`node --import`): how late a timer of the main thread is. Understands `reset` and `report`
 * on stdin, as `../inside.ts` has it; the program does not know of it, and ends as it does without.
 */
import { createInterface } from 'node:readline'
import { isMainThread } from 'node:worker_threads'
import type { InsideRequest } from '../inside.js'
import { latencySummary } from '../measured-inside.js'

const INTERVAL_MS = 5
/** A timer may be early by less than a millisecond; nothing is compared with what is not late at all. */
const LEAST_US = 1

// Worker threads load it, too.
if (isMainThread) measure()

function measure(): void {
  let late: number[] = []
  let startedMs = performance.now()
  const again = (): void => {
    const nowMs = performance.now()
    late.push(Math.max(LEAST_US, (nowMs - startedMs - INTERVAL_MS) * 1000))
    startedMs = nowMs
    setTimeout(again, INTERVAL_MS).unref()
  }
  setTimeout(again, INTERVAL_MS).unref()
  createInterface({ input: process.stdin }).on('line', (line) => {
    if ((line.trim() as InsideRequest) === 'reset') late = []
    console.log(JSON.stringify(latencySummary(late)))
  })
  process.stdin.unref()
}
