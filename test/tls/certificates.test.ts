/** Certificates that are not accepted, on either side: what both ends are told, and what is counted. */
import assert from 'node:assert/strict'
import type { TlsErrorReason } from '../../src/index.js'
import { authority, type IdentityName, identityOf, revocations } from '../harness/certificates.js'
import type { Client } from '../harness/client.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine, portOf } from '../harness/suite.js'
import { nodeOptions, serverOptions, type TlsVariant } from '../harness/tls.js'
import { assertTlsError, dialTls, Failures, nodeServer } from '../harness/tls-ends.js'

const VERSIONS: readonly TlsVariant[] = ['tls1.2', 'tls1.3']

/** What is wrong with each certificate, and the alert that tells the peer. */
const BAD: readonly [name: IdentityName, reason: TlsErrorReason, alert: RegExp][] = [
  ['expired', 'expired', /certificate expired/],
  ['notYetValid', 'not-yet-valid', /certificate expired|bad certificate/],
  ['selfSigned', 'untrusted', /unknown ca/],
  ['untrusted', 'untrusted', /unknown ca/],
  ['other', 'wrong-name', /bad certificate|certificate unknown/],
  ['revoked', 'revoked', /certificate revoked/],
  ['client', 'invalid', /bad certificate|unsupported certificate/],
]

forEachEngine("a server's certificate", (test) => {
  for (const version of VERSIONS) {
    for (const [name, reason, alert] of BAD) {
      test(`${version}: of kind ${name} is refused by a client of ours, and the server is told`, async (t) => {
        const { cert, key } = identityOf(name)
        const only = version === 'tls1.2' ? 'TLSv1.2' : 'TLSv1.3'
        const server = await nodeServer(t, { cert, key, minVersion: only, maxVersion: only }, () => {})
        const made = new Recorder()
        const failed = await dialTls(t, server.port, () => made, { crl: revocations() }).catch(
          (error: unknown) => error,
        )
        const error = assertTlsError(failed, { code: 'CERTIFICATE', reason })
        assert.deepEqual(error.peer, { address: '127.0.0.1', port: server.port, family: 'IPv4' })
        assert.deepEqual(made.events, [], 'no protocol has the connection')
        // With 1.3 the server is done before its certificate is looked at, and gets the alert as an error of the connection.
        if (version === 'tls1.2') {
          await server.until(() => server.errors.length > 0)
          assert.match(server.errors[0]?.message ?? '', alert)
        }
      })
    }
  }

  test('is taken, whatever it be, by who dangerously accepts any', async (t) => {
    for (const name of ['expired', 'selfSigned', 'untrusted', 'other'] as const) {
      const { cert, key } = identityOf(name)
      const server = await nodeServer(t, { cert, key })
      const [transport] = await t.loop.createConnection(() => new Recorder(), {
        engine: t.engine,
        host: '127.0.0.1',
        port: server.port,
        tls: { dangerouslyAcceptAnyCertificate: true },
      })
      assert.equal(transport.getExtraInfo('sslObject')?.authorized, false)
      assert.equal(transport.getExtraInfo('peercert')?.serialNumber, identityOf(name).serialNumber)
    }
  })

  test('of any name is taken by who dangerously accepts that, and nothing else that is wrong', async (t) => {
    const other = await nodeServer(t, { cert: identityOf('other').cert, key: identityOf('other').key })
    const any = { dangerouslyAcceptAnyName: true }
    await dialTls(t, other.port, () => new Recorder(), any)
    const expired = await nodeServer(t, { cert: identityOf('expired').cert, key: identityOf('expired').key })
    const failed = await dialTls(t, expired.port, () => new Recorder(), any).catch((error: unknown) => error)
    assertTlsError(failed, { code: 'CERTIFICATE', reason: 'expired' })
  })

  for (const version of VERSIONS) {
    test(`${version}: that a client refuses reaches the server as its alert, and others are served`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder(), { tls: serverOptions(version) })
      const failures = new Failures(accepting.server)
      const good = await t.join(accepting, { tls: nodeOptions() })
      const failed = await t.loop
        .createConnection(() => new Recorder(), {
          engine: t.engine,
          host: '127.0.0.1',
          port: portOf(accepting.server),
          tls: { servername: 'localhost', ca: identityOf('selfSigned').cert },
        })
        .catch((error: unknown) => error)
      assertTlsError(failed, { code: 'CERTIFICATE', reason: 'untrusted' })
      assertTlsError(await failures.at(0), { code: 'ALERT', alert: 'unknown_ca' })
      assert.equal(accepting.server.metrics().total.tls.failed.alert, 1)
      await good.client.write('still here')
      await good.protocol.receivedAtLeast(10)
    })
  }
})

