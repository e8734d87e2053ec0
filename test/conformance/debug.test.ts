/** asyncio's debug mode (documentation: "Developing with asyncio", Debug Mode), and signals of the program's own for servers. */
import assert from 'node:assert/strict'
import type { Protocol, Transport } from '../../src/index.js'
import { getLogger, getLoop, setLogger } from '../../src/index.js'
import { Deferred } from '../harness/deferred.js'
import { Recorder } from '../harness/recorder.js'
import { RecordingLogger } from '../harness/recording-logger.js'
import { assertRejects, forEveryTransport, type TestContext, whereIs } from '../harness/suite.js'

/** Debug mode for the length of a test. */
function debugging(t: TestContext, slowCallbackDuration = 0.02): RecordingLogger {
  const before = getLogger()
  const records = new RecordingLogger()
  setLogger(records)
  const duration = t.loop.slowCallbackDuration
  t.loop.setDebug(true)
  t.loop.slowCallbackDuration = slowCallbackDuration
  t.defer(() => {
    getLoop().slowCallbackDuration = duration
    getLoop().setDebug(false)
    setLogger(before)
  })
  return records
}

function busy(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}

forEveryTransport('debug mode', (test) => {
  // CPython: test_base_events.test_slow_callback... ("Executing %s took %.3f seconds")
  test('a slow callback is told with its duration and where it was scheduled', async (t) => {
    const records = debugging(t)
    t.loop.callSoon(function slowOne() {
      busy(40)
    })
    t.loop.callLater(0.001, () => busy(40))
    const soon = await records.record(/callSoon took/)
    assert.match(soon.message, /^the callback slowOne of callSoon took 0\.\d{3} seconds$/)
    assert.equal(soon.level, 'warn')
    assert.ok((soon.fields['seconds'] as number) >= 0.04)
    assert.match(String(soon.fields['scheduledAt']), /debug\.test/)
    const later = await records.record(/callLater or callAt took/)
    assert.match(String(later.fields['scheduledAt']), /debug\.test/)
  })

  test('a slow callback of a protocol is told with its connection, its class and where that was made', async (t) => {
    const records = debugging(t)
    const server = await t.serve(() => new Recorder())
    class Slow extends Recorder {
      override connectionMade(transport: Transport): void {
        super.connectionMade(transport)
        busy(40)
      }
    }
    const [transport] = await t.dial(server, () => new Slow())
    const { message, fields } = await records.record(/connectionMade/)
    assert.match(
      message,
      new RegExp(`^connectionMade of connection ${transport.id} took 0\\.\\d{3} seconds$`),
    )
    assert.equal(fields['connection'], transport.id)
    assert.equal(fields['protocol'], 'Slow')
    assert.match(String(fields['createdAt']), /suite|debug\.test/)
    transport.close()
  })

  test('a slow function that another thread calls is told with its name and who called it', async (t) => {
    const records = debugging(t)
    t.loop.expose('slow', (ms: number) => busy(ms))
    await t.loop.call('supervisor', 'slow', 1)
    await t.loop.call('supervisor', 'slow', 40)
    t.loop.callSoonThreadsafe('supervisor', 'slow', 40)
    await records.until(() => records.records.length === 2)
    for (const { message, fields } of records.records) {
      assert.match(message, /^the exposed function slow took 0\.\d{3} seconds$/)
      assert.equal(fields['calledFrom'], 'supervisor')
    }
  })

  test('a quick callback is told of by nobody', async (t) => {
    const records = debugging(t, 5)
    const ran = new Deferred()
    t.loop.callSoon(() => ran.resolve())
    await ran.promise
    assert.deepEqual(records.records, [])
  })

  test('what slow callbacks throw is handled as ever', async (t) => {
    const records = debugging(t)
    const told = new Deferred<unknown>()
    t.loop.setExceptionHandler(({ exception }) => told.resolve(exception))
    const broken = new Error('slow and broken')
    t.loop.callSoon(() => {
      busy(40)
      throw broken
    })
    assert.equal(await told.promise, broken)
    await records.record(/took/)
  })

  // asyncio: ResourceWarning "unclosed transport"
  test('a connection that is open when the loop is closed is told with the stack of its creation', async (t) => {
    const records = debugging(t)
    const server = await t.serve(() => new Recorder())
    const [transport] = await t.dial(server, () => new Recorder())
    await t.loop.close()
    const { level, fields } = await records.record(new RegExp(`^connection ${transport.id} was not closed$`))
    assert.equal(level, 'warn')
    assert.match(String(fields['createdAt']), /suite|debug\.test/)
  })

  test('callbacks that wait when the loop is closed are listed', async (t) => {
    const records = debugging(t)
    t.loop.callLater(60, function inAMinute() {})
    t.loop.callSoon(function now() {})
    t.loop.callLater(30, function cancelled() {}).cancel()
    await t.loop.close()
    const { message, fields } = await records.record(/was closed while/)
    assert.equal(message, 'the loop was closed while 2 callbacks waited')
    const handles = (fields['handles'] as string[]).join('\n')
    assert.match(handles, /inAMinute of callLater or callAt, due in (59|60)\.\d+ seconds[\s\S]*debug\.test/)
    assert.match(handles, /now of callSoon/)
    assert.doesNotMatch(handles, /cancelled/)
  })

  test('SHARDLOOP_DEBUG=1 switches it on', async (t) => {
    const program = `
      import { getLoop } from 'shardloop'
      const loop = getLoop()
      loop.callSoon(function slowOne() { for (const end = Date.now() + 150; Date.now() < end; ); })
      console.log('debug ' + loop.getDebug() + ' ' + loop.slowCallbackDuration)
      loop.callLater(0.2, () => loop.close())
      loop.callLater(60, function never() {})`
    const child = t.spawn(['--input-type=module', '-e', program], { env: { SHARDLOOP_DEBUG: '1' } })
    await child.line(/^debug true 0\.1$/)
    await child.until(() => /slowOne of callSoon took 0\.\d+ seconds/.test(child.stderr))
    await child.until(() => /closed while 1 callbacks waited[\s\S]*never/.test(child.stderr))
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null })
  })

  // asyncio: RuntimeError "Non-thread-safe operation"; here objects of another thread cannot be had at all.
  test('neither loop nor transport nor handle can be sent to another thread', async (t) => {
    const { protocol } = await t.pair(() => new Recorder())
    const handle = t.loop.callLater(60, () => {})
    for (const own of [t.loop, protocol.transport, handle])
      assert.throws(() => structuredClone(own), { name: 'DataCloneError' })
    handle.cancel()
  })
})

