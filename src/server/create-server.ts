import { isMainThread } from 'node:worker_threads'
import { native } from '../native/index.js'
import type { DatagramProtocolFactory } from '../workers/datagram-protocol.js'
import type { ProtocolFactory } from '../workers/protocol.js'
import { currentShard, type Shard } from '../workers/shard.js'
import { adoptLogger } from '../workers/thread-log.js'
import { type DatagramServerOptions, parseDatagramServerOptions } from './datagram-options.js'
import { parseOptions, type ServerOptions, type ServerSettings } from './options.js'
import type { Server } from './server.js'
import { ShardHandle } from './shard-handle.js'

/**
 * What only a supervising thread needs, which a shard does not load: each file delays its start, and a shard that is
 * replaced does not serve until then. On the main thread it is loaded with the package, when a descriptor is as free as
 * for the rest of it. Kept, so that calls go on in the order in which they were made.
 */
let starting = isMainThread ? loadStart() : undefined

function loadStart(): Promise<typeof import('./start-server.js')> {
  const loaded = import('./start-server.js')
  loaded.catch(() => {}) // who calls createServer hears of it
  return loaded
}

/**
 * Starts a server on `options.shards` worker threads that share its port, and resolves when all of them listen.
 *
 * With a factory, each shard runs the program's entry again from its beginning, and the same call there registers
 * the factory and resolves to a handle whose control methods the main thread carries out; see `isSupervisor`. With the
 * URL of a module, whose default export is the factory, nothing else of the program runs in the shards.
 *
 * Rejects with ERR_SHARDLOOP_ARGUMENT or ERR_SHARDLOOP_OPTION before anything has started, with the system's error when
 * an address cannot be had, with what a shard's start threw, or with ERR_SHARDLOOP_START; then nothing is left behind.
 *
 * @param source makes a connection's protocol, on its shard's thread; or the file: URL of a module that exports that
 */
export async function createServer(
  source: ProtocolFactory | URL,
  options: ServerOptions = {},
): Promise<Server> {
  return start(source, parseOptions(source, options, native.balancesReusePort()))
}

/**
 * Starts a datagram server (UDP) on `options.shards` worker threads: each has a socket of its own on the port, and the kernel
 * (Linux) hands each peer's datagrams to one of them. In all else it is as {@link createServer}: the factory makes one protocol
 * for each shard and host, a shard that dies is replaced, and its socket, which is the supervisor's, receives meanwhile. A
 * protocol whose callback throws gets `connectionLost(error)`, and the factory makes another one for the socket.
 *
 * @param source makes a protocol, on its shard's thread; or the file: URL of a module that exports that
 */
export async function createDatagramServer(
  source: DatagramProtocolFactory | URL,
  options: DatagramServerOptions = {},
): Promise<Server> {
  // What makes protocols is handed through to where it is known of which kind they are.
  const factory = source as unknown as ProtocolFactory | URL
  return start(factory, parseDatagramServerOptions(factory, options, native.balancesReusePort()))
}

async function start(source: ProtocolFactory | URL, settings: ServerSettings): Promise<Server> {
  const local = settings.shards === 0
  const shard = currentShard()
  if (shard !== null && !local) return createInShard(shard, source, settings)
  if (!isMainThread && !local) throw (await import('./test-runner.js')).notOnMainThread()
  adoptLogger(settings.logger, settings.logLevel)
  starting ??= loadStart()
  const { startLocal, startOnShards } = await starting
  const { signal } = settings
  signal?.throwIfAborted()
  const server = await (local ? startLocal(source, settings) : startOnShards(source, settings))
  if (signal !== undefined) await closeOnAbort(server, signal)
  return server
}

async function closeOnAbort(server: Server, signal: AbortSignal): Promise<void> {
  if (signal.aborted) {
    await server.close()
    throw signal.reason
  }
  const close = (): void => void server.close()
  signal.addEventListener('abort', close)
  server.events.once('close', () => signal.removeEventListener('abort', close))
}

async function createInShard(
  shard: Shard,
  source: ProtocolFactory | URL,
  settings: ServerSettings,
): Promise<Server> {
  const { name, startTimeoutMs, exceptionHandler, logger } = settings
  const registration = source instanceof URL ? source : { factory: source, exceptionHandler, logger }
  const link = await shard.call({ name, source: registration, startTimeoutMs })
  return new ShardHandle(shard, link, name)
}
