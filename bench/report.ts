/** The HTML report: one file without scripts or outside references. */
import * as format from './format.js'
import { IDLE_CONNECTIONS } from './memory.js'
import { barPlot, escaped, percentilePlot, ratioPlot } from './plots.js'
import {
  type BarResult,
  cpuRatio,
  evaluate,
  figuresOf,
  latencySamples,
  type Results,
  roughCpuRatio,
  type Verdict,
} from './results.js'
import { GENERATION_ROUNDS, OTHER_CPU_MAX, pairsOf, STEAL_MAX } from './rounds.js'
import { BUSY_FLOOR, METRIC_TITLES, PEER_TITLES, type PeerId, type Probe, ROWS } from './rows.js'
import { BOOTSTRAP_RESAMPLES, median, SEED } from './statistics.js'

const STYLE = `
:root { color-scheme: light dark; --text: #1c2330; --soft: #5b6574; --line: #dfe3e9; --page: #fff; --panel: #f6f7f9;
  --chunk: #1d5fd1; --borrowed: #0b8f86; --node-net: #7b8492; --raw-mio: #c76a06; --bun: #b0279b;
  --pass: #12733c; --fail: #b3261e; --undecided: #8a5a00; --not-measured: #5b6574 }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #9aa4b2; --line: #323a46; --page: #14181e; --panel: #1c222a;
  --chunk: #6ba2ff; --borrowed: #38c7bc; --node-net: #98a2b0; --raw-mio: #f0a04b; --bun: #e573d2;
  --pass: #58c98a; --fail: #ff8a80; --undecided: #e6b455; --not-measured: #9aa4b2 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 960px; padding: 32px 24px 64px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 19px; margin: 40px 0 8px } h3 { font-size: 15px; margin: 20px 0 6px }
p { margin: 6px 0 12px; max-width: 76ch } .soft { color: var(--soft) }
.counts { display: flex; gap: 12px; flex-wrap: wrap; margin: 20px 0 }
.counts div { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 128px }
.counts b { display: block; font-size: 24px; line-height: 1.2 }
.scroll { overflow-x: auto } .tight { white-space: nowrap } a { color: var(--chunk) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { color: var(--soft); font-weight: 600 } td.n, th.n { text-align: right; white-space: nowrap }
.pass { color: var(--pass) } .fail { color: var(--fail) } .undecided { color: var(--undecided) } .not-measured { color: var(--not-measured) }
td.verdict { font-weight: 600; white-space: nowrap } .reason { font-weight: 400 }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px }
svg { width: 100%; height: auto; display: block; margin: 8px 0 } svg text { fill: var(--text); font-size: 13px }
svg .group { font-weight: 600 } svg .label, svg .tick { fill: var(--soft) } svg .tick { font-size: 12px }
svg .figure { font-variant-numeric: tabular-nums } svg .guide, svg .grid { stroke: var(--line) } svg .one { stroke: var(--soft); stroke-dasharray: 4 3 }
svg .goal { stroke: var(--text); stroke-width: 2 } svg .span { stroke-width: 5; stroke-linecap: round; opacity: .45 } svg .thin { stroke-width: 2 }
${(Object.keys(PEER_TITLES) as PeerId[])
  .map(
    (peer) =>
      `svg .span.${peer} { stroke: var(--${peer}) } svg .dot.${peer}, svg .fill.${peer} { fill: var(--${peer}) } svg .hollow.${peer} { fill: var(--page); stroke: var(--${peer}); stroke-width: 2 } .key.${peer} { background: var(--${peer}) }`,
  )
  .join('\n')}
`

const VERDICTS: Readonly<Record<Verdict, string>> = {
  pass: 'pass',
  fail: 'fail',
  undecided: 'undecided',
  'not-measured': 'not measured',
}

