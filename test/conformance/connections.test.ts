/** asyncio's transports and protocols: the callbacks and their order, flow control, half close, what is written and what is lost. */
import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import type { Protocol, Transport, WriteData } from '../../src/index.js'
import { assertBytes } from '../harness/client.js'
import { eventually } from '../harness/deferred.js'
import { ECHOES } from '../harness/echo-protocols.js'
import { KiB, MiB } from '../harness/memory.js'
import { BorrowedRecorder, BufferedRecorder, RECORDERS, Recorder } from '../harness/recorder.js'
import {
  type Accepting,
  assertCode,
  assertReset,
  assertThrows,
  type ExceptionContext,
  forEveryTransport,
  settle,
  type TestContext,
} from '../harness/suite.js'

/** What the kernel does not take for a peer that does not read. */
const MORE_THAN_BUFFERED = 16 * MiB

forEveryTransport('receiving and sending', (test) => {
  // RLoop, TokioLoop: tests/test_sockets.py test_socket_accept_recv
  test('an accepted connection receives 1 MiB', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const data = t.random.bytes(1 * MiB)
    client.end(data)
    assert.equal(await protocol.lost(), null)
    assertBytes(protocol.bytes, data)
  })

  // RLoop, TokioLoop: tests/test_sockets.py test_socket_accept_send
  test('an accepted connection sends 1 MiB', async (t) => {
    const data = t.random.bytes(1 * MiB)
    class Sending extends Recorder {
      override connectionMade(transport: Transport): void {
        super.connectionMade(transport)
        transport.write(data)
        transport.close()
      }
    }
    const { client, protocol } = await t.pair(() => new Sending())
    assertBytes(await client.readToEnd(), data)
    client.end()
    assert.equal(await protocol.lost(), null)
  })

  for (const [mode, Echo] of Object.entries(ECHOES)) {
    // RLoop, TokioLoop: tests/tcp/test_tcp_server.py test_tcp_server_recv_send
    test(`${mode}: a raw client gets 1,024,000 bytes back`, async (t) => {
      const client = await t.connect(await t.serve(() => new Echo()))
      const data = t.random.bytes(1_024_000)
      client.socket.write(data)
      assertBytes(await client.readExactly(data.length), data)
      client.end()
      assert.equal((await client.readToEnd()).length, 0)
    })
  }

  // TokioLoop: tests/tcp/test_tcp_server.py test_raw_tcp_server
  test('a client that has shut its writing half down still reads the whole answer', async (t) => {
    const client = await t.connect(await t.serve(() => new ECHOES.chunk()))
    const data = t.random.bytes(1_024_000)
    client.end(data)
    assertBytes(await client.readToEnd(), data)
  })

  // TokioLoop: tests/tcp/test_tcp_server.py test_transport_get_extra_info; uvloop: test_tcp test_transport_get_extra_info
  test('getExtraInfo knows sockname, peername and the socket, also when the transport is closed', async (t) => {
    const { transport, protocol, accepting } = await bothEnds(t)
    const socket = transport.getExtraInfo('socket') ?? assert.fail('it has a socket')
    assert.equal(transport.getExtraInfo('socket'), socket, 'the same every time')
    const [sockname, peername] = [socket.getsockname(), socket.getpeername()]
    assert.deepEqual(transport.getExtraInfo('sockname'), sockname)
    assert.deepEqual(transport.getExtraInfo('peername'), peername)
    assert.deepEqual(peername, accepting.server.addresses[0])
    assert.ok(socket.fileno() > 2)
    transport.abort()
    await protocol.lost()
    assert.deepEqual(transport.getExtraInfo('sockname'), sockname)
    assert.deepEqual(transport.getExtraInfo('peername'), peername)
    assert.equal(socket.fileno(), -1)
    assertThrows(() => socket.getsockname(), 'EBADF')
  })

  // CPython: test_transports.TransportTests.test_get_extra_info
  test('getExtraInfo of what it does not know is undefined, or the default that is given', async (t) => {
    const { transport } = await bothEnds(t)
    const fallback = { custom: 'value' }
    const unknown = 'nonexistent' as 'socket'
    assert.equal(transport.getExtraInfo(unknown), undefined)
    assert.equal(transport.getExtraInfo(unknown, fallback), fallback)
    assert.notEqual(transport.getExtraInfo('socket', fallback), fallback)
  })
})

