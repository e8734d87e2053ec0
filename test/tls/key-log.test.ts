/** Secrets of sessions are written down for who asks for that, and for nobody else. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { createTlsClientContext, type TlsClientOptions } from '../../src/index.js'
import { ChunkEcho } from '../harness/echo-protocols.js'
import { Recorder } from '../harness/recorder.js'
import { forEachTransport, portOf, type TestContext } from '../harness/suite.js'
import { clientOptions, serverOptions } from '../harness/tls.js'
import { nodeServer } from '../harness/tls-ends.js'

/** One connection of ours, there and back. */
async function echoed(t: TestContext, port: number, options: TlsClientOptions): Promise<void> {
  const context = createTlsClientContext(options)
  const [transport, protocol] = await t.loop.createConnection(() => new Recorder(), {
    engine: t.engine,
    host: '127.0.0.1',
    port,
    tls: context,
  })
  transport.write('x')
  await protocol.receivedAtLeast(1)
  transport.close()
  await protocol.lost()
  context.close() // and its file with it, at once: a descriptor that is left fails the test
}

function linesOf(path: string): string[] {
  return readFileSync(path, 'latin1').split('\n').slice(0, -1)
}

forEachTransport(
  'keyLog',
  (test, _engine, transport) => {
    const is12 = transport === 'tls1.2'
    const options = clientOptions(is12 ? 'tls1.2' : 'tls1.3')

    test('of a client has the secrets that the server has, one line each, for whoever owns the file', async (t) => {
      const ends = await nodeServer(t)
      const theirs: string[] = []
      ends.server.on('keylog', (line) => theirs.push(line.toString('latin1').trimEnd()))
      const keyLog = t.path('keys')
      for (let round = 1; round <= 2; round++) {
        await echoed(t, ends.port, { ...options, keyLog, sessions: false })
        const ours = linesOf(keyLog)
        assert.deepEqual([...ours].sort(), [...theirs].sort())
        assert.equal(ours.length, round * (is12 ? 1 : 5), 'the second connection is behind the first')
        for (const line of ours) assert.match(line, /^[A-Z_0-9]+ [0-9a-f]{64} ([0-9a-f]{64}|[0-9a-f]{96})$/)
        assert.equal(
          ours.filter((line) => line.startsWith(is12 ? 'CLIENT_RANDOM ' : 'CLIENT_TRAFFIC_SECRET_0 ')).length,
          round,
        )
      }
      assert.equal(statSync(keyLog).mode & 0o777, 0o600)
    })

    test('of both sides says the same', async (t) => {
      const [atServer, atClient] = [t.path('keys'), t.path('keys')]
      const server = await t.serve(() => new ChunkEcho(), { tls: { ...serverOptions(), keyLog: atServer } })
      await echoed(t, portOf(server), { ...options, keyLog: atClient })
      assert.deepEqual(linesOf(atServer).sort(), linesOf(atClient).sort())
    })

    test('is nothing that the environment can ask for', async (t) => {
      const path = t.path('keys')
      const { env } = process as { env: { SSLKEYLOGFILE?: string } }
      const before = env.SSLKEYLOGFILE
      env.SSLKEYLOGFILE = path
      t.defer(() => {
        if (before === undefined) delete env.SSLKEYLOGFILE
        else env.SSLKEYLOGFILE = before
      })
      const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions() })
      await echoed(t, portOf(server), options)
      assert.equal(existsSync(path), false)
    })
  },
  ['tls1.2', 'tls1.3'],
)
