import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import {
  type ConnectionBroken,
  type ConnectionClosed,
  type ConnectionOpened,
  DIAGNOSTICS_CHANNELS,
} from '../src/index.js'
import { Observable } from './harness/deferred.js'
import { Recorder } from './harness/recorder.js'
import { assertCode, forEachEngine, settle, type TestContext } from './harness/suite.js'

const { connectionOpen, connectionClose, connectionError } = DIAGNOSTICS_CHANNELS

interface Heard {
  readonly channel: string
  readonly message: ConnectionOpened & ConnectionClosed & ConnectionBroken
}

/** Listens to all channels during a test. */
class Listener extends Observable {
  readonly heard: Heard[] = []

  constructor(t: TestContext) {
    super()
    for (const channel of Object.values(DIAGNOSTICS_CHANNELS)) {
      const listen = (message: unknown): void => {
        this.heard.push({ channel, message: message as Heard['message'] })
        this.changed()
      }
      subscribe(channel, listen)
      t.defer(() => unsubscribe(channel, listen))
    }
  }

  of(protocol: Recorder): Heard[] {
    return this.heard.filter(({ message }) => message.protocol === protocol)
  }

  /** What was told of a connection, once it was told as closed. */
  async untilClosed(protocol: Recorder): Promise<Heard[]> {
    await this.until(() => this.of(protocol).some(({ channel }) => channel === connectionClose))
    return this.of(protocol)
  }
}

const channelsOf = (heard: readonly Heard[]): string[] => heard.map(({ channel }) => channel)

