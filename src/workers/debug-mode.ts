import { performance } from 'node:perf_hooks'
import { threadLog } from './thread-log.js'
import { threadSingletonGetter } from './thread-singleton.js'

/** What a thread's debug mode is set to, as asyncio's. */
export interface DebugMode {
  /** Default: whether the environment has SHARDLOOP_DEBUG=1. */
  enabled: boolean
  /** Seconds from which on a callback is slow. */
  slowCallbackDuration: number
}

/** As asyncio's `slow_callback_duration`. */
const SLOW_CALLBACK_SECONDS = 0.1

/** The calling thread's. Whoever runs callbacks keeps it and looks at it: that costs nothing while it is off. */
export const debugMode: () => DebugMode = threadSingletonGetter('debug-mode', () => ({
  enabled: process.env['SHARDLOOP_DEBUG'] === '1',
  slowCallbackDuration: SLOW_CALLBACK_SECONDS,
}))

/** Where a call came from: the stack above `below`, a function on it. undefined while debug mode is off. */
export function creationStack(below: (...args: never[]) => unknown): string | undefined {
  if (!debugMode().enabled) return undefined
  const holder: { stack?: string } = {}
  Error.captureStackTrace(holder, below)
  return holder.stack?.split('\n').slice(1).join('\n')
}

/** As it was before the program may have replaced it (a test runner's clock). */
const now = performance.now.bind(performance)

/**
 * Runs something, and warns when it took long. What it throws is thrown.
 * @param tell what it was, for people, and the fields of the record; called only then
 */
export function watchDuration(
  run: () => void,
  tell: () => { readonly what: string; readonly fields: Readonly<Record<string, unknown>> },
): void {
  const began = now()
  try {
    run()
  } finally {
    const seconds = (now() - began) / 1000
    if (seconds >= debugMode().slowCallbackDuration) {
      const { what, fields } = tell()
      threadLog().write('warn', `${what} took ${seconds.toFixed(3)} seconds`, { ...fields, seconds })
    }
  }
}
