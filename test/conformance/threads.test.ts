import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { getLoop } from '../../src/index.js'
import { fixtureUrl } from '../harness/child.js'
import { plainSuite } from '../harness/plain.js'

// asyncio: "call_soon_threadsafe", docs.python.org/3/library/asyncio-eventloop.html and asyncio-dev.html ("Concurrency and
// Multithreading"); RLoop: tests/test_handles.py.

plainSuite('callSoonThreadsafe', (test) => {
  // RLoop: test_call_soon_threadsafe. There the other thread waits for conditions that callbacks of the loop notify; here for
  // messages.
  test('calls of another thread run in between those of the loop: 1, 2, 3, 4', async (defer) => {
    const loop = getLoop()
    defer(() => loop.close())
    const calls: number[] = []
    const ended = new Promise<void>((resolve) => {
      loop.expose('call', (number: number) => {
        calls.push(number)
        if (number === 4) resolve()
      })
    })
    const other = new Worker(fixtureUrl('calling-soon'))
    defer(() => other.terminate())
    await once(other, 'online')
    loop.callSoon((number) => void calls.push(number), 1)
    loop.callSoon(() => other.postMessage(2))
    // The loop sleeps until the call wakes it: nothing else is due for long.
    await once(other, 'message')
    while (calls.length < 2) await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual(calls, [1, 2])
    loop.callLater(0.01, (number) => void calls.push(number), 3)
    loop.callLater(0.02, () => other.postMessage(4))
    await ended
    assert.deepEqual(calls, [1, 2, 3, 4])
  })

  // CPython: test_events test_call_soon_threadsafe: the loop runs, and has nothing else to do.
  test('wakes a loop that sleeps', async (defer) => {
    const loop = getLoop()
    defer(() => loop.close())
    const other = new Worker(fixtureUrl('calling-soon'), { workerData: 'after a while' })
    defer(() => other.terminate())
    // A timer that is far off keeps the process up; were the loop not woken, the test would time out.
    const far = setTimeout(() => {}, 60_000)
    defer(() => clearTimeout(far))
    assert.equal(await new Promise((resolve) => loop.expose('call', resolve)), 'after a while')
  })

  // CPython: test_base_events test_call_soon_threadsafe: the callback does not run in the call.
  test('never calls back before it has returned, in its own thread neither', async (defer) => {
    const loop = getLoop()
    defer(() => loop.close())
    const calls: string[] = []
    const called = new Promise<void>((resolve) => {
      loop.expose('call', () => {
        calls.push('called')
        resolve()
      })
    })
    loop.callSoonThreadsafe('supervisor', 'call')
    calls.push('returned')
    await called
    assert.deepEqual(calls, ['returned', 'called'])
  })

  // asyncio: "RuntimeError is raised if the loop has been closed".
  test('is refused by a loop that is closed', async () => {
    const loop = getLoop()
    loop.expose('call', () => assert.fail('it is closed'))
    await loop.close()
    assert.throws(() => loop.callSoonThreadsafe('supervisor', 'call'), { code: 'ERR_SHARDLOOP_STATE' })
  })
})
