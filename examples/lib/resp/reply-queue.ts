/** Replies in the order of their requests, some of which are not there yet. */
import {
  REPLIES_EXPECTED_BYTES,
  REPLIES_WAITING_FIRST,
  REPLIES_WAITING_MAX,
  TURN_REPLY_BYTES,
} from './limits.js'
import type { Replies } from './replies.js'

/** Who is waiting for an answer. */
export interface Waiting {
  /** @param bytes its own from now on */
  settle(bytes: Buffer): void
}

class WaitingReply implements Waiting {
  readonly #queue: ReplyQueue
  bytes: Buffer | null

  constructor(queue: ReplyQueue, bytes: Buffer | null) {
    this.#queue = queue
    this.bytes = bytes
  }

  settle(bytes: Buffer): void {
    this.bytes = bytes
    this.#queue.came(bytes.length)
  }
}

export class ReplyQueue {
  /** Bytes of those that are there and wait for one before them. */
  bytes = 0
  #replies: WaitingReply[] = []
  /** Those before it have left. */
  #first = 0
  /** How many may wait. */
  #limit = REPLIES_WAITING_FIRST

  /** No more requests should be made. */
  get isFull(): boolean {
    return this.count >= this.#limit || this.bytes >= TURN_REPLY_BYTES
  }

  get count(): number {
    return this.#replies.length - this.#first
  }

  /** The next reply, which is there already or will be. */
  add(bytes: Buffer | null = null): Waiting {
    const reply = new WaitingReply(this, bytes)
    if (bytes !== null) this.bytes += bytes.length
    this.#replies.push(reply)
    return reply
  }

  /** A reply that was waited for has so many bytes. */
  came(length: number): void {
    this.bytes += length
    const fitting = Math.floor(REPLIES_EXPECTED_BYTES / Math.max(1, length))
    this.#limit = Math.max(1, Math.min(this.#limit, fitting))
  }

  /** Those that may leave; false when there is none. */
  takeReady(into: Replies): boolean {
    const first = this.#first
    for (; this.#first < this.#replies.length; this.#first++) {
      const bytes = this.#replies[this.#first]?.bytes ?? null
      if (bytes === null) break
      into.bytes(bytes, 0, bytes.length)
      this.bytes -= bytes.length
    }
    const taken = this.#first - first
    if (this.#first === this.#replies.length) {
      if (taken > 0) this.#limit = Math.min(REPLIES_WAITING_MAX, this.#limit * 2)
      this.clear()
    } else if (this.#first > this.#replies.length / 2) {
      this.#replies = this.#replies.slice(this.#first)
      this.#first = 0
    }
    return taken > 0
  }

  clear(): void {
    this.#replies = []
    this.#first = 0
    this.bytes = 0
  }
}
