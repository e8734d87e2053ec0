import assert from 'node:assert/strict'
import type { IncomingMessage, RequestListener } from 'node:http'
import { createRequire } from 'node:module'
import { exchangeOnBoth, onBoth, post, request, type Side, type Visit } from '../harness/http-apps.js'
import { bodyOf, pattern, turn } from '../harness/plain-app.js'
import { forEachEngine } from '../harness/suite.js'

/** What the tests use: the declarations of these packages do not compile beside ours (a browser's types; another package's). */
interface KoaContext {
  [name: string]: unknown
  readonly req: IncomingMessage
  readonly path: string
  readonly query: unknown
  readonly cookies: { get(name: string): string | undefined; set(...cookie: unknown[]): void }
  body: unknown
  status: number
  set(name: string, value: string): void
  redirect(to: string): void
  throw(status: number, message: string): never
}
interface KoaApp {
  on(event: 'error', listener: (error: Error) => void): void
  use(middleware: (ctx: KoaContext, next: () => Promise<void>) => Promise<void>): void
  callback(): RequestListener
}
type HonoHandler = (c: HonoContext) => Response | Promise<Response>
interface HonoContext {
  readonly req: {
    readonly method: string
    readonly url: string
    queries(): unknown
    header(name: string): string | undefined
    arrayBuffer(): Promise<ArrayBuffer>
  }
  text(text: string, status?: number): Response
  json(value: unknown): Response
  body(data: ArrayBuffer | null, status?: number): Response
  redirect(to: string): Response
  header(name: string, value: string, options?: { append: boolean }): void
}
interface HonoApp {
  onError(handler: (error: Error, c: HonoContext) => Response): void
  use(middleware: (c: HonoContext, next: () => Promise<void>) => Promise<void>): void
  get(path: string, handler: HonoHandler): void
  post(path: string, handler: HonoHandler): void
  readonly fetch: (request: Request) => Response | Promise<Response>
}
interface HonoStream {
  writeln(line: string): Promise<unknown>
  writeSSE(event: { data: string; id: string }): Promise<void>
  sleep(milliseconds: number): Promise<unknown>
}
type Streaming = (c: HonoContext, write: (stream: HonoStream) => Promise<void>) => Response

const require = createRequire(import.meta.url)
const Koa = require('koa') as new () => KoaApp
const { Hono } = require('hono') as { Hono: new () => HonoApp }
const { streamSSE, streamText } = require('hono/streaming') as Record<'streamSSE' | 'streamText', Streaming>
const { getRequestListener } = require('@hono/node-server') as {
  getRequestListener(fetch: HonoApp['fetch']): RequestListener
}

const VISITS: Readonly<Record<string, Visit>> = {
  'a text': request('GET', '/'),
  HEAD: request('HEAD', '/'),
  'what there is not': request('GET', '/nowhere'),
  'an object': request('GET', '/json?a=1&a=2'),
  'a body that is sent back': post('/echo', 'a body'),
  'a body in chunks': request(
    'POST',
    '/echo',
    { 'Transfer-Encoding': 'chunked' },
    '5\r\na bod\r\n1\r\ny\r\n0\r\n\r\n',
  ),
  'a large body that is sent back': post('/echo', 'x'.repeat(500_000)),
  'a stream': request('GET', '/stream'),
  bytes: request('GET', '/bytes'),
  'no content': request('GET', '/empty'),
  cookies: request('GET', '/cookies', { Cookie: 'a=1; b=2' }),
  'a redirection': request('GET', '/redirect'),
  'a handler that throws': request('GET', '/throw'),
  'an error with a status': request('GET', '/teapot'),
  'kept alive, one after the other': [
    ...['/', '/json', '/nowhere', '/stream'].map((path) =>
      request('GET', path, { Connection: 'keep-alive' }),
    ),
    post('/echo', 'the last'),
  ].join(''),
}