forEveryTransport('callbacks', (test) => {
  // asyncio: Protocols, "Connection Callbacks" and "Streaming Protocols": state machine
  test('connectionMade, dataReceived, eofReceived, connectionLost: in this order, at both ends', async (t) => {
    const { transport, protocol, other } = await bothEnds(t, () => new Ordered())
    const data = t.random.bytes(300 * KiB)
    transport.write(data)
    transport.writeEof()
    assert.equal(await other.lost(), null)
    assert.equal(await protocol.lost(), null)
    assertBytes(other.bytes, data)
    assert.match(other.order.join(' '), /^made (data )+eof lost$/)
    assert.deepEqual(protocol.order, ['made', 'eof', 'lost'])
  })

  // CPython: test_protocols.ProtocolsAbsTests.test_empty; asyncio: every callback of a protocol has an empty default
  test('every callback may be missing', async (t) => {
    const server = await t.serve(() => ({}))
    const [transport, protocol] = await t.dial(server, () => new Recorder())
    transport.write('into the void')
    transport.writeEof()
    assert.equal(await protocol.lost(), null)
  })

  // asyncio: loop.call_exception_handler for what data_received raises ("Fatal error: protocol.data_received() call failed.")
  test('what dataReceived throws ends its own connection with that error, and is reported once', async (t) => {
    const broken = new Error('cannot take that')
    const { accepting, reports } = await reporting(
      t,
      () =>
        new (class extends Recorder {
          override dataReceived(chunk: Buffer): void {
            if (chunk.includes('!')) throw broken
            super.dataReceived(chunk)
          }
        })(),
    )
    const bystander = await t.join(accepting)
    const { client, protocol } = await t.join(accepting)
    client.socket.write('!')
    assert.equal(await protocol.lost(), broken)
    assertReset(client, await client.untilClose())
    assert.deepEqual(
      reports.map(({ error }) => error),
      [broken],
    )
    await settle(bystander)
    assert.equal(protocol.count('lost'), 1)
  })

  // uvloop: test_tcp test_tcp_handle_exception_in_connection_made
  test('what connectionMade throws ends the connection with that error', async (t) => {
    const broken = new Error('no')
    const { accepting, reports } = await reporting(
      t,
      () =>
        new (class extends Recorder {
          override connectionMade(transport: Transport): void {
            super.connectionMade(transport)
            throw broken
          }
        })(),
    )
    const client = await t.connect(accepting.server, { mayBreak: true })
    const protocol = await accepting.protocol(0)
    assert.equal(await protocol.lost(), broken)
    assertReset(client, await client.untilClose())
    assert.deepEqual(
      reports.map(({ error }) => error),
      [broken],
    )
  })

  // asyncio: BaseTransport.close, which may be called in connection_made
  test('close inside connectionMade sends what was written, then ends', async (t) => {
    class Leaving extends Recorder {
      override connectionMade(transport: Transport): void {
        super.connectionMade(transport)
        transport.write('good day')
        transport.close()
      }
    }
    const { protocol, other } = await bothEnds(t, () => new Leaving())
    assert.equal(await protocol.lost(), null)
    assert.equal(protocol.bytes.toString(), 'good day')
    assert.equal(await other.lost(), null)
    assert.deepEqual(other.events, ['made', 'lost'])
  })

  // uvloop: test_tcp test_tcp_handle_abort_in_connection_made
  test('abort inside connectionMade leaves a transport that is closed, and the call resolves', async (t) => {
    class Aborting extends Recorder {
      override connectionMade(transport: Transport): void {
        super.connectionMade(transport)
        transport.abort()
      }
    }
    const server = await t.serve(() => new Recorder())
    const [transport, protocol] = await t.dial(server, () => new Aborting())
    assert.equal(transport.isClosing(), true)
    assert.equal(await protocol.lost(), null)
    assert.deepEqual(protocol.events, ['made', 'lost'])
    transport.close()
  })

  // asyncio: BaseTransport.close, "No more data will be received"
  test('close inside dataReceived: the rest of the data is not delivered', async (t) => {
    class Once extends Recorder {
      override dataReceived(chunk: Buffer): void {
        super.dataReceived(chunk)
        this.transport.close()
      }
    }
    for (const Made of [Once, bufferedOnce()]) {
      const { client, protocol } = await t.pair(() => new Made())
      client.socket.write(t.random.bytes(1 * MiB))
      client.end()
      assert.equal(await protocol.lost(), null)
      // On a Unix socket the peer may see its own writing break.
      await client.readToClose()
      assert.equal(protocol.chunks.length, 1)
      assert.deepEqual(protocol.events, ['made', 'lost'])
    }
  })
})

