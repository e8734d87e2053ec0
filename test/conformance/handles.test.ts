import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { getLoop, type Handle, type Loop, type TimerHandle } from '../../src/index.js'
import { native } from '../../src/native/index.js'
import { Alarm } from '../../src/workers/alarm.js'
import { type Child, fixtureUrl, startFixture } from '../harness/child.js'
import { openDescriptors } from '../harness/leaks.js'
import { type Defer, plainSuite } from '../harness/plain.js'
import { Random } from '../harness/random.js'
import { newestNode, runtimes } from '../harness/runtimes.js'
import { tellSkipped } from '../harness/skip.js'
import { assertCode, assertRejects, assertThrows, forEachEngine } from '../harness/suite.js'

// asyncio: docs.python.org/3/library/asyncio-eventloop.html; CPython: Lib/test/test_asyncio; RLoop: tests/test_handles.py;
// uvloop: tests/test_base.py.

/** A loop of the test's own, closed after it. */
function openLoop(defer: Defer): Loop {
  const loop = getLoop()
  defer(() => loop.close())
  return loop
}

/** Resolves in the round behind the next one: what was scheduled before has run, and what that has scheduled for now. */
async function rounds(loop: Loop, count = 1): Promise<void> {
  for (let nth = 0; nth < count; nth++) await new Promise<void>((resolve) => void loop.callSoon(resolve))
}

function after(loop: Loop, delay: number): Promise<void> {
  return new Promise((resolve) => void loop.callLater(delay, resolve))
}

/** Keeps JavaScript busy, by the loop's clock. */
function beBusy(loop: Loop, seconds: number): void {
  const end = loop.time() + seconds
  while (loop.time() < end);
}

/** What is reported during a test, which prints it by default. */
function collectStderr(defer: Defer): string[] {
  const written: string[] = []
  const original = process.stderr.write
  process.stderr.write = ((text: string) => written.push(text) > 0) as typeof process.stderr.write
  defer(() => {
    process.stderr.write = original
  })
  return written
}

