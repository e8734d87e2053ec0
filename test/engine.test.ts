import assert from 'node:assert/strict'
import type { EngineName, Server, ServerOptions } from '../src/index.js'
import { automaticEngine, ENGINES } from '../src/workers/engine.js'
import { AVAILABLE } from './harness/engines.js'
import { openDescriptors } from './harness/leaks.js'
import { kill } from './harness/obedient.js'
import { assertCode, assertRejects, forEachEngine, portOf, type TestContext } from './harness/suite.js'
import { Unread } from './harness/unread.js'

const MODULE = new URL('./fixtures/echo-factory.js', import.meta.url)

async function assertEchoes(t: TestContext, server: Server): Promise<void> {
  const client = await t.connect(server)
  await client.write('hello')
  assert.equal((await client.readExactly(5)).toString(), 'hello')
  await client.destroy()
}

forEachEngine('the choice of an engine', (test, engine) => {
  const other = ENGINES.find((name) => name !== engine) as EngineName

  for (const shards of [0, 2]) {
    test(`'auto' is the engine that runs, and another one is refused by name (shards ${shards})`, async (t) => {
      const server = await t.serve(MODULE, { shards })
      const second = await t.serve(MODULE, { shards, engine: 'auto' })
      assert.deepEqual([server.engine, second.engine], [engine, engine])
      await second.close()
      const before = openDescriptors().size
      const error = await t
        .serve(MODULE, { shards, engine: other })
        .catch((reason: unknown) => assertCode(reason, 'ERR_SHARDLOOP_OPTION'))
      const sharing =
        shards === 0
          ? 'servers and connections of a thread share its loop'
          : 'servers of a process share its shards'
      assert.equal(
        (error as Error).message,
        `option engine: expected '${engine}', which runs already, or 'auto', as all ${sharing}; ` +
          `close those that run on '${engine}' to use another, given '${other}'`,
      )
      assert.equal(openDescriptors().size, before, 'it was refused before anything was opened')
      await assertEchoes(t, server)
    })

    test(`of two that start at once on different engines the second is refused (shards ${shards})`, async (t) => {
      const options: ServerOptions = { shards }
      const [first, second] = await Promise.allSettled([
        t.serve(MODULE, options),
        t.serve(MODULE, { ...options, engine: other }),
      ])
      assert.equal(second.status === 'rejected' && second.reason.code, 'ERR_SHARDLOOP_OPTION')
      assert.ok(first.status === 'fulfilled')
      await assertEchoes(t, first.value)
    })

    test(`every engine in turn, once no other runs (shards ${shards})`, async (t) => {
      for (const next of [...AVAILABLE, ...AVAILABLE]) {
        const server = await t.serve(MODULE, { shards, engine: next })
        const port = portOf(server)
        await assertRejects(() => t.serve(MODULE, { shards, port, engine: next }), 'EADDRINUSE')
        await assertEchoes(t, server)
        await server.close()
        assert.equal(server.engine, next)
        // A start that fails leaves no engine behind either.
        const broken = new URL('./fixtures/servers/throwing-module.js', import.meta.url)
        await assertRejects(() => t.serve(broken, { shards, engine: next }), 'E_MODULE')
      }
    })

    test(`'auto' where none runs is the one that was measured to be best (shards ${shards})`, async (t) => {
      const server = await t.serve(MODULE, { shards, engine: 'auto' })
      assert.equal(server.engine, automaticEngine())
    })
  }

  for (const next of AVAILABLE) {
    test(`a thread's loop that still closes does not decide about the next, on ${next}`, async (t) => {
      const server = await t.serve(() => new Unread())
      const client = await t.connect(server)
      await client.write('unread')
      while (server.metrics().total.connectionsOpen === 0) await turn()
      let isClosed = false
      const closing = server.close().then(() => {
        isClosed = true
      })
      // Until the thread has let go of the loop, which goes on for that connection.
      while (server.shards[0]?.state !== 'stopped') await turn()
      for (let turns = 0; turns < 10; turns++) await turn()
      const second = await t.serve(MODULE, { engine: next })
      assert.equal(second.engine, next)
      await assertEchoes(t, second)
      assert.equal(isClosed, false)
      client.reset()
      await closing
      assert.equal(server.engine, engine)
      await assertEchoes(t, second)
    })

    test(`the loop of the main thread and the shards have an engine each, ${next} and this`, async (t) => {
      const [local, onShards] = [
        await t.serve(MODULE, { engine: next }),
        await t.serve(MODULE, { shards: 1 }),
      ]
      assert.deepEqual([local.engine, onShards.engine], [next, engine])
      for (const server of [local, onShards]) await assertEchoes(t, server)
    })
  }

  test('in shards: told before and after calls are matched, of servers that are over, and by replacements', async (t) => {
    const before = AVAILABLE.find((name) => name !== engine) ?? engine
    const child = t.start('servers/engines', [before])
    const [onMain] = await child.line(/^\{"in":null,.*/)
    assert.deepEqual(JSON.parse(onMain), { in: null, engines: [before, engine, engine] })
    const port = Number((await child.line(/^\{"ready":(\d+)\}$/))[1])
    const told = {
      in: 0,
      engines: [before, engine, engine, engine],
      unmatched: engine,
      refused: ['ERR_SHARDLOOP_OPTION'],
    }
    const [inShard] = await child.line(/^\{"in":0,.*"unmatched".*/)
    assert.deepEqual(JSON.parse(inShard), told)
    const printed = child.lines.length
    await kill(t, port, 0)
    const [inReplacement] = await child.line(/^\{"in":0,.*"unmatched".*/, printed)
    assert.deepEqual(JSON.parse(inReplacement), told)
    child.send('close')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })
})

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
