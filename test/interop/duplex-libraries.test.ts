import assert from 'node:assert/strict'
import { type EventEmitter, once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import { createRequire } from 'node:module'
import { type Duplex, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import tls from 'node:tls'
import { Aedes } from 'aedes'
import { WebSocket, WebSocketServer } from 'ws'
import type { Server, TransportDuplex } from '../../src/index.js'
import { assertBytes } from '../harness/client.js'
import { Deferred } from '../harness/deferred.js'
import { forEachEngine, type TestContext } from '../harness/suite.js'

/** What is used of mqtt, whose types need those of browsers. */
interface MqttClient extends EventEmitter {
  subscribeAsync(topics: string[], options: { qos: number }): Promise<unknown>
  publishAsync(topic: string, payload: Buffer, options: { qos: number }): Promise<unknown>
  endAsync(force: boolean): Promise<unknown>
}
const { MqttClient } = createRequire(import.meta.url)('mqtt') as {
  MqttClient: new (open: () => Duplex, options: object) => MqttClient
}

const KiB = 1024
const MiB = 1024 * KiB

/** Libraries that take a net.Socket get streams of ours, at both ends where they have two. */
forEachEngine('libraries on streams of connections', (test) => {
  test('node:http: requests that follow one another, with bodies both ways', async (t) => {
    const { agent } = await served(t, (request, response) => {
      response.setHeader('x-from', `${request.socket.remoteAddress}`)
      request.pipe(response)
    })
    for (const size of [0, 10, 300 * KiB, 5 * MiB]) {
      const body = t.random.bytes(size)
      const request = http.request({ agent, method: 'POST', host: 'x' })
      const answer = once(request, 'response')
      await pipeline(Readable.from(t.random.pieces(body, 1, 100 * KiB), { objectMode: true }), request)
      const [response] = (await answer) as [http.IncomingMessage]
      assert.equal(response.headers['x-from'], '127.0.0.1')
      assertBytes(await bytesOf(response), body)
    }
    assert.equal(agent.made, 1)
    agent.destroy()
  })

  test('node:http: pipelined requests, one that expects 100-continue, and the last that closes', async (t) => {
    const { server } = await served(t, async (request, response) => {
      const body = await bytesOf(request)
      response.end(`${request.url} ${body};`)
    })
    const client = await t.connect(server)
    await client.write('GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n')
    await client.write('POST /3 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n')
    await client.write('bodyGET /4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    const text = (await client.readToEnd()).toString()
    assert.deepEqual(text.match(/\/\d [a-z]*;/g), ['/1 ;', '/2 ;', '/3 body;', '/4 ;'])
    assert.match(text, /HTTP\/1.1 100 Continue/)
  })

  test('node:http: a client that goes away in the middle of its request, and of its answer', async (t) => {
    let received = 0
    const ends: Promise<unknown>[] = []
    const { server } = await served(t, (request, response) => {
      ends.push(once(response, 'close'))
      request.on('error', () => {})
      request.on('data', (chunk) => {
        received += chunk.length
      })
      if (request.method === 'GET') response.write(Buffer.alloc(32 * MiB))
    })
    const half = await t.connect(server)
    await half.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf')
    const reading = await t.connect(server)
    await reading.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    await reading.readExactly(MiB)
    half.reset()
    reading.reset()
    assert.equal(ends.length, 2)
    await Promise.all(ends)
    assert.equal(received, 4)
  })

  test('node:http: an answer to a slow reader waits for drain', async (t) => {
    let drains = 0
    const chunk = Buffer.alloc(64 * KiB)
    const { server } = await served(t, async (_request, response) => {
      for (let left = 512; left > 0; left--) {
        if (response.write(chunk)) continue
        await once(response, 'drain')
        drains += 1
      }
      response.end()
    })
    const client = await t.connect(server)
    client.socket.on('data', () => {
      client.pause()
      setImmediate(() => client.resume())
    })
    await client.write('GET / HTTP/1.0\r\n\r\n')
    assert.ok((await client.readToEnd()).length > 512 * chunk.length)
    assert.ok(drains > 0)
  })

  test('node:http: an upgrade goes on with the stream, and keep-alive times out', async (t) => {
    const { server, handler } = await served(t, (_request, response) => response.end('x'))
    handler.keepAliveTimeout = 100
    handler.on('upgrade', (_request, socket: Duplex, head: Buffer) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n')
      socket.write(head)
      socket.pipe(socket)
    })
    const client = await t.connect(server)
    await client.write('GET / HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nhead')
    while ((await client.readLine()) !== '\r') {}
    client.end(', and more')
    assert.equal((await client.readToEnd()).toString(), 'head, and more')
    const idle = await t.connect(server)
    await idle.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    assert.match((await idle.readToEnd()).toString(), /x$/)
  })

  test('node:http2 at both ends: many streams with big bodies, flow control, and a session that closes', async (t) => {
    const handler = http2.createServer()
    handler.on('stream', (stream) => {
      stream.respond({ ':status': 200 })
      stream.pipe(stream)
    })
    const { server, streams } = await streaming(t, (duplex) => handler.emit('connection', duplex))
    const duplex = await dialled(t, server)
    const session = http2.connect('http://x', { createConnection: () => duplex })
    await Promise.all(
      Array.from({ length: 20 }, async (_, number) => {
        const body = t.random.bytes(t.random.size(1, 2 * MiB))
        const stream = session.request({ ':method': 'POST', ':path': `/${number}` })
        const sent = pipeline(
          Readable.from(t.random.pieces(body, 1, 100 * KiB), { objectMode: true }),
          stream,
        )
        const chunks: Buffer[] = []
        // Some read slowly: their windows fill, and the others go on.
        stream.on('data', (chunk: Buffer) => {
          chunks.push(chunk)
          if (number % 4 !== 0) return
          stream.pause()
          setImmediate(() => stream.resume())
        })
        await Promise.all([sent, once(stream, 'end')])
        assertBytes(Buffer.concat(chunks), body)
      }),
    )
    await new Promise<void>((resolve) => session.close(resolve))
    for (const stream of [duplex, ...streams]) if (!stream.closed) await once(stream, 'close')
    handler.close()
  })

  test('node:http2: a session that is destroyed ends its stream, and so does the reset of its peer', async (t) => {
    const handler = http2.createServer((request, response) => response.end(request.url))
    const { server, streams } = await streaming(t, (duplex) => handler.emit('connection', duplex))
    for (const end of ['destroy', 'reset'] as const) {
      const duplex = await dialled(t, server)
      const session = http2.connect('http://x', { createConnection: () => duplex })
      session.on('error', () => {})
      const stream = session.request({ ':path': `/${end}` })
      assert.equal((await bytesOf(stream)).toString(), `/${end}`)
      const there = streams.pop() as TransportDuplex
      const closed = new Promise((resolve) => there.once('close', resolve))
      if (end === 'destroy') session.destroy()
      else duplex.resetAndDestroy()
      await closed
    }
    handler.close()
  })

  test('ws at both ends: messages of any size, compressed and not, ping, and close with a code', async (t) => {
    for (const perMessageDeflate of [false, true]) {
      const sockets = new WebSocketServer({ noServer: true, perMessageDeflate })
      sockets.on('connection', (socket) => {
        socket.on('message', (data, binary) => socket.send(data, { binary }))
        socket.on('close', told.resolve.bind(told))
      })
      const told = new Deferred<number>()
      const { server, handler, streams } = await served(t)
      handler.on('upgrade', (request, socket, head) =>
        sockets.handleUpgrade(
          request,
          socket,
          head,
          (client) => void sockets.emit('connection', client, request),
        ),
      )
      const duplex = await dialled(t, server)
      const client = new WebSocket('ws://x/', { perMessageDeflate, createConnection: () => duplex })
      await once(client, 'open')
      for (const size of [0, 1, 125, 126, 65_536, 3 * MiB]) {
        const data = t.random.bytes(size)
        client.send(data)
        const [answer] = await once(client, 'message')
        assertBytes(answer, data)
      }
      client.ping('p')
      assert.equal(String((await once(client, 'pong'))[0]), 'p')
      client.close(4001, 'enough')
      assert.equal((await once(client, 'close'))[0], 4001)
      for (const stream of [duplex, ...streams]) if (!stream.closed) await once(stream, 'close')
      assert.equal(await told.promise, 4001)
      sockets.close()
    }
  })

  test('aedes: clients of mqtt publish and subscribe, and one that vanishes leaves its will', async (t) => {
    const broker = await Aedes.createBroker()
    t.defer(() => new Promise<void>((resolve) => broker.close(resolve)))
    const { server } = await streaming(t, (duplex) => broker.handle(duplex))
    const connect = async (options = {}): Promise<{ client: MqttClient; duplex: TransportDuplex }> => {
      const duplex = await dialled(t, server)
      const client = new MqttClient(() => duplex, { reconnectPeriod: 0, ...options })
      t.defer(() => client.endAsync(true))
      client.on('error', () => {})
      await once(client, 'connect')
      return { client, duplex }
    }
    const { client: subscriber } = await connect()
    await subscriber.subscribeAsync(['news', 'wills'], { qos: 1 })
    const vanishing = await connect({
      will: { topic: 'wills', payload: Buffer.from('gone'), qos: 1, retain: false },
    })
    const body = t.random.bytes(MiB)
    const news = once(subscriber, 'message')
    await vanishing.client.publishAsync('news', body, { qos: 1 })
    assertBytes((await news)[1] as Buffer, body)
    const will = once(subscriber, 'message')
    vanishing.duplex.resetAndDestroy()
    assert.deepEqual((await will).slice(0, 2).map(String), ['wills', 'gone'])
  })

  test('node:tls at both ends, over and under streams', async (t) => {
    const identity = { psk: Buffer.alloc(32, 7), identity: 'test' }
    const secret = { ciphers: 'PSK-AES256-GCM-SHA384', maxVersion: 'TLSv1.2' } as const
    const { server, streams } = await streaming(t, (duplex) => {
      const socket = new tls.TLSSocket(duplex, {
        ...secret,
        isServer: true,
        // Of TLSSocket, too, though its type does not tell.
        ...({ pskCallback: () => identity.psk } as object),
      })
      socket.on('error', () => {})
      socket.pipe(socket)
    })
    const duplex = await dialled(t, server)
    const client = tls.connect({
      ...secret,
      socket: duplex,
      pskCallback: () => identity,
      checkServerIdentity: () => undefined,
    })
    await once(client, 'secureConnect')
    assert.equal(client.getCipher().name, 'PSK-AES256-GCM-SHA384')
    const data = t.random.bytes(5 * MiB)
    const sent = pipeline(Readable.from(t.random.pieces(data, 1, 100 * KiB), { objectMode: true }), client)
    const chunks: Buffer[] = []
    for await (const chunk of client) {
      chunks.push(chunk as Buffer)
    }
    await sent
    assertBytes(Buffer.concat(chunks), data)
    for (const stream of [duplex, ...streams]) if (!stream.closed) await once(stream, 'close')
  })
})

interface Streaming {
  readonly server: Server
  /** Of the accepted connections. */
  readonly streams: TransportDuplex[]
}

/** A server whose connections are given to a library. */
async function streaming(t: TestContext, take: (duplex: TransportDuplex) => unknown): Promise<Streaming> {
  const streams: TransportDuplex[] = []
  const server = await t.serve(() => ({
    connectionMade(transport) {
      const duplex = transport.duplex({ allowHalfOpen: true })
      streams.push(duplex)
      take(duplex)
    },
  }))
  return { server, streams }
}

/** A connection of ours to it, as a stream. */
async function dialled(t: TestContext, server: Server): Promise<TransportDuplex> {
  const [transport] = await t.dial(server, () => ({}))
  return transport.duplex()
}

/** The same with node:http, and an agent whose connections are ours, too. */
async function served(
  t: TestContext,
  listener?: http.RequestListener,
): Promise<Streaming & { handler: http.Server; agent: DuplexAgent }> {
  const handler = http.createServer(listener)
  const { server, streams } = await streaming(t, (duplex) => handler.emit('connection', duplex))
  return { server, streams, handler, agent: new DuplexAgent(t, server) }
}

class DuplexAgent extends http.Agent {
  made = 0
  readonly #t: TestContext
  readonly #server: Server

  constructor(t: TestContext, server: Server) {
    super({ keepAlive: true })
    this.#t = t
    this.#server = server
  }

  override createConnection(
    _options: http.ClientRequestArgs,
    callback: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    this.made += 1
    dialled(this.#t, this.#server).then((duplex) => callback(null, duplex))
  }
}

async function bytesOf(stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}
