/** asyncio's test_streams, without sockets: a reader that is fed by hand. */
import assert from 'node:assert/strict'
import { IncompleteReadError, LimitOverrunError, ShardloopError } from '../src/index.js'
import { StreamReader } from '../src/protocols/stream-reader.js'
import { plainSuite } from './harness/plain.js'
import { Random } from './harness/random.js'
import { assertCode, assertRejects } from './harness/suite.js'

const ROUNDS = 300

/** A reader, and what it did to where its bytes come from. */
function made(limit?: number): { reader: StreamReader; source: { paused: boolean; calls: string[] } } {
  const reader = new StreamReader(limit)
  const source = {
    paused: false,
    calls: [] as string[],
    pauseReading() {
      source.paused = true
      source.calls.push('pause')
    },
    resumeReading() {
      source.paused = false
      source.calls.push('resume')
    },
  }
  reader.attach(source)
  return { reader, source }
}

function fed(data: string, limit?: number): StreamReader {
  const { reader } = made(limit)
  reader.feedData(Buffer.from(data))
  return reader
}

async function text(read: Promise<Buffer>): Promise<string> {
  return (await read).toString('latin1')
}

/** What a read that rejects does so with. */
async function failure(read: Promise<unknown>): Promise<unknown> {
  return await read.then(
    (value) => assert.fail(`it was fulfilled: ${String(value)}`),
    (error: unknown) => error,
  )
}

/** Every way to read, of a reader that has not enough for any of them. */
const READS: Record<string, (reader: StreamReader, signal?: AbortSignal) => Promise<unknown>> = {
  'read(5)': (reader, signal) => reader.read(5, options(signal)),
  'read()': (reader, signal) => reader.read(-1, options(signal)),
  readExactly: (reader, signal) => reader.readExactly(5, options(signal)),
  readLine: (reader, signal) => reader.readLine(options(signal)),
  readUntil: (reader, signal) => reader.readUntil('\r\n', options(signal)),
}

function options(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal }
}

