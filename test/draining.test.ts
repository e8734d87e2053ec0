import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import type { ServerOptions } from '../src/index.js'
import { DIRECT_WRITE_BYTES } from '../src/native/abi.js'
import { assertBytes, type Client } from './harness/client.js'
import { Deferred, eventually } from './harness/deferred.js'
import { KiB } from './harness/memory.js'
import { whileBlocked } from './harness/queued.js'
import { BufferedRecorder, Recorder } from './harness/recorder.js'
import {
  assertCode,
  type ExceptionContext,
  forEachTransport,
  type Pair,
  portOf,
  settle,
} from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/obedient-module.js', import.meta.url)
/** No test waits for it: what does not end by itself fails by the test's own timeout. */
const NEVER_MS = 600_000

/** Answers each line of the peer with itself, in the same callback. */
class LineEcho extends Recorder {
  override dataReceived(chunk: Buffer): void {
    super.dataReceived(chunk)
    this.transport.write(chunk)
  }
}

/** Has `draining`, and leaves the end to the test. */
class Told extends Recorder {
  draining(): void | Promise<void> {
    this.note('draining')
  }
}

/** Drains a connection that is paused, which is not over by what is written unasked, and resumes it. */
async function drainPaused(
  probe: Parameters<typeof settle>[0],
  { server, client, protocol }: Pick<Pair<Recorder>, 'server' | 'client' | 'protocol'>,
): Promise<{ drained: Promise<void> }> {
  const drained = server.drain()
  protocol.transport.write('unasked ')
  assert.equal((await client.readExactly(8)).toString(), 'unasked ')
  await settle(probe)
  assert.equal(client.ended, false)
  protocol.transport.resumeReading()
  return { drained }
}

/**
 * Drains a connection that was greeted before its request came, and answers that when it could have been closed; the
 * server's other connection owes nothing.
 */
async function answerLate(
  probe: Parameters<typeof settle>[0],
  server: Pair<Recorder>['server'],
  { client, protocol }: Pick<Pair<Recorder>, 'client' | 'protocol'>,
  other: Client,
): Promise<void> {
  assert.equal((await client.readExactly(6)).toString(), 'hello ')
  const drained = server.drain()
  await other.readToEnd()
  await settle(probe)
  assert.equal(client.ended, false)
  protocol.transport.write('answer')
  assert.equal((await client.readToEnd()).toString(), 'answer')
  for (const peer of [client, other]) peer.end()
  await drained
}

