import assert from 'node:assert/strict'
import { assertBytes } from './harness/client.js'
import { RECEIVE_MODES } from './harness/echo-protocols.js'
import { KiB } from './harness/memory.js'
import { BorrowedRecorder, RECORDERS, Recorder } from './harness/recorder.js'
import { assertThrows, forEachTransport } from './harness/suite.js'
import { send } from './harness/traffic.js'

forEachTransport('setProtocol', (test) => {
  test('the next event goes to the new protocol, and connectionMade is not called again', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    await client.write('first')
    await protocol.receivedAtLeast(5)
    const second = new Recorder()
    assert.equal(transport.protocol, protocol)
    transport.setProtocol(second)
    assert.equal(transport.protocol, second)
    client.end('second')
    await second.lost()
    assert.equal(second.bytes.toString(), 'second')
    assert.equal(protocol.bytes.toString(), 'first')
    assert.deepEqual(protocol.events, ['made'])
    assert.deepEqual(second.events, ['eof', 'lost'])
  })

  test('in connectionMade', async (t) => {
    const second = new BorrowedRecorder()
    class Handing extends Recorder {
      override connectionMade(transport: Parameters<Recorder['connectionMade']>[0]): void {
        super.connectionMade(transport)
        transport.setProtocol(second)
      }
    }
    const { client, protocol } = await t.pair(() => new Handing())
    client.end('all of it')
    assert.equal(await second.lost(), null)
    assert.equal(second.bytes.toString(), 'all of it')
    assert.deepEqual(protocol.events, ['made'])
  })

  for (const from of RECEIVE_MODES) {
    for (const to of RECEIVE_MODES) {
      test(`from ${from} to ${to} in the middle of a stream: no byte is lost, doubled or moved`, async (t) => {
        const journal: Recorder[] = []
        const all: Buffer[] = []
        /** Hands over after every delivery, back and forth. */
        const handOver = (self: Recorder, next: () => Recorder): void => {
          const record = self as unknown as { record(bytes: Uint8Array): void }
          const original = record.record
          record.record = (bytes) => {
            original.call(self, bytes)
            all.push(Buffer.from(bytes))
            journal.push(self)
            self.transport.setProtocol(next())
          }
        }
        const other = new RECORDERS[to]()
        const { client, protocol } = await t.pair(() => {
          const made = new RECORDERS[from]()
          handOver(made, () => other)
          return made
        })
        handOver(other, () => protocol)
        other.transport = protocol.transport
        const data = t.random.bytes(3_000_000)
        await send(client, data, t.random, 300 * KiB)
        client.end()
        await Promise.race([protocol.lost(), other.lost()])
        assertBytes(Buffer.concat(all), data)
        assert.ok(journal.length > 10, `${journal.length} deliveries`)
        journal.forEach((receiver, index) => {
          assert.equal(receiver, index % 2 === 0 ? protocol : other, `delivery ${index}`)
        })
        assert.equal(protocol.count('lost') + other.count('lost'), 1)
        assert.equal(protocol.count('eof') + other.count('eof'), 1)
      })
    }
  }

  test('many connections hand over in the same batch', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const pairs = await Promise.all(Array.from({ length: 40 }, () => t.join(accepting)))
    const seconds = pairs.map(({ protocol }, index) => {
      const second = index % 2 === 0 ? new BorrowedRecorder() : new Recorder()
      const original = protocol.dataReceived
      protocol.dataReceived = (chunk) => {
        original.call(protocol, chunk)
        protocol.transport.setProtocol(second)
      }
      return second
    })
    for (const { client } of pairs) client.socket.write('a')
    await Promise.all(pairs.map(({ protocol }) => protocol.receivedAtLeast(1)))
    for (const { client } of pairs) client.end('bc')
    await Promise.all(seconds.map((second) => second.lost()))
    pairs.forEach(({ protocol }, index) => {
      assert.equal(protocol.bytes.toString(), 'a')
      assert.equal(seconds[index]?.bytes.toString(), 'bc')
    })
  })

  test('what is no protocol is refused by name', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    for (const wrong of [undefined, null, 7, 'text']) {
      assertThrows(() => protocol.transport.setProtocol(wrong as never), 'ERR_SHARDLOOP_ARGUMENT')
    }
    await client.write('x')
    await protocol.receivedAtLeast(1)
  })
})
