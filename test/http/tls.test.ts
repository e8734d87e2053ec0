import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { connect as connectHttp2 } from 'node:http2'
import { get } from 'node:https'
import { connect as connectTls, type PeerCertificate } from 'node:tls'
import express from 'express'
import { WebSocket, WebSocketServer } from 'ws'
import { nodeHttp } from '../../src/index.js'
import { endsBySigterm } from '../harness/answers.js'
import { authority, identityOf } from '../harness/certificates.js'
import { Deferred } from '../harness/deferred.js'
import { example } from '../harness/examples.js'
import { forEachEngine, portOf, type TestContext } from '../harness/suite.js'
import { serverOptions } from '../harness/tls.js'

const ca = authority().root

/** A GET by node:https, on a connection of its own. */
function fetched(port: number, path: string, options: object = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const request = get({ port, host: '127.0.0.1', path, ca, agent: false, ...options }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
      response.on('end', () => resolve(text))
    })
    request.on('error', reject)
  })
}

/** A GET by HTTP/2, and what was negotiated. */
async function fetchedByHttp2(port: number, path: string): Promise<string> {
  const session = connectHttp2(`https://127.0.0.1:${port}`, { ca })
  const ended = new Deferred<void>()
  session.once('close', () => ended.resolve())
  session.once('error', (error) => ended.reject(error))
  const stream = session.request({ ':path': path })
  let text = `${session.alpnProtocol ?? ''}`
  stream.setEncoding('utf8')
  for await (const chunk of stream) text += chunk
  session.close()
  await ended.promise
  return text
}

function files(t: TestContext): string[] {
  const { cert, key } = identityOf('server')
  const [certFile, keyFile] = [t.path('cert'), t.path('key')]
  writeFileSync(certFile, cert)
  writeFileSync(keyFile, key)
  return ['--tls-cert', certFile, '--tls-key', keyFile]
}

forEachEngine('HTTP over TLS', (test) => {
  test('an Express application sees that it is secure, and how', async (t) => {
    const app = express()
    app.get('/', ({ secure, protocol, socket }, response) => {
      const { encrypted, authorized, alpnProtocol } = socket as unknown as Record<string, unknown>
      response.json({ secure, protocol, encrypted, authorized, alpnProtocol })
    })
    const server = await t.serve(nodeHttp(app), { tls: { ...serverOptions(), alpn: ['http/1.1'] } })
    const expected = {
      secure: true,
      protocol: 'https',
      encrypted: true,
      authorized: false,
      alpnProtocol: 'http/1.1',
    }
    const alpn = { ALPNProtocols: ['http/1.1'] }
    assert.deepEqual(JSON.parse(await fetched(portOf(server), '/', alpn)), expected)
    assert.equal(JSON.parse(await fetched(portOf(server), '/')).alpnProtocol, false, 'when none is asked for')
    await server.close()
  })

  test('without TLS nothing of it is there', async (t) => {
    const seen = new Deferred<unknown>()
    const server = await t.serve(
      nodeHttp(({ socket }, response) => {
        const { encrypted, authorized, alpnProtocol } = socket as unknown as Record<string, unknown>
        seen.resolve([encrypted, authorized, alpnProtocol])
        response.end()
      }),
    )
    await (await fetch(`http://127.0.0.1:${portOf(server)}/`, { headers: { Connection: 'close' } })).text()
    assert.deepEqual(await seen.promise, [undefined, undefined, undefined])
  })

  test("a client's certificate is told as by node:tls", async (t) => {
    const { cert, key } = identityOf('client')
    const server = await t.serve(
      nodeHttp(({ socket }, response) => {
        const secured = socket as unknown as {
          authorized: boolean
          getPeerCertificate(detailed?: boolean): PeerCertificate
          getProtocol(): string
          getCipher(): object
          isSessionReused(): boolean
        }
        const { subject, serialNumber } = secured.getPeerCertificate(true)
        response.end(
          JSON.stringify([
            secured.authorized,
            subject.CN,
            serialNumber,
            secured.getProtocol(),
            Object.keys(secured.getCipher()).sort(),
            secured.isSessionReused(),
          ]),
        )
      }),
      { tls: { ...serverOptions(), clientCertificates: 'required', ca } },
    )
    assert.deepEqual(JSON.parse(await fetched(portOf(server), '/', { cert, key })), [
      true,
      'a client',
      identityOf('client').serialNumber,
      'TLSv1.3',
      ['name', 'standardName', 'version'],
      false,
    ])
  })

  test('WebSockets by ws', async (t) => {
    const { createServer: createHttpServer } = await import('node:http')
    const http = createHttpServer()
    const sockets = new WebSocketServer({ server: http })
    sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(`${data}`)))
    const server = await t.serve(nodeHttp(http), { tls: serverOptions() })
    const client = new WebSocket(`wss://127.0.0.1:${portOf(server)}/`, { ca })
    t.defer(() => client.terminate())
    await new Promise((resolve, reject) => client.once('open', resolve).once('error', reject))
    const answer = new Promise((resolve) => client.once('message', (data) => resolve(String(data))))
    client.send('x'.repeat(100_000))
    assert.equal(await answer, 'x'.repeat(100_000))
    const closed = new Promise((resolve) => client.once('close', resolve))
    client.close()
    await closed
    await server.close()
  })

  test('a request that is under way when the server drains is answered', async (t) => {
    const asked = new Deferred<() => void>()
    const server = await t.serve(
      nodeHttp((_request, response) => asked.resolve(() => void response.end('late'))),
      { tls: serverOptions() },
    )
    const answer = fetched(portOf(server), '/')
    const respond = await asked.promise
    const closed = server.close()
    respond()
    assert.equal(await answer, 'late')
    await closed
  })
})

