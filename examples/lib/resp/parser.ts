/** Takes requests out of the bytes of a connection: RESP2, and inline commands. Bytes in, requests out; no sockets, no clock. */
import { wordsOf } from './inline.js'
import {
  ARGUMENTS_MAX,
  BULK_MAX_BYTES,
  INLINE_MAX_BYTES,
  REQUEST_MAX_BYTES,
  REQUEST_MEMORY_KEPT_BYTES,
} from './limits.js'
import { Request } from './request.js'

/** What {@link RequestParser.next} found: the request is whole, needs more bytes, or can be none. */
export type Found = typeof MORE | typeof WHOLE | typeof BROKEN
export const MORE = 0
export const WHOLE = 1
export const BROKEN = 2

const CR = 13
const LF = 10
const MINUS = 45
const ZERO = 48
const STAR = 42
const DOLLAR = 36
/** A length has no more characters than this, `-` included; one that has not ended by then is none. */
const LENGTH_MAX_CHARACTERS = 20

/** What {@link RequestParser} has found of a length. */
const NO_END = -2
const NO_NUMBER = -3

const NOTHING = Buffer.alloc(0)

export class RequestParser {
  /** What was found last. */
  readonly request: Request = new Request(NOTHING)
  /** Redis' words for what is wrong, once something is. */
  error = ''
  /** Where requests are read from: what was fed, or {@link #kept}. */
  #memory: Buffer = NOTHING
  #position = 0
  #end = 0
  /** Memory of its own, with the beginning of a request whose end has not come. */
  #kept: Buffer = NOTHING
  /** Arguments that the current request has yet to tell; 0: it has not begun. */
  #missing = 0
  /** Of the argument whose length was read; -1 when it was not. */
  #length = -1
  /** An inline command's end was looked for up to here. */
  #searched = 0
  /** The current request is in memory of its own. */
  #isInline = false
  /** Where the current request begins. */
  #start = 0

