import type { ExceptionContext } from './connection-server.js'
import { threadLog } from './thread-log.js'

/** The default exception handler: what happened and the error with its stack, to the log. */
export function printException({ message, error, transport, endpoint }: ExceptionContext): void {
  const concerned = {
    ...(transport && { connection: transport.id }),
    ...(endpoint && { endpoint: endpoint.id }),
  }
  threadLog().write('error', message, { ...concerned, err: error })
}
