import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import type { Server, ShardStall } from '../src/index.js'
import type { Client } from './harness/client.js'
import { nextDeath } from './harness/crashes.js'
import { whileBlocked } from './harness/queued.js'
import { assertThrows, forEachEngine, portOf, type TestContext } from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/stuck-module.js', import.meta.url)
/** How long a shard is stuck that must not matter: far longer than any test waits. */
const LONG_MS = 60_000

/** What a new connection is answered, and after how many milliseconds. */
async function ask(t: TestContext, server: Server, line = 'who'): Promise<{ shard: number; ms: number }> {
  const began = performance.now()
  const client = await t.connect(server)
  await client.write(`${line}\n`)
  const shard = Number(await client.readLine())
  const ms = performance.now() - began
  await client.destroy()
  return { shard, ms }
}

/** Blocks a shard, and returns which with the connection that did it. */
async function block(
  t: TestContext,
  server: Server,
  command = `block ${LONG_MS}`,
): Promise<{ shard: number; client: Client }> {
  const client = await t.connect(server)
  await client.write(`${command}\n`)
  return { shard: Number(await client.readLine()), client }
}

/** Resolves when the server says that this shard is stuck. */
async function untilStalled(server: Server, shard: number): Promise<ShardStall> {
  for (;;) {
    const [stall] = (await once(server.events, 'stalled')) as [ShardStall]
    if (stall.id === shard) return stall
  }
}

