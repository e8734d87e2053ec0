import assert from 'node:assert/strict'
import { DIRECT_WRITE_BYTES } from '../src/native/abi.js'
import { assertBytes } from './harness/client.js'
import { arrayBufferBytes, MiB } from './harness/memory.js'
import { Recorder } from './harness/recorder.js'
import { assertCode, assertRejects, forEachTransport } from './harness/suite.js'

/** Far more than loopback sockets buffer (4 MiB to send, 32 MiB to receive at most). */
const TOO_MUCH = 48 * MiB

forEachTransport('values of writes', (test, engine) => {
  const lengths = [1, 10, 1000, 16_384, DIRECT_WRITE_BYTES - 1, DIRECT_WRITE_BYTES, 65_536, 100_000, 1 * MiB]
  for (const length of lengths) {
    test(`write(${length} bytes) sends what the memory held at the call`, async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder())
      const memory = t.random.bytes(length)
      const expected: Buffer[] = []
      for (let round = 0; round < 3; round++) {
        expected.push(Buffer.from(memory))
        protocol.transport.write(memory)
        t.random.bytes(length).copy(memory)
        expected.push(Buffer.from(memory))
        protocol.transport.writev([memory, 'text'])
        expected.push(Buffer.from('text'))
        memory.fill(round)
      }
      protocol.transport.close()
      assertBytes(await client.readToEnd(), Buffer.concat(expected))
    })
  }

  test('also when the kernel took only a part of it', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const memory = t.random.bytes(TOO_MUCH)
    const expected = Buffer.from(memory)
    protocol.transport.write(memory)
    assert.ok(protocol.transport.getWriteBufferSize() > 0, 'a part waits')
    memory.fill(0)
    client.resume()
    assertBytes(await client.readExactly(TOO_MUCH), expected)
  })

  test('the memory may be transferred right after write', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const expected: Buffer[] = []
    for (const length of [5, 5000, 500_000, 30 * MiB]) {
      const memory = new Uint8Array(t.random.bytes(length))
      expected.push(Buffer.from(memory))
      protocol.transport.write(memory)
      structuredClone(memory.buffer, { transfer: [memory.buffer] })
      assert.equal(memory.length, 0)
    }
    client.resume()
    const all = Buffer.concat(expected)
    assertBytes(await client.readExactly(all.length), all)
  })

  test('writeOwned resolves when all is with the kernel, and in order', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const { transport } = protocol
    const first = t.random.bytes(100)
    const second = t.random.bytes(TOO_MUCH)
    const third = t.random.bytes(100)
    const expected = Buffer.concat([first, second, third])
    const resolved: string[] = []
    // From its resolution on, the memory is the caller's again: overwriting it must not show.
    const owned = [first, second, third].map(async (data, index) => {
      await transport.writeOwned(data)
      resolved.push(String(index))
      data.fill(0xee)
    })
    await owned[0]
    assert.deepEqual(resolved, ['0'], 'the second does not fit into the kernel')
    assert.ok(transport.getWriteBufferSize() > 0)
    client.resume()
    assertBytes(await client.readExactly(expected.length), expected)
    await Promise.all(owned)
    assert.deepEqual(resolved, ['0', '1', '2'])
    assert.equal(transport.getWriteBufferSize(), 0)
  })

  test('writeOwned resolves for what close flushes', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const data = t.random.bytes(TOO_MUCH)
    const owned = protocol.transport.writeOwned(data)
    protocol.transport.close()
    client.resume()
    assertBytes(await client.readToEnd(), data)
    await owned
  })

  test('writeOwned rejects with what ended the connection', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const reason = new Error('policy')
    const waiting = [
      protocol.transport.writeOwned(Buffer.alloc(TOO_MUCH)),
      protocol.transport.writeOwned(Buffer.alloc(1)),
    ]
    protocol.transport.abort(reason)
    for (const result of await Promise.allSettled(waiting)) {
      assert.equal(result.status, 'rejected')
      assert.equal((result as PromiseRejectedResult).reason, reason)
    }
    assert.equal(await protocol.lost(), reason)
    await client.destroy()
  })

  test('writeOwned rejects with ERR_SHARDLOOP_CLOSED after an abort without a reason', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const waiting = protocol.transport.writeOwned(Buffer.alloc(TOO_MUCH))
    protocol.transport.abort()
    await assertRejects(() => waiting, 'ERR_SHARDLOOP_CLOSED')
    await client.destroy()
  })

  test("writeOwned rejects with the system's error when the peer breaks the connection off", async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const waiting = protocol.transport.writeOwned(Buffer.alloc(TOO_MUCH))
    client.reset()
    const error = await waiting.then(
      () => assert.fail('resolved'),
      (reason) => reason,
    )
    assert.equal(error, await protocol.lost())
    // A Unix socket that is closed cannot be written to; it knows no reset.
    assertCode(error, client.isUnix ? 'EPIPE' : 'ECONNRESET')
  })

  test('memory given to writeOwned is let go when it is flushed, and when it is lost', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    await t.join(accepting)
    const before = await arrayBufferBytes()
    for (const end of ['flushed', 'aborted', 'reset', 'closed'] as const) {
      const { client, protocol } = await t.join(accepting, { paused: true })
      const owned = Array.from({ length: 8 }, () => protocol.transport.writeOwned(Buffer.alloc(4 * MiB)))
      const settled = Promise.allSettled(owned)
      if (end === 'aborted') protocol.transport.abort()
      if (end === 'closed') protocol.transport.close()
      if (end === 'reset') client.reset()
      else client.resume()
      await settled
      if (end === 'flushed' || end === 'closed') await client.readExactly(32 * MiB)
      await client.destroy()
      await protocol.lost()
      const held = (await arrayBufferBytes()) - before
      assert.ok(held < 4 * MiB, `${end}: ${held} bytes are still held`)
    }
  })

  // Memory that goes away under a pending write: refused, or the connection is aborted by name. Never a crash,
  // and never other bytes on the wire.
  const thieves: Record<string, (buffer: ArrayBuffer) => unknown> = {
    structuredClone: (buffer) => structuredClone(buffer, { transfer: [buffer] }),
    'postMessage to a MessagePort': (buffer) => {
      const { port1, port2 } = new MessageChannel()
      try {
        port1.postMessage(buffer, [buffer])
      } finally {
        port1.close()
        port2.close()
      }
    },
  }
  if ('transfer' in ArrayBuffer.prototype) {
    thieves['ArrayBuffer.prototype.transfer'] = (buffer) => (buffer as { transfer?(): unknown }).transfer?.()
  }
  for (const [how, steal] of Object.entries(thieves)) {
    for (const length of [1 * MiB, TOO_MUCH]) {
      test(`${length >> 20} MiB detached by ${how} while writeOwned waits`, async (t) => {
        const writeMaxBytes = 4 * TOO_MUCH
        const { client, protocol } = await t.pair(() => new Recorder(), {
          writeMaxBytes,
          client: { paused: true },
        })
        const { transport } = protocol
        // The kernel is full before it, so that not one byte of the owned memory has been sent.
        const filler = t.random.bytes(TOO_MUCH / 2)
        transport.write(filler)
        const memory = new Uint8Array(t.random.bytes(length))
        const expected = Buffer.concat([filler, memory])
        const owned = transport.writeOwned(memory)
        let refused = false
        try {
          steal(memory.buffer as ArrayBuffer)
        } catch {
          refused = true
        }
        client.resume()
        // What another thread sends was copied before the call returned.
        if (refused || engine === 'tokio') {
          if (refused) assert.equal(memory.length, length, 'refused means that it is all there')
          assertBytes(await client.readExactly(expected.length), expected)
          await owned
          return
        }
        await assertRejects(() => owned, 'ERR_SHARDLOOP_DETACHED')
        assertCode(await protocol.lost(), 'ERR_SHARDLOOP_DETACHED')
        const received = await client.readToClose()
        assertBytes(received, expected.subarray(0, received.length), 'only bytes that were written')
      })
    }
  }

  test('a resizable buffer that shrinks while writeOwned waits', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const { transport } = protocol
    const filler = t.random.bytes(TOO_MUCH / 2)
    const Resizable = ArrayBuffer as unknown as new (
      length: number,
      options: { maxByteLength: number },
    ) => ArrayBuffer
    const buffer = new Resizable(2 * MiB, { maxByteLength: 2 * MiB })
    const memory = new Uint8Array(buffer)
    memory.set(t.random.bytes(memory.length))
    const expected = Buffer.concat([filler, memory])
    transport.write(filler)
    const owned = transport.writeOwned(memory).then(
      () => 'resolved',
      (error: { code: string }) => error.code,
    )
    ;(buffer as unknown as { resize(length: number): void }).resize(0)
    client.resume()
    const result = await owned
    if (result === 'ERR_SHARDLOOP_ARGUMENT') {
      // Refused at the call: nothing of it is sent, and the connection lives on.
      transport.write('on')
      assertBytes(await client.readExactly(filler.length + 2), Buffer.concat([filler, Buffer.from('on')]))
      return
    }
    if (result === 'resolved') {
      assertBytes(await client.readExactly(expected.length), expected)
      return
    }
    assert.equal(result, 'ERR_SHARDLOOP_DETACHED')
    const received = await client.readToClose()
    assertBytes(received, expected.subarray(0, received.length), 'only bytes that were written')
  })
})
