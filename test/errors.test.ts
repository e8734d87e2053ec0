import assert from 'node:assert/strict'
import type { Protocol, Transport } from '../src/index.js'
import type { Client } from './harness/client.js'
import { eventually } from './harness/deferred.js'
import { BorrowedRecorder, BufferedRecorder, Recorder } from './harness/recorder.js'
import {
  assertCode,
  type ExceptionContext,
  forEachTransport,
  PLAIN_TRANSPORTS,
  settle,
  type TestContext,
} from './harness/suite.js'

/** How a callback fails. */
const FAILURES: Record<string, (error: unknown) => unknown> = {
  throws: (error) => {
    throw error
  },
  rejects: (error) => Promise.reject(error),
  'rejects later': async (error) => {
    await new Promise((resolve) => setImmediate(resolve))
    throw error
  },
  'returns a thenable that rejects': (error) => ({
    // biome-ignore lint/suspicious/noThenProperty: a PromiseLike that is no Promise is what is tested
    then: (_resolve: unknown, reject: (error: unknown) => void) => queueMicrotask(() => reject(error)),
  }),
}

/** Which protocol to break, and what the peer or the test does to have the callback called. */
interface Case {
  readonly make: () => Recorder
  readonly callback: string & keyof Protocol
  /** Ways to fail that this callback does not have: what it returns is no promise. */
  readonly syncOnly?: boolean
  trigger(pair: { client: Client; protocol: Recorder }): Promise<void> | void
}

const CASES: readonly Case[] = [
  { make: () => new Recorder(), callback: 'connectionMade', trigger: () => {} },
  {
    make: () => new Recorder(),
    callback: 'dataReceived',
    trigger: ({ client }) => void client.socket.write('x'),
  },
  {
    make: () => new BorrowedRecorder(),
    callback: 'bytesReceived',
    trigger: ({ client }) => void client.socket.write('x'),
  },
  {
    make: () => new BufferedRecorder(),
    callback: 'getBuffer',
    syncOnly: true,
    trigger: ({ client }) => void client.socket.write('x'),
  },
  {
    make: () => new BufferedRecorder(),
    callback: 'bufferUpdated',
    trigger: ({ client }) => void client.socket.write('x'),
  },
  { make: () => new Recorder(), callback: 'eofReceived', trigger: ({ client }) => client.end() },
  { make: () => new Recorder(), callback: 'connectionLost', trigger: ({ client }) => client.end() },
  {
    make: () => new Recorder(),
    callback: 'pauseWriting',
    trigger: ({ client, protocol }) => {
      client.pause()
      protocol.transport.write(Buffer.alloc(48 << 20))
    },
  },
  {
    make: () => new Recorder(),
    callback: 'resumeWriting',
    trigger: async ({ client, protocol }) => {
      client.pause()
      protocol.transport.write(Buffer.alloc(48 << 20))
      await protocol.noted('pause')
      client.resume()
    },
  },
  {
    make: () => new Recorder(),
    callback: 'idleTimedOut',
    trigger: ({ protocol }) => protocol.transport.setIdleTimeout(100),
  },
]