/** The page for `results`. */
export function htmlReport(results: Results): string {
  const { environment } = results
  const bars = evaluate(results)
  const title = `shardloop benchmark${results.quick ? ' (quick)' : ''}`
  const commit = `${environment.commit.slice(0, 12)}${environment.modified ? ' with uncommitted changes' : ''}`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title><style>${STYLE}</style></head><body>
<h1>${title}</h1>
<p class="soft">${escaped(environment.date.slice(0, 16).replace('T', ' '))} UTC, commit ${escaped(commit)}, Node ${escaped(environment.node)}</p>
${results.quick ? '<p>A quick run has few and short rounds. It shows that something broke, not by how much something changed.</p>' : ''}
${summary(bars)}
${rowSections(results, bars)}
${memorySection(results)}
${syscallSection(results)}
${latencySection(results)}
${barSection(bars)}
${methodSection(results)}
</body></html>
`
}

function summary(bars: readonly BarResult[]): string {
  const must = bars.filter(({ bar }) => bar.kind === 'must')
  const aims = bars.filter(({ bar }) => bar.kind === 'aim')
  const number = (of: readonly BarResult[], verdict: Verdict): number =>
    of.filter((one) => one.verdict === verdict).length
  if (bars.length === 0) return ''
  const open = number(must, 'undecided') + number(must, 'not-measured')
  return `<div class="counts">
<div><b class="pass">${number(must, 'pass')}</b>of ${must.length} bars pass</div>
<div><b class="${number(must, 'fail') > 0 ? 'fail' : 'soft'}">${number(must, 'fail')}</b>fail</div>
<div><b class="${open > 0 ? 'undecided' : 'soft'}">${open}</b>undecided</div>
<div><b>${number(aims, 'pass')} of ${aims.length}</b>aims reached</div></div>
<p><a href="#bars">Every bar with its interval</a> is at the end; <a href="#method">how this was measured</a> below it.</p>`
}

function rowSections(results: Results, bars: readonly BarResult[]): string {
  if (results.rows.length === 0) return ''
  const ratioGroups = (against: PeerId) =>
    results.rows.map(({ row }, index) => ({
      title: row.title,
      lines: pairsOf(results.peers)
        .filter((pair) => pair.against === against)
        .sort((one, other) => results.peers.indexOf(one.peer) - results.peers.indexOf(other.peer))
        .map(({ peer }) => ({
          peer,
          interval: cpuRatio(results.rows[index] as Results['rows'][number], { peer, against }),
          rough: roughCpuRatio(results.rows[index] as Results['rows'][number], { peer, against }),
          goals: bars
            .filter(({ bar }) => bar.row === row.id && bar.peer === peer && bar.against === against)
            .filter(({ bar }) => bar.metric === 'requests-per-cpu-second')
            .map(({ bar }) => bar.value),
        })),
    }))
  const ratioSection = (against: PeerId): string => {
    if (!results.peers.includes(against) || results.peers.length < 2) return ''
    const name = PEER_TITLES[against]
    return `<h2>Requests per server-CPU-second, as a ratio to ${name}</h2>
<p class="soft">Right is better; the dashed line is ${name}. Dot: geometric mean of the paired rounds; band: 95\u00a0% interval; upright mark: the value to reach; ring: too few rounds count, so this is from all of them.</p>
${ratioPlot(`Ratio to ${name}`, ratioGroups(against))}`
  }
  const groups = results.rows.map((result) => ({
    title: result.row.title,
    figures: results.peers.flatMap((peer) => figuresOf(result, peer) ?? []),
  }))
  return `${ratioSection('node-net')}
${ratioSection('raw-mio')}
<h2>Throughput</h2>
<p class="soft">Requests per server-CPU-second, median of the rounds that count; each workload has its own scale. With churn a request is a connection.</p>
${barPlot(
  'Requests per server-CPU-second',
  groups.map(({ title, figures }) => ({
    title,
    lines: figures.map(({ peer, requestsPerCpuSec }) => ({
      peer,
      value: requestsPerCpuSec,
      text: format.short(requestsPerCpuSec),
    })),
  })),
)}
<h2>Latency</h2>
<p class="soft">Left is better; logarithmic. Ring: p50; dot: p99; tick: p99.9. The clients send as fast as answers come, so latency here is mostly the length of the queue.</p>
${percentilePlot(
  'Latency percentiles',
  groups.map(({ title, figures }) => ({ title, lines: figures })),
)}
<h2>Figures</h2>
${results.rows.map((result) => figureTable(results, result)).join('\n')}`
}

function figureTable(results: Results, result: Results['rows'][number]): string {
  const lines = results.peers.flatMap((peer) => {
    const figures = figuresOf(result, peer)
    if (figures === null) return []
    const left = [`${figures.leftOutBusy} idle`, `${figures.leftOutNoise} noise`].join(', ')
    return [
      [
        `<span class="key ${peer}"></span>${PEER_TITLES[peer]}`,
        format.count(figures.requestsPerSec),
        format.count(figures.requestsPerCpuSec),
        format.percent(figures.serverBusy),
        format.micros(figures.p50),
        format.micros(figures.p99),
        format.micros(figures.p999),
        `${figures.rounds}`,
        left,
      ],
    ]
  })
  const head = ['', 'requests/s', 'per CPU-s', 'busy', 'p50', 'p99', 'p99.9', 'rounds', 'left out']
  return `<h3>${escaped(result.row.title)}</h3>${table(head, lines)}`
}

function memorySection(results: Results): string {
  if (results.memory.length === 0) return ''
  const [fewer, more] = IDLE_CONNECTIONS.map(format.count)
  const resident = results.memory.map((one) => {
    const value = median(one.residentBytes)
    return {
      peer: one.peer,
      value,
      text: `${format.count(value)} B${one.unsettled ? ' (still moving)' : ''}`,
    }
  })
  const heap = results.memory
    .filter((one) => one.heapBytes.length > 0)
    .map((one) => ({
      peer: one.peer,
      value: median(one.heapBytes),
      text: `${format.count(median(one.heapBytes))} B`,
    }))
  return `<h2>Memory per idle connection</h2>
<p class="soft">Left is better. Slope between ${fewer} and ${more} idle connections, median of ${Math.max(...results.memory.map((one) => one.residentBytes.length))} fresh processes.</p>
${barPlot('Memory per idle connection', [
  { title: 'Resident', lines: resident },
  { title: 'JS heap, after a collection', lines: heap },
])}`
}

function syscallSection(results: Results): string {
  const rows = ROWS.filter((row) => results.syscalls.some((one) => one.row === row.id))
  if (rows.length === 0) return ''
  const lines = results.peers.map((peer) => [
    `<span class="key ${peer}"></span>${PEER_TITLES[peer]}`,
    ...rows.map((row) => {
      const found = results.syscalls.find((one) => one.row === row.id && one.peer === peer)
      if (found === undefined) return '–'
      const names = Object.entries(found.byName).slice(0, 6)
      const tip = names.map(([name, calls]) => `${name} ${calls.toFixed(3)}`).join(', ')
      return `<span title="${escaped(tip)}">${found.perRequest.toFixed(3)}</span>`
    }),
  ])
  return `<h2>System calls per request</h2>
<p class="soft">Counted by strace in runs of their own, connecting and closing included. Hover for the calls.</p>
${table(['', ...rows.map((row) => escaped(row.id))], lines)}`
}

function latencySection(results: Results): string {
  if (results.latency.length === 0) return ''
  const peers = results.peers.filter((peer) => results.latency.some((sample) => sample.peer === peer))
  const groups = (['timer', 'fs', 'fetch'] as const).map((probe: Probe) => ({
    title: METRIC_TITLES[`${probe}-p50`].replace(', p50', ''),
    lines: peers.map((peer) => {
      const samples = latencySamples(results, peer)
      const middle = (share: 'p50' | 'p99'): number =>
        median(samples.map((sample) => (sample.probes[probe]?.[share] ?? Number.NaN) * 1000))
      return { peer, p50: middle('p50'), p99: middle('p99'), p999: null }
    }),
  }))
  return `<h2>Timers, files and fetch inside a loaded server</h2>
<p class="soft">Left is better; logarithmic. Ring: p50; dot: p99. Measured on the loop that serves 64 connections × 64 B as fast as it can.</p>
${percentilePlot('Latency inside a loaded server', groups)}`
}

function barSection(bars: readonly BarResult[]): string {
  if (bars.length === 0) return ''
  const lines = (kind: 'must' | 'aim'): string[][] =>
    bars
      .filter(({ bar }) => bar.kind === kind)
      .map(({ bar, interval, value, verdict, reason }) => [
        `<span class="tight">${escaped(bar.row)}</span>`,
        `<span class="key ${bar.peer}"></span>${escaped(PEER_TITLES[bar.peer])}`,
        escaped(METRIC_TITLES[bar.metric]),
        `<span class="tight">${escaped(format.goal(bar))}</span>`,
        format.interval(interval, value),
        `<span class="${verdict}">${VERDICTS[verdict]}</span>${reason === '' ? '' : ` <span class="reason soft">(${escaped(reason)})</span>`}`,
      ])
  const head = ['row', 'server', 'what', 'goal', 'measured [95\u00a0%]', 'verdict']
  const section = (kind: 'must' | 'aim', title: string): string =>
    lines(kind).length === 0 ? '' : `<h3>${title}</h3>${table(head, lines(kind))}`
  return `<h2 id="bars">Bars</h2>
<p class="soft">A bar passes when the whole 95\u00a0% interval reaches it, fails when the whole interval misses it, and is undecided otherwise.</p>
${section('must', 'To reach')}${section('aim', 'To aim for')}`
}

function methodSection(results: Results): string {
  const { environment, plan } = results
  const facts: [string, string][] = [
    [
      'Machine',
      `${environment.cpu}, ${environment.cpus} CPUs${environment.virtual ? ' (virtual)' : ''}, ${environment.memoryGiB} GiB`,
    ],
    ['System', environment.kernel],
    [
      'Versions',
      [
        `Node ${environment.node}`,
        environment.rust,
        environment.bun === null ? 'no Bun' : `Bun ${environment.bun}`,
      ].join(', '),
    ],
    ['Commit', `${environment.commit}${environment.modified ? ' with uncommitted changes' : ''}`],
    [
      'Placement',
      `server on CPU ${environment.serverCpu}, load generator on CPU ${environment.clientCpu}, over loopback`,
    ],
    [
      'Rounds',
      `each measures every server once, in shuffled order, for ${plan.windowSecs} s after ${plan.warmupSecs} s of warm-up; ${plan.wanted} that count are wanted for each comparison, ${plan.max} are made at most; server processes are new for each row and every ${GENERATION_ROUNDS} rounds`,
    ],
    [
      'Left out',
      `measurements with a server less than ${format.percent(BUSY_FLOOR)} busy (not asked for with churn, where the client works more than the server), with more than ${format.percent(OTHER_CPU_MAX)} of a CPU used by other processes, or more than ${format.percent(STEAL_MAX)} stolen by the hypervisor`,
    ],
    [
      'Processor time',
      'utime + stime of the whole server process, /proc/PID/stat, sampled by the load generator when its window opens and closes',
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

function table(head: readonly string[], lines: readonly (readonly string[])[]): string {
  const numeric = head.map((_, column) => lines.every((line) => /^(<[^>]*>)?[\d.–]/.test(line[column] ?? '')))
  const kind = (column: number): string =>
    head[column] === 'verdict' ? ' class="verdict"' : numeric[column] ? ' class="n"' : ''
  const top = head.every((cell) => cell === '')
    ? ''
    : `<thead><tr>${head.map((cell, column) => `<th${kind(column)}>${cell}</th>`).join('')}</tr></thead>`
  const body = lines.map(
    (line) => `<tr>${line.map((cell, column) => `<td${kind(column)}>${cell}</td>`).join('')}</tr>`,
  )
  return `<div class="scroll"><table>${top}<tbody>${body.join('\n')}</tbody></table></div>`
}
