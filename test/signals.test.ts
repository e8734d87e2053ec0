import assert from 'node:assert/strict'
import { constants } from 'node:os'
import type { Child } from './harness/child.js'
import type { Client } from './harness/client.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

/** More than the kernel's buffers on both sides take. */
const FLOOD_BYTES = 40_000_000

async function obedient(t: TestContext, options: object): Promise<{ child: Child; port: number }> {
  const child = t.start('servers/obedient', [JSON.stringify(options)])
  return { child, port: Number((await child.line(/"ready":(\d+)/))[1]) }
}

/** A client that has asked for more than the kernel's buffers take, and does not read it. */
async function floodedClient(t: TestContext, port: number): Promise<Client> {
  const client = await t.connect(port)
  await client.write(`send ${FLOOD_BYTES}\n`)
  await client.readExactly(1)
  client.pause()
  return client
}

forEachEngine('signals', (test) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    for (const shards of [0, 2]) {
      test(`${signal} drains: no more connections, what is queued is sent, then the process ends (shards ${shards})`, async (t) => {
        const { child, port } = await obedient(t, { shards })
        const client = await floodedClient(t, port)
        child.kill(signal)
        await child.line(/"state":"draining"/)
        client.resume()
        assert.equal((await client.readToEnd()).length, FLOOD_BYTES - 1)
        client.end()
        assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
        assert.ok(
          child.lines.some((line) => line.startsWith('{"over"')),
          'the program went on behind the server',
        )
      })

      test(`a second ${signal} ends the process at once (shards ${shards})`, async (t) => {
        const { child, port } = await obedient(t, { shards, drainTimeoutMs: 600_000 })
        await floodedClient(t, port)
        child.kill(signal === 'SIGINT' ? 'SIGTERM' : 'SIGINT')
        await child.line(/"state":"draining"/)
        child.kill(signal)
        assert.deepEqual(
          await child.untilExit(),
          { code: 128 + constants.signals[signal], signal: null },
          child.describe(),
        )
      })
    }
  }

  test('past drainTimeoutMs a drain by signal aborts', async (t) => {
    const { child, port } = await obedient(t, { shards: 2, drainTimeoutMs: 50 })
    const client = await floodedClient(t, port)
    child.kill('SIGTERM')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    client.resume()
    await client.readToClose()
    assert.ok(client.received < FLOOD_BYTES, 'the rest was dropped')
  })

  test('a shard that spins does not keep SIGTERM from ending the process', async (t) => {
    const { child, port } = await obedient(t, { shards: 2, drainTimeoutMs: 100 })
    await spinAll(t, port)
    child.kill('SIGTERM')
    await child.line(/"state":"draining"/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('while every shard spins a second signal ends the process at once', async (t) => {
    const { child, port } = await obedient(t, { shards: 2, drainTimeoutMs: 600_000 })
    await spinAll(t, port)
    child.kill('SIGINT')
    await child.line(/"state":"draining"/)
    child.kill('SIGINT')
    assert.deepEqual(await child.untilExit(), { code: 130, signal: null }, child.describe())
  })

  test("the program's own listeners run too", async (t) => {
    const { child } = await obedient(t, { shards: 1, ownListener: true })
    child.kill('SIGTERM')
    await child.line(/"own":"SIGTERM"/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('signals: false leaves them to the program', async (t) => {
    const { child } = await obedient(t, { shards: 1, signals: false })
    await child.ask('handlers', /^\{"handlers":0\}$/)
    child.kill('SIGTERM')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGTERM' })
  })

  test('handlers come once, and go with the last server', async (t) => {
    const count = (): number => process.listenerCount('SIGTERM') + process.listenerCount('SIGINT')
    const before = count()
    const first = await t.serve(() => ({}), { signals: true })
    const second = await t.serve(() => ({}), { signals: true })
    const silent = await t.serve(() => ({}), { signals: false })
    assert.equal(count(), before + 2)
    await first.close()
    assert.equal(count(), before + 2)
    await second.close()
    assert.equal(count(), before)
    await silent.close()
  })
})

/** Has both shards spin, by as many connections as that takes. */
async function spinAll(t: TestContext, port: number): Promise<void> {
  const shards = new Set<string>()
  while (shards.size < 2) {
    const client = await t.connect(port)
    await client.write('who\n')
    // The connection may have come to a shard that spins already; then it gets no answer.
    const shard = await Promise.race([
      client.readLine(),
      new Promise<null>((resolve) => setTimeout(resolve, 100, null)),
    ])
    if (shard === null) continue
    await client.write('spin\n')
    await client.readLine()
    shards.add(shard)
  }
}
