/** Sessions that are resumed: on whatever shard, by clients of Node and of ours, and when they must not be. */
import assert from 'node:assert/strict'
import type { Server, TlsServerOptions } from '../../src/index.js'
import { createTlsClientContext } from '../../src/index.js'
import type { TlsAnswer } from '../fixtures/servers/tls-module.js'
import { authority, identityOf } from '../harness/certificates.js'
import { Client } from '../harness/client.js'
import { eventually } from '../harness/deferred.js'
import { ChunkEcho } from '../harness/echo-protocols.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine, portOf, type TestContext } from '../harness/suite.js'
import { clientOptions, nodeOptions, serverOptions, type TlsVariant } from '../harness/tls.js'
import { dialTls, nodeServer } from '../harness/tls-ends.js'

const MODULE = new URL('../fixtures/servers/tls-module.js', import.meta.url)
const SHARDS = 2
const FEW = 40

function serve(t: TestContext, tls: Partial<TlsServerOptions>): Promise<Server> {
  return t.serve(MODULE, { shards: SHARDS, tls: { ...serverOptions(), ...tls } })
}

/** One visit by node:tls: what the server says, and the sessions that it gave. */
async function visit(
  t: TestContext,
  server: Server,
  version: TlsVariant,
  session?: Buffer,
): Promise<{ answer: TlsAnswer; clientReused: boolean; sessions: Buffer[] }> {
  const client = await Client.open(portOf(server), {
    tls: { ...nodeOptions(version), ...(session !== undefined && { session }) },
  })
  t.defer(() => client.destroy())
  const sessions: Buffer[] = []
  client.secure.on('session', (given: Buffer) => sessions.push(given))
  await client.write('hello\n')
  const answer = JSON.parse(await client.readLine()) as TlsAnswer
  const own = client.secure.getSession()
  if (sessions.length === 0 && own !== undefined) sessions.push(own)
  const clientReused = client.secure.isSessionReused()
  client.end()
  await client.readToEnd()
  return { answer, clientReused, sessions }
}

forEachEngine('resumption of a session', (test) => {
  for (const version of ['tls1.2', 'tls1.3'] as const) {
    for (const sessions of ['tickets', 'stateful'] as const) {
      test(`${version}, ${sessions}: on a shard other than the one that gave it`, async (t) => {
        const server = await serve(t, { sessions })
        let session: Buffer | undefined
        let givenBy = -1
        let [elsewhere, resumed, full] = [0, 0, 0]
        for (let round = 0; round < 400 && elsewhere < 4; round++) {
          const { answer, clientReused, sessions: given } = await visit(t, server, version, session)
          assert.equal(answer.reused, clientReused)
          if (answer.reused) {
            resumed += 1
            if (answer.shard !== givenBy) elsewhere += 1
          } else full += 1
          session = given.at(-1)
          givenBy = answer.shard
          assert.ok(session !== undefined, 'it gave a session')
        }
        assert.ok(elsewhere >= 4, `${resumed} were resumed, ${elsewhere} of them on another shard`)
        assert.equal(full, 1, 'all but the first one were resumed')
        await eventually(() => server.metrics().total.tls.handshakes === resumed + full)
        assert.equal(server.metrics().total.tls.resumed, resumed)
      })
    }

    test(`${version}: none is resumed where there are none`, async (t) => {
      const server = await serve(t, { sessions: 'none' })
      let session: Buffer | undefined
      for (let round = 0; round < 4; round++) {
        const { answer, sessions: given } = await visit(t, server, version, session)
        assert.equal(answer.reused, false)
        session = given.at(-1)
      }
      assert.equal(server.metrics().total.tls.resumed, 0)
    })

    test(`${version}: a client of ours resumes by one context, and not by two`, async (t) => {
      const server = await serve(t, {})
      const context = createTlsClientContext(clientOptions(version))
      let reused = 0
      for (let round = 0; round < FEW; round++) {
        const own = round < 2 ? createTlsClientContext(clientOptions(version)) : context
        const { answer, mine } = await ask(t, server, own)
        assert.equal(answer.reused, mine)
        if (mine) reused += 1
        if (round <= 2) assert.equal(mine, false, 'the first of its context')
      }
      assert.equal(reused, FEW - 3)
      await eventually(() => server.metrics().total.tls.handshakes === FEW)
      assert.equal(server.metrics().total.tls.resumed, reused)
    })

    test(`${version}: a client without sessions resumes none`, async (t) => {
      const server = await serve(t, {})
      const context = createTlsClientContext({ ...clientOptions(version), sessions: false })
      for (let round = 0; round < 4; round++) assert.equal((await ask(t, server, context)).mine, false)
    })

    test(`${version}: a client of ours resumes with node:tls`, async (t) => {
      const only = version === 'tls1.2' ? 'TLSv1.2' : 'TLSv1.3'
      const server = await nodeServer(t, { minVersion: only, maxVersion: only })
      const context = createTlsClientContext(clientOptions())
      const reused: (boolean | undefined)[] = []
      for (let round = 0; round < 3; round++) {
        const [transport, protocol] = await dialTls(
          t,
          server.port,
          () => new Recorder(),
          {},
          { tls: context },
        )
        transport.write('x')
        await protocol.receivedAtLeast(1)
        reused.push(transport.getExtraInfo('sessionReused'))
        assert.equal((await server.socket(round)).isSessionReused(), reused[round])
        transport.close()
        await protocol.lost()
      }
      assert.deepEqual(reused, [false, true, true])
    })
  }

  test('goes on over a reload, but not when who may connect has changed', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions() })
    const first = await sessionOf(t, server)
    const { cert, key } = identityOf('rsa')
    await server.reloadTls({ cert, key })
    const second = await sessionOf(t, server, first.session)
    assert.equal(second.reused, true, 'another certificate does not matter')
    await server.reloadTls({ cert, key, clientCertificates: 'optional', ca: authority().root })
    const third = await sessionOf(t, server, second.session)
    assert.equal(third.reused, false, 'who may connect has changed')
  })
})

async function ask(
  t: TestContext,
  server: Server,
  context: ReturnType<typeof createTlsClientContext>,
): Promise<{ answer: TlsAnswer; mine: boolean | undefined }> {
  const [transport, protocol] = await dialTls(t, portOf(server), () => new Recorder(), {}, { tls: context })
  transport.write('hello\n')
  await protocol.until(() => protocol.bytes.includes(10))
  const mine = transport.getExtraInfo('sessionReused')
  transport.close()
  await protocol.lost()
  return { answer: JSON.parse(protocol.bytes.toString()) as TlsAnswer, mine }
}

async function sessionOf(
  t: TestContext,
  server: Server,
  session?: Buffer,
): Promise<{ reused: boolean; session: Buffer }> {
  const client = await t.connect(server, {
    tls: { ...nodeOptions(), ...(session !== undefined && { session }) },
  })
  const given = new Promise<Buffer>((resolve) => client.secure.once('session', resolve))
  await client.write('x')
  await client.readExactly(1)
  const own = await given
  const reused = client.secure.isSessionReused()
  client.end()
  await client.readToEnd()
  return { reused, session: own }
}
