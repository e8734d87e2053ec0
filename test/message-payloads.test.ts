import assert from 'node:assert/strict'
import { getLoop, type Loop } from '../src/index.js'
import { MAIL_INLINE_MAX_BYTES, MAIL_OUTBOX_BYTES } from '../src/native/abi.js'
import { type Defer, plainSuite } from './harness/plain.js'
import { Random } from './harness/random.js'
import { RandomValues } from './harness/random-values.js'
import { assertCode } from './harness/suite.js'

const KiB = 1024
const MiB = 1024 * KiB
const VALUES = 6_000

/** This thread, which exposes `echo` to itself: its messages go the way of all. */
function openLoop(defer: Defer): Loop {
  const loop = getLoop()
  defer(() => loop.close())
  loop.expose('echo', (payload) => payload)
  return loop
}

/** What a function of this thread is given for each payload, all sent in one turn. */
async function arrivals(loop: Loop, payloads: Iterable<unknown>): Promise<unknown[]> {
  const arrived: unknown[] = []
  loop.expose('arrive', (payload) => void arrived.push(payload))
  for (const payload of payloads) loop.callSoonThreadsafe('supervisor', 'arrive', payload)
  await loop.call('supervisor', 'echo')
  loop.unexpose('arrive')
  return arrived
}

