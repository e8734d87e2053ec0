import assert from 'node:assert/strict'
import { DIRECT_WRITE_BYTES } from '../src/native/abi.js'
import { assertBytes } from './harness/client.js'
import { eventually } from './harness/deferred.js'
import { arrayBufferBytes, KiB, MiB } from './harness/memory.js'
import { BorrowedRecorder, Recorder } from './harness/recorder.js'
import { assertCode, assertThrows, forEachTransport, settle } from './harness/suite.js'

/** Produces `total` bytes as fast as it may, obeying pauseWriting and resumeWriting. */
class Producer extends Recorder {
  produced = 0
  sizeMax = 0
  readonly sizeAtResume: number[] = []
  readonly data: Buffer
  /** Bytes a write. */
  readonly piece: number
  #paused = false

  constructor(data: Buffer, piece: number) {
    super()
    this.data = data
    this.piece = piece
  }

  override connectionMade(transport: Parameters<Recorder['connectionMade']>[0]): void {
    super.connectionMade(transport)
    this.produce()
  }

  override pauseWriting(): void {
    super.pauseWriting()
    this.#paused = true
  }

  override resumeWriting(): void {
    super.resumeWriting()
    this.#paused = false
    this.sizeAtResume.push(this.transport.getWriteBufferSize())
    this.produce()
  }

