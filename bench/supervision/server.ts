/**
 * A server to be broken: `server.js KIND SHARDS`. It prints `listening on tcp://HOST:PORT`, and then, as JSON lines with the
 * time in milliseconds of the epoch, when one of its shards or workers has died and when its replacement is ready.
 */
import cluster from 'node:cluster'
import { createServer as createNetServer } from 'node:net'
import { createServer } from 'shardloop'
import { obey } from './commands.js'

/** Servers that are compared; see `TITLES`. */
export type Kind = 'reuseport' | 'shared' | 'cluster-rr' | 'cluster-none'

const HEAP_MAX_MB = 32
const HOST = '127.0.0.1'
const [kind, shards] = [process.argv[2] as Kind, Number(process.argv[3])]

if (kind === 'reuseport' || kind === 'shared') await runShards(kind)
else if (cluster.isPrimary) runPrimary()
else runWorker()

async function runShards(balance: 'reuseport' | 'shared'): Promise<void> {
  const server = await createServer(new URL('./module.js', import.meta.url), {
    host: HOST,
    shards,
    balance,
    maxRestarts: 10_000,
    restartWindowMs: 1, // every replacement at once, as the peers' are
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MAX_MB },
  })
  server.events.on('shard', ({ state, exitCode }) => {
    if (exitCode !== undefined) tell('dead')
    else if (state === 'ready') tell('ready')
  })
  console.log(`listening on tcp://${HOST}:${server.addresses[0]?.port}`)
}

function runPrimary(): void {
  cluster.schedulingPolicy = kind === 'cluster-rr' ? cluster.SCHED_RR : cluster.SCHED_NONE
  cluster.setupPrimary({ execArgv: [`--max-old-space-size=${HEAP_MAX_MB}`] })
  let listening = 0
  cluster.on('listening', (_, { port }) => {
    listening += 1
    if (listening === shards) console.log(`listening on tcp://${HOST}:${port}`)
    else if (listening > shards) tell('ready')
  })
  cluster.on('exit', () => {
    tell('dead')
    cluster.fork()
  })
  process.once('SIGTERM', () => process.exit())
  for (let worker = 0; worker < shards; worker++) cluster.fork()
}

function runWorker(): void {
  const server = createNetServer({ noDelay: true }, (socket) => {
    socket.on('error', () => {})
    socket.on('data', (chunk) => obey(chunk, cluster.worker?.id ?? 0, (bytes) => socket.write(bytes)))
  })
  server.listen(0, HOST, 4096)
}

function tell(what: 'dead' | 'ready'): void {
  console.log(JSON.stringify({ what, atMs: performance.timeOrigin + performance.now() }))
}
