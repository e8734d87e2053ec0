import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import type { ShardMetrics } from '../src/index.js'
import { type Child, fixtureUrl } from './harness/child.js'
import { assertBytes, type Client } from './harness/client.js'
import { eventually } from './harness/deferred.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

/** What the server's process may have open: Node's own take about 25, a shard's thread about 10 more. */
const LIMIT = 90
/** More than can be accepted under it; the others wait in the accept queue. */
const CLIENTS = 150
/** How long the server is watched while it can accept nobody. */
const WATCH_MS = 1000
/** A loop that spins takes all of it; retries every 100 ms, hardly any. */
const CPU_MAX_MS = 200

forEachEngine('descriptor exhaustion', (test) => {
  for (const shards of [0, 1]) {
    test(`shards ${shards}: connections wait, nothing spins, and all are served as descriptors free`, async (t) => {
      const { child, port } = await startLimited(t, shards)
      const clients = await connectAll(t, port, CLIENTS)
      for (const client of clients) client.socket.write('hello')
      await eventually(async () => (await counters(child)).acceptErrors > 0)
      const served = (): Client[] => clients.filter((client) => client.received >= 5)
      await eventually(async () => served().length === (await counters(child)).connectionsTotal)
      const { acceptErrors, acceptErrorsByKind } = await counters(child)
      assert.deepEqual(acceptErrorsByKind, { descriptors: acceptErrors, memory: 0, aborted: 0, other: 0 })
      const accepted = served()
      assert.ok(accepted.length > 10 && accepted.length < LIMIT, `${accepted.length} were accepted`)

      // Those that are there keep working.
      const data = t.random.bytes(50_000)
      for (const client of accepted) {
        await client.readExactly(5)
        await client.write(data)
        assertBytes(await client.readExactly(data.length), data)
      }

      const before = await cpuMs(child)
      await new Promise((resolve) => setTimeout(resolve, WATCH_MS))
      const spent = (await cpuMs(child)) - before
      assert.ok(spent < CPU_MAX_MS, `${spent} ms of CPU time in ${WATCH_MS} ms of waiting`)
      assert.equal(served().length, accepted.length, 'there was no descriptor for anyone else')

      // One goes, one comes; nobody is lost, and nobody was reset.
      let gone = 0
      while (gone < CLIENTS) {
        const leaving = clients.find((client) => client.received >= 5 && !client.closed) as Client
        assert.ok(leaving !== undefined, `${gone} of ${CLIENTS} were served`)
        await leaving.destroy()
        gone++
        const expected = Math.min(CLIENTS, accepted.length + gone)
        await Promise.all([eventually(() => served().length >= expected)])
      }
      assert.equal(served().length, CLIENTS)
      for (const client of clients) assert.equal(client.error, null)
      child.send('close')
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    })
  }

  test('descriptors that others of the process took and give back', async (t) => {
    const { child, port } = await startLimited(t, 1)
    await child.ask('exhaust', /^exhausted$/)
    const clients = await connectAll(t, port, 20)
    for (const client of clients) client.socket.write('hello')
    await eventually(async () => (await counters(child)).acceptErrors > 0)
    assert.deepEqual(new Set(clients.map((client) => client.received)), new Set([0]))
    await child.ask('free', /^freed$/)
    // No connection closes, so nothing but the retry can notice.
    for (const client of clients) assert.equal((await client.readExactly(5)).toString(), 'hello')
    await child.until(() => / INFO {2}shardloop shard 0: accepting goes on/.test(child.stderr))
    const pauses = / WARN {2}shardloop shard 0: accepting pauses: .* errno=24 retryMs=100$/gm
    assert.equal(child.stderr.match(pauses)?.length, 1, child.describe())
    child.send('close')
    for (const client of clients) client.end()
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('who comes after a try in vain at an empty queue is served (its listener once stayed deaf)', async (t) => {
    const { child, port } = await startLimited(t, 1)
    await child.ask('exhaust', /^exhausted$/)
    await child.ask('free one', /^freed one$/)
    // Takes the last descriptor; the next accept has none, though nobody waits.
    const first = await t.connect(port)
    await first.write('hello')
    assert.equal((await first.readExactly(5)).toString(), 'hello')
    await eventually(async () => (await counters(child)).acceptErrors > 0)
    await child.ask('free', /^freed$/)
    await new Promise((resolve) => setTimeout(resolve, 300)) // past the retry, which finds the queue empty
    const second = await t.connect(port)
    await second.write('hello')
    assert.equal((await second.readExactly(5)).toString(), 'hello')
    child.send('close')
    for (const client of [first, second]) client.end()
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })
})

async function startLimited(t: TestContext, shards: number): Promise<{ child: Child; port: number }> {
  const file = fileURLToPath(fixtureUrl('descriptor-server'))
  const script = `ulimit -n ${LIMIT} && exec "$0" "$@"`
  const args = [process.execPath, file, String(shards), '--engine', t.engine]
  const child = t.spawn(['-c', script, ...args], { command: '/bin/sh' })
  return { child, port: Number((await child.line(/^ready (\d+)$/))[1]) }
}

async function connectAll(t: TestContext, port: number, count: number): Promise<Client[]> {
  return await Promise.all(Array.from({ length: count }, () => t.connect(port)))
}

async function counters(
  child: Child,
): Promise<Pick<ShardMetrics, 'acceptErrors' | 'acceptErrorsByKind' | 'connectionsTotal'>> {
  return JSON.parse((await child.ask('metrics', /^metrics (.*)$/))[1] as string)
}

async function cpuMs(child: Child): Promise<number> {
  return Number((await child.ask('cpu', /^cpu ([\d.]+)$/))[1])
}
