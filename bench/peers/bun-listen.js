// Peer of the benchmark: echo on Bun.listen. A write that the socket does not take whole is kept and goes out on drain,
// and reading pauses until then.
// bun bun-listen.js [--host H] [--port P]; ends on SIGTERM.
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  args: process.argv.slice(2),
  options: { host: { type: 'string', default: '127.0.0.1' }, port: { type: 'string', default: '0' } },
})

const server = Bun.listen({
  hostname: values.host,
  port: Number(values.port),
  socket: {
    open(socket) {
      socket.data = null
      socket.setNoDelay(true)
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

console.log(`listening on tcp://${server.hostname}:${server.port} (shards 1, engine bun)`)
