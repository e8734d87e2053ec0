import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import { nodeHttp, type Server } from '../../src/index.js'
import { Deferred } from '../harness/deferred.js'
import { get, readAnswer } from '../harness/http-answers.js'
import { MiB } from '../harness/memory.js'
import { assertThrows, type ExceptionContext, forEachEngine, type TestContext } from '../harness/suite.js'

/** A server and what its exception handler was told. */
async function serve(
  t: TestContext,
  source: Parameters<typeof nodeHttp>[0],
): Promise<{ server: Server; told: ExceptionContext[]; first: Promise<ExceptionContext> }> {
  const told: ExceptionContext[] = []
  const first = new Deferred<ExceptionContext>()
  const server = await t.serve(nodeHttp(source), {
    exceptionHandler: (context) => {
      told.push(context)
      first.resolve(context)
    },
  })
  return { server, told, first: first.promise }
}

const failing: Readonly<Record<string, RequestListener>> = {
  'throws at once': () => {
    throw new Error('broken')
  },
  'rejects later': async (_request, response) => {
    response.setHeader('x-leaked', 'yes')
    await new Promise(setImmediate)
    throw new Error('broken')
  },
}

forEachEngine('failures of HTTP listeners', (test) => {
  for (const [how, listener] of Object.entries(failing)) {
    test(`one that ${how} is answered by 500, the handler is told, and the connection goes on`, async (t) => {
      const { server, told } = await serve(t, (request, response) =>
        request.url === '/' ? listener(request, response) : response.end('fine'),
      )
      const client = await t.connect(server)
      for (const round of [1, 2]) {
        await client.write(get('/') + get('/fine'))
        const { status, headers, body } = await readAnswer(client)
        assert.deepEqual([status, headers['x-leaked'], body], [500, undefined, 'Internal Server Error'])
        assert.equal((await readAnswer(client)).body, 'fine')
        assert.equal(told.length, round)
      }
      const [{ message, error, transport }] = told as [ExceptionContext]
      assert.match(message, /^the listener of GET \/ on connection \d+-\d+ threw$/)
      assert.equal((error as Error).message, 'broken')
      assert.equal(transport?.isClosing(), false)
    })
  }

  test('one that throws when the head is sent ends its connection, and no other', async (t) => {
    const { server, told } = await serve(t, async (request, response) => {
      if (request.url !== '/') return void response.end('fine')
      response.write('the beginning')
      await new Promise(setImmediate)
      throw new Error('broken')
    })
    const [client, other] = [await t.connect(server), await t.connect(server)]
    await client.write(get('/'))
    const received = (await client.readToClose()).toString()
    assert.match(received, /the beginning/)
    assert.doesNotMatch(received, /\r\n0\r\n/, 'a body that is cut short does not look complete')
    await other.write(get('/fine'))
    assert.equal((await readAnswer(other)).body, 'fine')
    assert.equal(told.length, 1)
  })

  test('one that throws when its answer is complete is told of, and the answer and those behind it arrive', async (t) => {
    const body = 'x'.repeat(4 * MiB) // more than the kernel takes at once
    const { server, told } = await serve(t, async (request, response) => {
      response.end(request.url === '/' ? body : 'fine')
      if (request.url !== '/') return
      await new Promise(setImmediate)
      throw new Error('broken')
    })
    const client = await t.connect(server)
    await client.write(get('/') + get('/fine'))
    assert.equal((await readAnswer(client)).body.length, body.length)
    assert.equal((await readAnswer(client)).body, 'fine')
    assert.equal(told.length, 1)
  })

  test("what a listener of node:http's own server throws aborts its connection, and no other", async (t) => {
    const http = createServer((request, response) => {
      if (request.url === '/') throw new Error('broken')
      response.end('fine')
    })
    const { server, told, first } = await serve(t, http)
    const [client, other] = [await t.connect(server), await t.connect(server)]
    await client.write(get('/'))
    await client.untilReset()
    assert.equal(((await first).error as Error).message, 'broken')
    await other.write(get('/fine'))
    assert.equal((await readAnswer(other)).body, 'fine')
    assert.equal(told.length, 1)
  })

  test('one that passes on that its client has left has not failed', async (t) => {
    const left = new Deferred<Error>()
    const { server, told } = await serve(t, async (request, response) => {
      if (request.method === 'GET') return void response.end('fine')
      try {
        for await (const _ of request);
      } catch (error) {
        left.resolve(error as Error)
        throw error
      }
    })
    const client = await t.connect(server)
    await client.write('POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhalf')
    client.socket.destroy()
    assert.equal(((await left.promise) as NodeJS.ErrnoException).code, 'ECONNRESET')
    const other = await t.connect(server)
    await other.write(get('/'))
    assert.equal((await readAnswer(other)).body, 'fine')
    assert.deepEqual(told, [])
  })

  test('what a request puts into its AsyncLocalStorage no other connection sees', async (t) => {
    const storage = new AsyncLocalStorage<string>()
    const server = await t.serve(
      nodeHttp(async (request, response) => {
        const before = storage.getStore() ?? 'none'
        storage.enterWith(request.url as string)
        await new Promise(setImmediate)
        response.end(`${before} ${storage.getStore()}`)
      }),
    )
    const clients = await Promise.all(Array.from({ length: 8 }, () => t.connect(server)))
    for (const round of ['a', 'b']) {
      await Promise.all(clients.map((client, index) => client.write(get(`/${round}${index}`))))
      for (const [index, client] of clients.entries()) {
        const [before, after] = (await readAnswer(client)).body.split(' ')
        assert.equal(after, `/${round}${index}`)
        // node:http of Node.js 20 has one context for all requests of a connection.
        assert.ok(before === 'none' || (round === 'b' && before === `/a${index}`), before)
      }
    }
  })

  test('what is no HTTP application is refused by name', () => {
    for (const source of [undefined, {}, 'app', createSecureServer()] as never[])
      assertThrows(() => nodeHttp(source), 'ERR_SHARDLOOP_ARGUMENT')
    for (const idleGraceMs of [-1, 1.5, Number.NaN, '1' as never])
      assertThrows(() => nodeHttp(() => {}, { idleGraceMs }), 'ERR_SHARDLOOP_ARGUMENT')
  })
})
