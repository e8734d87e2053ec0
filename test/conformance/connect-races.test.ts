/** Connections that are called off, or whose loop is closed, at every moment; and what is left behind of them. */
import assert from 'node:assert/strict'
import { once, setMaxListeners } from 'node:events'
import { connect, createServer as createNetServer, type Socket } from 'node:net'
import { getLoop, type Loop, type Server, type Transport } from '../../src/index.js'
import { Deferred, eventually } from '../harness/deferred.js'
import { descriptorLimit, openDescriptors } from '../harness/leaks.js'
import { collectGarbage } from '../harness/memory.js'
import { Recorder } from '../harness/recorder.js'
import {
  assertCode,
  assertRejects,
  forEachEngine,
  forEveryTransport,
  type TestContext,
  whereIs,
} from '../harness/suite.js'

forEveryTransport('connects that are called off', (test) => {
  for (const moment of ['the factory', 'connectionMade'] as const) {
    test(`by ${moment}: the promise rejects, and the connection is aborted`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder())
      const aborting = new AbortController()
      const made = new (class extends Recorder {
        override connectionMade(transport: Transport): void {
          super.connectionMade(transport)
          if (moment === 'connectionMade') aborting.abort()
        }
      })()
      const factory = (): Recorder => {
        if (moment === 'the factory') aborting.abort()
        return made
      }
      await assert.rejects(() => t.dial(accepting.server, factory, { signal: aborting.signal }), {
        name: 'AbortError',
      })
      await made.lost()
      // A client's handshake may be done before the server's, which does not hear of it then.
      if (t.tls === null) await (await accepting.protocol(0)).lost()
      assert.deepEqual(made.events, ['made', 'lost'])
    })
  }

  test('right after they were asked to go on with a socket: it is closed, and no protocol is made', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const socket = await socketTo(t, accepting.server)
    const aborting = new AbortController()
    const create = t.transport === 'tcp' ? 'createConnection' : 'createUnixConnection'
    const dialled = t.loop[create](() => assert.fail('nobody wants it'), {
      socket,
      engine: t.engine,
      signal: aborting.signal,
    })
    aborting.abort()
    await assert.rejects(dialled, { name: 'AbortError' })
    if (t.tls === null) await (await accepting.protocol(0)).lost()
    else await eventually(() => accepting.server.metrics().total.tls.failed.abandoned > 0)
  })

  // CPython: test_events.test_create_connection_... cancellation; here at a moment of chance
  test('at any moment: each resolves or rejects, and nothing is left of any', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const [keeping] = await t.dial(accepting.server, () => new Recorder())
    // Its other end may be accepted later, on another thread.
    await (await accepting.protocol(0)).noted('made')
    const before = openDescriptors().size
    let [stood, calledOff] = [0, 0]
    for (let round = 0; round < 20; round += 1) {
      await Promise.all(
        Array.from({ length: 50 }, async () => {
          const aborting = new AbortController()
          const dialled = t.dial(accepting.server, () => new Recorder(), { signal: aborting.signal })
          abortAt(t.random.below(8), aborting)
          try {
            const [transport, protocol] = await dialled
            stood += 1
            transport.close()
            assert.equal(await protocol.lost(), null)
          } catch (error) {
            assert.equal((error as Error).name, 'AbortError')
            calledOff += 1
          }
        }),
      )
    }
    assert.equal(stood + calledOff, 1000)
    await eventually(() => accepting.server.metrics().total.connectionsOpen === 2)
    await eventually(() => openDescriptors().size <= before)
    keeping.close()
  })
})

