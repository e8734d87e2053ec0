/**
 * Echo on one shard that listens on a Unix socket. Arguments: --path SOCKET [--engine mio|tokio] [--mode chunk|borrowed].
 * Ends with `UNAVAILABLE_EXIT_CODE` when this build knows no Unix sockets.
 */
import { parseArgs } from 'node:util'
import {
  createServer,
  isSupervisor,
  type Protocol,
  type ServerOptions,
  ShardloopError,
  type Transport,
} from '../../src/index.js'
import { endUnavailable } from '../unavailable-exit.js'

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
// What is no engine, and a path where the option is not known, are refused by name there.
const options = { path: values.path, shards: 1, engine: values.engine } as ServerOptions
const server = await createServer(factory, options).catch((error: unknown) => {
  if (error instanceof ShardloopError && /^unknown option 'path'/.test(error.message))
    endUnavailable('this build does not listen on Unix sockets: createServer knows no option path')
  throw error
})
if (isSupervisor) console.log(`listening on unix:${values.path} (shards 1, engine ${server.engine})`)
