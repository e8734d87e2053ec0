/** What the load generator's `listen` asks of a server, and what it expects; `bench/loadgen/src/broadcast.rs` is the other end. */

/** Has `count` messages of `size` bytes sent to all, the first of which has the number `first`. */
export type Broadcast = (count: number, size: number, first: number) => void

/** Bytes of a message, modulo this, are their places. */
const PLACES = 251

/** Lines of one connection: `count`, and `broadcast COUNT SIZE FIRST`. */
export class BroadcastRequests {
  readonly #broadcast: Broadcast
  readonly #count: () => void
  #rest = ''

  /** `count` answers with the number of listeners. */
  constructor(broadcast: Broadcast, count: () => void) {
    this.#broadcast = broadcast
    this.#count = count
  }

  /** In any pieces. What is no request throws, which ends its connection. */
  received(chunk: Buffer): void {
    const lines = (this.#rest + chunk.toString('latin1')).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) {
      const request = /^broadcast (\d+) (\d+) (\d+)$/.exec(line)
      if (line === 'count') this.#count()
      else if (request === null) throw new Error(`${line} is neither count nor broadcast COUNT SIZE FIRST`)
      else this.#broadcast(Number(request[1]), Number(request[2]), Number(request[3]))
    }
  }
}

let body = Buffer.alloc(0)

/** Message `number`: that, little endian in 4 bytes, and then bytes that tell their places. */
export function broadcastMessage(number: number, size: number): Buffer {
  if (body.length !== size) body = Buffer.from(Array.from({ length: size }, (_, place) => place % PLACES))
  // Memory of its own: what is written may wait, while the next message is made.
  const message = Buffer.from(body)
  message.writeUInt32LE(number >>> 0)
  return message
}