forEachEngine('diagnostics channels', (test) => {
  test('have these names', () => {
    assert.deepEqual(Object.values(DIAGNOSTICS_CHANNELS), [
      'shardloop:connection:open',
      'shardloop:connection:close',
      'shardloop:connection:error',
    ])
  })

  test('tell of a connection from its opening to its end in order, before the protocol hears of either', async (t) => {
    const listener = new Listener(t)
    const { client, protocol } = await t.pair(
      () =>
        new (class extends Recorder {
          override connectionMade(...made: Parameters<Recorder['connectionMade']>): void {
            assert.deepEqual(channelsOf(listener.of(this)), [connectionOpen])
            super.connectionMade(...made)
          }

          override connectionLost(error: Error | null): void {
            assert.deepEqual(channelsOf(listener.of(this)), [connectionOpen, connectionClose])
            super.connectionLost(error)
          }
        })(),
      { name: 'the diagnosed' },
    )
    client.end()
    const [opened, closed] = (await listener.untilClosed(protocol)).map(({ message }) => message)
    assert.equal(await protocol.lost(), null)
    assert.deepEqual(Object.keys(opened as object), ['transport', 'protocol', 'server'])
    assert.equal(opened?.transport, protocol.transport)
    assert.equal(opened?.server, 'the diagnosed')
    assert.deepEqual(Object.keys(closed as object), ['transport', 'protocol', 'error'])
    assert.equal(closed?.transport, protocol.transport)
    assert.equal(closed?.error, null)
  })

  test('tell each connection with its own transport', async (t) => {
    const listener = new Listener(t)
    const accepting = await t.serveEach(() => new Recorder())
    const pairs = await Promise.all(Array.from({ length: 20 }, () => t.join(accepting)))
    for (const { client } of pairs) client.end()
    for (const { protocol } of pairs) {
      for (const { message } of await listener.untilClosed(protocol))
        assert.equal(message.transport, protocol.transport)
      assert.equal(listener.of(protocol).length, 2)
    }
  })

  test('tell what a callback threw, once, and then the end', async (t) => {
    const listener = new Listener(t)
    const error = new RangeError('the callback is broken')
    const { client, protocol } = await t.pair(
      () =>
        new (class extends Recorder {
          override dataReceived(): void {
            throw error
          }
        })(),
      { exceptionHandler: () => {} },
    )
    await client.write('x')
    await client.untilReset()
    const heard = await listener.untilClosed(protocol)
    assert.deepEqual(channelsOf(heard), [connectionOpen, connectionError, connectionClose])
    const { message: broken } = heard[1] as Heard
    assert.deepEqual(Object.keys(broken), ['transport', 'protocol', 'error', 'message'])
    assert.equal(broken.transport, protocol.transport)
    assert.equal(broken.error, error)
    assert.match(broken.message, /^dataReceived of connection \S+ threw; the connection was aborted$/)
    assert.equal(heard[2]?.message.error, error)
  })

  test('tell a rejection, and a thrown value that is no error', async (t) => {
    const listener = new Listener(t)
    const { client, protocol } = await t.pair(
      () =>
        new (class extends Recorder {
          override dataReceived(): Promise<void> {
            return Promise.reject('a word')
          }
        })(),
      { exceptionHandler: () => {} },
    )
    await client.write('x')
    await client.untilReset()
    const heard = await listener.untilClosed(protocol)
    assert.deepEqual(channelsOf(heard), [connectionOpen, connectionError, connectionClose])
    assert.equal(heard[1]?.message.error, 'a word')
    assert.equal(heard[2]?.message.error?.cause, 'a word')
  })

  const ways: [string, string, (pair: { client: { reset(): void }; protocol: Recorder }) => void][] = [
    ['a reset by the peer', 'ECONNRESET', ({ client }) => client.reset()],
    [
      'a write overflow',
      'ERR_SHARDLOOP_WRITE_OVERFLOW',
      ({ protocol }) => protocol.transport.write(Buffer.alloc(64 << 20)),
    ],
    ['an idle timeout', 'ERR_SHARDLOOP_IDLE_TIMEOUT', ({ protocol }) => protocol.transport.setIdleTimeout(1)],
    [
      'an abort with an error',
      'E_OWN',
      ({ protocol }) => protocol.transport.abort(Object.assign(new Error('enough'), { code: 'E_OWN' })),
    ],
  ]
  for (const [name, code, breakIt] of ways) {
    test(`tell ${name} as an error`, async (t) => {
      const listener = new Listener(t)
      const pair = await t.pair(() => new Recorder(), {
        writeHighBytes: 1000,
        writeMaxBytes: 1000,
        client: { paused: true },
      })
      breakIt(pair)
      const heard = await listener.untilClosed(pair.protocol)
      assert.deepEqual(channelsOf(heard), [connectionOpen, connectionError, connectionClose])
      const { message: broken } = heard[1] as Heard
      assertCode(broken.error, code)
      assert.ok(broken.message.startsWith(`connection ${pair.protocol.transport.id} broke: `), broken.message)
      assert.equal(heard[2]?.message.error, broken.error)
      assert.equal(await pair.protocol.lost(), broken.error)
    })
  }

  test('tell no error for a close, or for an abort without one', async (t) => {
    const listener = new Listener(t)
    const accepting = await t.serveEach(() => new Recorder())
    for (const end of ['close', 'abort'] as const) {
      const { protocol, client } = await t.join(accepting)
      protocol.transport[end]()
      const heard = await listener.untilClosed(protocol)
      assert.deepEqual(channelsOf(heard), [connectionOpen, connectionClose])
      await client.destroy()
    }
  })

  test('a factory that throws is an error of a connection that was never open', async (t) => {
    const listener = new Listener(t)
    const server = await t.serve(
      () => {
        throw new Error('there is no protocol')
      },
      { exceptionHandler: () => {} },
    )
    const client = await t.connect(server, { mayBreak: true })
    await client.untilClose()
    await listener.until(() => listener.heard.length > 0)
    const next = await t.pair(() => new Recorder())
    await settle(next)
    const [broken, ...others] = listener.heard
    assert.equal(broken?.channel, connectionError)
    assert.match(String(broken?.message.error), /there is no protocol/)
    assert.deepEqual(channelsOf(others), [connectionOpen], 'of the next one')
  })

  test('subscribers run in the async context of their connection', async (t) => {
    const storage = new AsyncLocalStorage<string>()
    const open = (message: unknown): void => storage.enterWith((message as ConnectionOpened).transport.id)
    subscribe(connectionOpen, open)
    t.defer(() => unsubscribe(connectionOpen, open))
    const outside = storage.getStore()
    const accepting = await t.serveEach(() => new Recorder())
    await t.join(accepting)
    await t.join(accepting)
    assert.equal(storage.getStore(), outside, 'nothing leaks out of it')
  })

  test('a subscriber that throws disturbs nothing, and is an uncaught exception', async (t) => {
    const child = t.start('diagnostics-throws', ['caught'])
    const port = Number((await child.line(/^ready (\d+)$/))[1])
    for (let round = 0; round < 2; round++) {
      const client = await t.connect(port)
      await client.write('hello')
      assert.equal((await client.readExactly(5)).toString(), 'hello')
      client.end()
    }
    const uncaught = (): string[] => child.lines.filter((line) => line.startsWith('uncaught: '))
    await child.until(() => uncaught().length === 2)
    assert.equal(uncaught()[0], 'uncaught: the subscriber is broken')
    child.send('close')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('which ends the thread when nobody catches it, as Node has it', async (t) => {
    const child = t.start('diagnostics-throws', ['uncaught'])
    const port = Number((await child.line(/^ready (\d+)$/))[1])
    await t.connect(port, { mayBreak: true })
    assert.deepEqual(await child.untilExit(), { code: 1, signal: null }, child.describe())
    assert.match(child.stderr, /the subscriber is broken/)
  })
})
