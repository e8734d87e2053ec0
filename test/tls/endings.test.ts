/** How TLS connections end: close_notify by either side first, half closes, truncation, alerts, floods. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { TLSSocket } from 'node:tls'
import type { Transport } from '../../src/index.js'
import { ChunkEcho } from '../harness/echo-protocols.js'
import { KiB, MiB } from '../harness/memory.js'
import { Recorder } from '../harness/recorder.js'
import { assertCode, forEachEngine, type Pair, portOf, type TestContext } from '../harness/suite.js'
import { nodeOptions, serverOptions, type TlsVariant } from '../harness/tls.js'
import { assertTlsError, dialTls, nodeServer, relay } from '../harness/tls-ends.js'

const VERSIONS: readonly TlsVariant[] = ['tls1.2', 'tls1.3']

/** Keeps its half open when the peer has ended. */
class HalfOpen extends Recorder {
  override keepOpen = true
}

forEachEngine('the end of a TLS connection', (test) => {
  for (const version of VERSIONS) {
    test(`${version}: the client's close_notify is an end of the file, and ours answers it`, async (t) => {
      const { client, protocol } = await secure(t, version)
      client.end('bye')
      assert.equal((await client.readToEnd()).length, 0)
      assert.equal(await protocol.lost(), null)
      assert.equal(protocol.bytes.toString(), 'bye')
      assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
      assert.equal(await client.untilClose(), null)
    })

    test(`${version}: our close sends what is queued, then close_notify`, async (t) => {
      const { client, protocol } = await secure(t, version)
      const data = t.random.bytes(1 * MiB)
      protocol.transport.write(data)
      protocol.transport.close()
      assert.deepEqual(await client.readToEnd(), data)
      client.end()
      assert.equal(await protocol.lost(), null)
      assert.equal(await client.untilClose(), null)
    })

    test(`${version}: either half may end first, and the other one goes on`, async (t) => {
      const { client, protocol } = await secure(t, version, new HalfOpen())
      client.end('question')
      await protocol.noted('eof')
      assert.equal(protocol.lostWith, undefined)
      const answer = t.random.bytes(200 * KiB)
      protocol.transport.write(answer)
      protocol.transport.close()
      assert.deepEqual(await client.readToEnd(), answer)
      assert.equal(await protocol.lost(), null)

      const other = await secure(t, version, new HalfOpen())
      other.protocol.transport.write('first')
      other.protocol.transport.writeEof()
      assert.equal((await other.client.readToEnd()).toString(), 'first')
      const late = t.random.bytes(200 * KiB)
      other.client.end(late)
      assert.deepEqual(await other.protocol.receivedAtLeast(late.length), late)
      await other.protocol.noted('eof')
      other.protocol.transport.close()
      assert.equal(await other.protocol.lost(), null)
    })

    test(`${version}: an end of TCP without close_notify is an error, no end of the file, and counted`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder(), { tls: serverOptions(version) })
      const { server } = accepting
      const between = await relay(t, portOf(server))
      const client = await t.connect(between.port, { tls: nodeOptions(version) })
      await client.write('not al')
      const protocol = await accepting.protocol(0)
      await protocol.receivedAtLeast(6)
      // Behind the back of TLS.
      between.far.end()
      const error = assertTlsError(await protocol.lost(), { code: 'TRUNCATED', reason: 'data' })
      assert.deepEqual((error.peer as { address: string }).address, '127.0.0.1')
      assert.deepEqual(protocol.events, ['made', 'lost'], 'eofReceived was not called')
      assert.equal(server.metrics().total.tls.truncated, 1)
    })

    test(`${version}: a reset is a reset`, async (t) => {
      const { client, protocol } = await secure(t, version)
      client.reset()
      assertCode(await protocol.lost(), 'ECONNRESET')
    })

    test(`${version}: a server of node:tls that truncates is an error for a client of ours, too`, async (t) => {
      const { protocol, socket } = await dialled(t, version)
      socket.write('not al')
      await protocol.receivedAtLeast(6)
      socket.destroy()
      assertTlsError(await protocol.lost(), { code: 'TRUNCATED', reason: 'data' })
    })

    test(`${version}: a client of ours ends first, or second, with what is under way`, async (t) => {
      const first = await dialled(t, version)
      first.transport.write('question')
      first.transport.close()
      assert.equal((await readAll(first.socket)).toString(), 'question')
      first.socket.end()
      assert.equal(await first.protocol.lost(), null)

      const second = await dialled(t, version)
      const data = t.random.bytes(300 * KiB)
      second.socket.end(data)
      assert.deepEqual(await second.protocol.receivedAtLeast(data.length), data)
      await second.protocol.noted('eof')
      assert.equal(await second.protocol.lost(), null)
    })

    test(`${version}: abort breaks it off, and the peer gets no close_notify`, async (t) => {
      const { client, protocol } = await secure(t, version)
      protocol.transport.abort()
      assertCode(await client.untilClose(), 'ECONNRESET')
      assert.equal(await protocol.lost(), null)
    })

    test(`${version}: a peer that says close_notify and is gone has ended in order, though our answer meets nobody`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder(), { tls: serverOptions(version) })
      for (let round = 0; round < 20; round++) {
        const { client, protocol } = await t.join(accepting, { tls: nodeOptions() })
        client.socket.end('all', () => client.socket.destroy())
        assert.equal(await protocol.lost(), null)
        assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
        assert.equal(protocol.bytes.toString(), 'all')
      }
    })

    test(`${version}: bytes behind close_notify are not delivered`, async (t) => {
      const { client, protocol } = await secure(t, version, new HalfOpen())
      client.end('all')
      await protocol.noted('eof')
      client.raw.write(Buffer.alloc(1000, 23))
      protocol.transport.write('and this still goes out')
      protocol.transport.close()
      await protocol.lost()
      assert.equal(protocol.bytes.toString(), 'all')
    })
  }

  test('both ends of ours: each order of closing, and an echo of 4 MiB', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions() })
    const [transport, protocol] = await dialTls(t, portOf(server), () => new Recorder())
    const data = t.random.bytes(4 * MiB)
    transport.write(data)
    transport.writeEof()
    assert.deepEqual(await protocol.receivedAtLeast(data.length), data)
    assert.equal(await protocol.lost(), null)

    const accepting = await t.serveEach(() => new Recorder(), { tls: serverOptions() })
    const [, mine] = await dialTls(t, portOf(accepting.server), () => new Recorder())
    const theirs = await accepting.protocol(0)
    await theirs.noted('made')
    theirs.transport.write('bye')
    theirs.transport.close()
    assert.equal(await mine.lost(), null)
    assert.equal(mine.bytes.toString(), 'bye')
    assert.equal(await theirs.lost(), null)
  })

  test('renegotiation that a client asks for (1.2) is refused by an alert', async (t) => {
    const { client, protocol } = await secure(t, 'tls1.2')
    client.secure.renegotiate({}, () => {})
    await client.until(() => client.error !== null)
    assert.match(String(client.error), /no renegotiation/)
    // It is OpenSSL that ends the connection when it was refused.
    await client.destroy()
    await protocol.lost()
    assert.deepEqual(protocol.chunks, [])
  })
})

async function secure<Made extends Recorder>(
  t: TestContext,
  version: TlsVariant,
  protocol: Made = new Recorder() as Made,
): Promise<Pair<Made>> {
  const accepting = await t.serveEach(() => protocol, { tls: serverOptions(version) })
  return { ...(await t.join(accepting, { tls: nodeOptions(version) })), accepting }
}

/** A connection of ours to node:tls, with both ends. */
async function dialled(
  t: TestContext,
  version: TlsVariant,
): Promise<{ transport: Transport; protocol: Recorder; socket: TLSSocket }> {
  const only = version === 'tls1.2' ? 'TLSv1.2' : 'TLSv1.3'
  const server = await nodeServer(t, { minVersion: only, maxVersion: only, allowHalfOpen: true }, () => {})
  const [transport, protocol] = await dialTls(t, server.port, () => new Recorder())
  return { transport, protocol, socket: await server.socket(0) }
}

async function readAll(socket: TLSSocket): Promise<Buffer> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(socket, 'end')
  return Buffer.concat(chunks)
}
