import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { wordsOf } from '../examples/lib/resp/inline.js'
import { ARGUMENTS_MAX, BULK_MAX_BYTES, INLINE_MAX_BYTES } from '../examples/lib/resp/limits.js'
import { BROKEN, RequestParser, WHOLE } from '../examples/lib/resp/parser.js'
import { Random } from './harness/random.js'

const test = suite('resp parser')

/** Requests as arrays of arguments, each byte as a character, and the error that ended them. */
interface Parsed {
  readonly requests: string[][]
  readonly raw: string[]
  readonly error: string
}

/** Feeds chunks as a shard does: from memory that is overwritten once they were read. */
function parse(chunks: readonly Buffer[]): Parsed {
  const parser = new RequestParser()
  const requests: string[][] = []
  const raw: string[] = []
  const slab = Buffer.alloc(Math.max(...chunks.map(({ length }) => length)) + 10)
  for (const [index, chunk] of chunks.entries()) {
    slab.fill(0xee)
    const start = index % 7
    chunk.copy(slab, start)
    parser.feed(slab, start, start + chunk.length)
    let found = parser.next()
    for (; found === WHOLE; found = parser.next()) {
      const { request } = parser
      requests.push(
        Array.from({ length: request.count }, (_, at) => String(request.value(at).toString('latin1'))),
      )
      for (let at = 0; at < request.count; at++) assert.equal(request.text(at), requests.at(-1)?.[at])
      raw.push(request.memory.toString('latin1', request.start, request.end))
    }
    if (found === BROKEN) return { requests, raw, error: parser.error }
    parser.keep()
  }
  return { requests, raw, error: '' }
}

function encode(request: readonly string[]): string {
  return `*${request.length}\r\n${request.map((one) => `$${one.length}\r\n${one}\r\n`).join('')}`
}

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')

const SOME: readonly string[][] = [
  ['SET', 'key', 'value'],
  ['GET', ''],
  ['ECHO', '\r\n*1\r\n$4\r\nPING\r\n\0\xff'],
  ['MSET', 'a', 'x'.repeat(300), 'b', '1'],
]

test('requests come out whole wherever they are split in two', () => {
  const all = `${SOME.map(encode).join('')}ping\r\n\r\n*0\r\n*-1\r\necho "a b"\n${encode(['GET', 'k'])}`
  const expected = [...SOME, ['ping'], ['echo', 'a b'], ['GET', 'k']]
  for (let at = 0; at <= all.length; at++) {
    const { requests, raw, error } = parse([bytes(all.slice(0, at)), bytes(all.slice(at))])
    assert.deepEqual(requests, expected, `split at ${at}`)
    assert.deepEqual(raw, expected.map(encode), `split at ${at}`)
    assert.equal(error, '')
  }
  assert.deepEqual(parse([...all].map(bytes)).requests, expected, 'byte by byte')
})

test('random requests come out of chunks of random sizes', () => {
  const random = Random.fromEnvironment()
  for (let round = 0; round < 200; round++) {
    const expected = Array.from({ length: random.between(1, 30) }, () =>
      Array.from({ length: random.between(1, 5) }, () =>
        random
          .bytes(random.size(1, round % 10 === 0 ? 20_000 : 100))
          .toString('latin1')
          .slice(random.below(2)),
      ),
    )
    const all = bytes(expected.map(encode).join(''))
    const chunks: Buffer[] = []
    for (let at = 0; at < all.length; ) {
      const size = random.size(1, 4_000)
      chunks.push(all.subarray(at, at + size))
      at += size
    }
    const { requests, raw, error } = parse(chunks)
    assert.equal(error, '', random.advice)
    assert.deepEqual(requests, expected, random.advice)
    assert.deepEqual(raw, expected.map(encode), random.advice)
  }
})

