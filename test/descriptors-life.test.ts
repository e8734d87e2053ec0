import assert from 'node:assert/strict'
import { once } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import { getLoop, type Loop, type RawSocket, socketPair } from '../src/index.js'
import { fixtureUrl } from './harness/child.js'
import { openDescriptors } from './harness/leaks.js'
import { type Defer, plainSuite } from './harness/plain.js'
import { Random } from './harness/random.js'

/** As many as a busy proxy by hand would watch. */
const MANY = 1000

plainSuite('the life of watched descriptors', (test) => {
  test('1,000 are watched at once, each is told when it is ready, and nothing is left of them', async (defer) => {
    const before = openSockets()
    const loop = openLoop(defer)
    const random = Random.fromEnvironment()
    const pairs = Array.from({ length: MANY / 2 }, () => socketPair())
    const calls = new Map<RawSocket, number>()
    let told: () => void = () => {}
    let missing = 0
    for (const socket of pairs.flat()) {
      loop.addReader(socket, async () => {
        calls.set(socket, (calls.get(socket) ?? 0) + 1)
        loop.removeReader(socket)
        missing -= 1
        if (missing === 0) told()
      })
    }
    const chosen = pairs.filter(() => random.below(3) > 0)
    missing = chosen.length
    const all = new Promise<void>((resolve) => {
      told = resolve
    })
    for (const [one] of chosen) await loop.sockSendall(one, Buffer.from('x'))
    await all
    assert.deepEqual(new Set(calls.keys()), new Set(chosen.map(([, other]) => other)), random.advice)
    assert.ok([...calls.values()].every((count) => count === 1))
    for (const socket of pairs.flat()) socket.close()
    await loop.close()
    assert.equal(openSockets(), before)
  })

  test('1,000 writers that are all ready are told in one turn', async (defer) => {
    const loop = openLoop(defer)
    const pairs = Array.from({ length: MANY / 2 }, () => socketPair())
    defer(() => pairs.flat().forEach((socket) => void socket.close()))
    const order: RawSocket[] = []
    let [turns, turn] = [0, 0]
    for (const socket of pairs.flat()) {
      loop.addWriter(socket, () => {
        loop.removeWriter(socket)
        order.push(socket)
        if (turn === 0) {
          turn = 1
          turns += 1
          // Microtasks run behind the batch.
          queueMicrotask(() => {
            turn = 0
          })
        }
      })
    }
    while (order.length < MANY) await new Promise(setImmediate)
    assert.equal(new Set(order).size, MANY)
    assert.equal(turns, 1)
  })

  test('what waits, opens and closes 1,000 times over leaves no descriptor', async (defer) => {
    const loop = openLoop(defer)
    const round = async (): Promise<void> => {
      const [one, other] = socketPair()
      const received = loop.sockRecv(other, 10)
      await loop.sockSendall(one, Buffer.from('x'))
      await received
      const waiting = loop.sockRecv(other, 10).catch(() => {})
      loop.addWriter(one, () => {})
      one.close()
      other.close()
      await waiting
    }
    await round()
    const before = openSockets()
    for (let nth = 0; nth < 1000; nth++) await round()
    assert.equal(openSockets(), before)
  })

  test('a socket that nobody has any more closes when it is collected, unless something waits for it', async (defer) => {
    const loop = openLoop(defer)
    const before = openSockets()
    // Where the system does not tell (macOS) it is all the same.
    const held = openDescriptors().size === 0 ? 0 : 80
    const peers: RawSocket[] = []
    let received = 0
    const waitFor = (): void => {
      const [one, other] = socketPair()
      peers.push(other)
      void loop.sockRecv(one, 1).then(() => {
        received += 1
      })
    }
    const watch = (): void => {
      const [one, other] = socketPair()
      peers.push(other)
      loop.addReader(one, () => {
        received += 1
        loop.removeReader(one)
      })
    }
    for (let nth = 0; nth < 20; nth++) {
      waitFor()
      watch()
      socketPair()
    }
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    // Finalizers run in a turn of their own.
    for (let turn = 0; turn < 50 && openSockets() > before + held; turn++) {
      collect()
      await new Promise(setImmediate)
    }
    assert.equal(openSockets(), before + held, 'two of each that is waited for or watched')
    for (const peer of peers) await loop.sockSendall(peer, Buffer.from('x'))
    while (received < 40) await new Promise(setImmediate)
    for (const peer of peers) peer.close()
    for (let turn = 0; turn < 50 && openSockets() > before; turn++) {
      collect()
      await new Promise(setImmediate)
    }
    assert.equal(openSockets(), before)
  })

  for (const how of ['terminate', 'exit'] as const) {
    test(`a worker that ends by ${how} with sockets open and operations waiting leaves no descriptor`, async () => {
      const before = openSockets()
      for (let nth = 0; nth < 3; nth++) {
        const worker = new Worker(fixtureUrl('watching'), { argv: ['held', how, '--engine', 'mio'] })
        await once(worker, 'message')
        const exited = once(worker, 'exit')
        if (how === 'terminate') await worker.terminate()
        await exited
      }
      assert.equal(openSockets(), before)
    })
  }
})

/** Sockets that the process has open: other descriptors Node opens and closes by itself. What else is left the harness tells. */
function openSockets(): number {
  return [...openDescriptors().values()].filter((what) => what.startsWith('socket:')).length
}

/** A loop of the test's own, closed after it. */
function openLoop(defer: Defer): Loop {
  const loop = getLoop()
  defer(() => loop.close())
  return loop
}
