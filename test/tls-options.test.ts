import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createServer, createTlsClientContext, TlsError } from '../src/index.js'
import { parseConnectionOptions } from '../src/loop/connection-options.js'
import {
  TLS_ABANDONED,
  TLS_ALERT,
  TLS_CERT_EXPIRED,
  TLS_CERT_NAME,
  TLS_INTERNAL,
  TLS_NOT_TLS,
  TLS_TIMEOUT,
  TLS_TRUNCATED,
} from '../src/native/abi.js'
import { parseOptions } from '../src/server/options.js'
import { tlsTermsOf } from '../src/tls/client-context.js'
import { parseTlsClientOptions, readTlsClient } from '../src/tls/client-options.js'
import { tlsError } from '../src/tls/failures.js'
import type { FileStamps } from '../src/tls/material.js'
import { SharedTls } from '../src/tls/server-context.js'
import { parseTlsServerOptions, readTlsServer } from '../src/tls/server-options.js'
import { packError, unpackError } from '../src/workers/error-transfer.js'
import { authority, encrypted, identityOf, oldForm } from './harness/certificates.js'
import { type Defer, plainSuite } from './harness/plain.js'
import { assertCode, assertThrows } from './harness/suite.js'

const { cert, key, der, privateKey } = identityOf('server')
const server = (options: object = {}): ReturnType<typeof parseTlsServerOptions> =>
  parseTlsServerOptions({ cert, key, ...options }, 'tls.')
const client = (options: object = {}): ReturnType<typeof parseTlsClientOptions> =>
  parseTlsClientOptions(options, 'tls.')

function directory(defer: Defer): string {
  const path = mkdtempSync(join(tmpdir(), 'shardloop-tls-'))
  defer(() => rmSync(path, { recursive: true }))
  return path
}

