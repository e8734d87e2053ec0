/**
 * One keyspace on several shards: a key's hash tells whose it is. What others have to answer is gathered, so that all requests of
 * a pipeline to one shard are one message: the requests as they came, one behind the other. The answer is all replies in the
 * same way, and behind them the length of each.
 */
import { type Command, commandOf, type Split } from './commands.js'
import type { Keyspace } from './keyspace.js'
import { BATCH_REPLY_MAX_BYTES } from './limits.js'
import { RequestParser, WHOLE } from './parser.js'
import { Replies } from './replies.js'
import type { Waiting } from './reply-queue.js'
import type { Request } from './request.js'
import { TOO_LONG_REPLIES } from './texts.js'

/** How shards reach each other. */
export interface Shards {
  readonly own: number
  readonly count: number
  /** Has {@link answerBatch} called in another shard, with a copy of these bytes; resolves with what that returns. */
  call(shard: number, requests: Buffer): Promise<Buffer>
}

/** A message that is being put together, and who waits for its answers. */
interface Outgoing {
  readonly requests: Replies
  waiting: Waiting[]
}

const LENGTH_BYTES = 4
const MINUS = 45

export class Router {
  readonly #shards: Shards
  readonly #keyspace: Keyspace
  readonly #outgoing: readonly Outgoing[]

  constructor(shards: Shards, keyspace: Keyspace) {
    this.#shards = shards
    this.#keyspace = keyspace
    this.#outgoing = Array.from({ length: shards.count }, () => ({ requests: new Replies(), waiting: [] }))
  }

  /** Whether this shard can answer alone. */
  isOwn({ keys }: Command, request: Request): boolean {
    const { count, own } = this.#shards
    if (keys === 'none') return true
    if (keys === 'all') return count === 1
    if (keys === 'one') return request.hash(1) % count === own
    for (let index = 1; index < request.count; index += keys.step)
      if (request.hash(index) % count !== own) return false
    return true
  }

  /** Asks those who can answer. What there is to ask others leaves with {@link send}. */
  ask({ keys, name }: Command, request: Request, reply: Waiting): void {
    if (typeof keys === 'object') this.#split(keys, request, reply)
    else if (keys === 'one') this.#forward(request.hash(1) % this.#shards.count, request, reply)
    else {
      const together = new Together(
        name === 'flushall' || name === 'flushdb' ? 'ok' : 'sum',
        this.#shards.count,
        reply,
      )
      for (let shard = 0; shard < this.#shards.count; shard++)
        this.#forward(shard, request, together.part(shard))
    }
    this.#askOwn()
  }

  /** Sends what was gathered; `answered` is called behind the answers of each shard. */
  send(answered: () => void): void {
    for (const [shard, outgoing] of this.#outgoing.entries()) {
      if (outgoing.waiting.length === 0) continue
      const { waiting } = outgoing
      outgoing.waiting = []
      this.#shards
        .call(shard, outgoing.requests.take())
        .then(
          (answer) => settleAll(waiting, answer),
          (error: Error & { code?: string }) => failAll(waiting, shard, error),
        )
        .then(answered)
    }
  }

  #split({ verb, step, together }: Split, request: Request, reply: Waiting): void {
    const { memory, starts, ends, count } = request
    const parts = new Together(together, (count - 1) / step, reply)
    for (let index = 1; index < count; index += step) {
      const { requests, waiting } = this.#outgoing[request.hash(index) % this.#shards.count] as Outgoing
      requests.raw(`*${step + 1}\r\n$${verb.length}\r\n${verb}\r\n`)
      for (let at = index; at < index + step; at++)
        requests.argument(memory, starts[at] as number, ends[at] as number)
      waiting.push(parts.part((index - 1) / step))
    }
  }

  #forward(shard: number, request: Request, reply: Waiting): void {
    const { requests, waiting } = this.#outgoing[shard] as Outgoing
    requests.bytes(request.memory, request.start, request.end)
    waiting.push(reply)
  }

  /** This shard's part is done at once: what comes behind it may concern the same keys. */
  #askOwn(): void {
    const outgoing = this.#outgoing[this.#shards.own] as Outgoing
    if (outgoing.waiting.length === 0) return
    const { waiting } = outgoing
    outgoing.waiting = []
    settleAll(waiting, Buffer.from(answerBatch(outgoing.requests.take(), this.#keyspace)))
  }
}

/** Replies of a batch; empty in between. */
const replies = new Replies()

/** Answers requests of another shard. What it returns is to be copied before it is called again. */
export function answerBatch(requests: Buffer, keyspace: Keyspace): Buffer {
  const parser = new RequestParser()
  const lengths: number[] = []
  replies.cut(0)
  parser.feed(requests, 0, requests.length)
  while (parser.next() === WHOLE) {
    const before = replies.length
    if (before > BATCH_REPLY_MAX_BYTES) replies.error(TOO_LONG_REPLIES)
    else commandOf(parser.request, replies)?.run(parser.request, keyspace, replies)
    lengths.push(replies.length - before)
  }
  for (const length of lengths) replies.uint32(length)
  return replies.take()
}

function settleAll(waiting: readonly Waiting[], answer: Buffer): void {
  let at = 0
  let lengthAt = answer.length - waiting.length * LENGTH_BYTES
  for (const one of waiting) {
    const length = answer.readUInt32LE(lengthAt)
    one.settle(answer.subarray(at, at + length))
    at += length
    lengthAt += LENGTH_BYTES
  }
}

function failAll(
  waiting: readonly Waiting[],
  shard: number,
  { code = '', message }: Error & { code?: string },
): void {
  const isGone = code === 'ERR_SHARDLOOP_GONE' || code === 'ERR_SHARDLOOP_NOT_EXPOSED'
  const why = isGone ? `shard ${shard} is gone` : `shard ${shard}: ${message.replace(/[\r\n]/g, ' ')}`
  for (const one of waiting) one.settle(Buffer.from(`-ERR ${why}\r\n`))
}

/** Answers to the parts of a request, which make one. An error of one is that of all. */
class Together {
  readonly #kind: Split['together']
  readonly #parts: Buffer[]
  readonly #whole: Waiting
  #missing: number

  constructor(kind: Split['together'], count: number, whole: Waiting) {
    this.#kind = kind
    this.#parts = Array.from({ length: count })
    this.#missing = count
    this.#whole = whole
  }

  part(index: number): Waiting {
    return {
      settle: (bytes) => {
        this.#parts[index] = bytes
        this.#missing -= 1
        if (this.#missing === 0) this.#whole.settle(this.#together())
      },
    }
  }

  #together(): Buffer {
    const parts = this.#parts
    const error = parts.find((part) => part[0] === MINUS)
    if (error !== undefined) return error
    if (this.#kind === 'ok') return Buffer.from('+OK\r\n')
    if (this.#kind === 'array') return Buffer.concat([Buffer.from(`*${parts.length}\r\n`), ...parts])
    const sum = parts.reduce((total, part) => total + Number(part.toString('latin1', 1, part.length - 2)), 0)
    return Buffer.from(`:${sum}\r\n`)
  }
}
