import assert from 'node:assert/strict'
import { getEventListeners, once } from 'node:events'
import { suite } from 'uvu'
import { type SignalListener, unwatchSignal, watchSignal } from '../src/workers/shared-signals.js'

const signals = suite('shared signals')

signals(
  'all are told of an abort in their order, but who was called off by one before, or throws',
  async () => {
    const controller = new AbortController()
    const { signal } = controller
    const told: number[] = []
    const listener = (index: number): SignalListener => ({ handleEvent: () => void told.push(index) })
    const [second, third, fourth] = [listener(2), listener(3), listener(4)]
    const first: SignalListener = {
      handleEvent() {
        told.push(1)
        unwatchSignal(signal, second)
        throw new Error('thrown by a listener')
      },
    }
    for (const each of [first, second, third, third, fourth]) watchSignal(signal, each)
    assert.equal(getEventListeners(signal, 'abort').length, 1)
    const thrown = once(process, 'uncaughtException')
    controller.abort()
    assert.deepEqual(told, [1, 3, 4])
    assert.equal(getEventListeners(signal, 'abort').length, 0)
    const [error] = await thrown
    assert.equal((error as Error).message, 'thrown by a listener')
    unwatchSignal(signal, fourth) // which means nothing any more
  },
)

signals('a signal is left alone when the last one is called off, and may be watched again', () => {
  const { signal } = new AbortController()
  const [one, other] = [{ handleEvent: () => {} }, { handleEvent: () => {} }]
  const count = (): number => getEventListeners(signal, 'abort').length
  watchSignal(signal, one)
  watchSignal(signal, other)
  unwatchSignal(signal, one)
  unwatchSignal(signal, one)
  assert.equal(count(), 1)
  unwatchSignal(signal, other)
  assert.equal(count(), 0)
  watchSignal(signal, one)
  assert.equal(count(), 1)
  unwatchSignal(signal, one)
  assert.equal(count(), 0)
})

signals.run()