/** Wrong options of a server, and what is said of them. */
const WRONG: readonly [options: unknown, message: RegExp][] = [
  [7, /^option tls: expected an object of options, given 7$/],
  [[], /^option tls: expected an object/],
  [{}, /^option tls\.cert: expected a certificate, and its key, given none$/],
  [{ cert }, /^option tls\.key: expected the private key of cert/],
  [{ key }, /^option tls\.cert: expected the certificate of key/],
  [{ passphrase: 'x' }, /^option tls\.passphrase: expected nothing without key/],
  [{ cert, key: 7 }, /^option tls\.key: expected PEM .*, given a number$/],
  [{ cert, key: null }, /^option tls\.key: .* given null$/],
  [{ cert, key: '' }, /^option tls\.key: .* given a text that is neither$/],
  [{ cert, key: new Uint8Array() }, /^option tls\.key: .* given no bytes$/],
  [{ cert: [], key }, /^option tls\.cert: .* given none$/],
  [{ cert: [cert, 7], key }, /^option tls\.cert\[1\]: .* given a number$/],
  [{ cert: new URL('https://example.com/cert.pem'), key }, /^option tls\.cert: .* given 'https:/],
  [{ cert, key, passphrase: 7 }, /^option tls\.passphrase: expected a string, given a number$/],
  [{ cert, key, alpn: 'h2' }, /^option tls\.alpn: expected 1 to 64 protocols' names .* given 'h2'$/],
  [{ cert, key, alpn: [] }, /^option tls\.alpn: /],
  [{ cert, key, alpn: [''] }, /^option tls\.alpn: /],
  [{ cert, key, alpn: ['x'.repeat(256)] }, /^option tls\.alpn: /],
  [{ cert, key, minVersion: 'TLSv1.1' }, /^option tls\.minVersion: expected 'TLSv1\.2' or 'TLSv1\.3', given/],
  [
    { cert, key, minVersion: 'TLSv1.3', maxVersion: 'TLSv1.2' },
    /^option tls\.minVersion: expected no more than maxVersion/,
  ],
  [{ cert, key, ciphers: 'AES' }, /^option tls\.ciphers: /],
  [{ cert, key, groups: [7] }, /^option tls\.groups: /],
  [
    { cert, key, clientCertificates: true },
    /^option tls\.clientCertificates: expected 'none' or 'optional' or 'required'/,
  ],
  [
    { cert, key, clientCertificates: 'required' },
    /^option tls\.ca: expected certificates of authorities, as clientCertificates is 'required'$/,
  ],
  [{ cert, key, ca: cert }, /^option tls\.ca: expected nothing without clientCertificates/],
  [{ cert, key, crl: cert }, /^option tls\.crl: expected nothing without clientCertificates/],
  [{ cert, key, sessions: 'cache' }, /^option tls\.sessions: /],
  [{ cert, key, sessionCacheSize: 0 }, /^option tls\.sessionCacheSize: expected an integer from 1 to/],
  [
    { cert, key, earlyDataBytes: 1024 },
    /^option tls\.earlyDataBytes: expected 0, as sessions is not 'stateful'/,
  ],
  [
    { cert, key, earlyDataBytes: 1, sessions: 'stateful', maxVersion: 'TLSv1.2' },
    /^option tls\.earlyDataBytes: .* maxVersion/,
  ],
  [{ cert, key, handshakeTimeoutMs: 0 }, /^option tls\.handshakeTimeoutMs: expected an integer from 1 to/],
  [{ cert, key, maxHandshakes: 0 }, /^option tls\.maxHandshakes: expected an integer from 1 to 1048576/],
  [{ cert, key, keyLog: '' }, /^option tls\.keyLog: expected the path of a file/],
  [{ cert, key, reload: 7 }, /^option tls\.reload: expected true, false or \{ everyMs \}/],
  [{ cert, key, reload: { everyMs: 49 } }, /^option tls\.reload\.everyMs: expected an integer from 50 to/],
  [
    { cert, key, reload: { every: 50 } },
    /^unknown option 'tls\.reload\.every'; known are tls\.reload\.everyMs$/,
  ],
  [{ cert, key, upgrade: 'yes' }, /^option tls\.upgrade: expected true or false/],
  [{ cert, key, sni: [] }, /^option tls\.sni: expected an object/],
  [{ cert, key, sni: { 'a b': { cert, key } } }, /^option tls\.sni: expected names of hosts/],
  [{ cert, key, sni: { '*.*.test': { cert, key } } }, /^option tls\.sni: expected names of hosts/],
  [
    { cert, key, sni: { 'a.test': { cert } } },
    /^option tls\.sni\['a\.test'\]\.key: expected the private key of cert/,
  ],
  [{ cert, key, sni: { 'a.test': {} } }, /^option tls\.sni\['a\.test'\]\.cert: expected a certificate/],
  [
    { cert, key, sni: { 'a.test': { cert, key, alpn: ['x'] } } },
    /^unknown option "tls\.sni\['a\.test'\]\.alpn";/,
  ],
  [{ sni: { 'a.test': { cert, key } }, ocsp: der }, /^option tls\.ocsp: expected nothing without cert/],
  [{ cert, key, servername: 'a.test' }, /^unknown option 'tls\.servername'; known are .*tls\.cert, /],
]

plainSuite('options of a TLS server', (test) => {
  for (const [options, message] of WRONG) {
    const shown = message.source.slice(1, 70)
    test(`are refused by name: ${shown}`, () => {
      assertThrows(() => parseTlsServerOptions(options, 'tls.'), 'ERR_SHARDLOOP_OPTION')
      assert.throws(() => parseTlsServerOptions(options, 'tls.'), { message })
    })
  }

  test('have the documented defaults', () => {
    const { certificates, ...rest } = server()
    assert.equal(certificates.length, 1)
    assert.deepEqual(rest, {
      alpn: [],
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.3',
      ciphers: null,
      groups: null,
      handshakeTimeoutMs: 10_000,
      keyLog: null,
      clientCertificates: 'none',
      ca: [],
      crl: [],
      sessions: 'tickets',
      sessionCacheSize: 20_480,
      earlyDataBytes: 0,
      maxHandshakes: 1_024,
      reloadEveryMs: 10_000,
      upgrade: false,
    })
    assert.equal(server({ reload: false }).reloadEveryMs, 0)
    assert.equal(server({ reload: { everyMs: 50 } }).reloadEveryMs, 50)
    assert.equal(parseOptions(() => ({}), {}, true).tls, null)
    assert.ok(Object.isFrozen(server()))
  })

  test('never show a key, whatever is wrong with it', () => {
    const secret = 'MHcCAQEEIbe'
    for (const wrong of [`${secret}\n${secret}`, { [secret]: secret }, [secret], Symbol(secret)]) {
      assert.throws(
        () => server({ key: wrong }),
        (error: Error) => !error.message.includes(secret) && error.message.startsWith('option tls.key'),
      )
    }
  })

  test('read nothing while they are checked, and name the file that cannot be read', async (defer) => {
    const path = join(directory(defer), 'none.pem')
    const settings = server({ cert: path })
    const files: FileStamps = new Map()
    assert.throws(
      () => readTlsServer(settings, files),
      /^ShardloopError: option tls\.cert: cannot read .*none\.pem: ENOENT/,
    )
    assert.deepEqual([...files], [[path, 'missing']])
    const error: unknown = await createServer(() => ({}), { shards: 0, tls: { cert: path, key } }).catch(
      (reason: unknown) => reason,
    )
    assert.match(assertCode(error, 'ERR_SHARDLOOP_OPTION').message, /cannot read .*none\.pem/)
  })

  test('take text, bytes, paths and URLs, and chains of several of them', (defer) => {
    const at = directory(defer)
    const [certPath, keyPath] = [join(at, 'cert.pem'), join(at, 'key.pem')]
    writeFileSync(certPath, cert)
    writeFileSync(keyPath, key)
    for (const given of [cert, Buffer.from(cert), certPath, pathToFileURL(certPath)]) {
      const files: FileStamps = new Map()
      const read = readTlsServer(server({ cert: given, key: pathToFileURL(keyPath) }), files)
      assert.equal(String(read.certificates[0]?.cert), cert)
      assert.equal(String(read.certificates[0]?.key), key)
      const isFile = given === certPath || given instanceof URL
      assert.deepEqual([...files.keys()].sort(), isFile ? [certPath, keyPath] : [keyPath])
    }
    const read = readTlsServer(server({ cert: [der, certPath] }), new Map())
    const blocks = String(read.certificates[0]?.cert).match(/-----BEGIN CERTIFICATE-----[^-]+-----END/g)
    assert.equal(blocks?.length, 2, 'DER in a chain becomes PEM')
    assert.equal(blocks?.[0], blocks?.[1])
    assert.equal(readTlsServer(server({ cert: der }), new Map()).certificates[0]?.cert.length, der.length)
  })

  test('bytes that are changed afterwards are not what is used', () => {
    const bytes = Buffer.from(key)
    const settings = server({ key: bytes })
    bytes.fill(0)
    assert.equal(String(readTlsServer(settings, new Map()).certificates[0]?.key), key)
  })

  test('decrypt keys with their passphrase, and say when it is missing or wrong', () => {
    const locked = encrypted(identityOf('server'), 'secret')
    const [certificate] = readTlsServer(server({ key: locked, passphrase: 'secret' }), new Map()).certificates
    assert.deepEqual(certificate?.key, privateKey.export({ type: 'pkcs8', format: 'der' }))
    const read =
      (options: object): (() => unknown) =>
      () =>
        readTlsServer(server(options), new Map())
    assert.throws(read({ key: locked }), /option tls\.key: the key is encrypted: give its passphrase/)
    assert.throws(
      read({ key: locked, passphrase: 'other' }),
      /option tls\.key: the key cannot be decrypted: /,
    )
    const asDer = privateKey.export({ type: 'pkcs8', format: 'der', cipher: 'aes-256-cbc', passphrase: 'x' })
    assert.ok(read({ key: asDer, passphrase: 'x' })())
  })

  test('certificates by name, with a default one or without', () => {
    const { certificates } = readTlsServer(
      server({ sni: { 'a.test': { cert, key }, '*.b.test': { cert, key, ocsp: der } } }),
      new Map(),
    )
    assert.deepEqual(
      certificates.map(({ names }) => names),
      [[], ['a.test'], ['*.b.test']],
    )
    assert.equal(certificates[2]?.ocsp?.length, der.length)
    const only = parseTlsServerOptions({ sni: { 'a.test': { cert, key } } }, 'tls.')
    assert.deepEqual(
      readTlsServer(only, new Map()).certificates.map(({ names }) => names),
      [['a.test']],
    )
  })

  test('that native code refuses are refused before anything starts, with what is wrong', async () => {
    const other = identityOf('rsa')
    const cases: [object, RegExp][] = [
      [{ cert, key: other.key }, /key does not belong to the certificate/],
      [{ cert: Buffer.from('x'), key }, /^option tls: /],
      [{ cert, key, ciphers: ['NO_SUCH_CIPHER'] }, /NO_SUCH_CIPHER.*TLS_AES_128_GCM_SHA256/],
      [{ cert, key, groups: ['P-1'] }, /P-1.*X25519/s],
    ]
    for (const [tls, message] of cases) {
      const error: unknown = await createServer(() => ({}), { shards: 0, tls }).catch(
        (reason: unknown) => reason,
      )
      assert.match(assertCode(error, 'ERR_SHARDLOOP_OPTION').message, message)
    }
  })

  test('keys in the old forms are taken', () => {
    for (const identity of [identityOf('server'), identityOf('rsa')]) {
      const settings = parseTlsServerOptions({ cert: identity.cert, key: oldForm(identity) }, 'tls.')
      new SharedTls(settings).close()
    }
  })
})

plainSuite('options of a TLS client', (test) => {
  test('have the documented defaults', () => {
    assert.deepEqual(client(), {
      identity: null,
      alpn: [],
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.3',
      ciphers: null,
      groups: null,
      handshakeTimeoutMs: 10_000,
      keyLog: null,
      servername: null,
      ca: [],
      crl: [],
      pins: [],
      sessions: true,
      acceptAnyCertificate: false,
      acceptAnyName: false,
    })
    const read = readTlsClient(client())
    assert.equal(read.ca, null, "the platform's verifier")
    assert.equal(read.sessionCacheSize, 1_024)
    assert.equal(readTlsClient(client({ sessions: false })).sessionCacheSize, 0)
  })

  test('are refused by name', () => {
    const pin = Buffer.alloc(32, 1).toString('base64')
    const cases: [object, RegExp][] = [
      [{ servername: '' }, /^option tls\.servername: expected the name of the host/],
      [{ servername: 'a b' }, /^option tls\.servername: /],
      [{ pinnedSpki: [pin.slice(2)] }, /^option tls\.pinnedSpki: expected 1 to 64 SHA-256 hashes/],
      [{ pinnedSpki: [`sha1/${pin}`] }, /^option tls\.pinnedSpki: /],
      [{ crl: cert }, /^option tls\.crl: expected nothing without ca/],
      [
        { dangerouslyAcceptAnyCertificate: 1 },
        /^option tls\.dangerouslyAcceptAnyCertificate: expected true or false/,
      ],
      [
        { dangerouslyAcceptAnyCertificate: true, ca: cert },
        /^option tls\.ca: expected nothing beside dangerously/,
      ],
      [{ cert }, /^option tls\.key: /],
      [{ rejectUnauthorized: false }, /^unknown option 'tls\.rejectUnauthorized'; known are /],
    ]
    for (const [options, message] of cases) {
      assertThrows(() => client(options), 'ERR_SHARDLOOP_OPTION')
      assert.throws(() => client(options), { message })
    }
    const pins = [`sha256/${pin}`, pin]
    assert.deepEqual(client({ pinnedSpki: pins }).pins, [Buffer.alloc(32, 1), Buffer.alloc(32, 1)])
  })

  test('one object of options is one context, and true is always the same one', () => {
    const options = { ca: authority().root }
    const context = tlsTermsOf(options, 'a.test')?.context
    assert.equal(tlsTermsOf(options, 'b.test')?.context, context)
    assert.notEqual(tlsTermsOf({ ...options }, 'a.test')?.context, context)
    assert.equal(tlsTermsOf(true, 'a.test')?.context, tlsTermsOf(true, 'b.test')?.context)
    assert.equal(tlsTermsOf(false, 'a.test'), null)
    assert.equal(tlsTermsOf(undefined, 'a.test'), null)
  })

  test('the name is that of the host, unless another one is given', () => {
    const ca = authority().root
    assert.equal(tlsTermsOf({ ca }, 'a.test')?.servername, 'a.test')
    assert.equal(tlsTermsOf({ ca, servername: 'b.test' }, 'a.test')?.servername, 'b.test')
    const context = createTlsClientContext({ ca, servername: 'b.test' })
    assert.equal(tlsTermsOf(context, 'a.test')?.servername, 'b.test')
    assert.equal(tlsTermsOf({ context, servername: 'c.test' }, 'a.test')?.servername, 'c.test')
    assert.throws(
      () => tlsTermsOf({ ca }, null),
      /option tls\.servername: expected the name of the host.*given none/,
    )
    assert.ok(tlsTermsOf({ dangerouslyAcceptAnyName: true }, null), 'nobody looks at it')
    assert.throws(
      () => tlsTermsOf({ context, ca }, 'a.test'),
      /option tls\.ca: expected nothing beside context/,
    )
    assert.throws(
      () => tlsTermsOf({ context: {} }, 'a.test'),
      /option tls\.context: expected a TlsClientContext/,
    )
    assert.throws(() => tlsTermsOf('yes', 'a.test'), /option tls: expected true, false, options/)
  })

  test('are an option of createConnection, and a socket needs a name', () => {
    const ca = authority().root
    assert.equal(parseConnectionOptions({ port: 1, host: 'a.test', tls: { ca } }).tls?.servername, 'a.test')
    assert.equal(parseConnectionOptions({ port: 1, host: 'a.test' }).tls, null)
    assertThrows(() => parseConnectionOptions({ socket: 99, tls: { ca } }), 'ERR_SHARDLOOP_OPTION')
  })
})

plainSuite('errors of TLS', (test) => {
  const peer = { address: '::1', port: 443, family: 'IPv6' } as const

  test('have a code, a reason and the peer by what native code tells', () => {
    const cases = [
      [TLS_TIMEOUT, 'ERR_SHARDLOOP_TLS_TIMEOUT', null],
      [TLS_TRUNCATED, 'ERR_SHARDLOOP_TLS_TRUNCATED', 'data'],
      [TLS_ABANDONED, 'ERR_SHARDLOOP_TLS_TRUNCATED', 'handshake'],
      [TLS_NOT_TLS, 'ERR_SHARDLOOP_TLS_PROTOCOL', 'not-tls'],
      [TLS_INTERNAL, 'ERR_SHARDLOOP_TLS_PROTOCOL', 'internal'],
      [TLS_CERT_EXPIRED, 'ERR_SHARDLOOP_TLS_CERTIFICATE', 'expired'],
      [TLS_CERT_NAME, 'ERR_SHARDLOOP_TLS_CERTIFICATE', 'wrong-name'],
      [104, 'ERR_SHARDLOOP_TLS_TRUNCATED', 'handshake'],
    ] as const
    for (const [told, code, reason] of cases) {
      const error = tlsError(told, 'connection 0-1', 'in detail', peer)
      assertCode(error, code)
      assert.equal(error.reason, reason)
      assert.equal(error.peer, peer)
      assert.match(error.message, /^TLS of connection 0-1 with \[::1\]:443: .* \(in detail\)$/)
    }
    const alert = tlsError(TLS_ALERT - 48, 'connection 0-1', null, null)
    assertCode(alert, 'ERR_SHARDLOOP_TLS_ALERT')
    assert.deepEqual([alert.alert, alert.alertNumber, alert.peer], ['unknown_ca', 48, null])
    assert.equal(tlsError(TLS_ALERT - 250, 'x', null, null).alert, 'alert_250')
  })

  test('are the same in another thread', () => {
    const sent = tlsError(TLS_ALERT - 42, 'connection 0-1', null, peer)
    const error = unpackError(structuredClone(packError(sent)))
    assert.ok(error instanceof TlsError)
    assert.deepEqual(
      [error.code, error.alert, error.alertNumber, error.reason, error.peer, error.blame],
      ['ERR_SHARDLOOP_TLS_ALERT', 'bad_certificate', 42, null, peer, 'peer'],
    )
    assert.ok(!(new Error('x') instanceof TlsError))
  })
})