forEachEngine('a shard that is stuck', (test) => {
  for (const balance of ['reuseport', 'shared'] as const) {
    if (balance === 'reuseport' && process.platform !== 'linux') continue
    test(`its new connections are served by the others (balance ${balance})`, async (t) => {
      const server = await t.serve(MODULE, { shards: 2, balance, stallAfterMs: 100 })
      assert.equal(server.health().status, 'ok')
      const stalled = once(server.events, 'stalled') as Promise<[ShardStall]>
      const { shard } = await block(t, server)
      const [stall] = await stalled
      assert.equal(stall.id, shard)
      assert.ok(stall.stalledMs >= 100, String(stall.stalledMs))
      const answers = await Promise.all(Array.from({ length: 100 }, () => ask(t, server)))
      assert.deepEqual(new Set(answers.map((answer) => answer.shard)), new Set([1 - shard]))
      const slowest = Math.max(...answers.map(({ ms }) => ms))
      assert.ok(slowest < 5_000, `${slowest} ms`)
      assert.ok((server.shards[shard]?.stalledMs ?? 0) >= stall.stalledMs)
      assert.equal(server.shards[shard]?.state, 'ready')
      assert.deepEqual(server.health(), {
        status: 'degraded',
        serving: [1 - shard],
        stalled: [shard],
        starting: [],
        failed: [],
      })
      if (balance === 'reuseport') {
        const { shards } = server.metrics()
        assert.ok(
          (shards[1 - shard]?.connectionsTakenOver ?? 0) > 0,
          'some came to the queue of the stuck one',
        )
      }
    })
  }

  test('all but one of three: the one that is left serves everybody', async (t) => {
    const server = await t.serve(MODULE, { shards: 3, stallAfterMs: 50 })
    const stuck = new Set<number>()
    while (stuck.size < 2) {
      const { shard } = await block(t, server)
      stuck.add(shard)
      await untilStalled(server, shard)
    }
    const answers = await Promise.all(Array.from({ length: 60 }, () => ask(t, server)))
    for (const { shard } of answers) assert.ok(!stuck.has(shard))
  })

  test('all of them: connections wait, and are answered by the first that comes back', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, stallAfterMs: 50 })
    const first = await block(t, server)
    await untilStalled(server, first.shard)
    const second = await block(t, server, 'block 400')
    assert.equal(second.shard, 1 - first.shard)
    await untilStalled(server, second.shard)
    assert.equal(server.health().status, 'down')
    assert.ok(server.metrics().total.connectionsTotal >= 2, 'metrics answer all the same')
    const answers = await Promise.all(Array.from({ length: 50 }, () => ask(t, server)))
    for (const { shard } of answers) assert.equal(shard, second.shard)
  })

  test('is told when it turns again, and takes its connections again', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, stallAfterMs: 50 })
    const recovered = once(server.events, 'recovered') as Promise<[ShardStall]>
    const { shard } = await block(t, server, 'block 300')
    const [stall] = await recovered
    assert.equal(stall.id, shard)
    assert.ok(stall.stalledMs >= 250 && stall.stalledMs < 5_000, String(stall.stalledMs))
    assert.equal(server.health().status, 'ok')
    const shards = new Set<number>()
    for (let tries = 0; shards.size < 2 && tries < 200; tries++) shards.add((await ask(t, server)).shard)
    assert.deepEqual([...shards].sort(), [0, 1])
  })

  test('is told also when everything slept and another callback of its thread blocks', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, stallAfterMs: 50 })
    const stalled = once(server.events, 'stalled') as Promise<[ShardStall]>
    const { shard } = await block(t, server, 'block-after-rest 300')
    const [stall] = await stalled
    assert.equal(stall.id, shard)
  })

  test('is not told for less than stallAfterMs, nor at all with 0', async (t) => {
    for (const stallAfterMs of [2_000, 0]) {
      const server = await t.serve(MODULE, { shards: 2, stallAfterMs })
      const told: ShardStall[] = []
      server.events.on('stalled', (stall) => told.push(stall))
      const { client } = await block(t, server, 'block 300')
      await client.write('who\n')
      await client.readLine()
      assert.deepEqual(told, [])
      await server.abort()
    }
  })

  test('connections that come while shards block and wake up are all answered', async (t) => {
    const server = await t.serve(MODULE, { shards: 3 })
    let over = false
    const blockers = Array.from({ length: 3 }, async () => {
      // A connection may wait behind another blocker's pause: these are the pauses of the test.
      while (!over) await ask(t, server, `block ${t.random.below(40)}`)
    })
    for (let round = 0; round < 20; round++) {
      await Promise.all(Array.from({ length: 25 }, () => ask(t, server)))
    }
    over = true
    await Promise.all(blockers)
    assert.equal(server.metrics().total.connectionsTotal >= 500, true)
  })

  test('connections in the queue of one that blocks and then dies are all answered', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, maxRestarts: 1000 })
    for (let round = 0; round < 5; round++) {
      const died = nextDeath(server)
      const { shard, client } = await block(t, server, `block-and-die ${t.random.below(30)}`)
      const answers = await Promise.allSettled(Array.from({ length: 50 }, () => ask(t, server)))
      const change = await died
      assert.equal(change.id, shard)
      assert.match(change.reason ?? '', /died as it was told/)
      const failed = answers.filter(({ status }) => status === 'rejected').length
      // The one that gave the order lived there; others may have been accepted and answered just before.
      assert.ok(
        failed + 1 <= (change.connectionsLost ?? 0),
        `${failed} failed, ${change.connectionsLost} were lost`,
      )
      await client.readToClose()
    }
  })

  test('in its exit listeners: they may say goodbye, and others accept from its queue already', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, stallAfterMs: 0 })
    const client = await t.connect(server)
    await client.write('who\n')
    const shard = Number(await client.readLine())
    const died = nextDeath(server)
    await client.write('block-at-exit 4000\n')
    await client.readExactly(64 * 1024)
    const answers = await Promise.all(Array.from({ length: 60 }, () => ask(t, server)))
    assert.deepEqual(new Set(answers.map((answer) => answer.shard)), new Set([1 - shard]))
    assert.equal(server.shards[shard]?.restarts, 0)
    assert.equal(server.metrics().total.connectionsTakenOver, 0, 'none went by the guardian')
    assert.equal(client.error, null)
    assert.equal((await died).connectionsLost, 1)
    await client.untilReset()
  })

  test('is terminated and replaced after killAfterMs', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, stallAfterMs: 50, killAfterMs: 200 })
    const died = nextDeath(server)
    const { shard, client } = await block(t, server)
    const change = await died
    assert.equal(change.id, shard)
    assert.match(
      change.reason ?? '',
      /^shard \d was stuck for \d+ ms \(killAfterMs is 200\) and was terminated$/,
    )
    assert.equal(change.connectionsLost, 1)
    assert.equal((await client.untilClose())?.code, 'ECONNRESET')
    await untilReady(server, shard)
    const shards = new Set<number>()
    for (let tries = 0; shards.size < 2 && tries < 200; tries++) shards.add((await ask(t, server)).shard)
    assert.equal(shards.size, 2)
    assert.equal(server.shards[shard]?.restarts, 1)
  })

  test('one that recovers before killAfterMs lives on', async (t) => {
    const server = await t.serve(MODULE, { shards: 1, stallAfterMs: 50, killAfterMs: 2_000 })
    const recovered = once(server.events, 'recovered')
    await block(t, server, 'block 300')
    await recovered
    assert.equal((await ask(t, server)).shard, 0)
    assert.equal(server.shards[0]?.restarts, 0)
  })

  test('a drain does not wait for one that is stuck longer than its deadline, and what waits in its queue is served', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, stallAfterMs: 50 })
    const { shard } = await block(t, server)
    await untilStalled(server, shard)
    const clients = await Promise.all(Array.from({ length: 20 }, () => t.connect(server)))
    for (const client of clients) await client.write('who\n')
    const drained = server.drain({ deadlineMs: 300 })
    for (const client of clients) assert.equal(Number(await client.readLine()), 1 - shard)
    await drained
  })

  test('while a drain begins: what was sent before it is answered, whoever is stuck and whoever wakes up', async (t) => {
    for (let round = 0; round < 10; round++) {
      const server = await t.serve(MODULE, { shards: 3 })
      const blockers = await Promise.all(
        Array.from({ length: 4 }, () => block(t, server, `block ${t.random.between(5, 150)}`)),
      )
      const clients = await Promise.all(Array.from({ length: 40 }, () => t.connect(server)))
      await Promise.all(clients.map((client) => client.write('who\n')))
      // Long enough for every block, so that it says nothing but that all ended by themselves.
      const drained = server.drain({ deadlineMs: 15_000 })
      for (const client of clients) assert.match(await client.readLine(), /^[012]$/)
      for (const client of [...clients, ...blockers.map((blocker) => blocker.client)]) {
        assert.equal((await client.readToEnd()).length, 0)
        client.end()
      }
      await drained
      assert.equal(server.metrics().total.resets.server, 0)
    }
  })

  test('as the only one left, while a drain begins: it takes the queue of the one that is down', async (t) => {
    const server = await t.serve(MODULE, { shards: 2 })
    const dead = 0
    // The second death in a row is replaced after a while.
    for (let deaths = 0; deaths < 2; deaths++) {
      if (deaths === 1) await blockThis(t, server, 1 - dead, 1_500)
      const died = nextDeath(server)
      await (await clientOf(t, server, dead)).write('block-and-die 0\n')
      assert.equal((await died).id, dead)
      if (deaths === 0) await untilReady(server, dead)
    }
    const clients = await Promise.all(Array.from({ length: 40 }, () => t.connect(server)))
    await Promise.all(clients.map((client) => client.write('who\n')))
    assert.equal(server.shards[dead]?.state, 'starting')
    assert.ok((server.shards[1 - dead]?.stalledMs ?? 0) > 0)
    const drained = server.drain({ deadlineMs: 15_000 })
    for (const client of clients) {
      assert.equal(Number(await client.readLine()), 1 - dead)
      client.end()
    }
    await drained
  })

  test('and died while the supervisor was busy is told as a death only', async (t) => {
    const server = await t.serve(MODULE, { shards: 1, stallAfterMs: 50 })
    const told: string[] = []
    server.events.on('stalled', () => told.push('stalled'))
    server.events.on('recovered', () => told.push('recovered'))
    const died = nextDeath(server).then(() => told.push('died'))
    await block(t, server, 'block-and-die 300')
    const end = performance.now() + 1_000
    while (performance.now() < end);
    await died
    await untilReady(server, 0)
    // Reports are delivered in order: one of a later stall comes behind whatever was to come.
    const stalled = once(server.events, 'stalled')
    await block(t, server)
    await stalled
    assert.deepEqual(told, ['died', 'stalled'])
  })

  test('on a second loop of its thread is seen as well, and counted for its own handle', async (t) => {
    const child = t.start('servers/second-loop')
    const port = Number((await child.line(/^ready on (\d+)$/))[1])
    const ask = async (line: string): Promise<Client> => {
      const client = await t.connect(port)
      await client.write(`${line}\n`)
      return client
    }
    await child.line(/^the first loop is over$/)
    assert.equal(await (await ask('block 500')).readLine(), '0')
    await child.line(/^stalled$/)
    assert.equal(await (await ask('exit')).readLine(), '0')
    await child.line(/^ready 1$/)
    // The replacement hears of it by a message, like of any change.
    while ((await (await ask('who')).readLine()) !== '1');
    child.process.stdin.end()
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  if (process.platform === 'linux') {
    test('is looked for every 10 ms at most, however many connections come', async (t) => {
      const server = await t.serve(MODULE, { shards: 2 })
      const began = { atMs: performance.now(), wakes: guardianWakes() }
      for (let connections = 0; connections < 1000; connections++) await ask(t, server)
      const [ms, wakes] = [performance.now() - began.atMs, guardianWakes() - began.wakes]
      // A look and a word from the kernel in each 10 ms, and some more for locks that it had to wait for.
      assert.ok(wakes < (7 * ms) / 10 + 50, `${wakes} in ${ms} ms`)
    })
  }

  test('while the supervisor is busy for a second: others serve its new connections, and it is told after it', async (t) => {
    const server = await t.serve(MODULE, { shards: 2, stallAfterMs: 100 })
    const stalled = once(server.events, 'stalled') as Promise<[ShardStall]>
    const { shard } = await block(t, server)
    while (server.shards[shard]?.stalledMs === 0);
    const answers = await whileBlocked(t, portOf(server), 50, 'bye\n', (untilOver) => {
      const end = performance.now() + 1_000
      untilOver()
      while (performance.now() < end);
    })
    assert.deepEqual(answers, Array(50).fill(`${1 - shard}\n`))
    const [stall] = await stalled
    assert.equal(stall.id, shard)
    assert.ok((server.shards[shard]?.stalledMs ?? 0) >= 1_000)
  })

  test('for killAfterMs while the supervisor is busy, and no more after it, is told and not killed', async (t) => {
    const server = await t.serve(MODULE, { shards: 1, stallAfterMs: 50, killAfterMs: 100 })
    const told = Promise.all([once(server.events, 'stalled'), once(server.events, 'recovered')])
    await block(t, server, 'block 500')
    while (server.shards[0]?.stalledMs === 0);
    const answers = await whileBlocked(t, portOf(server), 1, 'bye\n', (untilOver) => {
      untilOver()
      // The report of its end is on its way, too, before this thread hears of the first.
      for (const end = performance.now() + 200; performance.now() < end; );
    })
    assert.deepEqual(answers, ['0\n'])
    const [, [recovery]] = (await told) as [[ShardStall], [ShardStall]]
    assert.ok(recovery.stalledMs >= 400 && recovery.stalledMs < 5_000, String(recovery.stalledMs))
    assert.equal((await ask(t, server)).shard, 0)
    assert.equal(server.shards[0]?.restarts, 0)
  })

  test('times that cannot be are refused by name', async (t) => {
    for (const options of [
      { stallAfterMs: 49 },
      { killAfterMs: 1 },
      { stallAfterMs: -1 },
      { killAfterMs: 1.5 },
    ]) {
      const error = await t.serve(MODULE, options).then(
        () => assert.fail('it was taken'),
        (reason: unknown) => reason,
      )
      assertThrows(() => {
        throw error
      }, 'ERR_SHARDLOOP_OPTION')
      assert.match(String(error), /expected 0 or an integer from 50 to 2147483647/)
    }
  })
})

/** How often the guardian's thread went to sleep. */
function guardianWakes(): number {
  const tasks = '/proc/self/task'
  const status = (task: string): string => readFileSync(`${tasks}/${task}/status`, 'utf8')
  const guardian = readdirSync(tasks).find((task) => /^Name:\s+guardian$/m.test(status(task)))
  assert.ok(guardian !== undefined, 'there is a guardian')
  return Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(status(guardian))?.[1])
}

/** A connection to this shard. */
async function clientOf(t: TestContext, server: Server, shard: number): Promise<Client> {
  for (;;) {
    const client = await t.connect(server)
    await client.write('who\n')
    if (Number(await client.readLine()) === shard) return client
    await client.destroy()
  }
}

/** Blocks this shard, and resolves when it is. */
async function blockThis(t: TestContext, server: Server, shard: number, ms: number): Promise<void> {
  await (await clientOf(t, server, shard)).write(`block ${ms}\n`)
  while (server.shards[shard]?.stalledMs === 0) await new Promise((resolve) => setImmediate(resolve))
}

async function untilReady(server: Server, shard: number): Promise<void> {
  while (server.shards[shard]?.state !== 'ready') await once(server.events, 'shard')
}
