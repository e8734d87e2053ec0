import assert from 'node:assert/strict'
import { setImmediate as turned } from 'node:timers/promises'
import {
  createDatagramServer,
  createServer,
  type DatagramProtocol,
  type DatagramProtocolFactory,
  type DatagramServerOptions,
  type Server,
} from '../src/index.js'
import { DatagramEcho, DatagramRecorder, PlainDatagrams } from './harness/datagrams.js'
import { Deferred, eventually } from './harness/deferred.js'
import { openDescriptors } from './harness/leaks.js'
import { assertCode, assertRejects, forEachEngine, portOf, type TestContext } from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/datagram-module.js', import.meta.url)

/** Longer than a test may take. */
const NEVER_MS = 60_000

async function serve(
  t: TestContext,
  source: DatagramProtocolFactory | URL,
  options: DatagramServerOptions = {},
): Promise<Server> {
  const server = await createDatagramServer(source, {
    host: '127.0.0.1',
    shards: 0,
    signals: false,
    engine: t.engine,
    ...options,
  })
  t.defer(() => server.abort())
  return server
}

/** Asks from a socket of its own, and gives the answer. */
async function ask(t: TestContext, server: Server, question: string): Promise<string> {
  const client = await PlainDatagrams.open(t)
  await client.send(question, portOf(server))
  await client.receivedAtLeast(1)
  await client.close()
  return client.came[0]?.data.toString() ?? ''
}

/** A client whose datagrams go to this very shard. */
async function clientOf(t: TestContext, server: Server, shard: number): Promise<PlainDatagrams> {
  for (;;) {
    const client = await PlainDatagrams.open(t)
    await client.send('who', portOf(server))
    await client.receivedAtLeast(1)
    if (client.came[0]?.data.toString().startsWith(`${shard} `)) return client
    await client.close()
  }
}

function becomes(server: Server, shard: number, state: string): Promise<void> {
  const happened = new Deferred()
  server.events.on('shard', (change) => {
    if (change.id === shard && change.state === state) happened.resolve()
  })
  return happened.promise
}