/** Of a client; `null` for none. */
const BAD_CLIENTS: readonly [name: IdentityName | null, reason: TlsErrorReason, alert: RegExp][] = [
  [null, 'missing', /certificate required|handshake failure|bad certificate/],
  ['expiredClient', 'expired', /certificate expired/],
  ['notYetValidClient', 'not-yet-valid', /certificate expired|bad certificate/],
  ['untrustedClient', 'untrusted', /unknown ca/],
  ['revokedClient', 'revoked', /certificate revoked/],
  ['server', 'invalid', /bad certificate|unsupported certificate/],
]

forEachEngine("a client's certificate", (test) => {
  for (const version of VERSIONS) {
    const required = (): object => ({
      ...serverOptions(version),
      clientCertificates: 'required',
      ca: authority().root,
      crl: revocations(),
    })

    test(`${version}: that is good is told on the server`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder(), { tls: required() as never })
      const { cert, key, serialNumber } = identityOf('client')
      const { protocol } = await t.join(accepting, { tls: { ...nodeOptions(), cert, key } })
      const certificate = protocol.transport.getExtraInfo('peercert')
      assert.equal(certificate?.serialNumber, serialNumber)
      assert.equal(certificate?.subject, 'CN=a client')
      assert.equal(protocol.transport.getExtraInfo('sslObject')?.authorized, true)
      const [transport] = await dialTls(t, portOf(accepting.server), () => new Recorder(), { cert, key })
      assert.equal(transport.getExtraInfo('tlsVersion'), version === 'tls1.2' ? 'TLSv1.2' : 'TLSv1.3')
      await (await accepting.protocol(1)).noted('made')
      assert.equal(accepting.protocols[1]?.transport.getExtraInfo('peercert')?.serialNumber, serialNumber)
    })

    for (const [name, reason, alert] of BAD_CLIENTS) {
      const what = name === null ? 'that is missing' : `of kind ${name}`
      test(`${version}: ${what} is refused, told to both and counted; others are served`, async (t) => {
        const accepting = await t.serveEach(() => new Recorder(), { tls: required() as never })
        const { server } = accepting
        const failures = new Failures(server)
        const own = identityOf('client')
        const good = await t.join(accepting, { tls: { ...nodeOptions(), cert: own.cert, key: own.key } })
        const shown = name === null ? {} : { cert: identityOf(name).cert, key: identityOf(name).key }
        const refused = await t
          .connect(server, { tls: { ...nodeOptions(), ...shown } })
          .then(brokenBy, (error: Error) => error)
        assert.match(String(refused), alert)
        const error = assertTlsError(await failures.at(0), { code: 'CERTIFICATE', reason })
        assert.equal((error.peer as { address: string }).address, '127.0.0.1')
        assert.equal(accepting.protocols.length, 1, 'no protocol was made')
        const { failed } = server.metrics().total.tls
        assert.deepEqual({ ...failed, certificate: 0 }, NONE)
        assert.equal(failed.certificate, 1)
        await good.client.write('still here')
        await good.protocol.receivedAtLeast(10)
      })

      test(`${version}: ${what} is refused: a client of ours is told by an alert`, async (t) => {
        const accepting = await t.serveEach(() => new Recorder(), { tls: required() as never })
        const recorder = new Recorder()
        const shown = name === null ? {} : { cert: identityOf(name).cert, key: identityOf(name).key }
        // With 1.3 a client is done before the server has looked at its certificate.
        const failed = await dialTls(t, portOf(accepting.server), () => recorder, shown).then(
          () => recorder.lost(),
          (error: unknown) => error,
        )
        assertTlsError(failed, { code: 'ALERT' })
      })
    }
  }

  test('that is optional may be missing, but not bad', async (t) => {
    const tls = {
      ...serverOptions(),
      clientCertificates: 'optional',
      ca: authority().root,
    } as const
    const accepting = await t.serveEach(() => new Recorder(), { tls })
    const failures = new Failures(accepting.server)
    const without = await t.join(accepting, { tls: nodeOptions() })
    assert.equal(without.protocol.transport.getExtraInfo('peercert'), undefined)
    assert.equal(without.protocol.transport.getExtraInfo('sslObject')?.authorized, false)
    const { cert, key } = identityOf('client')
    const shown = await t.join(accepting, { tls: { ...nodeOptions(), cert, key } })
    assert.equal(shown.protocol.transport.getExtraInfo('sslObject')?.authorized, true)
    const bad = identityOf('untrustedClient')
    await t
      .connect(accepting.server, { tls: { ...nodeOptions(), cert: bad.cert, key: bad.key } })
      .then(brokenBy, (error: Error) => error)
    assertTlsError(await failures.at(0), { code: 'CERTIFICATE', reason: 'untrusted' })
  })
})

const NONE = { certificate: 0, alert: 0, protocol: 0, incompatible: 0, timeout: 0, abandoned: 0 }

/** What ended a connection that stood for its client. */
async function brokenBy(client: Client): Promise<Error | null> {
  await client.until(() => client.closed || client.error !== null || client.ended)
  return client.error
}
