import type { Random } from './random.js'

const DEPTH_MAX = 4
const CHARACTERS = [
  'a',
  'Z',
  '0',
  ' ',
  '"',
  '\\',
  '\n',
  '\0',
  'é',
  'ÿ',
  '日',
  '\u2028',
  '😀',
  '\ud800',
  '\udfff',
]
const KEYS = ['a', 'b', 'length', '0', '17', 'toJSON', '__proto__', 'constructor', 'é', '日本', '']
const NUMBERS = [
  0,
  -0,
  1,
  -1,
  0.1,
  2 ** 31,
  -(2 ** 31),
  2 ** 53,
  1e300,
  5e-324,
  Number.NaN,
  Number.POSITIVE_INFINITY,
]
const VIEWS = [Uint8Array, Int16Array, Uint32Array, Float64Array, BigInt64Array]

/** Values of all kinds that structured clone takes, some of which occur in others more than once. */
export class RandomValues {
  readonly #random: Random
  /** Objects of the value that is being made. */
  #objects: object[] = []

  constructor(random: Random) {
    this.#random = random
  }

  /** Another one. */
  next(): unknown {
    this.#objects = []
    return this.#value(0)
  }

  #value(depth: number): unknown {
    const random = this.#random
    // Most are plain data, which has a way of its own.
    const kind = random.below(depth < DEPTH_MAX ? 42 : 14)
    if (kind < 4) return this.#text()
    if (kind < 7) return random.pick(NUMBERS)
    if (kind < 9) return random.u32() - 2 ** 31
    if (kind < 11) return random.below(2) === 0
    if (kind < 13) return null
    if (kind === 13) return random.pick([undefined, 2n ** 80n, -1n])
    if (kind < 22) return this.#plain(depth)
    if (kind < 28) return this.#list(depth)
    if (kind < 30 && this.#objects.length > 0) return random.pick(this.#objects)
    if (kind < 32) return this.#kept(new Date(random.u32()))
    if (kind < 33) return this.#kept(new RegExp('a+(b)', random.pick(['', 'g', 'iu', 'msy'])))
    if (kind < 34) return this.#kept(new (random.pick([Error, TypeError, RangeError]))(this.#text()))
    if (kind < 35) return this.#kept(this.#view())
    if (kind < 36) return this.#kept(Object(random.pick<unknown>(['boxed', 5, true, 5n])))
    if (kind < 38) return this.#map(depth)
    if (kind < 40) return this.#set(depth)
    return this.#rows(depth)
  }

  #kept<Made extends object>(made: Made): Made {
    this.#objects.push(made)
    return made
  }

  #plain(depth: number): object {
    const made = this.#kept(this.#random.below(20) === 0 ? Object.create(null) : {})
    for (let count = this.#random.below(6); count > 0; count--) {
      const value = this.#value(depth + 1)
      Object.defineProperty(made, this.#key(), {
        value,
        enumerable: true,
        configurable: true,
        writable: true,
      })
    }
    if (this.#random.below(20) === 0) Object.defineProperty(made, 'hidden', { value: 1, enumerable: false })
    return made
  }

  #key(): string {
    return this.#random.below(2) === 0 ? this.#random.pick(KEYS) : this.#text()
  }

  #list(depth: number): unknown[] {
    const made: unknown[] = this.#kept([])
    for (let count = this.#random.below(6); count > 0; count--) made.push(this.#value(depth + 1))
    if (this.#random.below(10) === 0) made.length += 2 // holes
    if (this.#random.below(10) === 0) Object.assign(made, { [`${this.#key()}.`]: this.#value(depth + 1) })
    return made
  }

  /** Objects with the same properties. */
  #rows(depth: number): unknown[] {
    const names = Array.from({ length: this.#random.below(5) }, () => this.#key())
    const made: unknown[] = this.#kept([])
    for (let count = this.#random.below(depth === 0 ? 40 : 4); count > 0; count--)
      made.push(this.#kept(Object.fromEntries(names.map((name) => [name, this.#value(DEPTH_MAX - 1)]))))
    return made
  }

  #map(depth: number): Map<unknown, unknown> {
    const made = this.#kept(new Map())
    for (let count = this.#random.below(4); count > 0; count--)
      made.set(this.#value(depth + 1), this.#value(depth + 1))
    return made
  }

  #set(depth: number): Set<unknown> {
    const made = this.#kept(new Set())
    for (let count = this.#random.below(4); count > 0; count--) made.add(this.#value(depth + 1))
    return made
  }

  /** A typed array with all of its memory: of part of it, structured clone brings along the rest. */
  #view(): object {
    const memory = new Uint8Array(this.#random.bytes(8 * this.#random.below(20))).buffer
    return this.#random.below(4) === 0 ? memory : new (this.#random.pick(VIEWS))(memory)
  }

  #text(): string {
    const length = this.#random.below(4) === 0 ? this.#random.size(1, 300) : this.#random.below(8)
    return Array.from({ length }, () => this.#random.pick(CHARACTERS)).join('')
  }
}
