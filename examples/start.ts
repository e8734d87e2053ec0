// What npm start runs: two servers in one process, echo on port 7000 and HTTP on port 8080, both in every shard.
// Run by itself: npm run -s example -- start --port 7000 --http-port 8080
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, isSupervisor, nodeHttp, type Protocol, shardId, type Transport } from 'shardloop'
import { failure, listening, number, serverFlags, urlOf } from './lib/program.js'

class Echo implements Protocol {
  #transport!: Transport
  connectionMade(transport: Transport): void {
    this.#transport = transport
  }
  dataReceived(chunk: Buffer): void {
    this.#transport.write(chunk)
  }
  // A peer that sends but does not read: let it wait until it has read what is queued.
  pauseWriting(): void {
    this.#transport.pauseReading()
  }
  resumeWriting(): void {
    this.#transport.resumeReading()
  }
}

function hello(request: IncomingMessage, response: ServerResponse): void {
  response.setHeader('Content-Type', 'text/plain')
  response.end(`hello from shard ${shardId} to ${request.method} ${request.url}\n`)
}

async function main(): Promise<void> {
  const { 'http-port': httpPort, ...options } = serverFlags(7000, { 'http-port': '8080' })
  const echo = await createServer(() => new Echo(), { ...options, name: 'echo' })
  const http = await createServer(nodeHttp(hello), { ...options, name: 'http', port: number(httpPort) })
  if (isSupervisor)
    console.log(`echo on ${urlOf(echo, options, 'tcp')}, hello on ${listening(http, options)}`)
}

main().catch((error) => {
  if (!isSupervisor) return // it fails there as well
  failure('start')(error)
  process.exit() // one of the servers may run
})
