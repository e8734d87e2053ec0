import { inspect } from 'node:util'
import type { ExceptionContext } from './shard-loop.js'

/** The default exception handler: what happened and the error with its stack, to stderr. */
export function printException(context: ExceptionContext): void {
  process.stderr.write(`shardloop: ${context.message}\n${inspect(context.error)}\n`)
}
