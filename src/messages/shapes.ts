import {
  CANDIDATES_MAX,
  damaged,
  FOLLOWERS_MAX,
  RECEIVED_SHAPES_MAX,
  SENT_NAMES_MAX,
  SHAPE_BYTES,
  SHAPE_HASH,
  SHAPE_HEADER_WORDS,
  SHAPE_MAX_BYTES,
  SHAPE_NAMES,
  SHAPE_SEPARATOR,
} from './value-format.js'

/** The names of an object's properties up to one of them: where its sender is in a tree of all that it has sent. */
export class Shape {
  /** The last one. */
  readonly name: string
  /** How many. */
  readonly depth: number
  /** As {@link SHAPE_BYTES}. */
  readonly bytes: number
  readonly before: Shape | null
  /** The one that was followed last... */
  last: Shape | null = null
  /** ... and all, by their last name. */
  next: Map<string, Shape> | null = null
  /** As it travels; null as long as no object ended here. */
  words: Int32Array | null = null
  /** Number of the payload that it was put into last... */
  payload = 0
  /** ... and its index there. */
  index = 0

  constructor(name: string, before: Shape | null) {
    this.name = name
    this.before = before
    this.depth = before === null ? 0 : before.depth + 1
    this.bytes = before === null ? 0 : before.bytes + name.length + 1
  }
}

/** The shapes of what a thread sends. */
export class SentShapes {
  root: Shape = new Shape('', null)
  #count = 0
  /** Names that were seen once where many others are. */
  readonly #candidates = new Set<string>()

  /** The shape with another name behind its own; null when there is none with that, or not yet. */
  follow(shape: Shape, name: string): Shape | null {
    let next = shape.next?.get(name)
    if (next === undefined) {
      if (!fitsShape(name) || shape.bytes + name.length >= SHAPE_MAX_BYTES) return null
      if (shape.next !== null && shape.next.size >= FOLLOWERS_MAX && !this.#recurs(name)) return null
      if (this.#count === SENT_NAMES_MAX) this.#forget()
      this.#count += 1
      next = new Shape(name, shape)
      shape.next ??= new Map()
      shape.next.set(name, next)
    }
    shape.last = next
    return next
  }

  #recurs(name: string): boolean {
    const candidates = this.#candidates
    if (candidates.delete(name)) return true
    if (candidates.size === CANDIDATES_MAX) candidates.clear()
    candidates.add(name)
    return false
  }

  /** Who is at one of them goes on from there. */
  #forget(): void {
    this.root = new Shape('', null)
    this.#count = 0
  }
}

/**
 * Whether a name may be in a shape: it is of Latin-1, no index, which would come before the others, and to be set as any
 * property is.
 */
function fitsShape(name: string): boolean {
  if (name in Object.prototype) return false
  for (let index = 0; index < name.length; index++) {
    const code = name.charCodeAt(index)
    if (code > 0xff || code === SHAPE_SEPARATOR) return false
  }
  const first = name.charCodeAt(0)
  return !(first >= ZERO && first <= NINE)
}

const ZERO = 48
const NINE = 57

/** A shape's words, made when it is first sent. */
export function shapeWords(shape: Shape): Int32Array {
  shape.words ??= makeWords(shape)
  return shape.words
}

function makeWords(shape: Shape): Int32Array {
  const words = new Int32Array(SHAPE_HEADER_WORDS + ((shape.bytes + 3) >> 2))
  const text = new Uint8Array(words.buffer, SHAPE_HEADER_WORDS * 4)
  words[SHAPE_NAMES] = shape.depth
  words[SHAPE_BYTES] = shape.bytes
  for (let at: Shape = shape; at.before !== null; at = at.before) {
    const begins = at.before.bytes
    for (let index = 0; index < at.name.length; index++) text[begins + index] = at.name.charCodeAt(index)
    text[begins + at.name.length] = SHAPE_SEPARATOR
  }
  let hash = 0
  for (let word = SHAPE_NAMES; word < words.length; word++)
    hash = Math.imul(hash ^ (words[word] as number), HASH_FACTOR) ^ (hash >>> 15)
  words[SHAPE_HASH] = hash
  return words
}

const HASH_FACTOR = 0x9e3779b1

/** A shape as its receiver has it. */
export interface ReceivedShape {
  /** As it came. */
  readonly words: Int32Array
  readonly names: readonly string[]
  /** Whether to set such a property is to define it: the program has added nothing of that name to all objects, at this time. */
  isSettable: boolean
}

/** The shapes of what a thread receives, by hash. */
export class ReceivedShapes {
  readonly #shapes = new Map<number, ReceivedShape>()

  /** The shape at a word; its length in words must be within the memory. */
  at(words: Int32Array, at: number, length: number): ReceivedShape {
    const hash = words[at + SHAPE_HASH] as number
    const known = this.#shapes.get(hash)
    if (known !== undefined && isSame(known.words, words, at, length)) {
      known.isSettable = isSettable(known.names)
      return known
    }
    const shape = readShape(words.slice(at, at + length))
    if (this.#shapes.size >= RECEIVED_SHAPES_MAX) this.#shapes.clear()
    this.#shapes.set(hash, shape)
    return shape
  }
}

function readShape(words: Int32Array): ReceivedShape {
  const text = Buffer.from(words.buffer, SHAPE_HEADER_WORDS * 4, words[SHAPE_BYTES]).toString('latin1')
  const object = Object.create(null) as Record<string, null>
  for (const name of text.split('\0').slice(0, -1)) object[name] = null
  // As keys of an object they are V8's own copies of them, by which it finds properties fastest.
  const names = Object.keys(object)
  if (names.length !== words[SHAPE_NAMES]) throw damaged()
  return { words, names, isSettable: isSettable(names) }
}

function isSettable(names: readonly string[]): boolean {
  for (let index = 0; index < names.length; index++)
    if (hasOwn.call(prototype, names[index] as string)) return false
  return true
}

const { prototype } = Object
const { hasOwnProperty: hasOwn } = prototype

function isSame(known: Int32Array, words: Int32Array, at: number, length: number): boolean {
  if (known.length !== length) return false
  for (let index = 0; index < length; index++) if (known[index] !== words[at + index]) return false
  return true
}
