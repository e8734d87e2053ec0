import { createHash } from 'node:crypto'
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import type { Side } from './http-apps.js'

type Route = (req: IncomingMessage, res: ServerResponse, side: Side) => void

/** Everything that node:http's listeners do with requests and responses, each under a path of its own. */
const ROUTES: Readonly<Record<string, Route>> = {
  '/': (_req, res) => void res.end('hello'),

  /** What the parser made of the request. */
  '/request': async (req, res) => {
    const body = await bodyOf(req)
    const { method, url, httpVersion, rawHeaders, headers, rawTrailers, complete } = req
    const { upgrade } = req as IncomingMessage & { upgrade: boolean }
    json(res, {
      method,
      url,
      httpVersion,
      rawHeaders,
      headers,
      rawTrailers,
      complete,
      upgrade,
      body: body.toString('latin1'),
    })
  },

  '/echo': (req, res) => {
    const { 'content-length': length } = req.headers
    if (length !== undefined) res.setHeader('Content-Length', length)
    req.pipe(res)
  },

  /** The body's length and hash: for large ones. */
  '/digest': (req, res) => {
    const hash = createHash('sha256')
    let length = 0
    req.on('data', (chunk: Buffer) => {
      length += chunk.length
      hash.update(chunk)
    })
    req.on('end', () => json(res, { length, hash: hash.digest('hex') }))
  },

  '/chunked': async (_req, res) => {
    for (let part = 0; part < 5; part++) {
      res.write(`part ${part};`)
      await turn()
    }
    res.end('last')
  },

  '/trailers': (_req, res) => {
    res.writeHead(200, { Trailer: 'Checksum', 'Content-Type': 'text/plain' })
    res.write('body')
    res.addTrailers({ Checksum: 'abc' })
    res.end()
  },

  '/no-content': (_req, res) => void res.writeHead(204).end(),
  '/not-modified': (_req, res) => void res.writeHead(304, { ETag: '"1"' }).end(),
  '/reset-content': (_req, res) => void res.writeHead(205).end(),

  '/headers': (_req, res) => {
    res.setHeader('X-First', 'one')
    res.setHeader('set-cookie', ['a=1', 'b=2; HttpOnly'])
    res.setHeader('X-NUMBER', 5)
    res.appendHeader('X-First', 'two')
    res.removeHeader('x-number')
    res.statusMessage = 'Fine'
    res.end('headers')
  },

  '/write-head': (_req, res) => {
    res.writeHead(201, 'Made', ['X-Raw', '1', 'X-raw', '2', 'Content-Length', '4'])
    res.end('made')
  },

  '/flush-headers': async (_req, res) => {
    res.flushHeaders()
    await turn()
    res.end('after the headers')
  },

  '/early-hints': (_req, res) => {
    res.writeProcessing()
    res.writeEarlyHints({ link: '</style.css>; rel=preload' }, () => void res.end('after the hints'))
  },

  '/no-date': (_req, res) => {
    res.sendDate = false
    res.end('no date')
  },

  '/identity': (_req, res) => {
    res.useChunkedEncodingByDefault = false
    res.removeHeader('transfer-encoding')
    res.write('until ')
    res.end('the end')
  },

  '/connection-close': (_req, res) => void res.writeHead(200, { Connection: 'close' }).end('bye'),
  '/late': async (_req, res) => {
    for (let turns = 0; turns < 20; turns++) await turn()
    res.end('late')
  },

  '/corked': (_req, res) => {
    res.cork()
    res.write('one ')
    res.write(Buffer.from('two '))
    res.uncork()
    res.write(new Uint8Array([51, 32]))
    res.end('caf\u00e9', 'latin1')
  },

  '/empty-chunks': (_req, res) => {
    res.write('')
    res.write('x')
    res.write('')
    res.end('')
  },

  '/large': (_req, res) => void res.end(pattern(4 * 1024 * 1024)),
  '/stream': (_req, res) => {
    const piece = pattern(64 * 1024)
    Readable.from(Array.from({ length: 64 }, () => piece)).pipe(res)
  },

  '/destroyed': (_req, res) => {
    res.writeHead(200, { 'Content-Length': 1000 })
    res.write('some of it', () => res.destroy())
  },

  '/socket-ended': (req, res) => {
    res.writeHead(200, { 'Content-Length': 1000 })
    res.write('some of it', () => req.socket.end())
  },

  '/too-large': (req, res) => {
    res.writeHead(413, { Connection: 'close' })
    res.end(`no more than 10 bytes, not ${req.headers['content-length']}`)
  },

  '/socket': (req, res) => {
    const { socket } = req
    const before = { timeout: socket.timeout, listeners: socket.listenerCount('timeout') }
    socket.setNoDelay(true).setKeepAlive(true, 1000).ref().setTimeout(5000)
    json(res, {
      before,
      timeout: socket.timeout,
      encrypted: (socket as { encrypted?: boolean }).encrypted === true,
      remoteAddress: socket.remoteAddress,
      remoteFamily: socket.remoteFamily,
      remotePort: typeof socket.remotePort,
      localAddress: socket.localAddress,
      localFamily: socket.localFamily,
      localPort: typeof socket.localPort,
      address: Object.keys(socket.address()),
      bytesRead: socket.bytesRead,
      bytesWritten: socket.bytesWritten,
      readyState: socket.readyState,
      connecting: socket.connecting,
      pending: socket.pending,
      destroyed: socket.destroyed,
      writable: socket.writable,
      readable: socket.readable,
      allowHalfOpen: socket.allowHalfOpen,
      writableLength: socket.writableLength,
      sameSocket: res.socket === socket,
    })
  },

  /** What happens to both, in the order in which it happens. */
  '/events': (req, res, side) => {
    for (const event of ['end', 'aborted', 'close'] as const)
      req.on(event, () => side.note(`request ${event}`))
    req.on('error', (error: NodeJS.ErrnoException) => side.note(`request error ${error.code}`))
    for (const event of ['finish', 'close'] as const) {
      res.on(event, () =>
        side.note(`response ${event}, ${res.writableFinished ? 'finished' : 'not finished'}`),
      )
    }
    req.socket.once('close', (broken: boolean) => side.note(`socket close ${broken}`))
    req.on('data', (chunk: Buffer) => side.note(`data ${chunk.length}`))
    if (req.headers['x-answer'] === 'none') return
    if (req.headers['x-answer'] === 'some') {
      res.writeHead(200, { 'Content-Length': 1000 })
      res.write('some of it')
      return
    }
    req.on('end', () => res.end('seen'))
  },
}

/** An unmodified listener of node:http. */
export function plainApp(side: Side): RequestListener {
  return (req, res) => {
    const { pathname } = new URL(req.url ?? '/', 'http://test')
    const route = ROUTES[pathname]
    if (route !== undefined) return route(req, res, side)
    res.writeHead(404, { 'Content-Type': 'text/plain' })
    res.end(`nothing at ${pathname}`)
  }
}

export async function bodyOf(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

/** Bytes that tell where in the whole they are. */
export function pattern(length: number, start = 0): Buffer {
  const bytes = Buffer.allocUnsafe(length)
  for (let at = 0; at < length; at++) bytes[at] = (start + at) % 251
  return bytes
}

export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

function json(res: ServerResponse, value: unknown): void {
  res.setHeader('Content-Type', 'application/json')
  res.end(JSON.stringify(value))
}
