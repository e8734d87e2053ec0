/** OpenSSL's own programs at the other end: s_client and s_server. */
import assert from 'node:assert/strict'
import type { Server } from '../../src/index.js'
import { authority, identityOf } from '../harness/certificates.js'
import type { Child } from '../harness/child.js'
import { ChunkEcho } from '../harness/echo-protocols.js'
import { authorityFile, identityFiles, OPENSSL } from '../harness/programs.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine, portOf, type SuiteTests, type TestContext } from '../harness/suite.js'
import { nodeOptions, serverOptions } from '../harness/tls.js'
import { assertTlsError, dialTls, Failures } from '../harness/tls-ends.js'

const VERSIONS = [
  ['TLSv1.2', '-tls1_2'],
  ['TLSv1.3', '-tls1_3'],
] as const

/** An s_client that verifies, and stays until the server's end or its own. */
function sClient(t: TestContext, server: Server, args: readonly string[] = []): Child {
  const verifying = ['-CAfile', authorityFile(t), '-verify_return_error', '-verify_hostname', 'localhost']
  const to = ['-connect', `127.0.0.1:${portOf(server)}`, '-servername', 'localhost']
  return t.spawn(['s_client', ...to, ...verifying, ...args], { command: OPENSSL.command })
}

/** What it prints when it is connected; behind it come tickets, between which data may begin in the middle of a line. */
async function connected(child: Child): Promise<void> {
  await child.line(/^\s*Verify return code: 0 \(ok\)$/)
}

/** An s_server on a port of its own. */
async function sServer(
  t: TestContext,
  args: readonly string[] = [],
): Promise<{ child: Child; port: number }> {
  const { cert, key } = identityFiles(t, identityOf('server'))
  const own = args.includes('-cert') ? [] : ['-cert', cert, '-key', key]
  const child = t.spawn(['s_server', '-accept', '127.0.0.1:0', ...own, ...args], { command: OPENSSL.command })
  const [, port] = await child.line(/^ACCEPT .*:(\d+)$/)
  return { child, port: Number(port) }
}

