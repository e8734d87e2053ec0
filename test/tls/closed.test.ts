/** Configurations that are closed: what has them keeps them, and nobody new gets them, nor goes without. */
import assert from 'node:assert/strict'
import { createTlsClientContext, createTlsServerContext } from '../../src/index.js'
import { native } from '../../src/native/index.js'
import { SharedTls } from '../../src/tls/server-context.js'
import { parseTlsServerOptions } from '../../src/tls/server-options.js'
import { ShardLoop } from '../../src/workers/shard-loop.js'
import { ChunkEcho } from '../harness/echo-protocols.js'
import { Recorder } from '../harness/recorder.js'
import { assertCode, assertRejects, assertThrows, forEachEngine } from '../harness/suite.js'
import { clientOptions, serverOptions } from '../harness/tls.js'

forEachEngine('a TLS configuration that is closed', (test, engine) => {
  test('serves no other server: that is refused by name, and leaves nothing', async () => {
    const shared = new SharedTls(parseTlsServerOptions(serverOptions(), 'tls.'))
    const { token } = shared
    shared.close()
    const metricsToken = native.allocateMetrics()
    const loop = new ShardLoop({ shardId: 0, engine, metricsToken, supervised: false, clientGone: () => {} })
    const serve = (tls: number) =>
      loop.serve({
        name: 'it',
        factory: () => new Recorder(),
        number: 0,
        listeners: [],
        writeHighBytes: 65536,
        writeLowBytes: 16384,
        writeMaxBytes: 1 << 26,
        idleTimeoutMs: 0,
        moderation: true,
        tls,
        tlsUpgrade: false,
        tlsClientError: () => {},
        exceptionHandler: null,
      })
    const first = serve(0)
    for (let round = 0; round < 3; round++) {
      let refused: unknown
      try {
        serve(token)
      } catch (error) {
        refused = error
      }
      const { message } = assertCode(refused, 'ERR_SHARDLOOP_OPTION')
      assert.equal(message, 'TLS of server it cannot begin: the TLS configuration is closed')
    }
    const other = serve(0)
    assert.equal((Reflect.get(loop, 'servers') as unknown[]).length, 2, 'none of those has kept its number')
    await Promise.all([first.drain(), other.drain()])
    await loop.close()
    native.freeMetrics(metricsToken)
  })

  test('is for no new connection of a client; one without TLS begins as before, and those that have it go on', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions() })
    const plain = await t.serve(() => new ChunkEcho())
    const context = createTlsClientContext(clientOptions())
    const [transport, protocol] = await t.dial(server, () => new Recorder(), { tls: context })
    context.close()
    for (let round = 0; round < 3; round++) {
      const refused = await t.dial(server, () => new Recorder(), { tls: context }).catch((error) => error)
      assert.match(assertCode(refused, 'ERR_SHARDLOOP_OPTION').message, /the TLS configuration is closed/)
      const [unsecured, other] = await t.dial(plain, () => new Recorder())
      unsecured.write('in plain text')
      await other.receivedAtLeast(13)
      unsecured.close()
      await other.lost()
    }
    transport.write('still here')
    assert.equal(String(await protocol.receivedAtLeast(10)), 'still here')
    transport.close()
    await protocol.lost()
  })

  test('is not reloaded', () => {
    const context = createTlsServerContext(serverOptions())
    context.reload(serverOptions())
    context.close()
    assertThrows(() => context.reload(serverOptions()), 'ERR_SHARDLOOP_OPTION')
  })

  test('is not what startTls begins with, on either side: the connection stays as it is', async (t) => {
    const server = createTlsServerContext(serverOptions())
    const client = createTlsClientContext(clientOptions())
    server.close()
    client.close()
    const accepting = await t.serveEach(() => new Recorder())
    const [near, nearProtocol] = await t.dial(accepting.server, () => new Recorder())
    const farProtocol = await accepting.protocol(0)
    await farProtocol.noted('made')
    const far = farProtocol.transport
    await assertRejects(() => far.startTls({ server }), 'ERR_SHARDLOOP_OPTION')
    await assertRejects(
      () => near.startTls({ context: client, servername: 'localhost' }),
      'ERR_SHARDLOOP_OPTION',
    )
    near.write('there')
    assert.equal(String(await farProtocol.receivedAtLeast(5)), 'there')
    far.write('and back')
    assert.equal(String(await nearProtocol.receivedAtLeast(8)), 'and back')
    near.close()
    await farProtocol.lost()
  })
})