  /** One piece a turn: pauseWriting comes with the next batch, so it must have its chance in between. */
  produce(): void {
    if (this.#paused || this.transport.isClosing()) return
    if (this.produced === this.data.length) {
      this.transport.close()
      return
    }
    const piece = this.data.subarray(this.produced, this.produced + this.piece)
    this.produced += piece.length
    this.transport.write(piece)
    this.sizeMax = Math.max(this.sizeMax, this.transport.getWriteBufferSize())
    this.changed()
    setImmediate(() => this.produce())
  }
}

forEachTransport('backpressure', (test) => {
  test('the watermarks are 64 KiB and a quarter, or what the server or the connection says', async (t) => {
    const { protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    assert.deepEqual(transport.getWriteBufferLimits(), { high: 64 * KiB, low: 16 * KiB })
    transport.setWriteBufferLimits({ high: 1000, low: 10 })
    assert.deepEqual(transport.getWriteBufferLimits(), { high: 1000, low: 10 })
    transport.setWriteBufferLimits({ high: 4000 })
    assert.deepEqual(transport.getWriteBufferLimits(), { high: 4000, low: 1000 })
    transport.setWriteBufferLimits()
    assert.deepEqual(transport.getWriteBufferLimits(), { high: 64 * KiB, low: 16 * KiB })
    const other = await t.pair(() => new Recorder(), { writeHighBytes: 8000, writeLowBytes: 500 })
    assert.deepEqual(other.protocol.transport.getWriteBufferLimits(), { high: 8000, low: 500 })
    const quarter = await t.pair(() => new Recorder(), { writeHighBytes: 8000 })
    assert.deepEqual(quarter.protocol.transport.getWriteBufferLimits(), { high: 8000, low: 2000 })
  })

  test('watermarks that make no sense are refused by name and change nothing', async (t) => {
    const { protocol } = await t.pair(() => new Recorder())
    const wrong = [
      { high: 10, low: 11 },
      { high: -1 },
      { low: -1 },
      { high: Number.NaN },
      { high: 1.5 },
      { high: '1' },
    ]
    for (const limits of wrong) {
      assertThrows(
        () => protocol.transport.setWriteBufferLimits(limits as { high: number }),
        'ERR_SHARDLOOP_ARGUMENT',
      )
    }
    assert.deepEqual(protocol.transport.getWriteBufferLimits(), { high: 64 * KiB, low: 16 * KiB })
  })

  for (const piece of [500, 40 * KiB, 300 * KiB]) {
    test(`a reader that stops and goes: pauseWriting and resumeWriting alternate (${piece} bytes a write)`, async (t) => {
      const data = t.random.bytes(40 * MiB).subarray(0, piece === 500 ? 14 * MiB : 40 * MiB)
      const { client, protocol } = await t.pair(() => new Producer(data, piece), { client: { paused: true } })
      const received: Buffer[] = []
      let length = 0
      // Reads in portions, and only when the producer stands still.
      while (length < data.length) {
        await protocol.until(() => isPaused(protocol) || protocol.produced === data.length)
        client.resume()
        const portion = await client.readExactly(Math.min(4 * MiB, data.length - length))
        client.pause()
        length += portion.length
        received.push(portion)
      }
      client.resume()
      assertBytes(Buffer.concat([...received, await client.readToEnd()]), data)
      assert.equal(await protocol.lost(), null)
      const calls = protocol.events.filter((event) => event === 'pause' || event === 'resume')
      assert.ok(calls.length >= 2, `the reader was slow enough: ${calls.length} calls`)
      calls.forEach((call, index) => {
        assert.equal(call, index % 2 === 0 ? 'pause' : 'resume', `call ${index} of ${calls.join(' ')}`)
      })
      for (const size of protocol.sizeAtResume) assert.ok(size <= 16 * KiB, `resumed at ${size}`)
      // A batch may pass between the write that went above the mark and the call: a few pieces, not megabytes.
      assert.ok(protocol.sizeMax <= 64 * KiB + 8 * piece, `at most ${protocol.sizeMax} bytes waited`)
    })
  }

  test('a producer that obeys stands still while the reader does', async (t) => {
    const data = Buffer.alloc(256 * MiB)
    const accepting = await t.serveEach(() => new Producer(data, 64 * KiB))
    const before = await arrayBufferBytes()
    const { protocol } = await t.join(accepting, { paused: true })
    await protocol.noted('pause')
    const produced = protocol.produced
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve))
    assert.equal(protocol.produced, produced)
    assert.ok(produced < 64 * MiB, 'what the kernel buffers, and little more')
    assert.ok((await arrayBufferBytes()) - before < 4 * MiB)
  })

  test('resumeWriting comes at the low watermark, not before', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const { transport } = protocol
    const low = 1 * MiB
    transport.setWriteBufferLimits({ high: 24 * MiB, low })
    let sizeAtResume = -1
    protocol.resumeWriting = () => {
      sizeAtResume = transport.getWriteBufferSize()
      Recorder.prototype.resumeWriting.call(protocol)
    }
    const data = t.random.bytes(48 * MiB)
    transport.write(data)
    await protocol.noted('pause')
    assert.ok(transport.getWriteBufferSize() > 24 * MiB)
    let sizeBefore = 0
    for (let length = 0; length < data.length && sizeAtResume === -1; ) {
      sizeBefore = transport.getWriteBufferSize()
      client.resume()
      length += (await client.readExactly(Math.min(256 * KiB, data.length - length))).length
      client.pause()
      await new Promise((resolve) => setImmediate(resolve))
    }
    await protocol.until(() => sizeAtResume >= 0)
    assert.ok(sizeAtResume <= low, `resumed at ${sizeAtResume}`)
    assert.ok(sizeBefore < 24 * MiB, 'it was below the high watermark for a while before')
    assert.deepEqual(protocol.events, ['made', 'pause', 'resume'])
  })

