import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { endsBySigterm } from './harness/answers.js'
import { type Child, startFixture } from './harness/child.js'
import type { Client } from './harness/client.js'
import { MiB } from './harness/memory.js'
import { forEachEngine, type SuiteTests, type TestContext } from './harness/suite.js'

const EXAMPLE = fileURLToPath(new URL('../examples/resp.js', import.meta.url))
const SHARDS = [1, 2] as const

async function start(t: TestContext, shards: number): Promise<{ child: Child; port: number }> {
  const child = t.spawn([EXAMPLE, '--port', '0', '--engine', t.engine, '--shards', String(shards)])
  const [, port, engine] = await child.line(/127\.0\.0\.1:(\d+) \(shards \d, engine (\w+)\)$/)
  assert.equal(engine, t.engine)
  return { child, port: Number(port) }
}

/** Sends a line, and reads a reply of one line, or that and a bulk's. */
async function ask(client: Client, line: string): Promise<string> {
  await client.write(`${line}\r\n`)
  return await readReply(client)
}

async function readReply(client: Client): Promise<string> {
  const line = (await client.readLine()).trimEnd()
  if (!line.startsWith('$') || line === '$-1') return line
  const bulk = await client.readExactly(Number(line.slice(1)) + 2)
  return bulk.toString('latin1', 0, bulk.length - 2)
}

/** Clients leave, and the server ends. (One that has not acknowledged its last reply would be waited for.) */
async function end(child: Child, ...clients: readonly Client[]): Promise<void> {
  for (const client of clients) await client.destroy()
  await endsBySigterm(child)
}

const keys: readonly string[] = Array.from({ length: 50 }, (_, index) => `key:${index}`)

