import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { getEventListeners, once } from 'node:events'
import { isDeepStrictEqual } from 'node:util'
import { Worker } from 'node:worker_threads'
import { getLoop, type Loop, ShardloopError } from '../src/index.js'
import { threadCalls } from '../src/messages/calls.js'
import { PLACE_SUPERVISOR } from '../src/native/abi.js'
import { native } from '../src/native/index.js'
import { callable, untilReady } from './harness/calls.js'
import { fixtureUrl } from './harness/child.js'
import { Deferred } from './harness/deferred.js'
import { forEachEngine } from './harness/suite.js'

/** Resolves when a shard has read, and run, all that this thread has sent to it so far. */
async function settle(loop: Loop, shard: number): Promise<void> {
  await loop.call(shard, 'echo')
}

forEachEngine('calls between threads', (test) => {
  test('go from everybody to everybody, and say who calls', async (t) => {
    await callable(t)
    const { loop } = t
    loop.expose('from', (payload, { from }) => [from, payload])
    assert.equal(await loop.call(0, 'from'), 'supervisor')
    assert.deepEqual(await loop.call('supervisor', 'from', 1), ['supervisor', 1])
    const relay = (shard: number, target: unknown): Promise<unknown> =>
      loop.call(shard, 'call', { target, name: 'from', payload: 2 })
    assert.equal(await relay(0, 1), 0)
    assert.equal(await relay(1, 0), 1)
    assert.equal(await relay(1, 1), 1, 'itself')
    assert.deepEqual(await relay(1, 'supervisor'), [1, 2])
    const worker = new Worker(fixtureUrl('calling-worker'))
    t.defer(() => worker.terminate())
    const ask = async (order: object): Promise<unknown> => {
      worker.postMessage(order)
      return (await once(worker, 'message'))[0]
    }
    assert.deepEqual(await ask({ target: 0, name: 'from' }), { result: null })
    assert.deepEqual(await ask({ target: 'supervisor', name: 'from', payload: 3 }), { result: [null, 3] })
    assert.deepEqual(await ask({ target: 7, name: 'from' }), { error: 'ERR_SHARDLOOP_GONE' })
  })

  test('to all shards reach each, the sender included, and not the supervisor', async (t) => {
    await callable(t)
    const { loop } = t
    loop.expose('note', () => assert.fail('the supervisor is no shard'))
    loop.callSoonThreadsafe('all', 'note', { to: 'all' })
    await loop.call(0, 'tell', { target: 'all', name: 'note', payload: 'from 0' })
    // What a shard sends to itself is read in its next turn.
    for (const shard of [0, 1]) {
      await loop.call(0, 'call', { target: shard, name: 'echo' })
      const notes = (await loop.call(shard, 'notes')) as unknown[]
      // They are two senders, between whom there is no order.
      assert.equal(notes.length, 2)
      for (const note of [{ to: 'all' }, 'from 0'])
        assert.ok(
          notes.some((heard) => isDeepStrictEqual(heard, note)),
          `${shard} has not heard ${note}`,
        )
    }
  })

  test('of one thread run in their order, of whatever kind and size', async (t) => {
    await callable(t)
    const { loop, random } = t
    const seen: number[] = []
    loop.expose('seen', ([number]) => void seen.push(number))
    const calls: Promise<unknown>[] = []
    const sent: number[] = []
    for (let number = 0; number < 2000; number++) {
      const filler = 'x'.repeat(random.below(10) === 0 ? random.size(1, 100_000) : random.below(50))
      const payload = [number, filler]
      if (random.below(3) > 0) loop.callSoonThreadsafe(0, 'note', payload)
      else calls.push(loop.call(0, 'note', payload))
      sent.push(number)
      if (random.below(50) === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    await Promise.all(calls)
    const notes = (await loop.call(0, 'notes')) as [number, string][]
    assert.deepEqual(
      notes.map(([number]) => number),
      sent,
    )
    for (const payload of notes.slice(0, 500)) loop.callSoonThreadsafe('supervisor', 'seen', payload)
    await loop.call(0, 'call', { target: 'supervisor', name: 'seen', payload: [-1] })
    assert.deepEqual(seen, [...sent.slice(0, 500), -1])
  })

  test('run before what is called later, also from an exit listener of the caller', async (t) => {
    const server = await callable(t, { shards: 1 })
    const words: unknown[] = []
    t.loop.expose('last words', (payload) => void words.push(payload))
    const died = once(server.events, 'shard')
    t.loop.callSoonThreadsafe(0, 'die telling', 'exit listener')
    await died
    await t.loop.call('supervisor', 'last words', 'of the supervisor')
    assert.deepEqual(words, ['exit listener', 'at exit', 'of the supervisor'])
    await untilReady(server, 0)
  })

  test('carry over class, message, stack, code, cause and properties of an error', async (t) => {
    await callable(t, { shards: 1 })
    const thrown = async (how: unknown, by = 'throw'): Promise<Error & Record<string, unknown>> =>
      await t.loop.call(0, by, how).then(
        () => assert.fail('it did not throw'),
        (error) => error,
      )
    for (const by of ['throw', 'reject']) {
      const range = await thrown('range', by)
      assert.ok(range instanceof RangeError && range.cause instanceof TypeError)
      assert.match(String(range.stack), /^RangeError: out of range\n.*calls-module/)
      assert.deepEqual([range.message, range['code'], range['at']], ['out of range', 'E_RANGE', [1]])
    }
    const odd = await thrown('odd')
    assert.deepEqual([odd.message, odd['code'], odd['secret']], ['odd', 'E_ODD', undefined])
    const late = await thrown('dom')
    assert.ok(late instanceof DOMException && late.name === 'TimeoutError' && late.code === 23)
    const shared = await thrown('shared')
    assert.ok(shared instanceof SyntaxError && /calls-module/.test(String(shared.stack)))
    assert.deepEqual([shared['code'], shared['memory']], ['E_SHARED', undefined])
    assert.match((await thrown('unreadable')).message, /properties throw/)
    assert.equal(((await thrown('large'))['data'] as Buffer).length, 1e6)
    assert.equal(await thrown('a text'), 'a text')
    await assert.rejects(
      t.loop.call(0, 'echo', () => {}),
      { name: 'DataCloneError' },
    )
  })

  test('of what is not exposed, or not any more, are refused by name', async (t) => {
    await callable(t)
    const { loop } = t
    const unknown = { code: 'ERR_SHARDLOOP_NOT_EXPOSED' }
    await assert.rejects(loop.call(0, 'never'), unknown)
    assert.throws(() => loop.callSoonThreadsafe(0, 'never'), unknown)
    assert.throws(() => loop.callSoonThreadsafe('all', 'never'), unknown)
    await assert.rejects(loop.call('supervisor', 'echo'), unknown, 'the supervisor has exposed nothing')
    loop.expose('only here', () => {})
    assert.throws(() => loop.expose('only here', () => {}), { code: 'ERR_SHARDLOOP_STATE' })
    await assert.rejects(loop.call(0, 'only here'), {
      ...unknown,
      message: /^shard 0 exposes no function only here/,
    })
    await assert.rejects(loop.call(7, 'echo'), {
      code: 'ERR_SHARDLOOP_GONE',
      message: /^shard 7 is not running/,
    })
    await loop.call(0, 'expose late')
    assert.equal(await loop.call(0, 'late'), 'here')
    // In one turn: it is there when the first is called, and not when the others are.
    const calls = [loop.call(0, 'late'), loop.call(0, 'unexpose late'), loop.call(0, 'late')]
    loop.callSoonThreadsafe(0, 'late')
    const results = await Promise.allSettled(calls)
    assert.deepEqual(results.slice(0, 2), [
      { status: 'fulfilled', value: 'here' },
      { status: 'fulfilled', value: true },
    ])
    assert.equal((results[2] as PromiseRejectedResult).reason.code, unknown.code)
    const [note] = (await loop.call(0, 'notes')) as string[]
    assert.match(
      String(note),
      /the supervisor has called a function by callSoonThreadsafe that this thread does not expose/,
    )
  })

  test('that nobody waits for tell the exception handler of their thread what they throw', async (t) => {
    await callable(t, { shards: 1 })
    for (const name of ['throw', 'reject']) t.loop.callSoonThreadsafe(0, name, 'range')
    t.loop.callSoonThreadsafe(0, 'note', 'the next one')
    await settle(t.loop, 0)
    assert.deepEqual(await t.loop.call(0, 'notes'), [
      'the exposed function throw threw: out of range; in undefined',
      'the next one',
      'the exposed function reject threw: out of range; in undefined',
    ])
  })

  // Each function had one async context for all its calls: who had logged in was who came next, too.
  test('run in the context of expose, and nothing that they enter is seen by another', async (t) => {
    await callable(t, { shards: 1 })
    const { loop } = t
    for (const name of ['login', 'login'])
      for (const user of ['alice', 'bob']) assert.equal(await loop.call(0, name, user), 'of expose')
    const users = ['alice', 'bob', 'carol']
    const later = await Promise.all(users.map((user) => loop.call(0, 'login later', user)))
    assert.deepEqual(
      later,
      users.map((user) => ['of expose', user]),
    )
    loop.callSoonThreadsafe(0, 'throw in store', 'eve')
    loop.callSoonThreadsafe(0, 'login', 'mallory')
    loop.callSoonThreadsafe(0, 'throw', 'x')
    const controller = new AbortController()
    const aborted = loop.call(0, 'wait for abort', null, { signal: controller.signal })
    await settle(loop, 0)
    controller.abort()
    await assert.rejects(aborted, { name: 'AbortError' })
    assert.equal(await loop.call(0, 'store'), 'of expose')
    loop.callSoonThreadsafe(0, 'throw', 'x')
    loop.callSoonThreadsafe(0, 'unexpose late')
    await settle(loop, 0)
    const notes = (await loop.call(0, 'notes')) as string[]
    assert.deepEqual(
      notes.map((note) => note.split('; ')[1]),
      ['in eve', 'in undefined', 'in undefined'],
    )
  })

  test('leave the context of the caller alone', async (t) => {
    await callable(t, { shards: 1 })
    const storage = new AsyncLocalStorage<number>()
    const seen = await Promise.all(
      Array.from({ length: 50 }, (_, number) =>
        storage.run(number, async () => {
          await t.loop.call(0, number % 2 ? 'echo' : 'echo later')
          const first = storage.getStore()
          await t.loop.call(0, 'throw', 'x').catch(() => {})
          return [first, storage.getStore()]
        }),
      ),
    )
    assert.deepEqual(
      seen,
      seen.map((_, number) => [number, number]),
    )
    assert.equal(storage.getStore(), undefined)
  })

  test('are called off by their signal, before, meanwhile and not behind it; nothing is left of it', async (t) => {
    await callable(t, { shards: 1 })
    const { loop } = t
    const reason = new Error('no longer')
    await assert.rejects(loop.call(0, 'note', 'never', { signal: AbortSignal.abort(reason) }), reason)
    const controller = new AbortController()
    const { signal } = controller
    const calls = Array.from({ length: 20 }, () => loop.call(0, 'wait for abort', null, { signal }))
    assert.equal(await loop.call(0, 'echo', 5, { signal }), 5)
    await settle(loop, 0)
    controller.abort(reason)
    for (const call of await Promise.allSettled(calls))
      assert.equal((call as PromiseRejectedResult).reason, reason)
    assert.equal(await loop.call(0, 'aborted'), 20)
    // One that is called off before it has left: it is called all the same, and its answer is nobody's.
    const early = new AbortController()
    const call = loop.call(0, 'note', 'early', { signal: early.signal })
    early.abort()
    await assert.rejects(call, { name: 'AbortError' })
    assert.deepEqual(await loop.call(0, 'notes'), ['early'])
    const late = new AbortController()
    assert.equal(await loop.call(0, 'echo later', 1, { signal: late.signal }), 1)
    late.abort()
    await settle(loop, 0)
    for (const used of [signal, early.signal, late.signal])
      assert.equal(getEventListeners(used, 'abort').length, 0)
    assert.equal(threadCalls().pending, 0)
  })

  test('that are answered do not abort, and those that nobody waits for never do', async (t) => {
    await callable(t, { shards: 1 })
    const signals: AbortSignal[] = []
    const ended = new Deferred()
    t.loop.expose('keep signal', (_, { signal }) => {
      signals.push(signal)
      return ended.promise
    })
    t.loop.callSoonThreadsafe('supervisor', 'keep signal')
    const controller = new AbortController()
    const call = t.loop.call('supervisor', 'keep signal', null, controller)
    ended.resolve()
    await call
    controller.abort()
    await settle(t.loop, 0)
    await t.loop.close()
    assert.deepEqual(
      signals.map(({ aborted }) => aborted),
      [false, false],
    )
  })

  // One payload that could not be read took all that had come with it along, and nobody was told.
  test('whose payload or result is nested too deep to be read fail alone', async (t) => {
    await callable(t, { shards: 1 })
    const { loop } = t
    let unread: Error | undefined
    // A shard's stack is larger than that of the main thread.
    for (let depth = 1000; unread === undefined; depth = Math.ceil(depth * 1.2)) {
      assert.ok(depth < 1e6, 'it always can be read')
      const nested = loop.call(0, 'nested', depth)
      const others = [loop.call(0, 'echo', 1), loop.call(0, 'echo', 2)]
      await nested.catch((error) => {
        unread = error
      })
      assert.deepEqual(await Promise.all(others), [1, 2])
    }
    assert.ok(!(unread instanceof ShardloopError), unread.message)
  })

  test('end by name when the loop is closed, also by the function that is called; then it is as new', async (t) => {
    await callable(t)
    const { loop } = t
    const [closed, late] = [{ code: 'ERR_SHARDLOOP_CLOSED' }, { code: 'ERR_SHARDLOOP_STATE' }]
    const [first, second] = [loop.call(0, 'wait'), loop.call(1, 'wait')]
    let heard = 0
    loop.expose('close', async () => {
      heard += 1
      await loop.close()
    })
    for (let count = 0; count < 5; count++) loop.callSoonThreadsafe('supervisor', 'close')
    const third = loop.call('supervisor', 'close')
    for (const call of [first, second, third]) await assert.rejects(call, closed)
    await loop.close()
    assert.equal(heard, 1)
    assert.equal(native.mailboxAt(PLACE_SUPERVISOR), 0, 'nor did a message behind that open it again')
    for (const call of [() => loop.expose('f', () => {}), () => loop.callSoonThreadsafe(0, 'echo')])
      assert.throws(call, late)
    await assert.rejects(loop.call(0, 'echo'), late)
    assert.equal(threadCalls().pending, 0)
    const next = getLoop()
    t.defer(() => next.close())
    assert.equal(await next.call(0, 'echo', 'again'), 'again')
    next.expose('close', () => 'another one')
    assert.equal(await next.call('supervisor', 'close'), 'another one')
  })
})