plainSuite('callSoon', (test) => {
  // RLoop: test_call_soon. CPython: test_events EventLoopTestsMixin.test_call_soon.
  test('calls back in the order of the calls, with the arguments, and not before it has returned', async (defer) => {
    const loop = openLoop(defer)
    const calls: unknown[] = []
    loop.callSoon((...args: unknown[]) => calls.push(args), 1, 'a')
    loop.callSoon((arg: number) => calls.push(arg), 2)
    loop.callSoon((...args: unknown[]) => calls.push(args))
    assert.deepEqual(calls, [])
    await rounds(loop)
    assert.deepEqual(calls, [[1, 'a'], 2, []])
  })

  // asyncio, "Scheduling callbacks": "called at the next iteration". CPython: base_events _run_once leaves to the next one what
  // callbacks of this one add.
  test('what a callback schedules runs in the next round, behind all of this one', async (defer) => {
    const loop = openLoop(defer)
    const calls: string[] = []
    loop.callSoon(() => {
      calls.push('1')
      loop.callSoon(() => {
        calls.push('1.1')
        loop.callSoon(() => calls.push('1.1.1'))
      })
      setImmediate(() => calls.push("node's immediate"))
    })
    loop.callSoon(() => {
      calls.push('2')
      loop.callSoon(() => calls.push('2.1'))
    })
    await rounds(loop, 4)
    assert.deepEqual(calls, ['1', '2', '1.1', '2.1', "node's immediate", '1.1.1'])
  })

  test('a callback that schedules itself for ever leaves timers and I/O of Node their turn', async (defer) => {
    const loop = openLoop(defer)
    let going = true
    const again = (): void => {
      if (going) loop.callSoon(again)
    }
    again()
    await new Promise((resolve) => setTimeout(resolve, 2))
    await new Promise((resolve) => void import('node:fs').then(({ stat }) => stat('.', resolve)))
    await after(loop, 0.002)
    going = false
  })

  // asyncio runs a future's callbacks by call_soon, so they come behind what is scheduled already.
  test('microtasks and next ticks run after the round, not between its callbacks', async (defer) => {
    const loop = openLoop(defer)
    const calls: string[] = []
    await new Promise<void>((resolve) => {
      loop.callSoon(() => {
        process.nextTick(() => calls.push('tick'))
        queueMicrotask(() => calls.push('microtask'))
        calls.push('first')
        loop.callSoon(resolve)
      })
      loop.callSoon(() => calls.push('second'))
      loop.callLater(1e-9, () => calls.push('timer'))
      beBusy(loop, 0.0001)
    })
    assert.deepEqual(calls, ['first', 'second', 'timer', 'tick', 'microtask'])
  })

  // CPython: test_events HandleTests.test_handle.
  test('a handle that is cancelled is not called, and says so', async (defer) => {
    const loop = openLoop(defer)
    const handle = loop.callSoon(() => assert.fail('it was cancelled'))
    assert.equal(handle.cancelled(), false)
    handle.cancel()
    handle.cancel()
    assert.equal(handle.cancelled(), true)
    await rounds(loop)
    const other = loop.callSoon(() => {})
    await rounds(loop)
    assert.equal(other.cancelled(), false)
    other.cancel()
    assert.equal(other.cancelled(), true)
  })

  // CPython: base_events _run_once looks whether a handle was cancelled when it comes to it.
  test('a callback cancels another of the same round, and itself', async (defer) => {
    const loop = openLoop(defer)
    const calls: string[] = []
    const handles: Handle[] = []
    handles.push(
      loop.callSoon(() => {
        calls.push('first')
        handles[0]?.cancel()
        handles[1]?.cancel()
        handles[3]?.cancel()
      }),
      loop.callSoon(() => calls.push('second')),
      loop.callSoon(() => calls.push('third')),
      loop.callLater(-1, () => calls.push('fourth')),
    )
    await rounds(loop)
    assert.deepEqual(calls, ['first', 'third'])
    assert.deepEqual(
      handles.map((handle) => handle.cancelled()),
      [true, true, false, true],
    )
  })

  // asyncio, "Error Handling API". CPython: test_base_events test_default_exc_handler_callback.
  test('what a callback throws is reported, whatever it is, and stops no other', async (defer) => {
    const loop = openLoop(defer)
    const written = collectStderr(defer)
    const calls: number[] = []
    loop.callSoon(() => {
      throw new Error('of callSoon')
    })
    loop.callSoon(() => calls.push(1))
    loop.callLater(-1, () => {
      // biome-ignore lint/style/useThrowOnlyError: what is no Error is what is tested
      throw null
    })
    loop.callLater(0.001, () => {
      throw new Error('of callLater')
    })
    loop.callLater(0.001, () => calls.push(2))
    await after(loop, 0.01)
    assert.deepEqual(calls, [1, 2])
    assert.equal(written.length, 3)
    assert.match(written[0] as string, / ERROR shardloop: a callback of callSoon threw\nError: of callSoon\n/)
    assert.match(written[1] as string, / ERROR shardloop: a callback of callLater threw\nnull\n/)
    assert.match(written[2] as string, /Error: of callLater/)
  })

  test('a kept handle keeps neither its callback nor its arguments, once called or cancelled', async (defer) => {
    const loop = openLoop(defer)
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const kept: WeakRef<object>[] = []
    const schedule = (make: (callback: (arg: object) => void, arg: object) => Handle): Handle => {
      const [inCallback, arg] = [{}, {}]
      kept.push(new WeakRef(inCallback), new WeakRef(arg))
      return make(() => void inCallback, arg)
    }
    const handles = [
      schedule((callback, arg) => loop.callSoon(callback, arg)),
      schedule((callback, arg) => loop.callLater(0.001, callback, arg)),
      schedule((callback, arg) => loop.callSoon(callback, arg)),
      schedule((callback, arg) => loop.callLater(1000, callback, arg)),
    ]
    handles[2]?.cancel()
    handles[3]?.cancel()
    await after(loop, 0.01)
    await rounds(loop, 2)
    collect()
    assert.deepEqual(
      kept.map((reference) => reference.deref()),
      kept.map(() => undefined),
    )
    assert.equal(handles.length, 4)
  })
})

