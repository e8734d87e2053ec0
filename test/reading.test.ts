import assert from 'node:assert/strict'
import type { Transport } from '../src/index.js'
import { assertBytes } from './harness/client.js'
import { KiB, MiB } from './harness/memory.js'
import { BorrowedRecorder, RECORDERS, Recorder } from './harness/recorder.js'
import { forEachTransport, settle } from './harness/suite.js'
import { send } from './harness/traffic.js'

forEachTransport('pauseReading and resumeReading', (test) => {
  for (const [mode, Made] of Object.entries(RECORDERS)) {
    test(`${mode}: while paused nothing arrives, then everything does, in order`, async (t) => {
      const accepting = await t.serveEach(() => new Made())
      const probe = await t.join(accepting)
      const { client, protocol } = await t.join(accepting)
      const { transport } = protocol
      assert.equal(transport.isReading(), true)
      const data = t.random.bytes(64 * KiB)
      for (let round = 0; round < 5; round++) {
        transport.pauseReading()
        assert.equal(transport.isReading(), false)
        await settle(probe)
        await client.write(data)
        await settle(probe)
        assert.equal(protocol.received, round * data.length, 'nothing while paused')
        transport.resumeReading()
        assert.equal(transport.isReading(), true)
        await protocol.receivedAtLeast((round + 1) * data.length)
      }
      assertBytes(protocol.bytes, Buffer.concat([data, data, data, data, data]))
    })

    test(`${mode}: paused in the middle of a batch, the rest waits`, async (t) => {
      class Stopping extends Made {
        protected override record(bytes: Uint8Array): void {
          super.record(bytes)
          this.transport.pauseReading()
        }
      }
      const accepting = await t.serveEach(() => new Stopping())
      const probe = await t.serveEach(() => new Recorder())
      const probing = await t.join(probe)
      const { client, protocol } = await t.join(accepting)
      const data = t.random.bytes(2 * MiB)
      const sending = send(client, data, t.random, 100 * KiB)
      let pieces = 0
      while (protocol.received < data.length) {
        await protocol.until(() => protocol.chunks.length > pieces)
        pieces++
        await settle(probing)
        assert.equal(protocol.chunks.length, pieces, 'one delivery for each resumeReading')
        protocol.transport.resumeReading()
      }
      await sending
      assertBytes(protocol.bytes, data)
    })
  }

  for (const [mode, Made] of Object.entries(RECORDERS)) {
    test(`${mode}: what was read before the pause is not overwritten by the traffic of others`, async (t) => {
      class Stopping extends Made {
        protected override record(bytes: Uint8Array): void {
          super.record(bytes)
          this.transport.pauseReading()
        }
      }
      const accepting = await t.serveEach(() => new Stopping())
      const others = await t.serveEach(() => new Made())
      const other = await t.join(others)
      const { client, protocol } = await t.join(accepting)
      const data = t.random.bytes(1 * MiB)
      const sending = send(client, data, t.random, 300 * KiB)
      const noise = Buffer.alloc(400 * KiB, 0xee)
      let pieces = 0
      while (protocol.received < data.length) {
        await protocol.until(() => protocol.chunks.length > pieces)
        pieces++
        const target = other.protocol.received + noise.length
        await other.client.write(noise)
        await other.protocol.receivedAtLeast(target)
        protocol.transport.resumeReading()
      }
      await sending
      assertBytes(protocol.bytes, data)
    })
  }

  test("the peer's end waits behind what was not read", async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const probe = await t.join(accepting)
    const { client, protocol } = await t.join(accepting)
    protocol.transport.pauseReading()
    const data = t.random.bytes(100 * KiB)
    client.end(data)
    await settle(probe)
    assert.deepEqual(protocol.events, ['made'])
    assert.equal(protocol.received, 0)
    protocol.transport.resumeReading()
    assert.equal(await protocol.lost(), null)
    assertBytes(protocol.bytes, data)
    assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
  })

  test('pauseReading in connectionMade', async (t) => {
    for (const Base of [Recorder, BorrowedRecorder]) {
      class Later extends Base {
        override connectionMade(transport: Transport): void {
          super.connectionMade(transport)
          transport.pauseReading()
        }
      }
      const accepting = await t.serveEach(() => new Later())
      const probe = await t.serveEach(() => new Recorder())
      const client = await t.connect(accepting.server)
      // In flight before the server even accepts.
      client.end('early')
      const protocol = await accepting.protocol(0)
      await settle(await t.join(probe))
      assert.deepEqual(protocol.events, ['made'])
      assert.equal(protocol.received, 0)
      protocol.transport.resumeReading()
      assert.equal(await protocol.lost(), null)
      assert.equal(protocol.bytes.toString(), 'early')
    }
  })

  test('pause and resume in one turn change nothing', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const data = t.random.bytes(1 * MiB)
    const original = protocol.dataReceived
    protocol.dataReceived = (chunk) => {
      original.call(protocol, chunk)
      protocol.transport.pauseReading()
      protocol.transport.pauseReading()
      protocol.transport.resumeReading()
      protocol.transport.resumeReading()
      protocol.transport.pauseReading()
      protocol.transport.resumeReading()
    }
    await send(client, data, t.random, 100 * KiB)
    await protocol.receivedAtLeast(data.length)
    assertBytes(protocol.bytes, data)
  })

  test('a paused connection can write, and be closed', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    transport.pauseReading()
    await client.write('unread')
    const data = t.random.bytes(1 * MiB)
    transport.write(data)
    assertBytes(await client.readExactly(data.length), data)
    transport.close()
    assert.equal(transport.isReading(), false)
    assert.equal((await client.readToEnd()).length, 0)
    client.end()
    assert.equal(await protocol.lost(), null)
    assert.equal(protocol.received, 0)
  })

  test('a paused connection notices when its writing breaks', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    protocol.transport.pauseReading()
    protocol.transport.write(Buffer.alloc(48 * MiB))
    await protocol.noted('pause')
    client.reset()
    const error = (await protocol.lost()) as NodeJS.ErrnoException
    assert.ok(error.code === 'ECONNRESET' || error.code === 'EPIPE', String(error))
  })

  test('random pausing on many connections loses nothing', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const pairs = await Promise.all(Array.from({ length: 20 }, () => t.join(accepting)))
    const random = t.random
    for (const { protocol } of pairs) {
      const original = protocol.dataReceived
      protocol.dataReceived = (chunk) => {
        original.call(protocol, chunk)
        if (random.below(3) > 0) return
        protocol.transport.pauseReading()
        if (random.below(2) === 0) setImmediate(() => protocol.transport.resumeReading())
        else setTimeout(() => protocol.transport.resumeReading(), random.below(3))
      }
    }
    await Promise.all(
      pairs.map(async ({ client, protocol }) => {
        const data = random.bytes(500 * KiB)
        await send(client, data, random, 30 * KiB)
        client.end()
        assert.equal(await protocol.lost(), null)
        assertBytes(protocol.bytes, data)
      }),
    )
  })
})
