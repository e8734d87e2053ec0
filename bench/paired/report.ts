/** The page of a paired benchmark: one file without scripts or outside references. */
import * as format from '../format.js'
import { PAGE_STYLE, table, VERDICTS, verdictCounts } from '../page.js'
import { barPlot, escaped, ratioPlot } from '../plots.js'
import { GENERATION_ROUNDS, OTHER_CPU_MAX, STEAL_MAX } from '../rounds.js'
import { BOOTSTRAP_RESAMPLES, SEED } from '../statistics.js'
import {
  figureTitle,
  lowerIsBetter,
  type PairedBenchmark,
  type PairedFigure,
  type PairedPeer,
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
import { figureCells, goalOf, shown, titleOf } from './tables.js'

const FIGURES: readonly PairedFigure[] = [
  'per-cpu-second',
  'per-second',
  'p50',
  'lag-p99',
  'lag-max',
  'bytes',
]
const RATIO_KEY =
  'Dot: geometric mean of the paired rounds; band: 95\u00a0% interval; upright mark: the value to reach; ring: too few rounds count, so this is from all of them. The dashed line is what it is compared with.'

/** The page for `results`. */
export function pairedReport(benchmark: PairedBenchmark, results: PairedResults): string {
  const { environment } = results
  const bars = evaluatePaired(benchmark.bars, results)
  const title = `shardloop: ${benchmark.title}${results.quick ? ' (quick)' : ''}`
  const commit = `${environment.commit.slice(0, 12)}${environment.modified ? ' with uncommitted changes' : ''}`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title><style>${PAGE_STYLE}</style></head><body>
<h1>${escaped(title)}</h1>
<p class="soft">${escaped(environment.date.slice(0, 16).replace('T', ' '))} UTC, commit ${escaped(commit)}, Node ${escaped(environment.node)}</p>
${results.quick ? '<p>A quick run has few and short rounds. It shows that something broke, not by how much something changed.</p>' : ''}
${verdictCounts(bars)}
${FIGURES.map((figure) => ratioSection(benchmark, results, bars, figure)).join('\n')}
${FIGURES.map((figure) => valueSection(benchmark, results, figure)).join('\n')}
${figureSection(benchmark, results)}
${callsSection(benchmark, results)}
${barSection(benchmark, bars)}
${methodSection(benchmark, results)}
</body></html>
`
}

function colourOf(benchmark: PairedBenchmark, peer: string): PairedPeer['colour'] {
  return benchmark.peers[peer]?.colour ?? 'node-net'
}

function ratioSection(
  benchmark: PairedBenchmark,
  results: PairedResults,
  bars: readonly PairedBarResult[],
  figure: PairedFigure,
): string {
  const rows = results.rows.filter(({ row }) => row.figures.includes(figure))
  // A group for each baseline: names of both would be too long for a line's label.
  const groups = rows.flatMap((result) =>
    result.row.baselines.map((baseline) => ({
      title: `${result.row.title}: ratio to ${titleOf(benchmark, baseline)}`,
      lines: pairedWith(result.row, results.peers)
        .filter(({ against }) => against === baseline)
        .map((pair) => ({
          peer: colourOf(benchmark, pair.peer),
          title: titleOf(benchmark, pair.peer),
          interval: pairedRatio(result, pair, figure),
          rough: roughPairedRatio(result, pair, figure),
          goals: bars
            .filter(({ bar }) => bar.row === result.row.id && bar.figure === figure)
            .filter(({ bar }) => bar.peer === pair.peer && bar.against === pair.against)
            .map(({ bar }) => bar.value),
        })),
    })),
  )
  if (groups.every(({ lines }) => lines.length === 0)) return ''
  const heading = `${capitalized(figureTitle(figure, unitOf(results, figure)))}, as a ratio`
  return `<h2>${escaped(heading)}</h2>
<p class="soft">${lowerIsBetter(figure) ? 'Left' : 'Right'} is better. ${RATIO_KEY}</p>
${ratioPlot(
  heading,
  groups.filter(({ lines }) => lines.length > 0),
)}`
}

function valueSection(benchmark: PairedBenchmark, results: PairedResults, figure: PairedFigure): string {
  const rows = results.rows.filter(({ row }) => row.figures.includes(figure))
  if (rows.length === 0) return ''
  const groups = rows.map((result) => ({
    title: result.row.title,
    lines: results.peers.flatMap((peer) => {
      const figures = pairedFiguresOf(result, peer)
      if (figures === null) return []
      const value = READ[figure](figures)
      const text = shown(figure, value)
      return [{ peer: colourOf(benchmark, peer), title: titleOf(benchmark, peer), value, text }]
    }),
  }))
  const heading = capitalized(figureTitle(figure, unitOf(results, figure)))
  return `<h2>${escaped(heading)}</h2>
<p class="soft">${lowerIsBetter(figure) ? 'Left' : 'Right'} is better; median of the rounds that count; each workload has its own scale.</p>
${barPlot(heading, groups)}`
}

/** The unit of the rows that have a figure; when they differ, what all of them are. */
function unitOf(results: PairedResults, figure: PairedFigure): string {
  const units = new Set(
    results.rows.filter(({ row }) => row.figures.includes(figure)).map(({ row }) => row.unit),
  )
  const [unit = 'requests'] = units
  return units.size === 1 ? unit : [...units].join(' or ')
}

function capitalized(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1)
}

function named(benchmark: PairedBenchmark, peer: string): string {
  return `<span class="key ${colourOf(benchmark, peer)}"></span>${escaped(titleOf(benchmark, peer))}`
}

function figureSection(benchmark: PairedBenchmark, results: PairedResults): string {
  const tables = results.rows.map((result) => {
    const { head, lines } = figureCells(benchmark, results, result)
    const cells = lines.map(({ peer, cells: [, ...rest] }) => [
      named(benchmark, peer),
      ...rest.map((cell) => escaped(cell)),
    ])
    return `<h3>${escaped(result.row.title)}</h3>${table(head, cells)}`
  })
  return tables.length === 0 ? '' : `<h2>Figures</h2>${tables.join('\n')}`
}

function callsSection(benchmark: PairedBenchmark, results: PairedResults): string {
  if (results.syscalls.length === 0) return ''
  const lines = results.syscalls.map(({ row, peer, perRequest, byName }) => {
    const names = Object.entries(byName).slice(0, 6)
    return [
      escaped(row),
      named(benchmark, peer),
      perRequest.toFixed(3),
      escaped(names.map(([name, calls]) => `${name} ${calls.toFixed(3)}`).join(', ')),
    ]
  })
  return `<h2>System calls per request</h2>
<p class="soft">Counted by strace in runs of their own, as the slope between a short and a long one.</p>
${table(['row', '', 'calls', 'most of them'], lines)}`
}

function barSection(benchmark: PairedBenchmark, bars: readonly PairedBarResult[]): string {
  const unit = (id: string): string => benchmark.rows.find((row) => row.id === id)?.unit ?? 'requests'
  const section = (kind: 'must' | 'aim', title: string): string => {
    const lines = bars
      .filter(({ bar }) => bar.kind === kind)
      .map(({ bar, interval, value, verdict, reason }) => [
        `<span class="tight">${escaped(bar.row)}</span>`,
        named(benchmark, bar.peer),
        escaped(figureTitle(bar.figure, unit(bar.row))),
        `<span class="tight">${escaped(goalOf(benchmark, bar))}</span>`,
        format.interval(interval, value),
        `<span class="${verdict}">${VERDICTS[verdict]}</span>${reason === '' ? '' : ` <span class="reason soft">(${escaped(reason)})</span>`}`,
      ])
    const head = ['row', 'peer', 'what', 'goal', 'measured [95\u00a0%]', 'verdict']
    return lines.length === 0 ? '' : `<h3>${title}</h3>${table(head, lines)}`
  }
  if (bars.length === 0) return ''
  return `<h2 id="bars">Bars</h2>
<p class="soft">A bar passes when the whole 95\u00a0% interval reaches it, fails when the whole interval misses it, and is undecided otherwise.</p>
${section('must', 'To reach')}${section('aim', 'To aim for')}`
}

function methodSection(benchmark: PairedBenchmark, results: PairedResults): string {
  const { environment, plan } = results
  const facts: [string, string][] = [
    [
      'Machine',
      `${environment.cpu}, ${environment.cpus} CPUs${environment.virtual ? ' (virtual)' : ''}, ${environment.memoryGiB} GiB`,
    ],
    ['System', environment.kernel],
    [
      'Versions',
      `Node ${environment.node}, ${environment.rust}${environment.bun === null ? '' : `, Bun ${environment.bun}`}`,
    ],
    ['Commit', `${environment.commit}${environment.modified ? ' with uncommitted changes' : ''}`],
    ['Placement', `CPUs ${environment.serverCpu} and ${environment.clientCpu}; ${benchmark.method}`],
    [
      'Rounds',
      `each measures every peer once, in shuffled order, for ${plan.windowSecs} s after ${plan.warmupSecs} s of warm-up; ${plan.wanted} that count are wanted for each comparison, ${plan.max} are made at most; processes are new for each row and every ${GENERATION_ROUNDS} rounds, and warmed for ${plan.firstWarmupSecs} s`,
    ],
    [
      'Left out',
      `measurements with more than ${format.percent(OTHER_CPU_MAX)} of a CPU used by other processes, or more than ${format.percent(STEAL_MAX)} stolen by the hypervisor; each is made again, ${plan.tries} times in all`,
    ],
    [
      'Intervals',
      `geometric mean of the paired per-round ratios, bootstrap percentiles of ${format.count(BOOTSTRAP_RESAMPLES)} resamples, seed ${SEED}`,
    ],
    ['Duration', `${Math.round(results.durationSecs)} s`],
    ...results.absent.map((what): [string, string] => ['Not measured', what]),
  ]
  return `<h2 id="method">How this was measured</h2>${table(
    ['', ''],
    facts.map(([name, value]) => [escaped(name), escaped(value)]),
  )}`
}
