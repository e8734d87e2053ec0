/** What two ends agree on: versions, ciphers, groups, names, protocols, keys; between ours and node:tls, both ways. */
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { connect, rootCertificates } from 'node:tls'
import type { TlsServerOptions } from '../../src/index.js'
import { authority, encrypted, identityOf, oldForm } from '../harness/certificates.js'
import { eventually } from '../harness/deferred.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine, portOf, type TestContext } from '../harness/suite.js'
import { clientOptions, nodeOptions, serverOptions } from '../harness/tls.js'
import { assertTlsError, dialTls, Failures, nodeServer } from '../harness/tls-ends.js'

function serve(t: TestContext, tls: Partial<TlsServerOptions> = {}) {
  return t.serveEach(() => new Recorder(), { tls: { ...serverOptions(), ...tls } })
}

forEachEngine('TLS of a server with clients of node:tls', (test) => {
  for (const variant of ['tls', 'tls1.2', 'tls1.3'] as const) {
    const version = variant === 'tls1.2' ? 'TLSv1.2' : 'TLSv1.3'
    test(`${variant}: what was agreed on is told alike by both`, async (t) => {
      const accepting = await serve(t)
      const { client, protocol } = await t.join(accepting, { tls: nodeOptions(variant) })
      const { secure } = client
      const { transport } = protocol
      assert.equal(secure.getProtocol(), version)
      assert.equal(transport.getExtraInfo('tlsVersion'), version)
      assert.deepEqual(transport.getExtraInfo('cipher'), {
        name: secure.getCipher().standardName,
        version,
      })
      assert.equal(transport.getExtraInfo('servername'), 'localhost')
      assert.equal(transport.getExtraInfo('sessionReused'), false)
      assert.equal(transport.getExtraInfo('alpn'), undefined)
      assert.equal(transport.getExtraInfo('peercert'), undefined)
      const session = transport.getExtraInfo('sslObject')
      assert.equal(session?.version, version)
      assert.equal(session?.earlyData, false)
      assert.equal(typeof session?.group, 'string')
      assert.equal(secure.getPeerCertificate().serialNumber, identityOf('server').serialNumber)
      const { tls } = accepting.server.metrics().total
      assert.deepEqual([tls.handshakes, tls.resumed, tls.truncated], [1, 0, 0])
    })

    test(`a server of ${variant} only takes no other`, async (t) => {
      const accepting = await serve(t, serverOptions(variant))
      await t.join(accepting, { tls: nodeOptions(variant) })
      if (variant === 'tls') return
      const failures = new Failures(accepting.server)
      const other = variant === 'tls1.2' ? 'tls1.3' : 'tls1.2'
      await assert.rejects(
        () => t.connect(accepting.server, { tls: nodeOptions(other) }),
        /alert protocol version/,
      )
      assertTlsError(await failures.at(0), { code: 'INCOMPATIBLE', reason: 'parameters' })
      assert.equal(accepting.server.metrics().total.tls.failed.incompatible, 1)
    })
  }

  for (const kind of ['server', 'rsa', 'ed25519', 'chained'] as const) {
    for (const variant of ['tls1.2', 'tls1.3'] as const) {
      test(`${variant}: a certificate of kind ${kind} is verified`, async (t) => {
        const { cert, key } = identityOf(kind)
        const accepting = await serve(t, { cert, key })
        const { client } = await t.join(accepting, { tls: nodeOptions(variant) })
        assert.equal(client.secure.authorized, true)
        assert.equal(client.secure.getPeerCertificate().serialNumber, identityOf(kind).serialNumber)
        await client.write('x')
        await accepting.protocols[0]?.receivedAtLeast(1)
      })
    }
  }

  test('keys as PKCS#8, PKCS#1 and SEC1, encrypted, and as DER', async (t) => {
    const [elliptic, rsa] = [identityOf('server'), identityOf('rsa')]
    const keys: Partial<TlsServerOptions>[] = [
      { cert: elliptic.cert, key: elliptic.key },
      { cert: elliptic.cert, key: oldForm(elliptic) },
      { cert: rsa.cert, key: rsa.key },
      { cert: rsa.cert, key: oldForm(rsa) },
      { cert: rsa.cert, key: encrypted(rsa, 'open sesame'), passphrase: 'open sesame' },
      { cert: elliptic.der, key: elliptic.privateKey.export({ type: 'pkcs8', format: 'der' }) },
    ]
    for (const tls of keys) {
      const { client } = await t.join(await serve(t, tls), { tls: nodeOptions() })
      assert.equal(client.secure.authorized, true)
    }
  })

  test('a cipher that was asked for is taken, and none in common is told to both', async (t) => {
    const accepting = await serve(t, {
      ciphers: ['TLS_AES_128_GCM_SHA256', 'TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256'],
    })
    for (const variant of ['tls1.2', 'tls1.3'] as const) {
      const { client, protocol } = await t.join(accepting, { tls: nodeOptions(variant) })
      assert.match(client.secure.getCipher().standardName, /AES_128_GCM_SHA256$/)
      assert.equal(protocol.transport.getExtraInfo('cipher')?.name, client.secure.getCipher().standardName)
    }
    const failures = new Failures(accepting.server)
    const tls = { ...nodeOptions('tls1.3'), ciphers: 'TLS_CHACHA20_POLY1305_SHA256' }
    await assert.rejects(() => t.connect(accepting.server, { tls }), /alert handshake failure/)
    assertTlsError(await failures.at(0), { code: 'INCOMPATIBLE', reason: 'parameters' })
  })

  test('groups by name: the one of both is taken, by a second hello where it must be', async (t) => {
    const accepting = await serve(t, { groups: ['secp384r1', 'X25519'] })
    const { protocol } = await t.join(accepting, { tls: { ...nodeOptions(), ecdhCurve: 'P-256:P-384' } })
    assert.match(protocol.transport.getExtraInfo('sslObject')?.group ?? '', /384/)
    const failures = new Failures(accepting.server)
    const tls = { ...nodeOptions(), ecdhCurve: 'P-521' }
    await assert.rejects(() => t.connect(accepting.server, { tls }), /alert handshake failure/)
    assertTlsError(await failures.at(0), { code: 'INCOMPATIBLE', reason: 'parameters' })
  })

  test("ALPN: the server's order counts; none in common is an alert; clients without it come in", async (t) => {
    const accepting = await serve(t, { alpn: ['h2', 'http/1.1'] })
    const { client, protocol } = await t.join(accepting, {
      tls: { ...nodeOptions(), ALPNProtocols: ['http/1.1', 'h2'] },
    })
    assert.equal(client.secure.alpnProtocol, 'h2')
    assert.equal(protocol.transport.getExtraInfo('alpn'), 'h2')
    const plain = await t.join(accepting, { tls: nodeOptions() })
    assert.equal(plain.protocol.transport.getExtraInfo('alpn'), undefined)
    const failures = new Failures(accepting.server)
    const tls = { ...nodeOptions(), ALPNProtocols: ['smtp'] }
    await assert.rejects(() => t.connect(accepting.server, { tls }), /no application protocol/)
    assertTlsError(await failures.at(0), { code: 'INCOMPATIBLE', reason: 'alpn' })
  })

  test('SNI: exact names, one label under a wildcard, and the default one for all else', async (t) => {
    const [wild, other, server] = [identityOf('wild'), identityOf('other'), identityOf('server')]
    const accepting = await serve(t, {
      sni: {
        'other.test': { cert: other.cert, key: other.key },
        '*.wild.test': { cert: wild.cert, key: wild.key },
      },
    })
    for (const [servername, expected] of [
      ['other.test', other],
      ['OTHER.test', other],
      ['a.wild.test', wild],
      ['b.wild.test', wild],
      ['a.b.wild.test', server],
      ['wild.test', server],
      ['unknown.test', server],
    ] as const) {
      const tls = { ...nodeOptions(), servername, checkServerIdentity: () => undefined }
      const { client, protocol } = await t.join(accepting, { tls })
      assert.equal(client.secure.getPeerCertificate().serialNumber, expected.serialNumber, servername)
      assert.equal(protocol.transport.getExtraInfo('servername'), servername.toLowerCase())
    }
  })

  test('SNI without a default certificate: who asks for another name, or for none, is refused by an alert', async (t) => {
    const { cert, key } = identityOf('other')
    const accepting = await t.serveEach(() => new Recorder(), {
      tls: { sni: { 'other.test': { cert, key } } },
    })
    await t.join(accepting, { tls: { ...nodeOptions(), servername: 'other.test' } })
    const failures = new Failures(accepting.server)
    for (const [at, servername] of ['unknown.test', ''].entries()) {
      const tls = { ...nodeOptions(), servername, checkServerIdentity: () => undefined }
      await assert.rejects(() => t.connect(accepting.server, { tls }), /alert/)
      assertTlsError(await failures.at(at), { code: 'INCOMPATIBLE', reason: 'no-certificate' })
    }
  })

  test('an OCSP answer is stapled for who asks', async (t) => {
    const ocsp = Buffer.from('what an authority has said')
    const accepting = await serve(t, { ocsp })
    const asking: object = { ...nodeOptions(), requestOCSP: true }
    const socket = connect({ ...asking, host: '127.0.0.1', port: portOf(accepting.server) })
    t.defer(() => void socket.destroy())
    const stapled = await new Promise((resolve, reject) => {
      socket.on('OCSPResponse', resolve)
      socket.on('error', reject)
    })
    assert.deepEqual(stapled, ocsp)
  })

  test('secrets are logged by explicit option, and only then', async (t) => {
    const keyLog = t.path('keys')
    const accepting = await serve(t, { keyLog })
    const { client } = await t.join(accepting, { tls: nodeOptions() })
    await client.write('x')
    await eventually(() => {
      const text = readFileSync(keyLog, 'utf8')
      return /^CLIENT_TRAFFIC_SECRET_0 [0-9a-f]{64} [0-9a-f]{64,96}$/m.test(text)
    })
  })
})

