import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import { type RawData, WebSocket, WebSocketServer } from 'ws'
import { nodeHttp } from '../../src/index.js'
import { authority } from '../harness/certificates.js'
import { assertBytes } from '../harness/client.js'
import { exchange, exchangeOnBoth, onBoth, request, type Side } from '../harness/http-apps.js'
import { pattern, turn } from '../harness/plain-app.js'
import { forEachTransport, type TestContext } from '../harness/suite.js'

const UPGRADE = {
  Connection: 'Upgrade',
  Upgrade: 'websocket',
  'Sec-WebSocket-Version': 13,
  'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
}

/** An unmodified server of ws that sends back what it gets, and notes what happens. */
function echoServer(side: Side, perMessageDeflate = false) {
  const server = createServer((_req, res) => void res.end('not a WebSocket'))
  const sockets = new WebSocketServer({
    server,
    perMessageDeflate,
    maxPayload: 64 * 1024 * 1024,
    handleProtocols: (protocols) => [...protocols][0] ?? false,
    verifyClient: ({ req }, done) =>
      req.url === '/refused' ? done(false, 401, 'No entry', { 'WWW-Authenticate': 'Basic' }) : done(true),
  })
  sockets.on('connection', (socket, req: IncomingMessage) => {
    side.note(`open ${req.url} ${socket.protocol}`)
    socket.on('message', (data: Buffer, isBinary) => {
      if (req.url === '/close') socket.close(4001, 'as you wish')
      else if (req.url === '/terminate') socket.terminate()
      else socket.send(data, { binary: isBinary })
    })
    for (const kind of ['ping', 'pong'] as const)
      socket.on(kind, (data: Buffer) => side.note(`${kind} ${data.toString()}`))
    socket.on('error', (error: NodeJS.ErrnoException) => side.note(`error ${error.code}`))
    socket.on('close', (code, reason) => side.note(`close ${code} ${reason.toString()}`))
  })
  return server
}

function dial(
  t: TestContext,
  side: Side,
  path: string,
  protocols: string[] = [],
  perMessageDeflate = false,
): WebSocket {
  const scheme = t.tls === null ? 'ws' : 'wss'
  const url =
    typeof side.at === 'number' ? `${scheme}://127.0.0.1:${side.at}${path}` : `ws+unix://${side.at}:${path}`
  const socket = new WebSocket(url, protocols, {
    perMessageDeflate,
    ...(t.tls !== null && { ca: authority().root }),
  })
  t.defer(() => socket.terminate())
  return socket
}

async function open(t: TestContext, side: Side, path = '/', protocols?: string[]): Promise<WebSocket> {
  const socket = dial(t, side, path, protocols)
  await once(socket, 'open')
  return socket
}

function message(socket: WebSocket): Promise<{ data: Buffer; isBinary: boolean }> {
  return new Promise((resolve, reject) => {
    socket.once('message', (data: RawData, isBinary) => resolve({ data: data as Buffer, isBinary }))
    socket.once('close', (code) => reject(new Error(`closed by ${code}`)))
  })
}

async function closed(side: Side, socket: WebSocket, begin: () => void): Promise<string> {
  const over = once(socket, 'close')
  begin()
  const [code, reason] = (await over) as [number, Buffer]
  await side.until(() => side.notes.some((note) => note.startsWith('close ')))
  return `${code} ${reason.toString()}`
}

/** A masked frame, as clients send them. */
function frame(opcode: number, text: string, fin = true): Buffer {
  const mask = Buffer.from([1, 2, 3, 4])
  const body = Buffer.from(text).map((byte, at) => byte ^ (mask[at % 4] as number))
  return Buffer.concat([Buffer.from([(fin ? 0x80 : 0) | opcode, 0x80 | body.length]), mask, body])
}

