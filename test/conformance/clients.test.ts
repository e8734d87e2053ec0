/** asyncio's create_connection, create_unix_connection and connect_accepted_socket, and what node:net's clients expect. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer as createNetServer, type Server as NetServer, type Socket } from 'node:net'
import { constants } from 'node:os'
import type { Protocol, Transport } from '../../src/index.js'
import { Deferred, eventually } from '../harness/deferred.js'
import { openDescriptors } from '../harness/leaks.js'
import { KiB } from '../harness/memory.js'
import { BorrowedRecorder, BufferedRecorder, Recorder } from '../harness/recorder.js'
import {
  assertCode,
  assertRejects,
  forEachEngine,
  forEveryTransport,
  type TestContext,
  whereIs,
} from '../harness/suite.js'

forEveryTransport('clients', (test) => {
  // CPython: test_events.EventLoopTestsMixin.test_create_connection, test_create_unix_connection
  test('a connection has a transport and the protocol that its factory made, after connectionMade', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const [transport, protocol] = await t.dial(accepting.server, () => new Recorder())
    assert.ok(protocol instanceof Recorder)
    assert.equal(protocol.transport, transport)
    assert.deepEqual(protocol.events, ['made'])
    assert.equal(transport.protocol, protocol)
    transport.write('hello')
    const other = await accepting.protocol(0)
    assert.equal((await other.receivedAtLeast(5)).toString(), 'hello')
    transport.close()
    assert.equal(await protocol.lost(), null)
    assert.equal(await other.lost(), null)
  })

  // RLoop: tests/tcp/test_tcp_conn.py test_tcp_connection_send
  test('states go from INITIAL by CONNECTED and EOF to CLOSED at both ends', async (t) => {
    const accepting = await t.serveEach(
      () =>
        new (class extends StateProtocol {
          override dataReceived(chunk: Buffer): void {
            super.dataReceived(chunk)
            this.transport.write('hello back')
            this.transport.writeEof()
          }
        })(),
    )
    const [, client] = await t.dial(
      accepting.server,
      () =>
        new (class extends StateProtocol {
          override connectionMade(transport: Transport): void {
            super.connectionMade(transport)
            transport.write('hello')
            transport.writeEof()
          }
        })(),
    )
    const server = await accepting.protocol(0)
    assert.equal(await client.lost(), null)
    assert.equal(await server.lost(), null)
    assert.deepEqual(
      [client.state, client.bytes.toString(), server.state, server.bytes.toString()],
      ['CLOSED', 'hello back', 'CLOSED', 'hello'],
    )
  })

  for (const [mode, Made] of Object.entries({
    chunk: Recorder,
    borrowed: BorrowedRecorder,
    buffered: BufferedRecorder,
  })) {
    // RLoop: _SIZE of tests/tcp/test_tcp_server.py
    test(`${mode}: 1,024,000 bytes go there and back between two ends of ours`, async (t) => {
      const accepting = await t.serveEach(
        () =>
          new (class extends Recorder {
            override dataReceived(chunk: Buffer): void {
              super.dataReceived(chunk)
              this.transport.write(chunk)
            }
          })(),
      )
      const [transport, protocol] = await t.dial(accepting.server, () => new Made())
      const data = t.random.bytes(1_024_000)
      transport.write(data)
      assert.ok(data.equals(await protocol.receivedAtLeast(data.length)))
      transport.close()
      await protocol.lost()
    })
  }

  // CPython: BaseTransport.get_extra_info; uvloop: test_tcp.test_create_connection_1
  test('sockname and peername are those of the other end, swapped', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const [transport] = await t.dial(accepting.server, () => new Recorder())
    const other = (await accepting.protocol(0)).transport
    assert.deepEqual(transport.getExtraInfo('peername'), other.getExtraInfo('sockname'))
    assert.deepEqual(transport.getExtraInfo('sockname'), other.getExtraInfo('peername'))
    assert.deepEqual(transport.getExtraInfo('peername'), accepting.server.addresses[0])
    assert.deepEqual(transport.getExtraInfo('socket')?.getpeername(), accepting.server.addresses[0])
  })

  // CPython: test_base_events create_connection: a factory's exception comes out of create_connection
  test('what the factory throws rejects the call, and the connection ends', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const broken = new Error('no protocol today')
    await assert.rejects(
      () =>
        t.dial(accepting.server, () => {
          throw broken
        }),
      broken,
    )
    // A client's handshake may be done before the server's, which does not hear of it then.
    if (t.tls === null) await (await accepting.protocol(0)).lost()
    await assertRejects(
      () => t.dial(accepting.server, () => null as unknown as Protocol),
      'ERR_SHARDLOOP_ARGUMENT',
    )
  })

  // asyncio: connection_made runs by call_soon, so its exception reaches the loop's exception handler
  test("what connectionMade throws ends the connection and reaches the loop's exception handler", async (t) => {
    const server = await t.serve(() => new Recorder())
    const told = new Deferred<unknown>()
    t.loop.setExceptionHandler((context) => told.resolve(context.exception))
    t.defer(() => t.loop.setExceptionHandler(null))
    const broken = new Error('not made')
    class Breaking extends Recorder {
      override connectionMade(transport: Transport): void {
        super.connectionMade(transport)
        throw broken
      }
    }
    const [transport, protocol] = await t.dial(server, () => new Breaking())
    assert.equal(await told.promise, broken)
    assert.equal(await protocol.lost(), broken)
    assert.equal(transport.isClosing(), true)
  })

  test('the signal calls an attempt off before it is made', async (t) => {
    const server = await t.serve(() => new Recorder())
    const reason = new Error('changed my mind')
    await assert.rejects(
      () => t.dial(server, () => new Recorder(), { signal: AbortSignal.abort(reason) }),
      reason,
    )
    const aborting = new AbortController()
    const dialled = t.dial(server, () => new Recorder(), { signal: aborting.signal })
    aborting.abort(reason)
    await assert.rejects(dialled, reason)
    await eventually(() => server.metrics().total.connectionsOpen === 0)
  })

  test('the signal means nothing once the connection stands', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const aborting = new AbortController()
    const [transport] = await t.dial(accepting.server, () => new Recorder(), { signal: aborting.signal })
    aborting.abort()
    transport.write('still here')
    await (await accepting.protocol(0)).receivedAtLeast(10)
  })

  test('await using closes a transport and waits for connectionLost', async (t) => {
    const server = await t.serve(() => new Recorder())
    const [transport, protocol] = await t.dial(server, () => new Recorder())
    {
      await using held = transport
      held.write('x')
    }
    assert.equal(protocol.lostWith, null)
    await transport[Symbol.asyncDispose]()
  })

  // asyncio: loop.close() with open transports; uvloop: test_base
  test('closing the loop aborts its connections by name, and what is still to come', async (t) => {
    const server = await t.serve(() => new Recorder())
    const [, protocol] = await t.dial(server, () => new Recorder())
    const coming = t.dial(server, () => new Recorder())
    const closed = t.loop.close()
    await assertRejects(() => coming, 'ERR_SHARDLOOP_CLOSED')
    await closed
    assertCode(protocol.lostWith, 'ERR_SHARDLOOP_CLOSED')
    await eventually(() => server.metrics().total.connectionsOpen === 0)
  })

  // uvloop: tests/test_tcp.py test_connect_accepted_socket; CPython: test_connect_accepted_socket
  test('connectAcceptedSocket goes on with a socket that node:net has accepted', async (t) => {
    const { accepted, client } = await acceptByNode(t)
    const [transport, protocol] = await t.loop.connectAcceptedSocket(() => new Recorder(), {
      socket: accepted,
      engine: t.engine,
    })
    assert.equal(accepted.destroyed, true)
    client.write('to ours')
    assert.equal((await protocol.receivedAtLeast(7)).toString(), 'to ours')
    transport.write('from ours')
    const [answer] = await once(client, 'data')
    assert.equal(String(answer), 'from ours')
    transport.close()
    await once(client, 'end')
    client.end()
    assert.equal(await protocol.lost(), null)
  })

  // asyncio: create_connection(sock=...)
  test('createConnection goes on with a connected socket, its unread bytes included', async (t) => {
    const { accepted, client } = await acceptByNode(t)
    client.write('was there before')
    const create = t.transport === 'tcp' ? 'createConnection' : 'createUnixConnection'
    const [transport, protocol] = await t.loop[create](() => new Recorder(), {
      socket: accepted,
      engine: t.engine,
    })
    assert.equal((await protocol.receivedAtLeast(16)).toString(), 'was there before')
    transport.abort()
    await protocol.lost()
  })

  test('a socket that cannot be taken over is refused by what is wrong with it', async (t) => {
    const { accepted, client } = await acceptByNode(t)
    client.write('unread')
    await once(accepted, 'readable')
    const take = (socket: number | Socket): Promise<unknown> =>
      t.loop.connectAcceptedSocket(() => new Recorder(), { socket, engine: t.engine })
    await assert.rejects(() => take(accepted), {
      code: 'ERR_SHARDLOOP_ARGUMENT',
      message: /nobody has consumed/,
    })
    accepted.destroy()
    await assert.rejects(() => take(accepted), { code: 'ERR_SHARDLOOP_ARGUMENT', message: /not connected/ })
    await assert.rejects(() => take(2 ** 20), { code: 'EBADF' })
    await assert.rejects(() => take('0' as unknown as number), { code: 'ERR_SHARDLOOP_OPTION' })
    const listening = createNetServer().listen(0, '127.0.0.1')
    await once(listening, 'listening')
    const { fd } = (listening as unknown as { _handle: { fd: number } })._handle
    await assert.rejects(() => take(fd), { code: 'ENOTCONN', syscall: 'getpeername' })
    listening.close()
    await once(listening, 'close')
  })
})

forEachEngine('clients over TCP', (test) => {
  test('nobody there is ECONNREFUSED with the address, as in node:net', async (t) => {
    const port = await freePort()
    await assert.rejects(
      () => t.loop.createConnection(() => new Recorder(), { host: '127.0.0.1', port, engine: t.engine }),
      {
        code: 'ECONNREFUSED',
        errno: -constants.errno.ECONNREFUSED,
        syscall: 'connect',
        address: '127.0.0.1',
        port,
      },
    )
  })

  // RFC 8305; uvloop: test_tcp.test_create_connection_4, CPython: test_create_connection_happy_eyeballs
  test('of the addresses of a name the next is tried when one refuses', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const [transport] = await t.loop.createConnection(() => new Recorder(), {
      host: 'localhost',
      port: whereIs(accepting.server) as number,
      engine: t.engine,
    })
    assert.equal(transport.getExtraInfo('peername')?.address, '127.0.0.1')
  })

  test('a name of which no address answers tells of each, with the code of the first', async (t) => {
    const port = await freePort()
    const error = await t.loop
      .createConnection(() => new Recorder(), { host: 'localhost', port, engine: t.engine })
      .then(
        () => assert.fail('connected'),
        (reason: NodeJS.ErrnoException & { errors?: unknown[] }) => reason,
      )
    assert.equal(error.code, 'ECONNREFUSED')
    if (error instanceof AggregateError) assert.ok(error.errors.length >= 2)
  })

  test('a name that there is not is ENOTFOUND', async (t) => {
    await assert.rejects(
      () =>
        t.loop.createConnection(() => new Recorder(), { host: 'nowhere.invalid', port: 1, engine: t.engine }),
      (error: NodeJS.ErrnoException) =>
        ['ENOTFOUND', 'EAI_AGAIN'].includes(error.code ?? '') && error.syscall === 'getaddrinfo',
    )
  })

  // asyncio: create_connection(local_addr=...)
  test('a connection comes from the local address and port that are asked for', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const port = whereIs(accepting.server) as number
    const localPort = await freePort()
    for (const options of [{ localAddress: '127.0.0.2' }, { localAddress: '127.0.0.1', localPort }]) {
      const index = accepting.protocols.length
      const [transport] = await t.loop.createConnection(() => new Recorder(), {
        host: '127.0.0.1',
        port,
        engine: t.engine,
        ...options,
      })
      const peer = (await accepting.protocol(index)).transport.getExtraInfo('peername')
      assert.equal(peer?.address, options.localAddress)
      if ('localPort' in options) assert.equal(peer?.port, options.localPort)
      transport.abort()
    }
    await assert.rejects(
      () =>
        t.loop.createConnection(() => new Recorder(), {
          host: '127.0.0.1',
          port,
          localAddress: '192.0.2.1',
          engine: t.engine,
        }),
      { code: 'EADDRNOTAVAIL', syscall: 'bind' },
    )
  })

  test('an interface that there is not is EINVAL, and leaves nothing behind', async (t) => {
    const host = 'fe80::1%none'
    await assert.rejects(
      t.loop.createConnection(() => ({}), { host, port: 1, timeoutMs: 5_000, engine: t.engine }),
      {
        code: 'EINVAL',
        syscall: 'connect',
        address: host,
        port: 1,
      },
    )
    const options = { host: 'localhost', port: 1, localAddress: host, engine: t.engine }
    await assert.rejects(
      t.loop.createConnection(() => ({}), options),
      (error: { code: string }) => ['EINVAL', 'ENOTFOUND'].includes(error.code),
    )
    await t.loop.close() // it would wait for attempts that are left
  })

  test('timeoutMs gives a silent peer up with ETIMEDOUT, and the signal does with its reason', async (t) => {
    const silent = await fullQueue(t)
    const options = { host: '127.0.0.1', port: silent, engine: t.engine }
    await assert.rejects(() => t.loop.createConnection(() => new Recorder(), { ...options, timeoutMs: 50 }), {
      code: 'ETIMEDOUT',
      syscall: 'connect',
      address: '127.0.0.1',
      port: silent,
    })
    const aborting = new AbortController()
    const dialled = t.loop.createConnection(() => new Recorder(), { ...options, signal: aborting.signal })
    const reason = new Error('long enough')
    setImmediate(() => aborting.abort(reason))
    await assert.rejects(dialled, reason)
  })

  test('attempts that are called off leave no descriptor', async (t) => {
    const silent = await fullQueue(t)
    // The loop is there from the first on.
    const options = { host: '127.0.0.1', port: silent, engine: t.engine, timeoutMs: 20 }
    const attempt = (): Promise<unknown> => t.loop.createConnection(() => new Recorder(), options)
    await assertRejects(attempt, 'ETIMEDOUT')
    const before = openDescriptors().size
    await Promise.all(Array.from({ length: 50 }, () => assertRejects(attempt, 'ETIMEDOUT')))
    await eventually(() => openDescriptors().size <= before)
  })

  // CPython: TCP_NODELAY is set on every socket; uvloop: the same
  test('no-delay, keep-alive, linger and buffer sizes can be asked for and told', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const options = { host: '127.0.0.1', port: whereIs(accepting.server) as number, engine: t.engine }
    const [plain] = await t.loop.createConnection(() => new Recorder(), options)
    const [tuned] = await t.loop.createConnection(() => new Recorder(), {
      ...options,
      noDelay: false,
      keepAlive: true,
    })
    const of = (transport: Transport) => transport.getExtraInfo('socket') ?? assert.fail('it has a socket')
    assert.deepEqual([of(plain).getOption('noDelay'), of(plain).getOption('keepAlive')], [true, false])
    assert.deepEqual([of(tuned).getOption('noDelay'), of(tuned).getOption('keepAlive')], [false, true])
    assert.equal(of(plain).getOption('linger'), -1)
    for (const linger of [3, 0, -1]) {
      of(plain).setOption('linger', linger)
      assert.equal(of(plain).getOption('linger'), linger)
    }
    of(plain).setOption('sendBufferSize', 64 * KiB)
    assert.ok(of(plain).getOption('sendBufferSize') >= 64 * KiB)
    assert.throws(() => of(plain).setOption('linger', -2), { code: 'ERR_SHARDLOOP_ARGUMENT' })
  })

  test('linger 0 makes a close a reset', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    protocol.transport.getExtraInfo('socket')?.setOption('linger', 0)
    protocol.transport.close()
    assertCode(await client.untilClose(), 'ECONNRESET')
  })

  for (const [name, options, message] of [
    ['port', {}, /option port: expected an integer from 1 to 65535/],
    ['host', { host: '', port: 1 }, /option host: expected an address or a host name/],
    ['family', { port: 1, family: 5 }, /option family: expected 4 or 6/],
    ['localAddress', { port: 1, localAddress: 'here' }, /option localAddress: expected an IP address/],
    ['localPort', { port: 1, localPort: 5 }, /option localPort: expected a localAddress beside it/],
    ['signal', { port: 1, signal: {} }, /option signal: expected an AbortSignal/],
    ['socket', { port: 1, socket: 3 }, /option port: expected nothing beside socket/],
    ['hots', { port: 1, hots: 'x' }, /unknown option 'hots'/],
    [
      'happyEyeballsDelayMs',
      { port: 1, happyEyeballsDelayMs: 1 },
      /happyEyeballsDelayMs: expected an integer from 10/,
    ],
  ] as const) {
    test(`${name}: what cannot be is refused by name`, async (t) => {
      await assert.rejects(() => t.loop.createConnection(() => new Recorder(), options as never), {
        code: 'ERR_SHARDLOOP_OPTION',
        message,
      })
    })
  }

  test('another engine than runs is refused by name, and can be had once nothing runs', async (t) => {
    const other = t.engine === 'mio' ? 'tokio' : 'mio'
    const accepting = await t.serveEach(() => new Recorder())
    const port = whereIs(accepting.server) as number
    const dial = (engine: 'mio' | 'tokio') =>
      t.loop.createConnection(() => new Recorder(), { host: '127.0.0.1', port, engine })
    await assertRejects(() => dial(other), 'ERR_SHARDLOOP_OPTION')
    await accepting.server.abort()
    const outside = createNetServer((socket) => socket.on('error', () => {}).resume()).listen(0, '127.0.0.1')
    await once(outside, 'listening')
    t.defer(() => outside.close())
    for (const engine of [t.engine, other] as const) {
      const [transport, protocol] = await t.loop.createConnection(() => new Recorder(), {
        host: '127.0.0.1',
        port: (outside.address() as { port: number }).port,
        engine,
      })
      transport.close()
      await protocol.lost()
    }
  })

  // The context of a client's callbacks is that of the call, as in asyncio and node:net.
  test('1,000 connections at once are made, echo and end', async (t) => {
    const server = await t.serve(() => {
      let transport: Transport
      return {
        connectionMade: (made) => {
          transport = made
        },
        dataReceived: (chunk) => transport.write(chunk),
      }
    })
    await Promise.all(
      Array.from({ length: 1000 }, async (_, number) => {
        const [transport, protocol] = await t.dial(server, () => new Recorder())
        transport.write(String(number).padStart(4))
        assert.equal((await protocol.receivedAtLeast(4)).toString(), String(number).padStart(4))
        transport.close()
        assert.equal(await protocol.lost(), null)
      }),
    )
    assert.equal(server.metrics().total.connectionsTotal, 1000)
    assert.equal(server.metrics().total.connectionsMade, 1000)
  })
})

/** RLoop's BaseProto: asserts that callbacks come in the order of its states. */
class StateProtocol extends Recorder {
  state: 'INITIAL' | 'CONNECTED' | 'EOF' | 'CLOSED' = 'INITIAL'

