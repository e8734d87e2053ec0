/** Framers are pure: whatever way their bytes are cut, the frames are the same. */
import assert from 'node:assert/strict'
import {
  DelimiterFramer,
  type Framer,
  LengthPrefixedFramer,
  type LengthPrefixedOptions,
  LimitOverrunError,
  LineFramer,
} from '../src/index.js'
import { ByteQueue } from '../src/protocols/byte-queue.js'
import { SeparatorSearch } from '../src/protocols/separator-search.js'
import { MiB } from './harness/memory.js'
import { plainSuite } from './harness/plain.js'
import { Random } from './harness/random.js'
import { assertCode, assertThrows } from './harness/suite.js'

/** Rounds of each property; each draws its own data and its own cuts. */
const ROUNDS = 200
/** Of input that comes byte by byte. Quadratic, it would take minutes. */
const MANY_BYTES = 2 * MiB

const LENGTHS: readonly LengthPrefixedOptions[] = ([1, 2, 4] as const).flatMap((lengthBytes) =>
  [false, true].flatMap((littleEndian) =>
    [false, true].map((includesHeader) => ({ lengthBytes, littleEndian, includesHeader })),
  ),
)

plainSuite('framing', (test) => {
  for (const [name, make, makeFrame] of [
    ['lines', () => new LineFramer(), (random: Random) => textOf(random, 'ab\r ').replace(/\r+$/, '')],
    [
      'lines with \\r\\n',
      () => new LineFramer({ lineEnd: '\r\n' }),
      (random: Random) => textOf(random, 'ab '),
    ],
    ['a byte', () => new DelimiterFramer({ delimiter: '\0' }), (random: Random) => textOf(random, 'ab\n')],
    [
      'a delimiter that begins like itself',
      () => new DelimiterFramer({ delimiter: 'aabaac' }),
      (random: Random) => textOf(random, 'ab').replaceAll('aabaac', ''),
    ],
    ...LENGTHS.map(
      (options) =>
        [
          `lengths ${JSON.stringify(options)}`,
          () => new LengthPrefixedFramer(options),
          (random: Random) => textOf(random, 'ab\0\u00ff'),
        ] as const,
    ),
  ] as const) {
    test(`${name}: what is encoded comes out the same, however it is cut`, () => {
      everyRound((random) => {
        const [framer, frames] = [make(), Array.from({ length: random.below(20) }, () => makeFrame(random))]
        const bytes = Buffer.concat(frames.map((frame) => framer.encode(frame)))
        const received: string[] = []
        for (const piece of random.pieces(bytes, 1, random.size(1, bytes.length + 1)))
          for (const frame of framer.push(piece)) received.push(frame.toString())
        assert.deepEqual(received, frames)
        assert.equal(framer.end().length, 0)
      })
    })
  }

  test('a frame within one chunk is a view of it, one that spans chunks is not', () => {
    const chunk = Buffer.concat([Buffer.alloc(8192), Buffer.from('\none\ntwo\nthr')]) // with memory of its own
    const framer = new LineFramer()
    const [zeros, one, two] = [...framer.push(chunk)] as [Buffer, Buffer, Buffer]
    assert.deepEqual([zeros.length, String(one), String(two)], [8192, 'one', 'two'])
    assert.ok(zeros.buffer === chunk.buffer && one.buffer === chunk.buffer && two.buffer === chunk.buffer)
    const [three] = [...framer.push(Buffer.from('ee\n'))] as [Buffer]
    assert.equal(three.toString(), 'three')
    assert.ok(three.buffer !== chunk.buffer)
    const whole = Buffer.from('all of it')
    const prefixed = new LengthPrefixedFramer({ lengthBytes: 1 })
    assert.deepEqual([...prefixed.push(Buffer.from([whole.length]))], [])
    assert.ok([...prefixed.push(whole)][0] === whole)
  })

  test('a loop may be left, and the rest comes with the next', () => {
    const framer = new LineFramer()
    for (const line of framer.push(Buffer.from('one\ntwo\nthree\n'))) {
      assert.equal(line.toString(), 'one')
      break
    }
    assert.equal(framer.buffered, 10)
    assert.deepEqual([...framer].map(String), ['two', 'three'])
    assert.deepEqual([...framer.push(new Uint8Array(Buffer.from('four\n')))].map(String), ['four'])
  })

  test('end gives what is left, and the framer begins anew', () => {
    for (const framer of [new LineFramer(), new DelimiterFramer({ delimiter: '\n' })]) {
      assert.deepEqual([...framer.push(Buffer.from('one\ntw'))].map(String), ['one'])
      assert.equal(framer.end().toString(), 'tw')
      assert.deepEqual([...framer.push(Buffer.from('new\n'))].map(String), ['new'])
    }
    const framer = new LengthPrefixedFramer({ lengthBytes: 1 })
    assert.deepEqual([...framer.push(Buffer.from('\x05he'))], [])
    assert.equal(framer.end().toString(), 'he')
    assert.deepEqual([...framer.push(Buffer.from('\x02hi'))].map(String), ['hi'])
  })

  test('ends are kept if asked for', () => {
    const lines = new LineFramer({ keepEnd: true })
    assert.deepEqual([...lines.push(Buffer.from('one\r\ntwo\n\n'))].map(String), ['one\r\n', 'two\n', '\n'])
    const parts = new DelimiterFramer({ delimiter: '--', keepDelimiter: true })
    assert.deepEqual([...parts.push(Buffer.from('one----two--'))].map(String), ['one--', '--', 'two--'])
  })

  test('a frame of the greatest length passes, a longer one throws by name from then on, whole or in part', () => {
    const most = { maxFrameBytes: 8 }
    const framers: [make: () => Framer, frame: (text: string) => string, part: (text: string) => string][] = [
      [() => new LineFramer(most), (text) => `${text}\n`, (text) => text],
      [() => new LineFramer(most), (text) => `${text}\r\n`, (text) => text],
      [
        () => new DelimiterFramer({ delimiter: '\r\n', ...most }),
        (text) => `${text}\r\n`,
        (text) => `${text}?`,
      ],
      [
        () => new LengthPrefixedFramer({ lengthBytes: 1, ...most }),
        (text) => String.fromCharCode(text.length) + text,
        (text) => String.fromCharCode(text.length),
      ],
    ]
    for (const [make, frame, part] of framers) {
      for (const tail of [frame('123456789'), part('123456789')]) {
        const framer = make()
        const seen: string[] = []
        const take = (): void => {
          for (const taken of framer) seen.push(taken.toString())
        }
        framer.push(Buffer.from(frame('12345678') + tail))
        for (let tries = 0; tries < 2; tries++) {
          assert.throws(take, (error) => {
            assertCode(error, 'ERR_SHARDLOOP_LIMIT_OVERRUN')
            assert.ok(error instanceof LimitOverrunError && error.consumed === 9, String(error))
            assert.match(error.message, /more than 8 bytes \(maxFrameBytes\)/)
            return true
          })
        }
        assert.deepEqual(seen, ['12345678'], 'what came before it was taken')
      }
    }
  })

  test('a carriage return at the greatest length may be the beginning of an end', () => {
    const framer = new LineFramer({ maxFrameBytes: 3 })
    assert.deepEqual([...framer.push(Buffer.from('one\r'))], [])
    assert.deepEqual([...framer.push(Buffer.from('\n'))].map(String), ['one'])
    framer.push(Buffer.from('two\r!'))
    assertThrows(() => [...framer], 'ERR_SHARDLOOP_LIMIT_OVERRUN')
  })

  test('a length that does not count itself is no frame', () => {
    const framer = new LengthPrefixedFramer({ lengthBytes: 2, includesHeader: true })
    framer.push(Buffer.from([0, 1]))
    for (let tries = 0; tries < 2; tries++) assertThrows(() => framer.next(), 'ERR_SHARDLOOP_FRAME')
  })

  test('what could not be received is not encoded', () => {
    const wrong: (() => unknown)[] = [
      () => new LineFramer().encode('two\nlines'),
      () => new LineFramer().encode('return\r'),
      () => new LineFramer({ maxFrameBytes: 3 }).encode('long'),
      () => new DelimiterFramer({ delimiter: '--' }).encode('a--b'),
      () => new DelimiterFramer({ delimiter: '--' }).encode('a-'),
      () => new LengthPrefixedFramer({ lengthBytes: 1 }).encode('x'.repeat(256)),
      () => new LengthPrefixedFramer({ lengthBytes: 1, includesHeader: true }).header(255),
      () => new LengthPrefixedFramer().header(-1),
      () => new LineFramer().encode(7 as unknown as string),
      () => new LineFramer().push('text' as unknown as Buffer),
      () => new DelimiterFramer({ delimiter: '' }),
      () => new DelimiterFramer({ delimiter: 7 as unknown as string }),
    ]
    for (const call of wrong) assertThrows(call, 'ERR_SHARDLOOP_ARGUMENT')
  })

  test('options that cannot be are refused by name', () => {
    const wrong: (() => unknown)[] = [
      () => new LineFramer({ maxFrameBytes: 0 }),
      () => new LineFramer({ maxFrameBytes: 2 ** 31 }),
      () => new LineFramer({ lineEnd: '\r' as '\n' }),
      () => new LineFramer({ keepEnd: 1 as unknown as boolean }),
      () => new DelimiterFramer({ delimiter: 'x', keepDelimiter: 'no' as unknown as boolean }),
      () => new LengthPrefixedFramer({ lengthBytes: 3 as 4 }),
      () => new LengthPrefixedFramer({ bytes: 4 } as LengthPrefixedOptions),
    ]
    for (const call of wrong) assertThrows(call, 'ERR_SHARDLOOP_OPTION')
  })

  test('separators: the one that ends first is found, as a naive search has it, however the bytes are cut', () => {
    everyRound((random) => {
      const separators = Array.from({ length: random.between(1, 4) }, () => textOf(random, 'ab', 1, 5))
      const bytes = Buffer.from(textOf(random, 'abc', 0, 200))
      const search = new SeparatorSearch(separators)
      const queue = new ByteQueue()
      const found: string[] = []
      for (const piece of random.pieces(bytes, 1, random.between(1, 40))) {
        queue.push(piece)
        for (let end = queue.find(search); end > 0; end = queue.find(search))
          found.push(`${queue.take(end)}|${search.found}`)
      }
      assert.deepEqual(found, naively(bytes.toString(), separators), JSON.stringify(separators))
    })
  })

  test('bytes that come one by one are searched once, and take no object each', () => {
    const framers: [Framer, byte: number][] = [
      [new LineFramer({ maxFrameBytes: MANY_BYTES }), 97],
      // Each byte may be the beginning.
      [new DelimiterFramer({ delimiter: 'aaaaaaab', maxFrameBytes: MANY_BYTES }), 97],
      [new LengthPrefixedFramer({ maxFrameBytes: MANY_BYTES }), 0x1f],
    ]
    for (const [framer, byte] of framers) {
      const drop = Buffer.from([byte])
      if (framer instanceof LengthPrefixedFramer) framer.push(framer.header(MANY_BYTES))
      for (let sent = 0; sent < MANY_BYTES - 1; sent++) {
        assert.ok(framer.push(drop).next().done)
      }
      assert.ok(chunksOf(framer) < 64 + 2 + MANY_BYTES / 4096, `${chunksOf(framer)} chunks`)
      assert.equal(framer.end().length, MANY_BYTES - 1)
    }
  })
})

