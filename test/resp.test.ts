import assert from 'node:assert/strict'
import { Keyspace } from '../examples/lib/resp/keyspace.js'
import {
  ENTRY_BYTES,
  REPLIES_WAITING_MAX,
  SWEEP_MAX_KEYS,
  TURN_REPLY_BYTES,
} from '../examples/lib/resp/limits.js'
import { answerBatch, Router } from '../examples/lib/resp/router.js'
import { type Peer, Session } from '../examples/lib/resp/session.js'
import { Deferred } from './harness/deferred.js'
import { plainSuite } from './harness/plain.js'

/** What a connection was told to do. */
class FakePeer implements Peer {
  text = ''
  writes = 0
  isClosed = false
  isPaused = false
  write(bytes: Buffer): void {
    assert.ok(!this.isClosed, 'nothing is written behind the end')
    this.text += bytes.toString('latin1')
    this.writes += 1
  }
  close(): void {
    this.isClosed = true
  }
  pauseReading(): void {
    this.isPaused = true
  }
  resumeReading(): void {
    this.isPaused = false
  }
  take(): string {
    const { text } = this
    this.text = ''
    return text
  }
}

class Fixture {
  now = 1_000_000
  readonly keyspace: Keyspace
  readonly peer = new FakePeer()
  readonly session: Session

  constructor(maxBytes?: number, router: (keyspace: Keyspace) => Router | null = () => null) {
    this.keyspace = new Keyspace(() => this.now, maxBytes)
    this.session = new Session(this.peer, this.keyspace, router(this.keyspace))
  }

  send(text: string): void {
    const bytes = Buffer.from(text, 'latin1')
    this.session.received(bytes, 0, bytes.length)
  }

