// Echoes lines; `hash TEXT` is answered with a slow hash of the text, which the executor computes on threads of its own while
// every other line is echoed at once. Run: npm run -s example -- hash --port 7000, then: nc 127.0.0.1 7000
import { parseArgs } from 'node:util'
import { createServer, getLoop, isSupervisor, type Protocol, type Transport } from 'shardloop'
import { engine, failure, number } from './lib/program.js'

/** Longest line, in bytes without its end. Whoever sends a longer one is told and disconnected. */
const LINE_MAX_BYTES = 1024
/** Hashes that one connection may wait for. Whoever wants more is told so. */
const HASHES_MAX = 64

/** The module beside this one, compiled or as it stands under tsx. */
const SLOW_HASH = new URL(import.meta.url.replace(/hash\.(js|ts)$/, 'lib/slow-hash.$1'))

class Hasher implements Protocol {
  #transport!: Transport
  /** The beginning of a line whose end has not come yet. */
  #rest: Buffer = Buffer.alloc(0)
  /** Aborted when the client has gone: nobody wants its hashes any more. */
  readonly #gone = new AbortController()
  #hashes = 0

  connectionMade(transport: Transport): void {
    this.#transport = transport
  }

  /** The promise is for a server that drains: a connection closes when its hashes are answered. */
  async dataReceived(chunk: Buffer): Promise<void> {
    let input = Buffer.concat([this.#rest, chunk])
    const answers: Promise<void>[] = []
    for (let end = input.indexOf('\n'); end >= 0 && end <= LINE_MAX_BYTES; end = input.indexOf('\n')) {
      answers.push(this.#lineReceived(input.toString('utf8', 0, end)))
      input = input.subarray(end + 1)
    }
    this.#rest = input
    if (input.length > LINE_MAX_BYTES) {
      this.#tell(`a line has at most ${LINE_MAX_BYTES} bytes`)
      this.#transport.close()
    }
    await Promise.all(answers)
  }

  async #lineReceived(line: string): Promise<void> {
    if (!line.startsWith('hash ')) return this.#tell(line)
    if (this.#hashes >= HASHES_MAX) return this.#tell(`at most ${HASHES_MAX} hashes at once`)
    this.#hashes += 1
    const text = line.slice('hash '.length)
    try {
      const hash = await getLoop().runInExecutor<string>(SLOW_HASH, [text], { signal: this.#gone.signal })
      this.#tell(`${hash} ${text}`)
    } catch (error) {
      if (!this.#gone.signal.aborted) this.#tell(`no hash of ${text}: ${(error as Error).message}`)
    } finally {
      this.#hashes -= 1
    }
  }

  #tell(line: string): void {
    this.#transport.write(`${line}\n`)
  }

  // A peer that sends but does not read: let it wait until it has read what is queued.
  pauseWriting(): void {
    this.#transport.pauseReading()
  }
  resumeWriting(): void {
    this.#transport.resumeReading()
  }

  connectionLost(): void {
    this.#gone.abort()
  }
}

main().catch(failure('hash'))

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '7000' },
      shards: { type: 'string', default: '1' },
      engine: { type: 'string', default: 'auto' },
      threads: { type: 'string' },
    },
  })
  const { threads } = values
  const server = await createServer(() => new Hasher(), {
    host: values.host,
    port: number(values.port),
    shards: number(values.shards),
    engine: engine(values.engine),
    ...(threads !== undefined && { executor: { maxThreads: number(threads) } }),
  })
  if (!isSupervisor) return
  const [address] = server.addresses
  const where = `${address?.address} port ${address?.port}`
  console.log(`hashing on ${where} (shards ${server.shards.length}, engine ${server.engine})`)
}