  /** Bytes behind those that came before. They are read until {@link keep}; `memory` is not kept beyond. */
  feed(memory: Buffer, start: number, end: number): void {
    if (this.#memory === NOTHING) {
      this.#memory = memory
      this.#start = this.#position = this.#searched = start
      this.#end = end
      return
    }
    if (this.#memory !== this.#kept) this.keep()
    this.request.readFrom(NOTHING)
    const length = this.#end + end - start
    if (length > this.#kept.length) this.#grow(length)
    memory.copy(this.#kept, this.#end, start, end)
    this.#memory = this.#kept
    this.#end = length
  }

  /** The next request. What it found before is not valid any more. */
  next(): Found {
    for (;;) {
      if (this.#missing === 0) {
        this.#start = this.#position
        const begun = this.#begin()
        if (begun !== WHOLE) return begun
        if (this.request.count === 0 && this.#missing === 0) continue // an empty line, or none: Redis passes over it
      }
      while (this.#missing > 0) {
        const read = this.#argument()
        if (read !== WHOLE) return read
      }
      const { request } = this
      if (!this.#isInline) {
        if (request.memory !== this.#memory) request.readFrom(this.#memory)
        request.start = this.#start
        request.end = this.#position
      }
      return WHOLE
    }
  }

  /** Whether bytes wait that {@link next} has not looked at. */
  get hasMore(): boolean {
    return this.#end > this.#position
  }

  /** Copies what is left, as the memory that was fed is needed no longer. */
  keep(): void {
    const from = this.#missing > 0 ? this.#start : this.#position
    const length = this.#end - from
    const shift = from
    if (length === 0) {
      if (this.#kept.length > REQUEST_MEMORY_KEPT_BYTES) this.#kept = NOTHING
      this.#memory = NOTHING
      this.#start = this.#position = this.#end = this.#searched = 0
    } else if (this.#memory !== this.#kept || from > 0) {
      if (length > this.#kept.length) {
        // What `kept` holds is below `from`, and done with.
        this.#kept = Buffer.allocUnsafeSlow(roomFor(length))
      }
      this.#memory.copy(this.#kept, 0, from, this.#end)
      this.#memory = this.#kept
      this.#start -= shift
      this.#position -= shift
      this.#searched = Math.max(0, this.#searched - shift)
      this.#end = length
      const { starts, ends } = this.request
      if (this.#missing > 0)
        for (let index = 0; index < this.request.count; index++) {
          starts[index] = (starts[index] as number) - shift
          ends[index] = (ends[index] as number) - shift
        }
    }
    this.request.readFrom(NOTHING)
  }

  #grow(length: number): void {
    const kept = Buffer.allocUnsafeSlow(roomFor(length))
    this.#kept.copy(kept, 0, 0, this.#end)
    this.#kept = kept
  }

  /** The first line of a request. */
  #begin(): Found {
    this.request.count = 0
    this.#isInline = false
    if (this.#position === this.#end) return MORE
    if (this.#memory[this.#position] !== STAR) return this.#inline()
    const count = this.#readLength(ARGUMENTS_MAX)
    if (count === NO_END) return MORE
    if (count === NO_NUMBER) return this.#broken('invalid multibulk length')
    this.#missing = Math.max(0, count)
    return WHOLE
  }

  #argument(): Found {
    if (this.#length < 0) {
      if (this.#position === this.#end) return MORE
      const first = this.#memory[this.#position] as number
      if (first !== DOLLAR) return this.#broken(`expected '$', got '${String.fromCharCode(first)}'`)
      const length = this.#readLength(BULK_MAX_BYTES)
      if (length === NO_END) return MORE
      if (length < 0) return this.#broken('invalid bulk length')
      if (this.#position - this.#start + length > REQUEST_MAX_BYTES) return this.#broken('too big request')
      this.#length = length
    }
    const end = this.#position + this.#length
    if (end + 2 > this.#end) return MORE
    const { request } = this
    request.starts[request.count] = this.#position
    request.ends[request.count] = end
    request.count += 1
    this.#position = end + 2
    this.#length = -1
    this.#missing -= 1
    return WHOLE
  }

  /** The number of a line that begins with a sign; the position is behind the line then. As Redis, it trusts that LF follows CR. */
  #readLength(max: number): number {
    const memory = this.#memory
    let at = this.#position + 1
    const last = Math.min(this.#end, at + LENGTH_MAX_CHARACTERS + 1)
    const isNegative = at < last && memory[at] === MINUS
    if (isNegative) at += 1
    const first = at
    let value = 0
    let isNumber = true
    for (; at < last; at++) {
      const byte = memory[at] as number
      if (byte === CR) {
        if (at + 1 >= this.#end) return NO_END
        const digits = at - first
        const isPlain = digits > 0 && (memory[first] !== ZERO || (digits === 1 && !isNegative))
        if (!isNumber || !isPlain || value > max) return NO_NUMBER
        this.#position = at + 2
        return isNegative ? -1 : value
      }
      isNumber &&= byte >= ZERO && byte < ZERO + 10
      value = value * 10 + byte - ZERO
    }
    return last < this.#end ? NO_NUMBER : NO_END
  }

  #inline(): Found {
    const memory = this.#memory
    const from = Math.max(this.#searched, this.#position)
    const at = memory.indexOf(LF, from)
    const isThere = at >= 0 && at < this.#end
    const length = (isThere ? at : this.#end) - this.#position
    if (length > INLINE_MAX_BYTES) return this.#broken('too big inline request')
    if (!isThere) {
      this.#searched = this.#end
      return MORE
    }
    const end = at > this.#position && memory[at - 1] === CR ? at - 1 : at
    const words = wordsOf(memory.toString('latin1', this.#position, end))
    if (words === null) return this.#broken('unbalanced quotes in request')
    this.#position = at + 1
    this.#take(words)
    return WHOLE
  }

  /** Makes words a request, in the form that it would have had with lengths. */
  #take(words: readonly string[]): void {
    const { request } = this
    request.count = words.length
    if (words.length === 0) return
    let text = `*${words.length}\r\n`
    for (const [index, word] of words.entries()) {
      text += `$${word.length}\r\n`
      request.starts[index] = text.length
      request.ends[index] = text.length + word.length
      text += `${word}\r\n`
    }
    this.#isInline = true
    request.readFrom(Buffer.from(text, 'latin1'))
    request.start = 0
    request.end = text.length
  }

  #broken(why: string): Found {
    this.error = `Protocol error: ${why}`
    return BROKEN
  }
}

/** Twice as much, so that a request in many pieces is not copied for each of them. */
function roomFor(length: number): number {
  return Math.max(256, length * 2)
}
