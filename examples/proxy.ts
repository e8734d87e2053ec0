// Passes connections on to another server, with backpressure both ways. Run:
// npm run -s example -- proxy --port 7001 --to 127.0.0.1:7000, with something (echo) on 7000; then: nc 127.0.0.1 7001
import { parseArgs } from 'node:util'
import { createServer, getLoop, isSupervisor, type Protocol, type Transport } from 'shardloop'
import { engine, failure, number } from './lib/program.js'

/** One side; what it receives goes to the other one. */
class Side implements Protocol {
  transport: Transport | undefined
  other: Side | undefined

  connectionMade(transport: Transport): void {
    this.transport = transport
  }
  dataReceived(chunk: Buffer): void {
    this.other?.transport?.write(chunk)
  }
  eofReceived(): boolean {
    this.other?.transport?.writeEof()
    return true // the other direction goes on
  }
  connectionLost(error: Error | null): void {
    if (error === null) this.other?.transport?.close()
    else this.other?.transport?.abort(error)
  }
  pauseWriting(): void {
    this.other?.transport?.pauseReading()
  }
  resumeWriting(): void {
    this.other?.transport?.resumeReading()
  }
}

/** The side that a client sees: it reads once the server behind is there. */
class Accepted extends Side {
  override async connectionMade(transport: Transport): Promise<void> {
    super.connectionMade(transport)
    transport.pauseReading()
    const upstream = new Side()
    upstream.other = this
    this.other = upstream
    await getLoop().createConnection(() => upstream, { ...target, timeoutMs: 5_000 })
    if (transport.isClosing()) upstream.transport?.abort()
    else transport.resumeReading()
  }
}

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '7001' },
    to: { type: 'string', default: '127.0.0.1:7000' },
    shards: { type: 'string', default: 'auto' },
    engine: { type: 'string', default: 'auto' },
  },
})
const colon = values.to.lastIndexOf(':')
const target = { host: values.to.slice(0, colon), port: number(values.to.slice(colon + 1)) }

main().catch(failure('proxy'))

async function main(): Promise<void> {
  const { host, port, shards } = values
  const server = await createServer(() => new Accepted(), {
    host,
    port: number(port),
    shards: shards === 'auto' ? shards : number(shards),
    engine: engine(values.engine),
  })
  if (!isSupervisor) return
  const [address] = server.addresses
  console.log(
    `proxy to ${values.to} on ${address?.address} port ${address?.port} (shards ${server.shards.length}, engine ${server.engine})`,
  )
}
