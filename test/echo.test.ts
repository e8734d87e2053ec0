import assert from 'node:assert/strict'
import type { Server } from '../src/index.js'
import { ECHOES, RECEIVE_MODES } from './harness/echo-protocols.js'
import { KiB, MiB } from './harness/memory.js'
import { forEachTransport, type TestContext } from './harness/suite.js'
import { echoThrough } from './harness/traffic.js'

forEachTransport('echo', (test) => {
  for (const mode of RECEIVE_MODES) {
    test(`${mode}: 1 MiB in random pieces comes back byte for byte`, async (t) => {
      await echoBack(t, mode, 1 * MiB, 64 * KiB)
    })

    test(`${mode}: 64 MiB in random pieces come back byte for byte`, async (t) => {
      await echoBack(t, mode, 64 * MiB, 1 * MiB)
    })

    test(`${mode}: single bytes come back in order`, async (t) => {
      const server = await t.serve(() => new ECHOES[mode]())
      const client = await t.connect(server)
      const data = t.random.bytes(2000)
      for (const byte of data) client.socket.write(Buffer.of(byte))
      assert.deepEqual(await client.readExactly(data.length), data)
      client.end()
      assert.equal((await client.readToEnd()).length, 0)
      assert.equal(await client.untilClose(), null)
    })

    test(`${mode}: 100 connections at once do not mix their bytes`, async (t) => {
      const server = await t.serve(() => new ECHOES[mode]())
      const clients = await Promise.all(Array.from({ length: 100 }, () => t.connect(server)))
      await Promise.all(
        clients.map((client) => echoThrough(client, t.random.bytes(200 * KiB), t.random, 50 * KiB)),
      )
      assertPassed(t, server, 100 * 200 * KiB)
    })
  }
})

async function echoBack(
  t: TestContext,
  mode: keyof typeof ECHOES,
  length: number,
  pieceMax: number,
): Promise<void> {
  const server = await t.serve(() => new ECHOES[mode]())
  const client = await t.connect(server)
  await echoThrough(client, t.random.bytes(length), t.random, pieceMax)
  client.end()
  assert.equal((await client.readToEnd()).length, 0, 'nothing but the echo')
  assert.equal(await client.untilClose(), null)
  assertPassed(t, server, length)
}

/** What is counted is what passes the sockets: with TLS its records and handshakes, too. */
function assertPassed(t: TestContext, server: Server, bytes: number): void {
  const { bytesRead, bytesWritten } = server.metrics().total
  const most = t.tls === null ? bytes : bytes * 1.02 + 300 * KiB
  for (const passed of [bytesRead, bytesWritten]) {
    assert.ok(passed >= bytes && passed <= most, `${passed} of ${bytes} bytes`)
  }
}
