import assert from 'node:assert/strict'
import type { Transport } from '../../src/index.js'
import { Recorder } from './recorder.js'
import type { TestContext } from './suite.js'

/** Stale transports that are kept to be misused; as many as generations of one slot. */
const STALE_MAX = 5000

/**
 * Opens and closes `count` connections one after the other, so that they share few slots, and after each
 * misuses transports that are lost: every connection must receive its own bytes and nothing else.
 */
export async function churnStale(t: TestContext, count: number): Promise<void> {
  const accepting = await t.serveEach(() => new Recorder())
  const stale: Transport[] = []
  for (let round = 0; round < count; round++) {
    const { client, protocol } = await t.join(accepting)
    for (let misuse = 0; misuse < 8 && stale.length > 0; misuse++) abuse(t.random.pick(stale))
    const last = stale.at(-1)
    if (last !== undefined) abuse(last)
    protocol.transport.write(`only ${round}`)
    await client.write(`hello ${round}`)
    const greeting = `only ${round}`
    assert.equal((await client.readExactly(greeting.length)).toString(), greeting)
    await protocol.receivedAtLeast(`hello ${round}`.length)
    assert.equal(protocol.bytes.toString(), `hello ${round}`)
    assert.deepEqual(protocol.events, ['made'])
    assert.equal(protocol.transport.isReading(), true)
    assert.equal(protocol.transport.getExtraInfo('socket')?.getOption('noDelay'), true)
    if (round % 3 === 0) client.reset()
    else if (round % 3 === 1) client.end()
    else protocol.transport.abort()
    await protocol.lost()
    await client.destroy()
    assert.equal(client.received, greeting.length, 'nothing of anybody else')
    if (stale.length === STALE_MAX) stale.shift()
    stale.push(protocol.transport)
  }
  assert.equal(accepting.protocols.length, count)
}

function abuse(transport: Transport): void {
  transport.write('stale')
  transport.write(Buffer.alloc(20_000, 'stale'))
  transport.writev(['stale', Buffer.from('stale')])
  transport.writeOwned(Buffer.from('stale')).catch(() => {})
  transport.pauseReading()
  transport.setIdleTimeout(100)
  transport.setWriteBufferLimits({ high: 1, low: 0 })
  transport.setProtocol(new Recorder())
  transport.close()
  transport.abort(new Error('stale'))
  const socket = transport.getExtraInfo('socket')
  assert.equal(socket?.fileno(), -1)
  const calls = [
    () => socket?.getsockname(),
    () => socket?.getpeername(),
    () => socket?.getOption('noDelay'),
    () => socket?.setOption('noDelay', false),
  ]
  for (const call of calls) assert.throws(call, { code: 'EBADF' })
}
