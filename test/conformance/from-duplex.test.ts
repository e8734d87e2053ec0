import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { open } from 'node:fs/promises'
import http from 'node:http'
import { connect, type Socket } from 'node:net'
import { type Duplex, PassThrough } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { type FromDuplexOptions, fromDuplex, type Protocol, type Transport } from '../../src/index.js'
import { assertBytes } from '../harness/client.js'
import { Deferred } from '../harness/deferred.js'
import { PAIRS, plainPair } from '../harness/duplex-pairs.js'
import { BorrowedRecorder, BufferedRecorder, RECORDERS, Recorder } from '../harness/recorder.js'
import {
  assertCode,
  assertRejects,
  assertThrows,
  type ExceptionContext,
  forEachEngine,
  type TestContext,
} from '../harness/suite.js'

const KiB = 1024
const MiB = 1024 * KiB

forEachEngine('streams of Node as transports', (test) => {
  for (const [kind, pair] of Object.entries(PAIRS)) {
    test(`${kind}: what is written arrives, close sends it, and both ends are lost once`, async (t) => {
      const { near, far } = await ends(await pair(t))
      assert.deepEqual(near.events, ['made'])
      const large = t.random.bytes(3 * MiB)
      const expected = Buffer.concat([Buffer.from('grün'), large, Buffer.from('abc'), large.subarray(0, 5)])
      near.transport.write('grün')
      near.transport.write(large)
      near.transport.write('')
      near.transport.writev(['a', Buffer.from('b'), '', new Uint8Array([99])])
      near.transport.write(large.subarray(0, 5))
      // Memory that was given to write may be used again at once.
      large.fill(0)
      near.transport.close()
      assert.equal(near.transport.isClosing(), true)
      near.transport.write('ignored')
      assert.equal(await far.lost(), null)
      assert.equal(await near.lost(), null)
      assert.equal(far.received, expected.length)
      assert.deepEqual(
        [far.bytes.subarray(0, 5), far.bytes.subarray(-8, -5)],
        [expected.subarray(0, 5), expected.subarray(-8, -5)],
      )
      assert.equal(far.count('eof'), 1)
      near.transport.close()
      near.transport.abort()
      assert.deepEqual([near.count('lost'), far.count('lost')], [1, 1])
      assert.equal(near.transport.getWriteBufferSize(), 0)
    })

    for (const [way, Made] of Object.entries(RECORDERS)) {
      test(`${kind}: receives as ${way}, in order, from random pieces`, async (t) => {
        const { near, far } = await ends(await pair(t), () => new Made())
        const data = t.random.bytes(2 * MiB)
        for (const piece of t.random.pieces(data, 1, 200 * KiB)) near.transport.write(piece)
        near.transport.close()
        await far.lost()
        assertBytes(far.bytes, data)
      })
    }

    test(`${kind}: half close, both ways`, async (t) => {
      const { near, far } = await ends(await pair(t), keepingOpen, keepingOpen)
      near.transport.write('question')
      assert.equal(near.transport.canWriteEof(), true)
      near.transport.writeEof()
      near.transport.writeEof()
      assertThrows(() => near.transport.write('x'), 'ERR_SHARDLOOP_STATE')
      await far.noted('eof')
      assert.equal(far.bytes.toString(), 'question')
      far.transport.write('answer')
      far.transport.close()
      assert.equal(await far.lost(), null)
      assert.equal((await near.receivedAtLeast(6)).toString(), 'answer')
      near.transport.close()
      assert.equal(await near.lost(), null)
    })

    test(`${kind}: what is paused gets nothing, not even the end, until it resumes`, async (t) => {
      const { near, far } = await ends(await pair(t))
      far.transport.pauseReading()
      far.transport.pauseReading()
      assert.equal(far.transport.isReading(), false)
      near.transport.write('held')
      near.transport.writeEof()
      // By then the other direction has carried something.
      far.transport.write('ping')
      await near.receivedAtLeast(4)
      assert.deepEqual([far.received, far.events.includes('eof')], [0, false])
      far.transport.resumeReading()
      assert.equal(far.transport.isReading(), true)
      assert.equal(await far.lost(), null)
      assert.equal(far.bytes.toString(), 'held')
      assert.equal(await near.lost(), null)
    })

    test(`${kind}: pausing within every callback loses nothing`, async (t) => {
      class Pausing extends BufferedRecorder {
        override bufferUpdated(bytes: number): void {
          super.bufferUpdated(bytes)
          this.transport.pauseReading()
          setImmediate(() => this.transport.resumeReading())
        }
      }
      const { near, far } = await ends(await pair(t), () => new Pausing())
      const data = t.random.bytes(MiB)
      near.transport.write(data)
      near.transport.close()
      await far.lost()
      assertBytes(far.bytes, data)
    })

    test(`${kind}: pauseWriting above the high watermark, resumeWriting when there is room`, async (t) => {
      const { near, far } = await ends(await pair(t))
      assert.deepEqual(near.transport.getWriteBufferLimits(), { high: 64 * KiB, low: 16 * KiB })
      near.transport.setWriteBufferLimits({ high: 128 * KiB })
      assert.deepEqual(near.transport.getWriteBufferLimits(), { high: 128 * KiB, low: 32 * KiB })
      assertThrows(() => near.transport.setWriteBufferLimits({ high: 1, low: 2 }), 'ERR_SHARDLOOP_ARGUMENT')
      far.transport.pauseReading()
      near.transport.write(Buffer.alloc(16 * MiB))
      assert.ok(near.transport.getWriteBufferSize() > 0)
      await near.noted('pause')
      assert.deepEqual(near.events, ['made', 'pause'])
      far.transport.resumeReading()
      await near.noted('resume')
      near.transport.close()
      await far.lost()
      assert.equal(far.received, 16 * MiB)
      assert.deepEqual(near.events.slice(0, 3), ['made', 'pause', 'resume'])
    })

    test(`${kind}: more than writeMaxBytes aborts by name`, async (t) => {
      const { near, far } = await ends(await pair(t), undefined, undefined, { writeMaxBytes: MiB })
      far.transport.pauseReading()
      const chunk = Buffer.alloc(300 * KiB)
      while (!near.transport.isClosing()) {
        near.transport.write(chunk)
        await new Promise((resolve) => setImmediate(resolve))
      }
      assertCode(await near.lost(), 'ERR_SHARDLOOP_WRITE_OVERFLOW')
      far.transport.resumeReading()
      await far.lost()
    })

    test(`${kind}: writeOwned resolves when it is sent, and rejects with what ended it`, async (t) => {
      const { near, far } = await ends(await pair(t))
      const data = t.random.bytes(MiB)
      await near.transport.writeOwned(data)
      assertBytes(await far.receivedAtLeast(data.length), data)
      far.transport.pauseReading()
      const reason = new Error('own')
      const waiting = [near.transport.writeOwned(Buffer.alloc(32 * MiB)), near.transport.writeOwned(data)]
      near.transport.abort(reason)
      for (const outcome of await Promise.allSettled(waiting))
        assert.deepEqual(outcome, { status: 'rejected', reason })
      assert.equal(await near.lost(), reason)
      await assert.rejects(near.transport.writeOwned(data), reason)
      far.transport.abort()
      await far.lost()
    })

    test(`${kind}: writeBorrowed echoes what is lent, and nothing else`, async (t) => {
      class Echoing extends BorrowedRecorder {
        override bytesReceived(slab: Buffer, start: number, end: number): void {
          super.bytesReceived(slab, start, end)
          assertThrows(() => this.transport.writeBorrowed(start, end + 1), 'ERR_SHARDLOOP_BORROW')
          this.transport.writeBorrowed(start, end)
        }
      }
      const { near, far } = await ends(await pair(t), () => new Echoing())
      const data = t.random.bytes(300 * KiB)
      near.transport.write(data)
      assertBytes(await near.receivedAtLeast(data.length), data)
      assertThrows(() => near.transport.writeBorrowed(0, 1), 'ERR_SHARDLOOP_BORROW')
      near.transport.abort()
      await Promise.all([near.lost(), far.lost()])
    })

    test(`${kind}: idleTimedOut comes in a silence; without it the stream is aborted by name`, async (t) => {
      const idle = new Deferred()
      const { near, far } = await ends(await pair(t), () =>
        Object.assign(new Recorder(), { idleTimedOut: idle.resolve }),
      )
      far.transport.setIdleTimeout(100)
      await idle.promise
      assert.equal(far.transport.isClosing(), false)
      near.transport.setIdleTimeout(60_000)
      near.transport.setIdleTimeout(100)
      assertCode(await near.lost(), 'ERR_SHARDLOOP_IDLE_TIMEOUT')
      await far.lost()
      assertThrows(() => near.transport.setIdleTimeout(-1), 'ERR_SHARDLOOP_ARGUMENT')
    })

    test(`${kind}: a protocol takes over from another in the middle`, async (t) => {
      const second = new BorrowedRecorder()
      class First extends BufferedRecorder {
        override bufferUpdated(bytes: number): void {
          super.bufferUpdated(bytes)
          second.transport = this.transport
          this.transport.setProtocol(second)
        }
      }
      const { near, far } = await ends(await pair(t), () => new First())
      const data = t.random.bytes(300 * KiB)
      near.transport.write(data)
      near.transport.close()
      assert.equal(await second.lost(), null)
      assertBytes(Buffer.concat([far.bytes, second.bytes]), data)
      assert.deepEqual(far.events, ['made'])
      assertThrows(() => far.transport.setProtocol(null as never), 'ERR_SHARDLOOP_ARGUMENT')
    })

    test(`${kind}: close does not let input that nobody reads destroy what is sent`, async (t) => {
      const { near, far } = await ends(await pair(t))
      near.transport.pauseReading()
      far.transport.write(Buffer.alloc(16 * MiB))
      far.transport.pauseReading()
      const data = t.random.bytes(MiB)
      near.transport.write(data)
      near.transport.close()
      await new Promise((resolve) => setImmediate(resolve))
      far.transport.resumeReading()
      assert.equal(await near.lost(), null)
      await far.lost()
      assertBytes(far.bytes, data)
    })

    test(`${kind}: duplex gives the stream back, with what was not received yet`, async (t) => {
      const [one, other] = await pair(t)
      const first = new Deferred()
      const [transport] = fromDuplex(one, () => ({
        dataReceived(chunk: Buffer) {
          assert.equal(chunk.toString(), 'first')
          transport.duplex({ allowHalfOpen: true })
          first.resolve()
        },
        connectionLost: () => assert.fail('the protocol is told nothing more'),
      }))
      other.write('first')
      await first.promise
      assert.equal(transport.duplex(), one)
      other.end('second')
      let text = ''
      for await (const chunk of one) text += chunk
      assert.equal(text, 'second')
      one.destroy()
      other.destroy()
      await transport[Symbol.asyncDispose]()
    })

    test(`${kind}: await using closes it`, async (t) => {
      const { near, far } = await ends(await pair(t))
      near.transport.write('last')
      await near.transport[Symbol.asyncDispose]()
      await near.transport[Symbol.asyncDispose]()
      assert.equal(near.lostWith, null)
      await far.lost()
      assert.equal(far.bytes.toString(), 'last')
    })

    const oops = new Error('oops')
    const failing: Record<string, Partial<Protocol>> = {
      'dataReceived throws': { dataReceived: fail },
      'bytesReceived rejects': { bytesReceived: () => Promise.reject(oops) },
      'getBuffer throws': { getBuffer: fail },
      'bufferUpdated throws': { getBuffer: () => new Uint8Array(10), bufferUpdated: fail },
      'eofReceived rejects': { eofReceived: () => Promise.reject(oops) },
    }
    for (const [what, methods] of Object.entries(failing)) {
      test(`${kind}: ${what}: it is aborted with that, and the thread's handler is told`, async (t) => {
        const reports = listening(t)
        const { near, far } = await ends(await pair(t), () => Object.assign(new Recorder(), methods))
        near.transport.write('x')
        near.transport.writeEof()
        assert.equal(await far.lost(), oops)
        assert.deepEqual(
          reports.map(({ error, transport, protocol }) => [error, transport, protocol]),
          [[oops, far.transport, far]],
        )
        near.transport.abort()
        await near.lost()
      })
    }

    function fail(): never {
      throw oops
    }
  }

  test('what cannot be a transport is refused by name, and left as it was', async (t) => {
    const never = (): Protocol => assert.fail('the factory is not called')
    const destroyed = new PassThrough()
    destroyed.destroy()
    const connecting = connect(1, '127.0.0.1').on('error', () => {})
    const wrong = [
      null,
      {},
      'x',
      destroyed,
      connecting,
      new PassThrough({ objectMode: true }),
      new PassThrough().setEncoding('utf8'),
    ]
    for (const stream of wrong)
      assertThrows(() => fromDuplex(stream as Duplex, never), 'ERR_SHARDLOOP_ARGUMENT')
    connecting.destroy()
    await once(connecting, 'close')
    const fine = new PassThrough()
    assertThrows(() => fromDuplex(fine, 'x' as never), 'ERR_SHARDLOOP_ARGUMENT')
    for (const options of [
      { head: 'x' },
      { writeMaxBytes: 0 },
      { writeHighBytes: 2, writeMaxBytes: 1 },
      { unknown: 1 },
    ])
      assertThrows(() => fromDuplex(fine, never, options as never), 'ERR_SHARDLOOP_OPTION')
    assert.throws(() => fromDuplex(fine, () => assert.fail('factory')), /factory/)
    assertThrows(() => fromDuplex(fine, (async () => ({})) as never), 'ERR_SHARDLOOP_ARGUMENT')
    assert.deepEqual(
      [fine.listenerCount('data'), fine.listenerCount('error'), fine.readableFlowing],
      [0, 0, null],
    )
    const { near, far } = await ends(plainPair())
    const file = await open(fileURLToPath(import.meta.url))
    t.defer(() => file.close())
    await assertRejects(() => t.loop.sendFile(near.transport, file), 'ERR_SHARDLOOP_ARGUMENT')
    near.transport.close()
    await far.lost()
  })

  test('addresses are those of the stream, and there is no socket', async (t) => {
    const [one, other] = (await (PAIRS['net.Socket'] as (t: TestContext) => Promise<[Socket, Socket]>)(
      t,
    )) as [Socket, Socket]
    const port = one.localPort
    const { near, far } = await ends([one, other])
    assert.deepEqual(far.transport.getExtraInfo('peername'), { address: '127.0.0.1', family: 'IPv4', port })
    assert.deepEqual(near.transport.getExtraInfo('sockname'), { address: '127.0.0.1', family: 'IPv4', port })
    assert.equal(near.transport.getExtraInfo('socket'), undefined)
    assert.equal(near.transport.getExtraInfo('socket', 'none'), 'none')
    assert.match(near.transport.id, /^\d+-stream-\d+$/)
    near.transport.abort()
    assertCode(await far.lost(), 'ECONNRESET')
    const plain = await ends(plainPair())
    assert.equal(plain.near.transport.getExtraInfo('peername'), undefined)
    plain.near.transport.abort()
    await plain.far.lost()
  })

  test('an error of the stream is what connectionLost gets', async () => {
    const [one, other] = plainPair()
    const { near, far } = await ends([one, other])
    const broken = new Error('broken')
    one.destroy(broken)
    assert.equal(await near.lost(), broken)
    assert.equal(await far.lost(), null)
  })

  test('callbacks run in one async context', async () => {
    const storage = new AsyncLocalStorage<number>()
    const seen: boolean[] = []
    const closed = new Deferred()
    const [one, other] = plainPair()
    storage.run(5, () =>
      fromDuplex(one, () => {
        const note = (): void => void seen.push(storage.getStore() === 5)
        return {
          connectionMade: note,
          dataReceived: note,
          eofReceived: note,
          connectionLost() {
            note()
            closed.resolve()
          },
        }
      }),
    )
    storage.run(6, () => other.end('x'))
    other.resume()
    await closed.promise
    assert.deepEqual(seen, [true, true, true, true])
  })

  test('bytes that a connection lends are written to a stream, and the other way round', async (t) => {
    const [one, other] = plainPair()
    const streamMade = new Deferred<Transport>()
    const connection = new Deferred<Transport>()
    const { client } = await t.pair(
      () =>
        new (class extends BorrowedRecorder {
          override connectionMade(transport: Transport): void {
            super.connectionMade(transport)
            connection.resolve(transport)
          }
          override bytesReceived(_slab: Buffer, start: number, end: number): void {
            toStream.writeBorrowed(start, end)
          }
        })(),
    )
    const toConnection = await connection.promise
    const [toStream] = fromDuplex(one, () => ({
      connectionMade: streamMade.resolve.bind(streamMade),
      bytesReceived: (_slab, start, end) => toConnection.writeBorrowed(start, end),
    }))
    other.pipe(other)
    const data = t.random.bytes(2 * MiB)
    client.socket.write(data)
    assertBytes(await client.readExactly(data.length), data)
    toStream.abort()
    toConnection.abort()
    await client.untilReset()
  })

  test('the socket of an upgrade, and what came with it', async (t) => {
    const accepted = new Deferred<Recorder>()
    const server = http.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.defer(() => void server.close())
    server.on('upgrade', (_request, socket: Duplex, head: Buffer) => {
      const [transport, protocol] = fromDuplex(socket, () => new Recorder(), { head })
      transport.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: own\r\nConnection: upgrade\r\n\r\n')
      accepted.resolve(protocol)
    })
    const client = await t.connect((server.address() as { port: number }).port)
    await client.write('GET / HTTP/1.1\r\nHost: x\r\nUpgrade: own\r\nConnection: upgrade\r\n\r\nhead')
    const protocol = await accepted.promise
    client.end(', and more')
    assert.equal(await protocol.lost(), null)
    assert.equal(protocol.bytes.toString(), 'head, and more')
    assert.match((await client.readToEnd()).toString(), /^HTTP\/1.1 101/)
  })
})

interface Ends {
  readonly near: Recorder
  readonly far: Recorder
}

/** Both ends of a pair as transports. */
async function ends(
  [one, other]: [Duplex, Duplex],
  makeFar: () => Recorder = () => new Recorder(),
  makeNear: () => Recorder = () => new Recorder(),
  options: FromDuplexOptions = {},
): Promise<Ends> {
  const [, near] = fromDuplex(one, makeNear, options)
  const [, far] = fromDuplex(other, makeFar, options)
  return { near, far }
}

function keepingOpen(): Recorder {
  return Object.assign(new Recorder(), { keepOpen: true })
}

/** What this thread's exception handler is told during the test. */
function listening(t: TestContext): ExceptionContext[] {
  const reports: ExceptionContext[] = []
  t.loop.setExceptionHandler((context) => void reports.push(context))
  t.defer(() => t.loop.setExceptionHandler(null))
  return reports
}