/** How many pieces a framer keeps. */
function chunksOf(framer: Framer): number {
  const { queue } = framer as unknown as { queue: { others: Buffer[] | null } }
  return 1 + (queue.others?.length ?? 0)
}

function everyRound(property: (random: Random) => void): void {
  const seeds = Random.fromEnvironment()
  for (let round = 0; round < ROUNDS; round++) {
    const random = process.env['SHARDLOOP_TEST_SEED'] === undefined ? new Random(seeds.u32()) : seeds
    try {
      property(random)
    } catch (error) {
      if (error instanceof Error) error.message += `\n    (${random.advice})`
      throw error
    }
  }
}

function textOf(random: Random, letters: string, least = 0, most = 60): string {
  return Array.from({ length: random.between(least, most) }, () => random.pick([...letters])).join('')
}

/** What is before and with each separator, and the separator's length, by looking at every place. */
function naively(text: string, separators: readonly string[]): string[] {
  const shortestFirst = [...separators].sort((one, other) => one.length - other.length)
  const found: string[] = []
  let from = 0
  for (let end = 1; end <= text.length; end++) {
    const separator = shortestFirst.find((each) => text.slice(from, end).endsWith(each))
    if (separator === undefined) continue
    found.push(`${text.slice(from, end)}|${separator.length}`)
    from = end
  }
  return found
}
