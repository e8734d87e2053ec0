/** What a paired benchmark found, and how it stands against its bars. Pure: a result file can be evaluated again. */
import type { Environment } from '../machine.js'
import { type Verdict, verdictOf } from '../results.js'
import { cleanPairs, type RoundPlan } from '../rounds.js'
import { geometricMean, INTERVAL_VALUES_MIN, type Interval, median, ratioInterval } from '../statistics.js'
import type { CallsPerRequest } from '../syscalls.js'
import { type Inside, type InsideFigure, type PairedBar, type PairedFigure, planOf } from './benchmark.js'
import type { PairedRowResult, PairedSample } from './rounds.js'

/** All that was measured; the JSON file. */
export interface PairedResults {
  readonly environment: Environment
  readonly quick: boolean
  readonly plan: RoundPlan
  readonly peers: readonly string[]
  readonly rows: readonly PairedRowResult[]
  readonly syscalls: readonly PairedCalls[]
  /** What was not measured though it was asked for, and why. */
  readonly absent: readonly string[]
  readonly durationSecs: number
}

/** System calls of one peer on one row. */
export interface PairedCalls extends CallsPerRequest {
  readonly row: string
  readonly peer: string
}

/** A bar and how it stands. */
export interface PairedBarResult {
  readonly bar: PairedBar
  readonly interval: Interval | null
  /** The middle of what was measured, also where it is too little for an interval; null without a figure. */
  readonly value: number | null
  readonly verdict: Verdict
  /** Why it is undecided or not measured. */
  readonly reason: string
}

/** One peer on one row: medians over its rounds that count, over all rounds when none does, which `rounds: 0` tells. */
export interface PairedFigures {
  readonly peer: string
  readonly rounds: number
  readonly leftOut: number
  readonly perSec: number
  readonly perCpuSec: number
  readonly p50: number
  readonly p99: number
  readonly busy: number
  readonly clientBusy: number
  readonly lost: number | null
  readonly inside: Inside
}

/** How each is read. */
export const READ: Readonly<Record<PairedFigure, (sample: Read) => number>> = {
  'per-cpu-second': (sample) => sample.perCpuSec,
  'per-second': (sample) => sample.perSec,
  p50: (sample) => sample.p50,
  'lag-p99': ({ inside }) => inside?.['lag-p99'] ?? Number.NaN,
  'lag-max': ({ inside }) => inside?.['lag-max'] ?? Number.NaN,
  bytes: ({ inside }) => inside?.bytes ?? Number.NaN,
}

/** What a figure is read from: a sample, or the medians of several. */
type Read = Pick<PairedSample, 'perCpuSec' | 'perSec' | 'p50' | 'inside'>

const INSIDE: readonly InsideFigure[] = ['lag-p99', 'lag-max', 'bytes']

/** Null without samples. */
export function pairedFiguresOf(result: PairedRowResult, peer: string): PairedFigures | null {
  const all = result.samples.filter((sample) => sample.peer === peer)
  if (all.length === 0) return null
  const clean = all.filter((sample) => sample.leftOut === null)
  const counted = clean.length > 0 ? clean : all
  const middle = (read: (sample: PairedSample) => number): number => median(counted.map(read))
  const inside = INSIDE.filter((figure) => result.row.figures.includes(figure))
  const countsLost = counted.some(({ lost }) => lost !== null)
  return {
    peer,
    rounds: clean.length,
    leftOut: all.length - clean.length,
    perSec: middle(READ['per-second']),
    perCpuSec: middle(READ['per-cpu-second']),
    p50: middle(READ.p50),
    p99: middle((sample) => sample.p99),
    busy: middle((sample) => sample.busy),
    clientBusy: middle((sample) => sample.clientBusy),
    // The mean: losses come in bursts, which a median would not show.
    lost: countsLost ? counted.reduce((sum, { lost }) => sum + (lost ?? 0), 0) / counted.length : null,
    inside: Object.fromEntries(inside.map((figure) => [figure, middle(READ[figure])])),
  }
}

type Pair = Pick<PairedBar, 'peer' | 'against'>

/** The ratio of a pair over the rounds in which both count; null with too few of them. */
export function pairedRatio(result: PairedRowResult, pair: Pair, figure: PairedFigure): Interval | null {
  return ratioInterval(ratios(result.samples, pair, figure))
}

/** The same over all rounds, also those left out: an idea of the figure when the machine was too noisy for one. */
export function roughPairedRatio(result: PairedRowResult, pair: Pair, figure: PairedFigure): number | null {
  // Of a measurement that was made again the last.
  const last = new Map(result.samples.map((sample) => [`${sample.round} ${sample.peer}`, sample]))
  const unfiltered = [...last.values()].map((sample): PairedSample => ({ ...sample, leftOut: null }))
  const found = ratios(unfiltered, pair, figure)
  return found.length === 0 ? null : geometricMean(found)
}

function ratios(samples: readonly PairedSample[], pair: Pair, figure: PairedFigure): number[] {
  const read = READ[figure]
  return cleanPairs(samples, pair)
    .map(([ours, theirs]) => read(ours) / read(theirs))
    .filter((ratio) => ratio > 0 && Number.isFinite(ratio))
}

/** Every bar whose row and peers were measured. */
export function evaluatePaired(bars: readonly PairedBar[], results: PairedResults): PairedBarResult[] {
  return bars.flatMap((bar) => {
    const result = results.rows.find(({ row }) => row.id === bar.row)
    const both = results.peers.includes(bar.peer) && results.peers.includes(bar.against)
    return result === undefined || !both ? [] : [judge(bar, result, planOf(result.row, results.plan))]
  })
}

function judge(bar: PairedBar, result: PairedRowResult, plan: RoundPlan): PairedBarResult {
  const interval = pairedRatio(result, bar, bar.figure)
  const value = interval?.middle ?? roughPairedRatio(result, bar, bar.figure)
  const wanted = Math.max(plan.wanted, INTERVAL_VALUES_MIN)
  const count = ratios(result.samples, bar, bar.figure).length
  if (value === null) return { bar, interval, value, verdict: 'not-measured', reason: 'no round has both' }
  if (interval === null || count < wanted)
    return { bar, interval, value, verdict: 'undecided', reason: `${count} of ${wanted} rounds count` }
  const verdict = verdictOf(bar, interval)
  const reason = verdict === 'undecided' ? 'the interval spans the bar' : ''
  return { bar, interval, value, verdict, reason }
}
