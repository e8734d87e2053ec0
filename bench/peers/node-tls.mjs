// Peer of the benchmark: echo on node:tls, as one writes it by hand.
// node node-tls.mjs --tls-cert FILE --tls-key FILE [--host H] [--port P]; ends on SIGTERM.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:tls'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    'tls-cert': { type: 'string' },
    'tls-key': { type: 'string' },
  },
})

const files = { cert: readFileSync(values['tls-cert']), key: readFileSync(values['tls-key']) }
const server = createServer({ ...files, noDelay: true }, (socket) => {
  socket.on('data', (chunk) => {
    if (socket.write(chunk)) return
    socket.pause()
    socket.once('drain', () => socket.resume())
  })
  // A client that resets ends its own connection and nothing else.
  socket.on('error', () => socket.destroy())
})
// The same before a handshake is complete.
server.on('tlsClientError', () => {})

server.listen({ host: values.host, port: Number(values.port), backlog: 4096 }, () => {
  const { address, port } = server.address()
  console.log(`listening on tls://${address}:${port} (shards 1, engine node:tls)`)
})
