import assert from 'node:assert/strict'
import { setFlagsFromString } from 'node:v8'
import { MessageChannel } from 'node:worker_threads'
import type { Protocol, Transport } from '../src/index.js'
import { assertBytes } from './harness/client.js'
import { holdDrips } from './harness/drips.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { KiB, MiB } from './harness/memory.js'
import { Recorder } from './harness/recorder.js'
import { assertCode, forEachEngine, settle, type TestContext } from './harness/suite.js'
import { echoThrough } from './harness/traffic.js'

/** Keeps every chunk as it was given, without a copy. */
class Keeper extends Recorder {
  readonly kept: Buffer[] = []

  override dataReceived(chunk: Buffer): void {
    super.dataReceived(chunk)
    this.kept.push(chunk)
  }
}

setFlagsFromString('--allow-natives-syntax')

/** Returns the memory that it took, if it has it then. */
type Thief = (chunk: Buffer) => ArrayBuffer | undefined

/** Ways to take a chunk's memory away from under the shard. They may be refused, or take a copy. */
const THIEVES: Record<string, Thief> = {
  'postMessage to a MessagePort': (chunk) => {
    const { port1, port2 } = new MessageChannel()
    try {
      port1.postMessage(chunk, [chunk.buffer as ArrayBuffer])
    } finally {
      port1.close()
      port2.close()
    }
    return undefined
  },
  structuredClone: (chunk) => {
    const buffer = chunk.buffer as ArrayBuffer
    return structuredClone(buffer, { transfer: [buffer] })
  },
  // What every way comes to, where nothing refuses it.
  "V8's own detaching": new Function('chunk', '%ArrayBufferDetach(chunk.buffer)') as Thief,
  'ArrayBuffer.prototype.transfer': (chunk) =>
    (chunk.buffer as unknown as { transfer(): ArrayBuffer }).transfer(),
  'ArrayBuffer.prototype.transferToFixedLength': (chunk) =>
    (chunk.buffer as unknown as { transferToFixedLength(): ArrayBuffer }).transferToFixedLength(),
}

forEachEngine('chunks', (test) => {
  test('a chunk is a Buffer, and stays what it was under further traffic', async (t) => {
    const accepting = await t.serveEach(() => new Keeper())
    const pairs = await Promise.all(Array.from({ length: 50 }, () => t.join(accepting)))
    for (let round = 0; round < 20; round++) {
      await Promise.all(pairs.map(({ client }) => client.write(t.random.bytes(t.random.size(1, 40 * KiB)))))
    }
    // Traffic of others, through the same slabs.
    const echo = await t.serve(() => new ChunkEcho())
    const loud = await t.connect(echo)
    await echoThrough(loud, t.random.bytes(32 * MiB), t.random, 1 * MiB)
    const flooding = await t.join(accepting)
    await flooding.client.write(t.random.bytes(16 * MiB))
    await flooding.protocol.receivedAtLeast(16 * MiB)
    let chunks = 0
    for (const { kept, chunks: copies } of accepting.protocols) {
      kept.forEach((chunk, index) => {
        assert.ok(Buffer.isBuffer(chunk))
        assertBytes(chunk, copies[index] as Buffer, `kept chunk ${index}`)
        chunks++
      })
    }
    assert.ok(chunks > 100, `${chunks} chunks were compared`)
  })

  test('what a protocol writes into its chunk reaches nobody else', async (t) => {
    class Scribbler extends Keeper {
      override dataReceived(chunk: Buffer): void {
        super.dataReceived(chunk)
        this.transport.write(chunk)
        chunk.fill(0xdd)
      }
    }
    const accepting = await t.serveEach(() => new Scribbler())
    const clients = await Promise.all(
      Array.from({ length: 10 }, async () => (await t.join(accepting)).client),
    )
    await Promise.all(
      clients.map((client) => echoThrough(client, t.random.bytes(1 * MiB), t.random, 50 * KiB)),
    )
    for (const { kept } of accepting.protocols)
      for (const chunk of kept) assert.ok(chunk.every((byte) => byte === 0xdd))
  })

  for (const [how, steal] of Object.entries(THIEVES)) {
    const method = /prototype\.(\w+)/.exec(how)?.[1]
    if (method !== undefined && !(method in ArrayBuffer.prototype)) {
      test.skip(`a chunk's memory is detached by ${how}`, `Node ${process.versions.node} does not have it`)
      continue
    }
    test(`a chunk's memory is detached by ${how}: nothing crashes, nothing is mixed up`, async (t) => {
      // Node before 21 silently copies what is marked as untransferable.
      await stealMemory(t, steal, how === 'structuredClone' || how.startsWith('postMessage'))
    })
  }

  test('chunks that are sent to another thread arrive as copies, and the traffic goes on', async (t) => {
    const { port1, port2 } = new MessageChannel()
    t.defer(() => port1.close())
    const arrived: Uint8Array[] = []
    const { client, protocol } = await t.pair(() => new Recorder())
    protocol.dataReceived = (chunk) => {
      port1.postMessage(chunk)
      Recorder.prototype.dataReceived.call(protocol, chunk)
    }
    const data = t.random.bytes(1 * MiB)
    await client.write(data)
    await protocol.receivedAtLeast(data.length)
    await new Promise<void>((resolve) => {
      let length = 0
      port2.on('message', (chunk: Uint8Array) => {
        arrived.push(chunk)
        length += chunk.length
        if (length === data.length) resolve()
      })
    })
    assertBytes(Buffer.concat(arrived), data)
  })

  test('2,000 connections that keep one byte each stay under the retention limit', async (t) => {
    await holdDrips(t, 2000)
  })
})

