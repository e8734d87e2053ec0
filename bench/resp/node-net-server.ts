/**
 * The same key-value server on node:net: parser, commands and keyspace are those of ../../examples/resp.ts. Arguments: [--host H]
 * [--port P]. SIGTERM ends it by the signal's default action.
 */
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { parseArgs } from 'node:util'
import { Keyspace } from '../../examples/lib/resp/keyspace.js'
import { type Peer, Session } from '../../examples/lib/resp/session.js'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
  },
})

const keyspace = new Keyspace()

class SocketPeer implements Peer {
  readonly #socket: Socket
  readonly #session: Session

  constructor(socket: Socket) {
    this.#socket = socket
    this.#session = new Session(this, keyspace, null)
    socket.on('data', (chunk) => this.#session.received(chunk, 0, chunk.length))
    socket.on('drain', () => this.#session.resume())
    socket.on('end', () => this.#session.finish())
    // A client that resets ends its own connection and nothing else.
    socket.on('error', () => socket.destroy())
    socket.on('close', () => this.#session.lost())
  }

  /** A copy, as node:net sends from the memory itself, some of it later perhaps. */
  write(bytes: Buffer): void {
    if (!this.#socket.write(Buffer.from(bytes))) this.#session.pause()
  }

  close(): void {
    this.#socket.end()
  }

  pauseReading(): void {
    this.#socket.pause()
  }

  resumeReading(): void {
    this.#socket.resume()
  }
}

const server = createServer({ noDelay: true, allowHalfOpen: true }, (socket) => void new SocketPeer(socket))

server.listen({ host: values.host, port: Number(values.port), backlog: 4096 }, () => {
  const { address, port } = server.address() as AddressInfo
  console.log(`listening on tcp://${address}:${port} (shards 1, engine node:net)`)
})
