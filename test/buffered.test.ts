import assert from 'node:assert/strict'
import { assertBytes } from './harness/client.js'
import { KiB, MiB } from './harness/memory.js'
import { Recorder } from './harness/recorder.js'
import { assertCode, forEachTransport } from './harness/suite.js'
import { send } from './harness/traffic.js'

/** Receives into what `next` returns, and writes down what was asked and answered. */
class Filling extends Recorder {
  readonly hints: number[] = []
  readonly filled: number[] = []
  next: (sizeHint: number) => Uint8Array = (sizeHint) => new Uint8Array(sizeHint)
  current = new Uint8Array(0)

  getBuffer(sizeHint: number): Uint8Array {
    this.hints.push(sizeHint)
    this.current = this.next(sizeHint) as typeof this.current
    return this.current
  }

  bufferUpdated(bytes: number): void {
    this.filled.push(bytes)
    this.record(this.current.subarray(0, bytes))
  }
}

forEachTransport('buffered', (test) => {
  test('memory of any size is filled from its start, in order, never beyond its end', async (t) => {
    const { client, protocol } = await t.pair(() => new Filling())
    const memory = new Uint8Array(100_000)
    const lengths: number[] = []
    const untouched: string[] = []
    protocol.next = () => {
      // A view somewhere in larger memory; what is around it is not ours to fill.
      const offset = t.random.below(50_000)
      const length = t.random.size(1, 40_000)
      lengths.push(length)
      memory.fill(0)
      return memory.subarray(offset, offset + length)
    }
    const updated = protocol.bufferUpdated
    protocol.bufferUpdated = (bytes) => {
      const { byteOffset, length } = protocol.current
      if (bytes < 1 || bytes > length) untouched.push(`${bytes} of ${length} bytes`)
      const outside = [memory.subarray(0, byteOffset), memory.subarray(byteOffset + bytes)]
      if (!outside.every((part) => part.every((byte) => byte === 0)))
        untouched.push('bytes outside were touched')
      updated.call(protocol, bytes)
    }
    const data = t.random.bytes(1 * MiB).map((byte) => byte | 1)
    await send(client, Buffer.from(data), t.random, 50 * KiB)
    assertBytes(await protocol.receivedAtLeast(data.length), data)
    assert.deepEqual(untouched, [])
    assert.ok(protocol.hints.every((hint) => Number.isInteger(hint) && hint >= 1))
    assert.equal(protocol.hints.length, protocol.filled.length, 'one update for each buffer')
    assert.ok(lengths.length > 20)
  })

  test('the same memory may be given again and again', async (t) => {
    const { client, protocol } = await t.pair(() => new Filling())
    const memory = Buffer.alloc(7)
    protocol.next = () => memory
    const data = t.random.bytes(20_000)
    await send(client, data, t.random, 5000)
    assertBytes(await protocol.receivedAtLeast(data.length), data)
    assert.ok(protocol.filled.every((bytes) => bytes <= 7))
  })

  test('shared memory can be received into', async (t) => {
    const { client, protocol } = await t.pair(() => new Filling())
    const shared = new Uint8Array(new SharedArrayBuffer(5000), 100, 4000)
    protocol.next = () => shared
    const data = t.random.bytes(100_000)
    await send(client, data, t.random, 20_000)
    assertBytes(await protocol.receivedAtLeast(data.length), data)
  })

  test('the end comes after the last byte', async (t) => {
    const { client, protocol } = await t.pair(() => new Filling())
    const data = t.random.bytes(300_000)
    client.end(data)
    await protocol.lost()
    assertBytes(protocol.bytes, data)
    assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
  })

  test('closing inside getBuffer or bufferUpdated ends the delivery', async (t) => {
    for (const where of ['getBuffer', 'bufferUpdated'] as const) {
      const { client, protocol } = await t.pair(() => new Filling())
      protocol.next = () => {
        if (where === 'getBuffer') protocol.transport.abort()
        return new Uint8Array(10)
      }
      const updated = protocol.bufferUpdated
      protocol.bufferUpdated = (bytes) => {
        updated.call(protocol, bytes)
        if (where === 'bufferUpdated') protocol.transport.abort()
      }
      client.socket.write(t.random.bytes(200_000))
      assert.equal(await protocol.lost(), null)
      assert.equal(protocol.hints.length, 1)
      assert.ok(protocol.received <= 10)
      await client.untilClose()
    }
  })

  test('pauseReading inside bufferUpdated holds the rest back, without loss', async (t) => {
    const { client, protocol } = await t.pair(() => new Filling())
    protocol.next = () => new Uint8Array(1000)
    const updated = protocol.bufferUpdated
    protocol.bufferUpdated = (bytes) => {
      updated.call(protocol, bytes)
      protocol.transport.pauseReading()
      setImmediate(() => protocol.transport.resumeReading())
    }
    const data = t.random.bytes(200_000)
    client.end(data)
    await protocol.lost()
    assertBytes(protocol.bytes, data)
  })

  test('memory that was detached since the last time is refused by name', async (t) => {
    const reports: unknown[] = []
    const exceptionHandler = (context: { error: unknown }): void => void reports.push(context.error)
    const { client, protocol } = await t.pair(() => new Filling(), { exceptionHandler })
    const memory = new Uint8Array(100)
    protocol.next = () => memory
    const data = t.random.bytes(50_000)
    client.socket.write(data)
    assertBytes(await protocol.receivedAtLeast(data.length), data)
    structuredClone(memory.buffer, { transfer: [memory.buffer] })
    client.socket.write('x')
    assertCode(await protocol.lost(), 'ERR_SHARDLOOP_ARGUMENT')
    assert.equal(reports.length, 1)
    assert.equal(protocol.received, data.length)
  })
})