const BAD: readonly (readonly [string, string])[] = [
  ['*x\r\n', 'invalid multibulk length'],
  ['*\r\n', 'invalid multibulk length'],
  ['*01\r\n', 'invalid multibulk length'],
  ['*+1\r\n', 'invalid multibulk length'],
  ['* 1\r\n', 'invalid multibulk length'],
  ['*-0\r\n', 'invalid multibulk length'],
  ['*1\n$4\r\nPING\r\n and more', 'invalid multibulk length'],
  [`*${ARGUMENTS_MAX + 1}\r\n`, 'invalid multibulk length'],
  ['*99999999999999999999999999', 'invalid multibulk length'],
  ['*1\r\n:1\r\n', "expected '$', got ':'"],
  ['*2\r\n$3\r\nGET\r\nkey\r\n', "expected '$', got 'k'"],
  ['*1\r\n$-1\r\n', 'invalid bulk length'],
  ['*1\r\n$x\r\n', 'invalid bulk length'],
  [`*1\r\n$${BULK_MAX_BYTES + 1}\r\n`, 'invalid bulk length'],
  ['echo "a\r\n', 'unbalanced quotes in request'],
  ['echo "a"b\r\n', 'unbalanced quotes in request'],
  ['x'.repeat(INLINE_MAX_BYTES + 1), 'too big inline request'],
  [`${'x'.repeat(INLINE_MAX_BYTES + 1)}\n`, 'too big inline request'],
]

test("what is no request is told in Redis' words, behind the requests before it", () => {
  for (const [text, error] of BAD) {
    const { requests, error: found } = parse([bytes(encode(['PING']) + text)])
    assert.deepEqual([requests, found], [[['PING']], `Protocol error: ${error}`], text.slice(0, 40))
    // One byte by one, but for the long ones.
    if (text.length < 100) assert.equal(parse([...text].map(bytes)).error, `Protocol error: ${error}`, text)
  }
})

test('random bytes break nothing but their connection', () => {
  const random = Random.fromEnvironment()
  const pieces = ['*', '$', '\r\n', '\n', '1', '2', '-', '"', "'", 'a', ' ', '\\', '\xff']
  for (let round = 0; round < 2_000; round++) {
    const text = Array.from({ length: random.between(1, 60) }, () => random.pick(pieces)).join('')
    const whole = parse([bytes(text)])
    const split = parse([...text].map(bytes))
    assert.deepEqual(split, whole, `${JSON.stringify(text)} ${random.advice}`)
  }
})

test('the longest line and the longest argument pass', () => {
  const line = 'x'.repeat(INLINE_MAX_BYTES)
  assert.deepEqual(parse([bytes(`${line}\n`)]).requests, [[line]])
  const parser = new RequestParser()
  parser.feed(bytes(`*2\r\n$4\r\nECHO\r\n$${BULK_MAX_BYTES}\r\n`), 0, 14 + 3 + String(BULK_MAX_BYTES).length)
  assert.notEqual(parser.next(), BROKEN)
})

test('a long argument in many pieces is not copied for each of them', () => {
  const { copy } = Buffer.prototype
  let copied = 0
  Buffer.prototype.copy = function (...args: Parameters<typeof copy>): number {
    const bytesCopied = copy.apply(this, args)
    copied += bytesCopied
    return bytesCopied
  }
  try {
    const value = 'v'.repeat(1 << 20)
    const all = bytes(encode(['SET', 'k', value]))
    const parser = new RequestParser()
    for (let at = 0; at < all.length; at += 64) {
      parser.feed(all, at, Math.min(all.length, at + 64))
      if (parser.next() === WHOLE) assert.equal(parser.request.value(2).length, value.length)
      parser.keep()
    }
    assert.ok(copied >= all.length && copied < all.length * 6, `${copied} bytes copied of ${all.length}`)
  } finally {
    Buffer.prototype.copy = copy
  }
})

test('a line is taken apart into words, quotes and escapes', () => {
  const lines: [string, string[] | null][] = [
    ['', []],
    [' \t ', []],
    ['set  a\tb ', ['set', 'a', 'b']],
    ['set "a b" \'c d\'', ['set', 'a b', 'c d']],
    ['"\\x41\\n\\"\\q" \'\\\'\\n\'', ['A\n"q', "'\\n"]],
    ['a"b c"', ['ab c']],
    ['"" \'\'', ['', '']],
    ['a\xa0b', ['a\xa0b']],
    ['"a', null],
    ["'a", null],
    ["'a\\'", null],
    ['"a"b', null],
    ["'a'b", null],
    ['"a\\"', null],
  ]
  for (const [line, words] of lines) assert.deepEqual(wordsOf(line), words, line)
})

test.run()
