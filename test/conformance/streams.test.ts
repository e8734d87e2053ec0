/**
 * asyncio's streams: open_connection, start_server, StreamReader and StreamWriter over sockets. What a reader does by itself is
 * in ../stream-reader.test.ts, draining in ../stream-draining.test.ts.
 */
import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import {
  fromStream,
  IncompleteReadError,
  openConnection,
  openUnixConnection,
  type Stream,
  type StreamHandler,
  type StreamOptions,
  startServer,
  type WaitOptions,
} from '../../src/index.js'
import { assertBytes } from '../harness/client.js'
import { Deferred, eventually } from '../harness/deferred.js'
import { arrayBufferBytes, KiB, MiB } from '../harness/memory.js'
import { Recorder } from '../harness/recorder.js'
import { echo, failure, holdStream, openStream, serveStreams } from '../harness/streams.js'
import {
  assertCode,
  assertRejects,
  type ExceptionContext,
  forEveryTransport,
  settle,
} from '../harness/suite.js'

/** What a stream keeps at most beside its own bounds: what one batch has brought it. */
const BATCH_BYTES = 2 * MiB

/** Every way to read, of a stream that has not enough for any of them. */
const READS: Record<string, (stream: Stream, options?: WaitOptions) => Promise<unknown>> = {
  'read(5)': (stream, options) => stream.read(5, options),
  'read()': (stream, options) => stream.read(-1, options),
  readExactly: (stream, options) => stream.readExactly(5, options),
  readLine: (stream, options) => stream.readLine(options),
  readUntil: (stream, options) => stream.readUntil('--', options),
}

