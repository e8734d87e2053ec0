/** The progress line and the tables on the terminal. */
import { comparisonsOf } from './comparisons.js'
import * as format from './format.js'
import { PEERS, type PeerId } from './peers.js'
import {
  type BarResult,
  evaluate,
  figuresOf,
  latencySamples,
  type Results,
  rateRatio,
  roughRateRatio,
  type Verdict,
} from './results.js'
import { OTHER_CPU_MAX, type RowResult, STEAL_MAX } from './rounds.js'
import { METRIC_TITLES, type Rate } from './rows.js'
import { median, quantile } from './statistics.js'

/** How verdicts are called on a terminal. */
export const VERDICTS: Readonly<Record<Verdict, string>> = {
  pass: 'pass',
  fail: 'FAIL',
  undecided: 'undecided',
  'not-measured': 'not measured',
}

/** One line over itself on a terminal; elsewhere a line for each new text's first part, so that a log stays readable. */
export class ProgressLine {
  readonly #terminal: boolean = process.stderr.isTTY === true
  readonly #started: number = Date.now()
  readonly #command: string
  #part = ''

  constructor(command = 'bench') {
    this.#command = command
  }

  /** Shows what is going on, with the time since the start. */
  show(text: string): void {
    const elapsed = `${Math.floor((Date.now() - this.#started) / 1000)} s`
    if (this.#terminal) {
      const width = (process.stderr.columns ?? 80) - 1
      process.stderr.write(`\r${`${this.#command} ${elapsed}  ${text}`.slice(0, width)}\x1b[K`)
      return
    }
    const part = text.split(':')[0] ?? text
    if (part !== this.#part) process.stderr.write(`${this.#command} ${elapsed}  ${text}\n`)
    this.#part = part
  }

  /** Removes the line, so that a table can be printed. */
  clear(): void {
    if (this.#terminal) process.stderr.write('\r\x1b[K')
  }
}

/** Every table, as one text. */
export function tables(results: Results): string {
  const parts = [
    ...results.rows.map((row) => rowTable(results, row)),
    memoryTable(results),
    syscallTable(results),
    latencyTable(results),
    results.handles === null ? '' : `callbacks and timers\n${results.handles}`,
    barTable(evaluate(results)),
    ...results.absent.map((text) => `not measured: ${text}`),
  ]
  return parts.filter((part) => part !== '').join('\n\n')
}

/** What was measured with the ratios of the row's first rate, and below it those of the others. */
function rowTable(results: Results, result: RowResult): string {
  const { row } = result
  const comparisons = comparisonsOf(row)
  const ratios = (peer: PeerId, rate: Rate): string[] =>
    comparisons.map(({ against }) => {
      const other = against(peer)
      if (other === null) return ''
      const pair = { peer, against: other }
      return peer === other
        ? '1'
        : format.interval(rateRatio(result, pair, rate), roughRateRatio(result, pair, rate))
    })
  const [mainRate, ...otherRates] = row.rates
  const measured = results.peers.flatMap((peer) => figuresOf(result, peer) ?? [])
  const lines = measured.map((figures) => {
    const { peer, rounds, leftOutBusy, leftOutNoise } = figures
    return [
      PEERS[peer].title + (rounds === 0 ? ' (no round counts)' : ''),
      format.short(figures.requestsPerSec),
      row.work === 'burn' ? figures.cpuUsPerRequest.toFixed(1) : format.short(figures.requestsPerCpuSec),
      format.percent(figures.serverBusy),
      format.micros(figures.p50),
      format.micros(figures.p99),
      format.micros(figures.p999),
      ...ratios(peer, mainRate),
      `${rounds} (${leftOutBusy} + ${leftOutNoise})`,
    ]
  })
  const unit = row.work === 'connect' ? 'conn' : 'req'
  const columns = comparisons.map(({ title }) => `× ${title}`)
  const head = [
    '',
    `${unit}/s`,
    row.work === 'burn' ? 'CPU µs/req' : `${unit}/CPU-s`,
    'busy',
    'p50',
    'p99',
    'p99.9',
    ...columns,
    'rounds (out: idle + noise)',
  ]
  const others = otherRates.map((rate) => {
    const more = measured.map(({ peer }) => [PEERS[peer].title, ...ratios(peer, rate)])
    return `  ratios of ${METRIC_TITLES[rate]}\n${table(['', ...columns], more)}`
  })
  const title = `${row.title}, ${result.rounds} rounds; ratios of ${METRIC_TITLES[mainRate]}`
  return [`${title}\n${table(head, lines)}`, ...others].join('\n')
}

function memoryTable(results: Results): string {
  if (results.memory.length === 0) return ''
  const lines = results.memory.map((one) => [
    PEERS[one.peer].title + (one.unsettled ? ' (still moving)' : ''),
    format.count(median(one.residentBytes)),
    one.heapBytes.length === 0 ? '–' : format.count(median(one.heapBytes)),
  ])
  return `bytes per idle connection, slope from 5,000 to 15,000\n${table(['', 'resident', 'JS heap'], lines)}`
}

function syscallTable(results: Results): string {
  const rows = [...new Set(results.syscalls.map((one) => one.row))]
  if (rows.length === 0) return ''
  const lines = results.peers.flatMap((peer) => {
    const cells = rows.map(
      (row) => results.syscalls.find((one) => one.row === row && one.peer === peer)?.perRequest,
    )
    if (cells.every((cell) => cell === undefined)) return []
    return [[PEERS[peer].title, ...cells.map((cell) => cell?.toFixed(3) ?? '–')]]
  })
  return `system calls per request\n${table(['', ...rows], lines)}`
}

function latencyTable(results: Results): string {
  if (results.latency.length === 0) return ''
  const peers = results.peers.filter((peer) => results.latency.some((sample) => sample.peer === peer))
  const lines = peers.map((peer) => {
    const samples = latencySamples(results, peer)
    const cell = (probe: 'timer' | 'fs' | 'fetch'): string => {
      const middle = (share: 'p50' | 'p99'): string =>
        format.micros(
          quantile(
            samples.map((one) => (one.probes[probe]?.[share] ?? Number.NaN) * 1000),
            0.5,
          ),
        )
      return `${middle('p50')} / ${middle('p99')}`
    }
    return [PEERS[peer].title, cell('timer'), cell('fs'), cell('fetch')]
  })
  return `inside a server under full load, p50 / p99\n${table(['', 'timer lateness', 'file read', 'fetch'], lines)}`
}

/** The bars, promises first. */
export function barTable(bars: readonly BarResult[]): string {
  if (bars.length === 0) return ''
  const lines = [...bars]
    .sort((one, other) => Number(one.bar.kind === 'aim') - Number(other.bar.kind === 'aim'))
    .map(({ bar, interval, value, verdict, reason }) => [
      bar.kind,
      bar.row,
      format.subject(bar),
      format.goal(bar),
      format.interval(interval, value),
      VERDICTS[verdict] + (reason === '' ? '' : ` (${reason})`),
    ])
  const note =
    `~: too few rounds count, from all rounds; left out: measurements with a server less than 95 % busy (not asked for with churn, raw and burn), with more than ` +
    `${format.percent(OTHER_CPU_MAX)} of a CPU used by others, or more than ${format.percent(STEAL_MAX)} stolen`
  return `bars\n${table(['', 'row', 'what', 'goal', 'measured [95 %]', ''], lines)}\n${note}`
}

/** A table of a terminal, figures to the right. */
export function table(head: readonly string[], lines: readonly (readonly string[])[]): string {
  const all = [head, ...lines]
  const widths = head.map((_, column) => Math.max(...all.map((line) => [...(line[column] ?? '')].length)))
  const pad = (text: string, column: number): string => {
    const fill = ' '.repeat(Math.max(0, (widths[column] ?? 0) - [...text].length))
    const figure = /^[\d.–≥≤-]/.test(text) || /[/×]|^(p\d|busy)/.test(head[column] ?? '')
    return figure && head[column] !== 'row' ? fill + text : text + fill
  }
  return all.map((line) => `  ${line.map(pad).join('  ')}`.trimEnd()).join('\n')
}
