/**
 * Echo on the main thread by streams, by Duplexes, or on node:net. Arguments: --by stream|duplex|node-net [--engine mio|tokio].
 * SIGTERM ends it.
 */
import { type AddressInfo, createServer as createNetServer } from 'node:net'
import type { Duplex } from 'node:stream'
import { parseArgs } from 'node:util'
import {
  createServer,
  fromStream,
  type Protocol,
  type ProtocolFactory,
  type Transport,
} from '../../src/index.js'
import { oneOf } from '../flags.js'

const HOST = '127.0.0.1'
/** As long as ours. */
const BACKLOG = 4096

const { values } = parseArgs({
  options: {
    by: { type: 'string', default: 'stream' },
    engine: { type: 'string', default: 'mio' },
  },
})
const by = oneOf('--by', values.by, ['stream', 'duplex', 'node-net'] as const)

/** The same code for a socket of node:net and for a Duplex of ours. */
function echo(socket: Duplex): void {
  socket.on('data', (chunk: Buffer) => socket.write(chunk))
  // A client that resets ends its own connection and nothing else.
  socket.on('error', () => socket.destroy())
}

class DuplexEcho implements Protocol {
  connectionMade(transport: Transport): void {
    echo(transport.duplex())
  }
}

const FACTORIES: Readonly<Record<'stream' | 'duplex', ProtocolFactory>> = {
  stream: fromStream(async (stream) => {
    for await (const chunk of stream) await stream.write(chunk)
  }),
  duplex: () => new DuplexEcho(),
}

if (by === 'node-net') {
  const server = createNetServer({ noDelay: true }, echo)
  server.listen({ host: HOST, port: 0, backlog: BACKLOG }, () =>
    tell(server.address() as AddressInfo, 'node:net'),
  )
} else {
  // What is no engine is refused by name there.
  const where = { host: HOST, port: 0, shards: 0, engine: values.engine as 'mio' }
  const server = await createServer(FACTORIES[by], where)
  tell(server.addresses[0] as AddressInfo, server.engine)
}

function tell({ address, port }: AddressInfo, engine: string): void {
  console.log(`listening on tcp://${address}:${port} (shards 0, engine ${engine})`)
}