forEveryTransport('a loop that is closed', (test) => {
  test('calls off what is connecting, at every step', async (t) => {
    const server = await t.serve(() => new Recorder())
    for (let ticks = 0; ticks < 12; ticks += 1) {
      const loop = getLoop()
      let made: Recorder | undefined
      const factory = (): Recorder => {
        made = new Recorder()
        return made
      }
      const dialled = dialBy(loop, t, server, factory).then(
        () => null,
        (error: unknown) => error,
      )
      for (let tick = 0; tick < ticks; tick += 1) await new Promise((resolve) => setImmediate(resolve))
      await loop.close()
      const error = await dialled
      if (error !== null) assertCode(error, 'ERR_SHARDLOOP_CLOSED')
      if (made?.transport !== undefined) assertCode(made.lostWith, 'ERR_SHARDLOOP_CLOSED')
    }
    await eventually(() => server.metrics().total.connectionsOpen === 0)
  })

  test('leaves alone what its successor connects meanwhile, and does not wait for it', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const first = getLoop()
    const [, ofFirst] = await dialBy(first, t, accepting.server, () => new Recorder())
    const closed = first.close()
    const next = t.loop
    assert.notEqual(next, first)
    const [transport, ofNext] = await dialBy(next, t, accepting.server, () => new Recorder())
    await closed
    assertCode(ofFirst.lostWith, 'ERR_SHARDLOOP_CLOSED')
    transport.write('here')
    await (await accepting.protocol(1)).receivedAtLeast(4)
    assert.deepEqual(ofNext.events, ['made'])
  })

  for (const callback of ['factory', 'connectionMade', 'dataReceived', 'connectionLost'] as const) {
    test(`by ${callback} of one of its connections`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder())
      const closed = new Deferred<void>()
      const close = (): void => void t.loop.close().then(closed.resolve, closed.reject)
      const protocol = new (class extends Recorder {
        override connectionMade(transport: Transport): void {
          super.connectionMade(transport)
          if (callback === 'connectionMade') close()
          if (callback === 'connectionLost') transport.close()
        }
        override dataReceived(chunk: Buffer): void {
          super.dataReceived(chunk)
          if (callback === 'dataReceived') close()
        }
        override connectionLost(error: Error | null): void {
          super.connectionLost(error)
          if (callback === 'connectionLost') close()
        }
      })()
      const dialled = t.dial(accepting.server, () => {
        if (callback === 'factory') close()
        return protocol
      })
      dialled.catch(() => {})
      if (callback === 'dataReceived') {
        const other = await accepting.protocol(0)
        await other.noted('made')
        other.transport.write('x')
      }
      await closed.promise
      assert.equal(protocol.count('lost'), protocol.count('made'))
      await (await accepting.protocol(0)).lost()
    })
  }

  test('aborts a server that it has not finished to start', async (t) => {
    const path = t.path()
    const starting = t.loop.createServer(() => new Recorder(), {
      ...(t.transport === 'tcp' ? { host: '127.0.0.1' } : { path }),
      engine: t.engine,
      signals: false,
    })
    const closed = t.loop.close()
    await assertRejects(() => starting, 'ERR_SHARDLOOP_CLOSED')
    await closed
  })
})

forEachEngine('connects over TCP', (test) => {
  test('a loop that is closed during the look-up of the name connects to nobody', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const port = whereIs(accepting.server) as number
    const dialled = t.loop.createConnection(() => assert.fail('nobody wants it'), {
      host: 'localhost',
      port,
      engine: t.engine,
    })
    const closed = t.loop.close()
    await assertRejects(() => dialled, 'ERR_SHARDLOOP_CLOSED')
    await closed
    // Behind that look-up, in libuv's queue.
    await getLoop().getaddrinfo('localhost', port)
    assert.equal(accepting.protocols.length, 0)
    await getLoop().close()
  })

  test('a proxy: every server connection dials an upstream in connectionMade', async (t) => {
    const upstream = await t.serve(() => new Echo())
    const proxy = await t.serve(() => new Relay(t, upstream))
    await Promise.all(
      Array.from({ length: 100 }, async (_, number) => {
        const client = await t.connect(proxy)
        const text = `through the proxy ${number}`
        await client.write(text)
        assert.equal(String(await client.readExactly(text.length)), text)
        client.end()
        await client.readToEnd()
      }),
    )
    await eventually(() => upstream.metrics().total.connectionsOpen === 0)
  })

  test('a peer that resets at once: each connect fails with ECONNRESET, or its connection is lost with it', async (t) => {
    const server = createNetServer((socket) => socket.resetAndDestroy()).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.defer(() => server.close())
    const { port } = server.address() as { port: number }
    await Promise.all(
      Array.from({ length: 200 }, async () => {
        try {
          const [, protocol] = await t.loop.createConnection(() => new Recorder(), {
            host: '127.0.0.1',
            port,
            engine: t.engine,
          })
          assertCode(await protocol.lost(), 'ECONNRESET')
        } catch (error) {
          assertCode(error, 'ECONNRESET')
        }
      }),
    )
  })

  test('thousands that wait for a silent peer are called off at once, and leave no descriptor', async (t) => {
    const child = t.start('full-queue')
    const port = Number((await child.line(/^full (\d+)$/))[1])
    const accepting = await t.serveEach(() => new Recorder())
    const [keeping] = await t.dial(accepting.server, () => new Recorder())
    // Its other end may be accepted later, on another thread.
    await (await accepting.protocol(0)).noted('made')
    const before = openDescriptors().size
    const count = Math.min(5000, descriptorLimit() - 1000)
    const aborting = new AbortController()
    const { signal } = aborting
    setMaxListeners(0, signal)
    const options = { host: '127.0.0.1', port, engine: t.engine, signal }
    const dialled = Array.from({ length: count }, () =>
      t.loop
        .createConnection(() => new Recorder(), options)
        .then(
          () => 'connected',
          (error: Error) => error.name,
        ),
    )
    await eventually(() => openDescriptors().size >= before + count)
    aborting.abort()
    const outcomes = await Promise.all(dialled)
    assert.deepEqual(new Set(outcomes), new Set(['AbortError']))
    await eventually(() => openDescriptors().size <= before)
    assert.equal(accepting.server.metrics().total.connectsFailed, count)
    keeping.close()
  })

  test('a transport that has ended is kept alive by nothing', async (t) => {
    const server = await t.serve(() => new Recorder())
    const references = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const [transport, protocol] = await t.dial(server, () => new Recorder())
        transport.close()
        await protocol.lost()
        return [new WeakRef(transport), new WeakRef(protocol)] as const
      }),
    )
    await eventually(async () => {
      await collectGarbage()
      return references.flat().filter((reference) => reference.deref() !== undefined).length <= 2
    }, 20)
  })
})

