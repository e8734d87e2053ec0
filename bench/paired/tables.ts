/** The tables of a paired benchmark on the terminal. */
import * as format from '../format.js'
import { OTHER_CPU_MAX, STEAL_MAX } from '../rounds.js'
import { table, VERDICTS } from '../terminal.js'
import {
  figureTitle,
  lowerIsBetter,
  type PairedBar,
  type PairedBenchmark,
  type PairedFigure,
  pairedWith,
} from './benchmark.js'
import {
  evaluatePaired,
  type PairedBarResult,
  type PairedResults,
  pairedFiguresOf,
  pairedRatio,
  READ,
  roughPairedRatio,
} from './results.js'
import type { PairedRowResult } from './rounds.js'

/** Every table, as one text. */
export function pairedTables(benchmark: PairedBenchmark, results: PairedResults): string {
  const parts = [
    ...results.rows.map((row) => rowTable(benchmark, results, row)),
    callsTable(benchmark, results),
    barTable(benchmark, evaluatePaired(benchmark.bars, results)),
    ...results.absent.map((text) => `not measured: ${text}`),
  ]
  return parts.filter((part) => part !== '').join('\n\n')
}

/** `≥ 4 × MessagePort`. */
export function goalOf(benchmark: PairedBenchmark, bar: PairedBar): string {
  const sign = bar.direction === 'at-least' ? '≥' : '≤'
  return `${sign} ${Number(bar.value.toPrecision(3))} × ${titleOf(benchmark, bar.against)}`
}

/** How a peer is called. */
export function titleOf(benchmark: PairedBenchmark, peer: string): string {
  return benchmark.peers[peer]?.title ?? peer
}

/** The heads of columns that few rows have. */
const INSIDE_TITLES: Partial<Record<PairedFigure, string>> = {
  'lag-p99': 'lag p99',
  'lag-max': 'lag max',
  bytes: 'per connection',
}

/** A figure as people read it. */
export function shown(figure: PairedFigure, value: number): string {
  if (figure === 'bytes') return `${format.count(value)} B`
  return lowerIsBetter(figure) ? format.micros(value) : format.short(value)
}

/** What was measured of each peer, as cells; `head` beside it. */
export function figureCells(
  benchmark: PairedBenchmark,
  results: PairedResults,
  result: PairedRowResult,
): { readonly head: string[]; readonly lines: { readonly peer: string; readonly cells: string[] }[] } {
  const measured = results.peers.flatMap((peer) => pairedFiguresOf(result, peer) ?? [])
  const hasLatency = measured.some(({ p50 }) => p50 > 0)
  const hasLost = measured.some(({ lost }) => lost !== null)
  const { figures: compared, unit } = result.row
  const inside = compared.filter((figure) => INSIDE_TITLES[figure] !== undefined)
  const hasRates = compared.some((figure) => !lowerIsBetter(figure))
  const lines = measured.map((figures) => ({
    peer: figures.peer,
    cells: [
      titleOf(benchmark, figures.peer) + (figures.rounds === 0 ? ' (no round counts)' : ''),
      ...inside.map((figure) => shown(figure, READ[figure](figures))),
      ...(hasRates
        ? [
            format.short(figures.perSec),
            format.short(figures.perCpuSec),
            format.percent(figures.busy),
            format.percent(figures.clientBusy),
          ]
        : []),
      ...(hasLatency ? [format.micros(figures.p50), format.micros(figures.p99)] : []),
      ...(hasLost ? [figures.lost === null ? '–' : `${(figures.lost * 100).toFixed(3)}\u00a0%`] : []),
      `${figures.rounds} (${figures.leftOut})`,
    ],
  }))
  const head = [
    '',
    ...inside.map((figure) => INSIDE_TITLES[figure] ?? ''),
    ...(hasRates ? [`${unit}/s`, `${unit}/CPU-s`, 'busy', 'client'] : []),
    ...(hasLatency ? ['p50', 'p99'] : []),
    ...(hasLost ? ['lost'] : []),
    'rounds (left out)',
  ]
  return { head, lines }
}

function rowTable(benchmark: PairedBenchmark, results: PairedResults, result: PairedRowResult): string {
  const { row, rounds } = result
  const { head, lines } = figureCells(benchmark, results, result)
  const pairs = pairedWith(row, results.peers)
  const ratios = pairs.map((pair) => [
    `${titleOf(benchmark, pair.peer)} / ${titleOf(benchmark, pair.against)}`,
    ...row.figures.map((figure) =>
      format.interval(pairedRatio(result, pair, figure), roughPairedRatio(result, pair, figure)),
    ),
  ])
  const titles = row.figures.map((figure) => figureTitle(figure, row.unit))
  const figures = table(
    head,
    lines.map(({ cells }) => cells),
  )
  const below = ratios.length === 0 ? '' : `\n  ratios [95 %]\n${table(['', ...titles], ratios)}`
  return `${row.id}: ${row.title}, ${rounds} rounds\n${figures}${below}`
}

function callsTable(benchmark: PairedBenchmark, results: PairedResults): string {
  const lines = results.syscalls.map(({ row, peer, perRequest, byName }) => [
    row,
    titleOf(benchmark, peer),
    perRequest.toFixed(3),
    Object.entries(byName)
      .slice(0, 4)
      .map(([name, calls]) => `${name} ${calls.toFixed(3)}`)
      .join(', '),
  ])
  if (lines.length === 0) return ''
  return `system calls per request, by strace in runs of their own\n${table(['row', '', 'calls', 'most of them'], lines)}`
}

/** The bars, promises first. */
export function barTable(benchmark: PairedBenchmark, bars: readonly PairedBarResult[]): string {
  if (bars.length === 0) return ''
  const unitOf = (id: string): string => benchmark.rows.find((row) => row.id === id)?.unit ?? 'requests'
  const lines = [...bars]
    .sort((one, other) => Number(one.bar.kind === 'aim') - Number(other.bar.kind === 'aim'))
    .map(({ bar, interval, value, verdict, reason }) => [
      bar.kind,
      bar.row,
      `${titleOf(benchmark, bar.peer)}: ${figureTitle(bar.figure, unitOf(bar.row))}`,
      goalOf(benchmark, bar),
      format.interval(interval, value),
      VERDICTS[verdict] + (reason === '' ? '' : ` (${reason})`),
    ])
  const note =
    `~: too few rounds count, from all rounds; left out: measurements with more than ${format.percent(OTHER_CPU_MAX)} of a CPU used by others, ` +
    `or more than ${format.percent(STEAL_MAX)} stolen`
  return `bars\n${table(['', 'row', 'what', 'goal', 'measured [95 %]', ''], lines)}\n${note}`
}
