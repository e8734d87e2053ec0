import assert from 'node:assert/strict'
import { Writable } from 'node:stream'
import { pino } from 'pino'
import { createServer, getLogger, type Logger, type LogLevel, setLogger } from '../src/index.js'
import type { Child } from './harness/child.js'
import { eventually, Observable } from './harness/deferred.js'
import { openDescriptors, threadCount } from './harness/leaks.js'
import { writeNativeRecords } from './harness/native-records.js'
import { Recorder } from './harness/recorder.js'
import { type Logged, RecordingLogger } from './harness/recording-logger.js'
import { assertThrows, forEachEngine, settle, type TestContext } from './harness/suite.js'

/** As native/src/limits.rs has it. */
const LOG_RECORDS_MAX = 1024
const LEVELS: readonly LogLevel[] = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

class Thrower extends Recorder {
  override dataReceived(): void {
    throw new Error('the protocol is broken')
  }
}

forEachEngine('logging in this thread', (test) => {
  test('a logger gets our records and those of native code, each with shard and connection', async (t) => {
    const logger = record(t, { level: 'debug' })
    const { client, protocol } = await t.pair(() => new Thrower(), { exceptionHandler: undefined as never })
    await client.write('x')
    await client.untilReset()
    const { id } = protocol.transport
    const thrown = await logger.record(/^dataReceived of connection \S+ threw/)
    assert.equal(thrown.level, 'error')
    assert.deepEqual(Object.keys(thrown.fields), ['shard', 'connection', 'err'])
    assert.deepEqual(
      { ...thrown.fields, err: String(thrown.fields['err']) },
      {
        shard: null,
        connection: id,
        err: 'Error: the protocol is broken',
      },
    )
    const reset = await logger.record(/^a connection is reset$/)
    assert.equal(reset.level, 'debug')
    assert.deepEqual(reset.fields, { shard: null, connection: id, reason: 'the program aborted it' })
    assert.equal((await logger.record(/^the engine is open$/)).fields['engine'], t.engine)
    assert.ok(logger.records.every(({ fields }) => fields['shard'] === null))
  })

  test('why native code resets a connection', async (t) => {
    const logger = record(t, { level: 'debug' })
    const reasons = async (count: number): Promise<unknown[]> => {
      await logger.until(() => logger.count(/^a connection is reset$/) >= count)
      const resets = logger.records.filter(({ message }) => message === 'a connection is reset')
      return resets.map(({ fields }) => fields['reason'])
    }
    const accepting = await t.serveEach(() => new Recorder(), { writeHighBytes: 1000, writeMaxBytes: 1000 })
    const overflowing = await t.join(accepting, { paused: true })
    overflowing.protocol.transport.write(Buffer.alloc(64 << 20))
    await overflowing.protocol.lost()
    assert.match(String((await reasons(1)).at(-1)), /more was written than it may queue/)
    const peer = await t.join(accepting)
    peer.client.reset()
    await peer.protocol.lost()
    assert.match(String((await reasons(2)).at(-1)), /reset by peer/)
    const idle = await t.join(accepting)
    idle.protocol.transport.setIdleTimeout(1)
    await idle.protocol.lost()
    assert.match(String((await reasons(3)).at(-1)), /idle/)
  })

  test('a record of a connection that JavaScript does not know (any more) has the handle', async (t) => {
    const logger = record(t, { level: 'debug' })
    const { accepting, client, protocol } = await t.pair(() => new Recorder())
    // Input is unread when it closes, so its descriptor lingers: that is written after the end was told.
    protocol.transport.pauseReading()
    await settle(await t.join(accepting)) // whoever reads has heard of that
    await client.write('unread')
    protocol.transport.close()
    await protocol.lost()
    const { fields } = await logger.record(/lingers until its peer has all/)
    assert.ok(
      typeof fields['connection'] === 'number' || fields['connection'] === protocol.transport.id,
      String(fields['connection']),
    )
    assert.equal(typeof fields['linger'], 'number')
  })

  test('pino works as it is', async (t) => {
    const lines = new Lines()
    const logger: Logger = pino({ level: 'trace' }, lines)
    setLogger(logger, { level: 'debug' })
    t.defer(() => setLogger(null))
    assert.equal(getLogger(), logger)
    const { client, protocol } = await t.pair(() => new Thrower(), { exceptionHandler: undefined as never })
    await client.write('x')
    await client.untilReset()
    const { id } = protocol.transport
    const thrown = await lines.find((line) => line['level'] === 50)
    assert.equal(thrown['msg'], `dataReceived of connection ${id} threw; the connection was aborted`)
    assert.equal(thrown['connection'], id)
    assert.equal(thrown['shard'], null)
    const err = thrown['err'] as { type: string; message: string; stack: string }
    assert.equal(err.message, 'the protocol is broken')
    assert.match(err.stack, /logging\.test/)
    const reset = await lines.find((line) => line['msg'] === 'a connection is reset')
    assert.equal(reset['level'], 20)
    assert.equal(reset['connection'], id)
  })

  test("pino's own level is asked too, and so is that of a child", async (t) => {
    const lines = new Lines()
    setLogger(pino({ level: 'warn' }, lines).child({ application: 'mine' }), { level: 'trace' })
    t.defer(() => setLogger(null))
    const { client } = await t.pair(() => new Thrower(), { exceptionHandler: undefined as never })
    await client.write('x')
    await client.untilReset()
    const thrown = await lines.find((line) => line['level'] === 50)
    assert.equal(thrown['application'], 'mine')
    assert.deepEqual(
      lines.parsed.filter((line) => (line['level'] as number) < 40),
      [],
    )
  })

  for (const level of LEVELS) {
    test(`level ${level}: nothing below it comes, of ours or of native code`, async (t) => {
      const logger = record(t, { level })
      const { client, protocol } = await t.pair(() => new Thrower(), { exceptionHandler: undefined as never })
      await client.write('x')
      await client.untilReset()
      await protocol.lost()
      writeNativeRecords(1)
      // What native code has written until now comes before the next turn's timers.
      await new Promise((resolve) => setTimeout(resolve))
      await new Promise((resolve) => setImmediate(resolve))
      const rank = LEVELS.indexOf(level)
      for (const { level: seen, message } of logger.records)
        assert.ok(LEVELS.indexOf(seen as LogLevel) >= rank, `${seen} ${message}`)
      assert.equal(logger.count(/ threw; /) > 0, rank <= LEVELS.indexOf('error'))
      if (rank <= LEVELS.indexOf('debug')) await logger.record(/^a listener is unregistered$/)
      else assert.equal(logger.count(/listener/), 0)
    })
  }

  test('the default level is warn, for a logger as without one', async (t) => {
    const logger = record(t, undefined)
    const { client } = await t.pair(() => new Thrower(), { exceptionHandler: undefined as never })
    await client.write('x')
    await client.untilReset()
    await logger.record(/ threw; /)
    assert.deepEqual(
      logger.records.map(({ level }) => level),
      ['error'],
    )
  })

  test('createServer takes a logger and a level, as setLogger would', async (t) => {
    t.defer(() => setLogger(null))
    const logger = new RecordingLogger()
    const first = await t.serve(() => ({}), { logger, logLevel: 'debug' })
    assert.equal(getLogger(), logger)
    await logger.record(/^the engine is open$/)
    await first.close()
    // The level alone leaves the logger.
    const second = await t.serve(() => ({}), { logLevel: 'silent' })
    assert.equal(getLogger(), logger)
    const before = logger.records.length
    await second.close()
    writeNativeRecords(1)
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(logger.records.length, before)
  })

  test('a module that is named by URL brings its logger', async (t) => {
    t.defer(() => setLogger(null))
    await t.serve(new URL('./fixtures/servers/logging-module.js', import.meta.url))
    const { logger } = await import('./fixtures/servers/logging-logger.js')
    assert.equal(getLogger(), logger)
    const bad = 'data:text/javascript,export default () => ({}); export const logger = { info() {} }'
    await assert.rejects(createServer(new URL(bad), { shards: 0, engine: t.engine }), {
      code: 'ERR_SHARDLOOP_OPTION',
      message: /exports logger; expected a logger with the methods .* \(it lacks trace, debug, warn,/,
    })
  })

  test('what is no logger, and no level, is refused by name', () => {
    for (const wrong of [undefined, 5, 'console', {}, { ...new RecordingLogger(), fatal: undefined }])
      assertThrows(() => setLogger(wrong as unknown as Logger), 'ERR_SHARDLOOP_ARGUMENT')
    const level = (value: unknown) => () => setLogger(null, { level: value as LogLevel })
    for (const wrong of ['verbose', 'WARN', 30, null, {}]) assertThrows(level(wrong), 'ERR_SHARDLOOP_OPTION')
    for (const wrong of [null, 'debug', { levle: 'debug' }])
      assertThrows(() => setLogger(null, wrong as object), 'ERR_SHARDLOOP_OPTION')
    assert.throws(
      () => setLogger({ info() {} } as unknown as Logger),
      /it lacks trace, debug, warn, error, fatal/,
    )
  })

  test('records past the bound are dropped, and how many is logged once', async (t) => {
    const logger = record(t, { level: 'debug' })
    await new Promise((resolve) => setImmediate(resolve))
    const before = logger.records.length
    const count = LOG_RECORDS_MAX / 2 + 10 // listeners, of two records each
    writeNativeRecords(count)
    assert.equal(logger.records.length, before, 'they come with a turn of the loop')
    const dropped = await logger.record(/native log records were dropped/)
    assert.equal(dropped.level, 'warn')
    assert.deepEqual(dropped.fields, { shard: null, dropped: 20 })
    assert.equal(logger.records.length, before + LOG_RECORDS_MAX + 1)
    writeNativeRecords(1)
    await logger.until(() => logger.records.length === before + LOG_RECORDS_MAX + 3)
    assert.equal(logger.count(/were dropped/), 1)
  })

  test('a thread that comes late to its records says how old they are', async (t) => {
    const logger = record(t, { level: 'debug' })
    writeNativeRecords(1)
    const until = performance.now() + 150
    while (performance.now() < until); // busy
    const { fields } = await logger.record(/^a listener is registered$/)
    assert.ok((fields['waitedMs'] as number) >= 140, String(fields['waitedMs']))
  })

  for (const way of ['throws', 'rejects', 'throws when it is asked for its level'] as const) {
    test(`a logger that ${way} disturbs nothing, and is told once on stderr`, async (t) => {
      const stderr = captureStderr(t)
      const broken = (): never => {
        throw new Error('the logger is broken')
      }
      const rejecting = async (): Promise<void> => broken()
      const fail = way === 'rejects' ? rejecting : broken
      const logger: Logger = {
        ...{ trace: fail, debug: fail, info: fail, warn: fail, error: fail, fatal: fail },
        ...(way.endsWith('level') && { isLevelEnabled: broken }),
      }
      setLogger(logger, { level: 'debug' })
      t.defer(() => setLogger(null))
      const accepting = await t.serveEach(() => new Thrower(), { exceptionHandler: undefined as never })
      for (let round = 0; round < 3; round++) {
        const { client, protocol } = await t.join(accepting)
        await client.write('x')
        await client.untilReset()
        await protocol.lost()
      }
      writeNativeRecords(3)
      await new Promise((resolve) => setTimeout(resolve))
      await new Promise((resolve) => setImmediate(resolve))
      const told = stderr.filter((text) => text.includes('the logger is broken'))
      assert.equal(told.length, 1, stderr.join(''))
      assert.match(told[0] as string, /^shardloop: the logger threw, .*: Error: the logger is broken\n/)
      // Another one starts afresh.
      setLogger({ ...logger, isLevelEnabled: () => true }, { level: 'debug' })
      writeNativeRecords(1)
      await new Promise((resolve) => setTimeout(resolve))
      await new Promise((resolve) => setImmediate(resolve))
      assert.equal(stderr.filter((text) => text.includes('the logger is broken')).length, 2)
    })
  }

  test('a logger may log, set another logger, and come back to the log', async (t) => {
    const logger = record(t, { level: 'debug' })
    const { info } = logger
    let calls = 0
    logger.debug = (): void => {
      if (++calls === 1) {
        writeNativeRecords(1)
        setLogger(logger, { level: 'info' })
        getLogger().info({ of: 'the logger' }, 'hello')
      }
    }
    writeNativeRecords(3)
    await logger.record(/^hello$/)
    assert.equal(logger.info, info)
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(calls, 1, 'what is left is below the new level')
  })

  test('the default logger is one line for each record', async (t) => {
    const stderr = captureStderr(t)
    setLogger(null, { level: 'info' })
    t.defer(() => setLogger(null))
    const logger = getLogger()
    logger.debug('not this')
    logger.info(
      { plain: 'word', text: 'two words', number: 5, none: undefined, deep: { a: [1] } },
      'said\nso',
    )
    logger.child?.({ request: 7 }).warn('in short')
    logger.error({ shard: 3, err: new RangeError('out of it') }, 'failed')
    assert.equal(logger.isLevelEnabled?.('debug'), false)
    const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z /
    for (const text of stderr) assert.match(text, time)
    const [info, warn, error] = stderr.map((text) => text.replace(time, ''))
    assert.equal(info, 'INFO  shardloop: said\\nso plain=word text="two words" number=5 deep={ a: [ 1 ] }\n')
    assert.equal(warn, 'WARN  shardloop: in short request=7\n')
    assert.match(
      error as string,
      /^ERROR shardloop shard 3: failed\nRangeError: out of it\n {4}at .*logging\.test/,
    )
    assert.equal(stderr.length, 3)
  })

  const leavesNothing = 'servers come and go with a logger set, and leave no thread and no descriptor'
  if (process.platform !== 'linux') test.skip(leavesNothing, 'only Linux tells how many there are')
  else
    test(leavesNothing, async (t) => {
      record(t, { level: 'trace' })
      const round = async (): Promise<void> => {
        const { server, client } = await t.pair(() => new Recorder())
        client.end()
        await server.close()
        await client.untilClose()
      }
      await round()
      const [threads, descriptors] = [threadCount(), openDescriptors().size]
      for (let again = 0; again < 20; again++) await round()
      // The system lists a thread for a moment after it was joined.
      await eventually(() => threadCount() <= threads && openDescriptors().size <= descriptors)
    })
})

forEachEngine('logging in shards', (test) => {
  for (const url of [false, true]) {
    test(`each shard has a logger of its own (${url ? 'by URL' : 'by its own call'})`, async (t) => {
      const { child, port } = await startLogging(t, { shards: 2, logLevel: 'debug', url })
      for (const shard of [0, 1]) {
        const open = await logged(child, ({ fields, message }) => {
          return message === 'the engine is open' && fields['in'] === shard
        })
        assert.equal(open.fields['shard'], shard, 'the records of a shard are logged in it')
        assert.equal(open.fields['engine'], t.engine)
      }
      const serves = await logged(child, ({ message }) => message === 'a shard serves')
      assert.equal(serves.fields['in'], null, 'those of the guardian on the main thread')
      assert.equal(serves.fields['shard'], null)
      assert.ok([0, 1].includes(serves.fields['aboutShard'] as number))
      const registered = await logged(child, ({ message }) => message === 'a listener is registered')
      assert.equal(registered.fields['in'], null)

      const client = await t.connect(port)
      await client.write('who\n')
      const shard = Number(await client.readLine())
      client.reset()
      const reset = await logged(child, ({ message }) => message === 'a connection is reset')
      assert.equal(reset.fields['in'], shard)
      assert.equal(reset.fields['shard'], shard)
      assert.match(String(reset.fields['connection']), new RegExp(`^${shard}-\\d+$`))
      await close(child)
    })
  }

  test('a shard that dies: its last words, its death, and what the others do', async (t) => {
    const { child, port } = await startLogging(t, { shards: 2, logLevel: 'debug' })
    const client = await t.connect(port, { mayBreak: true })
    await client.write('who\n')
    const shard = Number(await client.readLine())
    await client.write('panic\n')
    await client.untilClose()
    const panic = await logged(child, ({ message }) =>
      message.startsWith('caught a panic, which ends the shard'),
    )
    assert.equal(panic.level, 'error')
    assert.equal(panic.fields['shard'], shard)
    const died = await logged(child, ({ message }) =>
      message.startsWith(`shard ${shard} died and is replaced`),
    )
    assert.equal(died.level, 'error')
    assert.equal(died.fields['in'], null)
    assert.equal(died.fields['aboutShard'], shard)
    assert.match(String(died.fields['err']), /the native shard panicked: a test asked for it/)
    const down = await logged(child, ({ message }) => message === 'a shard is down')
    assert.deepEqual([down.fields['in'], down.fields['aboutShard']], [null, shard])
    const ends = await logged(child, ({ message }) => message.startsWith('the shard ends:'))
    assert.equal(ends.fields['shard'], shard)
    await close(child)
  })

  test('a shard that is stuck: the guardian says so, and the server when nobody listens', async (t) => {
    const { child, port } = await startLogging(t, {
      shards: 1,
      logLevel: 'debug',
      stallAfterMs: 50,
      killAfterMs: 200,
    })
    const client = await t.connect(port, { mayBreak: true })
    await client.write('spin\n')
    const stuck = await logged(child, ({ message }) => message === 'a shard is stuck')
    assert.deepEqual([stuck.level, stuck.fields['in'], stuck.fields['aboutShard']], ['info', null, 0])
    const told = await logged(child, ({ message }) => message.startsWith('shard 0 is stuck'))
    assert.equal(told.level, 'warn')
    assert.ok((told.fields['stalledMs'] as number) >= 50)
    const died = await logged(child, ({ message }) => message.startsWith('shard 0 died and is replaced'))
    assert.match(String(died.fields['err']), /was stuck for \d+ ms \(killAfterMs is 200\)/)
    // Terminated, it runs no JavaScript any more: the main thread logs its last words.
    const ends = await logged(child, ({ message }) => message.startsWith('the shard ends:'))
    assert.deepEqual([ends.fields['in'], ends.fields['shard']], [null, 0])
    await client.untilClose()
    await close(child)
  })

  test('without a level there is nothing to read where nothing is wrong', async (t) => {
    const { child } = await startLogging(t, { shards: 2 })
    await close(child)
    assert.deepEqual(
      child.lines.filter((line) => line.startsWith('{')),
      [],
    )
    assert.equal(child.stderr, '')
  })
})

forEachEngine('native log records that wait', (test) => {
  test('when the process exits they are logged', async (t) => {
    const child = t.start('logging-ends', ['exit'])
    assert.deepEqual(await child.untilExit(), { code: 7, signal: null }, child.describe())
    const unregistered = child.lines.filter((line) => line.includes('a listener is unregistered'))
    assert.equal(unregistered.length, 3, child.describe())
    assert.equal(child.stderr, '')
  })

  test('when a thread is terminated what it has not fetched is logged on the main thread', async (t) => {
    const child = t.start('logging-ends', ['terminate'], { env: { MALLOC_PERTURB_: '165' } })
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    assert.ok(child.lines.includes('terminated'), child.describe())
    assert.ok(
      child.lines.some((line) => line.includes('a listener is unregistered')),
      child.describe(),
    )
    assert.ok(
      child.lines.some((line) => line.includes('the engine is closed')),
      child.describe(),
    )
    assert.equal(child.stderr, '', child.describe())
  })
})

/** The logger of this thread for the length of a test. */
function record(t: TestContext, options: { level: LogLevel } | undefined): RecordingLogger {
  const logger = new RecordingLogger()
  setLogger(logger, options)
  assert.equal(getLogger(), logger)
  t.defer(() => setLogger(null))
  return logger
}

/** What this thread writes to standard error during a test. */
function captureStderr(t: TestContext): string[] {
  const texts: string[] = []
  const { write } = process.stderr
  process.stderr.write = (text: string | Uint8Array): boolean => {
    texts.push(String(text))
    return true
  }
  t.defer(() => {
    process.stderr.write = write
  })
  return texts
}

/** Where pino writes. */
class Lines extends Writable {
  readonly parsed: Record<string, unknown>[] = []
  readonly #observable = new (class extends Observable {
    override changed(): void {
      super.changed()
    }
  })()

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    for (const line of chunk.toString().trim().split('\n')) this.parsed.push(JSON.parse(line))
    this.#observable.changed()
    done()
  }

  async find(matches: (line: Record<string, unknown>) => boolean): Promise<Record<string, unknown>> {
    await this.#observable.until(() => this.parsed.some(matches))
    return this.parsed.find(matches) as Record<string, unknown>
  }
}

async function startLogging(t: TestContext, options: object): Promise<{ child: Child; port: number }> {
  const child = t.start('servers/logging', [JSON.stringify(options)])
  return { child, port: Number((await child.line(/^ready (\d+)$/))[1]) }
}

/** The first record that the program printed for which this holds; `fields.in` is the thread. */
async function logged(child: Child, matches: (record: Logged) => boolean): Promise<Logged> {
  const find = (): Logged | undefined => {
    for (const line of child.lines) {
      if (!line.startsWith('{')) continue
      const { level, message, ...fields } = JSON.parse(line)
      if (matches({ level, message, fields })) return { level, message, fields }
    }
    return undefined
  }
  await child.until(() => find() !== undefined || child.exit !== undefined)
  const record = find()
  assert.ok(record !== undefined, child.describe())
  return record
}

async function close(child: Child): Promise<void> {
  child.send('close')
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
}
