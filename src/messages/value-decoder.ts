import { makeView, VIEW_CLASSES } from './clone.js'
import { type ReceivedShape, ReceivedShapes } from './shapes.js'
import {
  damaged,
  HEADER_AGAIN,
  HEADER_NARROW,
  HEADER_SHAPES,
  HEADER_VALUES,
  HEADER_WIDE,
  HEADER_WORDS,
  PAYLOAD_SHAPES_MAX,
  SHAPE_BYTES,
  SHAPE_HEADER_WORDS,
  TAG_AGAIN,
  TAG_ARRAY,
  TAG_BIGINT,
  TAG_BITS,
  TAG_DATE,
  TAG_FALSE,
  TAG_INTEGER,
  TAG_LONG_NARROW,
  TAG_LONG_WIDE,
  TAG_MAP,
  TAG_MASK,
  TAG_NARROW,
  TAG_NULL,
  TAG_NUMBER,
  TAG_OBJECT,
  TAG_OBJECT_AND_MORE,
  TAG_SET,
  TAG_TRUE,
  TAG_UNDEFINED,
  TAG_VIEW,
  TAG_WIDE,
} from './value-format.js'

/**
 * V8 makes a copy of a piece of a string that has no more characters, and of a longer one a reference to the whole, which then is kept
 * as long as the piece is.
 */
const COPIED_MAX = 12
const NO_MEMORY: Buffer = Buffer.alloc(0)
const NO_WORDS = new Int32Array(0)
const HEXADECIMAL = /^[0-9a-f]+$/

/** Makes values of what a `ValueEncoder` has written. Nothing of the memory is referred to. */
export class ValueDecoder {
  private memory: Buffer = NO_MEMORY
  private words: Int32Array = NO_WORDS
  private at = 0
  /** Behind the values. */
  private end = 0
  /** The text of short strings, and where in it the next one begins. */
  private narrow = ''
  private narrowAt = 0
  private wide = ''
  private wideAt = 0
  private readonly number = new Float64Array(1)
  private readonly numberWords = new Int32Array(this.number.buffer)
  private readonly known = new ReceivedShapes()
  private readonly shapes: (ReceivedShape | null)[] = []
  private shapesUsed = 0
  /** Those that have begun, of a payload in which one occurs twice. */
  private objects: object[] | null = null

  /**
   * @param words the same memory
   * @param at a whole word
   * @param bytes length of the payload
   * @throws Error when it is not what an encoder writes
   */
  decode(memory: Buffer, words: Int32Array, at: number, bytes: number): unknown {
    this.memory = memory
    this.words = words
    const first = at >> 2
    try {
      this.open(first, first + (bytes >> 2))
      const value = this.value()
      if (this.at !== this.end) throw damaged()
      return value
    } finally {
      this.memory = NO_MEMORY
      this.words = NO_WORDS
      this.objects = null
      this.narrow = ''
      this.wide = ''
      while (this.shapesUsed > 0) this.shapes[--this.shapesUsed] = null
    }
  }

  /** Reads what is in front of the values and behind them. */
  private open(first: number, last: number): void {
    const { words } = this
    if (first + HEADER_WORDS > last || last > words.length) throw damaged()
    const values = words[first + HEADER_VALUES] as number
    const wide = words[first + HEADER_WIDE] as number
    const narrow = words[first + HEADER_NARROW] as number
    let at = first + HEADER_WORDS
    const shapes = words[first + HEADER_SHAPES] as number
    if (shapes > PAYLOAD_SHAPES_MAX) throw damaged()
    for (let index = 0; index < shapes; index++) {
      const length = SHAPE_HEADER_WORDS + (((words[at + SHAPE_BYTES] as number) + 3) >> 2)
      if (length < SHAPE_HEADER_WORDS || at + length > last) throw damaged()
      this.shapes[this.shapesUsed++] = this.known.at(words, at, length)
      at += length
    }
    if (words[first + HEADER_AGAIN] !== 0) this.objects = []
    this.at = at
    this.end = at + values
    const wideAt = this.end
    const narrowAt = wideAt + ((wide + 1) >>> 1)
    if (values < 0 || wide < 0 || narrow < 0 || narrowAt + ((narrow + 3) >>> 2) !== last) throw damaged()
    if (wide > 0) this.wide = this.memory.toString('utf16le', wideAt * 4, wideAt * 4 + wide * 2)
    if (narrow > 0) this.narrow = this.memory.toString('latin1', narrowAt * 4, narrowAt * 4 + narrow)
    this.wideAt = 0
    this.narrowAt = 0
  }

