// Peer of the benchmark: echo on node:net, as one writes it by hand.
// node node-net.mjs [--host H] [--port P] or [--path SOCKET]; ends on SIGTERM.
import { createServer } from 'node:net'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    path: { type: 'string' },
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

const where =
  values.path === undefined ? { host: values.host, port: Number(values.port) } : { path: values.path }
server.listen({ ...where, backlog: 4096 }, () => {
  const bound = server.address()
  const address = typeof bound === 'string' ? `unix:${bound}` : `tcp://${bound.address}:${bound.port}`
  console.log(`listening on ${address} (shards 1, engine node:net)`)
})
