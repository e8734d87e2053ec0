import assert from 'node:assert/strict'
import { ValueDecoder } from '../src/messages/value-decoder.js'
import { ValueEncoder } from '../src/messages/value-encoder.js'
import {
  HEADER_WORDS,
  PAYLOAD_SHAPES_MAX,
  RECEIVED_SHAPES_MAX,
  SENT_NAMES_MAX,
  SHAPE_NAMES,
  VALUES_MAX_BYTES,
} from '../src/messages/value-format.js'
import { collectGarbage } from './harness/memory.js'
import { plainSuite } from './harness/plain.js'
import { Random } from './harness/random.js'
import { RandomValues } from './harness/random-values.js'

const MiB = 1024 * 1024
const VALUES = 10_000

/** A payload as it travels, in memory that was full of something else; null for one that is V8's affair. */
function encode(encoder: ValueEncoder, value: object, filler = -1): Buffer | null {
  if (!encoder.encode(value)) return null
  const words = new Int32Array(encoder.length).fill(filler)
  encoder.write(words, 0)
  encoder.release()
  return Buffer.from(words.buffer)
}

function decode(decoder: ValueDecoder, bytes: Buffer): unknown {
  return decoder.decode(bytes, new Int32Array(bytes.buffer, 0, bytes.length >> 2), 0, bytes.length)
}

function assertOurs(value: object, encoder = new ValueEncoder(), decoder = new ValueDecoder()): void {
  const bytes = encode(encoder, value)
  assert.ok(bytes !== null)
  assertClone(value, decode(decoder, bytes))
}

/** That it is what structured clone makes of a value; with the order of properties and the identity of objects. */
function assertClone(value: object, made: unknown, advice = ''): void {
  const clone = structuredClone(value)
  assert.deepStrictEqual(made, clone, advice)
  assert.deepEqual(outline(made), outline(clone), advice)
}

/** Of each object that is found its number, and when it was not found before the names of its properties. */
function outline(value: unknown, found: Map<unknown, number> = new Map(), list: unknown[] = []): unknown[] {
  if (typeof value !== 'object' || value === null) return list
  const before = found.get(value)
  list.push(before ?? found.size)
  if (before !== undefined) return list
  found.set(value, found.size)
  if (ArrayBuffer.isView(value)) return list
  const held = value instanceof Map || value instanceof Set ? [...value.entries()].flat() : []
  list.push(Object.keys(value))
  for (const part of [...held, ...Object.values(value)]) outline(part, found, list)
  return list
}

/** Random values that have our form. */
function* ourValues(random: Random, encoder: ValueEncoder): Generator<[object, Buffer]> {
  const values = new RandomValues(random)
  for (let index = 0; index < VALUES; index++) {
    const value = values.next()
    const bytes = typeof value === 'object' && value !== null ? encode(encoder, value, random.u32()) : null
    if (bytes !== null) yield [value as object, bytes]
  }
}

