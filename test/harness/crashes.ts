import assert from 'node:assert/strict'
import { BroadcastChannel } from 'node:worker_threads'
import type { Server, ServerOptions, ShardChange } from '../../src/index.js'
import { Residents } from './residents.js'
import { portOf, type TestContext } from './suite.js'

/** A server that dies as it is told; see there. */
export const CRASH_MODULE: URL = new URL('../fixtures/servers/crash-module.js', import.meta.url)
/** Blocked for long enough that every client has connected. */
const BLOCK_MS = 150
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
  const options: ServerOptions = {
    shards,
    maxRestarts: 10_000,
    restartWindowMs: 1, // so that every replacement is at once
    resourceLimits: { maxOldGenerationSizeMb: 32 },
    ...(way === 'terminate' && { killAfterMs: KILL_AFTER_MS }),
  }
  const server = await t.serve(CRASH_MODULE, options)
  const residents = new Residents(portOf(server), t.random)
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
    const blocked = untilBlocked(shard)
    await killer.write(`die ${way} ${BLOCK_MS}\n`)
    await blocked
    const results = await Promise.allSettled(Array.from({ length: queued }, () => ask(t, server)))
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

/** By the shard's own word: one that is only busy or waits for a processor would yet see the connections that come now. */
async function untilBlocked(shard: number): Promise<void> {
  const channel = new BroadcastChannel('crash-module')
  try {
    await new Promise<void>((resolve) => {
      channel.onmessage = (event) => {
        if ((event as MessageEvent).data === shard) resolve()
      }
    })
  } finally {
    channel.close()
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

async function ask(t: TestContext, server: Server): Promise<void> {
  const client = await t.connect(server)
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
