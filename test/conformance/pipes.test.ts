/** asyncio's connect_read_pipe and connect_write_pipe: CPython test_events.py, test_unix_events.py; uvloop tests/test_pipes.py. */
import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createServer as createNetServer, connect as netConnect, type Socket } from 'node:net'
import type { Protocol, ReadPipeTransport, Transport, WritePipeTransport } from '../../src/index.js'
import { assertBytes } from '../harness/client.js'
import { type Fifo, isOpen, openFifo, readUpTo, writeUntilFull } from '../harness/fifo.js'
import { KiB, MiB } from '../harness/memory.js'
import { BorrowedRecorder, BufferedRecorder, Recorder } from '../harness/recorder.js'
import { assertCode, assertRejects, assertThrows, forEachEngine, type TestContext } from '../harness/suite.js'

forEachEngine('pipes', (test) => {
  // CPython: test_events.test_read_pipe; uvloop: test_pipes.test_read_pipe
  for (const [mode, Made] of Object.entries({
    chunk: Recorder,
    borrowed: BorrowedRecorder,
    buffered: BufferedRecorder,
  })) {
    test(`${mode}: what is written into a pipe is read, then its end`, async (t) => {
      const { fifo, protocol } = await reading(t, () => new Made())
      writeSync(fifo.writer, '1')
      await protocol.receivedAtLeast(1)
      writeSync(fifo.writer, '2345')
      assert.equal(String(await protocol.receivedAtLeast(5)), '12345')
      fifo.close(fifo.writer)
      assert.equal(await protocol.lost(), null)
      assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
    })
  }

  test('a megabyte comes through a pipe in order', async (t) => {
    const { fifo, protocol } = await reading(t, () => new Recorder())
    const content = t.random.bytes(MiB)
    let written = 0
    while (written < content.length) {
      written += writeUntilFull(fifo.writer, content.subarray(written))
      await protocol.receivedAtLeast(written)
    }
    assertBytes(protocol.bytes, content)
  })

  // CPython: test_unix_events.UnixReadPipeTransportTests.test__read_ready_eof: its answer means nothing
  test('eofReceived that returns true does not keep a pipe', async (t) => {
    const { fifo, protocol } = await reading(t, () => Object.assign(new Recorder(), { keepOpen: true }))
    fifo.close(fifo.writer)
    assert.equal(await protocol.lost(), null)
  })

  // CPython: UnixReadPipeTransportTests.test_pause_reading_on_closed_pipe, test_resume_reading
  test('while reading is paused the pipe fills, and its writer has to wait', async (t) => {
    const { fifo, protocol, transport } = await reading(t, () => new Recorder())
    transport.pauseReading()
    assert.equal(transport.isReading(), false)
    writeSync(fifo.writer, 'x')
    await passes(t)
    const content = t.random.bytes(4 * MiB)
    const written = writeUntilFull(fifo.writer, content)
    assert.ok(written < content.length, 'the pipe took all')
    assert.equal(protocol.received, 0)
    transport.resumeReading()
    assertBytes((await protocol.receivedAtLeast(1 + written)).subarray(1), content.subarray(0, written))
  })

  // CPython: UnixReadPipeTransportTests.test_close, test_abort
  for (const way of ['close', 'abort'] as const) {
    test(`${way} of a pipe that is read: nothing more comes, and its writer learns of it`, async (t) => {
      const { fifo, protocol, transport } = await reading(t, () => new Recorder())
      transport[way]()
      assert.ok(transport.isClosing())
      transport[way]()
      assert.equal(await protocol.lost(), null)
      assert.throws(() => writeSync(fifo.writer, 'x'), { code: 'EPIPE' })
      assert.deepEqual(protocol.events, ['made', 'lost'])
    })
  }

  // CPython: test_events.test_write_pipe; uvloop: test_pipes.test_write_pipe
  test('what is written is there at once, and closing ends it', async (t) => {
    const { fifo, protocol, transport } = await writing(t, () => new Recorder())
    transport.write('1')
    assert.equal(String(await readUpTo(fifo.reader, 1)), '1')
    transport.writev(['23', Buffer.from('45')])
    assert.equal(String(await readUpTo(fifo.reader, 4)), '2345')
    transport.close()
    assert.equal(await protocol.lost(), null)
    assert.equal((await readUpTo(fifo.reader, 1)).length, 0)
  })

  // CPython: UnixWritePipeTransportTests.test_close, test_write_eof_pending
  for (const way of ['close', 'writeEof'] as const) {
    test(`${way} comes behind what waits, however long that is`, async (t) => {
      const { fifo, protocol, transport } = await writing(t, () => new Recorder())
      const content = t.random.bytes(3 * MiB + 17)
      transport.write(content)
      transport[way]()
      assert.ok(transport.isClosing())
      transport.write('ignored')
      assertBytes(await readUpTo(fifo.reader, content.length + 1), content)
      assert.equal(await protocol.lost(), null)
    })
  }

  // CPython: UnixWritePipeTransportTests.test_abort
  test('abort drops what waits', async (t) => {
    const { fifo, protocol, transport } = await writing(t, () => new Recorder())
    transport.write(Buffer.alloc(MiB))
    const reason = new Error('enough')
    transport.abort(reason)
    assert.equal(await protocol.lost(), reason)
    assert.ok((await readUpTo(fifo.reader, MiB)).length < MiB)
  })

  // CPython: test_events.test_write_pipe_disconnect_on_close; uvloop: the same
  test('that the reader has gone is noticed at once: no error when nothing waits', async (t) => {
    const { fifo, protocol, transport } = await writing(t, () => new Recorder())
    transport.write('1')
    await readUpTo(fifo.reader, 1)
    fifo.close(fifo.reader)
    assert.equal(await protocol.lost(), null)
    assert.ok(transport.isClosing())
    transport.write('ignored')
  })

  // CPython: UnixWritePipeTransportTests.test__read_ready (BrokenPipeError with a buffer)
  test('... and EPIPE when something does', async (t) => {
    const { fifo, protocol, transport } = await writing(t, () => new Recorder())
    const owned = transport.writeOwned(Buffer.alloc(MiB))
    transport.close()
    fifo.close(fifo.reader)
    const error = assertCode(await protocol.lost(), 'EPIPE')
    assert.equal((error as NodeJS.ErrnoException).syscall, 'write')
    await assertRejects(() => owned, 'EPIPE')
  })

  // uvloop: test_pipes.test_write_buffer_full
  test('pauseWriting above the high watermark, resumeWriting when it is read', async (t) => {
    const { fifo, protocol, transport } = await writing(t, () => new Recorder())
    transport.setWriteBufferLimits({ high: 64 * KiB, low: 16 * KiB })
    transport.write(Buffer.alloc(MiB, 'x'))
    await protocol.noted('pause')
    assert.ok(transport.getWriteBufferSize() > 64 * KiB)
    assert.equal((await readUpTo(fifo.reader, MiB)).length, MiB)
    await protocol.noted('resume')
    assert.equal(transport.getWriteBufferSize(), 0)
    assert.deepEqual(protocol.events, ['made', 'pause', 'resume'])
  })

  test('more than 64 MiB that nobody reads ends the pipe by name', async (t) => {
    const { protocol, transport } = await writing(t, () => new Recorder())
    const piece = Buffer.alloc(16 * MiB)
    for (let pieces = 0; pieces < 5; pieces++) transport.write(piece)
    assertCode(await protocol.lost(), 'ERR_SHARDLOOP_WRITE_OVERFLOW')
  })

  test('two ends of ours: 300,001 bytes go through, with the memory that was given used again', async (t) => {
    const fifo = openFifo(t)
    const [, reader] = await t.loop.connectReadPipe(() => new Recorder(), fifo.give(fifo.reader), on(t))
    const [writer, sender] = await t.loop.connectWritePipe(
      () => new Recorder(),
      fifo.give(fifo.writer),
      on(t),
    )
    const content = t.random.bytes(300_001)
    const given = Buffer.from(content)
    writer.write(given)
    given.fill(0)
    writer.close()
    assert.equal(await sender.lost(), null)
    assert.equal(await reader.lost(), null)
    assertBytes(reader.bytes, content)
  })

  test('a protocol may ask for no more than a pipe has', async (t) => {
    class Source implements Protocol {
      transport: WritePipeTransport | undefined
      connectionMade(transport: WritePipeTransport): void {
        this.transport = transport
      }
    }
    const fifo = openFifo(t)
    const [transport, source] = await t.loop.connectWritePipe(
      () => new Source(),
      fifo.give(fifo.writer),
      on(t),
    )
    assert.equal(source.transport, transport)
    await transport[Symbol.asyncDispose]()
  })

  // CPython: UnixReadPipeTransportTests, UnixWritePipeTransportTests: ValueError of what is no pipe
  test("what cannot be waited for, or is open the other way, is refused, and stays the caller's", async (t) => {
    const path = t.path('file')
    writeFileSync(path, 'content')
    const file = openSync(path, 'r+')
    const device = openSync('/dev/null', 'r+')
    const fifo = openFifo(t)
    const make = (): Recorder => new Recorder()
    for (const connect of ['connectReadPipe', 'connectWritePipe'] as const) {
      for (const pipe of [file, -1, 1.5, '1', null, {}] as number[])
        await assertRejects(() => t.loop[connect](make, pipe, on(t)), 'ERR_SHARDLOOP_ARGUMENT')
      await assertRejects(() => t.loop[connect](make, 900_000, on(t)), 'EBADF')
      await assertRejects(
        () => t.loop[connect](make, fifo.writer, { wrong: 1 } as object),
        'ERR_SHARDLOOP_OPTION',
      )
      await assertRejects(
        () => t.loop[connect]('no factory' as unknown as () => Recorder, fifo.writer),
        'ERR_SHARDLOOP_ARGUMENT',
      )
    }
    await assertRejects(() => t.loop.connectReadPipe(make, fifo.writer, on(t)), 'EBADF')
    await assertRejects(() => t.loop.connectWritePipe(make, fifo.reader, on(t)), 'EBADF')
    assert.ok(isOpen(file) && isOpen(fifo.reader) && isOpen(fifo.writer))
    closeSync(file)
    // It belongs to the transport that is being made when it is found that there is nothing to wait for.
    await assertRejects(() => t.loop.connectWritePipe(make, device, on(t)), 'ERR_SHARDLOOP_ARGUMENT')
    assert.ok(!isOpen(device))
  })

  test('a pipe has one direction: the other one is refused by name', async (t) => {
    const { transport: reader } = await reading(t, () => new Recorder())
    const { transport: writer } = await writing(t, () => new Recorder())
    const whole = reader as unknown as Transport
    for (const write of [
      () => whole.write('x'),
      () => whole.writev(['x']),
      () => whole.writeOwned(Buffer.from('x')),
      () => whole.writeEof(),
    ])
      assertThrows(write, 'ERR_SHARDLOOP_STATE')
    await assertRejects(() => t.loop.sendFile(whole, 0), 'ERR_SHARDLOOP_STATE')
    assert.equal(whole.canWriteEof(), false)
    assert.equal(writer.canWriteEof(), true)
    assertThrows(() => (writer as unknown as Transport).pauseReading(), 'ERR_SHARDLOOP_STATE')
    assertThrows(() => (writer as unknown as Transport).resumeReading(), 'ERR_SHARDLOOP_STATE')
    assert.equal((writer as unknown as Transport).isReading(), false)
  })

  // CPython: BaseTransport.get_extra_info('pipe')
  test("getExtraInfo('pipe') is the descriptor, and -1 when it is closed; a pipe has no addresses", async (t) => {
    const { fifo, protocol, transport } = await reading(t, () => new Recorder())
    assert.equal(transport.getExtraInfo('pipe'), fifo.reader)
    assert.equal(transport.getExtraInfo('peername'), undefined)
    assert.equal(transport.getExtraInfo('sockname', undefined), undefined)
    transport.close()
    await protocol.lost()
    assert.equal(transport.getExtraInfo('pipe'), -1)
    assert.ok(!isOpen(fifo.reader))
  })

  test("sockets can be read and written as pipes; that of node:net goes on as the transport's", async (t) => {
    const path = t.path()
    const server = createNetServer().listen(path)
    t.defer(() => server.close())
    await once(server, 'listening')
    const client = netConnect(path)
    const [accepted] = (await once(server, 'connection')) as [Socket]
    const [writer] = await t.loop.connectWritePipe(() => new Recorder(), accepted, on(t))
    assert.ok(accepted.destroyed)
    writer.write('over a socket')
    const [reader, protocol] = await t.loop.connectReadPipe(() => new Recorder(), client, on(t))
    assert.equal(String(await protocol.receivedAtLeast(13)), 'over a socket')
    writer.close()
    assert.equal(await protocol.lost(), null)
    assert.ok(reader.isClosing())
  })

  test('a socket that is written as a pipe ends with its peer', async (t) => {
    const path = t.path()
    const server = createNetServer().listen(path)
    t.defer(() => server.close())
    await once(server, 'listening')
    const client = netConnect(path)
    const [accepted] = (await once(server, 'connection')) as [Socket]
    const [, protocol] = await t.loop.connectWritePipe(() => new Recorder(), accepted, on(t))
    client.destroy()
    assert.equal(await protocol.lost(), null)
  })

  test('the standard streams of a process are pipes, and stay open as such', async (t) => {
    const child = t.start('piped-streams')
    child.send('through the loop')
    await child.line(/^through the loop$/)
    child.process.stdin.end()
    await child.line(/^still open$/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('a pipe that is idle ends by name', async (t) => {
    const { protocol, transport } = await reading(t, () => new Recorder())
    transport.setIdleTimeout(100)
    assertCode(await protocol.lost(), 'ERR_SHARDLOOP_IDLE_TIMEOUT')
  })

  test('a file is sent into a pipe', async (t) => {
    const { fifo, transport } = await writing(t, () => new Recorder())
    const content = t.random.bytes(100_000)
    const path = t.path('file')
    writeFileSync(path, content)
    const file = await open(path)
    const sent = t.loop.sendFile(transport as unknown as Transport, file)
    assertBytes(await readUpTo(fifo.reader, content.length), content)
    assert.equal(await sent, content.length)
    await file.close()
  })

  test('callbacks run in the async context of the call, each pipe in its own', async (t) => {
    const storage = new AsyncLocalStorage<string>()
    class Asking extends Recorder {
      readonly seen = new Set<string | undefined>()
      override dataReceived(chunk: Buffer): void {
        this.seen.add(storage.getStore())
        storage.enterWith('left behind')
        super.dataReceived(chunk)
      }
    }
    for (const context of ['first', 'second']) {
      const { fifo, protocol } = await storage.run(context, () => reading(t, () => new Asking()))
      writeSync(fifo.writer, 'x')
      await protocol.receivedAtLeast(1)
      assert.deepEqual([...protocol.seen], [context])
    }
  })

  test('what the factory throws rejects the call, and the pipe is closed', async (t) => {
    const fifo = openFifo(t)
    const broken = new Error('no protocol today')
    const connecting = t.loop.connectReadPipe(
      (): Protocol => {
        throw broken
      },
      fifo.give(fifo.reader),
      on(t),
    )
    await assert.rejects(connecting, broken)
    await t.loop.close()
    assert.throws(() => writeSync(fifo.writer, 'x'), { code: 'EPIPE' })
  })

  test('closing the loop ends its pipes by name; a closed loop takes none', async (t) => {
    const { protocol: reader } = await reading(t, () => new Recorder())
    const { protocol: writer, transport, fifo } = await writing(t, () => new Recorder())
    transport.write(Buffer.alloc(MiB))
    const { loop } = t
    await loop.close()
    for (const protocol of [reader, writer]) assertCode(protocol.lostWith, 'ERR_SHARDLOOP_CLOSED')
    await assertRejects(() => loop.connectReadPipe(() => new Recorder(), fifo.reader), 'ERR_SHARDLOOP_STATE')
  })
})

function on(t: TestContext): { engine: TestContext['engine'] } {
  return { engine: t.engine }
}

/** A pipe whose reading end is ours. */
async function reading<Made extends Recorder>(
  t: TestContext,
  make: () => Made,
): Promise<{ fifo: Fifo; protocol: Made; transport: ReadPipeTransport }> {
  const fifo = openFifo(t)
  const [transport, protocol] = await t.loop.connectReadPipe(make, fifo.give(fifo.reader), on(t))
  return { fifo, protocol, transport }
}

/** One whose writing end is. */
async function writing<Made extends Recorder>(
  t: TestContext,
  make: () => Made,
): Promise<{
  fifo: Fifo
  protocol: Made
  transport: WritePipeTransport
}> {
  const fifo = openFifo(t)
  const [transport, protocol] = await t.loop.connectWritePipe(make, fifo.give(fifo.writer), on(t))
  return { fifo, protocol, transport }
}

/** Resolves when the loop has surely seen what there was to see: bytes went through another pipe. */
async function passes(t: TestContext): Promise<void> {
  const { fifo, protocol, transport } = await reading(t, () => new Recorder())
  for (const length of [1, 2]) {
    writeSync(fifo.writer, '.')
    await protocol.receivedAtLeast(length)
  }
  transport.close()
  await protocol.lost()
}
