/**
 * asyncio's exception handler: the section "Error Handling API" of its documentation; CPython:
 * Lib/test/test_asyncio/test_base_events.py, BaseEventLoopTests.test_exc_handler..., test_set_exc_handler...
 */
import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { createServer, getLoop, type Protocol, type Transport } from '../../src/index.js'
import { fixtureUrl } from '../harness/child.js'
import { eventually } from '../harness/deferred.js'
import { Recorder } from '../harness/recorder.js'
import { assertThrows, type ExceptionContext, forEachEngine, type TestContext } from '../harness/suite.js'

/** Callbacks of a connection, and what makes them be called. */
const CALLBACKS = [
  'connectionMade',
  'dataReceived',
  'eofReceived',
  'pauseWriting',
  'resumeWriting',
  'connectionLost',
] as const

forEachEngine("a loop's exception handler", (test) => {
  // CPython: test_set_exc_handler_custom
  test('there is none at first, the one that was set is told, and null takes it away', (t) => {
    assert.equal(t.loop.getExceptionHandler(), null)
    const handler = (): void => {}
    t.loop.setExceptionHandler(handler)
    assert.equal(t.loop.getExceptionHandler(), handler)
    t.loop.setExceptionHandler(null)
    assert.equal(t.loop.getExceptionHandler(), null)
  })

  // CPython: test_set_exc_handler_invalid
  test('what is no function is refused by name, and the one before stays', (t) => {
    const handler = (): void => {}
    t.loop.setExceptionHandler(handler)
    for (const wrong of ['spam', undefined, {}, 7])
      assertThrows(() => t.loop.setExceptionHandler(wrong as never), 'ERR_SHARDLOOP_ARGUMENT')
    assert.equal(t.loop.getExceptionHandler(), handler)
  })

  // asyncio: call_exception_handler(context)
  test('callExceptionHandler passes the context on, its keys and others', (t) => {
    const contexts = setHandler(t)
    const exception = new Error('of the program')
    const context = { message: 'it happened', exception, protocol: {}, own: 1 }
    t.loop.callExceptionHandler(context)
    assert.deepEqual(contexts, [{ ...context, error: exception }])
    for (const wrong of [undefined, null, 'text', {}, { message: 1 }])
      assertThrows(() => t.loop.callExceptionHandler(wrong as never), 'ERR_SHARDLOOP_ARGUMENT')
    assert.equal(contexts.length, 1)
  })

  // CPython: test_exc_handler_in_... run_once: context has message, exception, handle
  for (const method of ['callSoon', 'callLater', 'callAt'] as const) {
    test(`what a callback of ${method} throws is told with its handle, and the others are called`, async (t) => {
      const contexts = setHandler(t)
      const error = new Error('thrown')
      const fail = (): never => {
        throw error
      }
      const called: string[] = []
      const schedule = (callback: () => void) => {
        if (method === 'callSoon') return t.loop.callSoon(callback)
        if (method === 'callLater') return t.loop.callLater(0.001, callback)
        return t.loop.callAt(t.loop.time() + 0.001, callback)
      }
      schedule(() => void called.push('before'))
      const handle = schedule(fail)
      schedule(() => void called.push('after'))
      await eventually(() => called.length === 2)
      assert.deepEqual(called, ['before', 'after'])
      assert.equal(contexts.length, 1)
      assert.equal(contexts[0]?.exception, error)
      assert.equal(contexts[0]?.error, error)
      assert.equal(contexts[0]?.handle, handle)
      assert.match(contexts[0]?.message ?? '', method === 'callSoon' ? /callSoon threw/ : /callLater threw/)
      assert.equal(contexts[0]?.transport, undefined)
    })
  }

  test('what is thrown need not be an Error', async (t) => {
    const contexts = setHandler(t)
    const thrown = ['text', undefined, null, 0, Object.freeze({ code: 'X' })]
    for (const value of thrown)
      t.loop.callSoon(() => {
        throw value
      })
    await eventually(() => contexts.length === thrown.length)
    assert.deepEqual(
      contexts.map(({ exception }) => exception),
      thrown,
    )
  })

  // CPython: test_exc_handler_broken, test_default_exc_handler_broken
  test('one that throws itself is called again the next time, and nothing else suffers', async (t) => {
    let calls = 0
    t.loop.setExceptionHandler(() => {
      calls += 1
      throw new Error('the handler is broken')
    })
    const child = t.start('loop-exceptions', ['broken'])
    let isAfter = false
    t.loop.callSoon(() => {})
    await child.line(/^after it$/)
    await child.until(() => /the handler is broken/.test(child.stderr))
    assert.match(child.stderr, /a callback of callSoon threw[\s\S]*thrown by a callback/)
    assert.match(child.stderr, /the exception handler threw when it was told of that/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    t.loop.setExceptionHandler(() => {
      calls += 1
    })
    t.loop.callSoon(() => {
      throw new Error('told')
    })
    t.loop.callSoon(() => {
      isAfter = true
    })
    await eventually(() => isAfter)
    assert.equal(calls, 1)
  })

  test('one that sets another: that is told of what follows', async (t) => {
    const told: string[] = []
    t.loop.setExceptionHandler(() => {
      told.push('first')
      t.loop.setExceptionHandler(() => told.push('second'))
    })
    for (let round = 0; round < 3; round += 1)
      t.loop.callSoon(() => {
        throw new Error('thrown')
      })
    await eventually(() => told.length === 3)
    assert.deepEqual(told, ['first', 'second', 'second'])
  })

  // CPython: test_default_exc_handler_callback, test_default_exc_handler_coro
  test('the default one logs what happened and the stack to standard error, and the process goes on', async (t) => {
    for (const how of ['default', 'reset', 'called', 'by default'] as const) {
      const child = t.start('loop-exceptions', [how])
      await child.line(/^after it$/)
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      assert.match(
        child.stderr,
        / ERROR shardloop[^\n]*: (a callback of callSoon threw|the program says so)$/m,
      )
      assert.match(child.stderr, /Error: thrown by a callback[^\n]*\n[\s\S]*at .*loop-exceptions/)
      assert.ok(!child.stdout.includes('told'), 'the handler that was taken away is not')
    }
  })

  for (const callback of CALLBACKS) {
    for (const how of ['throws', 'rejects'] as const) {
      test(`${callback} of a connection to others ${how}: told with transport and protocol, and it is aborted`, async (t) => {
        const contexts = setHandler(t)
        const error = new Error(`${callback} ${how}`)
        const accepting = await t.serveEach(() => new Recorder())
        const protocol = new Recorder()
        breakCallback(protocol, callback, () => {
          if (how === 'rejects') return Promise.reject(error)
          throw error
        })
        const [transport] = await t.dial(accepting.server, () => protocol)
        const other = await accepting.protocol(0)
        await other.noted('made')
        trigger(callback, transport, other)
        await eventually(() => contexts.length > 0)
        const lost = await protocol.lost()
        assert.equal(lost, callback === 'connectionLost' ? null : error)
        other.transport.resumeReading() // behind which it hears of the end
        await other.lost()
        assert.equal(contexts.length, 1)
        const [context] = contexts
        assert.equal(context?.exception, error)
        assert.equal(context?.error, error)
        assert.equal(context?.transport, transport)
        assert.equal(context?.protocol, protocol)
        assert.match(context?.message ?? '', new RegExp(`^${callback} of connection .* threw`))
        assert.equal(context?.handle, undefined)
        assert.equal(protocol.count('lost'), 1)
      })
    }
  }

  test('what the factory of a connection to others throws is its promise only', async (t) => {
    const contexts = setHandler(t)
    const accepting = await t.serveEach(() => new Recorder())
    const error = new Error('no protocol')
    await assert.rejects(
      () =>
        t.dial(accepting.server, () => {
          throw error
        }),
      error,
    )
    await (await accepting.protocol(0)).lost()
    assert.deepEqual(contexts, [])
  })

  test("a server's own handler is told of its connections, and that of the loop of all others", async (t) => {
    const ofLoop = setHandler(t)
    const ofServer: ExceptionContext[] = []
    const own = await t.serveEach(breaking('own'), { exceptionHandler: (context) => ofServer.push(context) })
    // Without one: that of the harness stands for it else.
    const shared = await createServer(breaking('shared'), {
      host: '127.0.0.1',
      shards: 0,
      signals: false,
      engine: t.engine,
    })
    t.defer(() => shared.abort())
    const ofOwn = await t.connect(own.server)
    await ofOwn.write('x')
    await ofOwn.untilReset()
    assert.deepEqual(messagesOf(ofServer), ['own'])
    assert.deepEqual(messagesOf(ofLoop), [])
    const ofShared = await t.connect(shared)
    await ofShared.write('x')
    await ofShared.untilReset()
    assert.deepEqual(messagesOf(ofServer), ['own'])
    assert.deepEqual(messagesOf(ofLoop), ['shared'])
    assert.ok(ofLoop[0]?.transport !== undefined && ofLoop[0].protocol !== undefined)
  })

  test('a closed loop leaves none to the next one', async (t) => {
    const contexts = setHandler(t)
    const { loop } = t
    await loop.close()
    assert.notEqual(getLoop(), loop)
    assert.equal(getLoop().getExceptionHandler(), null)
    assertThrows(() => loop.setExceptionHandler(() => {}), 'ERR_SHARDLOOP_STATE')
    assert.deepEqual(contexts, [])
    await getLoop().close()
  })

  test('each thread has its own', async (t) => {
    const contexts = setHandler(t)
    const worker = new Worker(fixtureUrl('loop-in-worker'), { argv: ['exceptions', '--engine', t.engine] })
    t.defer(() => worker.terminate())
    const said: string[] = []
    worker.on('message', (message: string) => said.push(message))
    await once(worker, 'exit')
    assert.deepEqual(said, ['handler null', 'told a callback of callSoon threw: of the worker'])
    assert.deepEqual(contexts, [])
  })

  // asyncio: the handler runs in the context of the callback (since 3.12)
  test('it is called in the async context of the callback that failed', async (t) => {
    const storage = new AsyncLocalStorage<string>()
    const seen: (string | undefined)[] = []
    t.loop.setExceptionHandler(() => seen.push(storage.getStore()))
    const fail = (): never => {
      throw new Error('thrown')
    }
    storage.run('of callSoon', () => t.loop.callSoon(fail))
    storage.run('of callLater', () => t.loop.callLater(0.001, fail))
    await eventually(() => seen.length === 2)
    assert.deepEqual(seen, ['of callSoon', 'of callLater'])
  })
})

function setHandler(t: TestContext): ExceptionContext[] {
  const contexts: ExceptionContext[] = []
  t.loop.setExceptionHandler((context) => contexts.push(context))
  return contexts
}

function messagesOf(contexts: readonly ExceptionContext[]): string[] {
  return contexts.map(({ error }) => (error as Error).message)
}

/** Makes protocols that throw what they are told when they receive. */
function breaking(message: string): () => Recorder {
  return () => {
    const protocol = new Recorder()
    breakCallback(protocol, 'dataReceived', () => {
      throw new Error(message)
    })
    return protocol
  }
}

/** The callback does what it did, and then `instead`. */
function breakCallback(protocol: Recorder, callback: keyof Protocol, instead: () => unknown): void {
  const callbacks = protocol as unknown as Record<string, (...args: unknown[]) => unknown>
  const original = callbacks[callback] as (...args: unknown[]) => unknown
  callbacks[callback] = (...args: unknown[]) => {
    original.apply(protocol, args)
    return instead()
  }
}

/** Has the peer, or the transport, do what makes the callback be called. */
function trigger(callback: (typeof CALLBACKS)[number], transport: Transport, other: Recorder): void {
  if (callback === 'dataReceived') other.transport.write('x')
  else if (callback === 'eofReceived') other.transport.writeEof()
  else if (callback === 'connectionLost') transport.close()
  else if (callback === 'pauseWriting' || callback === 'resumeWriting') {
    other.transport.pauseReading()
    transport.write(Buffer.alloc(16_000_000))
    if (callback === 'resumeWriting') other.transport.resumeReading()
  }
}
