import assert from 'node:assert/strict'
import { BroadcastChannel } from 'node:worker_threads'
import type { Server, ServerOptions, ShardChange } from '../../src/index.js'
import type { Held } from '../fixtures/servers/crash-module.js'
import type { Client } from './client.js'
import { Residents } from './residents.js'
import { portOf, type TestContext } from './suite.js'

/** A server that dies as it is told; see there. */
export const CRASH_MODULE: URL = new URL('../fixtures/servers/crash-module.js', import.meta.url)
/** Blocked for so long that others take its queue over. */
const BLOCK_MS = 150
/** As many as the queue of every system holds. */
const QUEUE_MAX = 100
/** No shard of a busy machine is stuck for so long by chance. */
const KILL_AFTER_MS = 1_000

/** Every way for a shard to die, with what the supervisor says of it. */
export const WAYS: readonly (readonly [way: string, reason: RegExp])[] = [
  ['throw', /^died as it was told$/],
  ['reject', /^died as it was told$/],
  ['exit', /exit code 3/],
  ['heap', /memory limit/],
  ['panic', /the native shard panicked/],
  ['terminate', /was stuck for \d+ ms/],
]

/** What a server has whose shards are to die that way again and again. */
export function mortal(way: string, shards: number): ServerOptions {
  return {
    shards,
    maxRestarts: 10_000,
    restartWindowMs: 1, // so that every replacement is at once
    resourceLimits: { maxOldGenerationSizeMb: 32 },
    ...(way === 'terminate' && { killAfterMs: KILL_AFTER_MS }),
  }
}

/** What became of connections that came while shards died. */
export interface Tally {
  readonly queued: number
  readonly answered: number
  readonly failed: number
  /** As the 'shard' events say: those that lived on the shards, which are residents and the ones that gave the order. */
  readonly lost: number
  /** Queued connections that the shard that died had, and another or its replacement served. */
  readonly takenOver: number
  /** Bytes that residents got back as they had sent them. */
  readonly echoed: number
}

/**
 * Has a shard die `crashes` times with `queued` new connections each time while `residents` live on all shards and echo
 * as fast as they can. Checks that those of the killed shard are lost and no other, and every count of it.
 */
export async function crash(
  t: TestContext,
  way: string,
  reason: RegExp,
  plan: { crashes: number; queued: number; shards: number; residents: number },
): Promise<Tally> {
  const { crashes, queued, shards } = plan
  const server = await t.serve(CRASH_MODULE, mortal(way, shards))
  const residents = new Residents(portOf(server), t.random, t.nodeTls())
  let [answered, failed, lost] = [0, 0, 0]
  for (let round = 0; round < crashes; round++) {
    await residents.fill(plan.residents)
    const died = nextDeath(server)
    const killer = await t.connect(server)
    await killer.write('who\n')
    const shard = Number(await killer.readLine())
    const onShard = residents.on(shard)
    // Closed by the clients of the round before, and not yet by the shards: they would be lost with the shard.
    while (server.metrics().total.connectionsOpen > plan.residents + 1) await nextTurn()
    const held = await hold(killer, way, BLOCK_MS)
    let connected = 0
    const onConnect = (): void => {
      if (++connected === Math.min(queued, QUEUE_MAX)) letGo(held)
    }
    const asked = (): Promise<void> =>
      ask(t, server, onConnect).catch((error) => {
        letGo(held) // one that is not connected must not keep it
        throw error
      })
    const results = await Promise.allSettled(Array.from({ length: queued }, asked))
    const ok = results.filter(({ status }) => status === 'fulfilled').length
    answered += ok
    failed += queued - ok
    const change = await died
    assert.equal(change.id, shard)
    assert.match(change.reason ?? '', reason)
    assert.equal(change.connectionsLost, onShard + 1, 'residents of the shard, and who gave the order')
    lost += onShard + 1
    await residents.untilNoneOn(shard)
    assert.deepEqual(residents.broken.splice(0), Array(onShard).fill(shard), 'broken, by shard')
    await killer.untilReset()
    await killer.destroy()
    while (server.shards[shard]?.state !== 'ready')
      await new Promise((resolve) => server.events.once('shard', resolve))
  }
  await residents.end()
  const { total, shards: each } = server.metrics()
  assert.equal(total.resets.shardDeath, lost)
  assert.equal(
    each.reduce((sum, { restarts }) => sum + restarts, 0),
    crashes,
  )
  await server.abort()
  const takenOver = total.connectionsTakenOver
  // About half of them came to the queue of the one that died.
  if (shards === 2) assert.ok(takenOver > (crashes * queued) / 10, `${takenOver} connections were taken over`)
  return { queued: crashes * queued, answered, failed, lost, takenOver, echoed: residents.echoed }
}

/**
 * Has the shard that `killer` is connected to blocked until {@link letGo}, and for `blockMs` at least, and then die. Resolves when it is,
 * by its own word: one that is only busy or waits for a processor would yet see the connections that come now.
 */
export async function hold(killer: Client, way: string, blockMs = 0): Promise<Held> {
  const channel = new BroadcastChannel('crash-module')
  try {
    const held = new Promise<Held>((resolve) => {
      channel.onmessage = (event) => resolve((event as MessageEvent).data as Held)
    })
    await killer.write(`die ${way} ${blockMs} held\n`)
    return await held
  } finally {
    channel.close()
  }
}

/** Lets it die. */
export function letGo({ gate }: Held): void {
  Atomics.store(gate, 0, 1)
  Atomics.notify(gate, 0)
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

async function ask(t: TestContext, server: Server, onConnect: () => void): Promise<void> {
  const client = await t.connect(server, { onConnect })
  await client.write('who\n')
  await client.readLine()
  await client.destroy()
}

/** The next death of a shard. */
export function nextDeath(server: Server): Promise<ShardChange> {
  return new Promise((resolve) => {
    server.events.on('shard', function died(change) {
      if (change.exitCode === undefined) return
      server.events.off('shard', died)
      resolve(change)
    })
  })
}