  /** The reply to a line. */
  ask(line: string): string {
    this.send(`${line}\n`)
    return this.peer.take()
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

plainSuite('resp commands', (test) => {
  /** Lines and replies, without the last CRLF. */
  const check = (fixture: Fixture, expected: readonly (readonly [string, string])[]): void => {
    for (const [line, reply] of expected) assert.equal(fixture.ask(line), `${reply}\r\n`, line)
  }

  test('values are stored, read, counted and deleted', () => {
    check(new Fixture(), [
      ['ping', '+PONG'],
      ['PiNG hello', '$5\r\nhello'],
      ['echo "a b"', '$3\r\na b'],
      ['get a', '$-1'],
      ['set a 1', '+OK'],
      ['GET a', '$1\r\n1'],
      ['mset b 2 c "\\xff\\x00"', '+OK'],
      ['mget a b c d', '*4\r\n$1\r\n1\r\n$1\r\n2\r\n$2\r\n\xff\0\r\n$-1'],
      ['exists a a d', ':2'],
      ['dbsize', ':3'],
      ['del a a b d', ':2'],
      ['dbsize', ':1'],
      ['flushall', '+OK'],
      ['dbsize', ':0'],
      [`set long ${'x'.repeat(5_000)}`, '+OK'],
      ['get long', `$5000\r\n${'x'.repeat(5_000)}`],
    ])
  })

  test('an MGET of more than fits into a reply is an error, and what is around it is answered', () => {
    const fixture = new Fixture()
    fixture.ask('set a b')
    const value = 'x'.repeat(1024 * 1024)
    fixture.send(`*3\r\n$3\r\nset\r\n$3\r\nbig\r\n$${value.length}\r\n${value}\r\n`)
    assert.equal(fixture.peer.take(), '+OK\r\n')
    fixture.send(`get a\nmget ${'big '.repeat(10_000)}\nget a\n`)
    const answer = '$1\r\nb\r\n'
    assert.equal(
      fixture.peer.take(),
      `${answer}-ERR too long replies in one pipeline: ask for less at once\r\n${answer}`,
    )
  })

  test('INCR counts with 64 bits, and refuses what is no such number', () => {
    const wrong = '-ERR value is not an integer or out of range'
    check(new Fixture(), [
      ['incr n', ':1'],
      ['incr n', ':2'],
      ['set n -1', '+OK'],
      ['incr n', ':0'],
      ['set n 9007199254740991', '+OK'],
      ['incr n', ':9007199254740992'],
      ['incr n', ':9007199254740993'],
      ['get n', '$16\r\n9007199254740993'],
      ['set n 9223372036854775806', '+OK'],
      ['incr n', ':9223372036854775807'],
      ['incr n', '-ERR increment or decrement would overflow'],
      ...['01', '+1', '1.0', '" 1"', '9223372036854775808', '""', 'x'.repeat(300)].flatMap(
        (value): [string, string][] => [
          [`set n ${value}`, '+OK'],
          ['incr n', wrong],
        ],
      ),
    ])
  })

  test('SET takes its options, and refuses those that contradict each other', () => {
    const fixture = new Fixture()
    check(fixture, [
      ['set a 1 xx', '$-1'],
      ['set a 1 nx', '+OK'],
      ['set a 2 nx', '$-1'],
      ['set a 2 xx get', '$1\r\n1'],
      ['set b 1 get', '$-1'],
      ['set a 3 EX 10', '+OK'],
      ['ttl a', ':10'],
      ['set a 4 KEEPTTL', '+OK'],
      ['pttl a', ':10000'],
      ['set a 5', '+OK'],
      ['ttl a', ':-1'],
      ['set a 6 px 1500', '+OK'],
      ['ttl a', ':2'],
      [`set a 7 pxat ${fixture.now + 5}`, '+OK'],
      ['pttl a', ':5'],
      ['set a 8 exat 1', '+OK'],
      ['get a', '$-1'],
    ])
    for (const options of ['nx xx', 'ex', 'ex 1 px 1', 'keepttl ex 1', 'ex 1 keepttl', 'and'])
      assert.equal(fixture.ask(`set a 1 ${options}`), '-ERR syntax error\r\n', options)
    for (const options of ['ex 0', 'px -1', 'ex 9007199254740991'])
      assert.equal(
        fixture.ask(`set a 1 ${options}`),
        "-ERR invalid expire time in 'set' command\r\n",
        options,
      )
    assert.equal(fixture.ask('set a 1 ex 1.5'), '-ERR value is not an integer or out of range\r\n')
  })

  test('keys expire, INCR keeps the time, EXPIRE changes it', () => {
    const fixture = new Fixture()
    check(fixture, [
      ['ttl a', ':-2'],
      ['expire a 10', ':0'],
      ['set a 1 ex 10', '+OK'],
      ['incr a', ':2'],
      ['ttl a', ':10'],
    ])
    fixture.now += 9_999
    check(fixture, [
      ['pttl a', ':1'],
      ['get a', '$1\r\n2'],
    ])
    fixture.now += 1
    check(fixture, [
      ['get a', '$-1'],
      ['incr a', ':1'],
      ['ttl a', ':-1'],
      ['pexpire a 100', ':1'],
      ['expire a -1', ':1'],
      ['exists a', ':0'],
      ['expire a x', '-ERR value is not an integer or out of range'],
      ['expire a 9007199254740991', "-ERR invalid expire time in 'expire' command"],
      ['expire a 1 nx', '-ERR Unsupported option nx'],
    ])
  })

  test('what clients send by themselves is answered', () => {
    check(new Fixture(), [
      ['command', '*0'],
      ['COMMAND DOCS', '*0'],
      ['config get save', '*2\r\n$4\r\nsave\r\n$0\r\n'],
      ['config get appendonly', '*2\r\n$10\r\nappendonly\r\n$2\r\nno'],
      ['config get maxmemory', '*0'],
      ['hello 3', '-NOPROTO unsupported protocol version'],
      ['hello x', '-ERR Protocol version is not an integer or out of range'],
      ['client setname me', '+OK'],
      ['client kill', "-ERR unknown subcommand 'kill'. Try CLIENT HELP."],
      ['select 0', '+OK'],
      ['select 1', '-ERR DB index is out of range'],
    ])
    const fixture = new Fixture()
    assert.match(fixture.ask('hello 2'), /^\*10\r\n\$6\r\nserver\r\n\$5\r\nredis\r\n/)
    assert.match(fixture.ask('info'), /redis_version:7/)
  })

  test("wrong commands and arguments are told in Redis' words", () => {
    const wrong = (name: string): string => `-ERR wrong number of arguments for '${name}' command`
    check(new Fixture(), [
      ['get', wrong('get')],
      ['GET a b', wrong('get')],
      ['set a', wrong('set')],
      ['mset a', wrong('mset')],
      ['mset a 1 b', wrong('mset')],
      ['ping a b', wrong('ping')],
      ['foo', "-ERR unknown command 'foo', with args beginning with: "],
      ['foo bar "b\\r\\nz"', "-ERR unknown command 'foo', with args beginning with: 'bar' 'b  z' "],
      ['"ge\\x54\\x00"', "-ERR unknown command 'geT\0', with args beginning with: "],
    ])
  })

  test('a keyspace holds no more than it may', () => {
    const fixture = new Fixture(3 * (ENTRY_BYTES + 2))
    const full = "-OOM command not allowed when used memory > 'maxmemory'."
    check(fixture, [
      ['mset a 1 b 2 c 3', '+OK'],
      ['set d 4', full],
      ['set a 11', full],
      ['set a 2', '+OK'],
      ['del a', ':1'],
      ['incr d', ':1'],
      ['mset e 1', full],
      ['incr e', full],
    ])
    fixture.ask('del b c d')
    assert.equal(fixture.keyspace.bytes, 0)
  })

  test('expired keys that nobody asks for are found, some at a time', () => {
    const fixture = new Fixture()
    for (let key = 0; key < SWEEP_MAX_KEYS + 10; key++) fixture.keyspace.set(`k${key}`, 'v', fixture.now + 5)
    fixture.keyspace.set('later', 'v', fixture.now + 50)
    fixture.keyspace.set('always', 'v')
    fixture.now += 5
    fixture.keyspace.sweep()
    assert.equal(fixture.keyspace.size, 12)
    fixture.keyspace.sweep()
    assert.equal(fixture.keyspace.size, 2)
    fixture.now += 50
    fixture.keyspace.sweep()
    assert.equal(fixture.ask('dbsize'), ':1\r\n')
  })
})

plainSuite('resp session', (test) => {
  test('a pipeline is answered by one write', () => {
    const { session, peer } = new Fixture()
    const bytes = Buffer.from('set a 1\nget a\nincr a\nfoo\n')
    session.received(bytes, 0, bytes.length)
    assert.match(peer.text, /^\+OK\r\n\$1\r\n1\r\n:2\r\n-ERR unknown/)
    assert.equal(peer.writes, 1)
  })

  test('a protocol error, or QUIT, is the last thing that is answered', () => {
    for (const [text, reply] of [
      ['ping\n*x\r\nping\n', '+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n'],
      ['quit\nping\n', '+OK\r\n'],
    ] as const) {
      const fixture = new Fixture()
      fixture.send(text)
      fixture.send('ping\n')
      assert.deepEqual([fixture.peer.text, fixture.peer.isClosed], [reply, true])
    }
  })

  test('a turn of the loop makes so many bytes at most, and the rest comes in the next ones', async () => {
    const fixture = new Fixture()
    fixture.ask(`set a ${'x'.repeat(60_000)}`)
    const reply = `$60000\r\n${'x'.repeat(60_000)}\r\n`
    fixture.send(`${'get a\n'.repeat(40)}ec`)
    assert.ok(fixture.peer.text.length < TURN_REPLY_BYTES + reply.length, 'not all at once')
    assert.ok(fixture.peer.isPaused)
    // What comes meanwhile, though reading is paused, waits behind it.
    fixture.send('ho end\n')
    while (fixture.peer.isPaused) await turn()
    assert.equal(fixture.peer.take(), `${reply.repeat(40)}$3\r\nend\r\n`)
  })

  test('who does not read is not asked for more until it does; a drain waits for that', async () => {
    const fixture = new Fixture()
    fixture.session.pause()
    assert.ok(fixture.peer.isPaused)
    fixture.send('ping\n')
    await turn()
    assert.equal(fixture.peer.text, '')
    fixture.session.resume()
    assert.deepEqual([fixture.peer.take(), fixture.peer.isPaused], ['+PONG\r\n', false])
    fixture.session.finish()
    assert.ok(fixture.peer.isClosed)
  })
})

/** A session on shard 0 of three, whose calls of the others are answered when the test says so. */
class Shards {
  readonly keyspaces = [0, 1, 2].map(() => new Keyspace())
  readonly calls: { readonly shard: number; readonly requests: Buffer; readonly answer: Deferred<Buffer> }[] =
    []
  readonly fixture: Fixture

  constructor() {
    this.fixture = new Fixture(undefined, (keyspace) => {
      this.keyspaces[0] = keyspace
      const call = (shard: number, requests: Buffer): Promise<Buffer> => {
        const answer = new Deferred<Buffer>()
        this.calls.push({ shard, requests: Buffer.from(requests), answer })
        return answer.promise
      }
      return new Router({ own: 0, count: 3, call }, keyspace)
    })
  }

  /** Answers the calls that wait, the last one first if `backwards`. */
  async answer(backwards = false): Promise<void> {
    const calls = this.calls.splice(0)
    for (const { shard, requests, answer } of backwards ? calls.reverse() : calls)
      answer.resolve(Buffer.from(answerBatch(requests, this.keyspaces[shard] as Keyspace)))
    await turn()
  }

  /** Until nothing is asked any more. */
  async answerAll(backwards = false): Promise<void> {
    const { peer } = this.fixture
    while (this.calls.length > 0 || (peer.isPaused && !peer.isClosed)) await this.answer(backwards)
  }
}

plainSuite('resp shards', (test) => {
  const keys = Array.from({ length: 30 }, (_, index) => `key:${index}`)

  test('replies keep the order of the requests, in whatever order shards answer', async () => {
    const shards = new Shards()
    const { fixture } = shards
    fixture.send(keys.map((key, index) => `set ${key} ${index}\n`).join(''))
    assert.ok(shards.calls.length <= 2, 'a pipeline is one message for each shard')
    await shards.answerAll(true)
    assert.equal(fixture.peer.take(), '+OK\r\n'.repeat(keys.length))
    const sizes = shards.keyspaces.map(({ size }) => size)
    assert.ok(Math.min(...sizes) > 3, `keys are spread: ${sizes}`)
    fixture.send(keys.map((key) => `get ${key}\nping\n`).join(''))
    await shards.answerAll(true)
    const replies = keys.map((_, index) => `$${String(index).length}\r\n${index}\r\n+PONG\r\n`)
    assert.equal(fixture.peer.take(), replies.join(''))
  })

  test('what concerns several shards is answered as one', async () => {
    const shards = new Shards()
    const { fixture } = shards
    const ask = async (line: string): Promise<string> => {
      fixture.send(`${line}\n`)
      await shards.answerAll()
      return fixture.peer.take()
    }
    assert.equal(await ask(`mset ${keys.map((key, index) => `${key} ${index}`).join(' ')}`), '+OK\r\n')
    assert.equal(await ask('dbsize'), ':30\r\n')
    const values = keys.map((_, index) => `$${String(index).length}\r\n${index}\r\n`)
    assert.equal(await ask(`mget ${keys.join(' ')} none`), `*31\r\n${values.join('')}$-1\r\n`)
    assert.equal(await ask(`exists ${keys.join(' ')} none`), ':30\r\n')
    assert.equal(await ask(`del ${keys.slice(0, 10).join(' ')} none`), ':10\r\n')
    assert.equal(await ask('dbsize'), ':20\r\n')
    assert.equal(await ask('flushall'), '+OK\r\n')
    assert.equal(await ask('dbsize'), ':0\r\n')
  })

  test('a key is read as it was left by the request before, when some shards have not answered that', async () => {
    const shards = new Shards()
    const { fixture } = shards
    const lines = keys.map((key) => `mset ${keys.join(' 1 ')} 1\nincr ${key}\nmget ${keys.join(' ')}\n`)
    fixture.send(lines.join(''))
    await shards.answerAll(true)
    const replies = keys.map((_, nth) => {
      const values = keys.map((_unused, index) => `$1\r\n${index === nth ? 2 : 1}\r\n`)
      return `+OK\r\n:2\r\n*30\r\n${values.join('')}`
    })
    assert.equal(fixture.peer.take(), replies.join(''))
  })

  test('a shard that is gone is told where its replies would be', async () => {
    const shards = new Shards()
    const { fixture } = shards
    fixture.send(`mget ${keys.join(' ')}\n${keys.map((key) => `incr ${key}\n`).join('')}`)
    const gone = Object.assign(new Error('it ended'), { code: 'ERR_SHARDLOOP_GONE' })
    const lost = shards.calls.splice(0).filter((call) => call.shard === 2 || !shards.calls.push(call))
    for (const { answer } of lost) answer.reject(gone)
    await shards.answer()
    // What was left for later is asked of it again, and it is there again.
    await shards.answerAll()
    const isThere = (key: string): boolean => shards.keyspaces.some((keyspace) => keyspace.has(key))
    const replies = keys.map((key) => (isThere(key) ? ':1\r\n' : '-ERR shard 2 is gone\r\n'))
    assert.equal(new Set(replies).size, 2)
    assert.equal(fixture.peer.take(), `-ERR shard 2 is gone\r\n${replies.join('')}`)
    assert.ok(!fixture.peer.isClosed)
  })

  test('no more than so many replies are waited for', async () => {
    const shards = new Shards()
    const { fixture } = shards
    const pings = REPLIES_WAITING_MAX * 3
    fixture.send(
      keys
        .map((key) => `get ${key}\nping\n`)
        .join('')
        .repeat(Math.ceil(pings / keys.length)),
    )
    assert.ok(fixture.peer.isPaused, 'nothing more is read')
    const asked = (): number => shards.calls.reduce((sum, { requests }) => sum + requests.length, 0)
    assert.ok(asked() < REPLIES_WAITING_MAX * 30, `${asked()} bytes were asked for`)
    await shards.answerAll()
    assert.ok(!fixture.peer.isPaused)
    const replies = '$-1\r\n+PONG\r\n'.repeat(keys.length * Math.ceil(pings / keys.length))
    assert.equal(fixture.peer.take(), replies)
  })

  test('long replies are asked for a few at a time', async () => {
    const shards = new Shards()
    const { fixture } = shards
    const value = 'v'.repeat(1 << 20)
    for (const keyspace of shards.keyspaces) for (const key of keys) keyspace.set(key, Buffer.from(value))
    fixture.send(keys.map((key) => `get ${key}\n`.repeat(4)).join(''))
    const asked: number[] = []
    while (shards.calls.length > 0 || fixture.peer.isPaused) {
      asked.push(
        shards.calls.reduce((sum, { requests }) => sum + requests.toString().split('get').length - 1, 0),
      )
      await shards.answer()
    }
    assert.ok(asked[0] !== undefined && asked[0] <= 16 && Math.max(...asked.slice(1)) <= 2, asked.join())
    const reply = `$${value.length}\r\n${value}\r\n`
    assert.ok(fixture.peer.take() === reply.repeat(keys.length * 4), 'all have come')
  })

  test('a connection that finishes closes behind its last reply, and one that is lost is not written to', async () => {
    for (const isLost of [false, true]) {
      const shards = new Shards()
      const { fixture } = shards
      fixture.send(keys.map((key) => `get ${key}\n`).join(''))
      if (isLost) fixture.session.lost()
      else fixture.session.finish()
      assert.ok(!fixture.peer.isClosed)
      const before = fixture.peer.take()
      await (isLost ? shards.answer() : shards.answerAll())
      const all = before + fixture.peer.take()
      assert.equal(all === '$-1\r\n'.repeat(keys.length), !isLost)
      assert.equal(fixture.peer.isClosed, !isLost)
    }
  })
})