  private value(): unknown {
    const word = this.words[this.pass(1)] as number
    const above = word >> TAG_BITS
    switch (word & TAG_MASK) {
      case TAG_INTEGER:
        return above
      case TAG_NUMBER:
        return this.double()
      case TAG_NARROW: {
        const at = this.narrowAt
        this.narrowAt = at + above
        return piece(this.narrow, at, this.narrowAt)
      }
      case TAG_WIDE: {
        const at = this.wideAt
        this.wideAt = at + above
        return piece(this.wide, at, this.wideAt)
      }
      case TAG_LONG_NARROW: {
        const at = this.pass((above + 3) >> 2) * 4
        return this.memory.toString('latin1', at, at + above)
      }
      case TAG_LONG_WIDE: {
        const at = this.pass((above + 1) >> 1) * 4
        return this.memory.toString('utf16le', at, at + above * 2)
      }
      case TAG_UNDEFINED:
        return undefined
      case TAG_NULL:
        return null
      case TAG_TRUE:
        return true
      case TAG_FALSE:
        return false
      case TAG_OBJECT:
        return this.object(above)
      case TAG_OBJECT_AND_MORE:
        return this.objectAndMore(above)
      case TAG_ARRAY: {
        const array: unknown[] = []
        this.began(array)
        for (let index = 0; index < above; index++) array.push(this.value())
        return array
      }
      case TAG_DATE: {
        const date = new Date(this.double())
        this.began(date)
        return date
      }
      case TAG_MAP: {
        const map = new Map()
        this.began(map)
        for (let index = 0; index < above; index++) {
          const key = this.value()
          map.set(key, this.value())
        }
        return map
      }
      case TAG_SET: {
        const set = new Set()
        this.began(set)
        for (let index = 0; index < above; index++) set.add(this.value())
        return set
      }
      case TAG_BIGINT: {
        const digits = this.value()
        if (typeof digits !== 'string' || !HEXADECIMAL.test(digits)) throw damaged()
        const size = BigInt(`0x${digits}`)
        return above === 0 ? size : -size
      }
      case TAG_VIEW:
        return this.view(above)
      case TAG_AGAIN:
        return this.again(above)
      default:
        throw damaged()
    }
  }

  private object(index: number): Record<string, unknown> {
    const shape = this.shapes[index]
    if (shape === undefined || shape === null) throw damaged()
    const object: Record<string, unknown> = {}
    this.began(object)
    const { names } = shape
    if (shape.isSettable)
      for (let index = 0; index < names.length; index++) object[names[index] as string] = this.value()
    else for (const name of names) define(object, name, this.value())
    return object
  }

  private objectAndMore(index: number): object {
    const object = this.object(index)
    for (let count = this.words[this.pass(1)] as number; count > 0; count--) {
      const name = this.value()
      if (typeof name !== 'string' && typeof name !== 'number') throw damaged()
      define(object, name, this.value())
    }
    return object
  }

  private view(number: number): object {
    const bytes = this.words[this.pass(1)] as number
    const at = this.pass((bytes + 3) >> 2) * 4
    if (VIEW_CLASSES[number] === undefined) throw damaged()
    const view = makeView(number, this.memory.subarray(at, at + bytes))
    this.began(view)
    return view
  }

  private began(object: object): void {
    if (this.objects !== null) this.objects.push(object)
  }

  private again(index: number): object {
    const object = this.objects?.[index]
    if (object === undefined) throw damaged()
    return object
  }

  private double(): number {
    const at = this.pass(2)
    this.numberWords[0] = this.words[at] as number
    this.numberWords[1] = this.words[at + 1] as number
    return this.number[0] as number
  }

  /** Goes on behind so many words; where they are. */
  private pass(words: number): number {
    const at = this.at
    this.at = at + words
    if (words < 0 || this.at > this.end) throw damaged()
    return at
  }
}

/** A copy of up to twice {@link COPIED_MAX} characters of a text, which refers to nothing of it. */
function piece(text: string, from: number, to: number): string {
  if (to > text.length || to < from) throw damaged()
  if (to - from <= COPIED_MAX) return text.slice(from, to)
  const middle = from + COPIED_MAX
  return text.slice(from, middle) + text.slice(middle, to)
}

/** As JSON.parse does: nothing that all objects have is set or called. */
function define(object: object, name: string | number, value: unknown): void {
  if (name in Object.prototype)
    Object.defineProperty(object, name, { value, configurable: true, enumerable: true, writable: true })
  else (object as Record<string, unknown>)[name] = value
}
