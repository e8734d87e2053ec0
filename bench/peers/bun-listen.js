// Peer of the benchmark: echo on Bun.listen. A write that the socket does not take whole is kept and goes out on drain,
// and reading pauses until then.
// bun bun-listen.js [--host H] [--port P] or [--path SOCKET], [--tls-cert FILE --tls-key FILE]; ends on SIGTERM.
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  args: process.argv.slice(2),
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    path: { type: 'string' },
    'tls-cert': { type: 'string' },
    'tls-key': { type: 'string' },
  },
})

const { 'tls-cert': cert, 'tls-key': key } = values
const tls = cert === undefined ? {} : { tls: { cert: Bun.file(cert), key: Bun.file(key) } }

const server = Bun.listen({
  ...tls,
  ...(values.path === undefined
    ? { hostname: values.host, port: Number(values.port) }
    : { unix: values.path }),
  socket: {
    open(socket) {
      socket.data = null
      if (values.path === undefined) socket.setNoDelay(true)
    },
    data(socket, chunk) {
      // Bun may hand over what it has read already after a pause.
      if (socket.data !== null) {
        socket.data = Buffer.concat([socket.data, chunk])
        return
      }
      const written = Math.max(socket.write(chunk), 0)
      if (written < chunk.length) {
        socket.data = Buffer.from(chunk.subarray(written))
        socket.pause()
      }
    },
    drain(socket) {
      if (socket.data === null) return
      const written = Math.max(socket.write(socket.data), 0)
      if (written < socket.data.length) {
        socket.data = socket.data.subarray(written)
        return
      }
      socket.data = null
      socket.resume()
    },
    // A client that resets ends its own connection and nothing else.
    error() {},
  },
})

const scheme = cert === undefined ? 'tcp' : 'tls'
const address =
  values.path === undefined ? `${scheme}://${server.hostname}:${server.port}` : `unix:${values.path}`
console.log(`listening on ${address} (shards 1, engine bun)`)
