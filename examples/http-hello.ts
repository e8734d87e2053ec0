// HTTP with a listener of node:http, on all cores. Run: npm run -s example -- http-hello --port 8080
// then: curl http://127.0.0.1:8080/ and npm run loadtest -- http --url http://127.0.0.1:8080/ --conns 64 --secs 10
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, isSupervisor, nodeHttp, shardId } from 'shardloop'
import { failure, listening, serverFlags } from './lib/program.js'

function hello(request: IncomingMessage, response: ServerResponse): void {
  response.setHeader('Content-Type', 'text/plain')
  response.end(`hello from shard ${shardId} to ${request.method} ${request.url}\n`)
}

const options = serverFlags(8080)

async function main(): Promise<void> {
  const server = await createServer(nodeHttp(hello), options)
  if (isSupervisor) console.log(`hello on ${listening(server, options)}`)
}

main().catch(failure('http-hello'))
