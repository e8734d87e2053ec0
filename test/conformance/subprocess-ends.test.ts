/** No child process outlives its thread, and none is left as a zombie: from shards, workers and the main thread, however they end. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Server, ServerOptions } from '../../src/index.js'
import { fixtureUrl } from '../harness/child.js'
import type { Client } from '../harness/client.js'
import { nextDeath } from '../harness/crashes.js'
import { eventually } from '../harness/deferred.js'
import { childrenOf, isThere, runs, zombies } from '../harness/processes.js'
import { forEachEngine, type TestContext } from '../harness/suite.js'

const MODULE = new URL('../fixtures/servers/children-module.js', import.meta.url)
/** No shard of a busy machine is stuck for so long by chance. */
const KILL_AFTER_MS = 1_000

forEachEngine('ends of subprocesses', (test) => {
  test('200 at once from two shards: each output and each exit code is right, and none is left', async (t) => {
    const { clients } = await onEachShard(t, 2)
    await Promise.all(clients.map((client) => client.write('run 100\n')))
    const answers = await Promise.all(clients.map((client) => client.readLine()))
    assert.deepEqual(answers.sort(), ['shard 0 right 100', 'shard 1 right 100'])
    assert.deepEqual(zombies(), [])
    assert.deepEqual(childrenOfThis(), [])
  })

  for (const way of ['exit', 'throw', 'terminate'] as const) {
    test(`a shard ends by ${way} with its children: they are killed and reaped, and no other`, async (t) => {
      const options: ServerOptions = way === 'terminate' ? { killAfterMs: KILL_AFTER_MS } : {}
      const { server, clients } = await onEachShard(t, 2, options)
      const [first, second] = clients as [Client, Client]
      const count = way === 'terminate' ? 50 : 15
      const [dying, staying] = await Promise.all([keep(first, count), keep(second, 3)])
      for (const pid of [...dying, ...staying]) assert.ok(runs(pid), `${pid} runs`)
      const died = nextDeath(server)
      await first.write(`die ${way}\n`)
      await died
      await eventually(() => !dying.some(isThere))
      assert.deepEqual(zombies(), [])
      for (const pid of staying) assert.ok(runs(pid), `${pid}, of the other shard, runs on`)
      await server.abort()
      await eventually(() => !staying.some(isThere))
      assert.deepEqual(childrenOfThis(), [])
    })
  }

  test('a server that closes takes the children of its shards along', async (t) => {
    const { server, clients } = await onEachShard(t, 1)
    const [client] = clients as [Client]
    const kept = await keep(client, 10)
    client.end()
    await server.close()
    await eventually(() => !kept.some(isThere))
  })

  for (const way of ['terminate', 'exit'] as const) {
    test(`a worker thread of the program's own ends by ${way} with 20 children: none is left`, async (t) => {
      const worker = new Worker(fixtureUrl('children-in-worker'), { argv: ['--engine', t.engine] })
      t.defer(() => worker.terminate())
      const [pids] = (await once(worker, 'message')) as [number[]]
      assert.equal(pids.filter(runs).length, 20)
      if (way === 'terminate') await worker.terminate()
      else {
        worker.postMessage('exit')
        await once(worker, 'exit')
      }
      await eventually(() => !pids.some(isThere))
      assert.deepEqual(zombies(), [])
    })
  }

  test('a worker thread is terminated in the midst of starting children: none is left', async (t) => {
    for (let round = 0; round < 5; round++) {
      const worker = new Worker(fixtureUrl('children-in-worker'), {
        argv: ['--engine', t.engine, 'endlessly'],
      })
      t.defer(() => worker.terminate())
      await once(worker, 'message')
      await worker.terminate()
      await eventually(() => childrenOfThis().length === 0)
    }
  })

  for (const way of ['exit', 'throw'] as const) {
    test(`the main thread ends by ${way} with 10 children: none runs on`, async (t) => {
      const child = t.start('subprocess-ends', [way])
      const [, numbers = ''] = await child.line(/^children (.+)$/)
      const pids = numbers.split(' ').map(Number)
      assert.equal(pids.filter(runs).length, 10)
      child.send('end')
      const { code } = await child.untilExit()
      assert.equal(code, way === 'exit' ? 3 : 1)
      // Whoever they were left to reaps them.
      await eventually(() => !pids.some(runs))
    })
  }
})

/** Clients of a server with so many shards, one on each, in the order of the shards. */
async function onEachShard(t: TestContext, shards: number, options: ServerOptions = {}): Promise<Served> {
  const server = await t.serve(MODULE, { shards, ...options })
  const found: Client[] = []
  while (found.filter(Boolean).length < shards) {
    const client = await t.connect(server)
    await client.write('who\n')
    const shard = Number(await client.readLine())
    if (found[shard] === undefined) found[shard] = client
    else await client.destroy()
  }
  return { server, clients: found }
}

/** Has a shard start children that run on. @returns their numbers */
async function keep(client: Client, count: number): Promise<number[]> {
  await client.write(`keep ${count}\n`)
  const [, , , ...pids] = (await client.readLine()).split(' ')
  assert.equal(pids.length, count)
  return pids.map(Number)
}

interface Served {
  readonly server: Server
  readonly clients: Client[]
}

/** Children of this process; none where the system does not tell. */
function childrenOfThis(): number[] {
  return process.platform === 'linux' ? childrenOf(process.pid) : []
}
