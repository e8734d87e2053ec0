/** What a benchmark found, and how it stands against the bars. Pure: a result file can be evaluated again. */
import type { Pair } from './comparisons.js'
import type { LatencySample } from './inside-latency.js'
import type { Environment } from './machine.js'
import type { MemoryResult } from './memory.js'
import type { Engine, PeerId } from './peers.js'
import { cleanPairs, type RoundPlan, type RowResult, type Sample } from './rounds.js'
import { BARS, type Bar, type Metric, type Probe, type Rate } from './rows.js'
import {
  geometricMean,
  INTERVAL_VALUES_MIN,
  type Interval,
  meanInterval,
  median,
  ratioInterval,
} from './statistics.js'
import type { SyscallResult } from './syscalls.js'

/** All that was measured; the JSON file. */
export interface Results {
  readonly environment: Environment
  readonly quick: boolean
  readonly plan: RoundPlan
  /** Our engines among the peers. */
  readonly engines: readonly Engine[]
  readonly peers: readonly PeerId[]
  readonly rows: readonly RowResult[]
  readonly memory: readonly MemoryResult[]
  readonly syscalls: readonly SyscallResult[]
  readonly latency: readonly LatencySample[]
  /** What the part `handles` printed; null when it did not run. */
  readonly handles: string | null
  /** What was not measured though it was asked for, and why. */
  readonly absent: readonly string[]
  readonly durationSecs: number
}

/** `undecided`: the interval spans the bar, or there were too few rounds. `not-measured`: there is no figure. */
export type Verdict = 'pass' | 'fail' | 'undecided' | 'not-measured'

/** A bar and how it stands. */
export interface BarResult {
  readonly bar: Bar
  readonly interval: Interval | null
  /** The middle of what was measured, also where it is too little for an interval; null without a figure. */
  readonly value: number | null
  readonly verdict: Verdict
  /** Why it is undecided or not measured. */
  readonly reason: string
}

/** One peer on one row, over its rounds that count. */
export interface PeerFigures {
  readonly peer: PeerId
  readonly rounds: number
  readonly leftOutBusy: number
  readonly leftOutNoise: number
  readonly requestsPerSec: number
  readonly requestsPerCpuSec: number
  /** Processor time of the server, microseconds. */
  readonly cpuUsPerRequest: number
  readonly serverBusy: number
  /** Microseconds. */
  readonly p50: number
  readonly p99: number
  readonly p999: number
}

/** Medians over the rounds that count; over all rounds when none does, which `rounds: 0` tells. Null without samples. */
export function figuresOf(result: RowResult, peer: PeerId): PeerFigures | null {
  const all = result.samples.filter((sample) => sample.peer === peer)
  if (all.length === 0) return null
  const clean = all.filter((sample) => sample.leftOut === null)
  const middle = (read: (sample: Sample) => number): number =>
    median((clean.length > 0 ? clean : all).map(read))
  return {
    peer,
    rounds: clean.length,
    leftOutBusy: all.filter((sample) => sample.leftOut === 'not-busy').length,
    leftOutNoise: all.filter((sample) => sample.leftOut === 'noise').length,
    requestsPerSec: middle((sample) => sample.requestsPerSec),
    requestsPerCpuSec: middle((sample) => sample.requestsPerCpuSec),
    cpuUsPerRequest: middle((sample) => 1e6 / sample.requestsPerCpuSec),
    serverBusy: middle((sample) => sample.serverBusy),
    p50: middle((sample) => sample.latencyUs.p50),
    p99: middle((sample) => sample.latencyUs.p99),
    p999: middle((sample) => sample.latencyUs.p999),
  }
}

/** A peer's latency samples that count; all of them when none does. */
export function latencySamples(results: Results, peer: PeerId): readonly LatencySample[] {
  const all = results.latency.filter((sample) => sample.peer === peer)
  const clean = all.filter((sample) => !sample.noisy)
  return clean.length > 0 ? clean : all
}

/** Ratio of a rate, by default what the row compares by, over the rounds in which both count. */
export function rateRatio(result: RowResult, pair: Pair, rate: Rate = result.row.rates[0]): Interval | null {
  return ratioInterval(rateRatios(rate, result.samples, pair))
}

/** The same over all rounds, also those left out: an idea of the figure when the machine was too noisy for one. */
export function roughRateRatio(
  result: RowResult,
  pair: Pair,
  rate: Rate = result.row.rates[0],
): number | null {
  // Of a measurement that was made again the last.
  const last = new Map(result.samples.map((sample) => [`${sample.round} ${sample.peer}`, sample]))
  const unfiltered = [...last.values()].map((sample): Sample => ({ ...sample, leftOut: null }))
  const ratios = rateRatios(rate, unfiltered, pair)
  return ratios.length === 0 ? null : geometricMean(ratios)
}

function rateRatios(rate: Rate, samples: readonly Sample[], pair: Pair): number[] {
  const read = SAMPLE_FIGURES[rate]
  return cleanPairs(samples, pair).map(([ours, theirs]) => read(ours) / read(theirs))
}

