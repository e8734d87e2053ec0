import assert from 'node:assert/strict'
import { eventually } from './harness/deferred.js'
import { RECEIVE_MODES, type ReceiveMode } from './harness/echo-protocols.js'
import { descriptorLimit } from './harness/leaks.js'
import { RECORDERS } from './harness/recorder.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

const CONNECTIONS = 5000
/** Opened at the same time; fewer than any kernel's backlog. */
const WAVE = 250

forEachEngine('many connections', (test) => {
  for (const mode of RECEIVE_MODES) {
    const name = `${mode}: ${CONNECTIONS} concurrent connections`
    if (mode === 'buffered') continue
    if (descriptorLimit() < 2 * CONNECTIONS + 500) {
      test.skip(name, `both ends need more than ${descriptorLimit()} descriptors`)
      continue
    }
    test(name, (t) => openAll(t, mode), { timeoutMs: 60_000 })
  }
})

async function openAll(t: TestContext, mode: ReceiveMode): Promise<void> {
  const accepting = await t.serveEach(() => new RECORDERS[mode]())
  for (const wave of waves()) await Promise.all(wave.map(() => t.join(accepting)))
  assert.equal(accepting.protocols.length, CONNECTIONS)
  const { server, protocols } = accepting
  assert.equal(server.metrics().total.connectionsOpen, CONNECTIONS)
  assert.equal(Number(server.metrics().total.connectionsTotal), CONNECTIONS)
  assert.equal(
    new Set(protocols.map((protocol) => protocol.transport.id)).size,
    CONNECTIONS,
    'ids are unique',
  )
  // Everybody at once: each message names its connection, by the peer's port.
  const byPort = new Map(
    protocols.map((protocol) => [protocol.transport.getExtraInfo('peername')?.port, protocol]),
  )
  assert.equal(byPort.size, CONNECTIONS)
  for (const protocol of protocols) {
    protocol.transport.write(`${protocol.transport.getExtraInfo('peername')?.port}\n`)
  }
  const clients = accepting.clients
  await Promise.all(
    clients.map(async (client) => {
      assert.equal(await client.readLine(), String(client.socket.localPort))
      client.socket.write(`from ${client.socket.localPort}`)
    }),
  )
  await Promise.all(protocols.map((protocol) => protocol.receivedAtLeast(9)))
  for (const [port, protocol] of byPort) {
    await protocol.receivedAtLeast(`from ${port}`.length)
    assert.equal(protocol.bytes.toString(), `from ${port}`)
  }
  for (const client of clients) client.end()
  assert.deepEqual(new Set(await Promise.all(protocols.map((protocol) => protocol.lost()))), new Set([null]))
  for (const { events } of protocols) assert.deepEqual(events, ['made', 'eof', 'lost'])
  await eventually(() => server.metrics().total.connectionsOpen === 0)
  assert.equal(Number(server.metrics().total.connectionsTotal), CONNECTIONS)
}

function* waves(): Generator<number[]> {
  for (let opened = 0; opened < CONNECTIONS; opened += WAVE) {
    yield Array.from({ length: Math.min(WAVE, CONNECTIONS - opened) }, (_, index) => opened + index)
  }
}
