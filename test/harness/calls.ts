import type { Server, ServerOptions } from '../../src/index.js'
import type { TestContext } from './suite.js'

/** A server whose shards expose functions to other threads; see there. */
export const CALLS_MODULE: URL = new URL('../fixtures/servers/calls-module.js', import.meta.url)

/** Shards to call. This thread's loop is closed after the test. */
export async function callable(t: TestContext, options: ServerOptions = {}): Promise<Server> {
  t.loop // closed behind the server
  return await t.serve(CALLS_MODULE, { shards: 2, maxRestarts: 10_000, restartWindowMs: 1, ...options })
}

/** Resolves when a shard is there (again). */
export async function untilReady(server: Server, shard: number): Promise<void> {
  while (server.shards[shard]?.state !== 'ready')
    await new Promise((resolve) => server.events.once('shard', resolve))
}
