import { STREAM_LIMIT_DEFAULT_BYTES, STREAM_LIMIT_MAX_BYTES } from '../limits.js'
import type { Connected } from '../loop/connect.js'
import type { ConnectionOptions, UnixConnectionOptions } from '../loop/connection-options.js'
import { getLoop } from '../loop/get-loop.js'
import { createServer } from '../server/create-server.js'
import { wrong } from '../server/given-options.js'
import type { ServerOptions } from '../server/options.js'
import type { Server } from '../server/server.js'
import { invalid } from '../workers/invalid.js'
import type { ProtocolFactory } from '../workers/protocol.js'
import type { Stream } from './stream.js'
import { type StreamHandler, StreamProtocol } from './stream-protocol.js'

/** Options of every stream. */
export interface StreamOptions {
  /**
   * Longest line in bytes, and longest of whatever `readUntil` reads; when twice as much is received and not read, receiving is
   * paused until no more than this is left. 1 to 2^30; default 64 KiB, as in asyncio.
   */
  readonly limit?: number
}

/**
 * Makes protocols of a function that handles a stream, for `createServer`. It runs in the async context of the connection,
 * which is closed in good order when the promise that it returned is fulfilled, and aborted when that is rejected; then the
 * exception handler is told, unless it rejects with what broke the connection. When it returns no promise, the connection
 * is its own to close, as in asyncio.
 *
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT, ERR_SHARDLOOP_OPTION
 */
export function fromStream(handler: StreamHandler, options: StreamOptions = {}): ProtocolFactory {
  if (typeof handler !== 'function') throw invalid('handler', handler, 'a function that handles a stream')
  const { limit, ...unknown } = options
  const checked = checkedLimit(limit)
  for (const [name, value] of Object.entries(unknown)) throw wrong(name, value, 'nothing: there is limit')
  return () => new StreamProtocol(checked, handler)
}

/** asyncio's `open_connection`: `createConnection` of this thread's loop, with a stream. */
export async function openConnection(options: ConnectionOptions & StreamOptions): Promise<Stream> {
  const { limit, ...connection } = options ?? {}
  const checked = checkedLimit(limit)
  return streamOf(await getLoop().createConnection(() => new StreamProtocol(checked, null), connection))
}

/** asyncio's `open_unix_connection`: `createUnixConnection` of this thread's loop, with a stream. */
export async function openUnixConnection(options: UnixConnectionOptions & StreamOptions): Promise<Stream> {
  const { limit, ...connection } = options ?? {}
  const checked = checkedLimit(limit)
  return streamOf(await getLoop().createUnixConnection(() => new StreamProtocol(checked, null), connection))
}

/**
 * asyncio's `start_server` and, with `path`, `start_unix_server`: `createServer` with {@link fromStream}. The handler of a
 * shard is that of the shard's own call.
 */
export async function startServer(
  handler: StreamHandler,
  options: ServerOptions & StreamOptions = {},
): Promise<Server> {
  const { limit, ...server } = options ?? {}
  return createServer(fromStream(handler, limit === undefined ? {} : { limit }), server)
}

function streamOf([, protocol]: Connected<StreamProtocol>): Stream {
  return protocol.stream
}

function checkedLimit(limit: number | undefined): number {
  if (limit === undefined) return STREAM_LIMIT_DEFAULT_BYTES
  if (Number.isInteger(limit) && limit >= 1 && limit <= STREAM_LIMIT_MAX_BYTES) return limit
  throw wrong('limit', limit, `an integer from 1 to ${STREAM_LIMIT_MAX_BYTES}`)
}