forEachEngine('resp', (test) => {
  for (const shards of SHARDS) {
    const on = `on ${shards} shard${shards === 1 ? '' : 's'}`

    test(`${on}: a pipeline is answered in its order, in whatever pieces it comes`, async (t) => {
      const { child, port } = await start(t, shards)
      const client = await t.connect(port)
      const rounds = 20
      const requests = keys.map((key, index) => `set ${key} ${index}\r\nget ${key}\r\nping ${index}\r\n`)
      const replies = keys.map((_, index) => {
        const bulk = `$${String(index).length}\r\n${index}\r\n`
        return `+OK\r\n${bulk}${bulk}`
      })
      const all = Buffer.from(requests.join('').repeat(rounds))
      for (let at = 0; at < all.length; ) {
        const size = t.random.size(1, 4_000)
        await client.write(all.subarray(at, at + size))
        at += size
      }
      const expected = replies.join('').repeat(rounds)
      assert.equal((await client.readExactly(expected.length)).toString(), expected)
      await end(child, client)
    })

    test(`${on}: INCR from many connections adds up`, async (t) => {
      const { child, port } = await start(t, shards)
      const clients = await Promise.all(Array.from({ length: 20 }, () => t.connect(port)))
      const counters = keys.slice(0, 5)
      const each = 50
      await Promise.all(
        clients.map(async (client) => {
          await client.write(
            counters
              .map((key) => `incr ${key}\r\n`)
              .join('')
              .repeat(each),
          )
          for (let reply = 0; reply < each * counters.length; reply++)
            assert.match(await client.readLine(), /^:\d+\r$/)
        }),
      )
      const [client] = clients as [Client, ...Client[]]
      for (const key of counters) assert.equal(await ask(client, `get ${key}`), String(each * clients.length))
      await end(child, ...clients)
    })

    test(`${on}: MSET, MGET, DEL and DBSIZE concern all keys`, async (t) => {
      const { child, port } = await start(t, shards)
      const [one, other] = [await t.connect(port), await t.connect(port)]
      assert.equal(await ask(one, `mset ${keys.join(' v ')} v`), '+OK')
      assert.equal(await ask(other, 'dbsize'), ':50')
      await other.write(`mget ${keys.join(' ')} none\r\n`)
      const expected = `*51\r\n${'$1\r\nv\r\n'.repeat(50)}$-1\r\n`
      assert.equal((await other.readExactly(expected.length)).toString(), expected)
      assert.equal(await ask(other, `del ${keys.slice(10).join(' ')}`), ':40')
      assert.equal(await ask(one, 'dbsize'), ':10')
      assert.equal(await ask(one, 'flushall'), '+OK')
      assert.equal(await ask(other, 'dbsize'), ':0')
      await end(child, one, other)
    })

    test(`${on}: keys expire`, async (t) => {
      const { child, port } = await start(t, shards)
      const client = await t.connect(port)
      for (const key of keys) assert.equal(await ask(client, `set ${key} v px 50`), '+OK')
      // Also those that nobody asks for.
      while ((await ask(client, 'dbsize')) !== ':0') {}
      for (const key of keys) assert.equal(await ask(client, `get ${key}`), '$-1')
      await end(child, client)
    })

    test(`${on}: who does not read waits, with all its replies; others do not`, async (t) => {
      const { child, port } = await start(t, shards)
      const [slow, other] = [await t.connect(port), await t.connect(port)]
      const value = t.random.bytes(MiB)
      const big = keys.slice(0, 2)
      for (const key of big) {
        await slow.write(`*3\r\n$3\r\nSET\r\n$${key.length}\r\n${key}\r\n$${MiB}\r\n`)
        await slow.write(value)
        assert.equal(await ask(slow, ''), '+OK')
      }
      slow.pause()
      // More than may wait for a connection (64 MiB) before it is aborted.
      const times = 40
      await slow.write(
        big
          .map((key) => `get ${key}\r\n`)
          .join('')
          .repeat(times),
      )
      for (const key of keys) assert.equal(await ask(other, `incr other:${key}`), ':1')
      slow.resume()
      for (let reply = 0; reply < times * big.length; reply++) {
        assert.equal(await slow.readLine(), `$${MiB}\r`)
        assert.ok((await slow.readExactly(MiB + 2)).subarray(0, MiB).equals(value))
      }
      await end(child, slow, other)
    })

    test(`${on}: a client that breaks the protocol is told and disconnected, the others stay`, async (t) => {
      const { child, port } = await start(t, shards)
      const [bad, good] = [await t.connect(port), await t.connect(port)]
      await bad.write(`${keys.map((key) => `incr ${key}\r\n`).join('')}*1\r\nx\r\nping\r\n`)
      const expected = `${':1\r\n'.repeat(keys.length)}-ERR Protocol error: expected '$', got 'x'\r\n`
      assert.equal((await bad.readToEnd()).toString(), expected)
      bad.end()
      assert.equal(await ask(good, 'incr key:0'), ':2')
      await end(child, good)
    })

    test(`${on}: who has said all gets all replies, and so does a server that drains give them`, async (t) => {
      const { child, port } = await start(t, shards)
      const client = await t.connect(port)
      client.end(keys.map((key) => `incr ${key}\r\n`).join(''))
      assert.equal((await client.readToEnd()).toString(), ':1\r\n'.repeat(keys.length))
      const idle = await t.connect(port)
      assert.equal(await ask(idle, 'ping'), '+PONG')
      child.kill('SIGTERM')
      assert.equal((await idle.readToEnd()).length, 0)
      idle.end()
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    })

    withRedisTools(test, `${on}: redis-cli and redis-benchmark are served`, async (t) => {
      const { child, port } = await start(t, shards)
      const cli = async (...args: string[]): Promise<string> => {
        const program = t.spawn(['-p', String(port), ...args], { command: 'redis-cli' })
        program.process.stdin.end()
        assert.deepEqual(await program.untilExit(), { code: 0, signal: null }, program.describe())
        return program.stdout
      }
      assert.equal(await cli('set', 'greeting', 'hello there', 'ex', '100'), 'OK\n')
      assert.equal(await cli('get', 'greeting'), 'hello there\n')
      assert.equal(await cli('--json', 'mget', 'greeting', 'none'), '["hello there",null]\n')
      // What it cannot have it does without.
      assert.equal(await cli('-3', 'get', 'greeting'), 'hello there\n')
      assert.match(await cli('info'), /redis_version:/)
      assert.match(
        await cli('nonsense', 'a'),
        /^ERR unknown command 'nonsense', with args beginning with: 'a' /,
      )
      for (const pipeline of ['1', '16']) {
        const tests = ['-t', 'ping,set,get,incr,mset', '-n', '2000', '-c', '20', '-r', '100', '-P', pipeline]
        const benchmark = t.spawn(['-p', String(port), '--csv', ...tests], { command: 'redis-benchmark' })
        assert.deepEqual(await benchmark.untilExit(), { code: 0, signal: null }, benchmark.describe())
        const names = benchmark.lines.slice(1).map((line) => line.split(',')[0])
        assert.deepEqual(names, [
          '"PING_INLINE"',
          '"PING_MBULK"',
          '"SET"',
          '"GET"',
          '"INCR"',
          '"MSET (10 keys)"',
        ])
        assert.equal(benchmark.stderr, '')
      }
      await endsBySigterm(child)
    })
  }

  test('a shard that dies takes its keys along; those who ask for them are told so, and stay connected', async (t) => {
    const child = startFixture('resp-deaths', [t.engine])
    t.defer(() => child.kill('SIGKILL'))
    const port = Number((await child.line(/^listening on (\d+)$/))[1])
    const [client, victim] = [await clientOf(t, port, 0), await clientOf(t, port, 1)]
    for (const key of keys) assert.equal(await ask(client, `set ${key} v`), '+OK')
    assert.equal(await ask(victim, 'die'), '+doomed')
    // Until the other shard is there again there are only these two answers for its keys.
    const replies = new Set<string>()
    while (!child.lines.includes('shard 1 ready')) {
      await client.write(keys.map((key) => `get ${key}\r\n`).join(''))
      for (const _ of keys) replies.add(await readReply(client))
      assert.match(await ask(client, `mset ${keys.join(' w ')} w`), /^(?:\+OK|-ERR shard 1 is gone)$/)
    }
    assert.ok(replies.has('-ERR shard 1 is gone'), [...replies].join())
    for (const reply of replies) assert.match(reply, /^(?:v|w|\$-1|-ERR shard 1 is gone)$/)
    assert.equal(await ask(client, 'flushall'), '+OK')
    const next = await clientOf(t, port, 1)
    for (const key of keys) assert.equal(await ask(client, `get ${key}`), '$-1')
    for (const key of keys) assert.equal(await ask(next, `incr ${key}`), ':1')
    await end(child, client, next)
  })
})

/** A connection to one of the shards; connects until the kernel chooses that. */
async function clientOf(t: TestContext, port: number, shard: number): Promise<Client> {
  for (;;) {
    const client = await t.connect(port, { mayBreak: true })
    if ((await client.readLine()) === `+shard ${shard}\r`) return client
    await client.destroy()
  }
}

/** A test that needs Redis' own programs. */
function withRedisTools(test: SuiteTests, name: string, body: (t: TestContext) => Promise<void>): void {
  const isThere = ['redis-cli', 'redis-benchmark'].every(
    (program) => spawnSync(program, ['--version']).status === 0,
  )
  if (isThere) test(name, body)
  else test.skip(name, 'redis-tools is not installed')
}
