/**
 * What callbacks of the loop cost beside Node's own timers: `node dist/bench/handles.js`. Ours and Node's alternate within
 * a process, and only the ratio within a round counts. How the compiler and the heap turn out differs from process to process,
 * so there are several, one after the other. Prints, for each case, how many times as fast ours is, with a 95 % interval
 * over the processes, and the median times. Exits with 1 when a case that has to hold is below 1 by more than chance.
 */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { getLoop } from '../src/index.js'
import { geometricMean, median, ratioInterval } from './statistics.js'

const HANDLES = 10_000
const ROUNDS = 40
/** The first rounds warm the compiler up. */
const WARM_UP_ROUNDS = 12
const PROCESSES = 5
const LONG_DELAY_S = 30

const { values } = parseArgs({
  options: {
    processes: { type: 'string', default: String(PROCESSES) },
    rounds: { type: 'string', default: String(ROUNDS) },
    /** Measures in this very process, and prints the results for the one that started it. */
    measure: { type: 'boolean', default: false },
  },
})
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

/** One case in one process; the times are medians, in nanoseconds per handle. */
interface Result {
  readonly ratio: number
  readonly ours: number
  readonly nodes: number
}

async function measure({ ours, nodes }: Case, rounds: number): Promise<Result> {
  const ratios: number[] = []
  const times: { ours: number[]; nodes: number[] } = { ours: [], nodes: [] }
  const timed = async (contestant: Contestant): Promise<number> => {
    collectGarbage({ type: 'minor' }) // nobody pays for the other's
    return await contestant()
  }
  for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
    const oursFirst = round % 2 === 0
    const first = await timed(oursFirst ? ours : nodes)
    const second = await timed(oursFirst ? nodes : ours)
    if (round < 0) continue
    const [our, node] = oursFirst ? [first, second] : [second, first]
    ratios.push(node / our)
    times.ours.push(our)
    times.nodes.push(node)
  }
  const perHandle = (ms: readonly number[]): number => (median(ms) * 1e6) / HANDLES
  return { ratio: median(ratios), ours: perHandle(times.ours), nodes: perHandle(times.nodes) }
}

async function measureAll(): Promise<Result[]> {
  const results: Result[] = []
  for (const each of CASES) results.push(await measure(each, Number(values.rounds)))
  return results
}

/** The results of a process of its own. */
function measureElsewhere(): Result[] {
  const args = [fileURLToPath(import.meta.url), '--measure', '--rounds', values.rounds]
  const stdio = ['ignore', 'pipe', 'inherit'] as const
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8', stdio: [...stdio] }))
}

function compare(): void {
  const processes = Array.from({ length: Number(values.processes) }, measureElsewhere)
  console.log(
    `${HANDLES} handles a round, ${values.rounds} rounds, ${processes.length} processes, Node ${process.version}`,
  )
  for (const [at, { name, bar }] of CASES.entries()) {
    const results = processes.map((all) => all[at] as Result)
    const ratios = results.map(({ ratio }) => ratio)
    const ratio = geometricMean(ratios)
    const interval = ratioInterval(ratios)
    const tooSlow = bar && (interval?.high ?? ratio) < 1
    if (tooSlow) process.exitCode = 1
    const spread = interval === null ? '' : ` (${interval.low.toFixed(2)} to ${interval.high.toFixed(2)})`
    const ns = (of: 'ours' | 'nodes'): string =>
      `${median(results.map((result) => result[of])).toFixed(0)} ns`
    const verdict = bar ? (tooSlow ? 'TOO SLOW' : 'ok') : 'no bar'
    console.log(
      `${name.padEnd(40)} ${ratio.toFixed(2)} ×${spread}  ours ${ns('ours')}, Node ${ns('nodes')}  ${verdict}`,
    )
  }
}

if (values.measure) console.log(JSON.stringify(await measureAll()))
else compare()
await loop.close()
