/** curl, and other clients of HTTPS. */
import assert from 'node:assert/strict'
import { performServerHandshake } from 'node:http2'
import { Agent, request } from 'undici'
import { nodeHttp, type Protocol } from '../../src/index.js'
import { authority, identityOf } from '../harness/certificates.js'
import {
  authorityFile,
  CURL,
  CURL_HTTP2,
  fileWith,
  identityFiles,
  type Program,
} from '../harness/programs.js'
import { forEachEngine, portOf, type SuiteTests, type TestContext } from '../harness/suite.js'
import { serverOptions } from '../harness/tls.js'
import { assertTlsError, Failures } from '../harness/tls-ends.js'

const hello = nodeHttp((incoming, response) => {
  const { encrypted, authorized } = incoming.socket as { encrypted?: boolean; authorized?: boolean }
  const chunks: Buffer[] = []
  incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
  incoming.on('end', () => {
    response.end(
      `${incoming.method} ${incoming.url} ${encrypted} ${authorized} ${Buffer.concat(chunks).length}`,
    )
  })
})

/** Runs curl; how it ended, and what it printed. */
async function curl(
  t: TestContext,
  args: readonly string[],
): Promise<{ code: number | null; output: string; errors: string }> {
  const child = t.spawn(['--silent', '--show-error', '--max-time', '15', ...args], { command: CURL.command })
  const { code } = await child.untilExit()
  return { code, output: child.stdout, errors: child.stderr }
}

forEachEngine('curl', (test) => {
  const define = only(test, CURL)

  for (const version of ['1.2', '1.3'] as const) {
    define(`over TLS ${version}: several requests of one connection, and an upload`, async (t) => {
      const server = await t.serve(hello, { tls: serverOptions() })
      const url = `https://localhost:${portOf(server)}`
      const flags = ['--cacert', authorityFile(t), '--tls-max', version, `--tlsv${version}`]
      const several = await curl(t, [...flags, `${url}/one`, `${url}/two`, '-w', ' %{num_connects}\n'])
      assert.equal(several.code, 0, several.errors)
      assert.equal(several.output, 'GET /one true false 0 1\nGET /two true false 0 0\n')
      const file = fileWith(t, 'upload', 'x'.repeat(300_000))
      const upload = await curl(t, [...flags, '--data-binary', `@${file}`, `${url}/up`])
      assert.equal(upload.output, 'POST /up true false 300000', upload.errors)
    })
  }

  define('a certificate of its own', async (t) => {
    const server = await t.serve(hello, {
      tls: { ...serverOptions(), clientCertificates: 'required', ca: authority().root },
    })
    const failures = new Failures(server)
    const url = `https://localhost:${portOf(server)}/`
    const { cert, key } = identityFiles(t, identityOf('client'))
    const shown = await curl(t, ['--cacert', authorityFile(t), '--cert', cert, '--key', key, url])
    assert.equal(shown.output, 'GET / true true 0', shown.errors)
    const none = await curl(t, ['--cacert', authorityFile(t), url])
    assert.notEqual(none.code, 0)
    assertTlsError(await failures.at(0), { code: 'CERTIFICATE', reason: 'missing' })
  })

  define('does not trust an authority that it does not know, and tells us', async (t) => {
    const server = await t.serve(hello, { tls: serverOptions() })
    const failures = new Failures(server)
    const refused = await curl(t, [`https://localhost:${portOf(server)}/`])
    assert.equal(refused.code, 60, refused.errors)
    assertTlsError(await failures.at(0), { code: 'ALERT', alert: 'unknown_ca' })
  })

  define('plain HTTP at the port of HTTPS fails, and so does HTTPS at that of HTTP', async (t) => {
    const secure = await t.serve(hello, { tls: serverOptions() })
    const failures = new Failures(secure)
    const plainly = await curl(t, [`http://localhost:${portOf(secure)}/`])
    assert.notEqual(plainly.code, 0)
    assert.equal(plainly.output, plainly.output.replace('GET', ''))
    assertTlsError(await failures.at(0), { code: 'PROTOCOL', reason: 'not-tls' })
    const plain = await t.serve(hello)
    const securely = await curl(t, ['--cacert', authorityFile(t), `https://localhost:${portOf(plain)}/`])
    assert.equal(securely.code, 35, securely.errors)
  })

  only(test, CURL_HTTP2)('HTTP/2 by http2.performServerHandshake on a stream of ours', async (t) => {
    const server = await t.serve(
      (): Protocol => ({
        connectionMade(transport) {
          const session = performServerHandshake(transport.duplex())
          session.on('error', () => {})
          session.on('stream', (stream, headers) => {
            stream.respond({ ':status': 200 })
            stream.end(`${headers[':method']} ${headers[':path']} by h2`)
          })
        },
      }),
      { tls: { ...serverOptions(), alpn: ['h2'] } },
    )
    const url = `https://localhost:${portOf(server)}`
    const answer = await curl(t, [
      ...['--http2', '--cacert', authorityFile(t), `${url}/one`, `${url}/two`],
      ...['-w', ' %{http_version} %{num_connects}\n'],
    ])
    assert.equal(answer.code, 0, answer.errors)
    assert.equal(answer.output, 'GET /one by h2 2 1\nGET /two by h2 2 0\n')
  })
})

forEachEngine('undici', (test) => {
  test('a pool of connections over TLS, and a certificate that it does not trust', async (t) => {
    const server = await t.serve(hello, { tls: serverOptions() })
    const url = `https://localhost:${portOf(server)}`
    const dispatcher = new Agent({ connect: { ca: authority().root }, connections: 4 })
    t.defer(() => dispatcher.close())
    const answers = await Promise.all(
      Array.from({ length: 40 }, async (_, at) => {
        const { body } = await request(`${url}/${at}`, { dispatcher })
        return await body.text()
      }),
    )
    assert.deepEqual(
      answers,
      answers.map((_, at) => `GET /${at} true false 0`),
    )
    const distrusting = new Agent({})
    t.defer(() => distrusting.close())
    await assert.rejects(() => request(`${url}/`, { dispatcher: distrusting }), {
      code: /^UNABLE_TO_(VERIFY_LEAF_SIGNATURE|GET_ISSUER_CERT_LOCALLY)$/,
    })
  })
})

function only(
  test: SuiteTests,
  { missing }: Program,
): (name: string, body: (t: TestContext) => Promise<void>) => void {
  return (name, body) => (missing === null ? test(name, body) : test.skip(name, missing))
}
