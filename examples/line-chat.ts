// A chat by lines, for those who are on the same shard. Run: npm run -s example -- line-chat --port 7000
// then, in two more terminals: nc 127.0.0.1 7000     (type: hello, /nick ada, /who, /quit)
// With --shards 2 there are two rooms, and the kernel decides who comes into which: shards share nothing.
import { parseArgs } from 'node:util'
import { createServer, isSupervisor, type Protocol, shardId, type Transport } from 'shardloop'
import { engine, failure, number } from './lib/program.js'

/** Longest line, in bytes without its end. Whoever sends a longer one is told and disconnected. */
const LINE_MAX_BYTES = 1024
/** Bytes that may wait for somebody who reads too slowly. Whoever has more waiting is dropped. */
const UNREAD_MAX_BYTES = 64 * 1024
const NICK = /^[\p{L}\p{N}_-]{1,20}$/u

/** Who is in the room of this shard. */
const room = new Set<Chatter>()

class Chatter implements Protocol {
  #transport!: Transport
  #nick = ''
  /** The beginning of a line whose end has not come yet. */
  #rest: Buffer = Buffer.alloc(0)

  connectionMade(transport: Transport): void {
    this.#transport = transport
    this.#nick = `guest-${transport.id}`
    room.add(this)
    this.#tell(`* you are ${this.#nick}, one of ${room.size} on shard ${shardId ?? 0}`)
    this.#tellOthers(`* ${this.#nick} is here`)
  }

  dataReceived(chunk: Buffer): void {
    let input = Buffer.concat([this.#rest, chunk])
    for (let end = input.indexOf('\n'); end >= 0 && end <= LINE_MAX_BYTES; end = input.indexOf('\n')) {
      // Control characters would reach the others' terminals.
      this.#lineReceived(input.toString('utf8', 0, end).replace(/\p{Cc}/gu, ''))
      if (this.#transport.isClosing()) return
      input = input.subarray(end + 1)
    }
    this.#rest = input
    if (input.length > LINE_MAX_BYTES) this.#leave(`* a line has at most ${LINE_MAX_BYTES} bytes`)
  }

  #lineReceived(line: string): void {
    const [command, argument = ''] = line.split(' ')
    if (command === '/nick') this.#rename(argument)
    else if (command === '/who') this.#tell(`* ${[...room].map((chatter) => chatter.#nick).join(', ')}`)
    else if (command === '/quit') this.#leave('* bye')
    else if (line.startsWith('/')) this.#tell('* there is /nick NAME, /who and /quit')
    else if (line !== '') this.#tellOthers(`${this.#nick}: ${line}`)
  }

  #rename(nick: string): void {
    if (!NICK.test(nick)) return this.#tell('* a nick has 1 to 20 letters, digits, - or _')
    if ([...room].some((chatter) => chatter.#nick === nick)) return this.#tell(`* ${nick} is taken`)
    this.#tellOthers(`* ${this.#nick} is now ${nick}`)
    this.#nick = nick
    this.#tell(`* you are ${nick}`)
  }

  #tell(line: string): void {
    this.#transport.write(`${line}\n`)
  }

  #tellOthers(line: string): void {
    for (const chatter of room) if (chatter !== this) chatter.#tell(line)
  }

  #leave(goodbye: string): void {
    this.#tell(goodbye)
    this.#transport.close()
  }

  /** More than UNREAD_MAX_BYTES wait. A close would wait until they are read; an abort does not. */
  pauseWriting(): void {
    this.#transport.abort(new Error('reads too slowly'))
  }

  /** The server drains. */
  draining(): void {
    this.#leave('* the server is shutting down')
  }

  connectionLost(error: Error | null): void {
    room.delete(this)
    this.#tellOthers(`* ${this.#nick} has left${error === null ? '' : ` (${error.message})`}`)
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '7000' },
      shards: { type: 'string', default: '1' },
      engine: { type: 'string', default: 'auto' },
    },
  })
  const server = await createServer(() => new Chatter(), {
    host: values.host,
    port: number(values.port),
    shards: number(values.shards),
    engine: engine(values.engine),
    writeHighBytes: UNREAD_MAX_BYTES,
  })
  if (!isSupervisor) return
  const [address] = server.addresses
  const where = `${address?.address} port ${address?.port}`
  console.log(`chatting on ${where} (shards ${server.shards.length}, engine ${server.engine})`)
}

main().catch(failure('line-chat'))
