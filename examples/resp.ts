// A key-value server that speaks Redis' protocol. Run: npm run -s example -- resp --port 7379
// then: redis-cli -p 7379 set greeting hello, or redis-benchmark -p 7379 -t get,set -P 16
// There is one keyspace on all shards: each key belongs to one of them by its hash, and the others ask that one for it. So a
// shard that dies takes its keys along (those who wait for it are told), and what concerns keys of several shards is not one
// step: MSET may be seen in part. PING, ECHO, GET, SET, INCR, MGET, MSET, DEL, EXISTS, EXPIRE, TTL and a few more are there.
import { parseArgs } from 'node:util'
import { createServer, getLoop, isSupervisor, type Protocol, shardId, type Transport } from 'shardloop'
import { engine, failure, number } from './lib/program.js'
import { Keyspace } from './lib/resp/keyspace.js'
import { answerBatch, Router } from './lib/resp/router.js'
import { Session } from './lib/resp/session.js'

/** Keys that are this shard's. */
const keyspace = new Keyspace()
/** Who has the others; null: nobody. */
let router: Router | null = null
/** Resolves when that is known. A shard may have connections before its call of createServer resolves. */
let whenPlaced: Promise<void> | null = null

class Redis implements Protocol {
  #transport!: Transport
  #session: Session | null = null

  async connectionMade(transport: Transport): Promise<void> {
    this.#transport = transport
    if (whenPlaced !== null) {
      transport.pauseReading()
      await whenPlaced
      transport.resumeReading()
    }
    this.#session = new Session(transport, keyspace, router)
  }

  bytesReceived(slab: Buffer, start: number, end: number): void {
    this.#session?.received(slab, start, end)
  }

  pauseWriting(): void {
    this.#session?.pause()
  }

  resumeWriting(): void {
    this.#session?.resume()
  }

  /** The peer has said all, and still wants its answers. */
  eofReceived(): boolean {
    this.draining()
    return true
  }

  draining(): void {
    if (this.#session === null) this.#transport.close()
    else this.#session.finish()
  }

  connectionLost(): void {
    this.#session?.lost()
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '7379' },
      shards: { type: 'string', default: 'auto' },
      engine: { type: 'string', default: 'auto' },
    },
  })
  const own = shardId
  if (own !== null) getLoop().expose('answer', (requests: Buffer) => answerBatch(requests, keyspace))
  const starting = createServer(() => new Redis(), {
    host: values.host,
    port: number(values.port),
    shards: number(values.shards),
    engine: engine(values.engine),
  })
  if (own !== null)
    whenPlaced = starting.then(
      ({ shards }) => place(own, shards.length),
      () => {},
    )
  const server = await starting
  if (!isSupervisor) return
  const [address] = server.addresses
  const where = `tcp://${address?.address}:${address?.port}`
  console.log(`listening on ${where} (shards ${server.shards.length}, engine ${server.engine})`)
}

/** Where keys are is known from now on. */
function place(own: number, count: number): void {
  whenPlaced = null
  if (count === 1) return
  const loop = getLoop()
  const call = (shard: number, requests: Buffer): Promise<Buffer> =>
    loop.call(shard, 'answer', requests) as Promise<Buffer>
  router = new Router({ own, count, call }, keyspace)
}

main().catch(failure('resp'))