forEachEngine('openssl s_client with a server of ours', (test) => {
  const define = only(test)

  for (const [version, flag] of VERSIONS) {
    define(`${version}: an echo, and the client ends first`, async (t) => {
      const accepting = await t.serveEach(() => new Echoing(), { tls: serverOptions() })
      const child = sClient(t, accepting.server, [flag])
      await connected(child)
      child.send('hello from openssl')
      await child.line(/hello from openssl$/)
      child.process.stdin.end()
      const protocol = await accepting.protocol(0)
      assert.equal(await protocol.lost(), null)
      assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
      assert.equal(protocol.version, version)
      assert.equal((await child.untilExit()).code, 0, child.describe())
      assert.match(child.stdout, new RegExp(`${version.replace('.', '\\.')}`))
    })

    define(`${version}: the server ends first, with all it has sent`, async (t) => {
      class Ending extends Recorder {
        override connectionMade(transport: Recorder['transport']): void {
          super.connectionMade(transport)
          transport.write('all that there is\n')
          transport.close()
        }
      }
      const accepting = await t.serveEach(() => new Ending(), { tls: serverOptions() })
      const child = sClient(t, accepting.server, [flag])
      await child.line(/all that there is$/)
      assert.equal((await child.untilExit()).code, 0, child.describe())
      assert.match(child.stdout + child.stderr, /closed|DONE/)
      assert.equal(await (await accepting.protocol(0)).lost(), null)
    })

    define(`${version}: a session is kept in a file, and resumed`, async (t) => {
      const accepting = await t.serveEach(() => new Echoing(), { tls: serverOptions() })
      const session = t.path('session')
      for (const [round, args] of [
        ['-sess_out', session],
        ['-sess_in', session],
      ].entries()) {
        const child = sClient(t, accepting.server, [flag, ...args])
        await connected(child)
        child.send('hello')
        await child.line(/hello$/)
        child.process.stdin.end()
        assert.equal((await child.untilExit()).code, 0, child.describe())
        const protocol = await accepting.protocol(round)
        assert.equal(protocol.reused, round === 1)
        assert.match(child.stdout, round === 1 ? /^Reused, /m : /^New, /m)
      }
    })

    define(`${version}: its certificate is required, and verified`, async (t) => {
      const accepting = await t.serveEach(() => new Echoing(), {
        tls: { ...serverOptions(), clientCertificates: 'required', ca: authority().root },
      })
      const failures = new Failures(accepting.server)
      const { cert, key } = identityFiles(t, identityOf('client'))
      const good = sClient(t, accepting.server, [flag, '-cert', cert, '-key', key])
      await connected(good)
      good.send('hello')
      await good.line(/hello$/)
      assert.equal(accepting.protocols[0]?.transport.getExtraInfo('peercert')?.subject, 'CN=a client')
      const none = sClient(t, accepting.server, [flag])
      assertTlsError(await failures.at(0), { code: 'CERTIFICATE', reason: 'missing' })
      const { code } = await none.untilExit()
      assert.equal(code, 1, none.describe())
      assert.match(none.stderr, /alert (certificate required|handshake failure|bad certificate)/)
    })
  }

  define('ALPN, SNI, ciphers and groups', async (t) => {
    const wild = identityOf('wild')
    const accepting = await t.serveEach(() => new Echoing(), {
      tls: {
        ...serverOptions(),
        alpn: ['one', 'two'],
        sni: { '*.wild.test': { cert: wild.cert, key: wild.key } },
      },
    })
    const args = ['-alpn', 'two,three', '-ciphersuites', 'TLS_AES_128_GCM_SHA256', '-groups', 'P-384']
    const child = t.spawn(
      [
        ...['s_client', '-connect', `127.0.0.1:${portOf(accepting.server)}`, '-servername', 'a.wild.test'],
        ...['-CAfile', authorityFile(t), '-verify_return_error', '-verify_hostname', 'a.wild.test', ...args],
      ],
      { command: OPENSSL.command },
    )
    await connected(child)
    await child.line(/^ALPN protocol: two$/)
    const { transport } = await accepting.protocol(0)
    assert.equal(transport.getExtraInfo('alpn'), 'two')
    assert.equal(transport.getExtraInfo('servername'), 'a.wild.test')
    assert.equal(transport.getExtraInfo('cipher')?.name, 'TLS_AES_128_GCM_SHA256')
    assert.match(transport.getExtraInfo('sslObject')?.group ?? '', /384/)
  })

  define('renegotiation (1.2) is refused, and others are served', async (t) => {
    const accepting = await t.serveEach(() => new Echoing(), { tls: serverOptions() })
    const other = await t.join(accepting, { tls: nodeOptions() })
    const child = sClient(t, accepting.server, ['-tls1_2'])
    await connected(child)
    child.send('R')
    await child.untilExit()
    assert.match(child.stderr, /RENEGOTIATING[\s\S]*no renegotiation/, child.describe())
    await (await accepting.protocol(1)).lost()
    await other.client.write('still here')
    assert.equal((await other.client.readExactly(10)).toString(), 'still here')
  })

  define('key updates (1.3), of its own and asked for, are answered', async (t) => {
    const accepting = await t.serveEach(() => new Echoing(), { tls: serverOptions() })
    const child = sClient(t, accepting.server, ['-tls1_3'])
    await connected(child)
    for (let round = 0; round < 20; round++) {
      // A command is what comes alone; the echo says that it was read.
      const seen = child.stderr.split('KEYUPDATE').length
      child.send(round % 2 === 0 ? 'K' : 'k')
      await child.until(() => child.stderr.split('KEYUPDATE').length > seen)
      child.send(`line ${round}`)
      await child.line(new RegExp(`line ${round}$`))
    }
  })

  define('a certificate that it does not trust ends it, and the server is told by an alert', async (t) => {
    const { cert, key } = identityOf('untrusted')
    const server = await t.serve(() => new ChunkEcho(), { tls: { cert, key } })
    const failures = new Failures(server)
    const child = sClient(t, server)
    assert.equal((await child.untilExit()).code, 1)
    assertTlsError(await failures.at(0), { code: 'ALERT', alert: 'unknown_ca' })
  })

  define('a version that the server has not', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions('tls1.3') })
    const failures = new Failures(server)
    const child = sClient(t, server, ['-tls1_2'])
    assert.equal((await child.untilExit()).code, 1)
    assert.match(child.stderr, /alert protocol version/)
    assertTlsError(await failures.at(0), { code: 'INCOMPATIBLE', reason: 'parameters' })
  })
})

