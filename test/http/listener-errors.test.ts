import assert from 'node:assert/strict'
import { createServer, type ServerOptions } from 'node:http'
import {
  type Both,
  exchange,
  exchangeOnBoth,
  normalise,
  onBoth,
  post,
  request,
  type Side,
  type Visit,
} from '../harness/http-apps.js'
import { plainApp } from '../harness/plain-app.js'
import { forEachEngine, type TestContext } from '../harness/suite.js'

/** What is no request, or too much of one; and the status that node:http answers with. */
const MALFORMED: Readonly<Record<string, [status: number, visit: Visit]>> = {
  'no request at all': [400, 'this is no request\r\n\r\n'],
  'a method that there is not': [400, 'BREW / HTTP/1.1\r\nHost: test\r\n\r\n'],
  'another version': [400, 'GET / HTTP/3.7\r\nHost: test\r\n\r\n'],
  'the preface of HTTP/2': [400, 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
  'the beginning of TLS': [400, Buffer.from('16030100f1010000ed0303', 'hex')],
  'no Host': [400, 'GET / HTTP/1.1\r\n\r\n'],
  'two hosts': [200, 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n'],
  'a space before the colon': [400, request('GET', '/', { 'X-Bad ': '1' })],
  'a control character in a header': [400, request('GET', '/', { 'X-Bad': 'a\u0001b' })],
  'lines that end by LF alone': [400, 'GET / HTTP/1.1\nHost: test\n\n'],
  'a length that is no number': [400, request('POST', '/', { 'Content-Length': 'five' }, 'abcde')],
  'two lengths': [400, request('POST', '/', { 'Content-Length': 5, 'content-length': 6 }, 'abcde')],
  'a length and chunks': [
    400,
    request('POST', '/', { 'Content-Length': 5, 'Transfer-Encoding': 'chunked' }, '0\r\n\r\n'),
  ],
  'an encoding behind chunked': [400, request('POST', '/', { 'Transfer-Encoding': 'chunked, gzip' }, '')],
  'headers that are too long': [431, request('GET', '/', { 'X-Long': 'x'.repeat(20 * 1024) })],
  'a path that is too long': [431, request('GET', `/${'x'.repeat(20 * 1024)}`)],
  'a bad request behind a good one': [200, `${request('GET', '/', { Connection: 'keep-alive' })}bad\r\n\r\n`],
  'a size that is no chunk': [
    200,
    async (client) => {
      await client.write(request('POST', '/echo', { 'Transfer-Encoding': 'chunked' }, '5\r\nabcde\r\n'))
      await client.until(() => client.received > 0)
      await client.write('xyz\r\n')
    },
  ],
}

forEachEngine('a listener of node:http, bad requests', (test) => {
  for (const [name, [status, visit]] of Object.entries(MALFORMED)) {
    test(`${name}: answered as by node:http, and the connection ends`, async (t) => {
      const both = await onBoth(t, plainApp)
      const { answer, fate } = await exchangeOnBoth(t, both, visit)
      assert.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `))
      assert.equal(fate, 'end')
    })
  }

  test('more chunk extensions than may be are 413', async (t) => {
    const both = await onBoth(t, plainApp)
    const head = request('POST', '/digest', { 'Transfer-Encoding': 'chunked' })
    const { answer } = await exchangeOnBoth(t, both, `${head}1;${'x'.repeat(17 * 1024)}\r\na\r\n0\r\n\r\n`)
    assert.match(answer, /^HTTP\/1\.1 413 /)
  })

  test('a client error that the app answers itself', async (t) => {
    const both = await onBoth(t, (side) =>
      createServer(plainApp(side)).on('clientError', (error: NodeJS.ErrnoException, socket) => {
        side.note(`${error.code}, writable ${socket.writable}`)
        socket.end('HTTP/1.1 400 My own\r\nConnection: close\r\n\r\n')
      }),
    )
    const { answer } = await exchangeOnBoth(t, both, 'bad\r\n\r\n')
    assert.equal(answer, 'HTTP/1.1 400 My own\r\nConnection: close\r\n\r\n')
  })

  test('a listener that throws is told to the process, not to the client', async (t) => {
    const both = await onBoth(t, (side) => (_req, res) => {
      const listeners = process.listeners('uncaughtException')
      process.removeAllListeners('uncaughtException')
      process.once('uncaughtException', (error) => {
        for (const listener of listeners) process.on('uncaughtException', listener)
        side.note(error.message)
        res.writeHead(500, { Connection: 'close' }).end('sorry')
      })
      setImmediate(() => {
        throw new Error('thrown later')
      })
    })
    const { answer } = await exchangeOnBoth(t, both, request('GET', '/'))
    assert.match(answer, /^HTTP\/1\.1 500 /)
  })

  test('an app refuses a body by 413 before it has come, and the client may read that', async (t) => {
    const both = await onBoth(t, plainApp)
    await both.same(async (side) => {
      const client = await t.connect(side.at)
      await client.write(post('/too-large', '', { 'Content-Length': 1_000_000 }) + 'x'.repeat(1000))
      const answer = normalise((await client.readToEnd()).toString())
      assert.match(answer, /^HTTP\/1\.1 413 /)
      await client.destroy()
      return answer
    })
  })
})

/** Short times; node:http looks for who is late every 10 ms. */
function timed(options: ServerOptions, more: { timeout?: number } = {}) {
  return (side: Side) => {
    const server = createServer({ connectionsCheckingInterval: 10, ...options }, plainApp(side))
    return Object.assign(server, more)
  }
}

/** Leaves the client's half open: the server is to end the connection. */
async function untilServerEnds(t: TestContext, both: Both, bytes: string): Promise<string> {
  const { answer } = await both.same((side) => exchange(t, side, bytes))
  return answer
}

forEachEngine('a listener of node:http, timeouts', (test) => {
  test('headers that do not come to their end are 408', async (t) => {
    const both = await onBoth(t, timed({ headersTimeout: 50, requestTimeout: 10_000 }))
    const answer = await untilServerEnds(t, both, 'GET / HTTP/1.1\r\nHost: te')
    assert.match(answer, /^HTTP\/1\.1 408 Request Timeout\r\n/)
  })

  test('a body that does not come to its end is 408', async (t) => {
    const both = await onBoth(t, timed({ headersTimeout: 50, requestTimeout: 100 }))
    const answer = await untilServerEnds(t, both, post('/digest', 'a body').slice(0, -1))
    assert.match(answer, /^HTTP\/1\.1 408 Request Timeout\r\n/)
  })

  test('a connection on which nothing is sent at all is 408, too', async (t) => {
    const both = await onBoth(t, timed({ headersTimeout: 50, requestTimeout: 100 }))
    assert.match(await untilServerEnds(t, both, ''), /^HTTP\/1\.1 408 Request Timeout\r\n/)
  })

  test('a kept connection is closed when its time is over, and says so before', async (t) => {
    // Of node:http's own timeouts there is one second more than it says.
    const both = await onBoth(t, timed({ keepAliveTimeout: 100 }))
    const answer = await untilServerEnds(t, both, request('GET', '/', { Connection: 'keep-alive' }))
    assert.match(answer, /Connection: keep-alive\r\n/)
    assert.ok(answer.endsWith('hello'))
  })

  test('as many requests as a connection may have', async (t) => {
    const both = await onBoth(t, (side) =>
      Object.assign(createServer(plainApp(side)), { maxRequestsPerSocket: 2 }),
    )
    const one = request('GET', '/', { Connection: 'keep-alive' })
    const answer = await untilServerEnds(t, both, one + one + request('GET', '/'))
    assert.match(answer, /503 Service Unavailable/)
  })

  test('a server timeout ends a silent connection; a listener of it does instead', async (t) => {
    for (const listens of [false, true]) {
      const both = await onBoth(t, (side) => {
        const server = timed({}, { timeout: 100 })(side)
        if (listens) {
          server.on('timeout', (socket) => {
            side.note('timeout')
            socket.end('HTTP/1.1 504 Too slow\r\n\r\n')
          })
        }
        return server
      })
      const { answer } = await both.same(async (side) => {
        const got = await exchange(t, side, post('/events', 'a', { 'X-Answer': 'none' }))
        await side.until(() => side.notes.some((what) => what.startsWith('socket close')))
        return got
      })
      assert.equal(answer, listens ? 'HTTP/1.1 504 Too slow\r\n\r\n' : '')
    }
  })

  test('a timeout of one response is told to it', async (t) => {
    const both = await onBoth(t, (side) => (_req, res) => {
      res.setTimeout(100, () => {
        side.note('response timed out')
        res.writeHead(503, { Connection: 'close' }).end()
      })
    })
    assert.match(await untilServerEnds(t, both, request('GET', '/')), /^HTTP\/1\.1 503 /)
  })
})
