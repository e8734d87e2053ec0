/** Python's ssl module at the other end, and its HTTPS client. */
import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { nodeHttp } from '../../src/index.js'
import { authority, identityOf } from '../harness/certificates.js'
import type { Child } from '../harness/child.js'
import { authorityFile, identityFiles, PYTHON } from '../harness/programs.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine, portOf, type SuiteTests, type TestContext } from '../harness/suite.js'
import { serverOptions } from '../harness/tls.js'
import { assertTlsError, dialTls, Failures } from '../harness/tls-ends.js'

// Python is not compiled: it lies where its source is.
const PEER = fileURLToPath(new URL('../../../test/fixtures/tls-peer.py', import.meta.url))
const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const

function python(
  t: TestContext,
  what: string,
  port: number,
  version: string,
  more: readonly string[] = [],
): Child {
  return t.spawn([PEER, what, String(port), authorityFile(t), version, ...more], { command: PYTHON.command })
}

async function ended(child: Child): Promise<void> {
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
}

forEachEngine("Python's ssl with a server of ours", (test) => {
  const define = only(test)

  for (const version of VERSIONS) {
    define(`${version}: a MiB comes back, and it ends first, in order`, async (t) => {
      const accepting = await t.serveEach(() => new Echo(), { tls: { ...serverOptions(), alpn: ['echo'] } })
      const child = python(t, 'echo', portOf(accepting.server), version)
      await ended(child)
      assert.match(child.lines[0] ?? '', new RegExp(`^${version} \\S+ echo$`))
      assert.deepEqual(child.lines.slice(1), ['equal', 'closed in order'])
      assert.equal(await accepting.protocols[0]?.lost(), null)
    })

    define(`${version}: we end first, in order`, async (t) => {
      class Ending extends Recorder {
        override connectionMade(transport: Recorder['transport']): void {
          super.connectionMade(transport)
          transport.write('all that there is')
          transport.close()
        }
      }
      const accepting = await t.serveEach(() => new Ending(), { tls: serverOptions() })
      const child = python(t, 'server-ends', portOf(accepting.server), version)
      await ended(child)
      assert.deepEqual(child.lines, ['read all that there is', 'closed in order'])
      assert.equal(await accepting.protocols[0]?.lost(), null)
    })

    define(`${version}: its end without close_notify is truncation`, async (t) => {
      const accepting = await t.serveEach(() => new Echo(), { tls: serverOptions() })
      await ended(python(t, 'truncated', portOf(accepting.server), version))
      assertTlsError(await accepting.protocols[0]?.lost(), { code: 'TRUNCATED', reason: 'data' })
    })
  }

  for (const [kind, message] of [
    ['expired', 'certificate has expired'],
    ['untrusted', 'unable to get local issuer certificate'],
    ['other', "Hostname mismatch, certificate is not valid for 'localhost'."],
  ] as const) {
    define(`it refuses a certificate of kind ${kind}, and we are told by an alert`, async (t) => {
      const { cert, key } = identityOf(kind)
      const accepting = await t.serveEach(() => new Recorder(), { tls: { cert, key } })
      const failures = new Failures(accepting.server)
      const child = python(t, 'refused', portOf(accepting.server), 'any')
      await ended(child)
      assert.deepEqual(child.lines, [`refused ${message}`])
      assertTlsError(await failures.at(0), { code: 'ALERT' })
    })
  }

  define('an HTTPS client gets what node:http listeners answer', async (t) => {
    const server = await t.serve(
      nodeHttp((request, response) => response.end(`${request.method} ${request.url}`)),
      { tls: serverOptions() },
    )
    const child = python(t, 'https', portOf(server), 'any', ['/', '/a?b=c'])
    await ended(child)
    assert.deepEqual(child.lines, ['200 GET /', '200 GET /a?b=c'])
  })
})

forEachEngine("a client of ours with Python's ssl", (test) => {
  const define = only(test)

  for (const version of VERSIONS) {
    define(`${version}: lines come back; we end first, it ends first, it breaks off`, async (t) => {
      const { cert, key } = identityFiles(t, identityOf('server'))
      const child = python(t, 'serve', 0, version, [cert, key])
      const port = Number((await child.line(/^port (\d+)$/))[1])

      const [first, mine] = await dialTls(t, port, () => new Recorder(), { alpn: ['echo'] })
      assert.equal(first.getExtraInfo('tlsVersion'), version)
      assert.equal(first.getExtraInfo('alpn'), 'echo')
      first.write('hello\n')
      assert.equal((await mine.receivedAtLeast(6)).toString(), 'hello\n')
      first.close()
      assert.equal(await mine.lost(), null)
      await child.line(/^the peer ended in order$/)

      const [second, theirs] = await dialTls(t, port, () => new Recorder())
      second.write('close\n')
      assert.equal(await theirs.lost(), null)
      assert.deepEqual(theirs.events, ['made', 'eof', 'lost'])
      await child.line(/^closed in order$/)

      const [third, nobodys] = await dialTls(t, port, () => new Recorder())
      third.write('drop\n')
      assertTlsError(await nobodys.lost(), { code: 'TRUNCATED', reason: 'data' })
    })

    define(`${version}: it asks for a certificate, and gets it`, async (t) => {
      const { cert, key } = identityFiles(t, identityOf('server'))
      const child = python(t, 'serve', 0, version, [cert, key, 'required'])
      const port = Number((await child.line(/^port (\d+)$/))[1])
      const own = identityOf('client')
      const [transport, protocol] = await dialTls(t, port, () => new Recorder(), {
        cert: own.cert,
        key: own.key,
        ca: authority().root,
      })
      transport.write('hello\n')
      await protocol.receivedAtLeast(6)
      await child.line(/a client/)
      const refused = new Recorder()
      transport.close()
      await protocol.lost()
      const failed = await dialTls(t, port, () => refused).then(
        () => refused.lost(),
        (error: unknown) => error,
      )
      assertTlsError(failed, { code: 'ALERT' })
      await child.line(/^failed SSLError$/)
    })
  }
})

class Echo extends Recorder {
  override dataReceived(chunk: Buffer): void {
    this.transport.write(chunk)
  }
}

function only(test: SuiteTests): (name: string, body: (t: TestContext) => Promise<void>) => void {
  return (name, body) => (PYTHON.missing === null ? test(name, body) : test.skip(name, PYTHON.missing))
}