forEachTransport('draining', (test, engine) => {
  for (const shards of [0, 2]) {
    const serving: ServerOptions = { shards, drainTimeoutMs: NEVER_MS }

    test(
      `by SIGTERM, 100 of 100 one-second requests are answered (shards ${shards})`,
      async (t) => {
        const child = t.start('servers/obedient', [JSON.stringify({ shards })])
        const port = Number((await child.line(/"ready":(\d+)/))[1])
        const clients = await Promise.all(Array.from({ length: 100 }, () => t.connect(port)))
        await Promise.all(clients.map((client) => client.write('later 1000\n')))
        child.kill('SIGTERM')
        const answers = await Promise.all(clients.map((client) => client.readToEnd()))
        assert.equal(answers.filter((answer) => answer.toString() === 'done\n').length, 100)
        for (const client of clients) client.end()
        assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      },
      { notOverTls: 'it is a program of its own, without TLS' },
    )

    test(`a pending promise is waited for, though something was written already (shards ${shards})`, async (t) => {
      const server = await t.serve(MODULE, serving)
      const client = await t.connect(server)
      await client.write('async 200\n')
      assert.equal(await client.readLine(), 'begun')
      const drained = server.drain()
      assert.equal((await client.readToEnd()).toString(), 'done\n')
      client.end()
      await drained
    })

    test(`an idle connection closes at once, whether it ever had a request or not (shards ${shards})`, async (t) => {
      const server = await t.serve(MODULE, serving)
      const clients = await Promise.all(Array.from({ length: 8 }, () => t.connect(server)))
      await eventually(() => server.metrics().total.connectionsOpen === 8)
      for (const client of clients.slice(4)) {
        await client.write('echo\n')
        assert.equal(await client.readLine(), 'echo')
      }
      const drained = server.drain()
      for (const client of clients) {
        assert.equal((await client.readToEnd()).length, 0)
        client.end()
      }
      await drained
      assert.equal(server.metrics().total.resets.server, 0)
    })

    test(`who comes while the rest is served is refused, also where shards share a listener (shards ${shards})`, async (t) => {
      // A shared one stayed open until the last connection was gone: who came waited in its queue, and was reset then.
      const server = await t.serve(MODULE, { ...serving, balance: 'shared' })
      const client = await t.connect(server)
      await client.write('silent\n')
      await eventually(() => server.metrics().total.bytesRead >= 7n)
      const drained = server.drain()
      await eventually(() => server.sockets[0]?.fileno() === -1)
      await assert.rejects(() => t.connect(server), /ECONNREFUSED|ENOENT/)
      assert.equal(client.ended, false)
      await server.abort()
      await drained
      await client.untilClose()
    })

    test(`what never finishes is aborted at the deadline, and counted (shards ${shards})`, async (t) => {
      const server = await t.serve(MODULE, serving)
      const clients = await Promise.all(Array.from({ length: 5 }, () => t.connect(server)))
      const answered = await t.connect(server)
      await eventually(() => server.metrics().total.connectionsOpen === 6)
      const before = server.metrics().total.bytesRead
      await Promise.all(clients.map((client) => client.write('silent\n')))
      await eventually(() => server.metrics().total.bytesRead >= before + 35n)
      await answered.write('echo\n')
      assert.equal(await answered.readLine(), 'echo')
      const drained = server.drain({ deadlineMs: 100 })
      for (const client of clients) await client.untilReset()
      assert.equal((await answered.readToEnd()).length, 0)
      answered.end()
      await drained
      assert.equal(server.metrics().total.resets.server, 5)
    })

    test(`draining() is called once and may close later (shards ${shards})`, async (t) => {
      const server = await t.serve(MODULE, serving)
      const clients = await Promise.all(Array.from({ length: 6 }, () => t.connect(server)))
      for (const client of clients) {
        await client.write('goodbye 50\n')
        assert.equal(await client.readLine(), 'ready')
      }
      const drained = server.drain()
      assert.equal(server.drain(), drained)
      assert.equal(server.close(), drained)
      for (const client of clients) {
        assert.equal((await client.readToEnd()).toString(), 'bye 1\n')
        client.end()
      }
      await drained
    })
  }

  test('a request in the kernel that was not read yet is answered', async (t) => {
    const { server, client } = await t.pair(() => new LineEcho(), { drainTimeoutMs: NEVER_MS })
    client.socket.write('in time\n')
    // Nothing of the server ran since: this very thread is its shard.
    const drained = server.drain()
    assert.equal((await client.readToEnd()).toString(), 'in time\n')
    client.end()
    await drained
  })

  test.overTcp(
    'a connection that waits in the queue with its request is answered',
    async (t) => {
      const accepting = await t.serveEach(() => new LineEcho(), { drainTimeoutMs: NEVER_MS })
      const { server } = accepting
      let drained: Promise<void> | undefined
      const answers = await whileBlocked(t, portOf(server), 20, 'queued\n', () => {
        // An I/O thread has accepted them, and this one has not heard of it.
        if (engine === 'mio') assert.equal(server.metrics().total.connectionsTotal, 0)
        assert.equal(accepting.protocols.length, 0)
        drained = server.drain()
      })
      assert.deepEqual(answers, Array(20).fill('queued\n'))
      await drained
      for (const protocol of accepting.protocols) assert.equal(await protocol.lost(), null)
    },
    { notOverTls: 'its handshake would wait for the thread that is blocked' },
  )

  test.overTcp(
    'a connection that waits in the queue is told behind connectionMade, once',
    async (t) => {
      class Goodbye extends Told {
        override draining(): void {
          super.draining()
          this.transport.write('bye')
          this.transport.close()
        }
      }
      const accepting = await t.serveEach(() => new Goodbye(), { drainTimeoutMs: NEVER_MS })
      let drained: Promise<void> | undefined
      const answers = await whileBlocked(t, portOf(accepting.server), 5, 'queued\n', () => {
        drained = accepting.server.drain()
        void accepting.server.close()
      })
      await drained
      assert.deepEqual(answers, Array(5).fill('bye'))
      assert.equal(accepting.protocols.length, 5)
      for (const protocol of accepting.protocols)
        assert.deepEqual(protocol.events, ['made', 'draining', 'lost'])
    },
    { notOverTls: 'its handshake would wait for the thread that is blocked' },
  )

  test('several writes of one callback are not cut, however large', async (t) => {
    const large = t.random.bytes(512 * KiB)
    class Several extends Recorder {
      override dataReceived(chunk: Buffer): void {
        super.dataReceived(chunk)
        this.transport.write('head')
        this.transport.write(large)
        this.transport.write('middle')
        this.transport.write(large)
        this.transport.write('tail')
      }
    }
    const { server, client } = await t.pair(() => new Several(), { drainTimeoutMs: NEVER_MS })
    client.socket.write('?')
    const drained = server.drain()
    const expected = Buffer.concat([
      Buffer.from('head'),
      large,
      Buffer.from('middle'),
      large,
      Buffer.from('tail'),
    ])
    assertBytes(await client.readToEnd(), expected)
    client.end()
    await drained
  })

  test('an unanswered connection is served on, request by request', async (t) => {
    const probe = await t.pair(() => new Recorder())
    const { server, client, protocol } = await t.pair(() => new Recorder(), { drainTimeoutMs: NEVER_MS })
    await client.write('first part, ')
    await protocol.receivedAtLeast(12)
    const drained = server.drain()
    await client.write('second part')
    await protocol.receivedAtLeast(23)
    await settle(probe)
    assert.equal(client.ended, false)
    protocol.transport.write('answer')
    assert.equal((await client.readToEnd()).toString(), 'answer')
    client.end()
    await drained
  })

  test('what another connection wrote to it in the same batch is no answer to what it received', async (t) => {
    const order: Recorder[] = []
    class Greeting extends Recorder {
      to: Recorder | undefined
      override dataReceived(chunk: Buffer): void {
        super.dataReceived(chunk)
        order.push(this)
        this.transport.write('') // which is no answer at all
        this.to?.transport.write('hello ')
      }
    }
    const probe = await t.pair(() => new Recorder())
    const first = await t.pair(() => new Greeting(), { drainTimeoutMs: NEVER_MS })
    const pairs = [first, await t.join(first.accepting)] as const
    pairs.forEach(({ protocol }, index) => {
      protocol.to = pairs[1 - index]?.protocol
    })
    // This very thread is their shard: it looks when both have sent.
    const batches = first.server.metrics().total.batches
    for (const { client } of pairs) client.socket.write('request')
    for (const { protocol } of pairs) await protocol.receivedAtLeast(7)
    // An I/O thread may hand on the first alone.
    if (engine === 'mio') assert.equal(first.server.metrics().total.batches, batches + 1)
    const [answered, owed] = pairs[0].protocol === order[0] ? pairs : [pairs[1], pairs[0]]
    await answerLate(probe, first.server, owed, answered.client)
  })

  const sameTurn = 'nor is what another callback of the loop wrote to it before, in the same turn'
  if (process.platform !== 'linux') test.skip(sameTurn, 'only epoll tells in the order of readiness')
  else
    test(sameTurn, async (t) => {
      const order: string[] = []
      class Noting extends Recorder {
        override dataReceived(chunk: Buffer): void {
          super.dataReceived(chunk)
          order.push('request')
        }
      }
      const probe = await t.pair(() => new Recorder())
      const { accepting, server, client, protocol } = await t.pair(() => new Noting(), {
        drainTimeoutMs: NEVER_MS,
      })
      const other = await t.join(accepting)
      await settle(probe)
      // epoll tells in the order of readiness: again of the other's client, before the shard.
      other.client.socket.once('data', () => {
        other.client.socket.once('data', () => {
          order.push('hello')
          protocol.transport.write('hello ')
        })
        other.protocol.transport.write(Buffer.alloc(DIRECT_WRITE_BYTES)) // which leaves before this thread looks
        client.socket.write('request')
      })
      other.protocol.transport.write('!')
      await protocol.receivedAtLeast(7)
      assert.deepEqual(order, ['hello', 'request'])
      await answerLate(probe, server, { client, protocol }, other.client)
    })

  test('nor is what was written between two rounds of getBuffer to what comes in the second', async (t) => {
    class Halves extends BufferedRecorder {
      override getBuffer(): Uint8Array {
        return this.memory
      }
      override bufferUpdated(bytes: number): void {
        if (this.received === 0) this.transport.write('hello ')
        this.record(this.memory.subarray(0, bytes))
      }
      private readonly memory = new Uint8Array(4)
    }
    const probe = await t.pair(() => new Recorder())
    const { accepting, server, client, protocol } = await t.pair(() => new Halves(), {
      drainTimeoutMs: NEVER_MS,
    })
    const other = await t.join(accepting)
    await client.write('headrest')
    await protocol.receivedAtLeast(8)
    await answerLate(probe, server, { client, protocol }, other.client)
  })

  test('pipelined requests are all answered when each is a promise', async (t) => {
    class Pipelined extends Recorder {
      #last: Promise<void> = Promise.resolve()
      override dataReceived(chunk: Buffer): Promise<void> {
        super.dataReceived(chunk)
        this.#last = this.#last.then(async () => {
          await new Promise((resolve) => setTimeout(resolve, 20))
          this.transport.write(chunk)
        })
        return this.#last
      }
    }
    const { server, client, protocol } = await t.pair(() => new Pipelined(), { drainTimeoutMs: NEVER_MS })
    await client.write('1')
    await protocol.receivedAtLeast(1)
    const drained = server.drain()
    await client.write('2')
    await protocol.receivedAtLeast(2)
    await client.write('3')
    assert.equal((await client.readToEnd()).toString(), '123')
    client.end()
    await drained
  })

  test('a connection that its peer has half closed is answered, then closed', async (t) => {
    const { server, client, protocol } = await t.pair(() => new Recorder(), { drainTimeoutMs: NEVER_MS })
    protocol.keepOpen = true
    client.end('request')
    await protocol.noted('eof')
    const drained = server.drain()
    protocol.transport.write('answer')
    assert.equal((await client.readToEnd()).toString(), 'answer')
    await drained
    assert.equal(await protocol.lost(), null)
  })

  test('an end that a promise keeps open is waited for', async (t) => {
    const answer = new Deferred<boolean>()
    class Waiting extends LineEcho {
      override eofReceived(): never {
        this.note('eof')
        return answer.promise as never
      }
    }
    const probe = await t.pair(() => new Recorder())
    const { server, client, protocol } = await t.pair(() => new Waiting(), { drainTimeoutMs: NEVER_MS })
    client.end('request')
    await protocol.noted('eof')
    const drained = server.drain()
    await client.readExactly(7)
    protocol.transport.write('late')
    await client.readExactly(4)
    await settle(probe)
    assert.equal(client.ended, false)
    answer.resolve(true)
    assert.equal((await client.readToEnd()).length, 0)
    await drained
  })

  test('what waits while reading is paused is read and answered after it', async (t) => {
    const probe = await t.pair(() => new Recorder())
    const { server, client, protocol } = await t.pair(() => new LineEcho(), { drainTimeoutMs: NEVER_MS })
    protocol.transport.pauseReading()
    // From then on the bytes stay in the kernel.
    await settle(probe)
    await client.write('waiting')
    const { drained } = await drainPaused(probe, { server, client, protocol })
    assert.equal((await client.readToEnd()).toString(), 'waiting')
    client.end()
    await drained
  })

  test('what a pause held back is delivered after it, and its answer awaited', async (t) => {
    class Pausing extends BufferedRecorder {
      override getBuffer(): Uint8Array {
        return this.memory
      }
      override bufferUpdated(bytes: number): void {
        this.record(this.memory.subarray(0, bytes))
        if (this.received === 4) this.transport.pauseReading()
        // Later than the event that says that nothing is owed, if there were one.
        else setTimeout(() => this.transport.write('answer'), 30)
      }
      private readonly memory = new Uint8Array(4)
    }
    const probe = await t.pair(() => new Recorder())
    const { server, client, protocol } = await t.pair(() => new Pausing(), { drainTimeoutMs: NEVER_MS })
    await client.write('headrest')
    await protocol.receivedAtLeast(4)
    const { drained } = await drainPaused(probe, { server, client, protocol })
    assert.equal((await client.readToEnd()).toString(), 'answer')
    assert.equal(protocol.bytes.toString(), 'headrest')
    client.end()
    await drained
  })

  test('a protocol set while it drains is told when no other was, and only then', async (t) => {
    const { accepting, server, client, protocol } = await t.pair(() => new Recorder(), {
      drainTimeoutMs: NEVER_MS,
    })
    const told = await t.join(accepting)
    Object.assign(told.protocol, { draining: Told.prototype.draining })
    for (const pair of [{ client, protocol }, told]) {
      await pair.client.write('?')
      await pair.protocol.receivedAtLeast(1)
    }
    const drained = server.drain()
    assert.deepEqual([protocol.events, told.protocol.events], [['made'], ['made', 'draining']])
    const [first, second] = [new Told(), new Told()]
    protocol.transport.setProtocol(first)
    told.protocol.transport.setProtocol(second)
    await first.noted('draining')
    // Both have written, and both say goodbye by themselves.
    for (const { transport } of [protocol, told.protocol]) transport.write('answer')
    await client.readExactly(6)
    await told.client.readExactly(6)
    await client.write('?')
    await first.until(() => first.received === 1)
    assert.deepEqual([client.ended, told.client.ended], [false, false])
    assert.deepEqual(second.events, [])
    // One without the method closes by the rule again.
    protocol.transport.setProtocol(new LineEcho())
    protocol.transport.write('!')
    assert.equal((await client.readToEnd()).toString(), '!')
    told.protocol.transport.close()
    await told.client.readToEnd()
    for (const peer of [client, told.client]) peer.end()
    await drained
  })

  test('draining() runs in the async context of its connection', async (t) => {
    const storage = new AsyncLocalStorage<Recorder>()
    const seen: [Recorder, Recorder | undefined][] = []
    class Logged extends Told {
      override connectionMade(transport: Parameters<Recorder['connectionMade']>[0]): void {
        storage.enterWith(this)
        super.connectionMade(transport)
      }
      override draining(): void {
        seen.push([this, storage.getStore()])
        this.transport.close()
      }
    }
    const accepting = await t.serveEach(() => new Logged())
    const clients = [(await t.join(accepting)).client, (await t.join(accepting)).client]
    const drained = accepting.server.drain()
    for (const client of clients) client.end()
    await drained
    assert.deepEqual(
      seen.map(([self, store]) => self === store),
      [true, true],
    )
  })

  for (const how of ['throws', 'rejects'] as const) {
    test(`draining() that ${how} aborts its own connection, and is reported`, async (t) => {
      const reported: ExceptionContext[] = []
      const failure = new Error('no goodbye')
      class Failing extends Told {
        override draining(): void | Promise<void> {
          super.draining()
          if (how === 'rejects') return Promise.reject(failure)
          throw failure
        }
      }
      let made = 0
      const accepting = await t.serveEach<Recorder>(() => (made++ === 1 ? new Failing() : new LineEcho()), {
        drainTimeoutMs: NEVER_MS,
        exceptionHandler: (context) => void reported.push(context),
      })
      const [first, failing, last] = [
        await t.join(accepting),
        await t.join(accepting),
        await t.join(accepting),
      ]
      for (const { client } of [first, last]) client.socket.write('in time')
      const drained = accepting.server.drain()
      assert.equal(await failing.protocol.lost(), failure)
      await failing.client.untilReset()
      for (const { client } of [first, last]) {
        assert.equal((await client.readToEnd()).toString(), 'in time')
        client.end()
      }
      await drained
      assert.equal(reported.length, 1)
      assert.equal(reported[0]?.error, failure)
      assert.equal(reported[0]?.protocol, failing.protocol)
      assert.match(reported[0]?.message ?? '', /^draining of connection/)
      assert.equal(accepting.server.metrics().total.resets.program, 1)
    })
  }

  test('a drain from within a callback leaves that callback its own connection to fail', async (t) => {
    const reported: ExceptionContext[] = []
    class Failing extends Told {
      drain: (() => void) | undefined
      override dataReceived(): void {
        this.drain?.()
        throw new Error('in dataReceived')
      }
      override draining(): void {
        super.draining()
        if (this.drain === undefined) throw new Error('in draining')
      }
    }
    const accepting = await t.serveEach(() => new Failing(), {
      exceptionHandler: (context) => void reported.push(context),
    })
    const [one, other] = [await t.join(accepting), await t.join(accepting)]
    one.protocol.drain = () => void accepting.server.drain()
    await one.client.write('?')
    assertMessage(await one.protocol.lost(), 'in dataReceived')
    assertMessage(await other.protocol.lost(), 'in draining')
    assert.deepEqual(
      reported.map(({ protocol, error }) => [protocol === one.protocol, (error as Error).message]),
      [
        [false, 'in draining'],
        [true, 'in dataReceived'],
      ],
    )
    for (const { client } of [one, other]) await client.untilClose()
    await accepting.server.drain()
  })

  test('at the deadline connectionLost gets ERR_SHARDLOOP_SERVER_ABORTED, whoever was to close', async (t) => {
    let made = 0
    const accepting = await t.serveEach<Recorder>(() => (made++ === 0 ? new Told() : new Recorder()))
    const [told, owing] = [await t.join(accepting), await t.join(accepting)]
    await owing.client.write('?')
    await owing.protocol.receivedAtLeast(1)
    await accepting.server.drain({ deadlineMs: 50 })
    for (const { client, protocol } of [told, owing]) {
      assertCode(await protocol.lost(), 'ERR_SHARDLOOP_SERVER_ABORTED')
      await client.untilReset()
    }
  })

  test('writeEof is the last answer', async (t) => {
    const { server, client, protocol } = await t.pair(() => new Recorder(), { drainTimeoutMs: NEVER_MS })
    await client.write('?')
    await protocol.receivedAtLeast(1)
    protocol.transport.writeEof()
    await client.readToEnd()
    await ending(server.drain(), client)
    assert.equal(await protocol.lost(), null)
  })

  test('an owned write is flushed before the close', async (t) => {
    const bytes = t.random.bytes(8 * 1024 * KiB)
    const { server, client, protocol } = await t.pair(() => new Recorder(), {
      drainTimeoutMs: NEVER_MS,
      client: { paused: true },
    })
    await client.write('?')
    await protocol.receivedAtLeast(1)
    const flushed = protocol.transport.writeOwned(bytes)
    const drained = server.drain()
    client.resume()
    assertBytes(await client.readToEnd(), bytes)
    await flushed
    await ending(drained, client)
  })
})

async function ending(drained: Promise<void>, client: Client): Promise<void> {
  client.end()
  await drained
}

function assertMessage(error: Error | null, message: string): void {
  assert.equal(error?.message, message)
}
