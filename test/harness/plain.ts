import { suite } from 'uvu'
import { expectEnd, takeStock } from './leaks.js'
import { armWatchdog } from './watchdog.js'

const TEST_TIMEOUT_MS = 20_000
/** The thread itself gets this much longer to report a timeout before the watchdog kills the process. */
const WATCHDOG_GRACE_MS = 10_000

let suitesToRun = 0

/** A cleanup runs after the test, last registered first. */
export type Defer = (cleanup: () => Promise<unknown> | unknown) => void

/** Defines a test; it may take 20 s by default. */
export type PlainTest = (
  name: string,
  body: (defer: Defer) => Promise<void> | void,
  options?: { readonly timeoutMs?: number },
) => void

/**
 * Tests that need no server, and so no engine, once. As those of `forEachEngine`, they may not take long, and the process has to
 * end by itself with nothing left open.
 */
export function plainSuite(title: string, define: (test: PlainTest) => void): void {
  const tests = suite(title)
  suitesToRun++
  tests.before(takeStock)
  define((name, body, { timeoutMs = TEST_TIMEOUT_MS } = {}) =>
    tests(name, () => runTest(`${title}: ${name}`, body, timeoutMs)))
  tests.after(() => {
    if (--suitesToRun === 0) expectEnd()
  })
  tests.run()
}

async function runTest(
  label: string,
  body: (defer: Defer) => Promise<void> | void,
  timeoutMs: number,
): Promise<void> {
  const cleanups: (() => Promise<unknown> | unknown)[] = []
  armWatchdog(timeoutMs + WATCHDOG_GRACE_MS, label)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not finished after ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    await Promise.race([body((cleanup) => cleanups.push(cleanup)), late])
  } finally {
    clearTimeout(timer)
    for (let cleanup = cleanups.pop(); cleanup !== undefined; cleanup = cleanups.pop()) await cleanup()
    armWatchdog(0)
  }
}
