import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Transport } from '../workers/protocol.js'
import type { TcpTransport } from '../workers/transport.js'
import { DuplexProtocol, TransportDuplex } from './duplex.js'

/** What node:http leaves on a socket. Its names are old, and many libraries know them. */
interface HttpSocket extends TransportDuplex {
  /** The response whose turn it is. */
  _httpMessage?: ServerResponse | null
  /** While the connection speaks HTTP: not after an upgrade. */
  parser?: Parser | null
}

interface Parser {
  /** A request's head is complete. */
  onIncoming: (request: IncomingMessage, keepAlive: boolean) => number
}

/** node:http's listener to 'data'. */
type ParseListener = (chunk: Buffer) => void
/** It is known by that name. Where it has another one, what only the beginning of a head was received of is not waited for. */
const PARSE_NAME = 'bound socketOnData'

/** `net.Server`'s count of connections, which `getConnections` tells. */
type CountingServer = Server & { _connections: number }

const HALF_OPEN = { allowHalfOpen: true }
/** The end of a request's head. */
const HEAD_END = '\r\n\r\n'
const CR = 13
const LF = 10
/** Requests whose answers say that they are the last, though neither the client nor the program has asked for that. */
const announced = new WeakSet<IncomingMessage>()
/** As they were before the program may have replaced them. */
const [later, never] = [setTimeout, clearTimeout]

/** A connection of a server of node:http's. What it adds to that is an end in good order. */
export class HttpProtocol extends DuplexProtocol {
  declare duplex: HttpSocket
  private readonly server: CountingServer
  private readonly idleGraceMs: number
  /** The request that was read last. */
  private last: IncomingMessage | null = null
  /** A part of a head was received that is not complete. */
  private isMidHead = false
  private isEnding = false
  /** While the server drains: heads in the chunk that is parsed, or more (a body may look like one), that are not read yet. */
  private heads = 0
  private grace: NodeJS.Timeout | undefined = undefined
  /** That is over, or was not needed: it ends as soon as it has no request. */
  private isLeaving = false
  /** While the server drains: the response whose end is waited for. */
  private awaited: ServerResponse | null = null

  constructor(server: Server, idleGraceMs: number) {
    super()
    this.server = server as CountingServer
    this.idleGraceMs = idleGraceMs
  }

  /** The connection of a request's socket, if it is one. */
  static of(socket: object): HttpProtocol | undefined {
    if (!(socket instanceof TransportDuplex)) return undefined
    const { protocol } = socket.transport
    return protocol instanceof HttpProtocol ? protocol : undefined
  }

  get transport(): TcpTransport {
    return this.duplex.transport
  }

  connectionMade(transport: Transport): void {
    const { server } = this
    this.duplex = new TransportDuplex(transport as TcpTransport, HALF_OPEN)
    if (server.maxConnections > 0 && server._connections >= server.maxConnections) {
      this.drop()
      return
    }
    server._connections++
    this.duplex.once('close', () => {
      server._connections--
    })
    server.emit('connection', this.duplex)
    if (this.duplex.parser) this.follow(this.duplex.parser) // else a listener of the program's own has ended it
  }

  /** Learns what node:http reads: which requests, and from which chunks. */
  private follow(parser: Parser): void {
    const { duplex } = this
    const read = parser.onIncoming
    parser.onIncoming = (request, keepAlive) => {
      this.last = request
      return this.isEnding ? this.readLate(read, request, keepAlive) : read(request, keepAlive)
    }
    const parse = duplex.listeners('data').find(({ name }) => name === PARSE_NAME) as
      | ParseListener
      | undefined
    if (parse === undefined) return
    // In its place, not beside it: two listeners cost each chunk a copy of their list. It is removed as that one, by `listener`, when
    // the connection is upgraded.
    const followed = Object.assign((chunk: Buffer) => this.parse(parse, chunk), { listener: parse })
    duplex.removeListener('data', parse)
    duplex.on('data', followed)
  }

  private parse(parse: ParseListener, chunk: Buffer): void {
    const { last } = this
    const isBetween = last === null || last.complete
    if (this.isEnding) this.heads = headsIn(chunk)
    parse(chunk)
    // Neither a head nor of the body of a request before: it is of a head.
    if (this.last !== last || !isBetween) this.isMidHead = false
    else this.isMidHead ||= !isEmptyLine(chunk)
    if (!this.isEnding) return
    this.heads = 0
    if (!this.duplex.parser) this.upgradedLate()
    else if (this.isLeaving) this.leaveIfIdle() // it was no request that came
  }

