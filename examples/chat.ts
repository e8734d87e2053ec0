// A chat by lines, for all who are connected, on whatever shard. Run: npm run -s example -- chat --port 7000
// then, in two more terminals: nc 127.0.0.1 7000     (type: hello, /nick ada, /who, /quit)
// What somebody says is a broadcast to all shards; who is here and by which nick the supervisor knows, whom the shards ask.
import { parseArgs } from 'node:util'
import { createServer, getLoop, isSupervisor, type Protocol, shardId, type Transport } from 'shardloop'
import { engine, failure, number } from './lib/program.js'

/** Longest line, in bytes without its end. Whoever sends a longer one is told and disconnected. */
const LINE_MAX_BYTES = 1024
/** Bytes that may wait for somebody who reads too slowly. Whoever has more waiting is dropped. */
const UNREAD_MAX_BYTES = 64 * 1024
const NICK = /^[\p{L}\p{N}_-]{1,20}$/u
/** The topic of what all are told. */
const ROOM = 'room'

const loop = getLoop()

class Chatter implements Protocol {
  #transport!: Transport
  #nick = ''
  /** The beginning of a line whose end has not come yet. */
  #rest: Buffer = Buffer.alloc(0)
  /** Lines are handled one after the other, though some have to ask the supervisor. */
  #done: Promise<void> = Promise.resolve()

  async connectionMade(transport: Transport): Promise<void> {
    this.#transport = transport
    this.#nick = `guest-${transport.id}`
    this.#done = this.#enter()
    await this.#done
  }

  async #enter(): Promise<void> {
    const present = await loop.call('supervisor', 'enter', this.#nick)
    if (this.#transport.isClosing()) return
    loop.subscribe(this.#transport, ROOM)
    this.#tell(`* you are ${this.#nick}, one of ${present}; your shard is ${shardId ?? 0}`)
    this.#tellOthers(`* ${this.#nick} is here`)
  }

  async dataReceived(chunk: Buffer): Promise<void> {
    let input = Buffer.concat([this.#rest, chunk])
    for (let end = input.indexOf('\n'); end >= 0 && end <= LINE_MAX_BYTES; end = input.indexOf('\n')) {
      // Control characters would reach the others' terminals.
      const line = input.toString('utf8', 0, end).replace(/\p{Cc}/gu, '')
      this.#done = this.#done.then(() => this.#lineReceived(line))
      input = input.subarray(end + 1)
    }
    this.#rest = input
    if (input.length > LINE_MAX_BYTES)
      this.#done = this.#done.then(() => this.#leave(`* a line has at most ${LINE_MAX_BYTES} bytes`))
    // Whoever sends faster than it is handled waits.
    this.#transport.pauseReading()
    await this.#done
    this.#transport.resumeReading()
  }

  async #lineReceived(line: string): Promise<void> {
    if (this.#transport.isClosing()) return
    const [command, argument = ''] = line.split(' ')
    if (command === '/nick') await this.#rename(argument)
    else if (command === '/who') this.#tell(`* ${await loop.call('supervisor', 'who')}`)
    else if (command === '/quit') this.#leave('* bye')
    else if (line.startsWith('/')) this.#tell('* there is /nick NAME, /who and /quit')
    else if (line !== '') this.#tellOthers(`${this.#nick}: ${line}`)
  }

  async #rename(nick: string): Promise<void> {
    if (!NICK.test(nick)) return this.#tell('* a nick has 1 to 20 letters, digits, - or _')
    const renamed = await loop.call('supervisor', 'rename', [this.#nick, nick])
    if (!renamed) return this.#tell(`* ${nick} is taken`)
    this.#tellOthers(`* ${this.#nick} is now ${nick}`)
    this.#nick = nick
    this.#tell(`* you are ${nick}`)
  }

  #tell(line: string): void {
    this.#transport.write(`${line}\n`)
  }

  #tellOthers(line: string): void {
    loop.broadcast(ROOM, `${line}\n`, { except: this.#transport })
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

  async connectionLost(error: Error | null): Promise<void> {
    await this.#done.catch(() => {}) // it is told already
    loop.callSoonThreadsafe('supervisor', 'leave', this.#nick)
    this.#tellOthers(`* ${this.#nick} has left${error === null ? '' : ` (${error.message})`}`)
  }
}

/** Who is here, by nick, and on which shard. In the supervisor. */
function keepPresence(): Map<string, unknown> {
  const present = new Map<string, unknown>()
  loop.expose('enter', (nick: string, { from }) => present.set(nick, from).size)
  loop.expose('leave', (nick: string) => void present.delete(nick))
  loop.expose('who', () => [...present.keys()].join(', '))
  loop.expose('rename', ([before, nick]: [string, string], { from }) => {
    if (present.has(nick)) return false
    present.delete(before)
    present.set(nick, from)
    return true
  })
  return present
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '7000' },
      shards: { type: 'string', default: 'auto' },
      engine: { type: 'string', default: 'auto' },
    },
  })
  const present = isSupervisor ? keepPresence() : null
  const server = await createServer(() => new Chatter(), {
    host: values.host,
    port: number(values.port),
    shards: number(values.shards),
    engine: engine(values.engine),
    writeHighBytes: UNREAD_MAX_BYTES,
  })
  if (present === null) return
  server.events.on('shard', ({ id, state }) => {
    // A shard that died has taken its people along.
    if (state === 'starting') for (const [nick, shard] of present) if (shard === id) present.delete(nick)
  })
  const [address] = server.addresses
  const where = `${address?.address} port ${address?.port}`
  console.log(`chatting on ${where} (shards ${server.shards.length}, engine ${server.engine})`)
}

main().catch(failure('chat'))
