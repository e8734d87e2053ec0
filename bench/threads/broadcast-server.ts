/**
 * A server that broadcasts as the load generator's `listen` tells it. Arguments: --peer shardloop|node-net [--engine mio|tokio]
 * [--shards 0|1] [--host H] [--port P]. With a shard the main thread broadcasts, and the shard has the connections.
 */
import { createServer as createNetServer, type Socket } from 'node:net'
import { parseArgs } from 'node:util'
import { createServer, getLoop, isSupervisor, type Protocol, type Transport } from '../../src/index.js'
import { oneOf } from '../flags.js'
import { BroadcastRequests, broadcastMessage } from './broadcast-requests.js'

/** Connections that are made at once wait here; those of the load generator are fewer. */
const BACKLOG = 4096
const TOPIC = 'all'

const { values } = parseArgs({
  options: {
    peer: { type: 'string', default: 'shardloop' },
    engine: { type: 'string', default: 'mio' },
    shards: { type: 'string', default: '0' },
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
  },
})
const { host } = values
const port = Number(values.port)

if (oneOf('--peer', values.peer, ['shardloop', 'node-net']) === 'shardloop') await serveShardloop()
else serveNodeNet()

async function serveShardloop(): Promise<void> {
  const loop = getLoop()
  const shards = Number(values.shards)
  let listeners = 0
  const broadcastHere = (count: number, size: number, first: number): void => {
    for (let number = first; number < first + count; number++)
      loop.broadcast(TOPIC, broadcastMessage(number, size))
  }
  if (isSupervisor) {
    loop.expose('broadcast', ([count, size, first]: [number, number, number]) =>
      broadcastHere(count, size, first),
    )
  }
  const broadcast =
    shards === 0
      ? broadcastHere
      : (...request: [number, number, number]): void =>
          loop.callSoonThreadsafe('supervisor', 'broadcast', request)

  class Listener implements Protocol {
    #transport!: Transport
    #requests: BroadcastRequests | null = null

    connectionMade(transport: Transport): void {
      this.#transport = transport
      loop.subscribe(transport, TOPIC)
      listeners += 1
    }

    /** Whoever says something does not listen. */
    dataReceived(chunk: Buffer): void {
      if (this.#requests === null) {
        loop.unsubscribe(this.#transport, TOPIC)
        listeners -= 1
        this.#requests = new BroadcastRequests(broadcast, () => {
          this.#transport.write(`${listeners}\n`)
        })
      }
      this.#requests.received(chunk)
    }

    connectionLost(): void {
      if (this.#requests === null) listeners -= 1
    }
  }

  const server = await createServer(() => new Listener(), {
    host,
    port,
    shards,
    backlog: BACKLOG,
    // What is no engine is refused by name there.
    engine: values.engine as 'mio',
  })
  if (!isSupervisor) return
  const [listener] = server.addresses
  const address = listener as { address: string; port: number }
  console.log(
    `listening on tcp://${address.address}:${address.port} (shards ${shards}, engine ${server.engine})`,
  )
}

/** A loop over all sockets, as one writes it. */
function serveNodeNet(): void {
  const sockets = new Set<Socket>()
  const broadcast = (count: number, size: number, first: number): void => {
    for (let number = first; number < first + count; number++) {
      const message = broadcastMessage(number, size)
      for (const socket of sockets) socket.write(message)
    }
  }
  const server = createNetServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    let requests: BroadcastRequests | null = null
    socket.on('data', (chunk) => {
      if (requests === null) {
        sockets.delete(socket)
        requests = new BroadcastRequests(broadcast, () => {
          socket.write(`${sockets.size}\n`)
        })
      }
      requests.received(chunk)
    })
    socket.on('close', () => sockets.delete(socket))
    // A client that resets ends its own connection and nothing else.
    socket.on('error', () => socket.destroy())
  })
  server.listen({ host, port, backlog: BACKLOG }, () => {
    const bound = server.address() as { address: string; port: number }
    console.log(`listening on tcp://${bound.address}:${bound.port} (shards 1, engine node:net)`)
  })
}