forEachEngine('http-h2-tls', (test) => {
  test('speaks what each client asks for, on one port', async (t) => {
    const { child, port } = await example(t, 'http-h2-tls', ['--shards', '2', ...files(t)])
    assert.match(await fetchedByHttp2(port, '/two'), /hello by HTTP\/2 from shard \d to \/two\n$/)
    assert.match(await fetched(port, '/one'), /^hello by HTTP\/1\.1 from shard \d to \/one\n$/)
    assert.match(
      await fetched(port, '/alpn', { ALPNProtocols: ['http/1.1'] }),
      /^hello by HTTP\/1\.1 from shard \d to \/alpn\n$/,
    )
    await endsBySigterm(child)
  })

  test('ends HTTP/2 sessions in order when it drains', async (t) => {
    const { child, port } = await example(t, 'http-h2-tls', ['--shards', '1', ...files(t)])
    const session = connectHttp2(`https://127.0.0.1:${port}`, { ca })
    const stream = session.request({ ':path': '/' })
    stream.resume()
    await new Promise((resolve) => stream.once('close', resolve))
    let goaway: number | undefined
    session.on('goaway', (code) => {
      goaway = code
    })
    const closed = new Promise((resolve) => session.once('close', resolve))
    await endsBySigterm(child)
    await closed
    assert.equal(goaway, 0)
  })

  test('needs a certificate, and says so', async (t) => {
    const child = t.spawn([new URL('../../examples/http-h2-tls.js', import.meta.url).pathname, '--port', '0'])
    assert.deepEqual(await child.untilExit(), { code: 2, signal: null }, child.describe())
    assert.equal(
      child.stderr,
      'http-h2-tls: option tls.cert: expected a certificate, and its key, given none\n',
    )
  })
})

forEachEngine('examples by TLS', (test) => {
  test('echo is on tls://, and those of HTTP on https://', async (t) => {
    const flags = files(t)
    const echo = await example(t, 'echo', ['--shards', '1', ...flags])
    assert.match(echo.child.stdout, /^listening on tls:\/\/127\.0\.0\.1:\d+ /)
    const client = connectTls({ port: echo.port, host: '127.0.0.1', ca })
    t.defer(() => void client.destroy())
    client.write('hello')
    assert.equal(String(await new Promise((resolve) => client.once('data', resolve))), 'hello')
    const closed = new Promise((resolve) => client.once('close', resolve))
    client.end()
    await closed
    await endsBySigterm(echo.child)
    const { child, port } = await example(t, 'http-express', ['--shards', '1', ...flags])
    assert.match(child.stdout, /^Express on https:\/\//)
    assert.equal(await fetched(port, '/hello/ada'), '{"hello":"ada","shard":0}')
    await endsBySigterm(child)
  })
})