forEveryTransport('flow control of writing', (test) => {
  // asyncio: WriteTransport.set_write_buffer_limits; uvloop: test_tcp test_flowcontrol_mixin_set_write_limits
  test('watermarks: the defaults, high alone, low alone, both', async (t) => {
    const { transport } = await bothEnds(t)
    const limits = (given?: { high?: number; low?: number }): [high: number, low: number] => {
      if (given !== undefined) transport.setWriteBufferLimits(given)
      const { high, low } = transport.getWriteBufferLimits()
      return [high, low]
    }
    assert.deepEqual(limits(), [64 * KiB, 16 * KiB])
    assert.deepEqual(limits({ high: 1024 }), [1024, 256])
    assert.deepEqual(limits({ low: 16385 }), [65540, 16385])
    assert.deepEqual(limits({ high: 256, low: 128 }), [256, 128])
    assert.deepEqual(limits({ high: 128, low: 128 }), [128, 128])
    assert.deepEqual(limits({ high: 0 }), [0, 0])
    assert.deepEqual(limits({}), [64 * KiB, 16 * KiB])
  })

  // CPython: FlowControlMixin, "high (…) must be >= low (…) must be >= 0"; uvloop: the same test
  test('watermarks that cannot be are refused by name and change nothing', async (t) => {
    const { transport } = await bothEnds(t)
    transport.setWriteBufferLimits({ high: 2000, low: 1000 })
    for (const limits of [{ high: 0, low: 1 }, { high: 100, low: 101 }, { low: -1 }, { high: 1.5 }]) {
      assert.throws(() => transport.setWriteBufferLimits(limits), {
        code: 'ERR_SHARDLOOP_ARGUMENT',
        message: /limits.*0 <= low <= high/,
      })
    }
    assert.deepEqual(transport.getWriteBufferLimits(), { high: 2000, low: 1000 })
  })

  // asyncio: BaseProtocol.pause_writing, resume_writing: called once each, above high, and at or below low
  test('pauseWriting once above the high watermark, resumeWriting once at or below the low one', async (t) => {
    const sizes: Record<string, number> = {}
    class Measuring extends Recorder {
      protected override note(event: string): void {
        if (event === 'pause' || event === 'resume') sizes[event] = this.transport.getWriteBufferSize()
        super.note(event)
      }
    }
    const { transport, protocol, other } = await bothEnds(t, () => new Measuring())
    transport.pauseReading()
    other.transport.setWriteBufferLimits({ high: 100_000, low: 20_000 })
    const data = t.random.bytes(MORE_THAN_BUFFERED)
    other.transport.write(data)
    await other.noted('pause')
    for (let round = 0; round < 3; round++) {
      other.transport.write('more')
      await turn()
    }
    assert.deepEqual(other.events, ['made', 'pause'])
    transport.resumeReading()
    await protocol.receivedAtLeast(data.length + 12)
    await other.noted('resume')
    assert.deepEqual(other.events, ['made', 'pause', 'resume'])
    assert.ok((sizes['pause'] as number) > 100_000, `paused at ${sizes['pause']}`)
    assert.ok((sizes['resume'] as number) <= 20_000, `resumed at ${sizes['resume']}`)
  })

  // asyncio: WriteTransport.get_write_buffer_size
  test('getWriteBufferSize counts what waits, down to nothing', async (t) => {
    const { transport, other } = await bothEnds(t)
    assert.equal(transport.getWriteBufferSize(), 0)
    transport.write('12345')
    transport.writev(['67', Buffer.from('89')])
    assert.equal(transport.getWriteBufferSize(), 9)
    assert.equal((await other.receivedAtLeast(9)).toString(), '123456789')
    await eventually(() => transport.getWriteBufferSize() === 0)
  })

  // uvloop: test_tcp test_resume_writing_write_different_transport
  test('resumeWriting may write to another transport', async (t) => {
    const { transport, protocol, other } = await bothEnds(t)
    transport.pauseReading()
    other.resumeWriting = () => transport.write('hello')
    other.transport.write(t.random.bytes(MORE_THAN_BUFFERED))
    await other.noted('pause')
    transport.resumeReading()
    assert.equal((await other.receivedAtLeast(5)).toString(), 'hello')
    await protocol.receivedAtLeast(MORE_THAN_BUFFERED)
  })
})

