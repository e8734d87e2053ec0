import assert from 'node:assert/strict'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { type NodeHttpOptions, nodeHttp, type Server } from '../../src/index.js'
import type { Client } from '../harness/client.js'
import { Deferred, eventually } from '../harness/deferred.js'
import { type Answer, get, readAnswer } from '../harness/http-answers.js'
import { KiB } from '../harness/memory.js'
import { forEachTransport, type TestContext } from '../harness/suite.js'

/** No test waits for it: what does not end by itself fails by the test's own timeout. */
const NEVER_MS = 600_000

/** Requests whose answers the test gives, by path. */
class Requests {
  readonly #waiting = new Map<string, Deferred<[IncomingMessage, ServerResponse]>>()

  listener = (request: IncomingMessage, response: ServerResponse): void => {
    if (request.url === '/now') response.end('now')
    else this.#of(request.url as string).resolve([request, response])
  }

  async come(path: string): Promise<ServerResponse> {
    return (await this.#of(path).promise)[1]
  }

  #of(path: string): Deferred<[IncomingMessage, ServerResponse]> {
    const known = this.#waiting.get(path) ?? new Deferred<[IncomingMessage, ServerResponse]>()
    this.#waiting.set(path, known)
    return known
  }
}

async function serve(
  t: TestContext,
  options: NodeHttpOptions,
): Promise<{ requests: Requests; server: Server; client: Client; drain: () => Promise<void> }> {
  const requests = new Requests()
  const http = createServer({ keepAliveTimeout: 0 }, requests.listener) // it ends no connection in our place
  const server = await t.serve(nodeHttp(http, options), { drainTimeoutMs: NEVER_MS })
  const client = await t.connect(server)
  await eventually(() => server.metrics().total.connectionsOpen === 1)
  return { requests, server, client, drain: () => server.drain() }
}

/** The connection ends behind what was read. */
async function ends(client: Client, drained: Promise<void>): Promise<void> {
  assert.equal((await client.readToEnd()).toString(), '')
  client.end()
  await drained
}

function assertLast({ headers }: Answer): void {
  assert.equal(headers['connection'], 'close')
}