forEachTransport('errors in callbacks', (test) => {
  for (const { make, callback, syncOnly, trigger } of CASES) {
    for (const [how, fail] of Object.entries(FAILURES)) {
      if (syncOnly === true && how !== 'throws') continue
      test(`${callback} ${how}: its own connection ends, with that error`, async (t) => {
        const error = new Error(`broken ${callback}`)
        const { accepting, reports } = await serveReporting(t, make)
        const bystander = await t.join(accepting)
        const broken = await joinBroken(t, accepting, callback, () => fail(error))
        await trigger(broken)
        if (callback === 'connectionLost') {
          await eventually(() => reports.length > 0)
          assert.equal(broken.protocol.lostWith, null)
        } else {
          assert.equal(await broken.protocol.lost(), error)
        }
        // A client of node:tls that has ended cannot find out by writing whether it was reset.
        const hasEnded = t.tls !== null && callback === 'eofReceived'
        if (callback === 'connectionLost' || hasEnded) await broken.client.untilClose()
        else await broken.client.untilReset()
        await settle(bystander)
        assert.equal(broken.protocol.count('lost'), 1)
        assert.equal(broken.protocol.events.at(-1), 'lost')
        assert.equal(reports.length, 1, 'reported once')
        assertReport(reports[0], error, broken.protocol)
        assert.deepEqual(bystander.protocol.events, ['made'])
        // The server goes on.
        await settle(await t.join(accepting))
      })
    }
  }

  test('the factory throws: that connection is closed and the next one is served', async (t) => {
    const error = new Error('broken factory')
    let toFail = 1
    const { accepting, reports } = await serveReporting(t, () => {
      if (toFail-- > 0) throw error
      return new Recorder()
    })
    const refused = await t.connect(accepting.server, { mayBreak: true })
    await refused.untilReset()
    assert.equal(reports.length, 1)
    assert.equal(reports[0]?.error, error)
    assert.equal(accepting.protocols.length, 0)
    await settle(await t.join(accepting))
  })

  test('the factory returns no protocol', async (t) => {
    const reports: ExceptionContext[] = []
    const wrong = [undefined, null, 7, 'protocol', Promise.resolve({})]
    let next = 0
    const server = await t.serve(() => wrong[next++] as Protocol, {
      exceptionHandler: (context) => reports.push(context),
    })
    for (const [index] of wrong.slice(0, 4).entries()) {
      await (await t.connect(server, { mayBreak: true })).untilReset()
      assert.equal(reports.length, index + 1)
      assert.ok(reports[index]?.error instanceof Error)
    }
  })

  test('the rest of the batch is delivered: 60 connections, every third throws', async (t) => {
    const { accepting, reports } = await serveReporting(t, () => new Recorder())
    const pairs = await Promise.all(Array.from({ length: 60 }, () => t.join(accepting)))
    accepting.protocols.forEach((protocol, index) => {
      if (index % 3 !== 0) return
      protocol.dataReceived = function (this: Recorder, chunk: Buffer) {
        this.record(chunk)
        throw new Error(`broken ${index}`)
      }.bind(protocol as never)
    })
    // Written in one turn: the server finds all of it in one batch.
    for (const { client } of pairs) client.socket.write('hello')
    await Promise.all(accepting.protocols.map((protocol) => protocol.receivedAtLeast(5)))
    await Promise.all(
      accepting.protocols.filter((_, index) => index % 3 === 0).map((protocol) => protocol.lost()),
    )
    assert.equal(reports.length, 20)
    const expected = accepting.protocols.filter((_, index) => index % 3 === 0)
    assert.deepEqual(new Set(reports.map((report) => report.protocol)), new Set(expected))
    accepting.protocols.forEach((protocol, index) => {
      assert.equal(protocol.bytes.toString(), 'hello', `connection ${index}`)
      assert.deepEqual(protocol.events, index % 3 === 0 ? ['made', 'lost'] : ['made'], `connection ${index}`)
    })
    // Those that did not throw still work.
    for (const { client } of pairs) if (!client.closed) client.socket.write('again')
    const alive = accepting.protocols.filter((_, index) => index % 3 !== 0)
    await Promise.all(alive.map((protocol) => protocol.receivedAtLeast(10)))
  })

  test('what is thrown need not be an Error', async (t) => {
    for (const thrown of ['text', undefined, null, 7, Object.freeze({ code: 'X' })]) {
      const { accepting, reports } = await serveReporting(t, () => new Recorder())
      const { client, protocol } = await joinBroken(t, accepting, 'dataReceived', () => {
        throw thrown
      })
      client.socket.write('x')
      assert.ok((await protocol.lost()) instanceof Error, `connectionLost after throw ${String(thrown)}`)
      assert.equal(reports.length, 1)
      assert.equal(protocol.count('lost'), 1)
    }
  })

  test('memory that getBuffer must not return ends the connection by name', async (t) => {
    const detached = new Uint8Array(100)
    structuredClone(detached.buffer, { transfer: [detached.buffer] })
    const wrong = [
      undefined,
      null,
      'text',
      100,
      new Uint8Array(0),
      detached,
      new ArrayBuffer(10),
      Promise.resolve(),
    ]
    for (const buffer of wrong) {
      const { accepting, reports } = await serveReporting(t, () => new BufferedRecorder())
      const bystander = await t.join(accepting)
      const { client, protocol } = await joinBroken(t, accepting, 'getBuffer', () => buffer)
      client.socket.write('x')
      assertCode(await protocol.lost(), 'ERR_SHARDLOOP_ARGUMENT')
      assert.equal(reports.length, 1)
      assert.equal(protocol.received, 0)
      await settle(bystander)
    }
  })

  test('a rejection after the connection is gone is still reported, and only that', async (t) => {
    const { accepting, reports } = await serveReporting(t, () => new Recorder())
    const error = new Error('late')
    let fail = (): void => {}
    const { client, protocol } = await joinBroken(t, accepting, 'dataReceived', () => {
      return new Promise((_, reject) => {
        fail = () => reject(error)
      })
    })
    client.end('x')
    assert.equal(await protocol.lost(), null)
    fail()
    await eventually(() => reports.length > 0)
    assert.equal(reports[0]?.error, error)
    assert.equal(protocol.count('lost'), 1)
  })

  test('a throw after close or abort does not call connectionLost twice', async (t) => {
    for (const method of ['close', 'abort'] as const) {
      const { accepting, reports } = await serveReporting(t, () => new Recorder())
      const { client, protocol } = await joinBroken(t, accepting, 'dataReceived', () => {
        protocol.transport[method]()
        throw new Error('after it')
      })
      client.socket.write('x')
      await protocol.lost()
      await client.untilClose()
      await settle(await t.join(accepting))
      assert.equal(protocol.count('lost'), 1)
      assert.equal(reports.length, 1)
    }
  })

  test('a throw inside a nested callback does not break the delivery around it', async (t) => {
    // abort of another connection from within a callback, whose connectionLost throws later.
    const { accepting, reports } = await serveReporting(t, () => new Recorder())
    const victim = await joinBroken(t, accepting, 'connectionLost', () => {
      throw new Error('broken connectionLost')
    })
    const { client, protocol } = await t.join(accepting)
    protocol.dataReceived = (chunk) => {
      Recorder.prototype.dataReceived.call(protocol, chunk)
      victim.protocol.transport.abort()
    }
    client.socket.write('x')
    await victim.client.untilClose()
    await eventually(() => reports.length > 0)
    assert.equal(reports.length, 1)
    assert.deepEqual(protocol.events, ['made'])
    assert.equal(protocol.bytes.toString(), 'x')
    assert.equal(victim.protocol.count('lost'), 1)
  })
})