forEachTransport('ws', (test) => {
  test('text, binary and empty messages come back', async (t) => {
    const both = await onBoth(t, echoServer)
    await both.same(async (side) => {
      const socket = await open(t, side)
      const answers: unknown[] = []
      for (const sent of ['caf\u00e9', Buffer.from([0, 1, 2, 255]), '', Buffer.alloc(0)]) {
        socket.send(sent)
        const { data, isBinary } = await message(socket)
        answers.push([data.toString('hex'), isBinary])
      }
      answers.push(await closed(side, socket, () => socket.close(1000, 'done')))
      return answers
    })
  })

  test('messages of 16 MiB come back whole', async (t) => {
    const both = await onBoth(t, echoServer)
    const sent = pattern(16 * 1024 * 1024)
    await both.same(async (side) => {
      const socket = await open(t, side)
      for (let round = 0; round < 2; round++) {
        socket.send(sent)
        assertBytes((await message(socket)).data, sent)
      }
      return closed(side, socket, () => socket.close())
    })
  })

  test('many messages at once come back in order', async (t) => {
    const both = await onBoth(t, echoServer)
    await both.same(async (side) => {
      const socket = await open(t, side)
      const got: string[] = []
      const all = new Promise<void>((resolve) => {
        socket.on('message', (data: Buffer) => {
          got.push(data.toString())
          if (got.length === 2000) resolve()
        })
      })
      for (let at = 0; at < 2000; at++) socket.send(`message ${at}`)
      await all
      await closed(side, socket, () => socket.close())
      return got
    })
  })

  test('compressed messages come back', async (t) => {
    const both = await onBoth(t, (side) => echoServer(side, true))
    await both.same(async (side) => {
      const socket = dial(t, side, '/', [], true)
      await once(socket, 'open')
      socket.send('x'.repeat(100_000))
      const { data } = await message(socket)
      return [socket.extensions, data.length, await closed(side, socket, () => socket.close())]
    })
  })

  test('a message in fragments, with a ping between them', async (t) => {
    const both = await onBoth(t, echoServer)
    await both.same(async (side) => {
      const socket = await open(t, side)
      socket.send('one ', { fin: false })
      socket.send('two ', { fin: false })
      socket.ping('between')
      socket.send('three', { fin: true })
      const { data } = await message(socket)
      return [data.toString(), await closed(side, socket, () => socket.close(3000))]
    })
  })

  test('pings are answered, either way', async (t) => {
    const both = await onBoth(t, echoServer)
    await both.same(async (side) => {
      const socket = await open(t, side)
      const pong = once(socket, 'pong')
      socket.ping('are you there')
      const [answer] = (await pong) as [Buffer]
      return [answer.toString(), await closed(side, socket, () => socket.close())]
    })
  })

  test('a close of the server: its code and reason arrive', async (t) => {
    const both = await onBoth(t, echoServer)
    const seen = await both.same(async (side) => {
      const socket = await open(t, side, '/close')
      return closed(side, socket, () => socket.send('please'))
    })
    assert.equal(seen, '4001 as you wish')
  })

  test('a connection that either side breaks off is 1006 at the other', async (t) => {
    for (const path of ['/', '/terminate']) {
      const both = await onBoth(t, echoServer)
      await both.same(async (side) => {
        const socket = await open(t, side, path)
        return closed(side, socket, () => (path === '/' ? socket.terminate() : socket.send('break it')))
      })
      assert.equal(both.ours.notes.at(-1), 'close 1006 ')
    }
  })

  test('a frame against the protocol is 1002', async (t) => {
    const both = await onBoth(t, echoServer)
    const { fate } = await both.same(async (side) => {
      const got = await exchange(t, side, async (client) => {
        await client.write(request('GET', '/', UPGRADE))
        await client.until(() => client.received > 0)
        await client.write(frame(3, 'there is no opcode 3'))
      })
      await side.until(() => side.notes.some((note) => note.startsWith('close ')))
      return got
    })
    assert.equal(fate, 'end')
  })

  test('subprotocols are agreed on', async (t) => {
    const both = await onBoth(t, echoServer)
    await both.same(async (side) => {
      const socket = await open(t, side, '/', ['chat.v2', 'chat.v1'])
      return [socket.protocol, await closed(side, socket, () => socket.close())]
    })
  })

  test('frames right behind the request, in the same segment, are messages', async (t) => {
    const both = await onBoth(t, echoServer)
    const { answer } = await exchangeOnBoth(t, both, async (client, side) => {
      const early = [frame(1, 'early'), frame(1, 'bird'), frame(8, '')]
      await client.write(Buffer.concat([Buffer.from(request('GET', '/', UPGRADE)), ...early]))
      await client.until(() => client.ended)
      client.end()
      await side.until(() => side.notes.some((note) => note.startsWith('close ')))
    })
    assert.match(answer, /^HTTP\/1\.1 101 Switching Protocols\r\n/)
    assert.ok(answer.endsWith('\x81\x05early\x81\x04bird\x88\x00'), answer)
  })

  test('a request that comes byte by byte, then a frame in pieces', async (t) => {
    const both = await onBoth(t, echoServer)
    const { answer } = await exchangeOnBoth(t, both, async (client, side) => {
      for (const byte of request('GET', '/', UPGRADE)) await client.write(byte)
      for (const byte of Buffer.concat([frame(1, 'slow'), frame(8, '')])) await client.write(Buffer.of(byte))
      await client.until(() => client.ended)
      client.end()
      await side.until(() => side.notes.some((note) => note.startsWith('close ')))
    })
    assert.ok(answer.endsWith('\x81\x04slow\x88\x00'), answer)
  })

  test('an upgrade that is refused is 401, and the connection ends', async (t) => {
    const both = await onBoth(t, echoServer)
    const { answer, fate } = await exchangeOnBoth(t, both, request('GET', '/refused', UPGRADE))
    assert.match(answer, /^HTTP\/1\.1 401 Unauthorized\r\n/)
    assert.match(answer, /WWW-Authenticate: Basic\r\n/)
    assert.equal(fate, 'end')
  })

  test('an upgrade that is none is refused; a plain request of the same server is answered', async (t) => {
    const both = await onBoth(t, echoServer)
    for (const headers of [
      { ...UPGRADE, 'Sec-WebSocket-Version': 7 },
      { ...UPGRADE, 'Sec-WebSocket-Key': 'x' },
    ]) {
      const { answer } = await exchangeOnBoth(t, both, request('GET', '/', headers))
      assert.match(answer, /^HTTP\/1\.1 4/)
    }
    const { answer } = await exchangeOnBoth(t, both, request('GET', '/'))
    assert.ok(answer.endsWith('not a WebSocket'))
  })

  test('without a server of its own (noServer), beside other upgrades', async (t) => {
    const both = await onBoth(t, (side) => {
      const sockets = new WebSocketServer({ noServer: true })
      const server = createServer()
      server.on('upgrade', (req, socket, head) => {
        side.note(`head of ${head.length}`)
        socket.on('close', () => side.note('closed'))
        if (req.url === '/ws') sockets.handleUpgrade(req, socket, head, (ws) => ws.close(1000, 'hello'))
        else socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\nanother one')
      })
      return server
    })
    await both.same(async (side) => {
      const [code, reason] = (await once(dial(t, side, '/ws'), 'close')) as [number, Buffer]
      await side.noted('closed')
      return [code, reason.toString()]
    })
    const { answer } = await both.same(async (side) => {
      const got = await exchange(t, side, request('GET', '/other', UPGRADE))
      await side.until(() => side.notes.filter((note) => note === 'closed').length === 2)
      return got
    })
    assert.ok(answer.endsWith('another one'))
  })
})

