// HTTP/2 and HTTP/1.1 on one port, with TLS: clients say by ALPN which they speak. Run:
// npm run -s example -- http-h2-tls --port 8443 --tls-cert cert.pem --tls-key key.pem
// then: curl --http2 -k https://127.0.0.1:8443/ and curl --http1.1 -k https://127.0.0.1:8443/
import type { IncomingMessage, ServerResponse } from 'node:http'
import { performServerHandshake, type ServerHttp2Stream } from 'node:http2'
import { createServer, isSupervisor, nodeHttp, type Protocol, shardId, type Transport } from 'shardloop'
import { failure, listening, serverFlags } from './lib/program.js'

const http1 = nodeHttp((request: IncomingMessage, response: ServerResponse) => {
  response.setHeader('Content-Type', 'text/plain')
  response.end(hello('HTTP/1.1', request.url))
})

function serveHttp2(transport: Transport): void {
  const socket = transport.duplex()
  const session = performServerHandshake(socket)
  session.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => {}) // the client has left
    stream.respond({ ':status': 200, 'content-type': 'text/plain' })
    stream.end(hello('HTTP/2', headers[':path']))
  })
  session.on('error', () => {}) // 'close' follows
  // The server drains: what was asked is answered, and nothing more.
  socket.once('draining', () => session.close())
}

function hello(protocol: string, url: string | undefined): string {
  return `hello by ${protocol} from shard ${shardId} to ${url}\n`
}

/** Becomes what the client has asked for. */
class ByAlpn implements Protocol {
  connectionMade(transport: Transport): void {
    if (transport.getExtraInfo('alpn') === 'h2') return serveHttp2(transport)
    const protocol = http1()
    transport.setProtocol(protocol)
    protocol.connectionMade?.(transport)
  }
}

const options = serverFlags(8443)

async function main(): Promise<void> {
  const tls = { ...options.tls, alpn: ['h2', 'http/1.1'] }
  const server = await createServer(() => new ByAlpn(), { ...options, tls })
  if (isSupervisor) console.log(`HTTP/2 and HTTP/1.1 on ${listening(server, { tls })}`)
}

main().catch(failure('http-h2-tls'))