plainSuite('StreamReader', (test) => {
  // CPython: test_streams.StreamTests.test_read, test_read_empty_buffer, test_read_eof, test_read_until_eof
  test('read gives what is there, at most as much as is asked for, and nothing at the end', async () => {
    const { reader } = made()
    assert.equal(await text(reader.read(0)), '')
    reader.feedData(Buffer.from('ab'))
    reader.feedData(Buffer.from('cdef'))
    assert.equal(await text(reader.read(3)), 'abc')
    assert.equal(await text(reader.read(100)), 'def')
    const waiting = reader.read(2)
    reader.feedData(Buffer.from('ghi'))
    assert.equal(await text(waiting), 'gh')
    const all = reader.read()
    reader.feedData(Buffer.from('j'))
    reader.feedEof()
    assert.equal(await text(all), 'ij')
    assert.equal(await text(reader.read(5)), '')
    assert.equal(await text(reader.read()), '')
  })

  test('one chunk is handed on as it came, without a copy', async () => {
    const { reader } = made()
    const chunk = Buffer.from('as it came')
    reader.feedData(chunk)
    assert.ok((await reader.read(100)) === chunk)
    const waiting = reader.readExactly(10)
    reader.feedData(chunk)
    assert.ok((await waiting) === chunk)
  })

  // CPython: test_at_eof
  test('atEof when the end has come and all was read', async () => {
    const reader = fed('some data\n')
    assert.equal(reader.atEof(), false)
    await reader.readLine()
    assert.equal(reader.atEof(), false)
    reader.feedData(Buffer.from('more'))
    reader.feedEof()
    assert.equal(reader.atEof(), false)
    await reader.read()
    assert.equal(reader.atEof(), true)
  })

  test('to the end it reads up to maxBytes, and what is more stays', async () => {
    const reader = fed('abcdef')
    const error = await failure(reader.read(-1, { maxBytes: 5 }))
    assert.ok(error instanceof LimitOverrunError && error.consumed === 6)
    const waiting = reader.read(-1, { maxBytes: 7 })
    reader.feedData(Buffer.from('gh'))
    assertCode(await failure(waiting), 'ERR_SHARDLOOP_LIMIT_OVERRUN')
    reader.feedEof()
    assert.equal(await text(reader.read(-1, { maxBytes: 8 })), 'abcdefgh')
  })

  // CPython: test_readexactly, test_readexactly_zero_or_less, test_readexactly_eof, test_readexactly_limit
  test('readExactly waits for all of it, which may be more than the limit', async () => {
    const { reader } = made(3)
    assert.equal(await text(reader.readExactly(0)), '')
    const waiting = reader.readExactly(20)
    for (const piece of ['12345', '67890', '1234567890']) reader.feedData(Buffer.from(piece))
    assert.equal(await text(waiting), '12345678901234567890')
    reader.feedData(Buffer.from('half'))
    const incomplete = reader.readExactly(10)
    reader.feedEof()
    const error = await failure(incomplete)
    assert.ok(error instanceof IncompleteReadError && error instanceof ShardloopError)
    assert.deepEqual([error.partial.toString(), error.expected, error.blame], ['half', 10, 'peer'])
    assert.equal(await text(reader.read()), '', 'the partial bytes are read')
  })

  // CPython: test_readuntil_separator, test_readuntil_multi_chunks, test_readuntil_multi_chunks_1, test_readuntil_eof
  test('readUntil reads with the separator, which may come in pieces', async () => {
    const { reader } = made()
    const waiting = reader.readUntil('$$$')
    for (const piece of ['QWERTY', '$', '$x$$', '$rest']) reader.feedData(Buffer.from(piece))
    assert.equal(await text(waiting), 'QWERTY$$x$$$')
    const eof = reader.readUntil(Buffer.from('$$'))
    reader.feedEof()
    const error = await failure(eof)
    assert.ok(error instanceof IncompleteReadError)
    assert.deepEqual([error.partial.toString(), error.expected], ['rest', null])
  })

  // CPython: test_readuntil_multi_separator, test_readuntil_multi_separator_limit
  test('of several separators the one that ends first counts', async () => {
    const reader = fed('some data\r\nmore\nlast; end')
    const separators = ['\r', '\r\n', '\n', '; ']
    const found: string[] = []
    for (let count = 0; count < 4; count++) found.push(await text(reader.readUntil(separators)))
    assert.deepEqual(found, ['some data\r', '\n', 'more\n', 'last; '])
    await assertRejects(() => reader.readUntil([]), 'ERR_SHARDLOOP_ARGUMENT')
    await assertRejects(() => reader.readUntil(''), 'ERR_SHARDLOOP_ARGUMENT')
    assert.equal(await text(reader.read(3)), 'end')
  })

  // CPython: test_readuntil_limit, test_readuntil_limit_found_sep
  test('readUntil: more than the limit without a separator, or before one, rejects and stays to be read', async () => {
    const reader = fed('some dataAA', 3)
    const absent = await failure(reader.readUntil('AAA'))
    assert.ok(absent instanceof LimitOverrunError && absent.consumed === 9, String(absent))
    assert.match(absent.message, /no separator within 9 bytes.* limit is 3/)
    reader.feedData(Buffer.from('A'))
    const beyond = await failure(reader.readUntil('AAA'))
    assert.ok(beyond instanceof LimitOverrunError && beyond.consumed === 9)
    assert.match(beyond.message, /separator is behind 9 bytes/)
    assert.equal(await text(reader.readExactly(beyond.consumed)), 'some data')
    assert.equal(await text(reader.readUntil('AAA')), 'AAA')
    const waiting = reader.readUntil('\r\n')
    reader.feedData(Buffer.from('abc\r'))
    reader.feedData(Buffer.from('\n'))
    assert.equal(await text(waiting), 'abc\r\n', 'as long as the limit')
  })

  // CPython: test_readline_limit, test_readline_limit_with_existing_data
  test('readLine: a line beyond the limit is dropped with its end, or what has come of it', async () => {
    const reader = fed('long line\nok\n', 3)
    assertCode(await failure(reader.readLine()), 'ERR_SHARDLOOP_LIMIT_OVERRUN')
    assert.equal(await text(reader.readLine()), 'ok\n')
    const waiting = reader.readLine()
    reader.feedData(Buffer.from('li'))
    reader.feedData(Buffer.from('ne without'))
    assertCode(await failure(waiting), 'ERR_SHARDLOOP_LIMIT_OVERRUN')
    assert.equal(reader.buffered, 0)
    reader.feedData(Buffer.from('end\n'))
    assert.equal(await text(reader.readLine()), 'end\n')
  })

  // CPython: test_readline, test_readline_eof, test_readline_empty_eof, test_readline_nolimit_nowait
  test('readLine reads lines with their ends, what comes last without one, then nothing', async () => {
    const { reader } = made()
    const waiting = reader.readLine()
    for (const piece of ['li', 'ne1', '\nline2\nrest']) reader.feedData(Buffer.from(piece))
    assert.equal(await text(waiting), 'line1\n')
    assert.equal(await text(reader.readLine()), 'line2\n')
    const last = reader.readLine()
    reader.feedEof()
    assert.equal(await text(last), 'rest')
    assert.equal(await text(reader.readLine()), '')
  })

  test('iteration gives the pieces as they came, up to the end, and may be left and taken up again', async () => {
    const { reader } = made()
    const seen: string[] = []
    const pieces = ['one', 'two', 'three'].map((piece) => Buffer.from(piece))
    for (const piece of pieces) reader.feedData(piece)
    for await (const piece of reader) {
      assert.ok(piece === pieces[0])
      break
    }
    const done = (async () => {
      for await (const piece of reader) seen.push(piece.toString())
    })()
    await Promise.resolve()
    reader.feedEof()
    await done
    assert.deepEqual(seen, ['two', 'three'])
  })

  for (const [name, read] of Object.entries(READS)) {
    test(`${name}: called off it has taken nothing`, async () => {
      const { reader } = made()
      const reason = new Error('changed my mind')
      assert.equal(await failure(read(reader, AbortSignal.abort(reason))), reason)
      for (let round = 0; round < 3; round++) {
        const aborting = new AbortController()
        const waiting = read(reader, aborting.signal)
        if (name !== 'read(5)') reader.feedData(Buffer.from('x'))
        aborting.abort(reason)
        assert.equal(await failure(waiting), reason)
      }
      reader.feedData(Buffer.from('y\r\n'))
      reader.feedEof()
      assert.equal(await text(reader.read()), name === 'read(5)' ? 'y\r\n' : 'xxxy\r\n')
    })

    test(`${name}: another one meanwhile is refused, and the first goes on`, async () => {
      const { reader } = made()
      const waiting = read(reader)
      for (const other of Object.values(READS))
        await assertRejects(() => other(reader) as never, 'ERR_SHARDLOOP_STATE')
      await assertRejects(() => reader[Symbol.asyncIterator]().next(), 'ERR_SHARDLOOP_STATE')
      reader.feedData(Buffer.from('123\r\n'))
      reader.feedEof()
      assert.equal(String(await waiting), '123\r\n')
    })

    // CPython: test_exception, test_exception_waiter, test_read_exception, test_readline_exception, test_readexactly_exception
    test(`${name}: what breaks the connection rejects it, and every read from then on`, async () => {
      const { reader } = made()
      const broken = new Error('broken')
      const waiting = read(reader)
      reader.setException(broken)
      assert.equal(await failure(waiting), broken)
      assert.equal(await failure(read(reader)), broken)
      reader.feedData(Buffer.from('12345\r\n'))
      assert.equal(await failure(read(reader)), broken)
    })

    test(`${name}: the signal means nothing once it is fulfilled`, async () => {
      const { reader } = made()
      const aborting = new AbortController()
      const waiting = read(reader, aborting.signal)
      reader.feedData(Buffer.from('123\r\n'))
      reader.feedEof()
      aborting.abort()
      assert.equal(String(await waiting), '123\r\n')
    })
  }

  test('a search that was called off does not mislead the next', async () => {
    const { reader } = made()
    const aborting = new AbortController()
    const waiting = reader.readUntil('--', { signal: aborting.signal })
    reader.feedData(Buffer.from('a\nb-'))
    aborting.abort()
    await failure(waiting)
    assert.equal(await text(reader.readLine()), 'a\n')
    reader.feedData(Buffer.from('-c'))
    assert.equal(await text(reader.readUntil('--')), 'b--')
  })

  for (const [name, read] of Object.entries(READS)) {
    test(`${name}: with a signal that is none it is refused, and the next read goes on`, async () => {
      const { reader } = made()
      assert.ok((await failure(read(reader, {} as AbortSignal))) instanceof TypeError)
      const next = reader.read(5)
      reader.feedData(Buffer.from('here'))
      assert.equal(await text(next), 'here')
    })
  }

  test('arguments that cannot be are refused by name', async () => {
    const { reader } = made()
    const wrong: (() => Promise<unknown>)[] = [
      () => reader.read(-2),
      () => reader.read(1.5),
      () => reader.read(2 ** 31),
      () => reader.read(-1, { maxBytes: -1 }),
      () => reader.readExactly(-1),
      () => reader.readExactly('5' as unknown as number),
      () => reader.readUntil(7 as unknown as string),
    ]
    for (const call of wrong) await assertRejects(call, 'ERR_SHARDLOOP_ARGUMENT')
  })

  // CPython: StreamReader.feed_data, _maybe_resume_transport
  test('beyond twice the limit it pauses, and at the limit it resumes', async () => {
    const { reader, source } = made(10)
    reader.feedData(Buffer.alloc(20))
    assert.deepEqual(source.calls, [])
    reader.feedData(Buffer.alloc(1))
    assert.deepEqual(source.calls, ['pause'])
    reader.feedData(Buffer.alloc(3)) // of the same batch
    await reader.read(13)
    assert.deepEqual(source.calls, ['pause'])
    await reader.read(1)
    assert.deepEqual(source.calls, ['pause', 'resume'])
  })

  // CPython: _wait_for_data, "waiting for data while paused will make deadlock"
  test('a read that needs more than that resumes, and is paused behind it', async () => {
    const { reader, source } = made(10)
    reader.feedData(Buffer.alloc(25))
    const aborting = new AbortController()
    const calledOff = reader.readExactly(50, { signal: aborting.signal })
    assert.equal(source.paused, false)
    reader.feedData(Buffer.alloc(20))
    assert.equal(source.paused, false)
    aborting.abort()
    await failure(calledOff)
    assert.equal(source.paused, true)
    const waiting = reader.readExactly(50)
    assert.equal(source.paused, false)
    reader.feedData(Buffer.alloc(30))
    assert.equal(source.paused, true)
    assert.equal((await waiting).length, 50)
    await reader.read(16)
    assert.equal(source.paused, false)
  })

  test('errors of another copy of the package are instances, too, and others are not', () => {
    const foreign = Object.assign(Object.create(ShardloopError.prototype), {
      code: 'ERR_SHARDLOOP_INCOMPLETE_READ',
    })
    assert.ok(foreign instanceof IncompleteReadError)
    assert.ok(!(foreign instanceof LimitOverrunError))
    assert.ok(!(new ShardloopError('ERR_SHARDLOOP_STATE', '') instanceof IncompleteReadError))
    class Own extends LimitOverrunError {}
    assert.ok(new Own('', 1) instanceof LimitOverrunError)
    assert.ok(!(new LimitOverrunError('', 1) instanceof Own))
  })

  test('whatever is read, and however it comes, is what a model reads', async () => {
    const seeds = Random.fromEnvironment()
    for (let round = 0; round < ROUNDS; round++) {
      const random = process.env['SHARDLOOP_TEST_SEED'] === undefined ? new Random(seeds.u32()) : seeds
      try {
        await compareWithModel(random)
      } catch (error) {
        if (error instanceof Error) error.message += `\n    (${random.advice})`
        throw error
      }
    }
  })
})