forEveryTransport('flow control of reading', (test) => {
  // CPython: test_selector_events test_pause_resume_reading; uvloop: test_tcp test_transport_get_extra_info
  test('pauseReading and resumeReading may be called again (since Python 3.7), and isReading tells', async (t) => {
    const { transport, other } = await bothEnds(t)
    assert.equal(transport.isReading(), true)
    transport.resumeReading()
    assert.equal(transport.isReading(), true)
    transport.pauseReading()
    transport.pauseReading()
    assert.equal(transport.isReading(), false)
    transport.resumeReading()
    transport.resumeReading()
    assert.equal(transport.isReading(), true)
    other.transport.write('goes on')
    assert.equal((await (transport.protocol as Recorder).receivedAtLeast(7)).toString(), 'goes on')
  })

  for (const [mode, Made] of Object.entries(RECORDERS)) {
    // asyncio: ReadTransport.pause_reading, "No data will be passed to the protocol's data_received() until resume_reading()"
    test(`${mode}: while reading is paused nothing is delivered, not even the end; then everything is`, async (t) => {
      const accepting = await t.serveEach(() => new Made())
      const probe = await t.join(accepting)
      const { client, protocol } = await t.join(accepting)
      protocol.transport.pauseReading()
      const data = t.random.bytes(50 * KiB)
      client.end(data)
      await settle(probe)
      assert.deepEqual([protocol.received, protocol.events], [0, ['made']])
      protocol.transport.resumeReading()
      assert.equal(await protocol.lost(), null)
      assertBytes(protocol.bytes, data)
      assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
    })
  }

  // uvloop: test_tcp test_transport_get_extra_info
  test('after close isReading is false, and pauseReading and resumeReading do nothing', async (t) => {
    const { transport, protocol } = await bothEnds(t)
    transport.close()
    for (let round = 0; round < 2; round++) {
      assert.equal(transport.isReading(), false)
      transport.pauseReading()
      transport.resumeReading()
      assert.equal(transport.isReading(), false)
      await protocol.lost()
    }
  })
})

forEveryTransport('close and abort of a transport', (test) => {
  // asyncio: BaseTransport.close; CPython: test_selector_events test_close_write_buffer, test_write_ready_closing
  test('close sends what waits, and connectionLost gets null at both ends', async (t) => {
    const { transport, protocol, other } = await bothEnds(t)
    transport.pauseReading()
    const data = t.random.bytes(MORE_THAN_BUFFERED)
    other.transport.write(data)
    other.transport.close()
    await turn()
    assert.equal(other.lostWith, undefined, 'not lost while something waits')
    transport.resumeReading()
    assert.equal(await protocol.lost(), null)
    assertBytes(protocol.bytes, data)
    assert.equal(await other.lost(), null)
  })

  // asyncio: WriteTransport.abort; CPython: test_selector_events test_abort, test_force_close
  test('abort drops what waits, and connectionLost gets null', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    protocol.transport.write(t.random.bytes(MORE_THAN_BUFFERED))
    await protocol.noted('pause')
    protocol.transport.abort()
    assert.equal(protocol.lostWith, undefined, 'not within the call')
    assert.equal(await protocol.lost(), null)
    assert.equal(protocol.transport.getWriteBufferSize(), 0)
    await client.untilReset()
    assert.ok(client.received < MORE_THAN_BUFFERED)
    assert.deepEqual(protocol.events, ['made', 'pause', 'lost'])
  })

  // CPython: _SelectorTransport._force_close(exc): connection_lost gets it
  test('abort with an error hands that very error to connectionLost', async (t) => {
    const { transport, protocol } = await bothEnds(t)
    const why = new Error('had enough')
    transport.abort(why)
    assert.equal(await protocol.lost(), why)
  })

  // CPython: test_selector_events test_close, where connection_lost is called once for two calls
  test('close and abort may be called again, and connectionLost comes once', async (t) => {
    const { transport, protocol, other } = await bothEnds(t)
    transport.close()
    transport.close()
    transport.abort()
    transport.abort(new Error('too late for a reason'))
    await protocol.lost()
    transport.close()
    transport.abort()
    await other.lost()
    assert.deepEqual(protocol.events, ['made', 'lost'])
    assert.equal(other.count('lost'), 1)
  })

  // asyncio: BaseTransport.is_closing
  test('isClosing from close, abort or the loss of the connection on', async (t) => {
    for (const end of ['close', 'abort', 'peer'] as const) {
      const { transport, protocol, other } = await bothEnds(t)
      assert.equal(transport.isClosing(), false)
      if (end === 'peer') other.transport.close()
      else {
        transport[end]()
        assert.equal(transport.isClosing(), true)
      }
      await protocol.lost()
      assert.equal(transport.isClosing(), true)
    }
  })

  // CPython: test_selector_events test_write_closing
  test('writing after close, abort or the loss is ignored', async (t) => {
    for (const end of ['close', 'abort'] as const) {
      const { transport, protocol, other } = await bothEnds(t)
      transport[end]()
      transport.write('late')
      transport.writev(['late', 'late'])
      transport.writeEof()
      await protocol.lost()
      transport.write('later')
      transport.writeEof()
      assert.equal(transport.getWriteBufferSize(), 0)
      await other.lost()
      assert.equal(other.received, 0)
    }
  })

  // CPython: test_selector_events test_read_ready_conn_reset
  test.overTcp(
    'a reset by the peer: connectionLost gets ECONNRESET, and eofReceived is not called',
    async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder())
      client.reset()
      assertCode(await protocol.lost(), 'ECONNRESET')
      assert.deepEqual(protocol.events, ['made', 'lost'])
    },
  )

  for (const way of ['reset', 'destroy'] as const) {
    // CPython: test_selector_events test_write_exception; libuv's ECONNRESET and EPIPE in uvloop
    test(`writing to a peer that is gone (${way}) ends the connection with the system's error; later writes are ignored`, async (t) => {
      const { client, protocol } = await t.pair(keepingOpen)
      const { transport } = protocol
      // Nothing is known of it before it is written to.
      transport.pauseReading()
      client[way]()
      while (protocol.lostWith === undefined) {
        transport.write('anybody there?')
        await turn()
      }
      const error = protocol.lostWith as NodeJS.ErrnoException | null
      assert.ok(error?.code === 'EPIPE' || error?.code === 'ECONNRESET', String(error))
      for (let times = 0; times < 10; times++) transport.write('still?')
      assert.equal(transport.getWriteBufferSize(), 0)
      assert.equal(protocol.count('lost'), 1)
    })
  }

  // uvloop: test_unix test_epollhup: the peer writes more than is read at once, and closes
  test('what the peer sent before it closed both halves is delivered, then its end', async (t) => {
    class Small extends Recorder {
      readonly #memory = new Uint8Array(50)
      override connectionMade(transport: Transport): void {
        super.connectionMade(transport)
        transport.write('hello')
      }
      getBuffer(): Uint8Array {
        return this.#memory
      }
      bufferUpdated(bytes: number): void {
        this.record(this.#memory.subarray(0, bytes))
      }
    }
    const { client, protocol } = await t.pair(() => new Small())
    await client.readExactly(5)
    await client.write('a'.repeat(51))
    await client.destroy()
    assert.equal(await protocol.lost(), null)
    assert.equal(protocol.bytes.toString(), 'a'.repeat(51))
    assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
  })
})

