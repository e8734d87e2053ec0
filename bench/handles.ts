/**
 * What callbacks of the loop cost beside Node's own timers: `node dist/bench/handles.js`. Ours and Node's alternate in one
 * process, and only the ratio within a round counts. Prints, for each case, the median of how many times as fast ours is, with
 * its spread, and the median times; exits with 1 when a case that has to hold is below 1.
 */
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { getLoop } from '../src/index.js'
import { median, quantile } from './statistics.js'

const HANDLES = 10_000
const ROUNDS = 100
/** The first rounds warm the compiler up. */
const WARM_UP_ROUNDS = 10
const LONG_DELAY_S = 30

const { values } = parseArgs({ options: { rounds: { type: 'string', default: String(ROUNDS) } } })
const rounds = Number(values.rounds)
setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as (options: { type: 'minor' }) => void
const loop = getLoop()
const nothing = (): void => {}

/** Milliseconds that a contestant takes for {@link HANDLES} handles, waiting not counted. */
type Contestant = () => number | Promise<number>

interface Case {
  readonly name: string
  readonly ours: Contestant
  readonly nodes: Contestant
  /** Whether ours has to be as fast: where Node keeps the same promises. */
  readonly bar: boolean
}

/** Schedules all at once; the time until the last was called. */
function allAtOnce(schedule: (callback: () => void) => unknown): Promise<number> {
  return new Promise((resolve) => {
    const began = loop.timeMs()
    let left = HANDLES
    const callback = (): void => {
      if (--left === 0) resolve(loop.timeMs() - began)
    }
    for (let nth = 0; nth < HANDLES; nth++) schedule(callback)
  })
}

/** Schedules each from the one before. */
function oneByOne(schedule: (callback: () => void) => unknown): Promise<number> {
  return new Promise((resolve) => {
    const began = loop.timeMs()
    let left = HANDLES
    const callback = (): void => {
      if (--left === 0) resolve(loop.timeMs() - began)
      else schedule(callback)
    }
    schedule(callback)
  })
}

/** Schedules all, lets them become due, and takes the time for scheduling and firing. @param longestMs of their delays */
function fired(longestMs: number, schedule: (nth: number, callback: () => void) => unknown): Promise<number> {
  return new Promise((resolve) => {
    let scheduling = 0
    let due = 0
    let left = HANDLES
    const callback = (): void => {
      if (--left === 0) resolve(scheduling + loop.timeMs() - due)
    }
    const began = loop.timeMs()
    for (let nth = 0; nth < HANDLES; nth++) schedule(nth, callback)
    const scheduled = loop.timeMs()
    scheduling = scheduled - began
    // Node rounds to whole milliseconds.
    do due = loop.timeMs()
    while (due < scheduled + longestMs + 2)
  })
}

function inTurn(work: () => void): number {
  const began = loop.timeMs()
  for (let nth = 0; nth < HANDLES; nth++) work()
  return loop.timeMs() - began
}

function inBulk<Made>(schedule: () => Made, cancel: (made: Made) => void): number {
  const made: Made[] = []
  const began = loop.timeMs()
  for (let nth = 0; nth < HANDLES; nth++) made.push(schedule())
  for (const each of made) cancel(each)
  return loop.timeMs() - began
}

const longTimeout = (): NodeJS.Timeout => setTimeout(nothing, LONG_DELAY_S * 1000)
const ourLongTimeout = (): ReturnType<typeof loop.callLater> => loop.callLater(LONG_DELAY_S, nothing)

const CASES: readonly Case[] = [
  {
    name: 'callSoon / setImmediate',
    ours: () => allAtOnce((callback) => loop.callSoon(callback)),
    nodes: () => allAtOnce((callback) => setImmediate(callback)),
    bar: true,
  },
  {
    name: 'callLater, fired / setTimeout',
    ours: () => fired(1, (_, callback) => loop.callLater(0.001, callback)),
    nodes: () => fired(1, (_, callback) => setTimeout(callback, 1)),
    bar: true,
  },
  {
    name: 'callLater, then cancel / clearTimeout',
    ours: () => inTurn(() => ourLongTimeout().cancel()),
    nodes: () => inTurn(() => clearTimeout(longTimeout())),
    bar: true,
  },
  {
    name: 'many callLater, then cancel all',
    ours: () => inBulk(ourLongTimeout, (handle) => handle.cancel()),
    nodes: () => inBulk(longTimeout, clearTimeout),
    bar: true,
  },
  {
    name: 'callSoon, each from the one before',
    ours: () => oneByOne((callback) => loop.callSoon(callback)),
    nodes: () => oneByOne((callback) => setImmediate(callback)),
    bar: false, // a round of one: Node's immediate and our handle
  },
  {
    name: 'callLater, ten delays, fired',
    ours: () => fired(10, (nth, callback) => loop.callLater(((nth % 10) + 1) / 1000, callback)),
    nodes: () => fired(10, (nth, callback) => setTimeout(callback, (nth % 10) + 1)),
    bar: false, // Node calls those of one delay together, ours are called in the order of their times
  },
]

let tooSlow = 0
console.log(
  `${HANDLES} handles a round, ${rounds} rounds, Node ${process.version}; times are medians per handle`,
)
for (const { name, ours, nodes, bar } of CASES) {
  const ratios: number[] = []
  const times: { ours: number[]; nodes: number[] } = { ours: [], nodes: [] }
  for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
    // Neither is always first, and neither pays for the other's garbage.
    const oursFirst = round % 2 === 0
    collectGarbage({ type: 'minor' })
    const first = await (oursFirst ? ours() : nodes())
    collectGarbage({ type: 'minor' })
    const second = await (oursFirst ? nodes() : ours())
    if (round < 0) continue
    const [our, node] = oursFirst ? [first, second] : [second, first]
    ratios.push(node / our)
    times.ours.push(our)
    times.nodes.push(node)
  }
  const ratio = median(ratios)
  const perHandle = (ms: readonly number[]): string => `${((median(ms) * 1e6) / HANDLES).toFixed(0)} ns`
  const spread = [0.1, 0.9].map((share) => quantile(ratios, share).toFixed(2)).join(' to ')
  const verdict = !bar ? 'no bar' : ratio >= 1 ? 'ok' : 'TOO SLOW'
  if (verdict === 'TOO SLOW') tooSlow++
  console.log(
    `${name.padEnd(40)} ${ratio.toFixed(2)} × (10 to 90 %: ${spread})  ours ${perHandle(times.ours)}, Node ${perHandle(times.nodes)}  ${verdict}`,
  )
}
await loop.close()
process.exitCode = tooSlow > 0 ? 1 : 0
