/** A descriptor has one owner: who is given one takes it whole, or leaves it and all else as it was. */
import assert from 'node:assert/strict'
import { writeSync } from 'node:fs'
import { Socket } from 'node:net'
import { openSocket, type Protocol, type RawSocket } from '../src/index.js'
import { DatagramRecorder, endpoint, PlainDatagrams } from './harness/datagrams.js'
import { openFifo } from './harness/fifo.js'
import { open, pair } from './harness/raw-sockets.js'
import { Recorder } from './harness/recorder.js'
import { assertRejects, assertThrows, forEachEngine, type TestContext } from './harness/suite.js'

const make = (): Recorder => new Recorder()

forEachEngine('owners of descriptors', (test, engine) => {
  // What had been acquired for the attempt was released by nobody: no other engine could be had any more.
  for (const connect of ['connectReadPipe', 'connectWritePipe'] as const) {
    test(`${connect} of a stream that cannot be taken leaves nothing behind`, async (t) => {
      const destroyed = new Socket()
      destroyed.destroy()
      const closed = open(t, 'unix')
      closed.close()
      await assertRejects(() => t.loop[connect](make, destroyed, { engine }), 'ERR_SHARDLOOP_ARGUMENT')
      await assertRejects(() => t.loop[connect](make, closed, { engine }), 'EBADF')
      const other = engine === 'mio' ? 'tokio' : 'mio'
      const fifo = openFifo(t)
      const given = fifo.give(connect === 'connectReadPipe' ? fifo.reader : fifo.writer)
      const [transport, protocol] = await t.loop[connect](make, given, { engine: other })
      transport.close()
      await protocol.lost()
    })
  }

  // The second owner closed what by then may have been another's.
  test("a live transport's own descriptor is refused by whoever takes one over", async (t) => {
    const fifo = openFifo(t)
    await t.loop.connectReadPipe(make, fifo.give(fifo.reader), { engine })
    const { protocol } = await t.pair(make)
    const { transport: datagrams } = await endpoint(t, { local: { host: '127.0.0.1' } })
    const used = [
      fifo.reader,
      protocol.transport.getExtraInfo('socket')?.fileno() as number,
      datagrams.getExtraInfo('socket')?.fileno() as number,
    ]
    for (const fd of used) {
      assertThrows(() => openSocket({ fd }), 'ERR_SHARDLOOP_ARGUMENT')
      assertThrows(() => t.loop.addReader(fd, () => {}), 'ERR_SHARDLOOP_ARGUMENT')
      for (const take of [
        () => t.loop.connectReadPipe(make, fd, { engine }),
        () => t.loop.connectWritePipe(make, fd, { engine }),
        () => t.loop.connectAcceptedSocket(make, { socket: fd, engine }),
        () => t.loop.createConnection(make, { socket: fd, engine }),
        () => t.loop.createDatagramEndpoint(() => ({}), { socket: fd, engine }),
      ])
        await assertRejects(take, 'ERR_SHARDLOOP_ARGUMENT')
    }
    writeSync(fifo.writer, 'x')
    datagrams.abort()
  })

  test('a RawSocket of datagrams goes on as an endpoint, and is detached', async (t) => {
    const raw = open(t, 'IPv4', 'datagram')
    raw.bind({ address: '127.0.0.1', port: 0 })
    const { fd } = raw
    const { port } = raw.getsockname() as { port: number }
    const protocol = await endpoint(t, { socket: raw })
    assert.equal(raw.fd, -1)
    assert.equal(protocol.transport.getExtraInfo('socket')?.fileno(), fd)
    const client = await PlainDatagrams.open(t)
    await client.send('hello', port)
    assert.equal(String((await protocol.receivedAtLeast(1))[0]?.data), 'hello')
    await assertRejects(() => endpoint(t, { socket: raw }), 'EBADF')
    const stream = open(t, 'IPv4')
    await assert.rejects(endpoint(t, { socket: stream }, () => new DatagramRecorder()))
    assert.ok(stream.fd >= 0, 'what is no socket of datagrams stays what it was')
  })

  test('RawSockets are read and written as pipes, and are detached', async (t) => {
    const [one, other] = pair(t)
    const [writer] = await t.loop.connectWritePipe(make, one, { engine })
    const [, reader] = await t.loop.connectReadPipe(make, other, { engine })
    assert.deepEqual([one.fd, other.fd], [-1, -1])
    writer.write('over a pair')
    assert.equal(String(await reader.receivedAtLeast(11)), 'over a pair')
    writer.close()
    assert.equal(await reader.lost(), null)
  })

  test('a RawSocket whose factory throws is closed: it was connected when that was asked', async (t) => {
    const [one, other] = pair(t)
    await throwing(t, one, new Error('no protocol'))
    assert.equal(one.fd, -1)
    assert.equal((await t.loop.sockRecv(other, 1)).length, 0)
  })

  // Reading the code of what was thrown threw a TypeError in its place.
  for (const thrown of [null, undefined, 'text'])
    test(`a factory that throws ${thrown} rejects with that`, (t) => throwing(t, pair(t)[0], thrown))
})

async function throwing(t: TestContext, socket: RawSocket, thrown: unknown): Promise<void> {
  const factory = (): Protocol => {
    throw thrown
  }
  const outcome = await t.loop.connectReadPipe(factory, socket, { engine: t.engine }).then(
    () => assert.fail('connected'),
    (error: unknown) => ({ error }),
  )
  assert.deepEqual(outcome, { error: thrown })
}