forEachTransport('draining of nodeHttp', (test) => {
  test('a connection without a request ends at once where it has no grace', async (t) => {
    const { client, drain } = await serve(t, { idleGraceMs: 0 })
    await ends(client, drain())
  })

  test('one between two requests ends as well', async (t) => {
    const { client, drain } = await serve(t, { idleGraceMs: 0 })
    await client.write(get('/now'))
    assert.equal((await readAnswer(client)).headers['connection'], 'keep-alive')
    await ends(client, drain())
  })

  test('both end by themselves behind the grace', async (t) => {
    const { client, drain } = await serve(t, { idleGraceMs: 50 })
    await ends(client, drain())
  })

  test('a request within the grace is answered, and told that it was the last', async (t) => {
    const { client, drain } = await serve(t, { idleGraceMs: NEVER_MS })
    const drained = drain()
    await client.write(get('/now'))
    assertLast(await readAnswer(client))
    await ends(client, drained)
  })

  test('a request that the kernel has is answered also without a grace', async (t) => {
    const { client, drain } = await serve(t, { idleGraceMs: 0 })
    await client.write(get('/now'))
    await readAnswer(client)
    client.socket.write(get('/now')) // nobody reads it before this thread's loop turns
    const drained = drain()
    assertLast(await readAnswer(client))
    await ends(client, drained)
  })

  test('a request that is being answered is told that it was the last', async (t) => {
    const { client, requests, drain } = await serve(t, { idleGraceMs: 0 })
    await client.write(get('/later'))
    const response = await requests.come('/later')
    const drained = drain()
    response.end('later')
    const answer = await readAnswer(client)
    assert.equal(answer.body, 'later')
    assertLast(answer)
    await ends(client, drained)
  })

  test('an answer whose head is sent is sent to its end', async (t) => {
    const { client, requests, drain } = await serve(t, { idleGraceMs: 0 })
    await client.write(get('/parts'))
    const response = await requests.come('/parts')
    response.write('one ')
    await eventually(() => client.received > 0)
    const drained = drain()
    response.write('two ')
    response.end('three')
    assert.equal((await readAnswer(client)).body, 'one two three')
    await ends(client, drained)
  })

  test('several requests that were read are answered in their order, whichever is ready first', async (t) => {
    const { client, requests, drain } = await serve(t, { idleGraceMs: 0 })
    const paths = ['/a', '/b', '/c']
    await client.write(paths.map((path) => get(path)).join(''))
    const responses = await Promise.all(paths.map((path) => requests.come(path)))
    const drained = drain()
    for (const [index, response] of [...responses.entries()].reverse()) response.end(paths[index])
    for (const path of paths) assert.equal((await readAnswer(client)).body, path)
    await ends(client, drained)
  })

  test('several that come at once within the grace are answered, and the last is told', async (t) => {
    for (const path of ['/now', '/later']) {
      const { client, requests, drain } = await serve(t, { idleGraceMs: NEVER_MS })
      const drained = drain()
      await client.write(get('/now') + get('/now') + get(path))
      if (path === '/later') (await requests.come(path)).end()
      for (const _ of [1, 2]) assert.equal((await readAnswer(client)).headers['connection'], 'keep-alive')
      assertLast(await readAnswer(client))
      await ends(client, drained)
    }
  })

  test('requests that wait behind answers that the peer does not read are answered, and the last is told', async (t) => {
    const body = Buffer.alloc(64 * KiB, 'x')
    let read = 0
    const server = await t.serve(
      nodeHttp(
        (_request, response) => {
          read++
          response.end(body)
        },
        { idleGraceMs: 0 },
      ),
      { drainTimeoutMs: NEVER_MS },
    )
    const [client, other] = [await t.connect(server, { paused: true }), await t.connect(server)]
    const burst = 100
    await client.write(get('/').repeat(burst)) // more than the kernel takes
    await eventually(() => read === burst)
    await client.write(get('/').repeat(burst))
    for (const _ of [1, 2]) {
      await other.write(get('/')) // it has surely been received when what came behind it is answered
      await readAnswer(other)
    }
    other.end()
    const drained = server.drain()
    client.resume()
    for (let answer = 1; answer <= 2 * burst; answer++) {
      const { headers } = await readAnswer(client)
      assert.equal(headers['connection'], answer < 2 * burst ? 'keep-alive' : 'close', `answer ${answer}`)
    }
    await ends(client, drained)
  })

  test('a body that looks like a head does not keep the connection', async (t) => {
    const { client, drain } = await serve(t, { idleGraceMs: NEVER_MS })
    const drained = drain()
    const body = 'GET / HTTP/1.1\r\n\r\n'
    await client.write(get('/now', { 'content-length': `${body.length}` }) + body)
    assert.equal((await readAnswer(client)).body, 'now')
    await ends(client, drained)
  })

  test('a body that is on its way is read, and its request answered', async (t) => {
    const bodies: string[] = []
    const begun = new Deferred<void>()
    const server = await t.serve(
      nodeHttp(
        async (request, response) => {
          begun.resolve()
          for await (const chunk of request) bodies.push(String(chunk))
          response.end(bodies.join(''))
        },
        { idleGraceMs: 0 },
      ),
      { drainTimeoutMs: NEVER_MS },
    )
    const client = await t.connect(server)
    await client.write(get('/', { 'content-length': '6' }))
    await begun.promise
    const drained = server.drain()
    await client.write('one')
    await eventually(() => bodies.length === 1)
    await client.write('two')
    const answer = await readAnswer(client)
    assert.equal(answer.body, 'onetwo')
    assertLast(answer)
    await ends(client, drained)
  })

  test('a head that has begun is waited for', async (t) => {
    const { client, server, drain } = await serve(t, { idleGraceMs: 0 })
    const other = await t.connect(server)
    await client.write(get('/now'))
    await readAnswer(client)
    const request = get('/now')
    await client.write(request.slice(0, -2))
    for (const _ of [1, 2]) {
      await other.write(get('/now')) // it has surely been received when what came behind it is answered
      await readAnswer(other)
    }
    other.end()
    const drained = drain()
    await client.write(request.slice(-2))
    assertLast(await readAnswer(client))
    await ends(client, drained)
  })

  test('the end of a body is not taken for the beginning of a head', async (t) => {
    const { client, drain } = await serve(t, { idleGraceMs: 0 })
    for (const [headers, body] of [
      [{ 'content-length': '6' }, ['one', 'two']],
      [{ 'transfer-encoding': 'chunked' }, ['3\r\none\r\n', '0\r\n\r\n']],
    ] as const) {
      await client.write(get('/now', headers))
      assert.equal((await readAnswer(client)).body, 'now')
      for (const part of body) await client.write(part)
    }
    // It has read all of that when it answers this.
    await client.write(get('/now', { 'content-length': '4' }))
    await readAnswer(client)
    await client.write('body')
    await ends(client, drain())
  })

  test('an empty line between requests, which some clients send, is no head', async (t) => {
    const { server, client, drain } = await serve(t, { idleGraceMs: 0 })
    await client.write(get('/now'))
    await readAnswer(client)
    const { bytesRead } = server.metrics().total
    await client.write('\r\n')
    await eventually(() => server.metrics().total.bytesRead >= bytesRead + 2n)
    await ends(client, drain())
  })

  test('a request that comes while one is answered is answered, too, and that one does not end the connection', async (t) => {
    const { client, server, requests, drain } = await serve(t, { idleGraceMs: 0 })
    const paths = ['/a', '/b', '/c']
    let drained: Promise<void> | undefined
    const responses: ServerResponse[] = []
    for (const path of paths) {
      await client.write(get(path))
      responses.push(await requests.come(path))
      drained ??= drain()
    }
    assert.equal(server.metrics().total.connectionsOpen, 1)
    for (const [index, response] of responses.entries()) {
      response.end(paths[index])
      const answer = await readAnswer(client)
      assert.equal(answer.body, paths[index])
      assert.equal(answer.headers['connection'], index === 2 ? 'close' : 'keep-alive')
    }
    await ends(client, drained as Promise<void>)
  })

  test('a connection that was upgraded is told, and ends when it likes; if it does not listen, when it owes nothing', async (t) => {
    for (const listens of [true, false]) {
      const http = createServer()
      const told = new Deferred<void>()
      http.on('upgrade', (_request, socket: Socket, head: Buffer) => {
        socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n')
        socket.write(head)
        socket.on('data', (chunk) => socket.write(chunk))
        if (listens) {
          socket.on('draining', () => {
            told.resolve()
            socket.end('bye')
          })
        }
      })
      const server = await t.serve(nodeHttp(http), { drainTimeoutMs: NEVER_MS })
      const client = await t.connect(server)
      await client.write(`${get('/', { connection: 'upgrade', upgrade: 'echo' })}first `)
      assert.equal(await client.readLine(), 'HTTP/1.1 101 Switching Protocols\r')
      await client.readLine()
      assert.equal((await client.readExactly(6)).toString(), 'first ')
      await client.write('second ')
      assert.equal((await client.readExactly(7)).toString(), 'second ')
      const drained = server.drain()
      if (listens) await told.promise
      assert.equal((await client.readToEnd()).toString(), listens ? 'bye' : '')
      client.end()
      await drained
    }
  })

  for (const pipelined of [1, 8]) {
    test(`under load no request is lost: ${pipelined} at once on each of 32 connections`, async (t) => {
      const server = await t.serve(
        nodeHttp((request, response) => {
          if (Number(request.url?.slice(1)) % 3 === 0) setImmediate(() => response.end(request.url))
          else response.end(request.url)
        }),
        { drainTimeoutMs: NEVER_MS },
      )
      const clients = await Promise.all(Array.from({ length: 32 }, () => t.connect(server)))
      let answered = 0
      const loads = clients.map(async (client) => {
        for (let number = 0; ; ) {
          const first = number
          await client.write(Array.from({ length: pipelined }, () => get(`/${number++}`)).join(''))
          for (let expected = first; expected < number; expected++) {
            const { body, headers } = await readAnswer(client)
            assert.equal(body, `/${expected}`)
            answered++
            if (headers['connection'] !== 'close') continue
            assert.equal(expected, number - 1, 'only the last that was sent is told that it was the last')
            assert.equal((await client.readToEnd()).length, 0)
            client.end()
            return
          }
          if (client.ended) return client.end() // between two of its requests
        }
      })
      await eventually(() => answered > 500)
      await Promise.all([server.drain(), ...loads])
    })
  }
})
