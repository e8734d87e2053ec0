import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { type TimerEntry, TimerHeap } from '../src/workers/timer-heap.js'
import { Random } from './harness/random.js'

const heap = suite('timer heap')

class Entry implements TimerEntry<Entry> {
  order = 0
  position = -1
  lane = 0
  previous: Entry | null = null
  next: Entry | null = null
  constructor(
    readonly deadline: number,
    readonly name: number = 0,
  ) {}
}

/** Takes out all that is due. */
function takeAll(from: TimerHeap<Entry>, now: number): Entry[] {
  const taken: Entry[] = []
  for (let entry = from.takeDue(now); entry !== null; entry = from.takeDue(now)) taken.push(entry)
  return taken
}

/** Adds entries with these delays, all at time 0. */
function filled(delays: readonly number[]): { timers: TimerHeap<Entry>; entries: Entry[] } {
  const timers = new TimerHeap<Entry>()
  const entries = delays.map((delay, nth) => new Entry(delay, nth))
  for (const entry of entries) timers.add(entry, entry.deadline)
  return { timers, entries }
}

heap('gives out what is due, the earliest first, and nothing that is not', () => {
  const { timers } = filled([3, 1, 4, 1.5, 9, 2.6])
  assert.equal(timers.earliest, 1)
  assert.equal(timers.takeDue(0.999), null)
  assert.deepEqual(
    takeAll(timers, 3).map(({ deadline }) => deadline),
    [1, 1.5, 2.6, 3],
  )
  assert.equal(timers.size, 2)
  assert.equal(timers.earliest, 4)
  assert.equal(takeAll(timers, 100).length, 2)
  assert.equal(timers.earliest, Number.POSITIVE_INFINITY)
  assert.equal(timers.first, null)
})

heap('of equal deadlines the first added comes first, also when their delays were not the same', () => {
  const timers = new TimerHeap<Entry>()
  // Added later with a shorter delay each: in other lanes, the last one with that of the first.
  const delays = [0.5, 0.4, 0.3, 0.2, 0.1, 0.5]
  for (const [nth, delay] of delays.entries()) timers.add(new Entry(7, nth), delay)
  timers.add(new Entry(6, 6), 0.5)
  assert.deepEqual(
    takeAll(timers, 7).map(({ name }) => name),
    [6, 0, 1, 2, 3, 4, 5],
  )
})

heap(
  'an entry leaves its chain from the front, the middle and the end, and the others keep their order',
  () => {
    for (const leaving of [0, 1, 2, 3, 4]) {
      const { timers, entries } = filled([2, 2, 2, 2, 2])
      timers.remove(entries[leaving] as Entry)
      assert.ok(!timers.has(entries[leaving] as Entry))
      timers.add(new Entry(2, 5), 2)
      const expected = [0, 1, 2, 3, 4, 5].filter((name) => name !== leaving)
      assert.deepEqual(
        takeAll(timers, 2).map(({ name }) => name),
        expected,
      )
    }
  },
)

heap('holds what a sorted list would hold, whatever is done to it', () => {
  const random = Random.fromEnvironment()
  for (let run = 0; run < 200; run++) {
    const timers = new TimerHeap<Entry>()
    let model: Entry[] = []
    let now = 0
    // Few delays make long chains, many make many heads; equal deadlines come about in both.
    const delays = Array.from({ length: 1 + random.below(40) }, () => random.below(50) / 16)
    for (let step = 0; step < 300; step++) {
      const choice = random.below(10)
      if (choice < 6) {
        const delay = delays[random.below(delays.length)] as number
        const entry = new Entry(now + delay, run * 1000 + step)
        timers.add(entry, delay)
        const behind = model.findIndex(({ deadline }) => deadline > entry.deadline)
        model.splice(behind < 0 ? model.length : behind, 0, entry)
      } else if (choice < 8 && model.length > 0) {
        const [entry] = model.splice(random.below(model.length), 1) as [Entry]
        assert.ok(timers.has(entry), random.advice)
        timers.remove(entry)
        assert.ok(!timers.has(entry), random.advice)
        assert.equal(entry.next, null, 'what was removed keeps nothing')
      } else {
        now += random.below(16) / 16
        const due = model.filter(({ deadline }) => deadline <= now)
        model = model.filter(({ deadline }) => deadline > now)
        assert.deepEqual(
          takeAll(timers, now).map(({ name }) => name),
          due.map(({ name }) => name),
          random.advice,
        )
      }
      assert.equal(timers.size, model.length, random.advice)
      assert.equal(timers.earliest, model[0]?.deadline ?? Number.POSITIVE_INFINITY, random.advice)
    }
  }
})

const MILLION = 1_000_000

heap('a million entries of any delay are added and removed in O(log n) steps each', () => {
  const random = new Random(1)
  const timers = new TimerHeap<Entry>()
  const entries = Array.from({ length: MILLION }, (_, nth) => new Entry(random.u32() / 1000, nth))
  for (const entry of entries) timers.add(entry, entry.deadline)
  // From anywhere: a heap that could only mark them, or had to look for them, would not do.
  for (let last = entries.length - 1; last > 0; last--) {
    const other = random.below(last + 1)
    const held = entries[last] as Entry
    entries[last] = entries[other] as Entry
    entries[other] = held
  }
  for (const entry of entries) timers.remove(entry)
  assert.equal(timers.size, 0)
  assert.equal(timers.first, null, 'nothing piles up')
  const perOperation = timers.steps / (2 * MILLION)
  assert.ok(timers.steps > 0)
  assert.ok(perOperation <= Math.log2(MILLION), `${perOperation} steps`)
})

heap('a million entries of one delay take no step at all', () => {
  const timers = new TimerHeap<Entry>()
  const entries = Array.from({ length: MILLION }, (_, nth) => new Entry(30 + nth * 1e-6, nth))
  for (const entry of entries) timers.add(entry, 30)
  for (const entry of entries) timers.remove(entry)
  assert.equal(timers.size, 0)
  assert.equal(timers.steps, 0)
})

heap('ten thousand entries that come and go beside a million leave nothing behind', () => {
  const { timers } = filled(Array.from({ length: MILLION }, (_, nth) => 1000 + (nth % 977)))
  const before = timers.steps
  for (let nth = 0; nth < 10_000; nth++) {
    const entry = new Entry(nth % 500, nth)
    timers.add(entry, entry.deadline)
    timers.remove(entry)
  }
  assert.equal(timers.size, MILLION)
  assert.ok((timers.steps - before) / 20_000 <= Math.log2(MILLION))
})

heap.run()