const HONO_VISITS: typeof VISITS = {
  ...VISITS,
  // It asks for a connection that is kept.
  'server-sent events': request('GET', '/events') + request('GET', '/'),
}

function koaApp(side: Side): KoaApp {
  const app = new Koa()
  app.on('error', (error: Error) => side.note(error.message))
  app.use(async (ctx, next) => {
    ctx.set('X-Ip', String(ctx['ip']))
    ctx.set('X-Socket', String(ctx['socket'] === ctx.req.socket))
    await next()
  })
  app.use(async (ctx) => {
    switch (ctx.path) {
      case '/':
        ctx.body = 'hello'
        return
      case '/json':
        ctx.body = { query: ctx.query, host: ctx['host'], secure: ctx['secure'] }
        return
      case '/echo':
        ctx['type'] = 'application/octet-stream'
        ctx.body = await bodyOf(ctx.req)
        return
      case '/stream':
        ctx.body = new Blob([pattern(200_000)]).stream()
        return
      case '/bytes':
        ctx.body = pattern(1000)
        return
      case '/empty':
        ctx.status = 204
        return
      case '/cookies':
        ctx.cookies.set('seen', ctx.cookies.get('a'), { httpOnly: true })
        ctx.body = 'set'
        return
      case '/redirect':
        ctx.redirect('/elsewhere')
        return
      case '/throw':
        await turn()
        throw new Error('thrown')
      case '/teapot':
        ctx.throw(418, 'short and stout')
    }
  })
  return app
}

function honoApp(side: Side): HonoApp {
  const app = new Hono()
  app.onError((error, c) => {
    side.note(error.message)
    return c.text(`failed: ${error.message}`, 500)
  })
  app.use(async (c, next) => {
    await next()
    c.header('X-Hono', c.req.method)
  })
  app.get('/', (c) => c.text('hello'))
  app.get('/json', (c) => c.json({ query: c.req.queries(), url: c.req.url }))
  app.post('/echo', async (c) => c.body(await c.req.arrayBuffer()))
  app.get('/stream', (c) =>
    streamText(c, async (stream) => {
      for (let part = 0; part < 5; part++) {
        await stream.writeln(`part ${part}`)
        await stream.sleep(1)
      }
    }),
  )
  app.get('/events', (c) =>
    streamSSE(c, async (stream) => {
      for (let event = 0; event < 3; event++) await stream.writeSSE({ data: `${event}`, id: `${event}` })
    }),
  )
  app.get('/bytes', (c) => c.body(new Uint8Array(pattern(1000)).buffer))
  app.get('/empty', (c) => c.body(null, 204))
  app.get('/cookies', (c) => {
    c.header('Set-Cookie', 'one=1')
    c.header('Set-Cookie', 'two=2', { append: true })
    return c.text(c.req.header('cookie') ?? '')
  })
  app.get('/redirect', (c) => c.redirect('/elsewhere'))
  app.get('/throw', async () => {
    await turn()
    throw new Error('thrown')
  })
  app.get('/teapot', (c) => c.text('short and stout', 418))
  return app
}

forEachEngine('Koa', (test) => {
  for (const [name, visit] of Object.entries(VISITS)) {
    test(`${name}: as on node:http`, async (t) => {
      const both = await onBoth(t, (side) => koaApp(side).callback())
      const { answer } = await exchangeOnBoth(t, both, visit)
      assert.match(answer, /^HTTP\/1\.1 \d{3} /)
    })
  }
})

forEachEngine("Hono, by its node-server's listener", (test) => {
  for (const [name, visit] of Object.entries(HONO_VISITS)) {
    test(`${name}: as on node:http`, async (t) => {
      const both = await onBoth(t, (side) => getRequestListener(honoApp(side).fetch))
      const { answer } = await exchangeOnBoth(t, both, visit)
      assert.match(answer, /^HTTP\/1\.1 \d{3} /)
    })
  }
})
