/**
 * Echo on the main thread whose protocol has work of its own: {@link BURN_US} of JavaScript for each message, before that is
 * sent back. Arguments: [--host H] [--port P] [--engine mio|tokio] [--mode chunk|borrowed] [--size BYTES-OF-A-MESSAGE].
 */
import { parseArgs } from 'node:util'
import { createServer, isSupervisor, type Protocol, type Transport } from '../../src/index.js'
import { MessageBurn } from './message-burn.js'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    engine: { type: 'string', default: 'auto' },
    mode: { type: 'string', default: 'chunk' },
    size: { type: 'string', default: '64' },
  },
})
const size = Number(values.size)

class ChunkBurn implements Protocol {
  protected readonly work: MessageBurn = new MessageBurn(size)
  declare transport: Transport
  connectionMade(transport: Transport): void {
    this.transport = transport
  }
  dataReceived(chunk: Buffer): void {
    this.work.received(chunk.length)
    this.transport.write(chunk)
  }
  pauseWriting(): void {
    this.transport.pauseReading()
  }
  resumeWriting(): void {
    this.transport.resumeReading()
  }
}

class BorrowedBurn extends ChunkBurn {
  bytesReceived(_slab: Buffer, start: number, end: number): void {
    this.work.received(end - start)
    this.transport.writeBorrowed(start, end)
  }
}

const server = await createServer(
  values.mode === 'borrowed' ? () => new BorrowedBurn() : () => new ChunkBurn(),
  {
    host: values.host,
    port: Number(values.port),
    shards: 0, // in the main thread, so that the benchmark knows which it is
    // What is no engine is refused by name there.
    engine: values.engine as 'auto',
  },
)
if (isSupervisor) {
  const [listener] = server.addresses
  console.log(`listening on tcp://${listener?.address}:${listener?.port} (shards 0, engine ${server.engine})`)
}
