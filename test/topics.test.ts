import assert from 'node:assert/strict'
import { getLoop, type Protocol, type Server, socketPair, type Transport } from '../src/index.js'
import { AUDIENCE_MAX_BYTES, TOPICS_PER_CONNECTION_MAX } from '../src/native/abi.js'
import type { Client } from './harness/client.js'
import { assertCode, forEachEngine, forEachTransport, portOf, type TestContext } from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/topics-module.js', import.meta.url)

async function ask(client: Client, line: string): Promise<string> {
  await client.write(`${line}\n`)
  return await client.readLine()
}

/** Clients of a server with two shards, some on each. */
async function clientsOnBoth(t: TestContext, server: Server, least: number): Promise<[Client, number][]> {
  const clients: [Client, number][] = []
  while (clients.length < least || new Set(clients.map(([, shard]) => shard)).size < 2) {
    const client = await t.connect(portOf(server))
    clients.push([client, Number(await ask(client, 'who'))])
  }
  return clients
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** The transports of so many new subscribers, once they are there. */
async function subscribers(count: number): Promise<Transport[]> {
  while (Subscriber.all.length < count) await turn()
  return Subscriber.all.splice(0)
}

/** Subscribes with its connection, and keeps what the connection is. */
class Subscriber implements Protocol {
  static readonly all: Transport[] = []
  pauses = 0
  lost: Error | null | undefined

  constructor(readonly topic: string) {}

  connectionMade(transport: Transport): void {
    Subscriber.all.push(transport)
    getLoop().subscribe(transport, this.topic)
  }

  pauseWriting(): void {
    this.pauses++
  }

  connectionLost(error: Error | null): void {
    this.lost = error
  }
}

forEachEngine('broadcasts to all shards', (test) => {
  test('every subscriber gets each once and in order, whoever broadcasts; nobody else gets any', async (t) => {
    const server = await t.serve(MODULE, { shards: 2 })
    const clients = await clientsOnBoth(t, server, 8)
    const [stranger] = clients.pop() as [Client, number]
    for (const [client] of clients) assert.equal(await ask(client, 'join news'), 'ok')
    for (let round = 0; round < 100; round++) t.loop.broadcast('news', `main ${round}\n`)
    const [first] = clients[0] as [Client, number]
    const commands = Array.from({ length: 50 }, (_, round) => `say news shard ${round}`)
    await first.write(`${commands.join('\n')}\n`)
    for (const [client] of clients) {
      const seen: Record<string, number> = { main: 0, shard: 0 }
      for (let lines = 0; lines < 150; ) {
        const line = await client.readLine()
        if (line === 'ok') continue
        const [who = '', number] = line.split(' ')
        assert.equal(Number(number), seen[who], line)
        seen[who] = Number(number) + 1
        lines++
      }
    }
    assert.match(await ask(stranger, 'who'), /^\d$/)
  })

  test('all but one connection, on its own shard and on the other', async (t) => {
    const server = await t.serve(MODULE, { shards: 2 })
    const clients = await clientsOnBoth(t, server, 4)
    for (const [client] of clients) assert.equal(await ask(client, 'join news'), 'ok')
    for (const [speaker] of clients) {
      assert.equal(await ask(speaker, 'others news hello'), 'ok')
      for (const [other] of clients) if (other !== speaker) assert.equal(await other.readLine(), 'hello')
      assert.match(await ask(speaker, 'who'), /^\d$/, 'the speaker heard itself')
    }
  })

  test('who has left, or subscribed to something else, hears nothing; who has subscribed twice hears it once', async (t) => {
    const server = await t.serve(MODULE, { shards: 1 })
    const client = await t.connect(portOf(server))
    for (const line of ['join a', 'join b', 'join a', 'leave a']) assert.equal(await ask(client, line), 'ok')
    t.loop.broadcast('a', 'wrong\n')
    t.loop.broadcast('c', 'wrong\n')
    t.loop.broadcast('b', 'right\n')
    assert.equal(await client.readLine(), 'right')
    assert.equal(await ask(client, 'join a'), 'ok')
    t.loop.broadcast('a', 'right again\n')
    assert.equal(await client.readLine(), 'right again')
  })

  test('a shard whose JavaScript is stuck: with an I/O thread it hears at once; else what was taken comes afterwards, and the rest was refused', async (t) => {
    const server = await t.serve(MODULE, { shards: 1 })
    const client = await t.connect(portOf(server))
    assert.equal(await ask(client, 'join news'), 'ok')
    const blockMs = t.engine === 'mio' ? 300 : 900
    assert.equal(await ask(client, `block ${blockMs}`), 'ok')
    const began = performance.now()
    const piece = Buffer.alloc(256 * 1024, 'x')
    let taken = 0
    if (t.engine === 'mio') {
      while (server.shards[0]?.stalledMs === 0) await turn() // until it is in the middle of its computation
      assert.throws(
        () => {
          for (;;) {
            t.loop.broadcast('news', piece)
            taken++
          }
        },
        (error) => {
          assertCode(error, 'ERR_SHARDLOOP_MAILBOX_FULL')
          assert.match((error as Error).message, /^1 of 1 threads with subscribers did not take .* news/)
          return true
        },
      )
      assert.equal(taken, Math.floor(AUDIENCE_MAX_BYTES / (piece.length + 64)))
      assert.ok(performance.now() - began < blockMs, 'the shard was stuck meanwhile')
    } else {
      t.loop.broadcast('news', piece)
      taken++
    }
    const data = await client.readExactly(taken * piece.length)
    assert.ok(data.every((byte) => byte === 0x78))
    if (t.engine !== 'mio')
      assert.ok(performance.now() - began < blockMs, 'it came while the shard was stuck')
    t.loop.broadcast('news', 'there is room again\n')
    assert.equal(await client.readLine(), 'there is room again')
  })
})

forEachTransport('broadcasts to connections', (test) => {
  test('they come behind what was written before', async (t) => {
    const server = await t.serve(() => ({
      connectionMade(transport) {
        t.loop.subscribe(transport, 'order')
        transport.write('first ')
        t.loop.broadcast('order', 'second\n')
      },
    }))
    const client = await t.connect(server)
    assert.equal(await client.readLine(), 'first second')
  })

  test('more connections than one turn sends to, with several broadcasts at once: all get all', async (t) => {
    const server = await t.serve(() => new Subscriber('crowd'))
    const clients = await Promise.all(
      Array.from({ length: 600 }, () => t.connect(server, { mayBreak: true })),
    )
    const made = await subscribers(clients.length)
    for (let round = 0; round < 10; round++) t.loop.broadcast('crowd', `round ${round}\n`)
    // Gone in the middle of it, and not heard of since.
    made[599]?.abort()
    const expected = Array.from({ length: 10 }, (_, round) => `round ${round}\n`).join('')
    let heard = 0
    for (const client of clients) {
      const text = await client.readExactly(expected.length).catch(() => null)
      if (text === null) continue
      assert.equal(text.toString(), expected)
      heard++
    }
    assert.ok(heard >= 599, `${heard} of 600`)
  })

  test('who does not read is paused and in the end aborted, by the bound for its writes; the others get all', async (t) => {
    const protocols: Subscriber[] = []
    const server = await t.serve(
      () => {
        const protocol = new Subscriber('flood')
        protocols.push(protocol)
        return protocol
      },
      { writeMaxBytes: 4 * 1024 * 1024 },
    )
    const slow = await t.connect(server, { mayBreak: true })
    slow.pause()
    const fast = await t.connect(server)
    await subscribers(2)
    const piece = t.random.bytes(64 * 1024)
    let sent = 0
    while (protocols[0]?.lost === undefined) {
      t.loop.broadcast('flood', piece)
      sent++
      assert.ok((await fast.readExactly(piece.length)).equals(piece))
    }
    assertCode(protocols[0]?.lost, 'ERR_SHARDLOOP_WRITE_OVERFLOW')
    assert.ok((protocols[0]?.pauses ?? 0) >= 1)
    assert.ok(sent * piece.length > 4 * 1024 * 1024)
    t.loop.broadcast('flood', 'x')
    assert.equal((await fast.readExactly(1)).toString(), 'x')
  })

  test('who has written its end, or closes, gets none any more', async (t) => {
    const server = await t.serve(() => new Subscriber('ends'))
    const client = await t.connect(server)
    const [transport] = (await subscribers(1)) as [Transport]
    transport.writeEof()
    t.loop.broadcast('ends', 'too late')
    assert.equal((await client.readToEnd()).length, 0)
    client.end()
  })

  test('topics, transports and data that cannot be are refused by name, and so is one topic too many', async (t) => {
    const server = await t.serve(() => new Subscriber('first'))
    await t.connect(server)
    const [transport] = (await subscribers(1)) as [Transport]
    const { loop } = t
    const refused = (call: () => unknown, message: RegExp, code = 'ERR_SHARDLOOP_ARGUMENT'): void =>
      assert.throws(call, (error) => {
        assertCode(error, code as 'ERR_SHARDLOOP_ARGUMENT')
        assert.match((error as Error).message, message)
        return true
      })
    refused(() => loop.subscribe(transport, ''), /^topic is ''/)
    refused(() => loop.subscribe(transport, 'ö'.repeat(129)), /^topic is .*1 to 256 bytes/)
    refused(() => loop.subscribe({} as Transport, 'a'), /^transport is {}/)
    refused(() => loop.broadcast('a', 5 as never), /^data is 5/)
    refused(() => loop.broadcast('a', 'x', { except: {} as Transport }), /^transport is/)
    refused(() => loop.subscribe(transport, '\ud800'), /^topic is .*well-formed/)
    refused(() => loop.broadcast('a', 'x', null as never), /^options is null/)
    refused(() => loop.broadcast('a', 'x', { exept: transport } as never), /exept/, 'ERR_SHARDLOOP_OPTION')
    const large = Buffer.alloc(AUDIENCE_MAX_BYTES)
    refused(() => loop.broadcast('a', large), /send it in pieces/, 'ERR_SHARDLOOP_MAILBOX_FULL')
    loop.subscribe(transport, 'ö'.repeat(128))
    for (let topic = 2; topic < TOPICS_PER_CONNECTION_MAX; topic++)
      loop.subscribe(transport, `topic ${topic}`)
    refused(() => loop.subscribe(transport, 'one more'), /1024 topics/, 'ERR_SHARDLOOP_STATE')
    assert.equal(loop.unsubscribe(transport, 'topic 7'), true)
    assert.equal(loop.unsubscribe(transport, 'topic 7'), false)
    loop.subscribe(transport, 'one more')
    loop.broadcast('nobody', 'x')
    loop.broadcast('one more', '')
  })

  test('a pipe that is written can subscribe, one that is read cannot', async (t) => {
    const [ours, theirs] = socketPair()
    const [reader, writer] = [ours.detach(), theirs.detach()]
    const received = new Promise<string>((resolve) => {
      void t.loop
        .connectReadPipe(() => ({ dataReceived: (chunk: Buffer) => resolve(chunk.toString()) }), reader, {
          engine: t.engine,
        })
        .then(([transport]) => {
          assert.throws(() => t.loop.subscribe(transport as unknown as Transport, 'pipes'), /only read/)
          t.defer(() => transport.close())
        })
    })
    const [transport] = await t.loop.connectWritePipe(() => ({}), writer, { engine: t.engine })
    t.loop.subscribe(transport as unknown as Transport, 'pipes')
    t.loop.broadcast('pipes', 'through a pipe')
    assert.equal(await received, 'through a pipe')
    transport.close()
  })

  test('connections of this thread to others can subscribe, too', async (t) => {
    const received: Buffer[] = []
    const server = await t.serve(() => ({
      dataReceived(chunk) {
        received.push(chunk)
      },
    }))
    const [transport] = await t.dial(server, () => ({}))
    t.loop.subscribe(transport, 'out')
    t.loop.broadcast('out', 'hello')
    while (Buffer.concat(received).length < 5) await turn()
    assert.equal(Buffer.concat(received).toString(), 'hello')
    transport.close()
  })
})