// The servers are programs of their own, without TLS.
const onPlain = (define: Parameters<typeof forEachTransport>[1]): void =>
  forEachTransport('exception handler', define, PLAIN_TRANSPORTS)

onPlain((test) => {
  test('one that throws does not stop the server, and both errors are printed', async (t) => {
    const child = t.start('throwing-handler-server')
    const port = Number((await child.line(/^ready (\d+)$/))[1])
    const broken = await t.connect(port)
    const bystander = await t.connect(port)
    await bystander.write('ok')
    assert.equal((await bystander.readExactly(2)).toString(), 'ok')
    await broken.write('throw')
    await broken.untilClose()
    await bystander.write('still')
    assert.equal((await bystander.readExactly(5)).toString(), 'still')
    await child.until(() => child.stderr.includes('the handler is broken too'))
    await child.until(() => child.stderr.includes('the protocol is broken'))
    child.send('close')
    await bystander.destroy()
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('the default prints the error with its stack to standard error, and the server goes on', async (t) => {
    const child = t.start('throwing-handler-server', ['default'])
    const port = Number((await child.line(/^ready (\d+)$/))[1])
    const broken = await t.connect(port)
    await broken.write('throw')
    await broken.untilClose()
    await child.until(() => /the protocol is broken[\s\S]*at .*throwing-handler-server/.test(child.stderr))
    const next = await t.connect(port)
    await next.write('ok')
    assert.equal((await next.readExactly(2)).toString(), 'ok')
    await next.destroy()
    child.send('close')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })
})

async function serveReporting(t: TestContext, make: () => Recorder) {
  const reports: ExceptionContext[] = []
  const accepting = await t.serveEach(make, { exceptionHandler: (context) => reports.push(context) })
  return { accepting, reports }
}

type Reporting = Awaited<ReturnType<typeof serveReporting>>['accepting']

/** One more connection, whose `callback` notes its call and then does `instead`. */
async function joinBroken(
  t: TestContext,
  accepting: Reporting,
  callback: string & keyof Protocol,
  instead: () => unknown,
) {
  const at = accepting.protocols.length
  const connecting = t.connect(accepting.server, { mayBreak: true })
  // The factory's product is broken before connectionMade is called with it.
  void accepting.until(() => {
    const protocol = accepting.protocols[at]
    if (protocol === undefined) return false
    breakCallback(protocol, callback, instead)
    return true
  })
  const client = await connecting
  const protocol = await accepting.protocol(at)
  if (callback !== 'connectionMade') await protocol.noted('made')
  return { client, protocol }
}

function breakCallback(protocol: Recorder, callback: string & keyof Protocol, instead: () => unknown): void {
  const callbacks = protocol as unknown as Record<string, (...args: unknown[]) => unknown>
  const original = callbacks[callback]
  callbacks[callback] = (...args: unknown[]) => {
    if (callback !== 'getBuffer') original?.apply(protocol, args)
    return instead()
  }
}

function assertReport(report: ExceptionContext | undefined, error: Error, protocol: Recorder): void {
  assert.equal(report?.error, error)
  assert.equal(typeof report?.message, 'string')
  assert.equal(report?.protocol, protocol)
  const { transport } = report as { transport?: Transport }
  assert.equal(transport, protocol.transport)
}
