import { ShardloopError } from '../errors.js'
import { threadLoop } from '../workers/thread-loop.js'

/**
 * For who is given a descriptor's number by the program. Two owners would close the same number, by then perhaps another's.
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for one that a connection, an endpoint or a server of this thread uses (asyncio)
 */
export function refuseTransport(fd: number): void {
  if (!threadLoop().uses(fd)) return
  throw new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `descriptor ${fd} is used by a transport or a server of this thread; expected one that shardloop does not read from`,
  )
}