forEveryTransport('writing', (test) => {
  // CPython: test_selector_events test_write, test_write_bytearray, test_write_memoryview; a string is for us UTF-8
  test('write takes a Buffer, a Uint8Array and a string', async (t) => {
    const { transport, other } = await bothEnds(t)
    const array = new Uint8Array([0, 98, 121, 116, 101, 115, 0])
    transport.write(Buffer.from('buffer '))
    transport.write(array.subarray(1, 6))
    transport.write(' grün')
    transport.close()
    await other.lost()
    assert.equal(other.bytes.toString(), 'buffer bytes grün')
    assert.deepEqual([...array], [0, 98, 121, 116, 101, 115, 0], 'it was not changed')
  })

  // CPython: test_selector_events test_write_str (TypeError); uvloop: test_tcp test_create_connection_open_con_addr
  test('write and writev refuse everything else by name, and nothing of it is sent', async (t) => {
    const { transport, other } = await bothEnds(t)
    for (const wrong of [undefined, null, 5, true, [1], {}, new ArrayBuffer(4), new Uint16Array(2)]) {
      const data = wrong as unknown as WriteData
      assert.throws(() => transport.write(data), {
        code: 'ERR_SHARDLOOP_ARGUMENT',
        message: /data.*Uint8Array/,
      })
      assert.throws(() => transport.writev(['a good one', data]), {
        code: 'ERR_SHARDLOOP_ARGUMENT',
        message: /a piece.*Uint8Array/,
      })
    }
    for (const wrong of [undefined, null, 'text', Buffer.from('bytes'), {}]) {
      assert.throws(() => transport.writev(wrong as unknown as WriteData[]), {
        code: 'ERR_SHARDLOOP_ARGUMENT',
        message: /pieces.*array/,
      })
    }
    transport.write('fine')
    transport.close()
    await other.lost()
    assert.equal(other.bytes.toString(), 'fine')
  })

  // CPython: test_selector_events test_write_no_data
  test('writing nothing is nothing', async (t) => {
    const { transport, other } = await bothEnds(t)
    transport.write('')
    transport.write(Buffer.alloc(0))
    transport.writev([])
    transport.writev(['', new Uint8Array(0)])
    assert.equal(transport.getWriteBufferSize(), 0)
    transport.write('x')
    transport.write('')
    transport.close()
    await other.lost()
    assert.equal(other.bytes.toString(), 'x')
  })

  // CPython: test_transports.TransportTests.test_writelines; uvloop: test_tcp test_create_server_1
  test('writev sends a list of pieces as one stream', async (t) => {
    const { transport, other } = await bothEnds(t)
    const large = t.random.bytes(300 * KiB)
    transport.writev(['line1', Buffer.from('line2'), new Uint8Array(large), '', 'line3'])
    transport.close()
    await other.lost()
    assertBytes(other.bytes, Buffer.concat([Buffer.from('line1line2'), large, Buffer.from('line3')]))
  })

  // CPython: test_selector_events test_write_partial_bytearray: what is given is copied
  test('memory that was given to write may be used again at once', async (t) => {
    const { transport, other } = await bothEnds(t)
    const expected: Buffer[] = []
    for (const length of [10, 5000, 300 * KiB, 1 * MiB]) {
      const memory = t.random.bytes(length)
      expected.push(Buffer.from(memory))
      transport.write(memory)
      memory.fill(0)
    }
    transport.close()
    await other.lost()
    assertBytes(other.bytes, Buffer.concat(expected))
  })

  // uvloop: test_tcp test_many_small_writes, with refused writes in between
  test('10,000 small writes arrive in order', async (t) => {
    const { transport, other } = await bothEnds(t)
    let expected = ''
    for (let number = 0; number < 10_000; number++) {
      const text = `${number};`
      expected += text
      transport.write(number % 2 === 0 ? text : Buffer.from(text))
      if (number % 1000 === 0)
        assertThrows(() => transport.write(number as unknown as string), 'ERR_SHARDLOOP_ARGUMENT')
      if (number % 3000 === 0) await turn()
    }
    transport.close()
    await other.lost()
    assertBytes(other.bytes, Buffer.from(expected))
  })
})

