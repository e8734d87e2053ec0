import {
  SHORT_MAX,
  TAG_BITS,
  TAG_LONG_NARROW,
  TAG_LONG_WIDE,
  TAG_NARROW,
  TAG_WIDE,
  VALUES_MAX_BYTES,
} from './value-format.js'

/** Words of values, of Latin-1 and of UTF-16 for which there is room from the start, and which are kept behind a larger payload. */
const KEPT_WORDS = 4096
/** Is thrown where a payload has more than {@link VALUES_MAX_BYTES}. */
export const TOO_LARGE: unique symbol = Symbol('too large')
/** A loop is faster up to here than a call of the engine's own copy. */
const LOOP_MAX_WORDS = 64

/** Words and text of a payload, in memory that is used again. */
export class ValueWriter {
  protected words!: Int32Array
  /** The same memory. */
  private bytes!: Buffer
  /** Words of values. */
  protected used = 0
  /** Text of short strings, of Latin-1... */
  private narrow!: Uint8Array
  private narrowWords!: Int32Array
  protected narrowUsed = 0
  /** ... and of UTF-16. */
  private wide!: Uint16Array
  private wideWords!: Int32Array
  protected wideUsed = 0
  private readonly number = new Float64Array(1)
  private readonly numberWords = new Int32Array(this.number.buffer)

  constructor() {
    this.makeWords(KEPT_WORDS)
    this.makeNarrow(KEPT_WORDS)
    this.makeWide(KEPT_WORDS)
  }

  /** Forgets what was written. */
  protected begin(): void {
    this.used = 0
    this.narrowUsed = 0
    this.wideUsed = 0
  }

  /** How many words were written. */
  protected end(): number {
    this.checkSize()
    // What is behind the text in its last word is of another payload.
    for (let at = this.narrowUsed; (at & 3) !== 0; at++) this.narrow[at] = 0
    if ((this.wideUsed & 1) !== 0) this.wide[this.wideUsed] = 0
    return this.used + ((this.wideUsed + 1) >> 1) + ((this.narrowUsed + 3) >> 2)
  }

  /** Copies them. */
  protected copyTo(words: Int32Array, at: number): void {
    let to = copyWords(this.words, words, at, this.used)
    to = copyWords(this.wideWords, words, to, (this.wideUsed + 1) >> 1)
    copyWords(this.narrowWords, words, to, (this.narrowUsed + 3) >> 2)
  }

  /** Lets go of what a large payload took. */
  protected shrink(): void {
    if (this.words.length > KEPT_WORDS) this.makeWords(KEPT_WORDS)
    if (this.narrowWords.length > KEPT_WORDS) this.makeNarrow(KEPT_WORDS)
    if (this.wideWords.length > KEPT_WORDS) this.makeWide(KEPT_WORDS)
  }

  /** A word, and bytes behind it. */
  protected putBytes(word: number, bytes: Uint8Array): void {
    const { length } = bytes
    if (length > VALUES_MAX_BYTES) throw TOO_LARGE
    const at = this.room(2 + ((length + 3) >>> 2))
    this.words[this.used - 1] = 0 // what is behind its bytes
    this.words[at] = word
    this.words[at + 1] = length
    this.bytes.set(bytes, (at + 2) * 4)
  }

  protected tagged(tag: number, number: number): void {
    const at = this.room(3)
    this.number[0] = number
    this.words[at] = tag
    this.words[at + 1] = this.numberWords[0] as number
    this.words[at + 2] = this.numberWords[1] as number
  }

  protected string(text: string): boolean {
    const { length } = text
    if (length > SHORT_MAX) return this.long(text)
    let at = this.narrowUsed
    if (at + length > this.narrow.length) this.growNarrow()
    const { narrow } = this
    let union = 0
    for (let index = 0; index < length; index++) {
      const code = text.charCodeAt(index)
      union |= code
      narrow[at++] = code
    }
    if (union > 0xff) this.shortWide(text)
    else {
      this.narrowUsed = at
      this.put((length << TAG_BITS) | TAG_NARROW)
    }
    return true
  }

  private shortWide(text: string): void {
    const { length } = text
    if (this.wideUsed + length > this.wide.length) this.growWide()
    const { wide } = this
    for (let index = 0; index < length; index++) wide[this.wideUsed++] = text.charCodeAt(index)
    this.put((length << TAG_BITS) | TAG_WIDE)
  }

  private long(text: string): boolean {
    const { length } = text
    if (length > VALUES_MAX_BYTES) throw TOO_LARGE
    // In UTF-8 a byte for each character: it has none that is not ASCII.
    const isNarrow = Buffer.byteLength(text) === length
    const size = isNarrow ? length : length * 2
    const at = this.room(1 + ((size + 3) >> 2))
    this.words[at] = (length << TAG_BITS) | (isNarrow ? TAG_LONG_NARROW : TAG_LONG_WIDE)
    this.words[this.used - 1] = 0
    this.bytes.write(text, (at + 1) * 4, size, isNarrow ? 'latin1' : 'utf16le')
    return true
  }

  protected put(word: number): void {
    const at = this.room(1)
    this.words[at] = word // not in one: it may be other memory than before
  }

  /** Makes room for so many words; where they are. */
  protected room(words: number): number {
    const at = this.used
    this.used = at + words
    if (this.used > this.words.length) this.growWords()
    return at
  }

  private growWords(): void {
    this.checkSize()
    const { words } = this
    this.makeWords(Math.max(this.used, words.length * 2))
    this.words.set(words)
  }

  private checkSize(): void {
    if (this.used * 4 + this.narrowUsed + this.wideUsed * 2 > VALUES_MAX_BYTES) throw TOO_LARGE
  }

  private growNarrow(): void {
    this.checkSize()
    const { narrow } = this
    this.makeNarrow(this.narrowWords.length * 2)
    this.narrow.set(narrow)
  }

  private growWide(): void {
    this.checkSize()
    const { wide } = this
    this.makeWide(this.wideWords.length * 2)
    this.wide.set(wide)
  }

  private makeWords(words: number): void {
    this.words = new Int32Array(words)
    this.bytes = Buffer.from(this.words.buffer)
  }

  private makeNarrow(words: number): void {
    this.narrowWords = new Int32Array(words)
    this.narrow = new Uint8Array(this.narrowWords.buffer)
  }

  private makeWide(words: number): void {
    this.wideWords = new Int32Array(words)
    this.wide = new Uint16Array(this.wideWords.buffer)
  }
}

/** The place behind the copy. */
export function copyWords(from: Int32Array, to: Int32Array, at: number, count: number): number {
  if (count > LOOP_MAX_WORDS) to.set(from.subarray(0, count), at)
  else for (let index = 0; index < count; index++) to[at + index] = from[index] as number
  return at + count
}