plainSuite('callLater and callAt', (test) => {
  // RLoop: test_call_later. CPython: EventLoopTestsMixin.test_call_later.
  test('a timer comes behind what is ready, and in the order of times', async (defer) => {
    const loop = openLoop(defer)
    const calls: number[] = []
    const push = (nth: number): void => void calls.push(nth)
    loop.callLater(0.02, push, 4)
    loop.callLater(0.001, push, 2)
    loop.callLater(0.01, push, 3)
    loop.callSoon(push, 1)
    await after(loop, 0.03)
    assert.deepEqual(calls, [1, 2, 3, 4])
  })

  // CPython: base_events _run_once moves due timers behind what is ready.
  test('in one round what callSoon scheduled comes before timers that became due', async (defer) => {
    const loop = openLoop(defer)
    const calls: string[] = []
    loop.callLater(0.001, () => calls.push('timer'))
    beBusy(loop, 0.003)
    loop.callSoon(() => calls.push('soon'))
    loop.callSoon(() => calls.push('soon too'))
    await rounds(loop, 2)
    assert.deepEqual(calls, ['soon', 'soon too', 'timer'])
  })

  // RLoop: test_call_later_negative (CPython sorts by time there, uvloop and RLoop do not).
  test('a delay of 0 or less is callSoon, in the order of the calls', async (defer) => {
    const loop = openLoop(defer)
    const calls: number[] = []
    const push = (nth: number): void => void calls.push(nth)
    loop.callLater(-1, push, 1)
    loop.callLater(-2, push, 2)
    loop.callSoon(push, 3)
    loop.callLater(0, push, 4)
    loop.callAt(loop.time() - 100, push, 5)
    loop.callSoon(push, 6)
    loop.callLater(-0, push, 7)
    loop.callAt(-5, push, 8)
    await rounds(loop)
    assert.deepEqual(calls, [1, 2, 3, 4, 5, 6, 7, 8])
  })

  test('of the same time the first that was scheduled comes first', async (defer) => {
    const loop = openLoop(defer)
    const calls: number[] = []
    const when = loop.time() + 0.3 // still ahead when the last is scheduled
    for (let nth = 0; nth < 100; nth++) {
      // So that the delays differ.
      if (nth % 10 === 0) beBusy(loop, 0.0002)
      loop.callAt(when, (arg: number) => calls.push(arg), nth)
    }
    await after(loop, 0.31)
    assert.deepEqual(
      calls,
      Array.from({ length: 100 }, (_, nth) => nth),
    )
  })

  // RLoop: test_call_at. uvloop: test_call_at.
  test('callAt is never early', async (defer) => {
    const loop = openLoop(defer)
    const when = loop.time() + 0.1
    const called = await new Promise<number>((resolve) => {
      const handle = loop.callAt(when, () => resolve(loop.time()))
      assert.equal(handle.when(), when)
    })
    assert.ok(called >= when, `${called - when} s`)
  })

  // uvloop: test_base test_call_later_rounding ("shouldn't call cb early").
  test('no timer is early by the clock of the loop, below a millisecond neither', async (defer) => {
    const loop = openLoop(defer)
    const random = Random.fromEnvironment()
    for (let nth = 0; nth < 300; nth++) {
      const delay = random.size(1, 5000) / 1e6
      const before = loop.time()
      const called = await new Promise<number>((resolve) => {
        loop.callLater(delay, () => resolve(loop.time()))
      })
      assert.ok(called - before >= delay, `${delay} s: ${called - before}. ${random.advice}`)
    }
  })

  // RLoop: test_call_later_due_without_io.
  test('a timer that became due while JavaScript was busy fires when the loop turns, on an idle loop', async (defer) => {
    const loop = openLoop(defer)
    const began = loop.time()
    const fired = new Promise<number>((resolve) => void loop.callLater(0.01, () => resolve(loop.time())))
    loop.callSoon(beBusy, loop, 0.1)
    const after = (await fired) - began
    assert.ok(after >= 0.1 && after < 1, `${after} s`)
  })

  test('an earlier timer is not held up by a later one that was set first, nor by cancelled ones', async (defer) => {
    const loop = openLoop(defer)
    const calls: string[] = []
    loop.callLater(1000, () => calls.push('late'))
    await rounds(loop, 3)
    // The clock is set for it by now, and rings for nobody.
    const cancelled = loop.callLater(0.1, () => calls.push('cancelled'))
    await rounds(loop, 3)
    cancelled.cancel()
    loop.callLater(0.15, () => calls.push('second'))
    loop.callLater(0.002, () => calls.push('first'))
    await after(loop, 0.16)
    assert.deepEqual(calls, ['first', 'second'])
  })

  test('a callback cancels a timer that is due in the same round, and a timer one of its round', async (defer) => {
    const loop = openLoop(defer)
    const calls: string[] = []
    const timers: TimerHandle[] = [
      loop.callLater(0.001, () => calls.push('of a callback')),
      loop.callLater(0.0011, () => timers[2]?.cancel()),
      loop.callLater(0.0012, () => calls.push('of a timer')),
      loop.callLater(0.0013, () => calls.push('last')),
    ]
    beBusy(loop, 0.003)
    loop.callSoon(() => timers[0]?.cancel())
    await after(loop, 0.005)
    assert.deepEqual(calls, ['last'])
  })

  test('what a timer sets for a time that has passed runs in the next round', async (defer) => {
    const loop = openLoop(defer)
    const calls: string[] = []
    loop.callLater(0.001, () => {
      loop.callLater(1e-9, () => calls.push('nested timer'))
      loop.callSoon(() => calls.push('nested soon'))
      beBusy(loop, 0.002)
      calls.push('first')
    })
    loop.callLater(0.001, () => calls.push('second'))
    beBusy(loop, 0.002)
    await after(loop, 0.01)
    await rounds(loop, 2)
    assert.deepEqual(calls, ['first', 'second', 'nested soon', 'nested timer'])
  })

  // Node's setTimeout takes 2^31 - 1 ms and calls at once for more.
  test('delays of more than 24.8 days, and of any number, are taken, and can be cancelled', async (defer) => {
    const loop = openLoop(defer)
    const days = 24 * 3600
    const delays = [24.8 * days, 25 * days, 1000 * days, 2 ** 53, 1e300, Number.MAX_VALUE]
    const handles = delays.map((delay) => loop.callLater(delay, () => assert.fail(`${delay} s have passed`)))
    assert.ok((handles[0]?.when() ?? 0) >= loop.time() + 24 * days)
    await after(loop, 0.01)
    for (const handle of handles) {
      assert.equal(handle.cancelled(), false)
      handle.cancel()
      await rounds(loop)
    }
    // With only such a one the clock is set to it.
    const last = loop.callLater(Number.MAX_VALUE, () => assert.fail())
    await new Promise((resolve) => setTimeout(resolve, 5))
    last.cancel()
  })

  test(
    'a million timers are scheduled and cancelled, in any order, and none is called',
    async (defer) => {
      const loop = openLoop(defer)
      const random = new Random(7)
      const never = (): void => assert.fail('it was cancelled')
      const handles = Array.from({ length: 1_000_000 }, () => loop.callLater(60 + random.below(100), never))
      for (let last = handles.length - 1; last > 0; last--) {
        const other = random.below(last + 1)
        handles[last]?.cancel()
        handles[last] = handles[other] as TimerHandle
        handles[other]?.cancel()
      }
      handles[0]?.cancel()
      await after(loop, 0.001)
    },
    { timeoutMs: 60_000 },
  )

  test('neither setting nor cancelling timers is a native call, but for the first when there was none', async (defer) => {
    const loop = openLoop(defer)
    let calls = 0
    const { reference } = native.NativeAlarm.prototype
    native.NativeAlarm.prototype.reference = function () {
      calls++
      reference.call(this)
    }
    defer(() => {
      native.NativeAlarm.prototype.reference = reference
    })
    for (let nth = 0; nth < 1000; nth++) loop.callLater(nth, () => {}).cancel()
    assert.equal(calls, 1)
    const kept = loop.callLater(1000, () => {})
    for (let nth = 0; nth < 100; nth++) await after(loop, 0.0001)
    assert.equal(calls, 1)
    kept.cancel()
    await new Promise((resolve) => setTimeout(resolve, 2))
    loop.callLater(1000, () => {}).cancel()
    assert.equal(calls, 2, 'it was let go of meanwhile')
  })

  for (const coarse of [false, true]) {
    const which = coarse ? 'of milliseconds, as on systems without a timerfd' : 'of this system'
    test(`the clock ${which} rings when its time has come, once, and for the earliest time`, async (defer) => {
      const loop = openLoop(defer)
      let rung: (time: number) => void = () => assert.fail('it is not set')
      const alarm = new Alarm(() => rung(loop.time()), coarse)
      defer(() => alarm.close())
      const rings = (): Promise<number> =>
        new Promise((resolve) => {
          rung = (time) => {
            alarm.set(Number.POSITIVE_INFINITY)
            rung = () => assert.fail('it has rung already')
            resolve(time)
          }
        })
      for (const delay of [0.02, 0.0004, 0.003, 0]) {
        const when = loop.time() + delay
        alarm.set(when)
        const rang = await rings()
        assert.ok(rang >= when, `${rang - when} s`)
      }
      const began = loop.time()
      alarm.set(began + 1000)
      await new Promise(setImmediate)
      await new Promise(setImmediate)
      alarm.set(began + 0.01)
      assert.ok((await rings()) < began + 100)
      // Set, then later: the first time rings for nobody.
      alarm.set(loop.time() + 0.1)
      await new Promise(setImmediate)
      const later = loop.time() + 0.15
      alarm.set(later)
      assert.ok((await rings()) >= later)
      await new Promise((resolve) => setTimeout(resolve, 5))
    })
  }
})

