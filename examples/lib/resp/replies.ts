/** Replies, or requests, in RESP2, gathered in one piece of memory to be written at once. */
import { REPLY_MEMORY_KEPT_BYTES } from './limits.js'
import type { Value } from './request.js'

const FIRST_BYTES = 16 * 1024
/** Up to here a loop is faster than a call of native code. */
const LOOP_MAX_CHARACTERS = 32
const CR = 13
const LF = 10
const DOLLAR = 36
const ZERO = 48

export class Replies {
  #memory: Buffer = Buffer.allocUnsafeSlow(FIRST_BYTES)
  #length = 0

  /** Bytes gathered. */
  get length(): number {
    return this.#length
  }

  /** What was gathered, to be copied or sent before anything else is done here: the memory is used again. */
  take(): Buffer {
    const taken = this.#memory.subarray(0, this.#length)
    this.#length = 0
    if (this.#memory.length > REPLY_MEMORY_KEPT_BYTES) this.#memory = Buffer.allocUnsafeSlow(FIRST_BYTES)
    return taken
  }

  /** Forgets what came behind the first bytes. */
  cut(length: number): void {
    this.#length = length
  }

  ok(): void {
    this.raw('+OK\r\n')
  }

  /** @param text with its sign and without its end, as `+PONG` */
  line(text: string): void {
    this.raw(`${text}\r\n`)
  }

  /** @param text in one line, else its ends become spaces; without a code of its own it has Redis' ERR */
  error(text: string, code = 'ERR'): void {
    this.raw(`-${code} ${text.replace(/[\r\n]/g, ' ')}\r\n`)
  }

  integer(value: number | bigint): void {
    this.raw(`:${value}\r\n`)
  }

  nil(): void {
    this.raw('$-1\r\n')
  }

  /** So many replies that follow are one. */
  array(count: number): void {
    this.raw(`*${count}\r\n`)
  }

  bulk(value: Value): void {
    const { length } = value
    this.#ensure(length + 32)
    const memory = this.#memory
    let at = this.#length
    memory[at++] = DOLLAR
    if (length < 10) memory[at++] = ZERO + length
    else at += memory.write(String(length), at, 'latin1')
    memory[at++] = CR
    memory[at++] = LF
    if (typeof value === 'string') at = put(memory, at, value)
    else at += value.copy(memory, at)
    memory[at++] = CR
    memory[at++] = LF
    this.#length = at
  }

  /** An argument of a request, which looks as a bulk does. */
  argument(memory: Buffer, start: number, end: number): void {
    this.raw(`$${end - start}\r\n`)
    this.bytes(memory, start, end)
    this.raw('\r\n')
  }

  /** As it is; each character a byte. */
  raw(text: string): void {
    this.#ensure(text.length)
    this.#length = put(this.#memory, this.#length, text)
  }

  /** As they are. */
  bytes(memory: Buffer, start: number, end: number): void {
    this.#ensure(end - start)
    this.#length += memory.copy(this.#memory, this.#length, start, end)
  }

  uint32(value: number): void {
    this.#ensure(4)
    this.#length = this.#memory.writeUInt32LE(value, this.#length)
  }

  #ensure(bytes: number): void {
    const needed = this.#length + bytes
    if (needed <= this.#memory.length) return
    const memory = Buffer.allocUnsafeSlow(Math.max(needed, this.#memory.length * 2))
    this.#memory.copy(memory, 0, 0, this.#length)
    this.#memory = memory
  }
}

function put(memory: Buffer, at: number, text: string): number {
  const { length } = text
  if (length > LOOP_MAX_CHARACTERS) return at + memory.write(text, at, 'latin1')
  for (let index = 0; index < length; index++) memory[at + index] = text.charCodeAt(index)
  return at + length
}
