/**
 * Echo on node:net, as in ../peers/node-net.mjs, with the probes on the same thread. See ../inside.ts for what it
 * understands on stdin. Arguments: [--host H] [--port P] [--fetch URL]; with --fetch the latency probes run.
 */
import { type AddressInfo, createServer } from 'node:net'
import { parseArgs } from 'node:util'
import { answerStdin } from './commands.js'
import { collectedHeapBytes, Probes } from './probes.js'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    fetch: { type: 'string' },
  },
})

const server = createServer({ noDelay: true }, (socket) => {
  socket.on('data', (chunk) => {
    if (socket.write(chunk)) return
    socket.pause()
    socket.once('drain', () => socket.resume())
  })
  // A client that resets ends its own connection and nothing else.
  socket.on('error', () => socket.destroy())
})

server.listen({ host: values.host, port: Number(values.port), backlog: 4096 }, () => {
  const { address, port } = server.address() as AddressInfo
  const probes = values.fetch === undefined ? null : new Probes(values.fetch)
  console.log(`listening on tcp://${address}:${port} (shards 1, engine node:net)`)
  answerStdin(
    async (request) => {
      if (request === 'reset') probes?.reset()
      if (request === 'end') probes?.stop()
      return request === 'heap' ? { heapBytes: collectedHeapBytes() } : (probes?.report() ?? {})
    },
    async () => {
      server.close()
    },
  )
})