/** Feeds pieces while somebody reads at random, and compares each read with what asyncio's definition makes of the text. */
async function compareWithModel(random: Random): Promise<void> {
  const limit = random.between(1, 64)
  const { reader, source } = made(limit)
  const all = Array.from({ length: random.below(2_000) }, () => random.pick([...'abcdefgh\n;'])).join('')
  const pieces = random.pieces(Buffer.from(all), 1, random.between(1, 100))
  let isOver = false
  const feed = async (): Promise<void> => {
    for (const piece of pieces) {
      while (source.paused) await new Promise(setImmediate)
      reader.feedData(piece)
      assert.ok(reader.buffered <= 2 * limit + 100 || !source.paused, `${reader.buffered} with ${limit}`)
      if (random.below(3) === 0) await new Promise(setImmediate)
    }
    isOver = true
    reader.feedEof()
  }
  const fed = feed()
  for (let read = 0; ; ) {
    const rest = all.slice(read)
    const wait: { signal?: AbortSignal } = {}
    if (random.below(4) === 0) {
      const aborting = new AbortController()
      wait.signal = aborting.signal
      setImmediate(() => aborting.abort(CALLED_OFF))
    }
    const [got, expected] = await readOnce(random, reader, rest, limit, wait)
    if (got === CALLED_OFF) continue
    if (expected === ANY) {
      assert.ok(rest.startsWith(got as string) && ((got as string).length > 0 || rest === ''))
      if (got === '') break
      read += (got as string).length
    } else {
      assert.equal(got, expected.text)
      read += expected.taken
    }
    if (read === all.length && isOver && random.below(4) === 0) break
  }
  await fed
}

