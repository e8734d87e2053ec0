import assert from 'node:assert/strict'
import { assertBytes } from './harness/client.js'
import { KiB, MiB } from './harness/memory.js'
import { BorrowedRecorder, Recorder } from './harness/recorder.js'
import { assertThrows, forEachTransport, settle } from './harness/suite.js'
import { send } from './harness/traffic.js'

const BORROW = 'ERR_SHARDLOOP_BORROW'

/** Does what the test says with what it borrows. */
class Lent extends BorrowedRecorder {
  use: (slab: Buffer, start: number, end: number, protocol: Lent) => void = () => {}

  override bytesReceived(slab: Buffer, start: number, end: number): void {
    this.use(slab, start, end, this)
    super.bytesReceived(slab, start, end)
  }
}

forEachTransport('borrowed bytes', (test) => {
  test('the range holds what the peer sent, inside a slab', async (t) => {
    const { client, protocol } = await t.pair(() => new Lent())
    const problems: string[] = []
    protocol.use = (slab, start, end) => {
      if (!Buffer.isBuffer(slab) || !(start >= 0 && start < end && end <= slab.length)) {
        problems.push(`${start}..${end} of ${slab.length}`)
      }
    }
    const data = t.random.bytes(4 * MiB)
    await send(client, data, t.random, 200 * KiB)
    assertBytes(await protocol.receivedAtLeast(data.length), data)
    assert.deepEqual(problems, [])
  })

  test('any part of the range can be sent, in any order, to any connection', async (t) => {
    const accepting = await t.serveEach(() => new Lent())
    const source = await t.join(accepting)
    const target = await t.join(accepting)
    source.protocol.use = (_slab, start, end) => {
      source.protocol.transport.writeBorrowed(end - 1, end)
      source.protocol.transport.writeBorrowed(start, start)
      source.protocol.transport.writeBorrowed(start, end - 1)
      target.protocol.transport.writeBorrowed(start + 1, end)
      target.protocol.transport.writeBorrowed(start, start + 1)
      target.protocol.transport.writeBorrowed(start, end)
    }
    await source.client.write('abcdef')
    assert.equal((await source.client.readExactly(6)).toString(), 'fabcde')
    assert.equal((await target.client.readExactly(12)).toString(), 'bcdefaabcdef')
  })

  test('beyond the range it throws ERR_SHARDLOOP_BORROW, and sends nothing', async (t) => {
    const accepting = await t.serveEach(() => new Lent())
    const source = await t.join(accepting)
    const other = await t.join(accepting)
    let tried = 0
    source.protocol.use = (slab, start, end) => {
      const wrong: [number, number][] = [
        [start - 1, end],
        [start, end + 1],
        [end, start],
        [start + 2, start + 1],
        [end + 1, end + 1],
        [start - 1, start - 1],
        [0, slab.length],
        [start + 0.5, end],
        [start, end - 0.5],
        [Number.NaN, end],
        [start, Number.POSITIVE_INFINITY],
        [start - 2 ** 32, end],
        [start, end + 2 ** 32],
        [start + 2 ** 32, end + 2 ** 32],
        [undefined as unknown as number, end],
        ['0' as unknown as number, end],
      ]
      // At slab offset 0 some of these are ranges that were lent.
      for (const [from, to] of wrong) {
        if (from === start && to === end) continue
        for (const { transport } of [source.protocol, other.protocol]) {
          assertThrows(() => transport.writeBorrowed(from, to), BORROW)
          tried++
        }
      }
      source.protocol.transport.writeBorrowed(start, end)
    }
    await source.client.write('secret')
    assert.equal((await source.client.readExactly(6)).toString(), 'secret')
    await settle({ client: other.client, protocol: other.protocol })
    assert.equal(other.client.received, 0)
    assert.ok(tried >= 30)
  })

  test('outside its callback it throws: before, after, from a promise, from other callbacks', async (t) => {
    const accepting = await t.serveEach(() => new Lent())
    const { client, protocol } = await t.join(accepting)
    const { transport } = protocol
    assertThrows(() => transport.writeBorrowed(0, 0), BORROW)
    assertThrows(() => transport.writeBorrowed(0, 1), BORROW)
    let range: [number, number] = [0, 0]
    let late: unknown[] = []
    protocol.use = (_slab, start, end) => {
      range = [start, end]
      const attempt = (): void => {
        try {
          transport.writeBorrowed(start, end)
          late.push('sent')
        } catch (error) {
          late.push((error as { code?: unknown }).code)
        }
      }
      queueMicrotask(attempt)
      process.nextTick(attempt)
      Promise.resolve().then(attempt)
      setImmediate(attempt)
    }
    await client.write('borrowed')
    await protocol.receivedAtLeast(8)
    await settle(await t.join(accepting))
    await settle(await t.join(accepting))
    assert.deepEqual(late, [BORROW, BORROW, BORROW, BORROW])
    assertThrows(() => transport.writeBorrowed(...range), BORROW)
    late = []
    // Another connection's callback lends its own range only, although the slab may be the same.
    const other = await t.join(accepting)
    other.protocol.use = (_slab, start, end) => {
      if (range[0] >= start && range[1] <= end) return
      assertThrows(() => transport.writeBorrowed(...range), BORROW)
      assertThrows(() => other.protocol.transport.writeBorrowed(...range), BORROW)
      late.push('thrown')
    }
    await other.client.write('x')
    await other.protocol.receivedAtLeast(1)
    assert.equal(client.received, 0)
    assert.equal(other.client.received, 0)
  })

  test('outside bytesReceived there is nothing to borrow: chunks, connectionMade, eofReceived', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const { client, protocol } = await t.join(accepting)
    let thrown = 0
    const attempt = (): void => {
      assertThrows(() => protocol.transport.writeBorrowed(0, 1), BORROW)
      thrown++
    }
    protocol.dataReceived = attempt
    protocol.eofReceived = attempt
    protocol.connectionLost = (error) => {
      attempt()
      Recorder.prototype.connectionLost.call(protocol, error)
    }
    client.end('x')
    await protocol.lost()
    assert.equal(thrown, 3)
  })

  test('a callback that throws has given its range back', async (t) => {
    const accepting = await t.serveEach(() => new Lent(), { exceptionHandler: () => {} })
    const { client, protocol } = await t.join(accepting)
    const other = await t.join(accepting)
    let range: [number, number] = [0, 0]
    protocol.use = (_slab, start, end) => {
      range = [start, end]
      throw new Error('broken')
    }
    await client.write('borrowed')
    await protocol.lost()
    assertThrows(() => other.protocol.transport.writeBorrowed(...range), BORROW)
  })

  test('what the kernel does not take at once is kept, whatever happens to the slab', async (t) => {
    const accepting = await t.serveEach(() => new Lent(), { writeMaxBytes: 256 * MiB })
    const source = await t.join(accepting)
    const targets = await Promise.all(Array.from({ length: 3 }, () => t.join(accepting, { paused: true })))
    source.protocol.use = (slab, start, end) => {
      for (const { protocol } of targets) protocol.transport.writeBorrowed(start, end)
      // It is lent, but the protocol can write to it; what was sent before must not change by it afterwards.
      void slab
    }
    const data = t.random.bytes(24 * MiB)
    await send(source.client, data, t.random, 300 * KiB)
    await source.protocol.receivedAtLeast(data.length)
    // Later traffic of others goes through the same slabs.
    const noise = await t.join(accepting)
    await send(noise.client, t.random.bytes(8 * MiB), t.random, 300 * KiB)
    await noise.protocol.receivedAtLeast(8 * MiB)
    for (const { client } of targets) client.resume()
    for (const { client } of targets) assertBytes(await client.readExactly(data.length), data)
  })

  test('two servers of one thread do not lend to each other what is not theirs', async (t) => {
    const one = await t.serveEach(() => new Lent())
    const two = await t.serveEach(() => new Lent())
    const source = await t.join(one)
    const target = await t.join(two)
    let result = ''
    source.protocol.use = (_slab, start, end) => {
      try {
        target.protocol.transport.writeBorrowed(start, end)
        result = 'sent'
      } catch (error) {
        result = String((error as { code?: unknown }).code)
      }
    }
    await source.client.write('across')
    await source.protocol.receivedAtLeast(6)
    if (result === 'sent') assert.equal((await target.client.readExactly(6)).toString(), 'across')
    else assert.equal(result, BORROW)
  })
})
