import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { openSocket, type RawSocket, socketPair } from '../src/index.js'
import { fill, turn } from './harness/raw-sockets.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

/** Pairs of sockets at a time. */
const PAIRS = 8
/** Steps of a run, and of one turn. */
const STEPS = 1500
const STEPS_PER_TURN_MAX = 6

/** Bytes that are sent one by one: each takes much more of the system's room, and with some fifty a writer is not called any more. */
const SMALL_MAX = 16

/** One end of a pair, as the model knows it. */
interface End {
  readonly socket: RawSocket
  /** It is watched by its number, and not as a RawSocket. */
  readonly byNumber: boolean
  readonly peer: () => End
  /** Which reader and writer it has; 0 for none. */
  reader: number
  writer: number
  /** Bytes that wait to be read here. */
  waiting: number
  /** The system takes no more from here. */
  full: boolean
}

/** What the kernel promises of a pair of Unix sockets, and what was asked of the loop. */
class Model {
  readonly ends: End[] = []
  /** Who was called in this turn, by the numbers of callbacks. */
  readonly called: number[] = []
  readonly log: string[] = []
  #callbacks = 0
  readonly #t: TestContext

  constructor(t: TestContext) {
    this.#t = t
    for (let nth = 0; nth < PAIRS; nth++) this.openPair()
    t.defer(() => this.ends.forEach(({ socket }) => void socket.close()))
  }

  openPair(): void {
    const both: End[] = []
    const [one, other] = socketPair()
    for (const socket of [one, other]) {
      const [index, byNumber] = [both.length, this.#t.random.below(2) === 0]
      const peer = (): End => both[1 - index] as End
      both.push({ socket, byNumber, peer, reader: 0, writer: 0, waiting: 0, full: false })
    }
    this.ends.push(...both)
  }

  async step(): Promise<void> {
    const { loop, random } = this.#t
    const end = random.pick(this.ends)
    const target = end.byNumber ? end.socket.fd : end.socket
    const operation = random.below(9)
    this.log.push(`${operation} on ${end.socket.fd}${end.byNumber ? ' by number' : ''}`)
    if (operation <= 1) {
      const id = ++this.#callbacks
      loop.addReader(target, () => void this.called.push(id))
      end.reader = id
    } else if (operation <= 3) {
      const id = ++this.#callbacks
      loop.addWriter(target, () => void this.called.push(id))
      end.writer = id
    } else if (operation === 4) {
      assert.equal(loop.removeReader(target), end.reader !== 0, this.describe())
      end.reader = 0
    } else if (operation === 5) {
      assert.equal(loop.removeWriter(target), end.writer !== 0, this.describe())
      end.writer = 0
    } else if (operation === 6) {
      // Who has a writer cannot send by an operation.
      if (end.peer().writer !== 0 || end.peer().full || end.waiting > SMALL_MAX) return
      await loop.sockSendall(end.peer().socket, Buffer.from('x'))
      end.waiting += 1
    } else if (operation === 7) {
      await this.fillOrDrain(end)
    } else {
      this.replace(end)
    }
  }

  /** Until the system takes no more, or until there is nothing left. */
  async fillOrDrain(end: End): Promise<void> {
    const { loop } = this.#t
    const peer = end.peer()
    if (end.waiting === 0) {
      if (peer.full) return
      end.waiting = fill(peer.socket)
      peer.full = true
      return
    }
    if (end.reader !== 0) return
    while (end.waiting > 0) end.waiting -= (await loop.sockRecv(end.socket, 1 << 20)).length
    peer.full = false
  }

  /** Closes a pair, and opens another, which has the same numbers mostly. A number's watches are taken out before, by us. */
  replace(end: End): void {
    const { loop } = this.#t
    for (const each of [end, end.peer()]) {
      if (each.byNumber) {
        loop.removeReader(each.socket.fd)
        loop.removeWriter(each.socket)
        const fd = each.socket.detach()
        if (this.#t.random.below(2) === 0) closeSync(fd)
        else openSocket({ fd }).close()
      } else {
        each.socket.close()
      }
      this.ends.splice(this.ends.indexOf(each), 1)
    }
    this.openPair()
  }

  /** A turn of the loop, and who has to be called in it. */
  async check(): Promise<void> {
    this.called.length = 0
    await turn(this.#t)
    const expected = this.ends.flatMap(({ reader, writer, waiting, full }) => [
      ...(reader !== 0 && waiting > 0 ? [reader] : []),
      ...(writer !== 0 && !full ? [writer] : []),
    ])
    const ascending = (one: number, other: number): number => one - other
    assert.deepEqual(this.called.sort(ascending), expected.sort(ascending), this.describe())
  }

  describe(): string {
    return `after ${this.log.slice(-40).join('; ')}`
  }
}

forEachEngine('interest in descriptors', (test) => {
  test('readers and writers that come and go in any order are called when the system says so, each once a turn', async (t) => {
    const model = new Model(t)
    for (let step = 0; step < STEPS; ) {
      const steps = t.random.between(1, STEPS_PER_TURN_MAX)
      for (let nth = 0; nth < steps; nth++) await model.step()
      step += steps
      await model.check()
    }
  })
})