forEveryTransport('streams', (test) => {
  // CPython: test_streams.StreamTests.test_open_connection, test_open_unix_connection
  test('openConnection: a stream to a server, which answers by lines', async (t) => {
    const server = await serveStreams(t, async (stream) => {
      const line = await stream.readLine()
      await stream.write(`hello, ${line}`)
    })
    const stream = await openStream(t, server)
    assert.equal(stream.write('ada\n'), undefined, 'there is room')
    assert.equal((await stream.readLine()).toString(), 'hello, ada\n')
    assert.equal((await stream.read()).length, 0)
    assert.equal(stream.atEof(), true)
    assert.equal(stream.isClosing(), false, "the peer's end leaves our half open")
    assert.deepEqual(stream.getExtraInfo('peername'), server.addresses[0])
    assert.equal(stream.getExtraInfo('socket'), stream.transport.getExtraInfo('socket'))
    stream.close()
    assert.equal(stream.isClosing(), true)
    await stream.waitClosed()
    await stream.waitClosed()
  })

  // CPython: test_start_server, test_start_unix_server
  test('startServer: a handler for each connection, which is closed behind it', async (t) => {
    const where = t.transport === 'tcp' ? { host: '127.0.0.1', port: 0 } : { path: t.path() }
    const server = await startServer(echo, {
      ...where,
      ...t.serverTls(),
      engine: t.engine,
      shards: 0,
      signals: false,
    })
    t.defer(() => server.abort())
    for (let round = 0; round < 3; round++) {
      const client = await t.connect(server)
      client.end('back again')
      assert.equal((await client.readToEnd()).toString(), 'back again')
    }
    await eventually(() => server.metrics().total.connectionsOpen === 0)
  })

  // RLoop: _SIZE of tests/tcp/test_tcp_server.py
  test('1,024,000 bytes go there and back, whatever pieces they are written and read in', async (t) => {
    const server = await serveStreams(t, echo)
    const stream = await openStream(t, server)
    const data = t.random.bytes(1_024_000)
    const written = (async () => {
      for (const piece of t.random.pieces(data, 1, 100_000)) await stream.write(piece)
      stream.writeEof()
    })()
    const received: Buffer[] = []
    let bytes = 0
    while (bytes < data.length) {
      const size = t.random.size(1, 200_000)
      const piece =
        t.random.below(2) === 0
          ? await stream.read(size)
          : await stream.readExactly(Math.min(size, data.length - bytes))
      received.push(piece)
      bytes += piece.length
    }
    assertBytes(Buffer.concat(received), data)
    assert.equal((await stream.read()).length, 0)
    await written
    await stream[Symbol.asyncDispose]()
  })

  test('writev and writeLines send their pieces as one', async (t) => {
    const { client, stream } = await holdStream(t)
    assert.equal(stream.writev(['one ', Buffer.from('two ')]), undefined)
    assert.equal(stream.writeLines(['three\n', 'four\n']), undefined)
    assert.equal((await client.readExactly(19)).toString(), 'one two three\nfour\n')
  })

  // CPython: StreamWriter.write_eof, can_write_eof
  test('writeEof: the peer reads an end, and what it sends still arrives', async (t) => {
    const { client, stream, handled } = await holdStream(t)
    assert.equal(stream.canWriteEof(), true)
    await stream.write('question')
    stream.writeEof()
    assert.equal((await client.readToEnd()).toString(), 'question')
    client.end('answer')
    assert.equal((await stream.read()).toString(), 'answer')
    assert.throws(() => stream.write('more'), { code: 'ERR_SHARDLOOP_STATE' })
    handled.resolve()
    await stream.waitClosed()
  })

  test('await using closes a stream, and waits for that', async (t) => {
    const { client, stream } = await holdStream(t)
    {
      await using held = stream
      held.write('last words')
    }
    await stream.waitClosed()
    assert.equal((await client.readToEnd()).toString(), 'last words')
  })

  test("a handler's promise: when it is fulfilled all is sent, though the peer's bytes were not read", async (t) => {
    const bytes = t.random.bytes(4 * MiB)
    const server = await serveStreams(t, async (stream) => {
      await stream.readLine()
      stream.write(bytes)
    })
    const client = await t.connect(server)
    await client.write(`go\n${'unread '.repeat(30_000)}`)
    assertBytes(await client.readToEnd(), bytes)
    client.end()
    assert.equal(await client.untilClose(), null)
  })

  for (const [how, fail] of Object.entries({
    rejects: (error: Error) => Promise.reject(error),
    throws: (error: Error) => {
      throw error
    },
    'rejects later': async (error: Error, stream: Stream) => {
      await stream.readLine()
      throw error
    },
  })) {
    // CPython: StreamReaderProtocol.connection_made, "Unhandled exception in client_connected_cb"
    test(`a handler that ${how}: its connection is aborted, the exception handler is told, the next is served`, async (t) => {
      const broken = new Error('not handled')
      const reports: ExceptionContext[] = []
      let toFail = 1
      let failed: Stream | undefined
      const server = await serveStreams(
        t,
        (stream) => {
          if (toFail-- <= 0) return echo(stream)
          failed = stream
          return fail(broken, stream)
        },
        { exceptionHandler: (context) => void reports.push(context) },
      )
      const client = await t.connect(server, { mayBreak: true })
      client.socket.write('go\n')
      await client.untilReset()
      await eventually(() => reports.length > 0)
      assert.deepEqual(
        reports.map(({ error, transport }) => [error, transport]),
        [[broken, failed?.transport]],
      )
      assert.equal(await failure((failed as Stream).read(1)), broken)
      const next = await t.connect(server)
      next.end('served')
      assert.equal((await next.readToEnd()).toString(), 'served')
    })
  }

  test('a handler that throws undefined has failed, too, and leaves no connection behind', async (t) => {
    const reports: ExceptionContext[] = []
    const handler: StreamHandler = async (stream) => {
      await stream.readLine()
      await Promise.reject(undefined)
    }
    const server = await serveStreams(t, handler, {
      exceptionHandler: (context) => void reports.push(context),
    })
    const client = await t.connect(server, { mayBreak: true })
    client.socket.write('go\n')
    await client.untilReset()
    await eventually(() => reports.length === 1)
    assert.equal(reports[0]?.error, undefined)
  })

  // CPython: client_connected_cb "can be a plain callable or a coroutine function"
  test('a handler that returns no promise leaves the connection to whoever has it', async (t) => {
    const accepted = new Deferred<Stream>()
    const server = await serveStreams(t, (stream) => accepted.resolve(stream))
    const client = await t.connect(server)
    const stream = await accepted.promise
    await client.write('ping')
    assert.equal((await stream.readExactly(4)).toString(), 'ping')
    stream.close()
    await client.readToEnd()
  })

  test('a handler runs in the async context of its connection', async (t) => {
    const storage = new AsyncLocalStorage<string>()
    const server = await serveStreams(t, async (stream) => {
      storage.enterWith((await stream.readLine()).toString())
      await stream.write('ready\n')
      await stream.readLine()
      await stream.write(storage.getStore() ?? 'nothing')
    })
    const clients = await Promise.all(['ada\n', 'bob\n'].map(() => t.connect(server)))
    for (const [index, client] of clients.entries()) {
      await client.write(['ada\n', 'bob\n'][index] as string)
      assert.equal(await client.readLine(), 'ready')
    }
    for (const client of clients) await client.write('who?\n')
    const answers = await Promise.all(clients.map((client) => client.readToEnd()))
    assert.deepEqual(answers.map(String), ['ada\n', 'bob\n'])
  })

  for (const [name, read] of Object.entries(READS)) {
    test(`${name}: called off by its signal it has lost no byte`, async (t) => {
      const { client, stream } = await holdStream(t)
      const reason = new Error('changed my mind')
      assert.equal(await failure(read(stream, { signal: AbortSignal.abort(reason) })), reason)
      const sent = name === 'read(5)' ? '' : 'a-'
      const aborting = new AbortController()
      const waiting = read(stream, { signal: aborting.signal })
      if (sent !== '') {
        client.socket.write(sent)
        await eventually(() => stream.reader.buffered === sent.length)
      }
      aborting.abort(reason)
      assert.equal(await failure(waiting), reason)
      client.end('rest')
      assert.equal((await stream.read()).toString(), `${sent}rest`)
    })

    test(`${name}: the peer's end in the middle`, async (t) => {
      const { client, stream } = await holdStream(t)
      client.end('end')
      const ended = await read(stream).catch((error: unknown) => error)
      if (ended instanceof IncompleteReadError) assert.equal(ended.partial.toString(), 'end')
      else assert.equal(String(ended), 'end')
      assert.equal(ended instanceof IncompleteReadError, name === 'readExactly' || name === 'readUntil')
      const over = await read(stream).catch((error: unknown) => error)
      if (over instanceof IncompleteReadError) assert.equal(over.partial.length, 0)
      else assert.equal(String(over), '')
    })

    test.overTcp(
      `${name}: a reset while it waits rejects it, and is no failure of the handler's`,
      async (t) => {
        const { client, stream, handled } = await holdStream(t)
        const waiting = read(stream)
        handled.resolve(waiting as unknown as void)
        client.reset()
        const error = assertCode(await failure(waiting), 'ECONNRESET')
        assert.equal(await failure(read(stream)), error)
        assert.equal(await failure(stream.drain()), error)
        assert.equal(await failure(stream.waitClosed()), error)
        assert.equal(await failure(stream.write('x') as Promise<void>), error)
      },
    )
  }

  test.overTcp('a handler that lets through what its read rejected with is not reported', async (t) => {
    const handlers: Promise<void>[] = []
    const server = await serveStreams(t, (stream) => {
      const handled = (echo as (stream: Stream) => Promise<void>)(stream)
      handlers.push(handled)
      return handled
    })
    const client = await t.connect(server)
    await client.write('x')
    await client.readExactly(1)
    client.reset()
    assertCode(await failure(handlers[0] as Promise<void>), 'ECONNRESET')
  })

  test('a server that is stopped by force rejects what waits by name', async (t) => {
    const { server, client, stream, handled } = await holdStream(t)
    const reading = failure(stream.readLine())
    const closed = failure(stream.waitClosed())
    await server.abort()
    const error = assertCode(await reading, 'ERR_SHARDLOOP_SERVER_ABORTED')
    assert.equal(await closed, error)
    handled.reject(error) // which is not reported
    await client.untilReset()
  })

  // CPython: StreamReaderProtocol.connection_lost: feed_eof
  test('close ends a read that waits, and what had come before can be read', async (t) => {
    const { client, stream } = await holdStream(t)
    await client.write('unread')
    await eventually(() => stream.reader.buffered === 6)
    const waiting = stream.readLine()
    stream.close()
    assert.equal((await waiting).toString(), 'unread')
    await stream.waitClosed()
    assertCode(await failure(stream.drain()), 'ERR_SHARDLOOP_CLOSED')
    assertCode(await failure(stream.write('x') as Promise<void>), 'ERR_SHARDLOOP_CLOSED')
    await client.readToEnd()
  })

  // CPython: StreamWriter.drain, FlowControlMixin._drain_helper; test_drain_raises
  test('drain waits for a peer that does not read, may be called off, and goes on when it does', async (t) => {
    const probe = await t.pair(() => new Recorder())
    const { client, stream } = await holdStream(t, { client: { paused: true } })
    const bytes = t.random.bytes(16 * MiB)
    const promised = stream.write(bytes)
    assert.ok(promised instanceof Promise)
    let drained = 0
    const count = (): void => void drained++
    const waiting = [promised.then(count), stream.drain().then(count)]
    const aborting = new AbortController()
    const calledOff = failure(stream.drain({ signal: aborting.signal }))
    await settle(probe)
    assert.equal(drained, 0)
    const reason = new Error('changed my mind')
    aborting.abort(reason)
    assert.equal(await calledOff, reason)
    client.resume()
    assertBytes(await client.readExactly(bytes.length), bytes)
    await Promise.all(waiting)
    assert.equal(drained, 2)
    await stream.drain()
    assert.equal(stream.write('there is room again'), undefined)
  })

  test('whoever writes on and awaits each write keeps little in memory, and all arrives', async (t) => {
    const { client, stream } = await holdStream(t, { client: { paused: true }, writeMaxBytes: 4 * MiB })
    const piece = t.random.bytes(40 * KiB)
    const pieces = 800
    let most = 0
    let written = 0
    const writing = (async () => {
      for (; written < pieces; written++) {
        await stream.write(piece)
        most = Math.max(most, stream.transport.getWriteBufferSize())
      }
    })()
    await eventually(() => stream.transport.getWriteBufferSize() > 64 * KiB)
    client.resume()
    for (let read = 0; read < pieces; read++) assertBytes(await client.readExactly(piece.length), piece)
    await writing
    assert.ok(most < MiB, `${most} bytes waited`)
  })

  test('whoever writes and awaits without end does not keep the loop from its other work', async (t) => {
    const { client, stream } = await holdStream(t)
    client.socket.resume()
    let turns = 0
    const turn = (): void => void (turns++ < 10 && setImmediate(turn))
    turn()
    while (turns < 10) await stream.write('x'.repeat(KiB))
    stream.close()
  })

  test('a promise of write that nobody awaits is no unhandled rejection', async (t) => {
    const { client, stream, handled } = await holdStream(t, { client: { paused: true } })
    assert.ok(stream.write(Buffer.alloc(16 * MiB)) instanceof Promise)
    stream.transport.abort(new Error('given up'))
    await client.untilReset()
    assert.equal((await failure(stream.waitClosed())).message, 'given up')
    handled.resolve()
  })

  test('a connection that ends while drain waits rejects it', async (t) => {
    const probe = await t.pair(() => new Recorder())
    for (const how of ['abort', 'reset'] as const) {
      const { client, stream } = await holdStream(t, { client: { paused: true } })
      stream.write(Buffer.alloc(16 * MiB))
      const drained = failure(stream.drain())
      await settle(probe) // so that it is known what the kernel did not take
      if (how === 'abort') {
        stream.transport.abort()
        assertCode(await drained, 'ERR_SHARDLOOP_CLOSED')
      } else {
        client.reset()
        const { code } = await drained
        assert.ok(code === 'ECONNRESET' || code === 'EPIPE', code)
      }
      await client.destroy()
    }
  })

  // CPython: test_streams, StreamReader._maybe_resume_transport
  test('64 MiB that nobody reads stay with the peer: receiving is paused, memory is flat, then all is read', async (t) => {
    const { client, stream } = await holdStream(t)
    const piece = t.random.bytes(MiB)
    const before = await arrayBufferBytes()
    const sent = (async () => {
      for (let count = 0; count < 64; count++) client.socket.write(piece)
      client.end()
    })()
    await eventually(() => !stream.transport.isReading())
    const buffered = stream.reader.buffered
    assert.ok(buffered > 128 * KiB && buffered < 128 * KiB + BATCH_BYTES, `${buffered} bytes`)
    const grown = (await arrayBufferBytes()) - before
    assert.ok(grown < 16 * MiB, `${grown} bytes in memory`)
    assert.equal(stream.reader.buffered, buffered)
    let most = 0
    for (let count = 0; count < 64; count++) {
      assertBytes(await stream.readExactly(piece.length), piece)
      most = Math.max(most, stream.reader.buffered)
    }
    assert.ok(most < MiB + 128 * KiB + BATCH_BYTES, `${most} bytes`)
    assert.equal((await stream.read()).length, 0)
    await sent
  })

  test('limit: a longer line rejects, and the next one is read', async (t) => {
    const { client, stream } = await holdStream(t, { limit: 100 })
    await client.write(`${'x'.repeat(100)}\n${'y'.repeat(101)}\nshort\n`)
    assert.equal((await stream.readLine()).length, 101)
    await assertRejects(() => stream.readLine(), 'ERR_SHARDLOOP_LIMIT_OVERRUN')
    assert.equal((await stream.readLine()).toString(), 'short\n')
    const ours = await openStream(t, await serveStreams(t, echo), { limit: 10 })
    ours.write('x'.repeat(50))
    await assertRejects(() => ours.readUntil('\n'), 'ERR_SHARDLOOP_LIMIT_OVERRUN')
    ours.close()
  })

  test('options that cannot be are refused by name', async (t) => {
    const where = t.transport === 'tcp' ? { port: 1 } : { path: t.path() }
    const connect = t.transport === 'tcp' ? openConnection : openUnixConnection
    for (const limit of [0, 1.5, 2 ** 30 + 1, '64' as unknown as number]) {
      assert.throws(() => fromStream(echo, { limit }), { code: 'ERR_SHARDLOOP_OPTION', message: /limit/ })
      await assertRejects(() => startServer(echo, { limit, shards: 0 }), 'ERR_SHARDLOOP_OPTION')
      await assertRejects(
        () => connect({ ...(where as { port: number; path: string }), limit }),
        'ERR_SHARDLOOP_OPTION',
      )
    }
    assert.throws(() => fromStream(echo, { limits: 1 } as StreamOptions), { code: 'ERR_SHARDLOOP_OPTION' })
    assert.throws(() => fromStream({} as StreamHandler), { code: 'ERR_SHARDLOOP_ARGUMENT' })
    await assertRejects(() => connect(undefined as never), 'ERR_SHARDLOOP_OPTION')
  })

  test('openConnection may be called off, and rejects with what there is', async (t) => {
    const server = await serveStreams(t, echo)
    const reason = new Error('changed my mind')
    assert.equal(await failure(openStream(t, server, { signal: AbortSignal.abort(reason) })), reason)
    await server.close()
    const { code } = await failure(openStream(t, server))
    assert.ok(code === 'ECONNREFUSED' || code === 'ENOENT', code)
  })
})
