/** What starts a server on the thread that supervises it. */
import type { ProtocolFactory } from '../workers/protocol.js'
import type { OpenCall } from './call-book.js'
import { automaticShards } from './cpu-quota.js'
import { type Listeners, openListeners } from './listeners.js'
import { LocalGroup } from './local-group.js'
import type { ServerSettings } from './options.js'
import { assertEntryRunsAgain } from './program-entry.js'
import type { Server } from './server.js'
import { ServerTls } from './server-tls.js'
import { SupervisorServer } from './supervisor-server.js'
import { announceEnd, callBook, joinWorkerSet, type WorkerSet } from './worker-set.js'

/** `shards: 0`. */
export async function startLocal(source: ProtocolFactory | URL, settings: ServerSettings): Promise<Server> {
  // First, as it refuses another engine than runs.
  const group = new LocalGroup(source, settings)
  let tls: ServerTls | null = null
  let listeners: Listeners
  try {
    tls = openTls(settings)
    listeners = await openListeners(settings, 1)
  } catch (error) {
    tls?.end()
    await group.discard()
    throw error
  }
  const server = new SupervisorServer({
    name: settings.name ?? 'server',
    place: null,
    server: 0,
    settings,
    module: source instanceof URL ? source.href : null,
    listeners,
    group,
    tls,
    onEnd: () => {},
  })
  await server.start()
  return server
}

/** On worker threads. */
export async function startOnShards(
  source: ProtocolFactory | URL,
  settings: ServerSettings,
): Promise<Server> {
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
  const tls = openTls(settings)
  const set = await joining(settings, tls)
  try {
    const listeners = await openListeners(settings, set.plan.size)
    const server = new SupervisorServer({
      ...call,
      settings,
      module: source instanceof URL ? source.href : null,
      listeners,
      group: set,
      tls,
      onEnd: (end) => announceEnd(callBook().end(call, end)),
    })
    set.addUser(server)
    return server
  } catch (error) {
    tls?.end()
    await set.withdraw()
    throw error
  }
}

async function joining(settings: ServerSettings, tls: ServerTls | null): Promise<WorkerSet> {
  try {
    return await joinWorkerSet(settings, automaticShards)
  } catch (error) {
    tls?.end()
    throw error
  }
}

/** Reads certificates and keys. @throws ShardloopError ERR_SHARDLOOP_OPTION */
function openTls(settings: ServerSettings): ServerTls | null {
  return settings.tls === null ? null : new ServerTls(settings.tls)
}
