/**
 * How long a shard's replacement takes, against a bare worker thread that imports the same: `replacement.js ROUNDS` prints
 * `{ shardMs, bareMs }`, a value per round each, taken in turns.
 */
import { once } from 'node:events'
import { connect } from 'node:net'
import { Worker } from 'node:worker_threads'
import { createServer, type ShardChange } from 'shardloop'

const MODULE = new URL('./module.js', import.meta.url)
const rounds = Number(process.argv[2])

const server = await createServer(MODULE, {
  host: '127.0.0.1',
  shards: 1,
  signals: false,
  maxRestarts: 10_000,
  restartWindowMs: 1,
})

/** From the supervisor's word of the death to its word that the replacement listens. */
async function replace(): Promise<number> {
  const died = changed(({ exitCode }) => exitCode !== undefined)
  const socket = connect(server.addresses[0]?.port as number, '127.0.0.1')
  socket.on('error', () => {})
  socket.write('die exit 0\n')
  await died
  const began = performance.now()
  await changed(({ state }) => state === 'ready')
  return performance.now() - began
}

function changed(how: (change: ShardChange) => boolean): Promise<void> {
  return new Promise((resolve) => {
    server.events.on('shard', function look(change) {
      if (!how(change)) return
      server.events.off('shard', look)
      resolve()
    })
  })
}

async function bare(): Promise<number> {
  const began = performance.now()
  const imports = [import.meta.resolve('shardloop'), MODULE.href].map(
    (url) => `import(${JSON.stringify(url)})`,
  )
  const code = `Promise.all([${imports}]).then(() => require('node:worker_threads').parentPort.postMessage('imported'))`
  const worker = new Worker(code, { eval: true })
  await once(worker, 'message')
  const ms = performance.now() - began
  await worker.terminate()
  return ms
}

const [shardMs, bareMs]: [number[], number[]] = [[], []]
await replace()
await bare()
for (let round = 0; round < rounds; round++) {
  shardMs.push(await replace())
  bareMs.push(await bare())
}
await server.close()
console.log(JSON.stringify({ shardMs, bareMs }))