  override connectionLost(error: Error | null): void {
    never(this.grace)
    super.connectionLost(error)
  }

  /** What the connection speaks is HTTP: its end is seen to here. Else as with any stream. */
  override get draining(): () => void {
    return this.duplex.parser ? this.end : super.draining
  }

  private end(): void {
    this.isEnding = true
    const response = this.duplex._httpMessage
    if (!response) this.endIdle()
    else this.await(response)
  }

  private endIdle(): void {
    if (this.isMidHead || this.idleGraceMs === 0) this.leave()
    else this.grace = later(() => this.leave(), this.idleGraceMs)
  }

  private leave(): void {
    this.isLeaving = true
    this.leaveIfIdle()
  }

  /** What has begun of a head is waited for: the request will come, or node:http's headersTimeout. */
  private leaveIfIdle(): void {
    if (!this.isIdle) return
    // A body that nobody waits for any more.
    if (this.last?.complete === false) this.duplex.destroySoon()
    else {
      // What the kernel has received by now is read first.
      this.transport.askForRest(() => {
        if (this.isIdle) this.duplex.destroySoon()
      })
    }
  }

  /** There is no request, nor a part of one. */
  private get isIdle(): boolean {
    return !this.duplex._httpMessage && !this.isMidHead && !this.hasMore && Boolean(this.duplex.parser)
  }

  /** The connection ends behind this response, or behind those to what was read meanwhile. */
  private await(response: ServerResponse): void {
    if (this.awaited === response) return
    this.awaited = response
    if (response.req === this.last && !this.hasMore) announceEnd(response)
    else revokeEnd(response)
    // Behind node:http's own listener, which makes the next response the present one.
    response.once('finish', () => {
      this.awaited = null
      const next = this.duplex._httpMessage
      if (next) this.await(next)
      else this.leave()
    })
  }

  /** Requests may have been received that are not read. */
  private get hasMore(): boolean {
    return this.heads > 0 || this.duplex.readableLength > 0
  }

  /** A request that came while the server drains. Those in the same chunk are answered, too: the last one says that it is. */
  private readLate(read: Parser['onIncoming'], request: IncomingMessage, keepAlive: boolean): number {
    this.heads--
    const before = this.duplex._httpMessage
    if (before) revokeEnd(before)
    const isLast = !this.hasMore
    if (isLast && keepAlive) announced.add(request)
    const result = read(request, keepAlive && !isLast)
    const response = this.duplex._httpMessage
    if (response) this.await(response)
    return result
  }

  /** It was upgraded while the server drains: what it is now was not told yet. */
  private upgradedLate(): void {
    const told = super.draining as (() => void) | undefined
    if (told === undefined) this.transport.finish()
    else told.call(this)
  }

  /** As net.Server past maxConnections. */
  private drop(): void {
    const { localAddress, localPort, localFamily, remoteAddress, remotePort, remoteFamily } = this.duplex
    this.server.emit('drop', {
      localAddress,
      localPort,
      localFamily,
      remoteAddress,
      remotePort,
      remoteFamily,
    })
    this.duplex.destroy()
  }
}

/** Or more of them: what comes before a head without being of it. */
function isEmptyLine(chunk: Buffer): boolean {
  return chunk.every((byte) => byte === CR || byte === LF)
}

/** An answer says that it is the last one, if it may still say anything. */
function announceEnd(response: ServerResponse): void {
  if (response.headersSent || !response.shouldKeepAlive) return
  announced.add(response.req)
  response.shouldKeepAlive = false
}

/** Another request has come behind its own. */
function revokeEnd(response: ServerResponse): void {
  if (!response.headersSent && announced.delete(response.req)) response.shouldKeepAlive = true
}

/** How many heads end in a chunk, at most. A head whose lines end without a carriage return counts as none. */
function headsIn(chunk: Buffer): number {
  let heads = 0
  for (let at = chunk.indexOf(HEAD_END); at >= 0; at = chunk.indexOf(HEAD_END, at + HEAD_END.length)) heads++
  return heads
}
