import assert from 'node:assert/strict'
import { existsSync, writeFileSync } from 'node:fs'
import type { Loop, Server } from '../src/index.js'
import { CALLS_PENDING_MAX } from '../src/limits.js'
import { threadCalls } from '../src/messages/calls.js'
import { MAIL_MESSAGE_BYTES, MAILBOX_MAX_BYTES, NAMES_MAX } from '../src/native/abi.js'
import { callable, untilReady } from './harness/calls.js'
import { nextDeath } from './harness/crashes.js'
import { eventually } from './harness/deferred.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

const MiB = 1024 * 1024

/** Blocks a shard until the function that it returns is called. */
function block(t: TestContext, shard: number): () => void {
  const path = t.path('go')
  t.loop.callSoonThreadsafe(shard, 'block', path)
  const release = (): void => {
    if (!existsSync(path)) writeFileSync(path, '')
  }
  t.defer(release)
  return release
}

/** Sends until it is refused; how many were not. */
function fill(loop: Loop, shard: number, payload: (number: number) => unknown): number {
  for (let number = 0; ; number++) {
    try {
      loop.callSoonThreadsafe(shard, 'note', payload(number))
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'ERR_SHARDLOOP_MAILBOX_FULL')
      assert.match(
        (error as Error).message,
        /^the mailbox of shard \d is full: it has not read what it was sent/,
      )
      return number
    }
  }
}

forEachEngine('the bounds of calls', (test) => {
  test('a mailbox that is full refuses; what it took arrives in order, once, and then it takes more', async (t) => {
    await callable(t, { shards: 2 })
    const { loop } = t
    const release = block(t, 0)
    const large = Buffer.alloc(MiB)
    const number = (index: number): unknown => {
      large.writeUInt32LE(index)
      return large
    }
    const taken = fill(loop, 0, number)
    assert.equal(taken, Math.floor(MAILBOX_MAX_BYTES / (MiB + MAIL_MESSAGE_BYTES)), 'what is there is used')
    const small = fill(loop, 0, (index) => taken + index)
    assert.ok(small > 0)
    await assert.rejects(loop.call(0, 'echo'), { code: 'ERR_SHARDLOOP_MAILBOX_FULL' })
    // The others are called all the same.
    assert.throws(() => loop.callSoonThreadsafe('all', 'note', 'all'), { code: 'ERR_SHARDLOOP_MAILBOX_FULL' })
    assert.deepEqual(await loop.call(1, 'notes'), ['all'])
    assert.equal(threadCalls().pending, 0)
    release()
    let notes: unknown[] = []
    await eventually(async () => {
      const read = await loop.call(0, 'note counts').catch(() => undefined)
      notes = (read as unknown[] | undefined) ?? notes
      return notes.length > 0
    })
    assert.deepEqual(
      notes,
      Array.from({ length: taken + small }, (_, index) => index),
    )
    assert.equal(await loop.call(0, 'echo', 'more'), 'more')
  })

  test('a message that is larger than a mailbox is refused at once, one that just fits is not', async (t) => {
    await callable(t, { shards: 1 })
    const { loop } = t
    const fits = Buffer.alloc(MAILBOX_MAX_BYTES - MAIL_MESSAGE_BYTES)
    const full = {
      code: 'ERR_SHARDLOOP_MAILBOX_FULL',
      message: /^a message of 67108865 bytes is larger than a mailbox/,
    }
    const tooLarge = Buffer.alloc(fits.length + 1)
    await assert.rejects(loop.call(0, 'sum', tooLarge), full)
    assert.throws(() => loop.callSoonThreadsafe(0, 'sum', tooLarge), full)
    await assert.rejects(loop.call(0, 'large', tooLarge.length), full, 'the result')
    // Nobody else has room there, so that all of it is free.
    await eventually(() =>
      loop.call(0, 'sum', fits).then(
        (sum) => {
          assert.deepEqual(sum, [fits.length, fits.length])
          return true
        },
        () => false,
      ),
    )
  })

  test('results and errors for which the caller has no room are refused by name, or cut short', async (t) => {
    await callable(t, { shards: 2 })
    const { loop } = t
    const orders = [
      { name: 'large', payload: 40 * MiB },
      { name: 'throw', payload: 'large' },
    ]
    const asked = orders.map((payload) => loop.call(1, 'call', { target: 0, name: 'wait then', payload }))
    await loop.call(1, 'call', { target: 0, name: 'echo' })
    // Who has asked is stuck, and has no room left.
    const release = block(t, 1)
    fill(loop, 1, () => Buffer.alloc(MiB))
    fill(loop, 1, () => 0)
    await loop.call(0, 'release')
    await loop.call(0, 'echo later')
    release()
    const results = await Promise.all(asked.map((call) => call.catch((error) => error)))
    assert.equal((results[0] as { code: string }).code, 'ERR_SHARDLOOP_MAILBOX_FULL')
    const { name, code, message } = results[1] as { name: string; code: string; message: string }
    assert.deepEqual([name, code, message.length], ['TypeError', 'E_LARGE', 2048])
  })

  test('65,536 calls may wait in a thread, and the next is refused', async (t) => {
    await callable(t, { shards: 1 })
    const { loop } = t
    const waiting = Array.from({ length: CALLS_PENDING_MAX }, () => loop.call(0, 'wait'))
    const outcomes = Promise.allSettled(waiting)
    await assert.rejects(loop.call(0, 'echo'), { code: 'ERR_SHARDLOOP_STATE', message: /^65536 calls/ })
    const closing = loop.close()
    assert.ok((await outcomes).every((outcome) => outcome.status === 'rejected'))
    await closing
    assert.equal(threadCalls().pending, 0)
  })

  test('65,536 names are exposed in a process; the next is refused, and those that there are go on', async (t) => {
    const child = t.start('many-names', [String(NAMES_MAX)])
    await child.untilExit()
    assert.deepEqual(
      child.lines,
      ['exposed 65536', 'ERR_SHARDLOOP_STATE', 'again 5', 'ended'],
      child.describe(),
    )
  })
})

