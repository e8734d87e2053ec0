import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Protocol, Transport } from '../src/index.js'
import { DIRECT_WRITE_BYTES } from '../src/native/abi.js'
import { native } from '../src/native/index.js'
import { socketAddress } from '../src/server/listener-socket.js'
import { ShardLoop } from '../src/workers/shard-loop.js'
import { Recorder } from './harness/recorder.js'
import { assertCode, assertThrows, forEachEngine, portOf } from './harness/suite.js'

/** Time that a callback takes for each 256 KiB that a hog sends. */
const WORK_MS = 1
const HOGS = 3
const PINGS = 20
const HOGS_TEST = { timeoutMs: 30_000 }

/** Works on what is large, answers what is small. */
class Worker extends Recorder {
  protected handle(bytes: Uint8Array): void {
    if (bytes.length === 1) {
      this.transport.write(bytes)
      return
    }
    const until = performance.now() + (WORK_MS * bytes.length) / (256 * 1024)
    while (performance.now() < until);
  }

  override dataReceived(chunk: Buffer): void {
    this.handle(chunk)
  }
}

class BorrowingWorker extends Worker {
  bytesReceived(slab: Buffer, start: number, end: number): void {
    this.handle(slab.subarray(start, end))
  }
}

forEachEngine('what broke once', (test, engine) => {
  for (const Kind of [Worker, BorrowingWorker]) {
    test(
      `${Kind.name}: connections that always have more to read starved one that was accepted after them`,
      async (t) => {
        const server = await t.serve(() => new Kind())
        const hogs = t.start('hogs', [String(portOf(server)), String(HOGS)])
        await hogs.line(/^ready$/)
        const client = await t.connect(server)
        for (let ping = 0; ping < PINGS; ping++) {
          await client.write('p')
          assert.equal((await client.readExactly(1)).toString(), 'p')
        }
      },
      HOGS_TEST,
    )
  }

  test('a large write, which is sent at once, did not count as movement: the connection was idle', async (t) => {
    const data = Buffer.alloc(DIRECT_WRITE_BYTES)
    const { protocol, client } = await t.pair(() => new Recorder(), { idleTimeoutMs: 600 })
    client.socket.resume()
    for (let time = 0; time < 8; time++) {
      protocol.transport.write(data)
      await new Promise((resolve) => setTimeout(resolve, 150))
    }
    assert.equal(protocol.lostWith, undefined, `${protocol.lostWith}`)
  })

  test('the socket of a lost connection answered for the one that had its slot next', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const first = await t.join(accepting)
    const socket = first.protocol.transport.getExtraInfo('socket')
    first.client.destroy()
    await first.protocol.noted('lost')
    await t.join(accepting)
    assert.ok(socket !== undefined)
    assert.equal(socket.fileno(), -1)
    assertThrows(() => socket.getsockname(), 'EBADF')
    assertThrows(() => socket.setOption('keepAlive', true), 'EBADF')
    assert.equal(first.protocol.transport.getExtraInfo('sockname'), undefined)
    assert.equal(first.protocol.transport.getExtraInfo('peername')?.address, '127.0.0.1')
  })

  test('writeOwned of borrowed memory sent what the next batch had put there', async (t) => {
    const thrown: unknown[] = []
    class Borrower extends Recorder {
      bytesReceived(slab: Buffer, start: number, end: number): void {
        try {
          void this.transport.writeOwned(slab.subarray(start, end))
        } catch (error) {
          thrown.push(error)
        }
        this.note('received')
      }
    }
    const { client, protocol } = await t.pair(() => new Borrower())
    await client.write('secret')
    await protocol.noted('received')
    assertCode(thrown[0], 'ERR_SHARDLOOP_BORROW')
  })

  test('a factory that returned a promise made connections that never answered', async (t) => {
    const seen: unknown[] = []
    const factory = (async () => new Recorder()) as unknown as () => Protocol
    const server = await t.serve(factory, { exceptionHandler: ({ error }) => void seen.push(error) })
    // The reset may come before the client has noticed that it is connected.
    const socket = connect(portOf(server), '127.0.0.1').on('error', () => {})
    await new Promise((resolve) => socket.on('close', resolve))
    assertCode(seen[0], 'ERR_SHARDLOOP_ARGUMENT')
  })

  test('closing the loop of a thread dropped the ends of its connections', async () => {
    const token = native.allocateMetrics()
    const listener = native.bindTcp({
      host: '127.0.0.1',
      port: 0,
      backlog: 16,
      reusePort: false,
      ipv6Only: false,
      noDelay: true,
      exclusive: false,
    })
    assert.ok('token' in listener)
    const loop = new ShardLoop({
      shardId: 0,
      engine,
      metricsToken: token,
      supervised: false,
      clientGone: () => {},
    })
    let transport: Transport | undefined
    let ends = 0
    let made: () => void = () => {}
    const whenMade = new Promise<void>((resolve) => {
      made = resolve
    })
    loop.serve({
      name: 'it',
      factory: () => ({
        connectionMade: (given) => {
          transport = given
          made()
        },
        connectionLost: () => {
          ends++
        },
      }),
      number: 0,
      listeners: [listener.token],
      writeHighBytes: 65536,
      writeLowBytes: 16384,
      writeMaxBytes: 1 << 26,
      idleTimeoutMs: 0,
      moderation: true,
      tls: 0,
      tlsUpgrade: false,
      tlsClientError: () => {},
      exceptionHandler: ({ error }) => {
        throw error
      },
    })
    const socket = connect(socketAddress(listener).port as number, '127.0.0.1')
    socket.on('error', () => {})
    await whenMade
    const owned = (transport as Transport).writeOwned(Buffer.alloc(32 << 20))
    const rejected = assert.rejects(owned, { code: 'ERR_SHARDLOOP_SERVER_ABORTED' })
    await loop.close()
    await rejected
    assert.equal(ends, 1)
    // It may have read a part before the reset came, and hears of that when it goes on.
    socket.resume()
    if (!socket.closed) await once(socket, 'close')
    listener.close()
    native.freeMetrics(token)
  })

  test('more servers, one after the other, than there are numbers for at once', async (t) => {
    const kept = await t.serve(() => new Recorder())
    for (let round = 0; round < 300; round++) await (await t.serve(() => new Recorder())).close()
    const client = await t.connect(kept)
    await client.destroy()
  })

  test('an async resource of every connection stayed alive for async_hooks', async (t) => {
    const { createHook } = await import('node:async_hooks')
    const alive = new Set<number>()
    const hook = createHook({
      init: (id, type) => {
        if (type === 'SHARDLOOP_CONNECTION') alive.add(id)
      },
      destroy: (id) => void alive.delete(id),
    }).enable()
    t.defer(() => hook.disable())
    const accepting = await t.serveEach(() => new Recorder())
    for (let round = 0; round < 5; round++) {
      const { client, protocol } = await t.join(accepting)
      client.destroy()
      await protocol.noted('lost')
    }
    while (alive.size > 0) await new Promise((resolve) => setImmediate(resolve))
  })
})
