import assert from 'node:assert/strict'
import { AsyncLocalStorage, executionAsyncId, executionAsyncResource } from 'node:async_hooks'
import type { Protocol } from '../src/index.js'
import { BorrowedRecorder, BufferedRecorder, Recorder } from './harness/recorder.js'
import { forEachTransport, settle } from './harness/suite.js'

const CALLBACKS = [
  'connectionMade',
  'dataReceived',
  'bytesReceived',
  'getBuffer',
  'bufferUpdated',
  'eofReceived',
  'connectionLost',
  'pauseWriting',
  'resumeWriting',
] as const

/** Calls `look` with the callback's name at the start of every callback of `protocol`. */
function watched<Made extends Recorder>(
  protocol: Made,
  look: (callback: string, protocol: Made) => void,
): Made {
  const callbacks = protocol as unknown as Record<string, ((...args: unknown[]) => unknown) | undefined>
  for (const name of CALLBACKS) {
    const original = callbacks[name]
    if (original === undefined) continue
    callbacks[name] = (...args) => {
      look(name, protocol)
      return original.apply(protocol, args)
    }
  }
  return protocol
}

forEachTransport('async context', (test) => {
  for (const Made of [Recorder, BorrowedRecorder, BufferedRecorder]) {
    test(`each connection has one context of its own for all its callbacks (${Made.name})`, async (t) => {
      const seen = new Map<Recorder, { callbacks: Set<string>; ids: Set<number>; resources: Set<object> }>()
      const accepting = await t.serveEach(() =>
        watched(new Made(), (callback, protocol) => {
          const entry = seen.get(protocol) ?? { callbacks: new Set(), ids: new Set(), resources: new Set() }
          seen.set(protocol, entry)
          entry.callbacks.add(callback)
          entry.ids.add(executionAsyncId())
          entry.resources.add(executionAsyncResource())
        }),
      )
      const pairs = await Promise.all(Array.from({ length: 10 }, () => t.join(accepting)))
      for (const { client } of pairs) client.pause()
      for (const protocol of accepting.protocols) protocol.transport.write(Buffer.alloc(10 << 20))
      await Promise.all(accepting.protocols.map((protocol) => protocol.noted('pause')))
      for (const { client } of pairs) client.resume()
      for (let round = 0; round < 3; round++) for (const { client } of pairs) await client.write('x')
      await Promise.all(accepting.protocols.map((protocol) => protocol.noted('resume')))
      for (const { client } of pairs) client.end()
      await Promise.all(accepting.protocols.map((protocol) => protocol.lost()))
      const ids = new Set<number>()
      for (const entry of seen.values()) {
        assert.ok(entry.callbacks.size >= 6, [...entry.callbacks].join(' '))
        assert.equal(entry.ids.size, 1, 'one async id in all callbacks of a connection')
        assert.equal(entry.resources.size, 1)
        for (const id of entry.ids) ids.add(id)
      }
      assert.equal(seen.size, 10)
      assert.equal(ids.size, 10, 'no two connections share a context')
      assert.ok(!ids.has(executionAsyncId()))
    })
  }

  test('what a connection enters is invisible to every other, in the same batch and later', async (t) => {
    const storage = new AsyncLocalStorage<Recorder>()
    const foreign: string[] = []
    const accepting = await t.serveEach(() =>
      watched(new Recorder(), (callback, protocol) => {
        const store = storage.getStore()
        if (store !== undefined && store !== protocol) foreign.push(callback)
        // As a login does: from here on this connection is somebody.
        storage.enterWith(protocol)
      }),
    )
    const pairs = await Promise.all(Array.from({ length: 40 }, () => t.join(accepting)))
    for (let round = 0; round < 5; round++) {
      // One turn: all of it is one batch of the server.
      for (const { client } of pairs) client.socket.write('x')
      await Promise.all(accepting.protocols.map((protocol) => protocol.receivedAtLeast(round + 1)))
    }
    const newcomers = await Promise.all(Array.from({ length: 10 }, () => t.join(accepting)))
    for (const { client } of [...pairs, ...newcomers]) client.end()
    await Promise.all(accepting.protocols.map((protocol) => protocol.lost()))
    assert.deepEqual(foreign, [])
    assert.equal(storage.getStore(), undefined, 'nor does it leak to the thread')
  })

  test('every connection starts with the same store, whoever runs when it comes in', async (t) => {
    const storage = new AsyncLocalStorage<string>()
    const seen: (string | undefined)[] = []
    const look = (): void => void seen.push(storage.getStore())
    const accepting = await storage.run('of the server', () =>
      t.serveEach(() => watched(new Recorder(), look)),
    )
    const pair = await storage.run('of the client', () => t.join(accepting))
    await settle(pair)
    pair.client.end()
    await pair.protocol.lost()
    assert.ok(seen.length >= 4)
    assert.deepEqual(new Set(seen), new Set([seen[0]]))
    assert.notEqual(seen[0], 'of the client')
  })

  test('a callback keeps its store across await, whatever runs in between', async (t) => {
    const storage = new AsyncLocalStorage<number>()
    const wrong: string[] = []
    let running = 0
    let next = 0
    const makeProtocol = (): Protocol => {
      const own = next++
      return {
        dataReceived: () =>
          storage.run(own, async () => {
            running++
            for (let step = 0; step < 20; step++) {
              if (step % 3 === 0) await new Promise((resolve) => setImmediate(resolve))
              else if (step % 3 === 1) await null
              else await new Promise<void>((resolve) => process.nextTick(resolve))
              if (storage.getStore() !== own) wrong.push(`${own} saw ${storage.getStore()}`)
            }
            running--
          }),
      }
    }
    const server = await t.serve(makeProtocol)
    const clients = await Promise.all(Array.from({ length: 30 }, () => t.connect(server)))
    for (const client of clients) client.socket.write('x')
    while (next < 30 || server.metrics().total.bytesRead < 30n || running > 0) {
      await new Promise((resolve) => setImmediate(resolve))
    }
    assert.deepEqual(wrong, [])
  })
})
