import assert from 'node:assert/strict'
import type { Protocol } from '../src/index.js'
import { assertBytes } from './harness/client.js'
import { MiB } from './harness/memory.js'
import { RECORDERS, Recorder } from './harness/recorder.js'
import { assertRejects, assertThrows, forEachTransport, type TestContext } from './harness/suite.js'

forEachTransport('half close', (test) => {
  for (const [mode, Made] of Object.entries(RECORDERS)) {
    test(`${mode}: after the peer's end, true keeps our writing half open`, async (t) => {
      const { client, protocol } = await t.pair(() => Object.assign(new Made(), { keepOpen: true }))
      client.end('question')
      await protocol.noted('eof')
      assert.equal(protocol.bytes.toString(), 'question', 'everything before the end was delivered first')
      assert.equal(protocol.transport.isClosing(), false)
      protocol.transport.write('one ')
      assert.equal((await client.readExactly(4)).toString(), 'one ')
      protocol.transport.write('two')
      protocol.transport.close()
      assert.equal((await client.readToEnd()).toString(), 'two')
      assert.equal(await protocol.lost(), null)
      assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
    })
  }

  test("after the peer's end, anything but true closes when what was queued is sent", async (t) => {
    for (const answer of [undefined, false, Promise.resolve()]) {
      const data = t.random.bytes(4 * MiB)
      class Answering extends Recorder {
        override dataReceived(): void {
          this.transport.write(data)
        }
        override eofReceived(): boolean | void {
          this.note('eof')
          return answer as boolean | undefined
        }
      }
      const { client, protocol } = await t.pair(() => new Answering(), { client: { paused: true } })
      client.end('?')
      await protocol.noted('eof')
      assert.ok(protocol.transport.getWriteBufferSize() > 0, 'the peer has not read yet, so bytes wait')
      client.resume()
      assertBytes(await client.readToEnd(), data)
      assert.equal(await protocol.lost(), null)
      assert.equal(protocol.count('lost'), 1)
      assert.equal(protocol.events.at(-1), 'lost')
    }
  })

  test("a protocol without eofReceived closes at the peer's end", async (t) => {
    let lost = (_error: Error | null): void => {}
    const lostWith = new Promise<Error | null>((resolve) => {
      lost = resolve
    })
    const server = await t.serve((): Protocol => ({ connectionLost: (error) => lost(error) }))
    const client = await t.connect(server)
    client.end()
    assert.equal((await client.readToEnd()).length, 0)
    assert.equal(await lostWith, null)
  })

  test('a protocol without any method reads, drops and closes', async (t) => {
    const server = await t.serve(() => ({}))
    const client = await t.connect(server)
    client.end(t.random.bytes(3 * MiB))
    assert.equal((await client.readToEnd()).length, 0)
    assert.equal(await client.untilClose(), null)
  })

  test("after writeEof the peer reads an end, and the peer's bytes still arrive", async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    assert.equal(transport.canWriteEof(), true)
    transport.write('last words')
    transport.writeEof()
    assert.equal((await client.readToEnd()).toString(), 'last words')
    assert.equal(transport.isClosing(), false)
    const data = t.random.bytes(1 * MiB)
    client.end(data)
    await protocol.noted('eof')
    assertBytes(protocol.bytes, data)
    assert.equal(await protocol.lost(), null)
    assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
  })

  test('writeEof sends all that was queued before it', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const data = t.random.bytes(8 * MiB)
    protocol.transport.write(data)
    protocol.transport.write('tail')
    protocol.transport.writeEof()
    client.resume()
    assertBytes(await client.readToEnd(), Buffer.concat([data, Buffer.from('tail')]))
    assert.deepEqual(
      protocol.events.filter((event) => event === 'eof' || event === 'lost'),
      [],
    )
  })

  test('writing after writeEof throws ERR_SHARDLOOP_STATE', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    transport.writeEof()
    assertThrows(() => transport.write('late'), 'ERR_SHARDLOOP_STATE')
    assertThrows(() => transport.writev(['late']), 'ERR_SHARDLOOP_STATE')
    await assertRejects(() => transport.writeOwned(Buffer.from('late')), 'ERR_SHARDLOOP_STATE')
    assert.equal((await client.readToEnd()).length, 0, 'nothing of it was sent')
    client.end()
    assert.equal(await protocol.lost(), null)
  })

  test('both halves may end at the same time', async (t) => {
    const { client, protocol } = await t.pair(() => Object.assign(new Recorder(), { keepOpen: true }))
    client.end('from the client')
    protocol.transport.write('from the server')
    protocol.transport.writeEof()
    assert.equal((await client.readToEnd()).toString(), 'from the server')
    await protocol.noted('eof')
    assert.equal(protocol.bytes.toString(), 'from the client')
    protocol.transport.close()
    assert.equal(await protocol.lost(), null)
    assert.equal(protocol.count('lost'), 1)
  })

  test("the peer's end is reported once, although its bytes came in many batches", async (t) => {
    const data = t.random.bytes(2 * MiB)
    const { client, protocol } = await keepOpenPair(t)
    for (const piece of t.random.pieces(data, 1000, 100_000)) await client.write(piece)
    client.end()
    await protocol.noted('eof')
    assertBytes(protocol.bytes, data)
    protocol.transport.close()
    await protocol.lost()
    assert.equal(protocol.count('eof'), 1)
  })
})

async function keepOpenPair(t: TestContext): ReturnType<typeof t.pair<Recorder>> {
  return await t.pair(() => Object.assign(new Recorder(), { keepOpen: true }))
}