forEachEngine('TLS of a client with servers of node:tls', (test) => {
  for (const variant of ['tls', 'tls1.2', 'tls1.3'] as const) {
    const version = variant === 'tls1.2' ? 'TLSv1.2' : 'TLSv1.3'
    test(`${variant}: what was agreed on is told alike by both, and data comes back`, async (t) => {
      const server = await nodeServer(t, { ALPNProtocols: ['other', 'echo'] })
      const [transport, protocol] = await dialTls(t, server.port, () => new Recorder(), {
        ...clientOptions(variant),
        alpn: ['echo'],
      })
      const socket = await server.socket(0)
      assert.equal(transport.getExtraInfo('tlsVersion'), version)
      assert.equal(transport.getExtraInfo('cipher')?.name, socket.getCipher().standardName)
      assert.equal(transport.getExtraInfo('alpn'), 'echo')
      assert.equal(socket.alpnProtocol, 'echo')
      assert.equal((socket as { servername?: string }).servername, 'localhost')
      const certificate = transport.getExtraInfo('peercert')
      assert.ok(certificate instanceof X509Certificate)
      assert.equal(certificate.serialNumber, identityOf('server').serialNumber)
      assert.equal(transport.getExtraInfo('sslObject')?.authorized, true)
      const data = t.random.bytes(300_000)
      transport.write(data)
      assert.deepEqual(await protocol.receivedAtLeast(data.length), data)
      transport.close()
      assert.equal(await protocol.lost(), null)
    })
  }

  for (const variant of ['tls1.2', 'tls1.3'] as const) {
    test(`${variant}: an OCSP answer is asked for, and nobody looks at it`, async (t) => {
      const ends = await nodeServer(t)
      let asked = 0
      ends.server.on('OCSPRequest', (_certificate, _issuer, answer) => {
        asked++
        answer(null, Buffer.from('no answer of any authority'))
      })
      const [transport, protocol] = await dialTls(t, ends.port, () => new Recorder(), clientOptions(variant))
      transport.write('x')
      await protocol.receivedAtLeast(1)
      assert.equal(asked, 1)
      assert.equal(transport.getExtraInfo('sslObject')?.authorized, true)
    })
  }

  test('versions, ciphers and groups that the server has not: incompatible, or its alert', async (t) => {
    const server = await nodeServer(t, { maxVersion: 'TLSv1.2' })
    const failed = await dialTls(t, server.port, () => new Recorder(), { minVersion: 'TLSv1.3' }).catch(
      (error: unknown) => error,
    )
    const { peer } = assertTlsError(failed, { code: 'ALERT', alert: 'protocol_version' })
    assert.deepEqual(peer, { address: '127.0.0.1', port: server.port, family: 'IPv4' })
    const only = await nodeServer(t, { ciphers: 'TLS_AES_256_GCM_SHA384', minVersion: 'TLSv1.3' })
    const none = await dialTls(t, only.port, () => new Recorder(), {
      ciphers: ['TLS_CHACHA20_POLY1305_SHA256'],
    }).catch((error: unknown) => error)
    assertTlsError(none, { code: 'ALERT', alert: 'handshake_failure' })
  })

  test('a protocol of ALPN that the server has not is its alert', async (t) => {
    const server = await nodeServer(t, { ALPNProtocols: ['h2'] })
    const failed = await dialTls(t, server.port, () => new Recorder(), { alpn: ['smtp'] }).catch(
      (e: unknown) => e,
    )
    assertTlsError(failed, { code: 'ALERT', alert: 'no_application_protocol' })
  })

  for (const kind of ['server', 'rsa', 'ed25519', 'chained'] as const) {
    test(`a certificate of kind ${kind} is verified`, async (t) => {
      const { cert, key } = identityOf(kind)
      const server = await nodeServer(t, { cert, key })
      const [transport] = await dialTls(t, server.port, () => new Recorder())
      assert.equal(transport.getExtraInfo('peercert')?.serialNumber, identityOf(kind).serialNumber)
    })
  }

  test('an address may be what the certificate is for', async (t) => {
    const server = await nodeServer(t)
    const [transport] = await t.loop.createConnection(() => new Recorder(), {
      engine: t.engine,
      host: '127.0.0.1',
      port: server.port,
      tls: { ca: authority().root },
    })
    assert.equal(transport.getExtraInfo('sslObject')?.authorized, true)
    assert.equal(transport.getExtraInfo('servername') ?? null, null)
  })

  test('a key that is pinned is taken, and another one is not', async (t) => {
    const server = await nodeServer(t)
    const { spki } = identityOf('server')
    await dialTls(t, server.port, () => new Recorder(), { pinnedSpki: [`sha256/${spki}`] })
    const other = identityOf('other').spki
    await dialTls(t, server.port, () => new Recorder(), { pinnedSpki: [other, spki] })
    const failed = await dialTls(t, server.port, () => new Recorder(), { pinnedSpki: [other] }).catch(
      (error: unknown) => error,
    )
    assertTlsError(failed, { code: 'CERTIFICATE', reason: 'pin' })
  })

  test("without ca the system's authorities count, which do not know ours", async (t) => {
    assert.ok(rootCertificates.length > 0)
    const server = await nodeServer(t)
    const failed = await t.loop
      .createConnection(() => new Recorder(), {
        engine: t.engine,
        host: '127.0.0.1',
        port: server.port,
        tls: { servername: 'localhost' },
      })
      .catch((error: unknown) => error)
    assertTlsError(failed, { code: 'CERTIFICATE', reason: 'untrusted' })
  })
})