const CALLED_OFF = new Error('called off')
/** The next bytes, as many as there may be. */
const ANY = Symbol('any')

type Expected = typeof ANY | { readonly text: unknown; readonly taken: number }

async function readOnce(
  random: Random,
  reader: StreamReader,
  rest: string,
  limit: number,
  wait: { signal?: AbortSignal },
): Promise<[got: unknown, expected: Expected]> {
  switch (random.below(4)) {
    case 0:
      return [await outcome(reader.read(random.between(1, 100), wait)), ANY]
    case 1: {
      const count = random.between(1, 300)
      const got = await outcome(reader.readExactly(count, wait))
      const isWhole = rest.length >= count
      return [
        got,
        { text: isWhole ? rest.slice(0, count) : `incomplete ${rest}`, taken: Math.min(count, rest.length) },
      ]
    }
    case 2: {
      const chunk = await reader[Symbol.asyncIterator]().next()
      return [chunk.done === true ? '' : chunk.value.toString(), ANY]
    }
    default: {
      const separators = random.pick([['\n'], [';'], ['\n', ';'], ['a;', 'b\n'], ['abc', 'bcd', 'c']])
      const got = await outcome(reader.readUntil(separators, wait))
      const ends = separators
        .map((each) => rest.indexOf(each) + each.length)
        .filter((end, at) => end >= (separators[at] as string).length)
      const end = ends.length === 0 ? -1 : Math.min(...ends)
      if (typeof got === 'string' && got.startsWith('overrun')) {
        // How much has come by then is chance; it is right when there is no separator within the limit.
        const shortest = Math.min(...separators.map(({ length }) => length))
        assert.ok(end < 0 ? rest.length > limit : end - shortest > limit, `${got}: ${JSON.stringify(rest)}`)
        return [got, { text: got, taken: 0 }]
      }
      if (end < 0) return [got, { text: `incomplete ${rest}`, taken: rest.length }]
      return [got, { text: rest.slice(0, end), taken: end }]
    }
  }
}

async function outcome(read: Promise<Buffer>): Promise<unknown> {
  try {
    return (await read).toString()
  } catch (error) {
    if (error instanceof IncompleteReadError) return `incomplete ${error.partial.toString()}`
    if (error instanceof LimitOverrunError) return `overrun ${error.consumed}`
    if (error === CALLED_OFF) return CALLED_OFF
    throw error
  }
}
