import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer, Server as HttpServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer, type Server as TlsServer } from 'node:tls'
import { nodeHttp } from '../../src/index.js'
import { identityOf } from './certificates.js'
import type { Client } from './client.js'
import { Observable } from './deferred.js'
import { type TestContext, whereIs } from './suite.js'

/** What serves the app. */
export type SideName = 'node:http' | 'shardloop'

/** An app on one of the two servers that are compared. */
export class Side extends Observable {
  readonly name: SideName
  /** What the app noted, in order. */
  readonly notes: string[] = []
  /** A port, or the path of a Unix socket. */
  at!: number | string
  http!: HttpServer

  constructor(name: SideName) {
    super()
    this.name = name
  }

  /** For the app: what it saw, to be compared. */
  note(what: string): void {
    this.notes.push(what)
    this.changed()
  }

  /** Resolves when the app has noted that. */
  noted(what: string): Promise<void> {
    return this.until(() => this.notes.includes(what))
  }

  get url(): string {
    assert.equal(typeof this.at, 'number', 'only a port has a URL')
    return `http://127.0.0.1:${this.at}`
  }
}

/** The same app on node:http and on shardloop. */
export class Both {
  readonly theirs: Side
  readonly ours: Side

  constructor(theirs: Side, ours: Side) {
    this.theirs = theirs
    this.ours = ours
  }

  /** Does the same with each; fails unless the outcome, and what the apps noted, is the same. */
  async same<Outcome>(visit: (side: Side) => Promise<Outcome>): Promise<Outcome> {
    const theirs = await visit(this.theirs)
    const ours = await visit(this.ours)
    assert.deepEqual(ours, theirs, 'shardloop (actual) answers as node:http (expected)')
    assert.deepEqual(this.ours.notes, this.theirs.notes, 'the app saw the same')
    return ours
  }
}

/**
 * Starts the app on both. `make` is called once for each, and returns its listener, or a server of node:http that does not listen
 * yet.
 */
export async function onBoth(
  t: TestContext,
  make: (side: Side) => RequestListener | HttpServer | Promise<RequestListener | HttpServer>,
): Promise<Both> {
  const theirs = new Side('node:http')
  const theirApp = await make(theirs)
  theirs.http = theirApp instanceof HttpServer ? theirApp : createHttpServer(theirApp)
  const listener = t.tls === null ? theirs.http : overTls(theirs.http)
  if (t.transport === 'unix') listener.listen(t.path('node-http'))
  else listener.listen(0, '127.0.0.1')
  t.defer(async () => {
    const closed = once(listener, 'close')
    listener.close()
    theirs.http.closeAllConnections()
    await closed
  })
  await once(listener, 'listening')
  const address = listener.address()
  theirs.at = typeof address === 'object' ? (address?.port as number) : address
  const ours = new Side('shardloop')
  const ourApp = await make(ours)
  ours.http = ourApp instanceof HttpServer ? ourApp : createHttpServer(ourApp)
  ours.at = whereIs(await t.serve(nodeHttp(ours.http)))
  return new Both(theirs, ours)
}

/** What listens for it, where its connections are of TLS: node:https would be another kind of server. */
function overTls(http: HttpServer): TlsServer {
  const { cert, key } = identityOf('server')
  const listener = createTlsServer({ cert, key, allowHalfOpen: true })
  return listener.on('secureConnection', (socket) => void http.emit('connection', socket))
}

/** What came over a connection until its end. */
export interface Exchange {
  /** As latin1, the values of Date headers replaced. */
  readonly answer: string
  /** How it ended: in order, or by which error. */
  readonly fate: string
}

/** What a client does. The default of a request in pieces: each is written when the one before was taken. */
export type Visit =
  | string
  | Buffer
  | readonly (string | Buffer)[]
  | ((client: Client, side: Side) => Promise<void>)

/** Connects, sends the request, and takes everything until the server closes. */
export async function exchange(t: TestContext, side: Side, visit: Visit): Promise<Exchange> {
  const client = await t.connect(side.at)
  if (typeof visit === 'function') await visit(client, side)
  // What the server takes no more of shows in how the connection ends.
  else for (const piece of [visit].flat() as (string | Buffer)[]) await client.write(piece).catch(() => {})
  const bytes = await client.readToClose()
  const fate = client.ended ? 'end' : (client.error?.code ?? 'closed without an end')
  client.end()
  await client.destroy()
  return { answer: normalise(bytes.toString('latin1')), fate }
}

/** Two answers are seldom of the same second. */
export function normalise(answer: string): string {
  return answer.replace(/^(date): [^\r]*/gim, '$1: then')
}

/** The answer to the same raw request on both. */
export function exchangeOnBoth(t: TestContext, both: Both, visit: Visit): Promise<Exchange> {
  return both.same((side) => exchange(t, side, visit))
}

/** A request, with Host and, unless there is another one, `Connection: close`. */
export function request(
  method: string,
  path: string,
  headers: Readonly<Record<string, string | number>> = {},
  body = '',
): string {
  const given = { Host: 'test', Connection: 'close', ...headers }
  const lines = Object.entries(given).map(([name, value]) => `${name}: ${value}\r\n`)
  return `${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body}`
}

/** The same with a body, whose length the request tells. */
export function post(
  path: string,
  body: string,
  headers: Readonly<Record<string, string | number>> = {},
): string {
  return request('POST', path, { 'Content-Length': Buffer.byteLength(body), ...headers }, body)
}
