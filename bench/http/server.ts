/**
 * An HTTP server to be measured. Arguments: --peer shardloop|node-http|cluster [--app hello|large|upload|express|fastify]
 * [--engine mio|tokio] [--shards N]. Ends on SIGTERM.
 */
import cluster from 'node:cluster'
import { createServer as createHttpServer, Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { parseArgs } from 'node:util'
import { createServer, isSupervisor, nodeHttp } from '../../src/index.js'
import { oneOf } from '../flags.js'
import { APPS, type App, sourceOf } from './apps.js'

const HOST = '127.0.0.1'
/** As long as ours. */
const BACKLOG = 4096

const { values } = parseArgs({
  options: {
    peer: { type: 'string', default: 'shardloop' },
    app: { type: 'string', default: 'hello' },
    engine: { type: 'string', default: 'mio' },
    shards: { type: 'string', default: '0' },
  },
})
const app = oneOf<App>('--app', values.app, APPS)
const peer = oneOf('--peer', values.peer, ['shardloop', 'node-http', 'cluster'] as const)

if (peer === 'shardloop') {
  const { shards, engine } = values
  // What is no engine is refused by name there.
  const where = { host: HOST, port: 0, shards: Number(shards), engine: engine as 'mio' }
  const server = await createServer(nodeHttp(await sourceOf(app)), where)
  if (isSupervisor) tell(server.addresses[0] as AddressInfo, server.shards.length, server.engine)
} else if (peer === 'cluster' && cluster.isPrimary) {
  cluster.on('listening', ({ process }, address) => {
    tell(address, 1, 'node:cluster')
    console.log(`worker ${process.pid}`)
  })
  // A benchmark whose server has died must not go on with another one.
  cluster.on('exit', () => process.exit(1))
  cluster.fork()
} else {
  const source = await sourceOf(app)
  const server = source instanceof Server ? source : createHttpServer(source)
  server.listen({ host: HOST, port: 0, backlog: BACKLOG }, () => {
    // A worker's primary tells.
    if (peer === 'node-http') tell(server.address() as AddressInfo, 0, 'node:http')
  })
}

function tell(
  { address, port }: Pick<AddressInfo, 'address' | 'port'>,
  shards: number,
  engine: string,
): void {
  console.log(`listening on tcp://${address}:${port} (shards ${shards}, engine ${engine})`)
}
