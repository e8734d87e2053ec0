import assert from 'node:assert/strict'
import { createSecretKey, KeyObject } from 'node:crypto'
import { getEventListeners, once } from 'node:events'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import workerThreads, {
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  Worker,
} from 'node:worker_threads'
import { getLoop, type Server } from '../src/index.js'
import { memoryOf } from './fixtures/tasks.js'
import { fixtureUrl } from './harness/child.js'
import { eventually } from './harness/deferred.js'
import { gate, open, TASKS, until, untilBegun } from './harness/executor.js'
import { openDescriptors, threadCount } from './harness/leaks.js'
import { assertCode, assertRejects, forEachEngine, type TestContext } from './harness/suite.js'

/** A module that imports the whole package; as a task it rejects. */
const MANY_FILES = fixtureUrl('executor-in-worker')

/** What a promise is rejected with. */
async function rejection(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  try {
    await promise
  } catch (error) {
    return error as Error
  }
  throw new assert.AssertionError({ message: 'it was not rejected' })
}

/** What would end the process, from now on to the end of the test. */
function unheardErrors(t: TestContext): unknown[] {
  const unheard: unknown[] = []
  const hear = (error: unknown): void => void unheard.push(error)
  for (const event of ['unhandledRejection', 'uncaughtException'] as const) {
    process.on(event, hear)
    t.defer(() => process.off(event, hear))
  }
  return unheard
}

/** A server of this thread that keeps the executor as it shall be. */
function executorOf(t: TestContext, executor: object): Promise<Server> {
  return t.serve(() => ({}), { executor })
}

