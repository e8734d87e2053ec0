/** asyncio's create_server, create_unix_server and Server, with what node:net and uvloop do about their sockets. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createNetServer } from 'node:net'
import { networkInterfaces } from 'node:os'
import { basename, dirname, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  createServer,
  type LoopServerOptions,
  type Protocol,
  type ProtocolFactory,
  type Server,
  type ServerOptions,
  type ShardChange,
  type Transport,
} from '../../src/index.js'
import { fixtureUrl } from '../harness/child.js'
import { assertBytes, type Client } from '../harness/client.js'
import { Deferred, eventually } from '../harness/deferred.js'
import { ChunkEcho } from '../harness/echo-protocols.js'
import { collectGarbage, MiB } from '../harness/memory.js'
import { clientOf, kill } from '../harness/obedient.js'
import { Recorder } from '../harness/recorder.js'
import {
  assertCode,
  assertReset,
  assertThrows,
  type ExceptionContext,
  forEachEngine,
  forEveryTransport,
  portOf,
  type TestContext,
  whereIs,
} from '../harness/suite.js'

const OBEDIENT = new URL('../fixtures/servers/obedient-module.js', import.meta.url)
const HAS_IPV6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
)

forEveryTransport('servers', (test, _engine, transport) => {
  // asyncio: Server.sockets; uvloop: test_tcp test_create_server_1, test_unix test_create_unix_server_1
  test('addresses and sockets tell where it listens, and a closed socket says that it is', async (t) => {
    const server = await t.serve(() => new Recorder())
    const [socket] = server.sockets
    assert.ok(socket !== undefined && server.sockets.length === 1)
    assert.deepEqual(socket.getsockname(), server.addresses[0])
    assert.ok(socket.fileno() > 2)
    await server.close()
    assert.equal(socket.fileno(), -1)
    assertThrows(() => socket.getsockname(), 'EBADF')
    assert.equal(server.addresses.length, 1, 'where it listened is still known')
  })

  // RLoop, TokioLoop: tests/tcp/test_tcp_server.py test_create_server_stream_bittype
  test('a server that nobody came to closes', async (t) => {
    const server = await t.serve(() => assert.fail('nobody came'), { backlog: 1 })
    const ended = once(server.events, 'close')
    await server.close()
    await ended
    assert.equal(server.health().status, 'closed')
  })

  // uvloop: test_tcp test_create_server_1, test_unix test_create_unix_server_1
  test('25 clients at once exchange 2 MiB each, and the server closes behind them', async (t) => {
    const [a, b] = [t.random.bytes(1 * MiB), t.random.bytes(1 * MiB)]
    class Answering extends Recorder {
      override dataReceived(chunk: Buffer): void {
        const before = this.received
        super.dataReceived(chunk)
        if (before < a.length && this.received >= a.length) this.transport.write('OK')
        if (this.received < a.length + b.length) return
        this.transport.writev(['S', Buffer.from('P'), new Uint8Array([65]), 'M'])
        this.transport.close()
        assertBytes(this.bytes, Buffer.concat([a, b]))
        this.chunks.length = 0
      }
    }
    const accepting = await t.serveEach(() => new Answering())
    const { server } = accepting
    await Promise.all(
      Array.from({ length: 25 }, async () => {
        const client = await t.connect(server)
        client.socket.write(a)
        assert.equal((await client.readExactly(2)).toString(), 'OK')
        client.socket.write(b)
        assert.equal((await client.readToEnd()).toString(), 'SPAM')
        client.end()
      }),
    )
    await server.close()
    assert.equal(accepting.protocols.length, 25)
    for (const protocol of accepting.protocols) assert.equal(protocol.lostWith, null)
  })

  // asyncio: Server.close, wait_closed; CPython: test_server.TestServer2.test_wait_closed_basic
  test('close: nobody new gets in, and who is there is served until it is answered', async (t) => {
    const answer = new Deferred()
    class Slow extends Recorder {
      override async dataReceived(chunk: Buffer): Promise<void> {
        super.dataReceived(chunk)
        await answer.promise
        this.transport.write('the answer')
      }
    }
    const { server, client, protocol } = await t.pair(() => new Slow())
    await client.write('question')
    await protocol.receivedAtLeast(8)
    let isClosed = false
    const closed = server.close().then(() => {
      isClosed = true
    })
    await eventually(() => server.sockets[0]?.fileno() === -1)
    await assert.rejects(() => t.connect(server), {
      code: transport === 'unix' ? 'ENOENT' : 'ECONNREFUSED',
    })
    assert.equal(isClosed, false)
    assert.equal(protocol.lostWith, undefined)
    answer.resolve()
    assert.equal((await client.readToEnd()).toString(), 'the answer')
    client.end()
    await closed
    assert.equal(protocol.lostWith, null)
  })

  // asyncio: Server.close_clients; CPython: test_server.TestServer2.test_close_clients
  test('close ends connections that wait for nothing', async (t) => {
    const { server, client, protocol } = await t.pair(() => new Recorder())
    const closed = server.close()
    assert.equal((await client.readToEnd()).length, 0)
    client.end()
    await closed
    assert.deepEqual([protocol.lostWith, protocol.events.at(-1)], [null, 'lost'])
  })

  // asyncio: Server.abort_clients; CPython: test_server.TestServer2.test_abort_clients
  test('abort ends connections whose peers do not read, with ERR_SHARDLOOP_SERVER_ABORTED', async (t) => {
    const { server, client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    protocol.transport.write(Buffer.alloc(16 * MiB))
    await protocol.noted('pause')
    const closed = server.close()
    assert.equal(protocol.lostWith, undefined)
    await server.abort()
    await closed
    assertCode(protocol.lostWith, 'ERR_SHARDLOOP_SERVER_ABORTED')
    await client.untilReset()
    assert.ok(client.received < 16 * MiB)
  })

  // asyncio: Server.close is idempotent; wait_closed returns at once when it is closed
  test('close and abort may be called again, together and afterwards', async (t) => {
    const { server, client } = await t.pair(() => new Recorder())
    let closes = 0
    server.events.on('close', () => closes++)
    await Promise.all([server.close(), server.close(), server.drain(), server.abort(), server.abort()])
    await Promise.all([server.close(), server.abort()])
    assert.equal(closes, 1)
    await client.untilClose()
  })

  // CPython: test_server.TestServer2.test_close_race, test_wait_closed_race
  test('a connection that comes while the server closes is served or refused, and leaves nothing', async (t) => {
    for (let round = 0; round < 20; round++) {
      const accepting = await t.serveEach(() => new Recorder())
      const { server } = accepting
      const coming = t.connect(server, { mayBreak: true }).catch((error: NodeJS.ErrnoException) => {
        assert.ok(['ECONNREFUSED', 'ENOENT', 'ECONNRESET'].includes(error.code ?? ''), String(error))
        return null
      })
      if (round % 2 === 0) await new Promise((resolve) => setImmediate(resolve))
      const closed = server.close()
      const client = await coming
      client?.end()
      await closed
      for (const protocol of accepting.protocols) assert.equal(protocol.events.at(-1), 'lost')
      assert.equal(server.metrics().total.connectionsOpen, 0)
    }
  })

  // asyncio: Server.close may be called by a protocol
  test('a server may be closed and aborted from within its callbacks', async (t) => {
    for (const way of ['close', 'abort'] as const) {
      const ended = new Deferred()
      const accepting = await t.serveEach(
        () =>
          new (class extends Recorder {
            override connectionMade(transport: Transport): void {
              super.connectionMade(transport)
              transport.write('bye')
              void accepting.server[way]().then(() => ended.resolve())
            }
          })(),
      )
      const client = await t.connect(accepting.server, { mayBreak: true })
      await client.readToClose()
      client.end()
      await ended.promise
      assert.equal(accepting.protocols[0]?.count('lost'), 1)
    }
  })

  // asyncio: "async with server"
  test('await using closes a server at the end of its block', async (t) => {
    let used: Server
    {
      await using server = await createServer(() => new ChunkEcho(), {
        ...(transport === 'unix' ? { path: t.path() } : { host: '127.0.0.1' }),
        ...t.serverTls(),
        shards: 0,
        signals: false,
        engine: t.engine,
      })
      used = server
      const client = await t.connect(server)
      await client.write('x')
      assert.equal((await client.readExactly(1)).toString(), 'x')
      client.end()
      await client.readToEnd()
    }
    assert.equal(used.sockets[0]?.fileno(), -1)
    assert.equal(used.health().status, 'closed')
  })

  // node:net, and asyncio's reuse_address: where a server was another may listen at once, connections of the first or not
  test('where a server listened is free once it is closed', async (t) => {
    const first = await t.pair(() => new Recorder())
    const where = whereIs(first.server)
    await Promise.all([first.server.close(), first.client.readToEnd().then(() => first.client.end())])
    const second = await t.serve(() => new ChunkEcho(), listenOn(where))
    assert.equal(whereIs(second), where)
    await assertEchoes(await t.connect(second))
  })

  // CPython: test_events test_create_server_addr_in_use; uvloop: test_tcp test_create_server_4
  test('where a server listens a second one is EADDRINUSE, and the first serves on', async (t) => {
    const first = await t.serve(() => new ChunkEcho())
    const where = whereIs(first)
    await assert.rejects(() => t.serve(() => new Recorder(), listenOn(where)), {
      code: 'EADDRINUSE',
      syscall: 'listen',
    })
    await assertEchoes(await t.connect(first))
  })

  // uvloop: test_tcp test_create_server_7
  test("a loop's server that nobody holds serves on, and ends with its loop", async (t) => {
    const where = whereIs(await loopServer(t, () => new ChunkEcho()))
    await collectGarbage()
    await assertEchoes(await t.connect(where))
    await t.loop.close()
    await assert.rejects(() => t.connect(where))
  })

  // asyncio: an exception of the protocol factory reaches call_exception_handler ("Error on transport creation …")
  test('a factory that throws, or makes no protocol, ends its own connection only', async (t) => {
    const reports: ExceptionContext[] = []
    const broken = new Error('none today')
    const made: ProtocolFactory[] = [
      () => new ChunkEcho(),
      () => {
        throw broken
      },
      () => undefined as unknown as Protocol,
      () => Promise.resolve({}) as unknown as Protocol,
      () => new ChunkEcho(),
    ]
    const server = await t.serve(() => (made.shift() as ProtocolFactory)(), {
      exceptionHandler: (context) => void reports.push(context),
    })
    const first = await t.connect(server)
    await assertEchoes(first)
    for (let bad = 0; bad < 3; bad++) {
      const client = await t.connect(server, { mayBreak: true })
      assertReset(client, await client.untilClose())
    }
    await assertEchoes(await t.connect(server))
    await assertEchoes(first)
    assert.equal(reports[0]?.error, broken)
    assert.equal(reports.length, 3)
    for (const { error } of reports.slice(1)) assertCode(error, 'ERR_SHARDLOOP_ARGUMENT')
  })

  // CPython: base_events/selector_events "socket.accept() out of system resource", told to the exception handler
  test(
    'without a free descriptor accepting pauses, the exception handler is told once, and it goes on when one is free',
    async (t) => {
      const where = transport === 'unix' ? [t.path()] : []
      const script = 'ulimit -n 90 && exec "$0" "$@"'
      const file = fileURLToPath(fixtureUrl('short-of-descriptors'))
      const child = t.spawn(['-c', script, process.execPath, file, ...where, '--engine', t.engine], {
        command: '/bin/sh',
      })
      const ready = (await child.line(/^ready (.+)$/))[1] as string
      const listening = transport === 'unix' ? ready : Number(ready)
      const early = await t.connect(listening)
      // It is accepted, and does not wait in the queue.
      await assertEchoes(early)
      await child.ask('exhaust', /^exhausted$/)
      const late = await Promise.all(Array.from({ length: 5 }, () => t.connect(listening)))
      for (const client of late) client.socket.write('hello')
      await child.line(/^told EMFILE accepting failed: EMFILE; connections wait/)
      await assertEchoes(early)
      assert.deepEqual(new Set(late.map((client) => client.received)), new Set([0]))
      await child.ask('free', /^freed$/)
      for (const client of late) assert.equal((await client.readExactly(5)).toString(), 'hello')
      for (const client of [early, ...late]) client.end()
      child.send('close')
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      const told = child.lines.filter((line) => line.startsWith('told'))
      assert.equal(told.length, 1, child.describe())
    },
    { notOverTls: 'it is a program of its own, about accepting alone' },
  )

  // asyncio: loop.create_server and loop.create_unix_server
  test("a loop's own server is the same, and closes by itself", async (t) => {
    const server = await loopServer(t, () => new ChunkEcho())
    await assertEchoes(await t.connect(server))
    assert.equal(server.shards.length, 1)
    await server.close()
    assert.equal(server.sockets[0]?.fileno(), -1)
    // The loop has forgotten it: closing has nothing to abort.
    await t.loop.close()
  })

  // asyncio: a loop's servers end with it
  test('closing the loop aborts its servers, and not those of others', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const other = await t.join(accepting)
    const protocol = new Recorder()
    const server = await loopServer(t, () => protocol)
    const client = await t.connect(server)
    await protocol.noted('made')
    await t.loop.close()
    assertCode(protocol.lostWith, 'ERR_SHARDLOOP_SERVER_ABORTED')
    await client.untilClose()
    assert.equal(server.health().status, 'closed')
    await assert.rejects(() => t.connect(server))
    await other.client.write('still here')
    await other.protocol.receivedAtLeast(10)
  })

  test("a loop's server takes no shards, and a closed loop makes none", async (t) => {
    for (const shards of [1, 'auto']) {
      await assert.rejects(() => loopServer(t, () => new ChunkEcho(), { shards } as LoopServerOptions), {
        code: 'ERR_SHARDLOOP_OPTION',
        message: /option shards/,
      })
    }
    await t.loop.close()
    await assert.rejects(() => loopServer(t, () => new ChunkEcho()), { code: 'ERR_SHARDLOOP_STATE' })
  })

  if (transport === 'unix') {
    // asyncio leaves several listening threads or processes to the program
    test('both shards serve a Unix socket; one that dies is replaced, and the file stays until the end', async (t) => {
      const server = await t.serve(OBEDIENT, { shards: 2 })
      const path = whereIs(server) as string
      const { ino } = lstatSync(path)
      const survivor = await clientOf(t, server, 0)
      const replaced = new Deferred<ShardChange>()
      server.events.on('shard', (change) => {
        if (change.id === 1 && change.state === 'ready') replaced.resolve(change)
      })
      await kill(t, server, 1)
      assert.equal(lstatSync(path).ino, ino, 'it is the same file')
      await survivor.write('who\n')
      assert.equal(await survivor.readLine(), '0')
      await clientOf(t, server, 0)
      assert.equal((await replaced.promise).restarts, 1)
      await clientOf(t, server, 1)
      assert.equal(lstatSync(path).ino, ino)
      await server.abort()
      assert.equal(existsSync(path), false)
    })
  }
})

forEachEngine('servers over TCP', (test) => {
  // uvloop: test_tcp test_create_server_3
  test('port 0 is a free port, another for each server', async (t) => {
    const ports = await Promise.all(
      Array.from({ length: 3 }, async () => portOf(await t.serve(() => new ChunkEcho(), { port: 0 }))),
    )
    assert.equal(new Set(ports).size, 3)
    for (const port of ports) await assertEchoes(await t.connect(port))
  })

  const ipv6 = 'an IPv6 server listens on ::1, and its connections tell their addresses'
  if (HAS_IPV6) {
    // RLoop, TokioLoop: tests/tcp/test_tcp_server.py test_create_server_ipv6
    test(ipv6, async (t) => {
      const accepting = await t.serveEach(() => new Recorder(), { host: '::1' })
      const [address] = accepting.server.addresses
      assert.deepEqual(address, { address: '::1', family: 'IPv6', port: portOf(accepting.server) })
      const { client, protocol } = await t.join(accepting, { host: '::1' })
      await client.write('six')
      await protocol.receivedAtLeast(3)
      assert.deepEqual(protocol.transport.getExtraInfo('sockname'), address)
      assert.deepEqual(protocol.transport.getExtraInfo('peername'), {
        address: '::1',
        family: 'IPv6',
        port: client.socket.localPort,
      })
    })
  } else test.skip(ipv6, 'there is no ::1')

  // uvloop: test_tcp test_create_server_5; asyncio: create_server(host=[…]), "sequence of hosts"
  test('several hosts share one port, each with a socket of its own', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { host: ['127.0.0.1', '127.0.0.2'] })
    assert.equal(server.sockets.length, 2)
    assert.deepEqual(
      server.addresses.map((address) => `${address.address}:${address.port}`),
      ['127.0.0.1', '127.0.0.2'].map((host) => `${host}:${portOf(server)}`),
    )
    for (const host of ['127.0.0.1', '127.0.0.2']) await assertEchoes(await t.connect(server, { host }))
  })

  // node:net; asyncio: create_server with an address of another machine
  test('an address that is not ours is EADDRNOTAVAIL, as from node:net', async (t) => {
    await assert.rejects(() => t.serve(() => new ChunkEcho(), { host: '192.0.2.1' }), {
      code: 'EADDRNOTAVAIL',
      syscall: 'listen',
      address: '192.0.2.1',
    })
  })

  for (const [name, options, message] of [
    ['backlog 1.5', { backlog: 1.5 }, /option backlog/],
    ['port -1', { port: -1 }, /option port/],
    ['port 65,536', { port: 65536 }, /option port/],
    ['an unknown option', { reuseAddress: true }, /unknown option 'reuseAddress'/],
    ['host beside path', { path: 'x' }, /option host: expected nothing beside path/],
    ['socketMode without path', { socketMode: 0o600 }, /option socketMode/],
  ] as const) {
    // uvloop: test_tcp test_create_server_float_backlog, test_create_server_2
    test(`${name} is refused by name`, async (t) => {
      await assert.rejects(() => t.serve(() => new ChunkEcho(), options as ServerOptions), {
        code: 'ERR_SHARDLOOP_OPTION',
        message,
      })
    })
  }
})

forEachEngine('servers on Unix sockets', (test) => {
  // asyncio: loop.create_unix_server; CPython: test_server.UnixServerCleanupTests.test_unix_server_addr_cleanup
  test('the file of the socket is there while it listens, and goes with it', async (t) => {
    const path = t.path()
    for (const end of ['close', 'abort'] as const) {
      const server = await unixServer(t, path)
      assert.equal(lstatSync(path).isSocket(), true)
      assert.deepEqual(server.addresses, [path])
      await server[end]()
      assert.equal(existsSync(path), false)
    }
  })

  // CPython: test_server.UnixServerCleanupTests.test_unix_server_cleanup_gone
  test('a file that somebody has removed already is no reason to fail', async (t) => {
    const path = t.path()
    const server = await unixServer(t, path)
    rmSync(path)
    await server.close()
  })

  // CPython: test_server.UnixServerCleanupTests.test_unix_server_cleanup_replaced
  test("another's file of the same name is left alone", async (t) => {
    const path = t.path()
    const first = await unixServer(t, path)
    rmSync(path)
    const second = await unixServer(t, path)
    await first.close()
    assert.equal(existsSync(path), true)
    await assertEchoes(await t.connect(second))
  })

  // uvloop: test_unix test_create_unix_server_existing_path_sock; CPython: test_unix_events test_create_unix_server_existing_path_sock
  test('the file of a process that was killed is replaced', async (t) => {
    const path = t.path()
    const child = t.start('short-of-descriptors', [path])
    await child.line(/^ready/)
    child.kill('SIGKILL')
    await child.untilExit()
    assert.equal(lstatSync(path).isSocket(), true, 'it left its file behind')
    const server = await unixServer(t, path)
    await assertEchoes(await t.connect(server))
  })

  // CPython: test_unix_events test_create_unix_server_existing_path_sock, where somebody listens; node:net
  test('a file that somebody listens on is EADDRINUSE, whoever that is, and stays', async (t) => {
    const path = t.path()
    const outside = createNetServer((socket) => socket.on('error', () => {}).end('outside')).listen(path)
    await once(outside, 'listening')
    t.defer(() => outside.close())
    await assert.rejects(() => unixServer(t, path), { code: 'EADDRINUSE', syscall: 'listen', address: path })
    assert.equal((await (await t.connect(path)).readToEnd()).toString(), 'outside')
  })

  // uvloop: test_unix test_create_unix_server_2; CPython: test_unix_events test_create_unix_server_existing_path_nonsock
  test('a file that is no socket, or a directory, is never replaced', async (t) => {
    const [file, directory] = [t.path('file'), t.path('directory')]
    writeFileSync(file, 'precious')
    mkdirSync(directory)
    for (const path of [file, directory])
      await assert.rejects(() => unixServer(t, path), { code: 'EADDRINUSE', address: path })
    assert.equal(readFileSync(file, 'utf8'), 'precious')
    assert.equal(lstatSync(directory).isDirectory(), true)
    await assert.rejects(() => unixServer(t, `${directory}/none/socket`), { code: 'ENOENT' })
    if (process.getuid?.() !== 0) {
      chmodSync(directory, 0o500)
      await assert.rejects(() => unixServer(t, `${directory}/socket`), { code: 'EACCES' })
    }
  })

  // unix(7): who may write to the file may connect; nginx's and gunicorn's umask for their sockets
  test('socketMode gives the file its permissions, whatever the umask', async (t) => {
    for (const socketMode of [0o600, 0o660, 0o777]) {
      const path = t.path()
      await unixServer(t, path, { socketMode })
      assert.equal(lstatSync(path).mode & 0o777, socketMode)
    }
    await assert.rejects(() => unixServer(t, t.path(), { socketMode: 0o1000 }), {
      code: 'ERR_SHARDLOOP_OPTION',
    })
  })

  // asyncio: create_unix_server takes "abstract Unix sockets" too; CPython: test_unix_events …_abstract
  if (process.platform === 'linux') {
    test('an abstract name has no file, is EADDRINUSE twice, and is free with its server', async (t) => {
      const path = `\0shardloop-${process.pid}-${t.random.u32()}`
      const server = await unixServer(t, path)
      assert.deepEqual(server.addresses, [path])
      assert.equal(existsSync(path.slice(1)), false)
      const [transport, protocol] = await t.loop.createUnixConnection(() => new Recorder(), {
        path,
        engine: t.engine,
      })
      assert.equal(transport.getExtraInfo('peername'), path)
      transport.write('x')
      await protocol.receivedAtLeast(1)
      await assert.rejects(() => unixServer(t, path), { code: 'EADDRINUSE' })
      await server.abort()
      await unixServer(t, path)
    })
  } else
    test.skip(
      'an abstract name has no file, is EADDRINUSE twice, and is free with its server',
      'only on Linux',
    )

  // CPython: test_unix_events test_create_unix_server_nopath_nosock; node:net refuses long paths
  test('a path that cannot be is refused by name', async (t) => {
    for (const path of [
      '',
      '\0',
      'x'.repeat(200),
      `/tmp/${'ü'.repeat(60)}`,
      'zero\0within',
      5,
      null,
      undefined,
    ]) {
      await assert.rejects(() => unixServer(t, path as string), {
        code: 'ERR_SHARDLOOP_OPTION',
        message: /option path: expected a path of 1 to \d+ bytes/,
      })
    }
  })

  // uvloop: test_unix test_create_unix_server_pathlib; node:net
  test('a relative path is taken from the working directory of the call, also when it goes', async (t) => {
    const path = t.path()
    const before = process.cwd()
    process.chdir(dirname(path))
    let server: Server
    try {
      server = await unixServer(t, basename(path))
      assert.deepEqual(server.addresses, [basename(path)])
      await assertEchoes(await t.connect(basename(path)))
    } finally {
      process.chdir(before)
    }
    await assertEchoes(await t.connect(relative(before, path)))
    await server.close()
    assert.equal(existsSync(path), false)
  })
})

/** Where a server or a path is, as options of another. */
function listenOn(where: number | string): ServerOptions {
  return typeof where === 'number' ? { port: where } : { path: where }
}

async function assertEchoes(client: Client): Promise<void> {
  await client.write('ping')
  assert.equal((await client.readExactly(4)).toString(), 'ping')
}

/** A server of the loop's own, on what the suite runs over. */
function loopServer(
  t: TestContext,
  factory: ProtocolFactory,
  options: LoopServerOptions = {},
): Promise<Server> {
  const common = { signals: false, engine: t.engine, ...t.serverTls(), ...options }
  return t.transport === 'tcp'
    ? t.loop.createServer(factory, { host: '127.0.0.1', ...common })
    : t.loop.createUnixServer(factory, { path: t.path(), ...common })
}

/** An echo server on a Unix socket. */
async function unixServer(t: TestContext, path: string, options: LoopServerOptions = {}): Promise<Server> {
  return t.loop.createUnixServer(() => new ChunkEcho(), {
    path,
    signals: false,
    engine: t.engine,
    ...options,
  })
}
