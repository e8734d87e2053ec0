import type { RequestListener, Server } from 'node:http'
import { createRequire } from 'node:module'
import type { ProtocolFactory, Transport } from '../workers/protocol.js'
import type { TcpTransport } from '../workers/transport.js'
import { DuplexProtocol, TransportDuplex } from './duplex.js'

const HALF_OPEN = { allowHalfOpen: true }

export function nodeHttp(source: RequestListener | Server): ProtocolFactory {
  const http = createRequire(import.meta.url)('node:http') as typeof import('node:http')
  const server = source instanceof http.Server ? source : http.createServer(source)
  track(server)
  return () => new HttpProtocol(server)
}

class HttpProtocol extends DuplexProtocol {
  private readonly server: Server

  constructor(server: Server) {
    super()
    this.server = server
  }

  connectionMade(transport: Transport): void {
    this.duplex = new TransportDuplex(transport as TcpTransport, HALF_OPEN)
    this.server.emit('connection', this.duplex)
  }
}

function track(server: Server): void {
  for (const listener of server.listeners('listening')) {
    if (listener.name === 'setupConnectionsTracking') listener.call(server)
  }
}