plainSuite('values in our form', (test) => {
  test('are as structured clone makes them', () => {
    const random = Random.fromEnvironment()
    const decoder = new ValueDecoder()
    let count = 0
    for (const [value, bytes] of ourValues(random, new ValueEncoder())) {
      count += 1
      assertClone(value, decode(decoder, bytes), random.advice)
    }
    assert.ok(count > VALUES / 10, `${count} of ${VALUES}`)
  })

  test('hold nothing of what was sent before, nor of where they lie', () => {
    const random = Random.fromEnvironment()
    const values = new RandomValues(random)
    const encoder = new ValueEncoder()
    // It has seen the same names, which may change the form, but its memory holds something else.
    const other = new ValueEncoder()
    let count = 0
    for (let index = 0; index < VALUES; index++) {
      const value = values.next()
      if (typeof value !== 'object' || value === null) continue
      const noise = random.pick(['\0', '\xff', '\u{10ffff}']).repeat(12)
      assert.ok(encode(other, new Array(100).fill(noise)) !== null)
      const bytes = encode(encoder, value, random.u32())
      assert.deepEqual(encode(other, value, 0), bytes, random.advice)
      if (bytes !== null) count += 1
    }
    assert.ok(count > VALUES / 10, `${count} of ${VALUES}`)
  })

  test('that are damaged are an error or another value, and soon', () => {
    const random = Random.fromEnvironment()
    const encoder = new ValueEncoder()
    const decoder = new ValueDecoder()
    let errors = 0
    for (const [, bytes] of ourValues(random, encoder)) {
      const cut = Buffer.alloc(4 * random.below(bytes.length >> 2))
      bytes.copy(cut)
      assert.throws(() => decode(decoder, cut), { message: 'a payload is damaged' }, random.advice)
      const changed = new Int32Array(bytes.buffer)
      for (let count = random.between(1, 3); count > 0; count--)
        changed[random.below(changed.length)] = random.below(2) === 0 ? random.u32() : random.below(64)
      try {
        decode(decoder, bytes)
      } catch (error) {
        assert.ok(error instanceof Error, random.advice)
        errors += 1
      }
    }
    assert.ok(errors > 0)
    assertOurs({ a: [{ b: 1 }] }, encoder, decoder)
  })

  test('have names of all kinds', () => {
    assertOurs({ a: 1, '': 2, b: 3 })
    assertOurs({ '': 1 })
    assertOurs({})
    assertOurs({ 10: 'ten', 9: 'nine', a: 1, '01': 2, '-1': 3, '1.5': 4, 4294967294: 5, 4294967295: 6 })
    assertOurs({ a: { constructor: 1, toString: 2, b: { hasOwnProperty: 3 } } })
    assertOurs(JSON.parse('{"a":1,"__proto__":{"__proto__":2},"b":3}'))
    assertOurs({ 'a\0b': 1, é: 2, 日本: 3, '\ud800': 4, ['x'.repeat(2000)]: 5 })
    assertOurs(Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`name ${index}`, index])))
    assertOurs(Object.assign(Object.create(null), { a: 1 }))
    assertOurs({ a: 1, [Symbol('ignored')]: 2 })
    const decoder = new ValueDecoder()
    const encoder = new ValueEncoder()
    // What is read behind this knows the names from here.
    for (let round = 0; round < 2; round++)
      assertOurs({ polluted: 1, nested: { polluted: 2 } }, encoder, decoder)
    const bytes = encode(encoder, { polluted: 1, nested: { polluted: 2 } }) as Buffer
    for (const polluted of [
      { get: () => 1, set: () => assert.fail('called'), configurable: true },
      { value: 1, writable: false, configurable: true },
    ]) {
      Object.defineProperty(Object.prototype, 'polluted', polluted)
      try {
        for (const reader of [decoder, new ValueDecoder()]) {
          const made = decode(reader, bytes) as { nested: object }
          assert.deepEqual(Object.entries(made), [
            ['polluted', 1],
            ['nested', made.nested],
          ])
          assert.deepEqual(Object.entries(made.nested), [['polluted', 2]])
        }
        assert.deepEqual(Object.keys(decode(decoder, encode(encoder, { own: 1 }) as Buffer) as object), [
          'own',
        ])
      } finally {
        Reflect.deleteProperty(Object.prototype, 'polluted')
      }
      assert.deepEqual(decode(decoder, bytes), { polluted: 1, nested: { polluted: 2 } })
    }
  })

  test('have numbers, strings and bytes around every bound', () => {
    const powers = Array.from({ length: 54 }, (_, index) => 2 ** index)
    assertOurs(powers.map((power) => [power - 1, power, -power, -power - 1, power + 0.5]))
    assertOurs([-0, Number.NaN, Number.MIN_VALUE, -Infinity, [0n, -1n, 2n ** 64n, -(2n ** 200n)]])
    const sizes = [0, 1, 2, 3, 4, 5, 11, 12, 13, 23, 24, 25, 26, 27, 28, 100, 20_000]
    assertOurs(sizes.map((size) => ['a', 'é', '日', '\udfff'].map((text) => [text.repeat(size), size])))
    assertOurs(sizes.map((size) => [new Uint8Array(size).fill(7), size]))
    // More short strings than there is room for at first.
    assertOurs(
      Array.from({ length: 100 }, (_, row) =>
        Array.from({ length: 100 }, (_, index) => [`short ${row} ${index}`, `日本 ${row} ${index}`, index]),
      ),
    )
  })

  test('have objects that occur again, and themselves', () => {
    const shared = { a: 1 }
    const date = new Date(5)
    const bytes = new Uint8Array(3)
    const cycle: unknown[] = [
      shared,
      date,
      bytes,
      new Map<unknown, unknown>([[shared, date]]),
      new Set([bytes]),
    ]
    cycle.push(cycle, { cycle }, [shared, date, bytes])
    assertOurs(cycle)
    const many: object[] = Array.from({ length: 100 }, (_, index) => ({ index }))
    assertOurs([...many, ...many])
  })

  test('are written however many shapes there were', () => {
    const encoder = new ValueEncoder()
    const decoder = new ValueDecoder()
    for (let index = 0; index < SENT_NAMES_MAX + RECEIVED_SHAPES_MAX; index++)
      assertOurs(
        { id: index, [`of ${index}`]: { [`in ${index}`]: 1 }, behind: [{ id: 2 }] },
        encoder,
        decoder,
      )
  })

  test('that hold very many names leave nothing behind', async () => {
    const encoder = new ValueEncoder()
    const decoder = new ValueDecoder()
    // Each name twice, as those that recur; in rows that are no long array.
    const kinds = (count: number, round: number): object[] =>
      Array.from({ length: count }, (_, index) => [1, 2].map((id) => ({ [`name ${index} of ${round}`]: id })))
    const rows = (round: number): object[] =>
      Array.from({ length: 100 }, (_, row) => kinds(1000, round * 100 + row))
    await collectGarbage()
    const before = process.memoryUsage().heapUsed
    for (let round = 0; round < 3; round++) {
      const bytes = encode(encoder, rows(round))
      if (bytes !== null) decode(decoder, bytes)
      assert.equal(bytes, null)
    }
    for (let round = 300; round < 320; round++)
      assertOurs(kinds(PAYLOAD_SHAPES_MAX - 10, round), encoder, decoder)
    assert.equal(encode(encoder, kinds(PAYLOAD_SHAPES_MAX + 20, 320)), null)
    await collectGarbage()
    const grown = process.memoryUsage().heapUsed - before
    assert.ok(grown < 3 * MiB, `${grown} bytes`)
  })

  // They had pushed out those that recur, and it took longer to make them known than to write them.
  test('have shapes of names that recur, not of the keys of dictionaries', () => {
    const random = Random.fromEnvironment()
    const encoder = new ValueEncoder()
    const decoder = new ValueDecoder()
    const namesInShape = (value: object): number => {
      const bytes = encode(encoder, value) as Buffer
      assertClone(value, decode(decoder, bytes), random.advice)
      return bytes.readInt32LE(4 * (HEADER_WORDS + SHAPE_NAMES))
    }
    const key = (): string => `k${random.bytes(6).toString('hex')}`
    const dictionary = (): object => Object.fromEntries(Array.from({ length: 20 }, () => [key(), 1]))
    const early = { id: 1, name: 'early' }
    assert.equal(namesInShape(early), 2)
    let names = 0
    for (let count = 0; count < 1000; count++) names += namesInShape(dictionary())
    assert.ok(names < SENT_NAMES_MAX / 4, `${names} names, ${random.advice}`)
    assert.equal(namesInShape(early), 2, random.advice)
    const late = { kind: 'late', of: 1 }
    for (const expected of [0, 2, 2]) assert.equal(namesInShape(late), expected, random.advice)
  })

  // Only the words were counted, up to 64 MiB; then V8 began with it.
  test('are not larger than a bound, behind which not much more is read', () => {
    const encoder = new ValueEncoder()
    for (const [text, bytes] of [
      ['a'.repeat(24), 24],
      ['日'.repeat(24), 48],
      ['a'.repeat(1000), 1000],
      ['日'.repeat(1000), 2000],
    ] as const) {
      let asked = 0
      const asking = (): object => ({
        get text(): string {
          asked += 1
          return text
        },
      })
      const rows = (count: number): object =>
        Array.from({ length: count / 100 }, () => Array.from({ length: 100 }, asking))
      const fitting = (VALUES_MAX_BYTES * 0.95) / (bytes + 8)
      assert.ok(encode(encoder, rows(fitting)) !== null)
      asked = 0
      assert.equal(encode(encoder, rows(4 * fitting)), null)
      assert.ok(asked < 2 * fitting, `${asked} of ${bytes} bytes`)
    }
    const bytes = new Uint8Array(VALUES_MAX_BYTES / 4)
    assertOurs([bytes.slice(), bytes.slice(), bytes.slice()], encoder)
    assert.equal(encode(encoder, [bytes, bytes.slice(), bytes.slice(), bytes.slice()]), null)
    // The words of its bytes are no int32.
    assert.equal(encode(encoder, [new Uint8Array(4 * 1024 * MiB)]), null)
    assertOurs([bytes], encoder)
  })

  test('are not those of other classes, with holes, too deep, or long arrays', () => {
    const nest = (depth: number): object => (depth === 1 ? [] : [nest(depth - 1)])
    const encoder = new ValueEncoder()
    const disguised = [
      new Map([[1, 2]]),
      new Set([1]),
      new Date(5),
      new Uint8Array(2),
      new ArrayBuffer(3),
      /a/,
      Object(1),
      Object(1n),
      Object(Symbol('a symbol')),
    ]
    for (const value of disguised) Object.setPrototypeOf(value, Object.prototype)
    const others: object[] = [
      ...disguised,
      new (class extends Map {})(),
      new (class Point {})(),
      Object.create(Date.prototype),
      Object.create(Array.prototype),
      new Array(3),
      Object.assign(new Array(2), { 0: undefined, a: 1 }),
      Object.assign(new Array(3), { a: 1, b: 2, c: 3 }),
      Object.assign([1], { a: 1 }),
      new Error('an error'),
      { symbol: Symbol('a symbol') },
      new Proxy({}, {}),
      nest(100),
      Array.from({ length: 1000 }, (_, index) => index),
    ]
    for (const value of others) assert.equal(encode(encoder, value), null)
    assertOurs(nest(50), encoder)
    // The longest that is ours, by what it begins with.
    for (const [longest, make] of [
      [128, () => 1],
      [512, () => null],
      [512, String],
      [8192, () => ({})],
    ] as const) {
      assertOurs(
        Array.from({ length: longest }, (_, index) => make(index)),
        encoder,
      )
      assert.equal(
        encode(
          encoder,
          Array.from({ length: longest + 1 }, (_, index) => make(index)),
        ),
        null,
      )
    }
  })

  test('are not spoilt by what getters send, or throw', () => {
    const encoder = new ValueEncoder()
    const value = {
      a: 'before',
      get b(): string {
        assert.equal(encoder.encode({ c: 'inside' }), false)
        encoder.release()
        return 'b'
      },
    }
    const bytes = encode(encoder, value) as Buffer
    assert.deepEqual(decode(new ValueDecoder(), bytes), { a: 'before', b: 'b' })
    const bad = {
      get a(): never {
        throw new RangeError('of the getter')
      },
    }
    assert.throws(() => encoder.encode([[], bad]), { message: 'of the getter' })
    assertOurs([[], 'behind'], encoder)
  })

  test('whose strings are kept are not kept whole', async () => {
    const encoder = new ValueEncoder()
    const decoder = new ValueDecoder()
    const filler = Array.from({ length: 10 }, () =>
      Array.from({ length: 100 }, (_, index) => `filler ${index} up to 24`),
    )
    const kept: string[] = []
    await collectGarbage()
    const before = process.memoryUsage().heapUsed
    for (let index = 0; index < 1000; index++) {
      const bytes = encode(encoder, [...filler, `a short string ${index}`]) as Buffer
      kept.push((decode(decoder, bytes) as unknown[]).at(-1) as string)
    }
    await collectGarbage()
    const grown = process.memoryUsage().heapUsed - before
    assert.equal(kept.length, 1000)
    assert.ok(grown < MiB, `${grown} bytes for 1,000 strings`)
  })
})
