import assert from 'node:assert/strict'
import type { Transport, WriteData } from '../src/index.js'
import { COMMAND_RING_RECORDS, WRITE_SLAB_BYTES } from '../src/native/abi.js'
import { assertBytes } from './harness/client.js'
import { KiB, MiB } from './harness/memory.js'
import type { Random } from './harness/random.js'
import { BorrowedRecorder, Recorder } from './harness/recorder.js'
import { assertThrows, forEachTransport } from './harness/suite.js'

/** Pieces of text whose UTF-8 takes 1 to 4 bytes a character. */
const WORDS = ['a', 'Zürich', '日本語', '🦀🦀', 'mixed: é漢🎉', '\0\r\n', '']
/** Large enough to be sent directly, past the ring. */
const FILLER = Buffer.alloc(40 * KiB, '>')

forEachTransport('order of writes', (test) => {
  test('small and large writes of every kind arrive in the order of the calls', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const expected = writeMixture(protocol.transport, t.random, 600)
    protocol.transport.writeEof()
    assertBytes(await client.readToEnd(), expected)
  })

  test('the same to a peer that reads nothing until all is queued', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const expected = writeMixture(protocol.transport, t.random, 600)
    protocol.transport.close()
    client.resume()
    assertBytes(await client.readToEnd(), expected)
  })

  test('the same in turns: from timers, immediates, promises and callbacks', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const expected: Buffer[] = []
    const write = (): void => {
      expected.push(writeMixture(protocol.transport, t.random, 12))
    }
    for (let round = 0; round < 30; round++) {
      write()
      await Promise.resolve()
      write()
      await new Promise<void>((resolve) => process.nextTick(resolve))
      write()
      await new Promise<void>((resolve) => setImmediate(resolve))
      write()
      await new Promise<void>((resolve) => setTimeout(resolve))
      if (round === 10) client.resume()
      if (round === 20) client.pause()
    }
    client.resume()
    protocol.transport.close()
    assertBytes(await client.readToEnd(), Buffer.concat(expected))
  })

  test('borrowed writes keep their place between others', async (t) => {
    class Framing extends BorrowedRecorder {
      override bytesReceived(slab: Buffer, start: number, end: number): void {
        super.bytesReceived(slab, start, end)
        const middle = start + ((end - start) >> 1)
        this.transport.write('<')
        this.transport.writeBorrowed(start, middle)
        this.transport.write('|')
        this.transport.writeBorrowed(middle, end)
        this.transport.write(FILLER)
      }
    }
    const { client, protocol } = await t.pair(() => new Framing(), { client: { paused: true } })
    for (const piece of t.random.pieces(t.random.bytes(1 * MiB), 1, 60_000)) await client.write(piece)
    client.resume()
    client.end()
    const received = await client.readToEnd()
    const expected = protocol.chunks.flatMap((chunk) => {
      const middle = chunk.length >> 1
      return [Buffer.from('<'), chunk.subarray(0, middle), Buffer.from('|'), chunk.subarray(middle), FILLER]
    })
    assert.equal(protocol.received, 1 * MiB)
    assertBytes(received, Buffer.concat(expected))
  })

  test('writes to many connections in turn stay apart', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const pairs = await Promise.all(Array.from({ length: 20 }, () => t.join(accepting)))
    const expected = pairs.map((): Buffer[] => [])
    for (let round = 0; round < 40; round++) {
      pairs.forEach(({ protocol }, index) => {
        expected[index]?.push(writeMixture(protocol.transport, t.random, 3, 30_000))
      })
      if (round % 10 === 0) await new Promise<void>((resolve) => setImmediate(resolve))
    }
    for (const { protocol } of pairs) protocol.transport.writeEof()
    for (const [index, { client }] of pairs.entries()) {
      assertBytes(await client.readToEnd(), Buffer.concat(expected[index] as Buffer[]), `connection ${index}`)
    }
  })

  test('100,000 one-byte writes in one turn, to two connections by turns: the ring fills and nothing is lost', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const [one, other] = [await t.join(accepting), await t.join(accepting)]
    const data = t.random.bytes(100_000)
    const before = accepting.server.metrics().total.nativeCalls
    for (let at = 0; at < data.length; at++) {
      const { protocol } = at % 2 === 0 ? one : other
      protocol.transport.write(data.subarray(at, at + 1))
    }
    const flushes = accepting.server.metrics().total.nativeCalls - before
    assert.equal(flushes, Math.ceil(data.length / COMMAND_RING_RECORDS) - 1)
    const of = (rest: number): Buffer => Buffer.from(data.filter((_, at) => at % 2 === rest))
    assertBytes(await one.client.readExactly(data.length / 2), of(0))
    assertBytes(await other.client.readExactly(data.length / 2), of(1))
  })

  for (const kind of ['bytes', 'text']) {
    test(`more ${kind} in small pieces than the write slab holds, and close right behind them`, async (t) => {
      const { accepting, client, protocol } = await t.pair(() => new Recorder())
      const data = t.random.bytes(2 * WRITE_SLAB_BYTES + 1000).map((byte) => 0x20 + (byte % 0x5f))
      const before = accepting.server.metrics().total.nativeCalls
      for (const piece of t.random.pieces(Buffer.from(data), 1, 5000)) {
        protocol.transport.write(kind === 'text' ? piece.toString('latin1') : piece)
      }
      protocol.transport.close()
      const flushes = accepting.server.metrics().total.nativeCalls - before
      assert.ok(flushes >= 2 && flushes <= 4, `the slab was full ${flushes} times`)
      assertBytes(await client.readToEnd(), Buffer.from(data))
    })
  }

  test('a string is sent as UTF-8, a lone surrogate as U+FFFD', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const texts = ['plain', 'é', '\u{1F980}', '\uD83D', 'a\uDE00b', 'ü'.repeat(70_000), '漢'.repeat(400_000)]
    for (const text of texts) protocol.transport.write(text)
    protocol.transport.writev(texts)
    const expected = Buffer.from(texts.map((text) => Buffer.from(text).toString()).join(''))
    protocol.transport.close()
    assertBytes(await client.readToEnd(), Buffer.concat([expected, expected]))
  })

  test('views of larger memory send their own range only', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const memory = t.random.bytes(1 * MiB)
    const small = new Uint8Array(memory.buffer, memory.byteOffset + 77, 100)
    const large = new Uint8Array(memory.buffer, memory.byteOffset + 1000, 500_000)
    const shared = new Uint8Array(new SharedArrayBuffer(200_000), 10, 150_000)
    shared.set(t.random.bytes(150_000))
    const pieces = [small, large, shared, shared.subarray(3, 50), new Uint8Array(0)]
    for (const piece of pieces) protocol.transport.write(piece)
    protocol.transport.writev(pieces)
    const expected = Buffer.concat([...pieces, ...pieces])
    protocol.transport.close()
    assertBytes(await client.readToEnd(), expected)
  })

  test('nothing is sent for nothing', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    transport.write('')
    transport.write(new Uint8Array(0))
    transport.writev([])
    transport.writev(['', new Uint8Array(0)])
    await transport.writeOwned(new Uint8Array(0))
    assert.equal(transport.getWriteBufferSize(), 0)
    transport.close()
    assert.equal((await client.readToEnd()).length, 0)
  })

  test('what is not bytes or text is refused by name, and sends nothing', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    for (const wrong of [
      undefined,
      null,
      7,
      {},
      [1, 2],
      new DataView(new ArrayBuffer(4)),
      new ArrayBuffer(4),
    ]) {
      assertThrows(() => transport.write(wrong as unknown as WriteData), 'ERR_SHARDLOOP_ARGUMENT')
      assertThrows(() => transport.writev(['good', wrong as unknown as WriteData]), 'ERR_SHARDLOOP_ARGUMENT')
    }
    assertThrows(() => transport.writev('text' as unknown as WriteData[]), 'ERR_SHARDLOOP_ARGUMENT')
    transport.write('end')
    transport.close()
    assert.equal((await client.readToEnd()).toString(), 'end')
  })
})

/** Makes `count` writes of random kinds and sizes, and returns the bytes that they amount to. */
function writeMixture(transport: Transport, random: Random, count: number, largest = 300_000): Buffer {
  const expected: Buffer[] = []
  const data = (): Buffer =>
    random.bytes(random.below(4) === 0 ? random.size(1, largest) : random.between(0, 300))
  const piece = (): WriteData => (random.below(3) === 0 ? random.pick(WORDS) : data())
  const expect = (written: WriteData): void => {
    expected.push(typeof written === 'string' ? Buffer.from(written) : Buffer.from(written))
  }
  for (let call = 0; call < count; call++) {
    const kind = random.below(4)
    if (kind === 0) {
      const pieces = Array.from({ length: random.below(9) }, piece)
      transport.writev(pieces)
      for (const one of pieces) expect(one)
    } else if (kind === 1) {
      const owned = data()
      transport.writeOwned(owned).catch(() => {})
      expect(owned)
    } else {
      const one = piece()
      transport.write(one)
      expect(one)
    }
  }
  return Buffer.concat(expected)
}
