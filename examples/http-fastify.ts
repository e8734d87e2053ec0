// A Fastify application on all cores: its serverFactory hands us the server, which listens by shardloop.
// Run: npm run -s example -- http-fastify --port 8080, then: curl http://127.0.0.1:8080/hello/ada?times=2
import { createServer as createHttpServer, type Server } from 'node:http'
import Fastify from 'fastify'
import { createServer, isSupervisor, nodeHttp, shardId } from 'shardloop'
import { failure, listening, serverFlags } from './lib/program.js'

let http!: Server
const app = Fastify({ serverFactory: (handler) => (http = createHttpServer(handler)) })

const schema = {
  params: { type: 'object', properties: { name: { type: 'string', maxLength: 20 } } },
  querystring: {
    type: 'object',
    properties: { times: { type: 'integer', minimum: 1, maximum: 10, default: 1 } },
  },
}
app.get<{ Params: { name: string }; Querystring: { times: number } }>(
  '/hello/:name',
  { schema },
  async (request) => ({
    hello: Array.from({ length: request.query.times }, () => request.params.name),
    shard: shardId,
  }),
)

const options = serverFlags(8080)

async function main(): Promise<void> {
  await app.ready() // in place of app.listen()
  const server = await createServer(nodeHttp(http), options)
  if (isSupervisor) console.log(`Fastify on ${listening(server, options)}`)
}

main().catch(failure('http-fastify'))
