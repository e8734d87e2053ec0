/** The HTML report: one file without scripts or outside references. */
import * as format from './format.js'
import { IDLE_CONNECTIONS } from './memory.js'
import { PAGE_STYLE, peerName, table, VERDICTS, verdictCounts } from './page.js'
import { barPlot, escaped, percentilePlot } from './plots.js'
import { rowSections } from './report-rows.js'
import { type BarResult, evaluate, latencySamples, type Results } from './results.js'
import { GENERATION_ROUNDS, OTHER_CPU_MAX, STEAL_MAX } from './rounds.js'
import { BUSY_FLOOR, METRIC_TITLES, type Probe, ROWS } from './rows.js'
import { BOOTSTRAP_RESAMPLES, median, SEED } from './statistics.js'

/** The page for `results`. */
export function htmlReport(results: Results): string {
  const { environment } = results
  const bars = evaluate(results)
  const title = `shardloop benchmark${results.quick ? ' (quick)' : ''}`
  const commit = `${environment.commit.slice(0, 12)}${environment.modified ? ' with uncommitted changes' : ''}`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title><style>${PAGE_STYLE}</style></head><body>
<h1>${title}</h1>
<p class="soft">${escaped(environment.date.slice(0, 16).replace('T', ' '))} UTC, commit ${escaped(commit)}, Node ${escaped(environment.node)}</p>
${results.quick ? '<p>A quick run has few and short rounds. It shows that something broke, not by how much something changed.</p>' : ''}
${verdictCounts(bars)}
${rowSections(results, bars)}
${memorySection(results)}
${syscallSection(results)}
${latencySection(results)}
${handlesSection(results)}
${barSection(bars)}
${methodSection(results)}
</body></html>
`
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
    peerName(peer),
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

function handlesSection({ handles }: Results): string {
  if (handles === null) return ''
  return `<h2>Callbacks and timers</h2>
<p class="soft">Of a loop, beside setImmediate and setTimeout, on one CPU.</p>
<pre class="scroll">${escaped(handles)}</pre>`
}

function barSection(bars: readonly BarResult[]): string {
  if (bars.length === 0) return ''
  const lines = (kind: 'must' | 'aim'): string[][] =>
    bars
      .filter(({ bar }) => bar.kind === kind)
      .map(({ bar, interval, value, verdict, reason }) => [
        `<span class="tight">${escaped(bar.row)}</span>`,
        peerName(bar.peer),
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
        environment.python ?? 'no Python',
      ].join(', '),
    ],
    ['Commit', `${environment.commit}${environment.modified ? ' with uncommitted changes' : ''}`],
    [
      'Placement',
      `server on CPU ${environment.serverCpu}, load generator on CPU ${environment.clientCpu}, over loopback; where a protocol has work of its own the server on both; where clients are measured, the client is where servers are otherwise, and a request is a connection`,
    ],
    [
      'Rounds',
      `each measures every server once, in shuffled order, for ${plan.windowSecs} s after ${plan.warmupSecs} s of warm-up; ${plan.wanted} that count are wanted for each comparison, ${plan.max} are made at most; server processes are new for each row and every ${GENERATION_ROUNDS} rounds`,
    ],
    [
      'Left out',
      `measurements with a server less than ${format.percent(BUSY_FLOOR)} busy (not asked for with churn, where the client works more than the server, nor with one connection or where a protocol has work of its own, since there it counts who waits), with more than ${format.percent(OTHER_CPU_MAX)} of a CPU used by other processes, or more than ${format.percent(STEAL_MAX)} stolen by the hypervisor`,
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