  for (const bytes of [5000, DIRECT_WRITE_BYTES]) {
    test(`no pauseWriting for what the kernel takes at once (${bytes} bytes)`, async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder(), { writeHighBytes: 1000 })
      for (let round = 0; round < 20; round++) {
        protocol.transport.write(Buffer.alloc(bytes))
        await client.readExactly(bytes)
      }
      assert.deepEqual(protocol.events, ['made'])
    })
  }

  test('no resumeWriting once the connection is lost', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    protocol.transport.write(Buffer.alloc(48 * MiB))
    await protocol.noted('pause')
    client.reset()
    await protocol.lost()
    assert.deepEqual(protocol.events, ['made', 'pause', 'lost'])
  })

  test('getWriteBufferSize counts from the call on, and down to nothing', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const { transport } = protocol
    transport.write('12345')
    transport.writev(['67', Buffer.from('890')])
    assert.equal(transport.getWriteBufferSize(), 10, 'still in the ring')
    const data = Buffer.alloc(48 * MiB)
    transport.write(data)
    const size = transport.getWriteBufferSize()
    assert.ok(size > 0 && size <= data.length + 10, `${size} bytes are left`)
    client.resume()
    await client.readExactly(data.length + 10)
    await eventually(() => transport.getWriteBufferSize() === 0)
  })

  for (const [kind, piece] of [
    ['small writes', 700],
    ['large writes', 200 * KiB],
  ] as const) {
    test(`${kind} past writeMaxBytes abort the connection by name, and only that one`, async (t) => {
      const writeMaxBytes = 2 * MiB
      const accepting = await t.serveEach(() => new Recorder(), { writeMaxBytes })
      const bystander = await t.join(accepting)
      const { client, protocol } = await t.join(accepting, { paused: true })
      const data = t.random.bytes(piece)
      let written = 0
      let sizeMax = 0
      while (!protocol.transport.isClosing() && written < 256 * MiB) {
        protocol.transport.write(data)
        written += piece
        sizeMax = Math.max(sizeMax, protocol.transport.getWriteBufferSize())
        if (written % (100 * piece) === 0) await new Promise((resolve) => setImmediate(resolve))
      }
      const error = assertCode(await protocol.lost(), 'ERR_SHARDLOOP_WRITE_OVERFLOW')
      assert.equal((error as { blame?: string }).blame, 'peer')
      assert.ok(sizeMax <= writeMaxBytes + 2 * MiB, `at most ${sizeMax} bytes waited`)
      assert.ok(written < 128 * MiB, `aborted after ${written} bytes`)
      client.resume()
      await client.untilReset()
      const received = await client.readToClose()
      for (let at = 0; at + piece <= received.length; at += piece)
        assertBytes(received.subarray(at, at + piece), data)
      await settle(bystander)
      assert.deepEqual(bystander.protocol.events, ['made'])
    })
  }

  test('writeOwned counts towards writeMaxBytes', async (t) => {
    const { protocol } = await t.pair(() => new Recorder(), {
      writeMaxBytes: 1 * MiB,
      client: { paused: true },
    })
    const owned = protocol.transport.writeOwned(Buffer.alloc(64 * MiB))
    const error = await owned.then(
      () => assert.fail('resolved'),
      (reason) => reason,
    )
    assertCode(error, 'ERR_SHARDLOOP_WRITE_OVERFLOW')
    assert.equal(await protocol.lost(), error)
  })

  test('a peer that floods a paused connection does not grow our memory', async (t) => {
    for (const Made of [Recorder, BorrowedRecorder]) {
      const accepting = await t.serveEach(() => new Made())
      const probe = await t.join(accepting)
      const { client, protocol } = await t.join(accepting)
      protocol.transport.pauseReading()
      await settle(probe)
      const flood = t.random.bytes(256 * KiB)
      let handed = 0
      let full = false
      // 64 MiB, or as much as fits between two kernels: then no write completes any more.
      const pour = async (): Promise<void> => {
        while (handed < 64 * MiB && !full) {
          await client.write(flood)
          handed += flood.length
        }
      }
      const before = await arrayBufferBytes()
      const readBefore = accepting.server.metrics().total.bytesRead
      const pouring = pour()
      let seen = -1
      await eventually(async () => {
        const same = handed === seen
        seen = handed
        return same
      }, 100)
      full = true
      await settle(probe)
      assert.ok(handed < 64 * MiB, 'the peer was held up')
      assert.equal(protocol.received, 0)
      const read = accepting.server.metrics().total.bytesRead - readBefore
      assert.ok(read < 1000n, `not even native read it, but ${read} bytes`)
      assert.ok((await arrayBufferBytes()) - before < 2 * MiB)
      protocol.transport.resumeReading()
      await pouring
      await protocol.receivedAtLeast(handed)
      assertBytes(protocol.bytes.subarray(0, flood.length), flood)
      assertBytes(protocol.bytes.subarray(-flood.length), flood)
    }
  })
})

function isPaused(protocol: Recorder): boolean {
  return protocol.count('pause') > protocol.count('resume')
}