forEveryTransport('half close of a transport', (test) => {
  // CPython: test_selector_events test_write_eof
  test('writeEof: the peer reads the end, what it sends still arrives, and again it does nothing', async (t) => {
    const { transport, protocol, other } = await bothEnds(t, keepingOpen)
    assert.equal(transport.canWriteEof(), true)
    transport.write('question')
    transport.writeEof()
    transport.writeEof()
    await other.noted('eof')
    assert.equal(other.bytes.toString(), 'question')
    assert.equal(transport.isClosing(), false)
    other.transport.write('answer')
    assert.equal((await protocol.receivedAtLeast(6)).toString(), 'answer')
    other.transport.close()
    assert.equal(await protocol.lost(), null)
    assert.equal(other.count('eof'), 1)
  })

  // CPython: test_selector_events test_write_eof_buffer
  test('writeEof comes behind what waits', async (t) => {
    const { transport, protocol, other } = await bothEnds(t)
    transport.pauseReading()
    const data = t.random.bytes(MORE_THAN_BUFFERED)
    other.transport.write(data)
    other.transport.writeEof()
    await turn()
    transport.resumeReading()
    await protocol.noted('eof')
    assertBytes(protocol.bytes, data)
    await other.lost()
  })

  // CPython: RuntimeError('Cannot call write() after write_eof()')
  test('writing after writeEof is refused by name', async (t) => {
    const { transport, protocol, other } = await bothEnds(t)
    transport.write('the last')
    transport.writeEof()
    for (const call of [() => transport.write('x'), () => transport.writev(['x'])])
      assert.throws(call, { code: 'ERR_SHARDLOOP_STATE', message: /after writeEof/ })
    await other.lost()
    await protocol.lost()
    assert.equal(other.bytes.toString(), 'the last')
    transport.write('once it is lost, ignored as ever')
  })

  // CPython: test_selector_events test_read_ready_eof_keep_open
  test('eofReceived that returns true leaves the transport open for writing', async (t) => {
    const { transport, protocol, other } = await bothEnds(t, keepingOpen)
    transport.writeEof()
    await other.noted('eof')
    assert.equal(other.transport.isClosing(), false)
    for (const word of ['one ', 'two ', 'three']) {
      other.transport.write(word)
      await turn()
    }
    other.transport.close()
    await protocol.lost()
    assert.equal(protocol.bytes.toString(), 'one two three')
    assert.equal(await other.lost(), null)
  })

  for (const answer of [undefined, false, null] as (boolean | undefined)[]) {
    // CPython: test_selector_events test_read_ready_eof; asyncio: Protocol.eof_received, "a false value (including None)"
    test(`eofReceived that returns ${answer} closes the transport, which sends what waits`, async (t) => {
      const data = t.random.bytes(4 * MiB)
      class Answering extends Recorder {
        override eofReceived(): boolean | void {
          super.eofReceived()
          this.transport.write(data)
          return answer
        }
      }
      const { transport, protocol, other } = await bothEnds(t, () => new Answering())
      transport.writeEof()
      assert.equal(await protocol.lost(), null)
      assertBytes(protocol.bytes, data)
      assert.equal(await other.lost(), null)
      assert.deepEqual(
        other.events.filter((event) => event !== 'pause' && event !== 'resume'),
        ['made', 'eof', 'lost'],
      )
    })
  }

  // uvloop: test_tcp test_transport_shutdown
  test('100 connections at once are asked, answer, write their end twice and close', async (t) => {
    class Answering extends Recorder {
      override dataReceived(chunk: Buffer): void {
        super.dataReceived(chunk)
        if (this.received < 4) return
        assert.equal(this.bytes.toString(), 'AAAA')
        this.transport.write('OK')
        this.transport.writeEof()
        this.transport.writeEof()
        this.transport.close()
      }
    }
    const accepting = await t.serveEach(() => new Answering())
    await Promise.all(
      Array.from({ length: 100 }, async () => {
        const [transport, protocol] = await t.dial(accepting.server, () => new Recorder())
        transport.write('AAAA')
        assert.equal(await protocol.lost(), null)
        assert.equal(protocol.bytes.toString(), 'OK')
      }),
    )
    for (const protocol of accepting.protocols) assert.equal(await protocol.lost(), null)
    assert.equal(accepting.protocols.length, 100)
  })
})