forEachEngine('the executor of the main thread', (test) => {
  test('piscina is not loaded before a task needs it, and no thread is there', async (t) => {
    const loaded = (): boolean =>
      Object.keys(createRequire(import.meta.url).cache).some((file) => /[\\/]piscina[\\/]/.test(file))
    const server = await executorOf(t, {})
    assert.equal(loaded(), false)
    assert.equal(server.metrics().executor.threads, 0)
    assert.equal(await t.loop.runInExecutor(TASKS, ['hello']), 'hello')
    assert.equal(loaded(), true)
  })

  test('runs a default export, or another one by its name, with the arguments given, on another thread', async (t) => {
    assert.deepEqual(await t.loop.runInExecutor(TASKS, [1, 'two', { three: [3] }]), [
      1,
      'two',
      { three: [3] },
    ])
    assert.deepEqual(await t.loop.runInExecutor(TASKS.href), [])
    assert.equal(await t.loop.runInExecutor(TASKS, ['awaited'], { name: 'later' }), 'awaited')
    const thread = await t.loop.runInExecutor<number>(TASKS, [], { name: 'thread' })
    assert.ok(thread > 0, `${thread}`)
  })

  test('what a task throws arrives with class, message, stack, code, properties and cause', async (t) => {
    const thrown = await rejection(t.loop.runInExecutor(TASKS, ['thrown'], { name: 'fail' }))
    assert.ok(thrown instanceof RangeError)
    assert.equal(thrown.message, 'thrown')
    assert.match(thrown.stack ?? '', /tasks\.(js|ts)/)
    assert.equal(thrown.code, 'ERR_OF_TASK')
    assert.deepEqual((thrown as unknown as { detail: unknown }).detail, [1])
    assert.equal((thrown.cause as Error).message, 'the cause')
    const later = await rejection(t.loop.runInExecutor(TASKS, ['later'], { name: 'failLater' }))
    assert.ok(later instanceof TypeError)
  })

  test('what cannot be run or sent is refused by name, and no thread is lost by it', async (t) => {
    const server = await executorOf(t, { maxThreads: 1 })
    const thread = await t.loop.runInExecutor(TASKS, [], { name: 'thread' })
    const wrong: [call: unknown[], code: string, message: RegExp][] = [
      [[() => 1], 'ERR_SHARDLOOP_ARGUMENT', /^task is .*; expected the file: URL of a module/],
      [['https://example.com/task.js'], 'ERR_SHARDLOOP_ARGUMENT', /expected the file: URL/],
      [['/tmp/task.js'], 'ERR_SHARDLOOP_ARGUMENT', /expected the file: URL/],
      [[TASKS, 'no array'], 'ERR_SHARDLOOP_ARGUMENT', /^args is 'no array'; expected an array/],
      [[TASKS, [], { priority: 1 }], 'ERR_SHARDLOOP_OPTION', /unknown option 'priority'/],
      [[TASKS, [], { signal: 1 }], 'ERR_SHARDLOOP_OPTION', /option signal/],
      [[TASKS, [], { transferList: 1 }], 'ERR_SHARDLOOP_OPTION', /option transferList/],
      [
        [TASKS, [() => 1]],
        'ERR_SHARDLOOP_ARGUMENT',
        /^the arguments of file:.* cannot be sent.*could not be cloned/,
      ],
      [
        ['unknown'],
        'ERR_SHARDLOOP_ARGUMENT',
        /^no task is named 'unknown' in executor.tasks, there are none/,
      ],
      [
        [TASKS, [], { name: 'absent' }],
        'ERR_SHARDLOOP_ARGUMENT',
        /has no export absent .*functions that it exports: .*spin/,
      ],
      [[TASKS, [], { name: 'notAFunction' }], 'ERR_SHARDLOOP_ARGUMENT', /has no export notAFunction/],
      [[TASKS, [], { name: 'closure' }], 'ERR_SHARDLOOP_ARGUMENT', /^the result of file:.* cannot be sent/],
      [[new URL('./absent.js', TASKS)], 'ERR_MODULE_NOT_FOUND', /absent\.js/],
    ]
    for (const [call, code, message] of wrong) {
      const error = await rejection(t.loop.runInExecutor(...(call as [URL])))
      assertCode(error, code)
      assert.match(error.message, message)
    }
    assert.equal(await t.loop.runInExecutor(TASKS, [], { name: 'thread' }), thread, 'the thread is the same')
    assert.equal(server.metrics().executor.threads, 1)
  })

  test('what transferList names moves, ports included; everything else is copied at the call', async (t) => {
    const [moved, copied] = [new Uint8Array(64).fill(1), new Uint8Array(64).fill(2)]
    const { port1, port2 } = new MessageChannel()
    const result = t.loop.runInExecutor<Uint8Array[]>(TASKS, [moved, copied], {
      transferList: [moved.buffer],
    })
    assert.equal(moved.byteLength, 0)
    copied.fill(9)
    assert.deepEqual(await result, [new Uint8Array(64).fill(1), new Uint8Array(64).fill(2)])
    const back = await t.loop.runInExecutor<{ port: MessagePort }>(TASKS, [{ port: port2 }], {
      transferList: [port2],
    })
    back.port.postMessage('through')
    assert.equal(receiveMessageOnPort(port1)?.message, 'through')
    port1.close()
  })

  test('a view of larger memory is sent as a copy of its size, as argument and as result', async (t) => {
    const pooled = Buffer.from('pooled')
    assert.ok(pooled.buffer.byteLength > 6)
    assert.deepEqual(await t.loop.runInExecutor(TASKS, [pooled], { name: 'sizeOf' }), [6, 6])
    const slab = new Float64Array([1, 2, 3, 4])
    const nested = { deep: [slab.subarray(1, 3)] } as { deep: Float64Array[]; self?: unknown }
    nested.self = nested
    const back = await t.loop.runInExecutor<typeof nested>(TASKS, [nested])
    assert.deepEqual([...(back.deep[0] as Float64Array)], [2, 3])
    assert.equal(back.deep[0]?.buffer.byteLength, 16)
    assert.equal(back.self, back, 'cycles stay')
    assert.equal(slab.length, 4, 'and the caller has its memory still')
  })

  test('wherever structured clone finds a view of larger memory, only what it shows is sent', async (t) => {
    const slab = new Uint8Array(1024)
    slab.set([1, 2, 3], 16)
    const part = (): Uint8Array => slab.subarray(16, 19)
    class Message {
      readonly #hidden = 1
      readonly body = part()
      get length(): number {
        return this.#hidden
      }
    }
    class Bodies extends Map<unknown, unknown> {
      override entries(): MapIterator<[unknown, unknown]> {
        return new Map().entries()
      }
    }
    let deep: unknown = part()
    for (let level = 0; level < 20_000; level++) deep = level % 2 === 0 ? [deep] : { deep }
    const key = createSecretKey(Buffer.from('key'))
    const cyclic = new Map<unknown, unknown>([['body', part()]])
    cyclic.set('self', new Set([cyclic]))
    const places: Record<string, unknown> = {
      map: new Bodies([['a', { body: part() }]]),
      mapKey: new Map([[part(), 1]]),
      set: new Set([[part()]]),
      instance: new Message(),
      cause: new RangeError('with a cause', { cause: { body: part() } }),
      cyclic,
      beside: { key, body: part() },
    }
    for (const [place, value] of Object.entries(places)) {
      const [back, size] = await t.loop.runInExecutor<[unknown, number]>(TASKS, [value], {
        name: 'withMemory',
      })
      assert.equal(size, 3, place)
      assert.equal(memoryOf(back), 3, `${place} as a result`)
      places[place] = back
    }
    assert.deepEqual((places['map'] as Map<string, unknown>).get('a'), { body: new Uint8Array([1, 2, 3]) })
    assert.deepEqual(places['instance'], { body: new Uint8Array([1, 2, 3]) })
    assert.ok(places['cause'] instanceof RangeError)
    const { message, stack } = places['cause']
    assert.match(`${message} ${stack}`, /^with a cause RangeError: with a cause\n.*executor\.test/)
    const back = places['cyclic'] as typeof cyclic
    assert.ok((back.get('self') as Set<unknown>).has(back))
    const beside = places['beside'] as { key: unknown }
    assert.ok(beside.key instanceof KeyObject, 'what is beside it stays what it is')
    // Too deep for what is recursive: structured clone refuses it by name, or sends it.
    const tooDeep = await t.loop.runInExecutor(TASKS, [deep]).then(
      () => null,
      (error: unknown) => error,
    )
    if (tooDeep !== null) assertCode(tooDeep, 'ERR_SHARDLOOP_ARGUMENT')
    let nested: unknown = part()
    for (let level = 0; level < 100; level++) nested = level % 2 === 0 ? [nested] : { nested }
    const [, size] = await t.loop.runInExecutor<[unknown, number]>(TASKS, [nested], { name: 'withMemory' })
    assert.equal(size, 3)
    assert.equal(slab.length, 1024, 'and the caller has its memory still')
  })

  test('a result moves what it has for itself, and nothing of what its module keeps', async (t) => {
    await executorOf(t, { maxThreads: 1 })
    for (let round = 0; round < 2; round++) {
      const back = await t.loop.runInExecutor<Record<string, Uint8Array>>(TASKS, [], { name: 'buffers' })
      assert.equal(back['whole']?.byteLength, 1024)
      assert.equal((back['again'] as unknown as Uint8Array[])[0], back['whole'])
      assert.deepEqual([...(back['part'] as Uint8Array)], Array(8).fill(2))
      assert.equal(back['part']?.buffer.byteLength, 8)
      assert.equal(Buffer.from(back['pooled'] as Uint8Array).toString(), 'pooled')
      assert.equal(back['pooled']?.buffer.byteLength, 6)
      assert.deepEqual([...(back['floats'] as Uint8Array)], [2, 3])
      assert.ok(back['shared']?.buffer instanceof SharedArrayBuffer)
      assert.deepEqual([...(back['kept'] as Uint8Array)], [7, 7, 7, 7])
      assert.equal(back['keptIsThere'], true)
    }
    // Memory that cannot move is copied.
    assert.equal((await t.loop.runInExecutor<Uint8Array>(TASKS, [], { name: 'wasm' })).length, 65_536)
  })

  for (const [way, args, cause] of [
    ['exit', [3], /exited with code: 3/],
    ['dieLater', [], /thrown beside the task/],
    ['hog', [], /memory limit/],
  ] as const) {
    test(`a thread that ends by itself (${way}) fails its task by name, no other, and the next one runs`, async (t) => {
      const server = await executorOf(t, { maxThreads: 2, resourceLimits: { maxOldGenerationSizeMb: 24 } })
      const shared = gate()
      const beside = t.loop.runInExecutor(TASKS, [shared], { name: 'wait' })
      await untilBegun(shared, 1)
      const before = server.metrics().executor.failed
      const error = await rejection(t.loop.runInExecutor(TASKS, args, { name: way }))
      assertCode(error, 'ERR_SHARDLOOP_EXECUTOR_DIED')
      assert.match((error.cause as Error).message, cause)
      assert.equal(server.metrics().executor.failed, before + 1)
      assert.equal(await t.loop.runInExecutor(TASKS, ['next']), 'next')
      open(shared)
      assert.equal(await beside, 'let go')
    })
  }

  test('an abort rejects at once with its reason, ends the thread of a running task, and takes a waiting one out', async (t) => {
    const server = await executorOf(t, { maxThreads: 1 })
    const before = server.metrics().executor
    const shared = gate()
    const [running, waiting] = [new AbortController(), new AbortController()]
    const first = t.loop.runInExecutor(TASKS, [shared], { name: 'spin', signal: running.signal })
    const second = t.loop.runInExecutor(TASKS, [shared], { name: 'spin', signal: waiting.signal })
    const third = t.loop.runInExecutor(TASKS, ['third'])
    await untilBegun(shared, 1)
    await until(server, { threads: 1, running: 1, queued: 2 })
    waiting.abort('why not')
    assert.equal(await rejection(second), 'why not')
    await until(server, { running: 1, queued: 1 })
    running.abort()
    assert.equal((await rejection(first)).name, 'AbortError')
    assert.equal(await third, 'third')
    assert.equal(Atomics.load(shared, 0), 1, 'the one that waited has not begun')
    await until(server, { threads: 1, running: 0, queued: 0, cancelled: before.cancelled + 2 })
    const aborted = AbortSignal.abort('before')
    assert.equal(await rejection(t.loop.runInExecutor(TASKS, [], { signal: aborted })), 'before')
    // A signal that is aborted after the end means nothing.
    const late = new AbortController()
    assert.equal(await t.loop.runInExecutor(TASKS, ['done'], { signal: late.signal }), 'done')
    late.abort()
  })

  test('one signal of many tasks is listened to once, and no longer than one of them waits', async (t) => {
    await executorOf(t, { maxThreads: 1 })
    const warnings: Error[] = []
    const warned = (warning: Error): void => void warnings.push(warning)
    process.on('warning', warned)
    t.defer(() => process.off('warning', warned))
    const controller = new AbortController()
    const { signal } = controller
    const run = (): Promise<unknown> => t.loop.runInExecutor(TASKS, [1], { signal })
    assert.deepEqual(await Promise.all(Array.from({ length: 20 }, run)), Array(20).fill(1))
    assert.equal(getEventListeners(signal, 'abort').length, 0)
    const aborted = Array.from({ length: 20 }, () => rejection(run()))
    assert.equal(getEventListeners(signal, 'abort').length, 1)
    controller.abort(new Error('given up'))
    for (const { message } of await Promise.all(aborted)) assert.equal(message, 'given up')
    assert.equal(getEventListeners(signal, 'abort').length, 0)
    await new Promise((resolve) => setImmediate(resolve)) // a warning comes with a later tick
    assert.deepEqual(warnings, [])
  })

  test('a thread whose task is aborted while it starts goes to the next task', async (t) => {
    const server = await executorOf(t, { maxThreads: 1, idleTimeoutMs: 60_000 })
    const controller = new AbortController()
    const first = t.loop.runInExecutor(TASKS, [], { signal: controller.signal })
    await until(server, { running: 1 })
    const next = t.loop.runInExecutor(TASKS, ['next'])
    controller.abort()
    await rejection(first)
    assert.equal(await next, 'next')
  })

  test('an abort while a module is imported leaves no file of it open', async (t) => {
    const server = await executorOf(t, { maxThreads: 1, idleTimeoutMs: 0 })
    const descriptors = openDescriptors().size
    for (let round = 0; round < 6; round++) {
      // Threads end when they are idle, so each imports anew, and is broken off a bit later.
      const controller = new AbortController()
      const task = t.loop.runInExecutor(MANY_FILES, [], { signal: controller.signal })
      setTimeout(() => controller.abort(), 40 + 8 * round)
      await rejection(task)
      await until(server, { threads: 0 })
    }
    await eventually(() => openDescriptors().size <= descriptors)
  })

  test('an import that does not end is broken off after an abort, and the next task runs', async (t) => {
    await executorOf(t, { maxThreads: 1 })
    // It makes a file when it is evaluated.
    const path = t.path('evaluated')
    const source = `import { writeFileSync } from 'node:fs'; writeFileSync(${JSON.stringify(path)}, ''); for (;;);`
    const controller = new AbortController()
    const { signal } = controller
    const stuck = t.loop.runInExecutor(`data:text/javascript,${encodeURIComponent(source)}`, [], { signal })
    await eventually(() => existsSync(path))
    const next = t.loop.runInExecutor(TASKS, ['next'])
    controller.abort()
    await rejection(stuck)
    assert.equal(await next, 'next')
  })

  test('an abort does not start a thread in the place of one that native code holds', async (t) => {
    const server = await executorOf(t, { maxThreads: 1 })
    const shared = gate()
    const controller = new AbortController()
    const held = t.loop.runInExecutor(TASKS, [shared, 2 ** 16], { name: 'native', signal: controller.signal })
    await untilBegun(shared, 1)
    const next = t.loop.runInExecutor(TASKS, ['next'])
    controller.abort()
    await rejection(held)
    const { threads, running, queued } = server.metrics().executor
    assert.deepEqual({ threads, running, queued }, { threads: 1, running: 0, queued: 1 })
    assert.equal(await next, 'next')
  })

  test('closing the loop rejects what is outstanding, and leaves no thread', async (t) => {
    const threads = threadCount()
    const loop = getLoop()
    const shared = gate()
    const running = loop.runInExecutor(TASKS, [shared], { name: 'spin' })
    const waiting = Array.from({ length: 8 }, () => loop.runInExecutor(TASKS, [shared], { name: 'spin' }))
    await untilBegun(shared, 1)
    const unheard = unheardErrors(t)
    void loop.runInExecutor(TASKS, [shared], { name: 'spin' }) // nobody waits for this one
    const closed = loop.close()
    for (const task of [running, ...waiting]) assertCode(await rejection(task), 'ERR_SHARDLOOP_CLOSED')
    await closed
    await eventually(() => threadCount() === threads)
    assert.deepEqual(unheard, [])
    assertCode(await rejection(loop.runInExecutor(TASKS)), 'ERR_SHARDLOOP_STATE')
    assert.equal(await t.loop.runInExecutor(TASKS, ['another loop']), 'another loop')
  })

  test('threads end when they have been idle, and with the last server', async (t) => {
    const threads = threadCount()
    const server = await executorOf(t, { maxThreads: 2, idleTimeoutMs: 1 })
    await Promise.all([t.loop.runInExecutor(TASKS, [1]), t.loop.runInExecutor(TASKS, [2])])
    await until(server, { threads: 0 })
    await server.close()
    const lasting = await executorOf(t, { maxThreads: 2, idleTimeoutMs: 60_000 })
    assert.equal(await t.loop.runInExecutor(TASKS, [3]), 3)
    assert.equal(lasting.metrics().executor.threads, 1)
    await lasting.close()
    assert.equal(lasting.metrics().executor.threads, 0)
    assert.equal(threadCount(), threads)
  })

  test('a task of the program outlives the server, and its thread does not outlive it', async (t) => {
    const threads = threadCount()
    const server = await executorOf(t, { maxThreads: 1, idleTimeoutMs: 60_000 })
    const shared = gate()
    const running = t.loop.runInExecutor(TASKS, [shared], { name: 'wait' })
    await untilBegun(shared, 1)
    await server.close()
    open(shared)
    assert.equal(await running, 'let go')
    await eventually(() => threadCount() === threads)
  })

  test('every bound exceeded once: past maxQueue a call is refused by name, and goes when there is room', async (t) => {
    const server = await executorOf(t, { maxThreads: 1, maxQueue: 2 })
    const before = server.metrics().executor.refused
    const shared = gate()
    const accepted = Array.from({ length: 3 }, () => t.loop.runInExecutor(TASKS, [shared], { name: 'wait' }))
    const error = await rejection(t.loop.runInExecutor(TASKS, [shared], { name: 'wait' }))
    assertCode(error, 'ERR_SHARDLOOP_EXECUTOR_FULL')
    assert.match(
      error.message,
      /^3 tasks .* executor.maxThreads and executor.maxQueue allow: .* raise executor.maxQueue/,
    )
    assert.equal(server.metrics().executor.refused, before + 1)
    open(shared)
    assert.deepEqual(await Promise.all(accepted), Array(3).fill('let go'))
    assert.equal(await t.loop.runInExecutor(TASKS, ['again']), 'again')
  })

  test('without a queue only what a thread is free for is taken', async (t) => {
    await executorOf(t, { maxThreads: 1, maxQueue: 0 })
    const shared = gate()
    const running = t.loop.runInExecutor(TASKS, [shared], { name: 'wait' })
    await assertRejects(() => t.loop.runInExecutor(TASKS), 'ERR_SHARDLOOP_EXECUTOR_FULL')
    await untilBegun(shared, 1)
    open(shared)
    assert.equal(await running, 'let go')
  })

  test('names are those of all servers; an executor that is not what runs is refused, and so is one name for two', async (t) => {
    const first = await executorOf(t, { maxThreads: 1, tasks: { echo: TASKS } })
    await executorOf(t, { tasks: { other: TASKS.href, echo: TASKS } })
    assert.equal(await t.loop.runInExecutor('echo', ['named']), 'named')
    assert.equal(await t.loop.runInExecutor('other', ['later'], { name: 'later' }), 'later')
    const refused = async (executor: object): Promise<string> =>
      assertCode(await rejection(executorOf(t, executor)), 'ERR_SHARDLOOP_OPTION').message
    assert.equal(
      await refused({ maxThreads: 2 }),
      'option executor.maxThreads: expected 1, as the whole process shares one executor, given 2',
    )
    assert.match(await refused({ resourceLimits: { stackSizeMb: 1 } }), /^option executor.resourceLimits/)
    assert.match(
      await refused({ tasks: { echo: new URL('./other.js', TASKS) } }),
      /another server has given that name/,
    )
    const names = Object.fromEntries(Array.from({ length: 1_023 }, (_, index) => [`task ${index}`, TASKS]))
    assert.match(
      await refused({ tasks: names }),
      /expected at most 1024 names, those of all servers together, given 1025$/,
    )
    const unknown = await rejection(t.loop.runInExecutor('third'))
    assert.match(unknown.message, /there are \[ 'echo', 'other' \]/)
    await first.close()
    assert.equal(await t.loop.runInExecutor('echo', ['still']), 'still')
  })

  test('in a worker thread of the program, and in a task, it is refused with what to do instead', async (t) => {
    const worker = new Worker(fixtureUrl('executor-in-worker'), { workerData: 'worker' })
    t.defer(() => worker.terminate())
    const [message] = await once(worker, 'message')
    assert.match(
      message,
      /^ERR_SHARDLOOP_STATE runInExecutor was called in a worker thread .* send the result here/,
    )
    const error = await rejection(t.loop.runInExecutor(fixtureUrl('executor-in-worker')))
    assertCode(error, 'ERR_SHARDLOOP_STATE')
  })

  test('a program ends by itself while threads of the executor are idle, and not before its tasks are done', async (t) => {
    const child = t.start('executor-program')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    assert.equal(child.stdout, 'computed\n')
  })

  test('a thread that the system refuses fails its task alone, and the next task tries again', async (t) => {
    const server = await executorOf(t, { maxThreads: 2, maxQueue: 2_000 })
    const unheard = unheardErrors(t)
    const { failed } = server.metrics().executor
    let refusals = 0
    const refuse = (): void => {
      // As Node has it when pthread_create fails.
      workerThreads.Worker = class {
        constructor() {
          refusals++
          throw Object.assign(new Error('no thread'), { code: 'ERR_WORKER_INIT_FAILED' })
        }
      } as unknown as typeof Worker
    }
    const allow = (): void => {
      workerThreads.Worker = Worker
    }
    t.defer(allow)
    const assertRefused = async (task: Promise<unknown>): Promise<void> => {
      const error = assertCode(await rejection(task), 'ERR_SHARDLOOP_EXECUTOR_DIED')
      assert.equal((error.cause as { code?: string }).code, 'ERR_WORKER_INIT_FAILED', error.message)
    }
    refuse()
    await Promise.all(Array.from({ length: 1_000 }, () => assertRefused(t.loop.runInExecutor(TASKS, [0]))))
    assert.equal(refusals, 1_000)
    await until(server, { threads: 0, running: 0, queued: 0, failed: failed + 1_000 })
    allow()
    const shared = gate()
    const beside = t.loop.runInExecutor(TASKS, [shared], { name: 'wait' })
    await untilBegun(shared, 1)
    refuse()
    for (let round = 0; round < 3; round++) await assertRefused(t.loop.runInExecutor(TASKS, [round]))
    allow()
    // Each thread is given what comes now, and nothing of what was refused.
    const next = Array.from({ length: 6 }, (_, index) => t.loop.runInExecutor(TASKS, [index]))
    assert.deepEqual(await Promise.all(next), [0, 1, 2, 3, 4, 5])
    open(shared)
    assert.equal(await beside, 'let go')
    await until(server, { threads: 2, running: 0, queued: 0, failed: failed + 1_003 })
    refuse()
    assert.equal(await t.loop.runInExecutor(TASKS, ['needs no new one']), 'needs no new one')
    await server.close()
    assert.equal(server.metrics().executor.threads, 0)
    assert.deepEqual(unheard, [])
  })

  for (const state of ['unloaded', 'loaded'] as const) {
    test(`a process without descriptors fails its tasks while it has none, and no longer (${state})`, async (t) => {
      const script = 'ulimit -n 90 && exec "$0" "$@"'
      const file = fileURLToPath(fixtureUrl('executor-starved'))
      const child = t.spawn(['-c', script, process.execPath, file, state], { command: '/bin/sh' })
      await child.untilExit()
      assert.match(child.stdout, /^(?:E\w+\n){3}computed\n$/, child.describe())
    })
  }

  test('threads that cannot start fail their tasks instead of leaving them waiting', async (t) => {
    const failing = `data:text/javascript,${encodeURIComponent(
      "import { isMainThread } from 'node:worker_threads'; if (!isMainThread) throw new Error('no start')",
    )}`
    const child = t.start('executor-program', [], { env: { NODE_OPTIONS: `--import=${failing}` } })
    await child.untilExit()
    assert.match(child.stdout, /^ERR_SHARDLOOP_EXECUTOR_DIED .*no start/, child.describe())
  })
})