  override connectionMade(transport: Transport): void {
    assert.equal(this.state, 'INITIAL')
    this.state = 'CONNECTED'
    super.connectionMade(transport)
  }

  override dataReceived(chunk: Buffer): void {
    assert.equal(this.state, 'CONNECTED')
    super.dataReceived(chunk)
  }

  override eofReceived(): boolean | void {
    assert.equal(this.state, 'CONNECTED')
    this.state = 'EOF'
    return super.eofReceived()
  }

  override connectionLost(error: Error | null): void {
    assert.ok(this.state === 'CONNECTED' || this.state === 'EOF')
    this.state = 'CLOSED'
    super.connectionLost(error)
  }
}

/** A connection between two sockets of node:net, the accepted one of which nobody reads. */
async function acceptByNode(t: TestContext): Promise<{ accepted: Socket; client: Socket }> {
  const server: NetServer = createNetServer({ pauseOnConnect: true, allowHalfOpen: true })
  server.listen(t.transport === 'tcp' ? { port: 0, host: '127.0.0.1' } : { path: t.path() })
  await once(server, 'listening')
  const address = server.address() as string | { port: number }
  const client = typeof address === 'string' ? connect(address) : connect(address.port, '127.0.0.1')
  client.on('error', () => {})
  const [accepted] = (await once(server, 'connection')) as [Socket]
  accepted.on('error', () => {})
  server.close()
  t.defer(() => {
    client.destroy()
    accepted.destroy()
  })
  return { accepted, client }
}

/** A port of 127.0.0.1 on which nobody listens. */
async function freePort(): Promise<number> {
  const server = createNetServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** A port whose queue of connections is full, so that the kernel answers nobody. */
async function fullQueue(t: TestContext): Promise<number> {
  const child = t.start('full-queue')
  const port = Number((await child.line(/^full (\d+)$/))[1])
  return port
}