forEachEngine('connects over Unix sockets', (test) => {
  test('a full queue is tried until somebody accepts; one that is called off meanwhile is over', async (t) => {
    const path = t.path()
    const child = t.start('full-unix-queue', [path])
    await child.line(/^full$/)
    const aborting = new AbortController()
    const dial = (signal?: AbortSignal): Promise<[Transport, Recorder]> =>
      t.loop.createUnixConnection(() => new Recorder(), {
        path,
        engine: t.engine,
        ...(signal && { signal }),
      })
    const calledOff = dial(aborting.signal)
    const waiting = dial()
    await assert.rejects(
      () => t.loop.createUnixConnection(() => new Recorder(), { path, engine: t.engine, timeoutMs: 30 }),
      { code: 'ETIMEDOUT' },
    )
    aborting.abort()
    await assert.rejects(calledOff, { name: 'AbortError' })
    child.send('accept')
    const [transport] = await waiting
    transport.close()
  })

  test('a loop that is closed while a full queue is tried gives it up', async (t) => {
    const path = t.path()
    const child = t.start('full-unix-queue', [path])
    await child.line(/^full$/)
    const waiting = t.loop.createUnixConnection(() => new Recorder(), { path, engine: t.engine })
    waiting.catch(() => {})
    // It has been refused for the first time once another gives up.
    await assert.rejects(
      () => t.loop.createUnixConnection(() => new Recorder(), { path, engine: t.engine, timeoutMs: 30 }),
      { code: 'ETIMEDOUT' },
    )
    await t.loop.close()
    await assertRejects(() => waiting, 'ERR_SHARDLOOP_CLOSED')
  })
})

class Echo extends Recorder {
  override dataReceived(chunk: Buffer): void {
    this.transport.write(chunk)
  }
}

/** Passes on what comes from either side, and the end. */
class Relay extends Recorder {
  readonly #t: TestContext
  readonly #upstream: Server
  #joined!: Promise<Transport>

  constructor(t: TestContext, upstream: Server) {
    super()
    this.#t = t
    this.#upstream = upstream
  }

  override connectionMade(transport: Transport): void {
    super.connectionMade(transport)
    const back = {
      dataReceived: (chunk: Buffer) => transport.write(chunk),
      connectionLost: () => transport.close(),
    }
    this.#joined = this.#t.dial(this.#upstream, () => back).then(([made]) => made)
  }

  override async dataReceived(chunk: Buffer): Promise<void> {
    const upstream = await this.#joined
    upstream.write(chunk)
  }

  override connectionLost(error: Error | null): void {
    super.connectionLost(error)
    void this.#joined.then((upstream) => upstream.close())
  }
}

function dialBy(
  loop: Loop,
  t: TestContext,
  server: Server,
  factory: () => Recorder,
): Promise<[Transport, Recorder]> {
  const where = whereIs(server)
  if (typeof where === 'string') return loop.createUnixConnection(factory, { path: where, engine: t.engine })
  return loop.createConnection(factory, {
    host: '127.0.0.1',
    ...t.clientTls(),
    port: where,
    engine: t.engine,
  })
}

/** In this very turn, in a microtask, or some turns of libuv's loop later. */
function abortAt(moment: number, aborting: AbortController): void {
  const abort = (): void => aborting.abort()
  if (moment === 0) abort()
  else if (moment === 1) queueMicrotask(abort)
  else if (moment === 2) process.nextTick(abort)
  else turnsLater(moment - 2, abort)
}

function turnsLater(turns: number, callback: () => void): void {
  setImmediate(() => (turns === 1 ? callback() : turnsLater(turns - 1, callback)))
}

async function socketTo(t: TestContext, server: Server): Promise<Socket> {
  const where = whereIs(server)
  const socket = typeof where === 'string' ? connect(where) : connect(where, '127.0.0.1')
  socket.on('error', () => {})
  t.defer(() => socket.destroy())
  await once(socket, 'connect')
  return socket
}
