import assert from 'node:assert/strict'
import { createServer as createHttpServer } from 'node:http'
import { exchange, exchangeOnBoth, onBoth, post, request, type Visit } from '../harness/http-apps.js'
import { pattern, plainApp } from '../harness/plain-app.js'
import { forEachTransport } from '../harness/suite.js'

/** Each is one connection; the answers, byte for byte, and its end have to be the same. */
const VISITS: Readonly<Record<string, Visit>> = {
  'a plain request': request('GET', '/'),
  HEAD: request('HEAD', '/'),
  'HEAD of what is chunked': request('HEAD', '/chunked'),
  'OPTIONS *': request('OPTIONS', '*'),
  'an absolute URL': request('GET', 'http://elsewhere/request?a=b#c'),
  'methods of all kinds': ['PUT', 'DELETE', 'PATCH', 'PROPFIND', 'M-SEARCH']
    .map((method) => request(method, '/request', { Connection: 'keep-alive' }))
    .concat(request('GET', '/'))
    .join(''),
  'HTTP/1.0': 'GET /request HTTP/1.0\r\n\r\n',
  'HTTP/1.0, kept alive': `GET /request HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n`,
  'HTTP/1.0, chunked by the app': 'GET /chunked HTTP/1.0\r\n\r\n',
  'kept alive, then closed': request('GET', '/', { Connection: 'keep-alive' }) + request('GET', '/'),
  'the app closes': request('GET', '/connection-close', { Connection: 'keep-alive' }),
  'odd headers': request('GET', '/request', {
    'X-Empty': '',
    'x-lower': 'a',
    'X-Spaces': '  between  words  ',
    Cookie: 'a=1',
    COOKIE: 'b=2',
    'X-Latin': '\u00e9',
    Accept: 'a',
    accept: 'b',
    Authorization: 'x',
    authorization: 'y',
  }),
  'a body of known length': post('/request', 'a body'),
  'an empty body': post('/request', ''),
  'a body in pieces': [post('/echo', 'one two three').slice(0, -13), 'one ', 'two ', 'three'],
  'a request that comes byte by byte': [...post('/request', 'ab')],
  'a chunked body with an extension and trailers': request(
    'POST',
    '/request',
    { 'Transfer-Encoding': 'chunked', Trailer: 'Sum' },
    '3;name=value\r\nabc\r\n4\r\ndefg\r\n0\r\nSum: 7\r\n\r\n',
  ),
  'a chunked body that is sent back': async (client) => {
    await client.write(request('POST', '/echo', { 'Transfer-Encoding': 'chunked' }, 'A\r\n0123456789\r\n'))
    // Chunks that come at once may go back as one, or as they came.
    await client.until(() => client.received > 0)
    await client.write('1\r\nx\r\n0\r\n\r\n')
  },
  'a body of megabytes': post(
    '/digest',
    pattern(3 * 1024 * 1024)
      .toString('latin1')
      .replace(/[^\0-\x7f]/g, '.'),
  ),
  'Expect: 100-continue': post('/echo', 'continued', { Expect: '100-continue' }),
  'an expectation that cannot be met': post('/echo', '', { Expect: 'the unexpected' }),
  'a chunked response': request('GET', '/chunked'),
  'response trailers': request('GET', '/trailers'),
  'no content': request('GET', '/no-content'),
  'not modified': request('GET', '/not-modified'),
  'reset content': request('GET', '/reset-content'),
  'headers set, appended, removed': request('GET', '/headers'),
  'a raw head with a message': request('GET', '/write-head'),
  'flushed headers': request('GET', '/flush-headers'),
  '102 and 103': request('GET', '/early-hints'),
  'no date': request('GET', '/no-date'),
  'a body that ends with the connection': request('GET', '/identity'),
  'corked writes of every kind': request('GET', '/corked'),
  'empty chunks': request('GET', '/empty-chunks'),
  'a large response': request('GET', '/large'),
  'a streamed response': request('GET', '/stream'),
  'no such path': request('GET', '/nowhere'),
  'pipelined, the first is late': ['/late', '/', '/chunked', '/late', '/no-content']
    .map((path) => request('GET', path, { Connection: 'keep-alive' }))
    .concat(request('GET', '/'))
    .join(''),
  'pipelined bodies': Array.from({ length: 50 }, (_, at) =>
    post('/echo', `body ${at}`, { Connection: 'keep-alive' }),
  )
    .concat(request('GET', '/'))
    .join(''),
  'pipelined behind a close': request('GET', '/') + request('GET', '/chunked'),
  'a response that is destroyed': request('GET', '/destroyed'),
  'a socket that the app ends': request('GET', '/socket-ended'),
  'an empty line before the request': `\r\n\r\n${request('GET', '/')}`,
}

