import assert from 'node:assert/strict'
import { Recorder } from './harness/recorder.js'
import { assertCode, assertReset, assertThrows, forEachTransport } from './harness/suite.js'

/** The timers tick every 100 ms, and may be late by a busy machine. */
const RESOLUTION_MS = 100
const IDLE_MS = 300

class Idle extends Recorder {
  readonly startedAt = performance.now()
  timedOutAt: number[] = []

  override connectionMade(transport: Parameters<Recorder['connectionMade']>[0]): void {
    super.connectionMade(transport)
    transport.setIdleTimeout(IDLE_MS)
  }

  idleTimedOut(): void {
    this.timedOutAt.push(performance.now())
    this.note('idle')
  }
}

/** Something to do every `everyMs` for as long as `whileTrue` holds. */
async function repeat(times: number, everyMs: number, action: () => void): Promise<void> {
  for (let time = 0; time < times; time++) {
    action()
    await new Promise((resolve) => setTimeout(resolve, everyMs))
  }
}

forEachTransport('idle timeout', (test) => {
  test('idleTimedOut is called when no byte moved for the time, not before', async (t) => {
    const { client, protocol } = await t.pair(() => new Idle())
    await protocol.noted('idle')
    const waited = (protocol.timedOutAt[0] as number) - protocol.startedAt
    assert.ok(waited >= IDLE_MS - RESOLUTION_MS, `called after ${waited} ms`)
    assert.equal(protocol.transport.isClosing(), false, 'what to do about it is for the protocol to say')
    protocol.transport.write('still here')
    assert.equal((await client.readExactly(10)).toString(), 'still here')
  })

  test('without idleTimedOut the connection is aborted by name', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    protocol.transport.setIdleTimeout(IDLE_MS)
    const error = assertCode(await protocol.lost(), 'ERR_SHARDLOOP_IDLE_TIMEOUT')
    assert.equal((error as { blame?: string }).blame, 'peer')
    assertReset(client, await client.untilClose())
    assert.deepEqual(protocol.events, ['made', 'lost'])
  })

  test("the server's idleTimeoutMs is where every connection starts", async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { idleTimeoutMs: IDLE_MS })
    assertCode(await protocol.lost(), 'ERR_SHARDLOOP_IDLE_TIMEOUT')
    await client.untilClose()
  })

  test('bytes from the peer renew it', async (t) => {
    const { client, protocol } = await t.pair(() => new Idle())
    await repeat(12, IDLE_MS / 4, () => client.socket.write('x'))
    assert.deepEqual(protocol.events, ['made'], 'none in three times the timeout')
    await protocol.noted('idle')
  })

  test('bytes to the peer renew it', async (t) => {
    const { client, protocol } = await t.pair(() => new Idle())
    await repeat(12, IDLE_MS / 4, () => protocol.transport.write('x'))
    assert.deepEqual(protocol.events, ['made'], 'none in three times the timeout')
    assert.equal((await client.readExactly(12)).length, 12)
    await protocol.noted('idle')
  })

  test('bytes that wait for a peer that does not read are no movement', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    protocol.transport.write(Buffer.alloc(48 << 20))
    protocol.transport.setIdleTimeout(IDLE_MS)
    assertCode(await protocol.lost(), 'ERR_SHARDLOOP_IDLE_TIMEOUT')
    await client.untilReset()
  })

  test('trying to write to a peer that does not read is no movement either', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    protocol.transport.write(Buffer.alloc(48 << 20))
    protocol.transport.setIdleTimeout(IDLE_MS)
    const from = performance.now()
    const trying = setInterval(() => protocol.transport.write('x'), IDLE_MS / 6)
    t.defer(() => clearInterval(trying))
    assertCode(await protocol.lost(), 'ERR_SHARDLOOP_IDLE_TIMEOUT')
    assert.ok(performance.now() - from < 10 * IDLE_MS)
    await client.untilReset()
  })

  test('0 switches it off, and it can be switched on again', async (t) => {
    const accepting = await t.serveEach(() => new Idle())
    const { protocol } = await t.join(accepting)
    protocol.transport.setIdleTimeout(0)
    const clock = await t.join(accepting)
    // Another connection's timeout says when the time is over, twice.
    await clock.protocol.noted('idle')
    const second = await t.join(accepting)
    await second.protocol.noted('idle')
    assert.deepEqual(protocol.events, ['made'])
    protocol.transport.setIdleTimeout(IDLE_MS)
    await protocol.noted('idle')
  })

  test('a new timeout counts from its setting, also when it is shorter', async (t) => {
    const { protocol } = await t.pair(() => new Idle())
    protocol.transport.setIdleTimeout(600_000)
    protocol.transport.setIdleTimeout(200)
    const from = performance.now()
    await protocol.noted('idle')
    const waited = (protocol.timedOutAt[0] as number) - from
    assert.ok(waited < 5000, `called after ${waited} ms`)
  })

  test('200 connections with different timeouts each get their own', async (t) => {
    const accepting = await t.serveEach(() => new Idle())
    const pairs = await Promise.all(Array.from({ length: 200 }, () => t.join(accepting)))
    const setAt = new Map<Idle, { at: number; ms: number }>()
    for (const { protocol } of pairs) {
      const ms = t.random.between(2, 15) * 100
      setAt.set(protocol, { at: performance.now(), ms })
      protocol.transport.setIdleTimeout(ms)
    }
    await Promise.all(pairs.map(({ protocol }) => protocol.noted('idle')))
    for (const [protocol, { at, ms }] of setAt) {
      const waited = (protocol.timedOutAt[0] as number) - at
      assert.ok(waited >= ms - RESOLUTION_MS, `${ms} ms: called after ${waited} ms`)
      assert.ok(waited < ms + 2000, `${ms} ms: called after ${waited} ms`)
    }
  })

  test('closing a connection with a timeout ends the timeout', async (t) => {
    const { client, protocol } = await t.pair(() => new Idle())
    client.end()
    await protocol.lost()
    const other = await t.pair(() => new Idle())
    await other.protocol.noted('idle')
    assert.deepEqual(protocol.events, ['made', 'eof', 'lost'])
  })

  test('a timeout that is no number of milliseconds is refused by name', async (t) => {
    const { protocol } = await t.pair(() => new Recorder())
    for (const wrong of [-1, Number.NaN, Number.POSITIVE_INFINITY, '100', undefined, null]) {
      assertThrows(() => protocol.transport.setIdleTimeout(wrong as number), 'ERR_SHARDLOOP_ARGUMENT')
    }
  })
})