forEveryTransport('buffered protocols', (test) => {
  // CPython: test_buffered_proto test_buffered_proto_create_connection
  test('a client receives into memory of its own, which is smaller than the data', async (t) => {
    const noise = Buffer.from('12345678+'.repeat(1024))
    class Receiving extends Filling {
      override bufferUpdated(bytes: number): void {
        super.bufferUpdated(bytes)
        if (this.received === noise.length) this.transport.write('1')
      }
    }
    class Sending extends Recorder {
      override connectionMade(transport: Transport): void {
        super.connectionMade(transport)
        transport.write(noise)
      }
      override dataReceived(): void {
        this.transport.close()
      }
    }
    const accepting = await t.serveEach(() => new Sending())
    const [, protocol] = await t.dial(accepting.server, () => new Receiving(100))
    assert.equal(await protocol.lost(), null)
    assertBytes(protocol.bytes, noise)
    assert.ok(protocol.filled.every((bytes) => bytes > 0 && bytes <= 100))
    assert.ok(protocol.hints.every((hint) => Number.isInteger(hint) && hint >= 1))
  })

  // uvloop: test_tcp test_create_server_buffered_1
  test('a server receives 123,123 bytes by 50, answers, and learns of the end', async (t) => {
    const { client, protocol } = await t.pair(() => new Filling(50))
    client.socket.write('a'.repeat(123_123))
    await protocol.receivedAtLeast(123_123)
    protocol.transport.write('hello')
    assert.equal((await client.readExactly(5)).toString(), 'hello')
    client.end()
    assert.equal(await protocol.lost(), null)
    assert.equal(protocol.bytes.toString(), 'a'.repeat(123_123))
    assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
  })

  const oops = new Error('oops')
  const failing: [what: string, protocol: Partial<Protocol>, expected: object][] = [
    [
      'getBuffer throws',
      {
        getBuffer: () => {
          throw oops
        },
      },
      { message: 'oops' },
    ],
    [
      'getBuffer returns nothing',
      { getBuffer: () => undefined as never },
      { code: 'ERR_SHARDLOOP_ARGUMENT' },
    ],
    ['getBuffer returns no memory', { getBuffer: () => [1, 2] as never }, { code: 'ERR_SHARDLOOP_ARGUMENT' }],
    [
      'getBuffer returns empty memory',
      { getBuffer: () => new Uint8Array(0) },
      { code: 'ERR_SHARDLOOP_ARGUMENT', message: /getBuffer/ },
    ],
    [
      'bufferUpdated throws',
      {
        bufferUpdated: () => {
          throw oops
        },
      },
      { message: 'oops' },
    ],
  ]
  for (const [what, methods, expected] of failing) {
    // uvloop: test_tcp test_create_server_buffered_2
    test(`${what}: the connection is aborted with that error, which is reported`, async (t) => {
      const { accepting, reports } = await reporting(t, () => Object.assign(new Filling(100), methods))
      const { client, protocol } = await t.join(accepting)
      client.socket.write('a')
      const error = await protocol.lost()
      assert.throws(() => {
        throw error
      }, expected)
      assert.deepEqual(
        reports.map((report) => report.error),
        [error],
      )
      assertReset(client, await client.untilClose())
    })
  }
})

