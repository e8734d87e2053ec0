// Sends back what it receives. Run: npm run -s example -- echo --port 7000, then: nc 127.0.0.1 7000
// With TLS: npm run -s example -- echo --tls-cert cert.pem --tls-key key.pem, then: openssl s_client -connect 127.0.0.1:7000
// On a Unix socket: npm run -s example -- echo --path /tmp/echo.sock, then: nc -U /tmp/echo.sock
import { parseArgs } from 'node:util'
import {
  createServer,
  fromStream,
  isSupervisor,
  type Protocol,
  type ProtocolFactory,
  type ServerOptions,
  type Transport,
} from 'shardloop'
import { engine, failure, number, type ServerFlags, tlsFlags, urlOf } from './lib/program.js'

class Echo implements Protocol {
  protected transport!: Transport
  connectionMade(transport: Transport): void {
    this.transport = transport
  }
  dataReceived(chunk: Buffer): void {
    this.transport.write(chunk)
  }
  // A peer that sends but does not read: let it wait until it has read what is queued.
  pauseWriting(): void {
    this.transport.pauseReading()
  }
  resumeWriting(): void {
    this.transport.resumeReading()
  }
}

/** The same on borrowed memory: no Buffer is made, and the bytes are sent from where they were received. */
class BorrowedEcho extends Echo {
  bytesReceived(_slab: Buffer, start: number, end: number): void {
    this.transport.writeBorrowed(start, end)
  }
}

/** The same by a stream, which waits by itself. */
const streamEcho = fromStream(async (stream) => {
  for await (const chunk of stream) await stream.write(chunk)
})

const MODES: Readonly<Record<string, ProtocolFactory>> = {
  chunk: () => new Echo(),
  borrowed: () => new BorrowedEcho(),
  stream: streamEcho,
}

main().catch(failure('echo'))

async function main(): Promise<void> {
  const { mode, ...options } = readArguments()
  const server = await createServer(MODES[mode] as ProtocolFactory, options)
  if (!isSupervisor) return
  const [address] = server.addresses
  const where = typeof address === 'string' ? `unix:${address}` : urlOf(server, options, 'tcp')
  console.log(`listening on ${where} (shards ${server.shards.length}, engine ${server.engine})`)
}

function readArguments(): Omit<ServerOptions, 'tls'> & Pick<ServerFlags, 'tls'> & { mode: string } {
  const { values } = parseArgs({
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      path: { type: 'string' },
      port: { type: 'string', default: '7000' },
      shards: { type: 'string', default: 'auto' },
      engine: { type: 'string', default: 'auto' },
      mode: { type: 'string', default: 'chunk' },
      'no-moderation': { type: 'boolean', default: false },
      'tls-cert': { type: 'string' },
      'tls-key': { type: 'string' },
    },
  })
  if (!Object.hasOwn(MODES, values.mode)) {
    throw Object.assign(new Error(`--mode: expected chunk, borrowed or stream, given ${values.mode}`), {
      code: 'ERR_PARSE_ARGS',
    })
  }
  const { host, mode, path, port, shards } = values
  const where = path === undefined ? { host, port: number(port) } : { path }
  const moderation = !values['no-moderation']
  const tls = tlsFlags(values['tls-cert'], values['tls-key'])
  return { ...where, ...tls, mode, shards: number(shards), engine: engine(values.engine), moderation }
}
