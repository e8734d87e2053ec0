/**
 * Echo on one shard that listens on a Unix socket. Arguments: --path SOCKET [--engine mio|tokio] [--mode chunk|borrowed].
 */
import { parseArgs } from 'node:util'
import {
  createServer,
  isSupervisor,
  type Protocol,
  type ServerOptions,
  type Transport,
} from '../../src/index.js'

const { values } = parseArgs({
  options: {
    path: { type: 'string', default: '' },
    engine: { type: 'string', default: 'auto' },
    mode: { type: 'string', default: 'chunk' },
  },
})

class ChunkEcho implements Protocol {
  declare transport: Transport
  connectionMade(transport: Transport): void {
    this.transport = transport
  }
  dataReceived(chunk: Buffer): void {
    this.transport.write(chunk)
  }
  pauseWriting(): void {
    this.transport.pauseReading()
  }
  resumeWriting(): void {
    this.transport.resumeReading()
  }
}

class BorrowedEcho extends ChunkEcho {
  bytesReceived(_slab: Buffer, start: number, end: number): void {
    this.transport.writeBorrowed(start, end)
  }
}

const factory = values.mode === 'borrowed' ? () => new BorrowedEcho() : () => new ChunkEcho()
// What is no engine is refused by name there.
const options = { path: values.path, shards: 1, engine: values.engine } as ServerOptions
const server = await createServer(factory, options)
if (isSupervisor) console.log(`listening on unix:${values.path} (shards 1, engine ${server.engine})`)
