import { PENDING_TOLD_MAX } from '../limits.js'
import { monotonicTime } from '../workers/clock.js'
import type { ExceptionContext } from '../workers/connection-server.js'
import { callExceptionHandler, exceptionContext } from '../workers/exception-handler.js'
import { type Handle, type ScheduledCall, TimerCall } from '../workers/handles.js'
import { invalid } from '../workers/invalid.js'
import { threadLog } from '../workers/thread-log.js'
import { DescriptorCall } from './descriptors.js'

/** Tells the thread's exception handler what a loop's callback threw. */
export function reportCallback(error: unknown, handle: Handle): void {
  const isTimer = handle instanceof TimerCall
  const method = handle instanceof DescriptorCall ? handle.method : isTimer ? 'callLater' : 'callSoon'
  callExceptionHandler(exceptionContext(`a callback of ${method} threw`, error, { handle }))
}

/** Logs which callbacks still wait while their loop is closed. */
export function warnOfPending(pending: readonly ScheduledCall[]): void {
  if (pending.length === 0) return
  const handles = pending.slice(0, PENDING_TOLD_MAX).map((call) => {
    const when =
      call instanceof TimerCall ? `, due in ${(call.when() - monotonicTime()).toFixed(3)} seconds` : ''
    return `${call.describe()}${when}${call.source === undefined ? '' : `\n${call.source}`}`
  })
  threadLog().write('warn', `the loop was closed while ${pending.length} callbacks waited`, { handles })
}

/** The context that a program gives, in full; throws when it is none. */
export function checkedContext(context: Omit<ExceptionContext, 'error'>): ExceptionContext {
  if (typeof context !== 'object' || context === null || typeof context.message !== 'string')
    throw invalid('context', context, 'an object with a message')
  return { ...context, error: context.exception }
}
