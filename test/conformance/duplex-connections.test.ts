import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { open } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { Readable, Transform, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { socketPair, type Transport, type TransportDuplex } from '../../src/index.js'
import { assertBytes } from '../harness/client.js'
import { Deferred } from '../harness/deferred.js'
import { Recorder } from '../harness/recorder.js'
import { type Sniffing, streamed } from '../harness/streamed.js'
import {
  assertCode,
  assertRejects,
  assertReset,
  assertThrows,
  forEveryTransport,
  type TestContext,
} from '../harness/suite.js'

const KiB = 1024
const MiB = 1024 * KiB

/** The type is one of net.Socket's. */
const asSocket = (duplex: TransportDuplex): Socket => duplex

forEveryTransport('streams of connections', (test) => {
  test('the same stream each time, and wrong options are refused by name', async (t) => {
    const { duplex } = await streamed(t)
    const { transport } = duplex
    assert.equal(transport.duplex(), duplex)
    assert.equal(asSocket(duplex).connecting, false)
    for (const wrong of [
      { allowHalfOpen: 1 },
      { highWaterMark: -1 },
      { highWaterMark: 1.5 },
      { highWaterMark: 2 ** 31 },
      { objectMode: true },
    ])
      assertThrows(() => transport.duplex(wrong as never), 'ERR_SHARDLOOP_ARGUMENT')
    assertThrows(() => duplex.connect(), 'ERR_SHARDLOOP_STATE')
    for (const wrong of [-1, Number.NaN, Number.POSITIVE_INFINITY, '5'])
      assertThrows(() => duplex.setTimeout(wrong as never), 'ERR_SHARDLOOP_ARGUMENT')
    assertThrows(() => duplex.setTimeout(5, 'x' as never), 'ERR_SHARDLOOP_ARGUMENT')
  })

  // The newest Node.js has setTypeOfService and getTypeOfService: IP_TOS is no option that connections have.
  test(
    'it has every public member of net.Socket but two, of the same type',
    async (t) => {
      const { duplex, client } = await streamed(t)
      duplex.resume() // as the client does
      const theirs = new Set<string>()
      for (let from: object = client.socket; from !== Object.prototype; from = Object.getPrototypeOf(from))
        for (const name of Object.getOwnPropertyNames(from)) theirs.add(name)
      const typeIn = (stream: object, name: string): string =>
        typeof (stream as Record<string, unknown>)[name]
      const isAddress = /^(local|remote)(Address|Port|Family)$/ // of a Unix socket undefined, too
      const differing = [...theirs].filter(
        (name) =>
          !name.startsWith('_') &&
          (name in duplex
            ? !isAddress.test(name) && typeIn(duplex, name) !== typeIn(client.socket, name)
            : true),
      )
      const known = ['setTypeOfService', 'getTypeOfService', 'autoSelectFamilyAttemptedAddresses']
      assert.deepEqual(
        differing.filter((name) => !known.includes(name)),
        [],
      )
    },
    { notOverTls: 'the peer it is compared with is a TLSSocket, which has more' },
  )

  test('a pipe is no Duplex, by name', async (t) => {
    const [one, other] = socketPair()
    t.defer(() => other.close())
    const [pipe] = await t.loop.connectReadPipe(() => ({}), one)
    assertThrows(() => (pipe as Transport).duplex(), 'ERR_SHARDLOOP_STATE')
    pipe.close()
  })

  test('what was received before is given back by unshift', async (t) => {
    const received = new Deferred<string>()
    const { client } = await streamed(t, {}, () => ({
      dataReceived(this: Sniffing, chunk: Buffer) {
        const duplex = this.transport.duplex()
        duplex.unshift(chunk)
        duplex.setEncoding('utf8')
        let text = ''
        duplex.on('data', (piece: string) => {
          text += piece
        })
        duplex.on('end', () => received.resolve(text))
      },
    }))
    await client.write('first ')
    client.end('and second')
    assert.equal(await received.promise, 'first and second')
  })

  // In the newest Node.js `read()` gives one chunk of several.
  test("'readable' comes for each chunk", async (t) => {
    const { duplex, client } = await streamed(t)
    const data = t.random.bytes(4 * MiB)
    const chunks: Buffer[] = []
    duplex.on('readable', () => {
      const chunk = duplex.read()
      if (chunk !== null) chunks.push(chunk)
    })
    client.end(data)
    await once(duplex, 'end')
    assertBytes(Buffer.concat(chunks), data)
  })

  test('a stream of a connection that is gone closes', async (t) => {
    const { protocol, client } = await t.pair(() => new Recorder())
    await client.destroy()
    await protocol.lost()
    const duplex = protocol.transport.duplex()
    assert.equal(duplex.destroyed, true)
    await once(duplex, 'close')
  })

  test('both ends are streams: random pieces through transforms that take their time, with any high watermark', async (t) => {
    const { random } = t
    const server = await t.serve(() => ({
      connectionMade(transport) {
        const duplex = transport.duplex({ allowHalfOpen: true, highWaterMark: random.size(1, 256 * KiB) })
        pipeline(duplex, dawdling(random), duplex).catch(() => {})
      },
    }))
    await Promise.all(
      Array.from({ length: 4 }, async () => {
        const duplex = (await t.dial(server, () => ({})))[0].duplex({
          allowHalfOpen: true,
          highWaterMark: random.size(1, 256 * KiB),
        })
        const data = random.bytes(random.size(1, 2 * MiB))
        const arrived: Buffer[] = []
        await Promise.all([
          pipeline(Readable.from(random.pieces(data, 1, 300 * KiB), { objectMode: true }), duplex),
          pipeline(
            duplex,
            dawdling(random),
            new Writable({
              write(chunk, _encoding, callback) {
                arrived.push(chunk)
                callback()
              },
            }),
          ),
        ])
        assertBytes(Buffer.concat(arrived), data)
      }),
    )
  })

  test('one write of 64 MiB stays below writeMaxBytes of 1 MiB, and its text, too', async (t) => {
    const { duplex, client } = await streamed(t, { writeMaxBytes: MiB, writeHighBytes: 64 * KiB })
    const data = t.random.bytes(64 * MiB)
    const text = '€'.repeat(2 * MiB)
    let most = 0
    const watch = setInterval(() => {
      most = Math.max(most, duplex.transport.getWriteBufferSize())
    }, 1)
    duplex.write('first')
    duplex.write(data)
    duplex.cork()
    duplex.write(text)
    duplex.write(data.subarray(0, 3 * MiB))
    duplex.end('last')
    const [arrived] = await Promise.all([client.readToEnd(), once(duplex, 'finish')])
    clearInterval(watch)
    assertBytes(
      arrived,
      Buffer.concat([
        Buffer.from('first'),
        data,
        Buffer.from(text),
        data.subarray(0, 3 * MiB),
        Buffer.from('last'),
      ]),
    )
    assert.ok(most <= MiB, `${most} bytes waited`)
    client.end()
    duplex.resume()
    await once(duplex, 'close')
  })

  test('writing until write returns false ends while the peer does not read, and drain comes when it does', async (t) => {
    const { duplex, client } = await streamed(t, { writeMaxBytes: MiB, client: { paused: true } })
    const chunk = Buffer.alloc(16 * KiB)
    let sent = 0
    do sent += chunk.length
    while (duplex.write(chunk))
    assert.ok(duplex.transport.getWriteBufferSize() <= MiB)
    assert.equal(duplex.bytesWritten, sent)
    client.resume()
    await once(duplex, 'drain')
    assert.equal(duplex.writableLength, 0)
    duplex.end()
    assert.equal((await client.readToEnd()).length, sent)
  })

  // A batch's writes were counted by themselves, and never asked after: the connection was aborted.
  test('a little in each batch to a peer that does not read: write returns false all the same', async (t) => {
    const { duplex, client, server } = await streamed(t, { writeMaxBytes: 2 * MiB, client: { paused: true } })
    const probe = await t.connect(server)
    const chunk = Buffer.alloc(32 * KiB)
    let sent = 0
    for (let hasRoom = true; hasRoom; ) {
      await probe.write('.')
      await probe.readExactly(1)
      hasRoom = duplex.write(chunk)
      sent += chunk.length
      assert.equal(duplex.destroyed, false)
    }
    assert.ok(duplex.transport.getWriteBufferSize() <= 2 * MiB)
    duplex.end()
    client.resume()
    assert.equal((await client.readToEnd()).length, sent)
  })

  test(
    '256 MiB to a slow reader: what waits stays small',
    async (t) => {
      const { duplex, client } = await streamed(t)
      client.socket.removeAllListeners('data')
      let read = 0
      client.socket.on('data', (chunk) => {
        read += chunk.length
        client.pause()
        setImmediate(() => client.resume())
      })
      const chunk = Buffer.alloc(64 * KiB)
      let left = 4096
      let [inStream, inNative] = [0, 0]
      const source = new Readable({
        read() {
          inStream = Math.max(inStream, duplex.writableLength)
          if (left % 64 === 0) inNative = Math.max(inNative, duplex.transport.getWriteBufferSize())
          this.push(left-- > 0 ? chunk : null)
        },
      })
      await pipeline(source, duplex)
      await client.readToEnd()
      assert.equal(read, 256 * MiB)
      assert.ok(inStream <= 256 * KiB && inNative <= 512 * KiB, `${inStream} and ${inNative} bytes waited`)
    },
    { timeoutMs: 60_000 },
  )

  test('what is read by nobody stops the peer, and comes when somebody reads', async (t) => {
    const { duplex, client } = await streamed(t)
    const data = t.random.bytes(16 * MiB)
    const written = client.write(data)
    await once(duplex, 'readable')
    assert.ok(duplex.readableLength <= MiB)
    client.end()
    const chunks: Buffer[] = []
    for await (const chunk of duplex) chunks.push(chunk as Buffer)
    await written
    assertBytes(Buffer.concat(chunks), data)
  })

  test('listeners run in the context of their connection', async (t) => {
    const storage = new AsyncLocalStorage<number>()
    const seen: string[] = []
    let number = 0
    const [written, closed] = [new Deferred(), new Deferred()]
    const server = await t.serve(() => {
      storage.enterWith(++number)
      return {
        connectionMade(transport) {
          const own = storage.getStore()
          const duplex = transport.duplex()
          for (const event of ['data', 'end', 'finish', 'close'])
            duplex.on(event, () => seen.push(`${event} ${storage.getStore() === own}`))
          duplex.once('data', () =>
            duplex.write(Buffer.alloc(8 * MiB), () => {
              seen.push(`written ${storage.getStore() === own}`)
              written.resolve()
            }),
          )
          duplex.once('close', closed.resolve)
        },
      }
    })
    const clients = [await t.connect(server), await t.connect(server)] as const
    await clients[1].write('x')
    await clients[1].readExactly(8 * MiB)
    await written.promise
    clients[1].end()
    await closed.promise
    assert.deepEqual(
      seen,
      ['data', 'written', 'end', 'finish', 'close'].map((event) => `${event} true`),
    )
  })

  test('socket options are set and read back, and addresses are those of the transport', async (t) => {
    const { duplex, client } = await streamed(t)
    const socket = duplex.transport.getExtraInfo('socket')
    assert.equal(duplex.setNoDelay(false).setKeepAlive(true, 7_500).ref().unref(), duplex)
    if (t.transport === 'unix') {
      const { localAddress, localPort, localFamily, remoteAddress, remotePort, remoteFamily } = duplex
      for (const part of [localAddress, localPort, localFamily, remoteAddress, remotePort, remoteFamily])
        assert.equal(part, undefined)
      assert.deepEqual(duplex.address(), {})
      return
    }
    assert.deepEqual(
      [socket?.getOption('noDelay'), socket?.getOption('keepAlive'), socket?.getOption('keepAliveTime')],
      [false, true, 7],
    )
    duplex.setNoDelay().setKeepAlive()
    assert.deepEqual([socket?.getOption('noDelay'), socket?.getOption('keepAlive')], [true, false])
    assert.deepEqual(
      [duplex.remoteAddress, duplex.remotePort, duplex.remoteFamily],
      ['127.0.0.1', client.socket.localPort, 'IPv4'],
    )
    assert.deepEqual(
      duplex.address(),
      client.socket.remotePort && {
        address: '127.0.0.1',
        family: 'IPv4',
        port: client.socket.remotePort,
      },
    )
    assert.deepEqual([duplex.localAddress, duplex.localPort], ['127.0.0.1', client.socket.remotePort])
    duplex.destroy()
    await once(duplex, 'close')
    duplex.setNoDelay().setKeepAlive(true)
    assert.equal(duplex.remotePort, client.socket.localPort)
  })

  test.overTcp('addresses over IPv6', async (t) => {
    const made = new Deferred<TransportDuplex>()
    const server = await t.serve(
      () => ({ connectionMade: (transport) => made.resolve(transport.duplex()) }),
      { host: '::1' },
    )
    const client = await t.connect(server, { host: '::1' })
    const duplex = await made.promise
    assert.deepEqual(
      [duplex.remoteAddress, duplex.remotePort, duplex.remoteFamily, duplex.localAddress, duplex.localFamily],
      ['::1', client.socket.localPort, 'IPv6', '::1', 'IPv6'],
    )
  })

  test('closing or aborting the connection itself closes the stream', async (t) => {
    const first = await streamed(t)
    first.duplex.transport.close()
    const refused = new Deferred<unknown>()
    first.duplex.on('error', () => {})
    first.duplex.write('x', (error) => refused.resolve(error))
    assertCode(await refused.promise, 'ERR_SHARDLOOP_CLOSED')
    await once(first.duplex, 'close')
    const second = await streamed(t)
    second.duplex.transport.abort(new Error('own'))
    const [error] = await once(second.duplex, 'error')
    assert.equal(error.message, 'own')
    assertReset(second.client, await second.client.untilClose())
  })

  test('a connection that was given to another protocol is not closed with its stream', async (t) => {
    const { duplex, client } = await streamed(t)
    const recorder = new Recorder()
    duplex.transport.setProtocol(recorder)
    duplex.destroy()
    await once(duplex, 'close')
    await client.write('still there')
    assert.equal((await recorder.receivedAtLeast(11)).toString(), 'still there')
    duplex.transport.close()
    await recorder.lost()
  })

  test('a file is not sent beside a stream, by name', async (t) => {
    const { duplex, client } = await streamed(t)
    const file = await open(fileURLToPath(import.meta.url))
    t.defer(() => file.close())
    await assertRejects(() => t.loop.sendFile(duplex.transport, file), 'ERR_SHARDLOOP_STATE')
    duplex.end('unharmed')
    assert.equal((await client.readToEnd()).toString(), 'unharmed')
  })

  test('writing behind writeEof of the transport is told to the stream', async (t) => {
    const { duplex } = await streamed(t)
    duplex.transport.writeEof()
    duplex.write('x')
    assertCode((await once(duplex, 'error'))[0], 'ERR_SHARDLOOP_STATE')
  })

  test("the server's idle timeout is in force where the stream has none any more", async (t) => {
    const { duplex } = await streamed(t, { idleTimeoutMs: 300 })
    const closed = new Promise((resolve) => duplex.once('close', resolve))
    duplex.setTimeout(100)
    await once(duplex, 'timeout')
    await closed
    assertCode(duplex.errored, 'ERR_SHARDLOOP_IDLE_TIMEOUT')
  })
})

/** Hands on what it gets, in other pieces, now or later. */
function dawdling(random: TestContext['random']): Transform {
  return new Transform({
    highWaterMark: random.size(1, 64 * KiB),
    transform(chunk: Buffer, _encoding, callback) {
      const give = (): void => {
        for (const piece of random.pieces(chunk, 100, 64 * KiB)) this.push(piece)
        callback()
      }
      if (random.below(2) === 0) give()
      else setImmediate(give)
    },
  })
}