plainSuite('a loop', (test) => {
  test('tells the time of the monotonic clock', (defer) => {
    const loop = openLoop(defer)
    for (let nth = 0; nth < 1000; nth++) {
      const before = process.hrtime()
      const time = loop.time()
      const after = process.hrtime()
      assert.ok(before[0] + before[1] * 1e-9 <= time && time <= after[0] + after[1] * 1e-9)
    }
    const ms = loop.timeMs()
    assert.ok(ms <= loop.time() * 1000 && loop.timeMs() >= ms)
  })

  // CPython: test_events EventLoopTestsMixin.test_close; test_base_events test_close.
  test('that is closed refuses calls by name, and getLoop gives another', async () => {
    const loop = getLoop()
    assert.equal(getLoop(), loop)
    assert.equal(loop.isClosed(), false)
    const closing = loop.close()
    assert.equal(loop.isClosed(), true)
    assert.notEqual(getLoop(), loop)
    const code = 'ERR_SHARDLOOP_STATE'
    const refused: Record<string, () => unknown> = {
      callSoon: () => loop.callSoon(() => {}),
      callLater: () => loop.callLater(1, () => {}),
      callAt: () => loop.callAt(1, () => {}),
      time: () => loop.time(),
      timeMs: () => loop.timeMs(),
    }
    for (const [name, call] of Object.entries(refused)) {
      assertThrows(call, code)
      assert.throws(call, new RegExp(`^ShardloopError: ${name} was called on a loop that is closed`))
    }
    await assertRejects(() => loop.getaddrinfo('127.0.0.1', 1), code)
    await assertRejects(() => loop.getnameinfo({ address: '127.0.0.1', port: 1 }), code)
    await Promise.all([closing, loop.close(), loop[Symbol.asyncDispose]()])
    await getLoop().close()
  })

  test('that closes cancels all that waits, in the middle of a round as well', async () => {
    const loop = getLoop()
    const never = (): void => assert.fail('the loop is closed')
    let closed: Promise<void> | undefined
    const handles = [
      loop.callLater(-1, never),
      loop.callLater(0.001, never),
      loop.callLater(1000, never),
      loop.callLater(1000, never),
    ]
    beBusy(loop, 0.002)
    handles[0]?.cancel()
    await new Promise<void>((resolve) => {
      loop.callSoon(() => {
        handles.push(loop.callSoon(never) as TimerHandle)
        closed = loop.close()
        resolve()
      })
      handles.push(loop.callSoon(never) as TimerHandle, loop.callLater(-1, never))
    })
    await closed
    await new Promise((resolve) => setTimeout(resolve, 5))
    assert.ok(handles.every((handle) => handle.cancelled()))
    for (const handle of handles) handle.cancel()
  })

  // RLoop and TokioLoop: a loop that is closed and made again, several times.
  test('runs again after it was closed, four times, and leaves no descriptor', async () => {
    const before = openDescriptors()
    for (let life = 0; life < 4; life++) {
      const loop = getLoop()
      const calls: number[] = []
      loop.callLater(0.001, (nth: number) => calls.push(nth), 2)
      loop.callLater(1000, () => assert.fail())
      loop.callSoon((nth: number) => calls.push(nth), 1)
      await after(loop, 0.003)
      assert.deepEqual(calls, [1, 2])
      await loop.close()
      assert.deepEqual(openDescriptors(), before)
    }
  })

  test('without timers has no descriptor of its own', async (defer) => {
    const before = openDescriptors()
    const loop = openLoop(defer)
    loop.callLater(-1, () => {})
    await rounds(loop, 3)
    assert.deepEqual(openDescriptors(), before)
  })

  test('keeps none of the stores of whoever set the first timer', async (defer) => {
    const loop = openLoop(defer)
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const storage = new AsyncLocalStorage<object>()
    const store = ((): WeakRef<object> => {
      const object = {}
      storage.run(object, () => loop.callLater(0.001, () => assert.equal(storage.getStore(), object)))
      return new WeakRef(object)
    })()
    await after(loop, 0.005)
    await rounds(loop, 2)
    collect()
    assert.equal(store.deref(), undefined)
  })

  test('names what it was given in place of what it takes', async (defer) => {
    const loop = openLoop(defer)
    // biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
    const any = loop as any
    const code = 'ERR_SHARDLOOP_ARGUMENT'
    const cases: [call: () => unknown, message: RegExp][] = [
      [() => any.callSoon(), /callback is undefined; expected a function/],
      [() => any.callSoon('f'), /callback is 'f'; expected a function/],
      [() => any.callLater(1), /callback is undefined; expected a function/],
      [
        () => any.callLater(() => {}, 1),
        /delaySeconds is \[Function.*; expected seconds, as a finite number/,
      ],
      [() => any.callLater('1', () => {}), /delaySeconds is '1'; expected seconds/],
      [() => any.callLater(null, () => {}), /delaySeconds is null/],
      [() => any.callLater(1n, () => {}), /delaySeconds is 1n/],
      [() => loop.callLater(Number.NaN, () => {}), /delaySeconds is NaN/],
      [() => loop.callLater(Number.POSITIVE_INFINITY, () => {}), /delaySeconds is Infinity/],
      [() => loop.callLater(Number.NEGATIVE_INFINITY, () => {}), /delaySeconds is -Infinity/],
      [() => loop.callAt(Number.NaN, () => {}), /whenSeconds is NaN; expected seconds, as a finite number/],
      [() => any.callAt(1, {}), /callback is {}; expected a function/],
    ]
    for (const [call, message] of cases) {
      assertThrows(call, code)
      assert.throws(call, message)
    }
    await rounds(loop)
  })

  test('has no timer when the system has no descriptor for its clock, and the next call is a new attempt', async (defer) => {
    const loop = openLoop(defer)
    const { openAlarm } = native
    const failing = { errno: 24, syscall: 'timerfd_create' }
    Object.defineProperty(native, 'openAlarm', { value: () => failing, configurable: true, writable: true })
    try {
      assert.throws(
        () => loop.callLater(0.001, () => assert.fail()),
        (error: unknown) => assertCode(error, 'EMFILE').message.startsWith('timerfd_create EMFILE'),
      )
    } finally {
      Object.defineProperty(native, 'openAlarm', { value: openAlarm, configurable: true, writable: true })
    }
    await after(loop, 0.002)
  })
})

plainSuite('getaddrinfo and getnameinfo', (test) => {
  // asyncio, "DNS". uvloop: tests/test_dns.py.
  test('addresses in text are found as they are, whoever asks', async (defer) => {
    const loop = openLoop(defer)
    assert.deepEqual(await loop.getaddrinfo('127.0.0.1', 80), [
      { address: '127.0.0.1', family: 'IPv4', port: 80 },
    ])
    assert.deepEqual(await loop.getaddrinfo('::1', 0, { family: 6 }), [
      { address: '::1', family: 'IPv6', port: 0 },
    ])
  })

  // uvloop: tests/test_dns.py, where the host is None.
  test('no host means the loopback addresses, as getaddrinfo(3) says', async (defer) => {
    const loop = openLoop(defer)
    const [six, four] = [
      { address: '::1', family: 'IPv6', port: 7 },
      { address: '127.0.0.1', family: 'IPv4', port: 7 },
    ] as const
    assert.deepEqual(await loop.getaddrinfo(null, 7), [six, four])
    assert.deepEqual(await loop.getaddrinfo(null, 7, { family: 4 }), [four])
    assert.deepEqual(await loop.getaddrinfo(null, 7, { family: 6 }), [six])
  })

  test('a name is looked up by the system', async (defer) => {
    const loop = openLoop(defer)
    const found = await loop.getaddrinfo('localhost', 443)
    assert.ok(found.length > 0)
    for (const { address, family, port } of found) {
      assert.equal(port, 443)
      assert.ok(family === 'IPv4' ? address.startsWith('127.') : address === '::1', address)
    }
  })

  test('what is not found is an error in the shape of Node', async (defer) => {
    const loop = openLoop(defer)
    // A name that there is not, and an address that is none of that family.
    for (const [host, family] of [
      ['there is no such host.invalid', 4],
      ['127.0.0.1', 6],
    ] as const) {
      const error = await loop.getaddrinfo(host, 1, { family }).catch((reason: unknown) => reason)
      assert.ok(error instanceof Error)
      assert.match(error.message, /^getaddrinfo \w+ /)
      assert.equal((error as NodeJS.ErrnoException).syscall, 'getaddrinfo')
      assert.equal(typeof (error as NodeJS.ErrnoException).errno, 'number')
      assert.match(String((error as NodeJS.ErrnoException).code), /^(ENOTFOUND|EAI_\w+)$/)
    }
  })

  // asyncio, "DNS". uvloop: tests/test_dns.py, getnameinfo.
  test('an address has a host and a service', async (defer) => {
    const loop = openLoop(defer)
    const { host, service } = await loop.getnameinfo({ address: '127.0.0.1', port: 65_534 })
    assert.ok(host.length > 0)
    assert.equal(service, '65534')
  })

  test('a signal gives up, before and while it waits, with its reason', async (defer) => {
    const loop = openLoop(defer)
    const reason = new Error('changed my mind')
    const aborted = AbortSignal.abort(reason)
    const lookUp = (signal: AbortSignal): Promise<unknown>[] => [
      loop.getaddrinfo('localhost', 1, { signal }),
      loop.getnameinfo({ address: '127.0.0.1', port: 1 }, { signal }),
    ]
    const refused = [...lookUp(aborted), loop.getaddrinfo(null, 1, { signal: aborted })]
    for (const attempt of await Promise.allSettled(refused))
      assert.deepEqual(attempt, { status: 'rejected', reason })
    const controller = new AbortController()
    const waiting = lookUp(controller.signal).map((attempt) => attempt.catch((error: unknown) => error))
    controller.abort(reason)
    assert.deepEqual(await Promise.all(waiting), [reason, reason])
    const { signal } = new AbortController()
    await Promise.all(lookUp(signal))
  })

  test('what they do not take is refused by name', async (defer) => {
    const loop = openLoop(defer)
    // biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
    const any = loop as any
    const argument = 'ERR_SHARDLOOP_ARGUMENT'
    for (const host of [undefined, '', 5, 'a\0b'])
      await assertRejects(() => any.getaddrinfo(host, 1), argument)
    for (const port of [undefined, -1, 65_536, 1.5, '80'])
      await assertRejects(() => any.getaddrinfo('::1', port), argument)
    for (const where of [null, {}, { address: 'localhost', port: 1 }, { address: '::1', port: -1 }])
      await assertRejects(() => any.getnameinfo(where), argument)
    const option = 'ERR_SHARDLOOP_OPTION'
    for (const options of [null, { family: 5 }, { signal: 5 }, { flags: 1 }])
      await assertRejects(() => any.getaddrinfo('::1', 1, options), option)
    await assertRejects(() => any.getnameinfo({ address: '::1', port: 1 }, { family: 4 }), option)
  })
})

plainSuite('programs with timers', (test) => {
  const start = (defer: Defer, scenario: string, command: string): Child => {
    const child = startFixture('handles', [scenario], { command, env: { MALLOC_PERTURB_: '165' } })
    defer(async () => {
      child.kill('SIGKILL')
      await child.untilExit()
    })
    return child
  }

  const ENDS: [scenario: string, behaviour: string, lines: string[], code?: number][] = [
    ['pending', 'a timer that waits keeps the process alive, and no longer', ['main is over', 'called']],
    ['cancelled', 'a cancelled timer keeps no process alive', ['cancelled']],
    ['cancelled at once', 'nor do a thousand that were cancelled at once', ['cancelled']],
    // It used to stay alive, and busy: the alarm was left at the time of the timer that had been taken out.
    [
      'due beside a past one',
      'nor does one that was due when another was scheduled for the past',
      ['due', 'past'],
    ],
    ['closed under a timer', 'nor does the timer of a loop that is closed', ['closed']],
    ['exit under timers', 'process.exit under timers, also of a worker, is clean', [], 7],
    ['terminate under timers', 'worker.terminate under timers is clean, at any moment', ['terminated']],
    [
      'worker',
      'a worker thread has a loop of its own on the same clock, and ends when it is empty',
      ['same clock true', 'soon later', 'worker exit 0'],
    ],
  ]
  for (const [suffix, command] of runtimes) {
    for (const [scenario, behaviour, lines, code = 0] of ENDS) {
      test(`${behaviour}${suffix}`, async (defer) => {
        const child = start(defer, scenario, command)
        assert.deepEqual(await child.untilExit(), { code, signal: null }, child.describe())
        assert.deepEqual(child.lines, lines, child.describe())
        assert.equal(child.stderr, '')
      })
    }

    // asyncio: call_soon and the others run the callback in a copy of the current context.
    test(`each handle has the store of the call that made it, and its own changes${suffix}`, async (defer) => {
      const child = start(defer, 'context', command)
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      const stores = {
        soon: 'none',
        'soon a': 'a',
        'soon b': 'b',
        'past b': 'b',
        'later b': 'b',
        later: 'none',
        'at c': 'c',
      }
      const expected = Object.entries(stores).flatMap(([name, store]) => [
        `${name} ${store}`,
        `microtask of ${name} entered by ${name}`,
      ])
      assert.deepEqual(child.lines[0]?.split(', ').sort(), expected.sort())
    })

    test(`what a callback throws is printed, and the process goes on${suffix}`, async (defer) => {
      const child = start(defer, 'throw without a handler', command)
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      assert.deepEqual(child.lines, ['went on'])
      assert.match(child.stderr, / ERROR shardloop: a callback of callSoon threw\nError: a mishap\n {4}at /)
    })
  }
  if (newestNode === undefined)
    tellSkipped('programs with timers', 'on the newest Node', 'it is not installed')
})

forEachEngine('the loop beside a server', (test) => {
  for (const shards of [0, 1]) {
    test(`shards ${shards}: the server's thread has it, and its callbacks write`, async (t) => {
      t.defer(() => getLoop().close())
      const server = await t.serve(fixtureUrl('timer-factory'), { shards })
      const client = await t.connect(server)
      await client.write('x')
      assert.equal((await client.readExactly(15)).toString(), 'soon x, later x')
    })
  }
})