forEveryTransport("a server's signal", (test) => {
  const listen = (t: TestContext, signal: AbortSignal, factory: () => Protocol = () => new Recorder()) =>
    t.serve(factory, { signal })

  test('closes it, and what is in flight is answered', async (t) => {
    const aborting = new AbortController()
    const server = await listen(t, aborting.signal, () => {
      let transport: Transport
      return {
        connectionMade(made) {
          transport = made
        },
        dataReceived: (chunk) => transport.write(chunk),
      }
    })
    const client = await t.connect(server)
    client.socket.write('in flight')
    aborting.abort()
    const [answer] = await Promise.all([
      client.readToEnd(),
      new Promise<void>((closed) => server.events.once('close', closed)),
    ])
    assert.equal(answer.toString(), 'in flight')
    client.end()
    await assert.rejects(() => t.connect(whereIs(server)))
  })

  test('that is aborted already starts nothing', async (t) => {
    const reason = new Error('not today')
    await assert.rejects(() => listen(t, AbortSignal.abort(reason)), reason)
  })

  test('that is aborted while it starts ends it again', async (t) => {
    const aborting = new AbortController()
    const started = listen(t, aborting.signal)
    const reason = new Error('changed my mind')
    aborting.abort(reason)
    await assert.rejects(started, reason)
  })

  test('that is none is refused by name', async (t) => {
    await assertRejects(() => listen(t, {} as AbortSignal), 'ERR_SHARDLOOP_OPTION')
  })
})
