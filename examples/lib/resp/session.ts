/** One connection: requests in, replies out in their order, whoever answers them. It knows no sockets. */
import { commandOf } from './commands.js'
import type { Keyspace } from './keyspace.js'
import { REPLIES_WAITING_MAX_BYTES, TURN_REPLY_BYTES } from './limits.js'
import { BROKEN, type Found, MORE, RequestParser, WHOLE } from './parser.js'
import { Replies } from './replies.js'
import { ReplyQueue } from './reply-queue.js'
import type { Request } from './request.js'
import type { Router } from './router.js'

/** What a connection can do; a `Transport` of shardloop can. */
export interface Peer {
  /** The bytes are not looked at any more once it returns. */
  write(bytes: Buffer): void
  /** Closes when all is sent. */
  close(): void
  pauseReading(): void
  resumeReading(): void
}

/** Replies of the connection that is being served; empty in between. */
const replies = new Replies()

export class Session {
  readonly #peer: Peer
  readonly #keyspace: Keyspace
  /** null: all keys are here. */
  readonly #router: Router | null
  readonly #parser = new RequestParser()
  /** Replies from the first one on that another shard has yet to give. */
  readonly #queue = new ReplyQueue()
  /** The peer reads too slowly. */
  #isSlow = false
  /** Requests were left for later. */
  #isCut = false
  #isReadingPaused = false
  /** Closes when all is answered. */
  #isFinishing = false
  /** Nothing that comes is looked at any more. */
  #isOver = false

  constructor(peer: Peer, keyspace: Keyspace, router: Router | null) {
    this.#peer = peer
    this.#keyspace = keyspace
    this.#router = router
  }

  /** Bytes came. They are not kept. */
  received(memory: Buffer, start: number, end: number): void {
    if (this.#isOver) return
    this.#parser.feed(memory, start, end)
    if (this.#isCut || this.#isSlow || this.#queue.isFull) {
      this.#parser.keep()
      this.#isCut = true
    } else this.#serve()
  }

  /** The peer reads too slowly: it is not asked for more until {@link resume}. */
  pause(): void {
    this.#isSlow = true
    this.#pauseReading()
  }

  resume(): void {
    this.#isSlow = false
    this.#proceed()
  }

  /** Answers what has come, then closes. */
  finish(): void {
    this.#isFinishing = true
    this.#closeWhenDone()
  }

  /** The connection is lost. */
  lost(): void {
    this.#isOver = true
    this.#queue.clear()
  }

  #serve(): void {
    const parser = this.#parser
    let found: Found = WHOLE
    replies.cut(0) // should another connection have failed in the middle
    while (replies.length < TURN_REPLY_BYTES && !this.#queue.isFull && !this.#isOver) {
      found = parser.next()
      if (found === MORE) break
      if (found === BROKEN) {
        replies.error(parser.error)
        this.#isOver = true
      } else this.#answer(parser.request)
    }
    this.#isCut = found === WHOLE && !this.#isOver && parser.hasMore
    parser.keep()
    this.#flush()
    this.#router?.send(this.#answered)
    if (this.#isOver) this.#isFinishing = true
    if (this.#isFinishing) this.#closeWhenDone()
    if (this.#isCut || this.#queue.isFull) {
      this.#pauseReading()
      if (!this.#queue.isFull) setImmediate(() => this.#proceed())
    }
  }

  #answer(request: Request): void {
    const command = commandOf(request, replies)
    if (command === undefined) return
    const router = this.#router
    if (router === null || router.isOwn(command, request)) {
      command.run(request, this.#keyspace, replies)
      if (command.name === 'quit') this.#isOver = true
      return
    }
    this.#flush()
    const reply = this.#queue.add()
    router.ask(command, request, reply)
  }

  /** What was answered here leaves, or waits behind what others have yet to answer. */
  #flush(): void {
    if (replies.length === 0) return
    const bytes = replies.take()
    if (this.#queue.count === 0) this.#peer.write(bytes)
    else this.#queue.add(Buffer.from(bytes))
  }

  /** Another shard has answered. */
  readonly #answered = (): void => {
    if (this.#queue.takeReady(replies)) this.#peer.write(replies.take())
    if (this.#queue.bytes > REPLIES_WAITING_MAX_BYTES) {
      this.#isOver = true
      this.#peer.close()
      return
    }
    this.#proceed()
    if (this.#isFinishing) this.#closeWhenDone()
  }

  /** Goes on, if nothing stands in the way any more. */
  #proceed(): void {
    if (this.#isSlow || this.#queue.isFull || this.#isOver) return
    if (this.#isCut) this.#serve()
    if (this.#isCut || this.#queue.isFull || this.#isOver || !this.#isReadingPaused) return
    this.#isReadingPaused = false
    this.#peer.resumeReading()
  }

  #pauseReading(): void {
    if (this.#isReadingPaused) return
    this.#isReadingPaused = true
    this.#peer.pauseReading()
  }

  #closeWhenDone(): void {
    if (this.#isCut || this.#queue.count > 0) return
    this.#isOver = true
    this.#peer.close()
  }
}
