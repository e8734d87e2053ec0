import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createNetServer, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { createServer, type Server, ShardloopError } from '../src/index.js'
import { packError, unpackError } from '../src/workers/error-transfer.js'
import { type Child, fixtureUrl } from './harness/child.js'
import type { Client } from './harness/client.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { openDescriptors } from './harness/leaks.js'
import { statesOf } from './harness/obedient.js'
import {
  assertCode,
  assertRejects,
  assertThrows,
  forEachEngine,
  portOf,
  type TestContext,
} from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/obedient-module.js', import.meta.url)
/** More than the kernel's buffers on both sides take. */
const FLOOD_BYTES = 40_000_000

interface Over {
  readonly over: true
  readonly before: string[]
  readonly open: string[]
  readonly states: string[]
  readonly files: number[]
}

/** A server in a process of its own, with its port. */
async function obedient(
  t: TestContext,
  options: object,
  flags: readonly string[] = [],
): Promise<{ child: Child; port: number }> {
  const args = [JSON.stringify(options), '--engine', t.engine]
  const child = t.spawn([...flags, fileURLToPath(fixtureUrl('servers/obedient')), ...args])
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

async function json<Value>(child: Child, pattern: RegExp): Promise<Value> {
  return JSON.parse((await child.line(pattern))[0]) as Value
}

/** The process has ended by itself, having closed everything. */
async function assertOver(child: Child, states: string[]): Promise<void> {
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  const over = await json<Over>(child, /^\{"over".*/)
  assert.deepEqual(over.states, states, child.describe())
  assert.deepEqual(over.files, [-1])
  assert.ok(over.open.length <= over.before.length, `${over.open}\n${over.before}`)
  assert.equal(child.lines.filter((line) => line === '{"event":"close"}').length, 1, child.describe())
  assert.equal(child.stderr, '')
}

forEachEngine('the end of a server', (test) => {
  for (const shards of [0, 1, 3]) {
    for (const url of [false, true]) {
      test(`the process ends by itself, every descriptor closed (shards ${shards}${url ? ', by URL' : ''})`, async (t) => {
        const child = t.start('servers/obedient', [JSON.stringify({ shards, url, closeAtOnce: true })])
        await assertOver(child, Array(Math.max(1, shards)).fill('stopped'))
      })
    }
  }

  for (const shards of [0, 2]) {
    test(`close() flushes what is queued first (shards ${shards})`, async (t) => {
      const { child, port } = await obedient(t, { shards })
      const client = await floodedClient(t, port)
      child.send('close')
      await child.line(/"state":"draining"/)
      client.resume()
      assert.equal((await client.readToEnd()).length, FLOOD_BYTES - 1)
      client.end()
      await assertOver(child, Array(Math.max(1, shards)).fill('stopped'))
    })

    test(`past the deadline what is left is aborted (shards ${shards})`, async (t) => {
      const { child, port } = await obedient(t, { shards })
      const client = await floodedClient(t, port)
      child.send('drain 50')
      await assertOver(child, Array(Math.max(1, shards)).fill('stopped'))
      client.resume()
      await client.readToClose()
      assert.ok(client.received < FLOOD_BYTES, 'the rest was dropped')
    })

    test(`an earlier deadline counts, and abort() cuts a drain short (shards ${shards})`, async (t) => {
      for (const command of ['drain 20', 'abort']) {
        const { child, port } = await obedient(t, { shards, drainTimeoutMs: 600_000 })
        const client = await floodedClient(t, port)
        child.send('close')
        await child.line(/"state":"draining"/)
        child.send(command)
        await assertOver(child, Array(Math.max(1, shards)).fill('stopped'))
        client.resume()
        await client.readToClose()
        assert.ok(client.received < FLOOD_BYTES, 'the rest was dropped')
      }
    })

    test(`close, drain, abort and asyncDispose share one promise, before and after the end (shards ${shards})`, async (t) => {
      const server = await t.serve(shards === 0 ? () => new ChunkEcho() : MODULE, { shards })
      const ends: string[] = []
      server.events.on('close', () => ends.push('close'))
      const first = server.close()
      assert.equal(server.drain({ deadlineMs: 5000 }), first)
      assert.equal(server[Symbol.asyncDispose](), first)
      assert.equal(server.abort(), first)
      await first
      assert.equal(server.close(), first)
      assert.deepEqual(ends, ['close'])
      assert.deepEqual(
        server.shards.map(({ state }) => state),
        Array(Math.max(1, shards)).fill('stopped'),
      )
      assertThrows(() => server.drain({ deadlineMs: -5 }), 'ERR_SHARDLOOP_OPTION')
      await assertRejects(() => t.connect(portOf(server)), 'ECONNREFUSED')
    })
  }

  test("a listener of 'shard' may end the server too", async (t) => {
    const server = await t.serve(MODULE, { shards: 2 })
    const ends: Promise<void>[] = []
    const states: string[] = []
    server.events.on('shard', ({ id, state }) => {
      states.push(`${id} ${state}`)
      ends.push(server.abort())
    })
    const first = server.close()
    await first
    assert.deepEqual(new Set(ends), new Set([first]))
    assert.deepEqual(states.sort(), ['0 draining', '0 stopped', '1 draining', '1 stopped'])
  })

  test('a shard that the program keeps alive is terminated after its grace', async (t) => {
    const { child } = await obedient(t, { shards: 2, shardTimer: true })
    child.send('close')
    await assertOver(child, ['stopped', 'stopped'])
  })

  test('a shard that spins past the deadline is terminated, the others end in peace', async (t) => {
    // Not told as stuck beside: it is, for as long as the deadline and the grace take.
    const { child, port } = await obedient(t, { shards: 2, stallAfterMs: 0 })
    const client = await t.connect(port)
    await client.write('spin\n')
    assert.equal(await client.readLine(), 'spinning')
    child.send('drain 100')
    await assertOver(child, ['stopped', 'stopped'])
    assert.match(child.stdout, /did not answer an abort within 1000 ms and was terminated/)
    await client.readToClose()
  })

  test('ten starts and ends in a row leave threads and descriptors as they were', async (t) => {
    const cycle = async (): Promise<void> => {
      const server = await t.serve(MODULE, { shards: 2 })
      const client = await t.connect(server)
      await client.write('who\n')
      await client.readLine()
      await client.destroy()
      await server.close()
    }
    await cycle()
    const before = openDescriptors().size
    for (let round = 0; round < 10; round++) await cycle()
    assert.equal(openDescriptors().size, before)
  })
})

forEachEngine('a shard with connections of its own', (test) => {
  test('ends by itself when no server is left, and its peers see an end', async (t) => {
    const upstream = createNetServer().listen(0, '127.0.0.1')
    await once(upstream, 'listening')
    const { port } = upstream.address() as { port: number }
    const server = await t.serve(new URL('./fixtures/servers/dialling-module.js', import.meta.url), {
      shards: 1,
    })
    const client = await t.connect(server)
    const accepted = once(upstream, 'connection')
    await client.write(String(port))
    assert.equal(await client.readLine(), 'dialled')
    const [socket] = (await accepted) as [Socket]
    const ended = once(socket.resume(), 'end')
    const changes: unknown[] = []
    server.events.on('shard', (change) => changes.push(change.state))
    client.end()
    await server.close()
    await ended
    await once(upstream.close(), 'close')
    assert.deepEqual(changes, ['draining', 'stopped'])
  })
})

forEachEngine('a start that fails', (test) => {
  const failures: [way: string, expected: object, stack: RegExp][] = [
    [
      'throws',
      {
        name: 'RangeError',
        code: 'E_IMPORT',
        message: 'thrown at import',
        cause: 'Error: the reason',
        detail: { at: 7 },
      },
      /failing-entry/,
    ],
    [
      'uncaught',
      { name: 'RangeError', code: 'E_START', message: 'thrown at start', detail: { at: 7 } },
      /failing-entry/,
    ],
    [
      'throwing module',
      { name: 'SyntaxError', code: 'E_MODULE', message: 'this module throws' },
      /throwing-module/,
    ],
    ['missing module', { name: 'Error', code: 'ERR_MODULE_NOT_FOUND' }, /there-is-none/],
    [
      'no default export',
      { name: 'ShardloopError', code: 'ERR_SHARDLOOP_START' },
      /obedient-protocol\.js has no default export/,
    ],
    [
      'exit',
      { name: 'ShardloopError', code: 'ERR_SHARDLOOP_START' },
      /shard [01] ended with exit code 7 before/,
    ],
    [
      'late: never calls',
      { name: 'ShardloopError', code: 'ERR_SHARDLOOP_START' },
      /shards 0, 1 did not listen within startTimeoutMs \(3000\): the program .*failing-entry\.js ran there without making this call.*the URL of a module/,
    ],
    [
      'late: spins',
      { name: 'ShardloopError', code: 'ERR_SHARDLOOP_START' },
      /the program .* has not come to this call of createServer \(unnamed call 1\) there/,
    ],
  ]
  for (const [way, expected, stack] of failures) {
    test(`${way}: rejects with the original error, and the process ends by itself`, async (t) => {
      const child = t.start('servers/failing-entry', [way])
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      const rejected = await json<Record<string, unknown>>(child, /^\{.*/)
      for (const [key, value] of Object.entries(expected))
        assert.deepEqual(rejected[key], value, child.describe())
      assert.match(String(rejected['stack']), stack)
      assert.equal(child.stderr, '')
    })
  }

  test('leaves no thread, listener or descriptor behind, and the port is free', async (t) => {
    const before = openDescriptors().size
    const broken = new URL('./fixtures/servers/throwing-module.js', import.meta.url)
    const probe = await t.serve(MODULE, { shards: 1 })
    const port = portOf(probe)
    await probe.close()
    await assertRejects(() => t.serve(broken, { shards: 2, port }), 'E_MODULE')
    assert.equal(openDescriptors().size, before)
    assert.equal(portOf(await t.serve(MODULE, { shards: 2, port })), port)
  })

  test('does not touch a server that runs on the same shards', async (t) => {
    const server = await t.serve(MODULE, { shards: 2 })
    const client = await t.connect(server)
    await assertRejects(
      () =>
        createServer(new URL('./fixtures/servers/throwing-module.js', import.meta.url), { signals: false }),
      'E_MODULE',
    )
    await client.write('who\n')
    assert.match(await client.readLine(), /^[01]$/)
    assert.deepEqual(statesOf(server), [
      { id: 0, state: 'ready', restarts: 0 },
      { id: 1, state: 'ready', restarts: 0 },
    ])
  })
})

forEachEngine('a shard that dies and is not replaced', (test) => {
  const deaths: [command: string, cause: object | undefined, message: RegExp][] = [
    [
      'throw',
      {
        name: 'TypeError',
        code: 'E_THROWN',
        message: 'thrown outside of any callback',
        deeper: 'Error: why',
      },
      /^shard \d died: thrown outside of any callback$/,
    ],
    [
      'reject',
      { name: 'RangeError', message: 'rejected and not handled' },
      /^shard \d died: rejected and not handled$/,
    ],
    ['exit 5', undefined, /^shard \d died: its thread ended with exit code 5$/],
    ['exit 0', undefined, /^shard \d died: its thread ended with exit code 0$/],
    [
      'heap',
      { code: 'ERR_WORKER_OUT_OF_MEMORY' },
      /^shard \d died: Worker terminated due to reaching memory limit/,
    ],
  ]
  for (const [command, cause, message] of deaths) {
    test(`by ${command}: the last one is reported by name, and everything is closed`, async (t) => {
      const flags = command === 'heap' ? ['--max-old-space-size=50'] : []
      const { child, port } = await obedient(t, { shards: 1, maxRestarts: 0, onError: true }, flags)
      const clients = await Promise.all(Array.from({ length: 8 }, () => t.connect(port)))
      const [client] = clients
      assert.ok(client !== undefined)
      await client.write(`${command}\n`)
      assert.equal((await child.untilExit()).code, 0, child.describe())
      const reported = await json<{ code: string; message: string; cause?: Record<string, string> }>(
        child,
        /^\{"event":"error".*/,
      )
      assert.equal(reported.code, 'ERR_SHARDLOOP_SHARD_DIED')
      assert.match(reported.message, message)
      for (const [key, value] of Object.entries(cause ?? {}))
        assert.equal(reported.cause?.[key], value, child.describe())
      if (command === 'throw') assert.match(reported.cause?.['stack'] ?? '', /obedient-protocol/)
      const events = child.lines.filter((line) => line.startsWith('{"event"') || line.startsWith('{"over"'))
      assert.match(events[0] ?? '', /^\{"event":"error"/)
      assert.equal(events[1], '{"event":"close"}')
      const over = await json<Over>(child, /^\{"over".*/)
      assert.deepEqual(over.states, ['failed'])
      assert.ok(over.open.length <= over.before.length, `${over.open}\n${over.before}`)
      await child.line(/^\{"shard":\{"id":\d,"state":"failed","restarts":0,"reason":/)
      for (const other of clients) await other.readToClose()
    })
  }

  test('leaves the others serving, until the last has died; the first cause is reported', async (t) => {
    const { child, port } = await obedient(t, { shards: 2, maxRestarts: 0, onError: true, balance: 'shared' })
    const first = await t.connect(port)
    await first.write('throw\n')
    await child.line(/^\{"shard":\{"id":\d,"state":"failed","restarts":0,"reason":"thrown outside/)
    await first.readToClose()
    const last = await t.connect(port)
    await last.write('who\n')
    assert.match(await last.readLine(), /^[01]$/)
    assert.ok(!child.stdout.includes('"event"'), child.describe())
    await last.write('exit 3\n')
    assert.equal((await child.untilExit()).code, 0, child.describe())
    const { message, cause } = await json<{ message: string; cause: { code: string } }>(
      child,
      /^\{"event":"error".*/,
    )
    assert.match(message, /^shard \d died: thrown outside of any callback$/)
    assert.equal(cause.code, 'E_THROWN')
    assert.deepEqual((await json<Over>(child, /^\{"over".*/)).states, ['failed', 'failed'])
    await last.readToClose()
  })

  test("without a listener for 'error' the process fails with it", async (t) => {
    const { child, port } = await obedient(t, { shards: 1, maxRestarts: 0 })
    const client = await t.connect(port)
    await client.write('throw\n')
    assert.equal((await child.untilExit()).code, 1)
    assert.match(child.stderr, /ERR_SHARDLOOP_SHARD_DIED/)
    assert.match(child.stderr, /thrown outside of any callback/)
    assert.match(child.stderr, /obedient-protocol/)
    await client.readToClose()
  })

  test('while the server drains is reported all the same, and the drain ends', async (t) => {
    const { child, port } = await obedient(t, { shards: 1, onError: true, drainTimeoutMs: 600_000 })
    const flooded = await floodedClient(t, port)
    const other = await t.connect(port)
    await other.write('throw later\n')
    assert.equal(await other.readLine(), 'throwing')
    child.send('close')
    assert.equal((await child.untilExit()).code, 0, child.describe())
    await child.line(/^\{"event":"error","code":"ERR_SHARDLOOP_SHARD_DIED"/)
    assert.deepEqual((await json<Over>(child, /^\{"over".*/)).states, ['failed'])
    flooded.resume()
    await flooded.readToClose()
    await other.readToClose()
  })

  test('when a server closes, another that uses the same shards goes on', async (t) => {
    const [first, second] = [await t.serve(MODULE, { shards: 2 }), await t.serve(MODULE, { shards: 2 })]
    const client = await t.connect(second)
    await first.close()
    await client.write('who\n')
    assert.match(await client.readLine(), /^[01]$/)
    assert.deepEqual(
      first.shards.map(({ state }) => state),
      ['stopped', 'stopped'],
    )
    assert.deepEqual(
      second.shards.map(({ state }) => state),
      ['ready', 'ready'],
    )
  })

  test('ends every server on its shards when it is the last; a new server gets new shards', async (t) => {
    const servers = [
      await t.serve(MODULE, { shards: 1, maxRestarts: 0 }),
      await t.serve(MODULE, { shards: 1 }),
    ]
    const errors = servers.map((server) => diedOf(server))
    const client = await t.connect(servers[0] as Server)
    await client.write('exit 9\n')
    for (const error of await Promise.all(errors))
      assert.match(assertCode(error, 'ERR_SHARDLOOP_SHARD_DIED').message, /exit code 9/)
    const next = await t.serve(MODULE, { shards: 3 })
    assert.equal(next.shards.length, 3)
    await client.readToClose()
  })
})

/** What a server's 'error' brought, once it is closed. */
async function diedOf(server: Server): Promise<unknown> {
  let error: unknown
  server.events.once('error', (reason) => {
    error = reason
  })
  await new Promise<void>((resolve) => server.events.once('close', resolve))
  return error
}

forEachEngine('errors between threads', (test) => {
  test('keep class, message, stack, properties and causes', () => {
    const inner = Object.assign(new TypeError('inner'), { errno: -5 })
    const original = Object.assign(new RangeError('outer', { cause: inner }), {
      code: 'E_OUTER',
      detail: { at: [1, 2] },
      method: () => {},
    })
    const copy = unpackError(structuredClone(packError(original))) as typeof original & {
      cause: typeof inner
    }
    assert.ok(copy instanceof RangeError && copy.cause instanceof TypeError)
    assert.equal(copy.stack, original.stack)
    assert.deepEqual(
      { code: copy.code, detail: copy.detail, message: copy.message },
      { code: 'E_OUTER', detail: { at: [1, 2] }, message: 'outer' },
    )
    assert.equal(copy.cause.errno, -5)
    assert.ok(!('method' in copy), 'what cannot be cloned is left out')
  })

  test('are told apart from those of a subclass', () => {
    class Own extends ShardloopError {}
    const error = new ShardloopError('ERR_SHARDLOOP_STATE', 'ours')
    const own = new Own('ERR_SHARDLOOP_STATE', 'its own')
    assert.ok(own instanceof Own && own instanceof ShardloopError && error instanceof ShardloopError)
    assert.equal(error instanceof Own, false)
  })

  test('take anything that may be thrown', () => {
    const circular = new Error('circular')
    circular.cause = circular
    for (const thrown of [
      undefined,
      null,
      'text',
      7n,
      Symbol('s'),
      () => {},
      { a: 1 },
      circular,
      new AggregateError([new Error('a')], 'b'),
    ]) {
      const copy = unpackError(structuredClone(packError(thrown)))
      if (thrown instanceof Error) assert.equal((copy as Error).message, thrown.message)
    }
    assert.deepEqual(unpackError(packError({ a: 1 })), { a: 1 })
  })
})
