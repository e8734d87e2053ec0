import assert from 'node:assert/strict'
import { mkdir, writeFile } from 'node:fs/promises'
import express, { type ErrorRequestHandler, type Express } from 'express'
import { exchangeOnBoth, onBoth, post, request, type Side, type Visit } from '../harness/http-apps.js'
import { pattern, turn } from '../harness/plain-app.js'
import { forEachEngine } from '../harness/suite.js'

const JSON_TYPE = { 'Content-Type': 'application/json' }
const FORM_TYPE = { 'Content-Type': 'application/x-www-form-urlencoded' }

const VISITS: Readonly<Record<string, Visit>> = {
  'a route': request('GET', '/'),
  'HEAD of a route': request('HEAD', '/'),
  'parameters and a query': request('GET', '/users/7?sort=name&sort=age&deep[a]=1'),
  'what no route has': request('GET', '/nowhere'),
  'OPTIONS, answered by the routes': request('OPTIONS', '/users/7'),
  'a JSON body': post('/json', '{"a":[1,2,{"b":"caf\u00e9"}]}', JSON_TYPE),
  'a JSON body that is none': post('/json', '{"a":', JSON_TYPE),
  'a JSON body that is too large': post('/json', JSON.stringify('x'.repeat(2000)), JSON_TYPE),
  'a JSON body in chunks': request(
    'POST',
    '/json',
    { ...JSON_TYPE, 'Transfer-Encoding': 'chunked' },
    '5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n',
  ),
  'a form': post('/form', 'a=1&b=two+words&c[]=3&c[]=4', FORM_TYPE),
  'raw bytes': post('/raw', 'bytes', { 'Content-Type': 'application/octet-stream' }),
  'a file': request('GET', '/file'),
  'HEAD of a file': request('HEAD', '/file'),
  'a part of a file': request('GET', '/file', { Range: 'bytes=100-199' }),
  'the end of a file': request('GET', '/file', { Range: 'bytes=-10' }),
  'a part that there is not': request('GET', '/file', { Range: 'bytes=99999999-' }),
  'a file that is known already': request('GET', '/file', {
    'If-Modified-Since': new Date(Date.now() + 60_000).toUTCString(),
  }),
  'a static file': request('GET', '/static/file.bin'),
  'a static file that there is not': request('GET', '/static/none.bin'),
  'a static path that climbs': request('GET', '/static/../../etc/passwd'),
  'a redirection': request('GET', '/redirect'),
  cookies: request('GET', '/cookies', { Cookie: 'a=1' }),
  'a handler that throws': request('GET', '/throw'),
  'a handler that rejects': request('GET', '/reject'),
  'an error behind the head': request('GET', '/late-error'),
  'an error handler of the app': request('GET', '/teapot'),
  'negotiated types': request('GET', '/format', { Accept: 'text/html;q=0.5, application/json' }),
  'an entity tag that matches': request('GET', '/', { 'If-None-Match': 'W/"5-qvTGHdzF6KLavt4PO0gs2a6pQ00"' }),
  'events that are sent one by one': request('GET', '/events'),
  'kept alive, one after the other': [
    ...['/', '/users/1', '/nowhere', '/file'].map((path) =>
      request('GET', path, { Connection: 'keep-alive' }),
    ),
    post('/json', '{"last":true}', JSON_TYPE),
  ].join(''),
}

function expressApp(side: Side, directory: string, file: string): Express {
  const app = express()
  app.set('env', 'test') // errors are not printed
  app.use((req, _res, next) => {
    side.note(`${req.method} ${req.originalUrl} ${req.protocol} ${req.hostname} ${req.ip} ${req.secure}`)
    next()
  })
  app.get('/', (_req, res) => void res.send('hello'))
  app
    .route('/users/:id')
    .get((req, res) => void res.status(200).json({ params: req.params, query: req.query }))
    .delete((_req, res) => void res.sendStatus(204))
  app.post('/json', express.json({ limit: 1000 }), (req, res) => void res.json({ got: req.body }))
  app.post('/form', express.urlencoded({ extended: true }), (req, res) => void res.json(req.body))
  app.post('/raw', express.raw(), (req, res) => void res.send(req.body))
  app.get('/file', (_req, res) => void res.sendFile(file))
  app.use('/static', express.static(directory))
  app.get('/redirect', (_req, res) => void res.redirect(302, '/elsewhere?a=b'))
  app.get('/cookies', (req, res) => {
    res.cookie('session', 'x y', { httpOnly: true, sameSite: 'lax', path: '/' })
    res.clearCookie('old')
    res.type('txt').send(req.get('cookie'))
  })
  app.get('/throw', () => {
    throw Object.assign(new Error('thrown'), { stack: 'its stack' })
  })
  app.get('/reject', async () => {
    await turn()
    throw Object.assign(new Error('rejected'), { stack: 'its stack' })
  })
  app.get('/late-error', async (_req, res) => {
    res.write('the beginning')
    await turn()
    throw new Error('after the head')
  })
  app.get('/teapot', (_req, _res, next) => next(Object.assign(new Error('short and stout'), { status: 418 })))
  app.get(
    '/format',
    (_req, res) =>
      void res.format({
        text: () => void res.send('text'),
        html: () => void res.send('<p>html</p>'),
        json: () => void res.send({ json: true }),
      }),
  )
  app.get('/events', async (_req, res) => {
    res.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' })
    for (let event = 0; event < 5; event++) {
      res.write(`data: ${event}\n\n`)
      await turn()
    }
    res.end()
  })
  const teapots: ErrorRequestHandler = (error, _req, res, next) => {
    if (error.status === 418) res.status(418).send(error.message)
    else next(error)
  }
  app.use(teapots)
  return app
}

forEachEngine('Express 5', (test) => {
  for (const [name, visit] of Object.entries(VISITS)) {
    test(`${name}: as on node:http`, async (t) => {
      const directory = t.path('static')
      const file = `${directory}/file.bin`
      await mkdir(directory)
      await writeFile(file, pattern(300_000))
      const both = await onBoth(t, (side) => expressApp(side, directory, file))
      const { answer } = await exchangeOnBoth(t, both, visit)
      assert.match(answer, /^HTTP\/1\.1 \d{3} /)
    })
  }

  test('what the routes answer is what they should', async (t) => {
    const both = await onBoth(t, (side) => expressApp(side, '/nowhere', '/nowhere'))
    const { answer } = await exchangeOnBoth(t, both, post('/json', '{"a":1}', JSON_TYPE))
    assert.match(answer, /^HTTP\/1\.1 200 OK\r\nX-Powered-By: Express\r\n/)
    assert.ok(answer.endsWith('{"got":{"a":1}}'))
    assert.deepEqual(both.ours.notes, ['POST /json http test 127.0.0.1 false'])
  })
})
