import type { ExceptionContext, ExceptionHandler } from './connection-server.js'
import { printException } from './exception-report.js'
import { threadLog } from './thread-log.js'
import { threadSingleton } from './thread-singleton.js'

/** The context of an exception. */
export function exceptionContext(
  message: string,
  exception: unknown,
  concerned: Omit<ExceptionContext, 'message' | 'exception' | 'error'> = {},
): ExceptionContext {
  return { message, exception, error: exception, ...concerned }
}

/** The thread's exception handler: for what fails where nobody has a handler of their own. */
interface HandlerSlot {
  handler: ExceptionHandler | null
}

function slot(): HandlerSlot {
  return threadSingleton<HandlerSlot>('exception-handler', () => ({ handler: null }))
}

/** The handler that was set in this thread, or null for the default one. */
export function exceptionHandler(): ExceptionHandler | null {
  return slot().handler
}

/** @param handler null for the default one, {@link printException} */
export function setExceptionHandler(handler: ExceptionHandler | null): void {
  slot().handler = handler
}

/** Tells the thread's handler, or the default one. One that throws is reported, and nothing else suffers (asyncio). */
export function callExceptionHandler(context: ExceptionContext): void {
  tell(slot().handler ?? printException, context)
}

/** Tells a handler. One that throws is reported, and nothing else suffers. */
export function tell(handler: ExceptionHandler, context: ExceptionContext): void {
  try {
    handler(context)
  } catch (error) {
    printException(context)
    threadLog().write('error', 'the exception handler threw when it was told of that', { err: error })
  }
}