forEachTransport('a listener of node:http', (test) => {
  for (const [name, visit] of Object.entries(VISITS)) {
    test(`${name}: as on node:http`, async (t) => {
      const both = await onBoth(t, plainApp)
      const { answer } = await exchangeOnBoth(t, both, visit)
      assert.match(answer, /^HTTP\/1\.1 \d{3} /)
    })
  }

  test('a client that ends its half right behind a body gets what the app answers once it has read it', async (t) => {
    const both = await onBoth(t, plainApp)
    const { answer } = await exchangeOnBoth(t, both, async (client) => client.end(post('/request', 'a body')))
    assert.match(answer, /"body":"a body"/)
  })

  test('a client that ends its half behind a request that is answered late gets no answer by default', async (t) => {
    const both = await onBoth(t, plainApp)
    const { answer, fate } = await exchangeOnBoth(t, both, async (client) =>
      client.end(request('GET', '/late')),
    )
    assert.deepEqual({ answer, fate }, { answer: '', fate: 'end' })
  })

  test('a client that ends its half gets all answers where the server allows it', async (t) => {
    const both = await onBoth(t, (side) => {
      const server = createHttpServer(plainApp(side))
      Object.assign(server, { httpAllowHalfOpen: true })
      return server
    })
    const { answer, fate } = await exchangeOnBoth(t, both, async (client) => {
      const paths = ['/late', '/', '/chunked']
      client.end(paths.map((path) => request('GET', path, { Connection: 'keep-alive' })).join(''))
    })
    assert.equal(answer.match(/HTTP\/1\.1 200 OK/g)?.length, 3)
    assert.equal(fate, 'end')
  })

  test('a client that ends its half within a body gets what the app had answered', async (t) => {
    const both = await onBoth(t, plainApp)
    const { answer } = await exchangeOnBoth(t, both, async (client) => {
      client.end(post('/echo', 'the whole body').slice(0, -5))
    })
    assert.match(answer, /the whole$/)
  })

  test('a client that connects and says nothing, then ends', async (t) => {
    const both = await onBoth(t, plainApp)
    const { answer } = await exchangeOnBoth(t, both, async (client) => client.end())
    assert.equal(answer, '')
  })

  test(
    'what a request tells of its socket',
    async (t) => {
      const both = await onBoth(t, plainApp)
      await exchangeOnBoth(t, both, request('GET', '/socket'))
    },
    { notOverTls: 'a TLSSocket has a timeout of 0 at first' },
  )

  test(
    'the events of a request and its response, in order',
    async (t) => {
      const both = await onBoth(t, plainApp)
      await both.same(async (side) => {
        const answered = await exchange(t, side, post('/events', 'a body'))
        await side.noted('socket close false')
        return answered
      })
    },
    { notOverTls: 'a TLSSocket calls back for what was written after the request has closed' },
  )

  test('a listener may be async, and answer many connections at once', async (t) => {
    const both = await onBoth(t, () => async (req, res) => {
      await new Promise((resolve) => setTimeout(resolve, 1))
      res.end(req.url)
    })
    await both.same((side) =>
      Promise.all(Array.from({ length: 50 }, (_, at) => exchange(t, side, request('GET', `/${at}`)))),
    )
  })
})
