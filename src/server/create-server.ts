import { isMainThread } from 'node:worker_threads'
import { native } from '../native/index.js'
import type { ProtocolFactory } from '../workers/protocol.js'
import { currentShard, type Shard } from '../workers/shard.js'
import type { OpenCall } from './call-book.js'
import { automaticShards } from './cpu-quota.js'
import { openListeners } from './listeners.js'
import { LocalGroup } from './local-group.js'
import { parseOptions, type ServerOptions, type ServerSettings } from './options.js'
import { assertEntryRunsAgain } from './program-entry.js'
import type { Server } from './server.js'
import { ShardHandle } from './shard-handle.js'
import { SupervisorServer } from './supervisor-server.js'
import { notOnMainThread } from './test-runner.js'
import { announceEnd, callBook, joinWorkerSet } from './worker-set.js'

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
  const settings = parseOptions(source, options, native.balancesReusePort())
  if (settings.shards === 0) return createLocal(source, settings)
  const shard = currentShard()
  if (shard !== null) return createInShard(shard, source, settings)
  if (!isMainThread) throw notOnMainThread()
  return createOnShards(source, settings)
}

/** `shards: 0`. */
async function createLocal(source: ProtocolFactory | URL, settings: ServerSettings): Promise<Server> {
  const listeners = await openListeners(settings, 1)
  let group: LocalGroup
  try {
    group = new LocalGroup(source, settings.exceptionHandler)
  } catch (error) {
    listeners.close()
    throw error
  }
  const server = new SupervisorServer({
    name: settings.name ?? 'server',
    key: 'local',
    server: 0,
    settings,
    module: source instanceof URL ? source.href : null,
    listeners,
    group,
    onEnd: () => {},
  })
  await server.start()
  return server
}

async function createInShard(
  shard: Shard,
  source: ProtocolFactory | URL,
  settings: ServerSettings,
): Promise<Server> {
  const { name, startTimeoutMs, exceptionHandler } = settings
  const registration = source instanceof URL ? source : { factory: source, exceptionHandler }
  const link = await shard.call({ name, source: registration, startTimeoutMs })
  return new ShardHandle(shard, link, name)
}

async function createOnShards(source: ProtocolFactory | URL, settings: ServerSettings): Promise<Server> {
  const book = callBook()
  const call = book.open(settings.name)
  let server: SupervisorServer
  try {
    book.assertNameIsFree(call)
    if (!(source instanceof URL)) assertEntryRunsAgain()
    server = await prepare(source, settings, call)
  } catch (error) {
    announceEnd(book.end(call, { sockets: [], error }))
    throw error
  }
  await server.start()
  return server
}

/** Binds, before any shard is started for it. */
async function prepare(
  source: ProtocolFactory | URL,
  settings: ServerSettings,
  call: OpenCall,
): Promise<SupervisorServer> {
  const set = await joinWorkerSet(settings, automaticShards)
  try {
    const listeners = await openListeners(settings, set.plan.size)
    const server = new SupervisorServer({
      ...call,
      settings,
      module: source instanceof URL ? source.href : null,
      listeners,
      group: set,
      onEnd: (end) => announceEnd(callBook().end(call, end)),
    })
    set.addUser(server)
    return server
  } catch (error) {
    await set.withdraw()
    throw error
  }
}
