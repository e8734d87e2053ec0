// Peer of the benchmark: echo on node:net, as one writes it by hand.
// node node-net.mjs [--host H] [--port P]; ends on SIGTERM.
import { createServer } from 'node:net'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: { host: { type: 'string', default: '127.0.0.1' }, port: { type: 'string', default: '0' } },
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
  const { address, port } = server.address()
  console.log(`listening on tcp://${address}:${port} (shards 1, engine node:net)`)
})
