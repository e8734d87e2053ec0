/** What waits ends as soon as nobody wants it any more, whatever it waits for. */
import assert from 'node:assert/strict'
import dns from 'node:dns/promises'
import { syncBuiltinESMExports } from 'node:module'
import { setImmediate as turned } from 'node:timers/promises'
import { setLogger } from '../src/index.js'
import type { Descriptors } from '../src/loop/descriptors.js'
import { NO_OPTIONS, SocketOperations } from '../src/loop/socket-operations.js'
import { ThreadChildren } from '../src/workers/thread-children.js'
import { Deferred } from './harness/deferred.js'
import { MiB } from './harness/memory.js'
import { listening, open, pair } from './harness/raw-sockets.js'
import { RecordingLogger } from './harness/recording-logger.js'
import { assertRejects, forEachEngine, type TestContext } from './harness/suite.js'

const NAME = { address: 'slow.example', port: 1 }

/** From now on the system's look-up of a name ends when the test lets it. */
function slowLookUps(t: TestContext): Deferred {
  const { lookup } = dns
  const answered = new Deferred()
  const slow = async (): Promise<{ address: string; family: number }[]> => {
    await answered.promise
    return [{ address: '127.0.0.1', family: 4 }]
  }
  const put = (function_: unknown): void => {
    Object.assign(dns, { lookup: function_ })
    syncBuiltinESMExports()
  }
  put(slow)
  t.defer(() => put(lookup))
  t.defer(() => answered.resolve())
  return answered
}

forEachEngine('called off', (test, engine) => {
  // Each looked at its signal only when the look-up had ended, or its turn had come.
  test('by its signal: an endpoint and sockConnect while a name is looked up', async (t) => {
    slowLookUps(t)
    const reason = new Error('not wanted any more')
    const remote = { host: NAME.address, port: NAME.port }
    for (const begin of [
      (signal: AbortSignal) => t.loop.createDatagramEndpoint(() => ({}), { engine, remote, signal }),
      (signal: AbortSignal) => t.loop.sockConnect(open(t, 'IPv4'), NAME, { signal }),
      (signal: AbortSignal) => t.loop.getaddrinfo(NAME.address, NAME.port, { signal }),
    ]) {
      const abort = new AbortController()
      const begun = begin(abort.signal)
      await turned()
      abort.abort(reason)
      await assert.rejects(begun, reason)
    }
  })

  test('by its signal: a subprocess that waits for its turn, and those behind it keep theirs', async (t) => {
    const order: string[] = []
    const start = async (name: string, signal?: AbortSignal): Promise<void> => {
      const factory = (): object => {
        order.push(name)
        return {}
      }
      const [transport] = await t.loop.subprocessExec(factory, ['true'], {
        engine,
        ...(signal !== undefined && { signal }),
      })
      await transport.wait()
    }
    const abort = new AbortController()
    const before = ['first', 'second'].map((name) => start(name))
    const calledOff = start('never', abort.signal).catch((error: unknown) => order.push(String(error)))
    const behind = start('third')
    abort.abort('called off')
    await Promise.all([...before, calledOff, behind])
    assert.deepEqual(order.toSorted(), ['called off', 'first', 'second', 'third'])
    assert.ok(order.indexOf('called off') < order.indexOf('second'), order.join())
    assert.ok(order.indexOf('second') < order.indexOf('third'), order.join())
  })

  // It went on with descriptor -1, which is EBADF; and only when the look-up had ended.
  test('sockConnect of a RawSocket that is closed, or detached, while it waits is ERR_SHARDLOOP_CLOSED', async (t) => {
    slowLookUps(t)
    const listener = listening(t, 'unix', 1)
    const path = listener.getsockname()
    const waiting: Promise<void>[] = []
    for (let number = 0; number < 4; number++) {
      const filler = t.loop.sockConnect(open(t, 'unix'), path)
      filler.catch(() => {})
      waiting.push(filler)
    }
    await Promise.race(waiting)
    for (const [family, address] of [
      ['IPv4', NAME],
      ['unix', path],
    ] as const) {
      const socket = open(t, family)
      const connecting = t.loop.sockConnect(socket, address)
      await turned()
      socket.close()
      await assertRejects(() => connecting, 'ERR_SHARDLOOP_CLOSED')
    }
  })

  // Past so many operations at once it waited to be told writable, which macOS never tells of what is not connected.
  test('sockConnect is tried, however many operations have ended at once', async (t) => {
    const listener = listening(t, 'unix')
    const exhausted = { waiter: () => null, mayTry: () => false, wait: () => {}, ended: () => {} }
    const sockets = new SocketOperations(exhausted as unknown as Descriptors)
    const tried = sockets.connect(open(t, 'unix'), listener.getsockname(), NO_OPTIONS).then(() => 'tried')
    assert.equal(await Promise.race([tried, turned().then(() => turned('put off'))]), 'tried')
  })

  // Each took a megabyte first, and threw it away.
  test('sockRecv that has to wait takes no memory, however much it is asked for', async (t) => {
    const before = process.memoryUsage().arrayBuffers
    const waiting = Array.from({ length: 32 }, () => t.loop.sockRecv(pair(t)[0], MiB))
    const taken = process.memoryUsage().arrayBuffers - before
    for (const receiving of waiting) receiving.catch(() => {})
    assert.ok(taken < 8 * MiB, `${taken} bytes`)
  })

  // The loop's close() waited for ever for a child that does not die.
  test('the end of a child that does not die: it is told of, and left alone', async (t) => {
    const logger = new RecordingLogger()
    setLogger(logger)
    t.defer(() => setLogger(null))
    const children = new ThreadChildren(20)
    const calls: string[] = []
    const child = (pid: number, untilLost: Promise<void>) => ({
      pid,
      close: () => void calls.push(`close ${pid}`),
      unref: () => void calls.push(`unref ${pid}`),
      untilLost: () => untilLost,
    })
    const [immortal, mortal] = [child(7, new Promise(() => {})), child(8, Promise.resolve())]
    for (const one of [immortal, mortal]) children.add(one)
    await children.close()
    assert.deepEqual(calls, ['close 7', 'close 8', 'unref 7'])
    assert.deepEqual(
      logger.records.map(({ level, message }) => [level, message]),
      [['warn', 'subprocess 7 has not ended 20 ms after it was killed: it is left alone']],
    )
    for (const one of [immortal, mortal]) children.remove(one)
  })
})