plainSuite('payloads', (test) => {
  test('arrive as structured clone has them, whatever they are', async (defer) => {
    const loop = openLoop(defer)
    const random = Random.fromEnvironment()
    const values = new RandomValues(random)
    const payloads = Array.from({ length: VALUES }, () => values.next())
    const arrived = await arrivals(loop, payloads)
    assert.equal(arrived.length, VALUES)
    for (const [index, payload] of payloads.entries())
      assert.deepStrictEqual(arrived[index], cloneOf(payload), `number ${index}, ${random.advice}`)
    const results = await Promise.all(
      payloads.slice(0, 1000).map((payload) => loop.call('supervisor', 'echo', payload)),
    )
    for (const [index, payload] of payloads.slice(0, 1000).entries())
      assert.deepStrictEqual(results[index], cloneOf(payload), `result ${index}, ${random.advice}`)
  })

  test('that are hard to tell from plain data arrive as structured clone has them', async (defer) => {
    const loop = openLoop(defer)
    const shared = { a: 1 }
    const extras = Object.assign([1, 2], { index: 0 })
    // biome-ignore lint/suspicious/noSparseArray: that is what is tested
    const holes = [1, , 3]
    const payloads = [
      { first: shared, second: shared },
      [shared, [shared]],
      extras,
      holes,
      // biome-ignore lint/suspicious/noSparseArray: as above
      Object.assign([1, , 3], { x: 1 }),
      'axb'.match(/x/),
      JSON.parse('{"__proto__":{"polluted":true},"a":1}'),
      { toJSON: 1, a: 2 },
      { toJSON: undefined },
      { a: undefined },
      { a: -0, b: Number.NaN, c: Number.POSITIVE_INFINITY },
      [-0],
      -0,
      Number.NaN,
      2 ** 31,
      -(2 ** 31),
      2 ** 31 - 1,
      '\ud800',
      'ä\udc00',
      { '\ud800': '\udfff' },
      '',
      '\0',
      'é',
      '日本語',
      Object.create(null, { a: { value: 1, enumerable: true } }),
      Object.setPrototypeOf(new Date(5), Object.prototype),
      Object.setPrototypeOf([1], Object.prototype),
      Object.create(Array.prototype),
      Object.setPrototypeOf(new Map([[1, 2]]), Object.prototype),
      new (class Point {
        x = 1
      })(),
      new (class List extends Array<number> {})(3),
      Object('boxed'),
      Object(1n),
      new Error('an error', { cause: 'a cause' }),
      new RangeError('another'),
      { date: new Date(0), map: new Map([[shared, new Set([shared])]]), pattern: /a+/giu, big: 2n ** 70n },
      new ArrayBuffer(5),
      Array.from({ length: 100 }, (_, index) => ({ index })),
    ]
    const cycle: Record<string, unknown> = { name: 'cycle' }
    cycle['self'] = cycle
    payloads.push(cycle)
    const arrived = await arrivals(loop, payloads)
    for (const [index, payload] of payloads.entries())
      assert.deepStrictEqual(arrived[index], structuredClone(payload))
    const { first, second } = arrived[0] as { first: object; second: object }
    assert.equal(first, second, 'one object is one object')
    assert.ok(!Object.hasOwn(Object.prototype, 'polluted'))
  })

  test('of bytes arrive as a Buffer of exactly that size in memory of its own', async (defer) => {
    const loop = openLoop(defer)
    const random = Random.fromEnvironment()
    const header = 24
    const sizes = [0, 1, 3, 4, 63, 64, 65, 79, 80, 81, 4096 - header, 4097, MAIL_INLINE_MAX_BYTES - 1]
    sizes.push(
      MAIL_INLINE_MAX_BYTES,
      MAIL_INLINE_MAX_BYTES + 1,
      MAIL_OUTBOX_BYTES - header,
      MAIL_OUTBOX_BYTES,
    )
    sizes.push(MAIL_OUTBOX_BYTES + 1, MiB - 1, MiB, MiB + 1)
    const sent = sizes.map((size) => random.bytes(size + 8).subarray(8))
    const arrived = (await arrivals(loop, sent)) as Buffer[]
    for (const [index, bytes] of sent.entries()) {
      const got = arrived[index] as Buffer
      assert.ok(Buffer.isBuffer(got) && got.equals(bytes), `${bytes.length} bytes`)
      assert.equal(got.buffer.byteLength, bytes.length)
      assert.equal(got.byteOffset, 0)
    }
    const shared = new Uint8Array(new SharedArrayBuffer(70_000)).fill(7)
    for (const view of [shared, shared.subarray(0, 50)]) {
      const got = (await loop.call('supervisor', 'echo', view)) as Buffer
      assert.ok(
        got.equals(view) && got.buffer.byteLength === view.length && got.buffer instanceof ArrayBuffer,
      )
    }
  })

  test('with typed arrays in them take their ranges along, each in memory of its own', async (defer) => {
    const loop = openLoop(defer)
    const memory = Buffer.alloc(64, 'secret!!').buffer
    for (const filler of [0, 20_000]) {
      const sent = {
        filler: 'x'.repeat(filler),
        bytes: new Uint8Array(memory, 3, 5),
        numbers: new Float64Array(memory, 8, 2),
        view: new DataView(memory, 1, 9),
        buffer: Buffer.from('of a pool'),
        bigs: new BigUint64Array([1n, 2n ** 63n]),
        clamped: new Uint8ClampedArray(3),
        empty: new Int16Array(0),
      }
      const got = (await loop.call('supervisor', 'echo', sent)) as typeof sent
      assert.deepStrictEqual(got, sent)
      for (const part of ['bytes', 'numbers', 'view', 'buffer', 'bigs', 'clamped', 'empty'] as const) {
        assert.equal(got[part].buffer.byteLength, sent[part].byteLength, part)
        assert.equal(got[part].byteOffset, 0, part)
      }
    }
  })

  test('of text keep their length and content around every bound', async (defer) => {
    const loop = openLoop(defer)
    const bounds = [64, 80, 4096, MAIL_INLINE_MAX_BYTES / 2, MAIL_INLINE_MAX_BYTES, MAIL_OUTBOX_BYTES, MiB]
    const sizes = bounds.flatMap((size) => [size - 1, size, size + 1])
    const texts = sizes.flatMap((size) => [
      'a'.repeat(size),
      'é'.repeat(size),
      `${'日'.repeat(size - 1)}\ud800`,
    ])
    const payloads = [
      ...texts,
      ...texts.map((text) => ({ text })),
      ...texts.map((text) => new Map([[text, 1]])),
    ]
    const arrived = await arrivals(loop, payloads)
    for (const [index, payload] of payloads.entries()) assert.deepStrictEqual(arrived[index], payload)
  })

  test('are as they were when they were sent, whatever becomes of them behind it', async (defer) => {
    const loop = openLoop(defer)
    const arrived: unknown[] = []
    loop.expose('arrive', (payload) => void arrived.push(payload))
    const payloads: [Buffer, Buffer, { list: number[] }, Map<string, number[]>] = [
      Buffer.alloc(10, 1),
      Buffer.alloc(100_000, 1),
      { list: [1] },
      new Map([['list', [1]]]),
    ]
    const before = structuredClone(payloads)
    for (const payload of payloads) loop.callSoonThreadsafe('supervisor', 'arrive', payload)
    payloads[0].fill(2)
    payloads[1].fill(2)
    payloads[2].list.push(2)
    payloads[3].get('list')?.push(2)
    await loop.call('supervisor', 'echo')
    assert.deepEqual(
      arrived.map((payload) => (Buffer.isBuffer(payload) ? new Uint8Array(payload) : payload)),
      before,
    )
  })

  // A payload that had no bytes to write was taken for that of the next large message.
  test('without bytes, or refused, are not mistaken for the next one', async (defer) => {
    const loop = openLoop(defer)
    const large = 'x'.repeat(20_000)
    const refused = Buffer.alloc(80 * MiB)
    const arrived: unknown[] = []
    loop.expose('arrive', (payload) => void arrived.push(payload))
    loop.callSoonThreadsafe('supervisor', 'arrive', Buffer.alloc(0))
    loop.callSoonThreadsafe('supervisor', 'arrive', large)
    assert.throws(() => loop.callSoonThreadsafe('supervisor', 'arrive', refused), {
      code: 'ERR_SHARDLOOP_MAILBOX_FULL',
    })
    loop.callSoonThreadsafe('supervisor', 'arrive', large)
    await loop.call('supervisor', 'echo')
    assert.deepEqual(arrived, [Buffer.alloc(0), large, large])
  })

  test('that cannot be cloned are a DataCloneError, however small; nothing is sent', async (defer) => {
    const loop = openLoop(defer)
    const arrived: unknown[] = []
    loop.expose('arrive', (payload) => void arrived.push(payload))
    loop.expose('returns', (which: number) => uncloneable()[which])
    for (const [which, payload] of uncloneable().entries()) {
      const isClone = (error: Error): boolean =>
        error instanceof DOMException && error.name === 'DataCloneError'
      assert.throws(
        () => loop.callSoonThreadsafe('supervisor', 'arrive', payload),
        isClone,
        `number ${which}`,
      )
      await assert.rejects(loop.call('supervisor', 'arrive', payload), isClone)
      const error = await loop.call('supervisor', 'returns', which).catch((error: unknown) => error)
      assert.ok(isClone(error as Error), `result ${which}: ${error}`)
    }
    await loop.call('supervisor', 'echo')
    assert.deepEqual(arrived, [])
  })

  test('whose getters throw are that error, and the next ones go', async (defer) => {
    const loop = openLoop(defer)
    const bad = {
      get a(): number {
        throw new RangeError('of the getter')
      },
    }
    for (let round = 0; round < 50; round++)
      assert.throws(() => loop.callSoonThreadsafe('supervisor', 'echo', bad), { message: 'of the getter' })
    assert.deepEqual(await loop.call('supervisor', 'echo', { a: [1, { b: 2 }] }), { a: [1, { b: 2 }] })
  })

  test('whose getters send something do not mix with it', async (defer) => {
    const loop = openLoop(defer)
    const sender = {
      before: 'before',
      get inside(): number {
        loop.callSoonThreadsafe('supervisor', 'arrive', { inside: ['x'] })
        return 5
      },
      behind: 'behind',
    }
    const arrived = await arrivals(loop, [sender])
    assert.deepEqual(arrived, [{ inside: ['x'] }, { before: 'before', inside: 5, behind: 'behind' }])
  })

  test('nested deeply arrive, or fail alone', async (defer) => {
    const loop = openLoop(defer)
    const nest = (depth: number): unknown[] => {
      let value: unknown[] = []
      for (let level = 1; level < depth; level++) value = [value]
      return value
    }
    for (const depth of [63, 64, 65, 66, 500])
      assert.deepEqual(await loop.call('supervisor', 'echo', nest(depth)), nest(depth))
    await assert.rejects(loop.call('supervisor', 'echo', nest(1_000_000)), RangeError)
    assert.equal(await loop.call('supervisor', 'echo', 'next'), 'next')
  })

  test('and names are checked, with what was expected', async (defer) => {
    const loop = openLoop(defer)
    const bad = ['', 'x'.repeat(257), 'é'.repeat(129), '\ud800', 5, null, undefined, {}]
    for (const name of bad as string[]) {
      for (const call of [
        () => loop.expose(name, () => {}),
        () => loop.unexpose(name),
        () => loop.callSoonThreadsafe('supervisor', name),
      ])
        assert.throws(call, (error) =>
          /name is .* 1 to 256 bytes/.test(assertCode(error, 'ERR_SHARDLOOP_ARGUMENT').message),
        )
      await assert.rejects(loop.call('supervisor', name), { code: 'ERR_SHARDLOOP_ARGUMENT' })
    }
    for (const name of ['x'.repeat(256), 'é'.repeat(128), '日本', '__proto__', 'toString']) {
      loop.expose(name, () => name)
      assert.equal(await loop.call('supervisor', name), name)
      assert.equal(loop.unexpose(name), true)
      assert.equal(loop.unexpose(name), false)
    }
    assert.throws(() => loop.expose('f', 5 as never), { code: 'ERR_SHARDLOOP_ARGUMENT' })
    for (const target of [
      'all',
      'Supervisor',
      -1,
      0.5,
      256,
      2 ** 32,
      Number.NaN,
      null,
      undefined,
      1n,
      {},
    ] as never[])
      await assert.rejects(loop.call(target, 'echo'), { code: 'ERR_SHARDLOOP_ARGUMENT' })
    for (const options of [null, 5] as never[])
      await assert.rejects(loop.call('supervisor', 'echo', 1, options), { code: 'ERR_SHARDLOOP_ARGUMENT' })
    for (const options of [{ signal: {} }, { signal: 5 }, { signal: null }, { timeout: 5 }] as never[])
      await assert.rejects(loop.call('supervisor', 'echo', 1, options), { code: 'ERR_SHARDLOOP_OPTION' })
  })
})

function uncloneable(): unknown[] {
  const values = [
    () => {},
    Symbol('a symbol'),
    new Proxy({ a: 1 }, {}),
    new Proxy([1], {}),
    argumentsObject(),
    new WeakMap(),
    Promise.resolve(1),
    new SharedArrayBuffer(8),
    detached(new Float64Array(2)),
    detached(new DataView(new ArrayBuffer(2))),
  ]
  // Another way is taken for each of these.
  return [
    ...values.filter((value) => !(value instanceof Promise)),
    ...values.flatMap((value) => [{ value }, [value], new Map([[1, value]])]),
  ]
}

function detached(view: Float64Array | DataView): unknown {
  structuredClone(view.buffer, { transfer: [view.buffer as ArrayBuffer] })
  return view
}

function argumentsObject(..._: unknown[]): unknown {
  // biome-ignore lint/complexity/noArguments: that is what is tested
  return arguments
}

/** But that bytes arrive as a Buffer. */
function cloneOf(payload: unknown): unknown {
  const clone = structuredClone(payload)
  return clone instanceof Uint8Array ? Buffer.from(clone) : clone
}