forEachEngine('a client of ours with openssl s_server', (test) => {
  const define = only(test)

  for (const [version, flag] of VERSIONS) {
    define(`${version}: lines come back reversed, and we end first`, async (t) => {
      const { child, port } = await sServer(t, [flag, '-rev', '-naccept', '1'])
      const [transport, protocol] = await dialTls(t, port, () => new Recorder())
      assert.equal(transport.getExtraInfo('tlsVersion'), version)
      transport.write('hello\n')
      assert.equal((await protocol.receivedAtLeast(6)).toString(), 'olleh\n')
      transport.close()
      assert.equal(await protocol.lost(), null)
      await child.untilExit()
    })

    define(`${version}: the server ends first`, async (t) => {
      const { port } = await sServer(t, [flag, '-rev'])
      const [transport, protocol] = await dialTls(t, port, () => new Recorder())
      transport.write('hello\n')
      await protocol.receivedAtLeast(6)
      // By this line it ends the connection.
      transport.write('CLOSE\n')
      assert.equal(await protocol.lost(), null)
      assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
    })

    define(`${version}: the server closes its socket before it says so: that is truncation`, async (t) => {
      const { child, port } = await sServer(t, [flag])
      const [transport, protocol] = await dialTls(t, port, () => new Recorder())
      transport.write('hello\n')
      await child.line(/^hello$/)
      child.send('Q')
      assertTlsError(await protocol.lost(), { code: 'TRUNCATED', reason: 'data' })
      await child.untilExit()
    })

    define(
      `${version}: shows its certificate where it is required, and fails by an alert without`,
      async (t) => {
        const required = [flag, '-rev', '-Verify', '1', '-verify_return_error', '-CAfile', authorityFile(t)]
        const { port } = await sServer(t, required)
        const { cert, key } = identityOf('client')
        const [transport, protocol] = await dialTls(t, port, () => new Recorder(), { cert, key })
        transport.write('hello\n')
        assert.equal((await protocol.receivedAtLeast(6)).toString(), 'olleh\n')
        transport.close()
        await protocol.lost()
        const refused = new Recorder()
        const failed = await dialTls(t, port, () => refused).then(
          () => refused.lost(),
          (error: unknown) => error,
        )
        assertTlsError(failed, { code: 'ALERT' })
      },
    )
  }

  define('ALPN', async (t) => {
    const { port } = await sServer(t, ['-rev', '-alpn', 'two,one'])
    const [transport] = await dialTls(t, port, () => new Recorder(), { alpn: ['one', 'two'] })
    assert.equal(transport.getExtraInfo('alpn'), 'two')
  })

  define('a certificate by name', async (t) => {
    const other = identityFiles(t, identityOf('other'))
    const { port } = await sServer(t, [
      ...['-rev', '-servername', 'other.test', '-cert2', other.cert, '-key2', other.key],
    ])
    const [transport] = await dialTls(t, port, () => new Recorder(), { servername: 'other.test' })
    assert.equal(transport.getExtraInfo('peercert')?.serialNumber, identityOf('other').serialNumber)
  })

  define('HTTP of its own, which it ends in order', async (t) => {
    const { port } = await sServer(t, ['-www'])
    const [transport, protocol] = await dialTls(t, port, () => new Recorder())
    transport.write('GET / HTTP/1.0\r\n\r\n')
    assert.equal(await protocol.lost(), null)
    assert.match(protocol.bytes.toString(), /^HTTP\/1\.0 200 ok/)
  })
})

class Echoing extends Recorder {
  version: string | undefined
  reused: boolean | undefined

  override connectionMade(transport: Recorder['transport']): void {
    this.version = transport.getExtraInfo('tlsVersion')
    this.reused = transport.getExtraInfo('sessionReused')
    super.connectionMade(transport)
  }

  override dataReceived(chunk: Buffer): void {
    super.dataReceived(chunk)
    this.transport.write(chunk)
  }
}

function only(test: SuiteTests): (name: string, body: (t: TestContext) => Promise<void>) => void {
  return (name, body) => (OPENSSL.missing === null ? test(name, body) : test.skip(name, OPENSSL.missing))
}