forEachTransport('upgrades of node:http', (test) => {
  test('a server that is stopped by force ends them without an error that nobody listens to', async (t) => {
    const errors: Error[] = []
    const caught = (error: Error): void => void errors.push(error)
    process.on('uncaughtException', caught)
    t.defer(() => process.off('uncaughtException', caught))
    const http = createServer()
    const upgraded = new Promise<void>((resolve) => {
      http.on('upgrade', (_req, socket) => {
        socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n')
        resolve()
      })
    })
    const server = await t.serve(nodeHttp(http))
    const client = await t.connect(server)
    await client.write(request('GET', '/', UPGRADE))
    await upgraded
    await server.abort()
    await client.untilClose()
    await turn()
    assert.deepEqual(errors, [])
  })

  test('CONNECT hands over the connection with what came behind the request', async (t) => {
    const both = await onBoth(t, (side) => {
      const server = createServer()
      server.on('connect', (req: IncomingMessage, socket, head: Buffer) => {
        side.note(`${req.method} ${req.url} ${head.toString()}`)
        socket.write('HTTP/1.1 200 Connected\r\n\r\n')
        socket.write(head)
        socket.pipe(socket)
      })
      return server
    })
    const { answer } = await exchangeOnBoth(t, both, async (client) => {
      await client.write('CONNECT there:443 HTTP/1.1\r\nHost: there:443\r\n\r\nbehind it;')
      await client.until(() => client.received > 30)
      client.end('and through it')
    })
    assert.equal(answer, 'HTTP/1.1 200 Connected\r\n\r\nbehind it;and through it')
  })

  test('an upgrade that nobody listens to is a plain request; a CONNECT ends the connection', async (t) => {
    const both = await onBoth(t, () => (req, res) => void res.end(`answered ${req.method}`))
    const { answer } = await exchangeOnBoth(t, both, async (client) => {
      await client.write(request('GET', '/', { Connection: 'Upgrade', Upgrade: 'other' }))
      await client.until(() => client.received > 0)
      await client.write(request('GET', '/'))
    })
    assert.equal(answer.match(/answered GET/g)?.length, 2)
    await exchangeOnBoth(t, both, request('CONNECT', 'there:443'))
  })

  test('after an upgrade much goes both ways at once', async (t) => {
    const both = await onBoth(t, () => {
      const server = createServer()
      server.on('upgrade', (_req, socket, head) => {
        socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n')
        socket.unshift(head)
        socket.pipe(socket)
      })
      return server
    })
    const sent = pattern(4 * 1024 * 1024).toString('latin1')
    const { answer } = await exchangeOnBoth(t, both, async (client) => {
      const bytes = Buffer.from(sent, 'latin1')
      await client.write(request('GET', '/', { Connection: 'Upgrade', Upgrade: 'echo' }))
      client.end(bytes)
    })
    assert.ok(answer.endsWith(sent), 'all came back')
  })
})