forEachEngine('datagram servers', (test, engine) => {
  test('in this thread: echoes, tells where it is, counts, and closes with connectionLost(null)', async (t) => {
    const protocol = new DatagramEcho()
    const server = await serve(t, () => protocol)
    assert.equal(await ask(t, server, 'hello'), 'hello')
    assert.deepEqual(server.addresses[0], { address: '127.0.0.1', family: 'IPv4', port: portOf(server) })
    assert.equal(server.sockets[0]?.getOption('reusePort'), true)
    const { datagrams } = server.metrics().total
    assert.deepEqual({ ...datagrams }, { received: 1, sent: 1, dropped: 0, truncated: 0 })
    assert.match(await server.prometheus(), /shardloop_datagrams_total\{[^}]*outcome="received"[^}]*\} 1\n/)
    await server.close()
    assert.equal(protocol.lostWith, null)
    assert.deepEqual(protocol.events, ['made', 'lost'])
    const again = await serve(t, () => new DatagramEcho(), { port: server.addresses[0]?.port ?? 0 })
    assert.equal(await ask(t, again, 'x'), 'x')
  })

  test('several hosts share one port, and each has a protocol', async (t) => {
    const made: DatagramRecorder[] = []
    const factory = (): DatagramRecorder => {
      const protocol = new DatagramEcho()
      made.push(protocol)
      return protocol
    }
    const server = await serve(t, factory, { host: ['127.0.0.1', '127.0.0.2'] })
    const [first, second] = server.addresses
    assert.equal(first?.port, second?.port)
    const client = await PlainDatagrams.open(t)
    await client.send('x', portOf(server), '127.0.0.2')
    await client.receivedAtLeast(1)
    assert.equal(client.came[0]?.from.address, '127.0.0.2')
    assert.deepEqual(
      made.map(({ came }) => came.length),
      [0, 1],
    )
  })

  test('two shards by URL: both serve, and their counters are their own', async (t) => {
    const server = await serve(t, MODULE, { shards: 2 })
    const clients = [await clientOf(t, server, 0), await clientOf(t, server, 1)]
    const before = server.metrics().shards.map(({ datagrams }) => datagrams.received)
    for (let number = 0; number < 10; number++) await clients[0]?.send('who', portOf(server))
    await clients[0]?.receivedAtLeast(11)
    const after = server.metrics().shards.map(({ datagrams }) => datagrams.received)
    assert.deepEqual(after, [(before[0] ?? 0) + 10, before[1]])
  })

  test('the entry runs again in the shards, and SIGTERM drains: connectionLost in each, then the end', async (t) => {
    const child = t.start('servers/datagrams')
    const port = Number((await child.line(/^ready (\d+)$/))[1])
    const client = await PlainDatagrams.open(t)
    await client.send('hello', port)
    await client.receivedAtLeast(1)
    assert.match(client.came[0]?.data.toString() ?? '', /^[01] hello$/)
    child.kill('SIGTERM')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    for (const shard of [0, 1]) assert.ok(child.lines.includes(`shard ${shard} lost null`), child.describe())
    assert.ok(
      child.lines.includes('closed {"received":1,"sent":1,"dropped":0,"truncated":0}'),
      child.describe(),
    )
  })

  for (const way of ['exit', 'panic']) {
    test(`a shard that dies (${way}): what comes until its replacement serves is answered by that`, async (t) => {
      const server = await serve(t, MODULE, { shards: 1 })
      const down = becomes(server, 0, 'starting')
      const client = await PlainDatagrams.open(t)
      server.events.on('error', () => {})
      await client.send(way, portOf(server))
      await down
      for (let number = 0; number < 50; number++) await client.send(`who ${number}`, portOf(server))
      await client.receivedAtLeast(50)
      const answers = client.came.map(({ data }) => data.toString())
      assert.deepEqual(
        answers,
        Array.from({ length: 50 }, (_, number) => `0 0 ${number}`),
      )
      assert.equal(server.shards[0]?.restarts, 1)
    })
  }

  test('what a callback throws ends its protocol, reaches the handler, and the factory makes another for the socket', async (t) => {
    const told: string[] = []
    const made: Failing[] = []
    const error = new Error('thrown as it was told')
    class Failing extends DatagramEcho {
      override datagramReceived(...came: Parameters<DatagramEcho['datagramReceived']>): void {
        if (came[0].toString() === 'throw') throw error
        super.datagramReceived(...came)
      }
    }
    const factory = (): Failing => {
      const protocol = new Failing()
      made.push(protocol)
      return protocol
    }
    const server = await serve(t, factory, { exceptionHandler: ({ message }) => told.push(message) })
    const client = await PlainDatagrams.open(t)
    for (let number = 1; number <= 3; number++) {
      await client.send('throw', portOf(server))
      await client.send(`after ${number}`, portOf(server))
      await eventually(() => made.length === number + 1 && told.length === number)
      await client.send(`again ${number}`, portOf(server))
      await eventually(() => client.came.some(({ data }) => data.toString() === `again ${number}`))
    }
    assert.deepEqual(
      made.map(({ lostWith }) => lostWith),
      [error, error, error, undefined],
    )
    assert.match(told[0] ?? '', /^datagramReceived of endpoint \S+ threw; the endpoint was aborted$/)
  })

  test('a port that is taken is EADDRINUSE, though it could be shared', async (t) => {
    const first = await serve(t, () => new DatagramEcho())
    const port = portOf(first)
    const rejected = await serve(t, () => new DatagramEcho(), { port }).then(
      () => undefined,
      (error: unknown) => error,
    )
    const error = assertCode(rejected, 'EADDRINUSE')
    assert.equal(error.message, `bind EADDRINUSE: address already in use 127.0.0.1:${port}`)
  })

  test('a port of datagrams is free for streams', async (t) => {
    // Somebody else may have it for streams just now.
    for (;;) {
      const port = portOf(await serve(t, () => new DatagramEcho()))
      const options = { host: '127.0.0.1', port, shards: 0, signals: false, engine }
      const stream = await createServer(() => ({}), options).catch((error: unknown) => error)
      if ((stream as NodeJS.ErrnoException).code === 'EADDRINUSE') continue
      t.defer(() => (stream as Server).abort())
      assert.equal(portOf(stream as Server), port)
      return
    }
  })

  test('a factory that throws rejects the call with its error, and nothing is left', async (t) => {
    const anchor = await serve(t, () => new DatagramEcho())
    const before = openDescriptors().size
    const error = new Error('no protocol')
    await assert.rejects(
      serve(t, () => {
        throw error
      }),
      error,
    )
    await eventually(() => openDescriptors().size === before)
    assert.equal(await ask(t, anchor, 'x'), 'x')
  })

  test('close sends what waits; abort ends protocols with ERR_SHARDLOOP_SERVER_ABORTED', async (t) => {
    const protocol = new DatagramRecorder()
    const server = await serve(t, () => protocol)
    const client = await PlainDatagrams.open(t)
    for (let number = 0; number < 100; number++)
      protocol.transport.sendto(`${number}`, { address: '127.0.0.1', port: client.port })
    await server.close()
    await client.receivedAtLeast(100)
    const aborted = new DatagramRecorder()
    await (await serve(t, () => aborted)).abort()
    assertCode(aborted.lostWith, 'ERR_SHARDLOOP_SERVER_ABORTED')
  })

  // Every endpoint closed at once, and what was sent later went nowhere without a word.
  test('close waits for the answers that callbacks have promised', async (t) => {
    const answers = new Deferred()
    class Late extends DatagramRecorder {
      override async datagramReceived(
        ...came: Parameters<DatagramRecorder['datagramReceived']>
      ): Promise<void> {
        void super.datagramReceived(...came)
        await answers.promise
        this.transport.sendto(`answer to ${came[0]}`, came[1])
      }
    }
    const protocol = new Late()
    const server = await serve(t, () => protocol, { drainTimeoutMs: NEVER_MS })
    const port = portOf(server)
    const client = await PlainDatagrams.open(t)
    await client.send('one', port)
    await protocol.receivedAtLeast(1)
    const closed = server.close()
    await eventually(() => !protocol.transport.isReading())
    await client.send('two', port) // the engine may not know yet that it is to receive no more
    for (let turn = 0; turn < 10; turn++) await turned()
    assert.equal(protocol.lostWith, undefined)
    answers.resolve()
    await closed
    await client.receivedAtLeast(protocol.came.length)
    assert.equal(String(client.came[0]?.data), 'answer to one')
    assert.equal(protocol.lostWith, null)
  })

  test('... also of the callback that calls close, and of what the program has held back', async (t) => {
    let closed: Promise<void> | undefined
    class Holding extends DatagramEcho {
      override async datagramReceived(...came: Parameters<DatagramEcho['datagramReceived']>): Promise<void> {
        if (String(came[0]) === '0') {
          closed = server.close()
          this.transport.pauseReading()
        }
        await turned()
        super.datagramReceived(...came)
      }
    }
    const protocol = new Holding()
    const server = await serve(t, () => protocol, { drainTimeoutMs: NEVER_MS })
    const client = await PlainDatagrams.open(t)
    for (const text of ['0', '1', '2']) void client.send(text, portOf(server))
    await client.receivedAtLeast(1)
    for (let turn = 0; turn < 10; turn++) await turned()
    protocol.transport.resumeReading()
    await closed
    assert.equal(protocol.lostWith, null)
    assert.equal(protocol.transport.isReading(), false)
    await client.receivedAtLeast(protocol.came.length)
    assert.equal(String(client.came[0]?.data), '0')
  })

  test('a promise that is never kept ends with the deadline', async (t) => {
    class Never extends DatagramRecorder {
      override datagramReceived(...came: Parameters<DatagramRecorder['datagramReceived']>): Promise<void> {
        void super.datagramReceived(...came)
        return new Promise(() => {})
      }
    }
    const protocol = new Never()
    const server = await serve(t, () => protocol, { drainTimeoutMs: NEVER_MS })
    const client = await PlainDatagrams.open(t)
    await client.send('x', portOf(server))
    await protocol.receivedAtLeast(1)
    await server.drain({ deadlineMs: 50 })
    assertCode(protocol.lostWith, 'ERR_SHARDLOOP_SERVER_ABORTED')
  })

  test('a shard that drains sends the answers that it has promised', async (t) => {
    const server = await serve(t, MODULE, { shards: 1, drainTimeoutMs: NEVER_MS })
    const client = await PlainDatagrams.open(t)
    await client.send('later x', portOf(server))
    await client.receivedAtLeast(1)
    await server.close()
    await client.receivedAtLeast(2)
    assert.deepEqual(
      client.came.map(({ data }) => String(data)),
      ['waiting x', 'answer x'],
    )
  })

  test('options of connections and others that cannot be are refused by name', async (t) => {
    const refused: [object, RegExp][] = [
      [{ path: '/tmp/x' }, /option path: expected nothing: it is for connections/],
      [{ backlog: 5 }, /option backlog/],
      [{ idleTimeoutMs: 5 }, /option idleTimeoutMs/],
      [{ balance: 'shared' }, /option balance/],
      [{ broadcast: 1 }, /option broadcast: expected true or false/],
      [{ receiveBufferBytes: -1 }, /option receiveBufferBytes/],
      // Its message named those that are refused above, and not those of the sockets.
      [
        { brodcast: true },
        /unknown option 'brodcast'; known are (?=.*\bbroadcast\b)(?=.*\bhost\b)(?!.*\b(path|backlog|balance)\b)/,
      ],
    ]
    for (const [options, message] of refused) {
      const error = await serve(t, () => ({}), options).then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      assert.match(assertCode(error, 'ERR_SHARDLOOP_OPTION').message, message)
    }
    const none = 5 as unknown as () => DatagramProtocol
    await assertRejects(() => serve(t, none), 'ERR_SHARDLOOP_ARGUMENT')
  })
})
