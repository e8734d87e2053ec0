// A server to break, to see what the supervisor does about it. Run: npm run -s example -- crash-test --port 7000
// This terminal then shows what becomes of each shard. In a second one: nc 127.0.0.1 7000, and type
//   who          which shard and thread serves you
//   status       every shard as its supervisor sees it
//   throw        an exception that nobody catches        reject   the same by a promise
//   exit 3       process.exit(3) in the shard            heap     keeps memory until the shard's heap is full
//   spin 5000    blocks the shard for 5 seconds
// What kills the shard ends your connection: connect again, and the other shard or the replacement answers. While a
// shard spins, a third terminal still gets its answers, and `status` there shows for how long it has been stuck.
import { parseArgs } from 'node:util'
import { threadId } from 'node:worker_threads'
import { createServer, isSupervisor, type Protocol, type Server, shardId, type Transport } from 'shardloop'
import { engine, failure, number } from './lib/program.js'

/** Longest command, in characters; of a longer one the end is taken. */
const COMMAND_MAX_LENGTH = 100
/** Heap of each shard in MiB; a shard that wants more dies, and no other with it. */
const HEAP_MAX_MB = 64

/** What this thread knows of the server; in a shard its handle, from which the supervisor's view can be read. */
let server: Server | undefined

class CrashTest implements Protocol {
  #transport!: Transport
  #rest = ''

  connectionMade(transport: Transport): void {
    this.#transport = transport
  }

  dataReceived(chunk: Buffer): void {
    const lines = (this.#rest + chunk.toString()).split('\n')
    this.#rest = (lines.pop() ?? '').slice(-COMMAND_MAX_LENGTH)
    for (const line of lines) {
      const [command = '', argument = ''] = line.trim().split(' ')
      this.#tell(answer(command, argument))
      // Once the answer is sent. What a callback itself throws costs its connection only, not the shard.
      setImmediate(() => this.#carryOut(command, Number(argument)))
    }
  }

  #carryOut(command: string, argument: number): void {
    if (command === 'throw') throw new Error('thrown by crash-test')
    if (command === 'reject') void Promise.reject(new Error('rejected by crash-test'))
    if (command === 'exit') process.exit(argument)
    if (command === 'heap') for (const kept: unknown[] = []; ; ) kept.push(new Array(1000).fill(kept))
    if (command !== 'spin') return
    for (const end = performance.now() + argument; performance.now() < end; );
    this.#tell(`shard ${shardId} is back`)
  }

  #tell(line: string): void {
    this.#transport.write(`${line}\n`)
  }
}

function answer(command: string, argument: string): string {
  switch (command) {
    case 'who':
      return `shard ${shardId}, thread ${threadId}`
    case 'status':
      return (server?.shards ?? []).map((shard) => describe(shard)).join('\n')
    case 'throw':
    case 'reject':
    case 'heap':
    case 'exit':
    case 'spin':
      return `shard ${shardId}: ${command} ${argument}`.trimEnd()
    default:
      return 'there is who, status, throw, reject, exit CODE, heap and spin MS'
  }
}

/** `shard 0: state ready, restarts 1`, with all that is told; an error is told by its reason already. */
function describe({ id, ...facts }: { readonly id: number }): string {
  const told = Object.entries(facts).filter(([name]) => name !== 'error')
  return `shard ${id}: ${told.map(([name, value]) => `${name} ${value}`).join(', ')}`
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      port: { type: 'string', default: '7000' },
      shards: { type: 'string', default: '2' },
      engine: { type: 'string', default: 'auto' },
    },
  })
  const limits = { resourceLimits: { maxOldGenerationSizeMb: HEAP_MAX_MB } }
  server = await createServer(() => new CrashTest(), {
    host: '127.0.0.1',
    port: number(values.port),
    shards: number(values.shards),
    engine: engine(values.engine),
    ...limits,
  })
  if (!isSupervisor) return
  server.events.on('shard', (change) => console.log(describe(change)))
  server.events.on('error', (error) => console.log(`the server has ended: ${error.message}`))
  const [address] = server.addresses
  const where = `${address?.address} ${address?.port}`
  console.log(`waiting for nc ${where} (shards ${server.shards.length}, engine ${server.engine})`)
}

main().catch(failure('crash-test'))
