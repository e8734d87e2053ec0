/** One request: its arguments as ranges of the memory in which it arrived, valid until the next one is asked for. */
import { TEXT_VALUE_MAX_BYTES } from './limits.js'

/** What is stored under a key: short values as strings, a character a byte, the others as Buffers of their exact size. */
export type Value = string | Buffer

const INT64_MAX_DIGITS = 19
/** So much is made a string at once, of which the arguments are parts: one call of native code for all requests of a pipeline. */
const WINDOW_BYTES = 1_024
/** A part of a string up to here is a copy. A longer one refers to the whole, which must not be kept for its sake. */
const COPIED_MAX_CHARACTERS = 12

export class Request {
  #memory: Buffer
  /** All of it, in {@link memory}. */
  start = 0
  end = 0
  /** Arguments; the first one is the command's name. */
  count = 0
  readonly starts: number[] = []
  readonly ends: number[] = []
  /** A part of {@link memory} as a string, from {@link #windowStart} on. */
  #window = ''
  #windowStart = 0

  constructor(memory: Buffer) {
    this.#memory = memory
  }

  get memory(): Buffer {
    return this.#memory
  }

  /** What is read from now on. */
  readFrom(memory: Buffer): void {
    this.#memory = memory
    this.#window = ''
  }

  /** An argument, each byte as a character. Whoever keeps it keeps a copy ({@link ownText}). */
  text(index: number): string {
    const start = this.starts[index] as number
    const end = this.ends[index] as number
    if (end - start > WINDOW_BYTES) return this.#memory.toString('latin1', start, end)
    if (start < this.#windowStart || end > this.#windowStart + this.#window.length) {
      this.#windowStart = start
      this.#window = this.#memory.toString('latin1', start, start + WINDOW_BYTES)
    }
    return this.#window.substring(start - this.#windowStart, end - this.#windowStart)
  }

  /** An argument as it is stored: a copy. */
  value(index: number): Value {
    const start = this.starts[index] as number
    const end = this.ends[index] as number
    if (end - start <= COPIED_MAX_CHARACTERS) return this.text(index)
    if (end - start <= TEXT_VALUE_MAX_BYTES) return this.#memory.toString('latin1', start, end)
    const copy = Buffer.allocUnsafeSlow(end - start)
    this.#memory.copy(copy, 0, start, end)
    return copy
  }

  /** Whether an argument is that word, in capitals or not. `word` is in small letters. */
  is(index: number, word: string): boolean {
    const start = this.starts[index] as number
    const { length } = word
    if ((this.ends[index] as number) - start !== length) return false
    for (let at = 0; at < length; at++)
      if (((this.#memory[start + at] as number) | 0x20) !== word.charCodeAt(at)) return false
    return true
  }

  /** An argument as a number; null when it is none, or not a safe one. */
  integer(index: number): number | null {
    const length = (this.ends[index] as number) - (this.starts[index] as number)
    return length > INT64_MAX_DIGITS + 1 ? null : integerOf(this.text(index))
  }

  /** A number by which an argument's bytes are told from others (FNV-1a); not negative. */
  hash(index: number): number {
    const memory = this.#memory
    const end = this.ends[index] as number
    let hash = 0x811c9dc5
    for (let at = this.starts[index] as number; at < end; at++)
      hash = Math.imul(hash ^ (memory[at] as number), 0x01000193)
    return (hash ^ (hash >>> 15)) >>> 0
  }
}

/** The same text in memory of its own. */
export function ownText(text: string): string {
  return text.length <= COPIED_MAX_CHARACTERS ? text : Buffer.from(text, 'latin1').toString('latin1')
}

/** The number that a text is, as Redis writes numbers; null for any other, and for one that is not safe. */
export function integerOf(text: string): number | null {
  if (!/^(?:0|-?[1-9]\d*)$/.test(text)) return null
  const number = Number(text)
  return Number.isSafeInteger(number) ? number : null
}
