/**
 * Echo on one shard, with the probes on the shard's own thread. See ../inside.ts for what it understands on stdin.
 * Arguments: [--host H] [--port P] [--engine mio|tokio] [--mode chunk|borrowed] [--fetch URL]; with --fetch the latency
 * probes run.
 */
import { parseArgs } from 'node:util'
import { BroadcastChannel } from 'node:worker_threads'
import { createServer, isSupervisor, type Protocol, type Transport } from '../../src/index.js'
import { answerStdin } from './commands.js'
import { collectedHeapBytes, Probes } from './probes.js'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '0' },
    engine: { type: 'string', default: 'auto' },
    mode: { type: 'string', default: 'chunk' },
    fetch: { type: 'string' },
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
}

class BorrowedEcho implements Protocol {
  declare transport: Transport
  connectionMade(transport: Transport): void {
    this.transport = transport
  }
  bytesReceived(_slab: Buffer, start: number, end: number): void {
    this.transport.writeBorrowed(start, end)
  }
}

const factory = values.mode === 'borrowed' ? () => new BorrowedEcho() : () => new ChunkEcho()
// The supervisor reads stdin, the shard has the answers.
const channel = new BroadcastChannel('shardloop-bench')
const server = await createServer(factory, {
  host: values.host,
  port: Number(values.port),
  shards: 1,
  // What is no engine is refused by name there.
  engine: values.engine as 'auto',
  signals: false,
})

if (isSupervisor) {
  const [listener] = server.addresses
  console.log(`listening on tcp://${listener?.address}:${listener?.port} (shards 1, engine ${server.engine})`)
  const answer = (request: string): Promise<unknown> =>
    new Promise((resolve) => {
      channel.onmessage = (event) => resolve((event as MessageEvent).data)
      channel.postMessage(request)
    })
  answerStdin(answer, async () => {
    channel.close()
    await server.close()
  })
} else {
  const probes = values.fetch === undefined ? null : new Probes(values.fetch)
  channel.onmessage = (event) => {
    const request = (event as MessageEvent).data as string
    if (request === 'reset') probes?.reset()
    if (request === 'end') probes?.stop()
    channel.postMessage(request === 'heap' ? { heapBytes: collectedHeapBytes() } : (probes?.report() ?? {}))
    if (request === 'end') channel.close()
  }
}