forEachEngine('calls of a shard that dies', (test) => {
  const ways = ['throw', 'reject', 'exit', 'panic', 'terminate']
  for (const way of ways) {
    test(`by ${way}: are rejected by name, and its replacement answers`, async (t) => {
      const server: Server = await callable(t, {
        shards: 2,
        ...(way === 'terminate' && { killAfterMs: 1000 }),
      })
      const { loop } = t
      const words: unknown[] = []
      loop.expose('last words', (payload) => void words.push(payload))
      const ofAnother = loop.call(1, 'call', { target: 0, name: 'wait' })
      const [first, other] = [loop.call(0, 'wait'), loop.call(1, 'wait')]
      await loop.call(0, 'echo')
      await loop.call(1, 'call', { target: 0, name: 'echo' }) // behind the other's call
      const died = nextDeath(server)
      // What it said before comes first.
      const result = loop.call(0, 'echo', 'a result')
      if (way === 'terminate') await result // what is stuck is stuck before results that came with it have left
      loop.callSoonThreadsafe(0, way === 'terminate' ? 'die' : 'die telling', way)
      const ends = Promise.allSettled([first, ofAnother])
      other.catch(() => {})
      const gone = { code: 'ERR_SHARDLOOP_GONE', message: /^shard 0 ended before it answered wait$/ }
      assert.equal(await result, 'a result')
      await ends
      await assert.rejects(first, gone)
      await assert.rejects(ofAnother, gone)
      assert.deepEqual(words, way === 'terminate' ? [] : [way])
      await died
      await untilReady(server, 0)
      assert.equal(await loop.call(0, 'echo', 'the replacement'), 'the replacement')
      assert.equal(await loop.call(1, 'call', { target: 0, name: 'from' }), 1)
      loop.callSoonThreadsafe(1, 'release', 'the other one')
      assert.equal(await other, 'the other one')
      assert.equal(threadCalls().pending, 0)
    })
  }

  test('between two lives are refused by name', async (t) => {
    const server = await callable(t, { shards: 2 })
    const { loop } = t
    const died = nextDeath(server)
    loop.callSoonThreadsafe(0, 'die', 'exit')
    await died
    await assert.rejects(loop.call(0, 'echo'), {
      code: 'ERR_SHARDLOOP_GONE',
      // The second while the note of its end has not been read.
      message: /^shard 0 (?:is not running|ended before it answered echo)/,
    })
    assert.throws(() => loop.callSoonThreadsafe(0, 'echo'), { code: 'ERR_SHARDLOOP_GONE' })
    loop.callSoonThreadsafe('all', 'note', 'for those that are there')
    assert.deepEqual(await loop.call(1, 'notes'), ['for those that are there'])
    await untilReady(server, 0)
    assert.deepEqual(await loop.call(0, 'notes'), [])
  })

  test('abort what they have begun elsewhere when the caller dies', async (t) => {
    const server = await callable(t, { shards: 2 })
    const { loop } = t
    const died = nextDeath(server)
    loop.callSoonThreadsafe(0, 'call', { target: 1, name: 'wait for abort' })
    await loop.call(0, 'call', { target: 1, name: 'echo' })
    loop.callSoonThreadsafe(0, 'die', 'exit')
    await died
    await eventually(async () => (await loop.call(1, 'aborted')) === 1)
    await untilReady(server, 0)
  })
})