/** Each of some connections has the memory of its chunks stolen while it echoes; others echo beside it. */
async function stealMemory(t: TestContext, steal: Thief, mayCopy: boolean): Promise<void> {
  let detached = 0
  let refused = 0
  let stealing = true
  const loot: { taken: Buffer; copy: Buffer }[] = []
  class Robbed implements Protocol {
    #transport!: Transport
    connectionMade(transport: Transport): void {
      this.#transport = transport
    }
    dataReceived(chunk: Buffer): void {
      // Behind the write: the commands that wait may refer to the slab.
      this.#transport.write(chunk)
      if (!stealing) return
      try {
        const taken = steal(chunk)
        if (taken !== undefined)
          loot.push({ taken: Buffer.from(taken), copy: Buffer.from(Buffer.from(taken)) })
      } catch {
        refused++
      }
      if (chunk.buffer.byteLength === 0) detached++
    }
  }
  let made = 0
  const reported: unknown[] = []
  const server = await t.serve(() => (made++ % 2 === 0 ? new Robbed() : new ChunkEcho()), {
    exceptionHandler: ({ error }) => reported.push(error),
  })
  const clients = await Promise.all(Array.from({ length: 16 }, () => t.connect(server)))
  await Promise.all(
    clients.map(async (client) => {
      const data = t.random.bytes(1 * MiB)
      const echo = echoThrough(client, data, t.random, 20 * KiB)
      // A write that was lost with its memory may end its connection, by name; bytes are never others than sent.
      await echo.catch((error: Error) => assert.doesNotMatch(error.message, /they differ/))
    }),
  )
  // Neighbours whose bytes lay in the same slab lose them too, and are told so; they threw nothing.
  for (const error of reported) assertCode(error, 'ERR_SHARDLOOP_DETACHED')
  assert.ok(mayCopy || detached > 0 || refused > 0)
  stealing = false
  const accepting = await t.serveEach(() => new Recorder())
  await settle(await t.join(accepting))
  const next = await t.connect(server)
  const after = await t.connect(server)
  for (const client of [next, after]) await echoThrough(client, t.random.bytes(200 * KiB), t.random, 20 * KiB)
  for (const { taken, copy } of loot) assertBytes(taken, copy, 'memory that is no longer the shard’s')
}
