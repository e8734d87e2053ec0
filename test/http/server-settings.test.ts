import assert from 'node:assert/strict'
import { createServer, type Server as HttpServer, type RequestListener, type ServerOptions } from 'node:http'
import type { DropArgument } from 'node:net'
import { nodeHttp, type TransportDuplex } from '../../src/index.js'
import type { Client } from '../harness/client.js'
import { Deferred, eventually } from '../harness/deferred.js'
import { get, readAnswer } from '../harness/http-answers.js'
import { forEachEngine, type TestContext } from '../harness/suite.js'

/** node:http looks after its timeouts that often. */
const connectionsCheckingInterval = 50

/** A server of node:http's with these settings, and a connection to it. */
async function serve(
  t: TestContext,
  options: ServerOptions,
  set: (http: HttpServer) => void = () => {},
  listener: RequestListener = (_request, response) => void response.end('ok'),
): Promise<{ http: HttpServer; client: Client; connect: () => Promise<Client> }> {
  const http = createServer({ connectionsCheckingInterval, ...options }, listener)
  set(http)
  t.defer(() => http.close())
  const server = await t.serve(nodeHttp(http))
  return { http, client: await t.connect(server), connect: () => t.connect(server) }
}

forEachEngine("settings of node:http's server", (test) => {
  test('keepAliveTimeout ends a connection that has had its answers', async (t) => {
    const { client } = await serve(t, { keepAliveTimeout: 100 })
    await client.write(get('/'))
    assert.equal((await readAnswer(client)).body, 'ok')
    await client.write(get('/'))
    await readAnswer(client)
    assert.equal((await client.readToEnd()).length, 0)
  })

  test('keepAliveTimeout does not end one that goes on, nor one whose answer takes longer', async (t) => {
    const slow = new Deferred<void>()
    const { client } = await serve(t, { keepAliveTimeout: 1 }, undefined, (request, response) => {
      if (request.url === '/slow') setTimeout(() => slow.resolve(), 1_500)
      slow.promise.then(() => response.end('ok'))
      if (request.url !== '/slow') response.end('ok')
    })
    await client.write(get('/'))
    await readAnswer(client)
    await client.write(get('/slow'))
    assert.equal((await readAnswer(client)).body, 'ok')
  })

  test('headersTimeout answers a head that does not come by 408', async (t) => {
    const { client } = await serve(t, { headersTimeout: 100, requestTimeout: 200 })
    await client.write('GET / HTTP/1.1\r\nhost: ')
    assert.equal((await readAnswer(client)).status, 408)
    assert.equal((await client.readToEnd()).length, 0)
  })

  test('requestTimeout answers a body that does not come by 408', async (t) => {
    const { client } = await serve(
      t,
      { headersTimeout: 100, requestTimeout: 100 },
      undefined,
      (request, response) => {
        request.on('error', () => {})
        request.on('end', () => response.end('ok'))
        request.resume()
      },
    )
    await client.write(`${get('/', { 'content-length': '10' })}part`)
    assert.equal((await readAnswer(client)).status, 408)
    assert.equal((await client.readToEnd()).length, 0)
  })

  test('timeout ends a connection whose answer does not come, or tells who listens', async (t) => {
    const quiet: RequestListener = () => {}
    const { client } = await serve(t, {}, (http) => http.setTimeout(100), quiet)
    await client.write(get('/'))
    assert.equal((await client.readToClose()).length, 0)
    const told = new Deferred<TransportDuplex>()
    const { client: other } = await serve(
      t,
      {},
      (http) => http.setTimeout(100, (socket) => told.resolve(socket as unknown as TransportDuplex)),
      quiet,
    )
    await other.write(get('/'))
    const socket = await told.promise
    assert.equal(socket.timeout, 100)
    assert.equal(other.ended, false)
  })

  test("a request's and a response's own setTimeout", async (t) => {
    for (const whose of ['request', 'response'] as const) {
      const { client } = await serve(t, {}, undefined, (request, response) => {
        const target = whose === 'request' ? request : response
        target.setTimeout(100, () => response.end('timed out'))
        if (whose === 'request') request.resume()
      })
      const length = whose === 'request' ? { 'content-length': '1' } : {}
      await client.write(get('/', length))
      assert.equal((await readAnswer(client)).body, 'timed out')
    }
  })

  test('maxRequestsPerSocket closes behind the last', async (t) => {
    const { client } = await serve(t, {}, (http) => {
      http.maxRequestsPerSocket = 2
    })
    await client.write(get('/') + get('/'))
    assert.equal((await readAnswer(client)).headers['connection'], 'keep-alive')
    assert.equal((await readAnswer(client)).headers['connection'], 'close')
    assert.equal((await client.readToEnd()).length, 0)
  })

  test('maxConnections drops who comes above it, and getConnections counts', async (t) => {
    const dropped = new Deferred<DropArgument | undefined>()
    const { http, client, connect } = await serve(t, {}, (server) => {
      server.maxConnections = 1
      server.on('drop', (data) => dropped.resolve(data))
    })
    await client.write(get('/'))
    await readAnswer(client)
    const count = (): Promise<number> =>
      new Promise((resolve, reject) =>
        http.getConnections((error, number) => (error ? reject(error) : resolve(number))),
      )
    assert.equal(await count(), 1)
    const other = await connect()
    assert.equal((await other.readToClose()).length, 0)
    assert.equal((await dropped.promise)?.remotePort, other.socket.localPort)
    await client.destroy()
    while ((await count()) > 0) await new Promise(setImmediate)
    const third = await connect()
    await third.write(get('/'))
    assert.equal((await readAnswer(third)).body, 'ok')
  })

  test('maxHeaderSize answers a larger head by 431', async (t) => {
    const { client } = await serve(t, { maxHeaderSize: 1_024 })
    await client.write(get('/', { large: 'x'.repeat(2_000) }))
    assert.equal((await readAnswer(client)).status, 431)
    assert.equal((await client.readToEnd()).length, 0)
  })

  test('clientError is told of what is no HTTP, and may answer it', async (t) => {
    const { client } = await serve(t, {}, (http) =>
      http.on('clientError', (error: NodeJS.ErrnoException, socket) =>
        socket.end(`HTTP/1.1 400 ${error.code}\r\ncontent-length: 0\r\n\r\n`),
      ),
    )
    await client.write('nonsense\r\n\r\n')
    assert.match((await client.readToEnd()).toString(), /^HTTP\/1\.1 400 HPE_/)
  })

  test('closeIdleConnections and closeAllConnections end what they say', async (t) => {
    const begun = new Deferred<void>()
    const { http, client, connect } = await serve(t, {}, undefined, (request, response) => {
      if (request.url === '/') response.end('ok')
      else begun.resolve()
    })
    await client.write(get('/'))
    await readAnswer(client)
    const busy = await connect()
    await busy.write(get('/busy'))
    await begun.promise
    http.closeIdleConnections()
    assert.equal((await client.readToEnd()).length, 0)
    assert.equal(busy.ended, false)
    http.closeAllConnections()
    await eventually(() => busy.ended || busy.closed)
  })
})