/** Where a metric of the rows stands in a sample. */
const SAMPLE_FIGURES = {
  'requests-per-cpu-second': (sample: Sample): number => sample.requestsPerCpuSec,
  'requests-per-second': (sample: Sample): number => sample.requestsPerSec,
  'connections-per-cpu-second': (sample: Sample): number => sample.requestsPerCpuSec,
  'connections-per-second': (sample: Sample): number => sample.requestsPerSec,
  p99: (sample: Sample): number => sample.latencyUs.p99,
} as const

/** Every bar that belongs to what was asked for. */
export function evaluate(results: Results): BarResult[] {
  const measured = new Set<string>(results.rows.map((result) => result.row.id))
  if (results.memory.length > 0) measured.add('memory')
  if (results.latency.length > 0) measured.add('latency')
  return BARS.filter(
    (bar) =>
      measured.has(bar.row) &&
      results.peers.includes(bar.peer) &&
      (bar.against === null || results.peers.includes(bar.against)) &&
      (bar.metric !== 'syscalls-per-request' || results.syscalls.some((result) => result.row === bar.row)),
  ).map((bar) => judge(bar, results))
}

/** Whether the interval lies on the bar's good side, on its bad side, or across it. */
export function verdictOf(bar: Pick<Bar, 'direction' | 'value'>, interval: Interval): Verdict {
  if (bar.direction === 'at-least') {
    return interval.low >= bar.value ? 'pass' : interval.high < bar.value ? 'fail' : 'undecided'
  }
  return interval.high <= bar.value ? 'pass' : interval.low > bar.value ? 'fail' : 'undecided'
}

function judge(bar: Bar, results: Results): BarResult {
  const values = barValues(bar, results)
  const wanted = wantedValues(bar, results)
  const interval = intervalOf(bar, values)
  const value = interval?.middle ?? (values.length === 0 ? null : median(values))
  if (value === null) return { bar, interval, value, verdict: 'not-measured', reason: 'no round counts' }
  if (interval === null || values.length < wanted) {
    return {
      bar,
      interval,
      value,
      verdict: 'undecided',
      reason: `${values.length} of ${wanted} rounds count`,
    }
  }
  const verdict = verdictOf(bar, interval)
  return {
    bar,
    interval,
    value,
    verdict,
    reason: verdict === 'undecided' ? 'the interval spans the bar' : '',
  }
}

function intervalOf(bar: Bar, values: readonly number[]): Interval | null {
  // Counted, not timed: one run is the figure.
  if (bar.metric === 'syscalls-per-request') {
    const [value] = values
    return value === undefined ? null : { low: value, middle: value, high: value, count: 1 }
  }
  return bar.against === null ? meanInterval(values) : ratioInterval(values)
}

function wantedValues(bar: Bar, results: Results): number {
  if (bar.metric === 'syscalls-per-request') return 1
  if (bar.row === 'memory') return INTERVAL_VALUES_MIN
  return Math.max(results.plan.wanted, INTERVAL_VALUES_MIN)
}

function barValues(bar: Bar, results: Results): readonly number[] {
  const { peer, against } = bar
  switch (bar.metric) {
    case 'resident-bytes-per-connection':
      return results.memory.find((one) => one.peer === peer)?.residentBytes ?? []
    case 'heap-bytes-per-connection':
      return results.memory.find((one) => one.peer === peer)?.heapBytes ?? []
    case 'syscalls-per-request': {
      const calls = (of: PeerId | null): number | undefined =>
        results.syscalls.find((one) => one.row === bar.row && one.peer === of)?.perRequest
      const [ours, theirs] = [calls(peer), calls(against)]
      return ours === undefined || theirs === undefined ? [] : [ours / theirs]
    }
    case 'requests-per-cpu-second':
    case 'requests-per-second':
    case 'connections-per-cpu-second':
    case 'connections-per-second':
    case 'p99': {
      const result = results.rows.find((one) => one.row.id === bar.row)
      if (result === undefined || against === null) return []
      const read = SAMPLE_FIGURES[bar.metric]
      return cleanPairs(result.samples, { peer, against }).map(([ours, theirs]) => read(ours) / read(theirs))
    }
    default:
      return against === null ? [] : probeRatios(bar.metric, peer, against, results.latency)
  }
}

function probeRatios(
  metric: Extract<Metric, `${Probe}-${string}`>,
  peer: PeerId,
  against: PeerId,
  samples: readonly LatencySample[],
): number[] {
  const [probe, share] = metric.split('-') as [Probe, 'p50' | 'p99']
  const read = (sample: LatencySample): number => sample.probes[probe]?.[share] ?? Number.NaN
  const clean = samples.filter((sample) => !sample.noisy)
  return clean.flatMap((sample) => {
    const other = clean.find((one) => one.round === sample.round && one.peer === against)
    const ratio = sample.peer === peer && other !== undefined ? read(sample) / read(other) : Number.NaN
    return Number.isFinite(ratio) && ratio > 0 ? [ratio] : []
  })
}
