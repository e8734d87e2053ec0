// Peer of the benchmark: echo on node:dgram, in its fastest plain form: no callback, and no lookup of what is an address.
// node node-dgram.mjs [--host H] [--port P] [--receive-buffer BYTES]; ends on SIGTERM.
import { createSocket } from 'node:dgram'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    'receive-buffer': { type: 'string', default: '1048576' },
  },
})

const socket = createSocket({
  type: 'udp4',
  recvBufferSize: Number(values['receive-buffer']),
  lookup: (address, _options, callback) => callback(null, address, 4),
})
socket.on('message', (message, peer) => {
  socket.send(message, peer.port, peer.address)
})
// What a client that has ended refuses is nothing to a server.
socket.on('error', () => {})
socket.bind(Number(values.port), values.host, () => {
  const { address, port } = socket.address()
  console.log(`listening on udp://${address}:${port} (shards 1, engine node:dgram)`)
})
