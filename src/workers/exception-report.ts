import type { ExceptionContext } from './connection-server.js'
import { threadLog } from './thread-log.js'

/** The default exception handler: what happened and the error with its stack, to the log. */
export function printException({ message, error, transport }: ExceptionContext): void {
  threadLog().write('error', message, { ...(transport && { connection: transport.id }), err: error })
}
