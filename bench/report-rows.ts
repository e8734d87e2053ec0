/** The report's sections about the rows: ratios, throughput, latency, and all figures. */
import * as format from './format.js'
import { peerName, table } from './page.js'
import { PEERS, type PeerId } from './peers.js'
import { barPlot, escaped, percentilePlot, ratioPlot } from './plots.js'
import { type BarResult, cpuRatio, figuresOf, type Results, roughCpuRatio } from './results.js'
import { pairsOf } from './rounds.js'

/** The sections about rows; none without rows. */
export function rowSections(results: Results, bars: readonly BarResult[]): string {
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
    const name = PEERS[against].title
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
${ratioSection('raw-tokio')}
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
        peerName(peer),
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
