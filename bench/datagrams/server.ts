/**
 * Echo of datagrams by one endpoint on the main thread. Arguments: [--host H] [--port P] [--engine mio|tokio]
 * [--receive-buffer BYTES]. SIGTERM ends it by the signal's default action.
 */
import { parseArgs } from 'node:util'
import {
  type DatagramProtocol,
  type DatagramTransport,
  getLoop,
  type SocketAddress,
} from '../../src/index.js'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    engine: { type: 'string', default: 'mio' },
    'receive-buffer': { type: 'string', default: '1048576' },
  },
})

class Echo implements DatagramProtocol {
  #transport!: DatagramTransport
  connectionMade(transport: DatagramTransport): void {
    this.#transport = transport
  }
  datagramReceived(data: Buffer, address: SocketAddress): void {
    this.#transport.sendto(data, address)
  }
}

const [transport] = await getLoop().createDatagramEndpoint(() => new Echo(), {
  local: { host: values.host, port: Number(values.port) },
  receiveBufferBytes: Number(values['receive-buffer']),
  // What is no engine is refused by name there.
  engine: values.engine as 'mio',
})
const bound = transport.getExtraInfo('sockname') as { address: string; port: number }
console.log(`listening on udp://${bound.address}:${bound.port} (shards 0, engine ${values.engine})`)