forEveryTransport('another protocol', (test) => {
  // asyncio: BaseTransport.set_protocol, get_protocol; uvloop: test_tcp test_transport_get_extra_info
  test('transport.protocol is what receives, and setProtocol gives it to another without connectionMade', async (t) => {
    const { transport, protocol, other } = await bothEnds(t)
    assert.equal(transport.protocol, protocol)
    const second = new Recorder()
    transport.setProtocol(second)
    assert.equal(transport.protocol, second)
    other.transport.write('for the second')
    other.transport.close()
    assert.equal(await second.lost(), null)
    assert.equal(second.bytes.toString(), 'for the second')
    assert.deepEqual(protocol.events, ['made'])
    assert.deepEqual(second.events, ['eof', 'lost'])
  })

  // CPython: test_selector_events BufferedProtocol tests of set_protocol: the kind of the protocol is looked at again
  test('a stream goes through protocols of every kind: chunks, memory of their own, borrowed', async (t) => {
    const { transport, other } = await bothEnds(t)
    for (const Made of [BufferedRecorder, BorrowedRecorder, Recorder, BorrowedRecorder, BufferedRecorder]) {
      const next = new Made()
      other.transport.setProtocol(next)
      const data = t.random.bytes(100 * KiB)
      transport.write(data)
      assertBytes(await next.receivedAtLeast(data.length), data, Made.name)
    }
  })

  // asyncio: "Switching the protocol should only be done when both protocols are documented to support the switch"
  test('set within a callback it receives what comes next', async (t) => {
    const second = new BufferedRecorder()
    class First extends Recorder {
      override dataReceived(chunk: Buffer): void {
        super.dataReceived(chunk)
        this.transport.setProtocol(second)
      }
    }
    const { transport, other } = await bothEnds(t, () => new First())
    const data = t.random.bytes(1 * MiB)
    transport.write(data)
    transport.close()
    assert.equal(await second.lost(), null)
    assert.equal(other.chunks.length, 1)
    assertBytes(Buffer.concat([other.bytes, second.bytes]), data)
    assert.deepEqual(other.events, ['made'])
  })

  test('what is no protocol is refused by name, and changes nothing', async (t) => {
    const { transport, protocol } = await bothEnds(t)
    for (const wrong of [null, undefined, 'text', () => {}])
      assertThrows(() => transport.setProtocol(wrong as unknown as Protocol), 'ERR_SHARDLOOP_ARGUMENT')
    assert.equal(transport.protocol, protocol)
  })
})

interface BothEnds<Made extends Recorder> {
  readonly accepting: Accepting<Made>
  /** Of the end that called. */
  readonly transport: Transport
  readonly protocol: Ordered
  /** The protocol of the accepted end. */
  readonly other: Made
}

/** A connection with a protocol of ours at either end. @param make makes the one of the accepted end */
async function bothEnds<Made extends Recorder = Recorder>(
  t: TestContext,
  make: () => Made = () => new Recorder() as Made,
): Promise<BothEnds<Made>> {
  const accepting = await t.serveEach(make)
  const [transport, protocol] = await t.dial(accepting.server, () => new Ordered())
  const other = await accepting.protocol(0)
  await other.noted('made')
  return { accepting, transport, protocol, other }
}

function keepingOpen(): Recorder {
  return Object.assign(new Recorder(), { keepOpen: true })
}

/** A server whose callbacks may throw, and what its exception handler was told. */
async function reporting<Made extends Recorder>(
  t: TestContext,
  make: () => Made,
): Promise<{ accepting: Accepting<Made>; reports: ExceptionContext[] }> {
  const reports: ExceptionContext[] = []
  const accepting = await t.serveEach(make, { exceptionHandler: (context) => void reports.push(context) })
  return { accepting, reports }
}

/** Notes the receiving callbacks beside the others, and leaves those of flow control out. */
class Ordered extends Recorder {
  readonly order: string[] = []

  protected override note(event: string): void {
    if (event !== 'pause' && event !== 'resume') this.order.push(event)
    super.note(event)
  }

  protected override record(bytes: Uint8Array): void {
    this.order.push('data')
    super.record(bytes)
  }
}

/** Receives into one piece of memory, and writes down what was asked and answered. */
class Filling extends Recorder {
  readonly hints: number[] = []
  readonly filled: number[] = []
  readonly #memory: Uint8Array

  constructor(bytes: number) {
    super()
    this.#memory = new Uint8Array(bytes)
  }

  getBuffer(sizeHint: number): Uint8Array {
    this.hints.push(sizeHint)
    return this.#memory
  }

  bufferUpdated(bytes: number): void {
    this.filled.push(bytes)
    this.record(this.#memory.subarray(0, bytes))
  }
}

/** Closes when it has received anything. */
function bufferedOnce(): new () => Recorder {
  return class extends Filling {
    constructor() {
      super(1000)
    }
    override bufferUpdated(bytes: number): void {
      super.bufferUpdated(bytes)
      this.transport.close()
    }
  }
}
