import assert from 'node:assert/strict'
import { createServer, type Server } from 'node:http'
import { Readable } from 'node:stream'
import Fastify, { type FastifyInstance } from 'fastify'
import { nodeHttp } from '../../src/index.js'
import { exchange, onBoth, post, request, type Side, type Visit } from '../harness/http-apps.js'
import { pattern, turn } from '../harness/plain-app.js'
import { forEachEngine, portOf, type TestContext } from '../harness/suite.js'

const JSON_TYPE = { 'Content-Type': 'application/json' }

const VISITS: Readonly<Record<string, Visit>> = {
  'a route': request('GET', '/'),
  'HEAD of a route': request('HEAD', '/'),
  'parameters and a query, by schema': request('GET', '/users/7?limit=3'),
  'a parameter against the schema': request('GET', '/users/seven'),
  'what no route has': request('GET', '/nowhere'),
  'a JSON body, by schema': post('/orders', '{"item":"tea","count":2,"extra":1}', JSON_TYPE),
  'a JSON body against the schema': post('/orders', '{"item":"tea"}', JSON_TYPE),
  'a JSON body that is none': post('/orders', '{"item":', JSON_TYPE),
  'a body of a type that nobody takes': post('/orders', 'x', { 'Content-Type': 'text/x-none' }),
  'a body that is too large': post('/orders', JSON.stringify('x'.repeat(3000)), JSON_TYPE),
  'a body that is empty': post('/orders', '', JSON_TYPE),
  'a stream': request('GET', '/stream'),
  'a stream that breaks': request('GET', '/broken-stream'),
  'a stream that is received': post('/upload', 'x'.repeat(100_000), {
    'Content-Type': 'application/octet-stream',
  }),
  'a Buffer': request('GET', '/buffer'),
  'a Response': request('GET', '/response'),
  'a handler that throws': request('GET', '/throw'),
  'a handler that rejects late': request('GET', '/reject'),
  'an error handler of a plugin': request('GET', '/plugin/fails'),
  'a redirection': request('GET', '/redirect'),
  'a reply that is taken over': request('GET', '/hijack'),
  trailers: request('GET', '/trailers', { TE: 'trailers' }),
  'kept alive, one after the other': async (client, side) => {
    for (const path of ['/', '/users/1', '/nowhere', '/stream']) {
      await client.write(request('GET', path, { Connection: 'keep-alive' }))
      await side.noted(`onResponse GET ${path}`)
    }
    await client.write(post('/orders', '{"item":"tea","count":2}', JSON_TYPE))
  },
}

async function fastifyServer(t: TestContext, side: Side): Promise<Server> {
  let server!: Server
  const app = Fastify({
    bodyLimit: 200_000,
    serverFactory: (handler) => {
      server = createServer(handler)
      return server
    },
  })
  t.defer(() => app.close())
  routes(app, side)
  await app.ready()
  return server
}

function routes(app: FastifyInstance, side: Side): void {
  for (const hook of ['onRequest', 'preHandler', 'onResponse'] as const)
    app.addHook(hook, async (req) => side.note(`${hook} ${req.method} ${req.url}`))
  app.addHook('onSend', async (_req, reply, payload) => {
    reply.header('x-hooked', 'yes')
    return payload
  })
  app.get('/', async (req) => ({ hello: req.ip, host: req.host, protocol: req.protocol }))
  const user = {
    params: { type: 'object', properties: { id: { type: 'integer' } } },
    querystring: { type: 'object', properties: { limit: { type: 'integer', default: 10 } } },
    response: { 200: { type: 'object', properties: { params: {}, query: {} } } },
  }
  app.get('/users/:id', { schema: user }, async ({ params, query }) => ({ params, query, hidden: true }))
  const order = {
    body: {
      type: 'object',
      required: ['item', 'count'],
      additionalProperties: false,
      properties: { item: { type: 'string' }, count: { type: 'integer' } },
    },
  }
  app.post('/orders', { schema: order, bodyLimit: 2000 }, async (req, reply) =>
    reply.code(201).send(req.body),
  )
  app.get('/stream', async () => Readable.from(['one ', 'two ', pattern(100_000)]))
  app.get('/broken-stream', async () =>
    Readable.from(
      (async function* () {
        yield 'the beginning'
        await turn()
        throw new Error('breaks')
      })(),
    ),
  )
  app.addContentTypeParser('application/octet-stream', (_req, payload, done) => done(null, payload))
  app.post('/upload', async (req) => {
    let length = 0
    for await (const chunk of req.body as Readable) length += chunk.length
    return { length }
  })
  app.get('/buffer', async (_req, reply) => reply.type('application/octet-stream').send(pattern(1000)))
  app.get('/response', async () => new Response('by fetch', { status: 202, headers: { 'x-fetch': '1' } }))
  app.get('/throw', () => {
    throw Object.assign(new Error('thrown'), { statusCode: 409, code: 'ERR_THROWN' })
  })
  app.get('/reject', async () => {
    await turn()
    throw new Error('rejected')
  })
  app.register(async (plugin) => {
    plugin.setErrorHandler(async (error: Error, _req, reply) =>
      reply.code(503).send(`handled ${error.message}`),
    )
    plugin.get('/plugin/fails', async () => {
      throw new Error('within')
    })
  })
  app.get('/redirect', async (_req, reply) => reply.redirect('/elsewhere', 307))
  app.get('/hijack', (_req, reply) => {
    reply.hijack()
    reply.raw.writeHead(299, 'Hijacked').end('raw')
  })
  app.get('/trailers', async (_req, reply) => {
    reply.trailer('etag', async () => 'the-sum')
    return reply.send('body')
  })
}

forEachEngine('Fastify 5', (test) => {
  for (const [name, visit] of Object.entries(VISITS)) {
    test(`${name}: as on node:http`, async (t) => {
      const both = await onBoth(t, (side) => fastifyServer(t, side))
      const { answer } = await both.same(async (side) => {
        const got = await exchange(t, side, visit)
        // onResponse comes when the answer has gone.
        const requests = got.answer.split('HTTP/1.1 ').length - 1
        const hijacked = got.answer.startsWith('HTTP/1.1 299')
        const broken = name === 'a stream that breaks'
        if (!hijacked && !broken)
          await side.until(
            () => side.notes.filter((note) => note.startsWith('onResponse')).length >= requests,
          )
        return got
      })
      assert.match(answer, /^HTTP\/1\.1 \d{3} /)
    })
  }

  test('app.close ends an app whose server we serve', async (t) => {
    let http!: Server
    const app = Fastify({ serverFactory: (handler) => (http = createServer(handler)) })
    app.get('/', async () => 'hello')
    await app.ready()
    const server = await t.serve(nodeHttp(http))
    assert.equal(await (await fetch(`http://127.0.0.1:${portOf(server)}/`)).text(), 'hello')
    await app.close()
  })
})
