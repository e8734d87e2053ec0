import assert from 'node:assert/strict'
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { type Server, TlsError } from '../src/index.js'
import { TLS_CLIENT_ERRORS_PER_SECOND } from '../src/limits.js'
import { authority, identityOf } from './harness/certificates.js'
import { eventually } from './harness/deferred.js'
import { Recorder } from './harness/recorder.js'
import { forEachEngine, forEachTransport, portOf, type TestContext } from './harness/suite.js'
import { clientOptions, serverOptions } from './harness/tls.js'

const MODULE = new URL('./fixtures/servers/obedient-module.js', import.meta.url)

interface Told {
  readonly shardId: number
  readonly error: TlsError
}

function noting(server: Server): Told[] {
  const told: Told[] = []
  server.events.on('tlsClientError', (failure) => told.push(failure))
  return told
}

async function opened(t: TestContext, server: Server): Promise<Socket> {
  const socket = connect(portOf(server), '127.0.0.1')
  socket.on('error', () => {})
  t.defer(() => void socket.destroy())
  await new Promise((resolve) => socket.once('connect', resolve))
  return socket
}

function closed(socket: Socket): Promise<void> {
  socket.resume()
  return new Promise((resolve) => {
    if (socket.closed) resolve()
    else socket.once('close', () => resolve())
  })
}

/** Handshakes that failed, whyever. */
function failures(server: Server): number {
  return Object.values(server.metrics().total.tls.failed).reduce((sum, count) => sum + count)
}

forEachEngine('handshakes that fail', (test) => {
  for (const shards of [0, 2]) {
    test(`are told on the server, with shard, code and peer, and no protocol is made (shards ${shards})`, async (t) => {
      const factory = (): Recorder => assert.fail('a protocol was made')
      const server = await t.serve(shards === 0 ? factory : MODULE, { shards, tls: serverOptions() })
      const told = noting(server)
      const socket = await opened(t, server)
      const { localPort } = socket
      socket.write('GET / HTTP/1.1\r\n\r\n')
      await closed(socket)
      await eventually(() => told.length > 0)
      const [{ shardId, error }] = told as [Told]
      assert.ok(shardId >= 0 && shardId < Math.max(shards, 1))
      assert.ok(error instanceof TlsError)
      assert.deepEqual([error.code, error.reason], ['ERR_SHARDLOOP_TLS_PROTOCOL', 'not-tls'])
      assert.deepEqual(error.peer, { address: '127.0.0.1', port: localPort, family: 'IPv4' })
      assert.equal(server.metrics().total.tls.failed.protocol, 1)
      await server.close()
    })
  }

  test('of a flood some are told, and all are counted', async (t) => {
    const server = await t.serve(() => new Recorder(), { tls: serverOptions() })
    const told = noting(server)
    const count = 3 * TLS_CLIENT_ERRORS_PER_SECOND
    const began = performance.now()
    const sockets = await Promise.all(Array.from({ length: count }, () => opened(t, server)))
    for (const socket of sockets) socket.write('nothing of TLS at all')
    await Promise.all(sockets.map(closed))
    await eventually(() => failures(server) === count && told.length >= TLS_CLIENT_ERRORS_PER_SECOND)
    const seconds = Math.floor((performance.now() - began) / 1000) + 1
    assert.ok(told.length <= (seconds + 1) * TLS_CLIENT_ERRORS_PER_SECOND, `${told.length} in ${seconds} s`)
    await server.close()
    assert.equal(server.metrics().total.connectionsOpen, 0)
  })

  test('what a listener throws does not stop the others', async (t) => {
    const server = await t.serve(() => new Recorder(), { tls: serverOptions() })
    const uncaught = new Promise((resolve) => process.once('uncaughtException', resolve))
    const error = new Error('a broken listener')
    server.events.once('tlsClientError', () => {
      throw error
    })
    const socket = await opened(t, server)
    socket.end('nothing of TLS')
    assert.equal(await uncaught, error)
    await closed(socket)
    const accepting = await t.dial(server, () => new Recorder(), { tls: clientOptions() })
    accepting[0].close()
    await accepting[1].lost()
    await server.close()
  })
})

forEachEngine('handshakes under way', (test) => {
  test('end with an abort of their server', async (t) => {
    const server = await t.serve(() => new Recorder(), { tls: serverOptions() })
    const told = noting(server)
    const socket = await opened(t, server)
    await eventually(() => server.metrics().total.connectionsTotal === 1)
    const gone = closed(socket)
    await server.abort()
    await gone
    assert.deepEqual(told, [], 'it is no failure of the peer')
  })

  test('hold a drain to its deadline at most', async (t) => {
    const server = await t.serve(() => new Recorder(), { tls: serverOptions() })
    const socket = await opened(t, server)
    await eventually(() => server.metrics().total.connectionsTotal === 1)
    const gone = closed(socket)
    await server.drain({ deadlineMs: 50 })
    await gone
  })

  test('are completed while their server drains, and served like the others', async (t) => {
    const accepting = await t.serveEach(() => new Recorder(), { tls: serverOptions() })
    const { server } = accepting
    const socket = await opened(t, server)
    await eventually(() => server.metrics().total.connectionsTotal === 1)
    const drained = server.close()
    const client = connectTls({ socket, ca: authority().root, servername: 'localhost' })
    await new Promise((resolve, reject) => client.once('secureConnect', resolve).once('error', reject))
    const protocol = await accepting.protocol(0)
    client.resume()
    assert.equal(await protocol.lost(), null, 'nothing is owed to it')
    await drained
  })

  test('of clients end with their call, by signal and by timeout', async (t) => {
    const silent = await t.serve(() => new Recorder())
    const { cert, key } = identityOf('client')
    const controller = new AbortController()
    const reason = new Error('called off')
    const options = { tls: { ...clientOptions(), cert, key } }
    const called = t.dial(silent, () => new Recorder(), { ...options, signal: controller.signal })
    await eventually(() => silent.metrics().total.connectionsTotal === 1)
    controller.abort(reason)
    await assert.rejects(called, reason)
    await assert.rejects(
      t.dial(silent, () => new Recorder(), { ...options, timeoutMs: 50 }),
      { code: 'ETIMEDOUT' },
    )
    await assert.rejects(
      t.dial(silent, () => new Recorder(), { tls: { ...clientOptions(), handshakeTimeoutMs: 100 } }),
      { code: 'ERR_SHARDLOOP_TLS_TIMEOUT' },
    )
  })
})

forEachTransport('what turns verification off', (test) => {
  for (const name of ['dangerouslyAcceptAnyCertificate', 'dangerouslyAcceptAnyName'] as const) {
    test(`${name}: no name is needed, and what was verified is told`, async (t) => {
      const isAny = name === 'dangerouslyAcceptAnyCertificate'
      const { cert, key } = identityOf(isAny ? 'selfSigned' : 'other')
      const accepting = await t.serveEach(() => new Recorder(), { tls: { cert, key } })
      const tls = isAny ? { [name]: true } : { [name]: true, ca: authority().root }
      const [transport, protocol] = await t.dial(accepting.server, () => new Recorder(), { tls })
      assert.equal(transport.getExtraInfo('sslObject')?.authorized, !isAny)
      assert.equal(transport.getExtraInfo('servername'), undefined)
      transport.close()
      assert.equal(await protocol.lost(), null)
      await (await accepting.protocol(0)).lost()
    })
  }
})
