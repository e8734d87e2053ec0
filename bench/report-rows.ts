/** The report's sections about the rows: ratios, throughput, latency, and all figures. */
import { BURN_US } from './burn/message-burn.js'
import { type Pair, pairsOf } from './comparisons.js'
import * as format from './format.js'
import { peerName, table } from './page.js'
import { PEERS, type PeerId } from './peers.js'
import { barPlot, escaped, percentilePlot, ratioPlot } from './plots.js'
import {
  type BarResult,
  figuresOf,
  type PeerFigures,
  type Results,
  rateRatio,
  roughRateRatio,
} from './results.js'
import type { RowResult } from './rounds.js'
import { METRIC_TITLES, type Rate, type Row, type Work } from './rows.js'

/** The sections about rows; none without rows. */
export function rowSections(results: Results, bars: readonly BarResult[]): string {
  if (results.rows.length === 0) return ''
  const latency = results.rows.map((result) => ({
    title: result.row.title,
    lines: figuresOfAll(results, result),
  }))
  return `${echoSections(results, bars)}
${comparedSections(results, bars)}
${burnSection(results, bars)}
<h2>Latency</h2>
<p class="soft">Left is better; logarithmic. Ring: p50; dot: p99; tick: p99.9. The clients send as fast as answers come, so latency here is mostly the length of the queue.</p>
${percentilePlot('Latency percentiles', latency)}
<h2>Figures</h2>
${results.rows.map((result) => figureTable(results, result)).join('\n')}`
}

const RATIO_KEY =
  'Dot: geometric mean of the paired rounds; band: 95\u00a0% interval; upright mark: the value to reach; ring: too few rounds count, so this is from all of them.'

/** Rows in which servers only send back, by processor time. */
function echoSections(results: Results, bars: readonly BarResult[]): string {
  const rows = results.rows.filter(({ row }) => row.work === 'echo')
  if (rows.length === 0) return ''
  const ratios = (against: PeerId): string => {
    if (!results.peers.includes(against) || results.peers.length < 2) return ''
    const name = PEERS[against].title
    const groups = ratioGroups(results, rows, bars, mainRate, (pair) => pair.against === against)
    return `<h2>Requests per server-CPU-second, as a ratio to ${name}</h2>
<p class="soft">Right is better; the dashed line is ${name}. ${RATIO_KEY}</p>
${ratioPlot(`Ratio to ${name}`, groups)}`
  }
  const throughput = valueGroups(results, rows, ({ requestsPerCpuSec }) => ({
    value: requestsPerCpuSec,
    text: format.short(requestsPerCpuSec),
  }))
  return `${ratios('node-net')}
${ratios('raw-mio')}
${ratios('raw-tokio')}
<h2>Throughput</h2>
<p class="soft">Requests per server-CPU-second, median of the rounds that count; each workload has its own scale. With churn a request is a connection.</p>
${barPlot('Requests per server-CPU-second', throughput)}`
}

/** Rows that are compared by several rates: a section for each kind. */
const COMPARED: readonly {
  readonly work: Work
  readonly title: string
  readonly note: string
  readonly against: readonly PeerId[]
}[] = [
  {
    work: 'unix',
    title: 'Unix sockets',
    note: 'Echo as above, over a Unix socket.',
    against: ['node-net', 'raw-mio', 'raw-tokio'],
  },
  {
    work: 'connect',
    title: 'Connecting',
    note: 'Clients open connections to a server in Rust, each closed as soon as it is established and gone before the next one takes its place. The client has a CPU, the server the other.',
    against: ['node-net'],
  },
  {
    work: 'raw',
    title: 'One connection, one message at a time',
    note: 'As in RLoop\u2019s own benchmark of raw sockets. Server and client wait for each other, so it counts how soon an answer leaves. Python\u2019s loops echo by sock_recv and sock_sendall, as they do there, and by a Protocol.',
    against: ['node-net', 'rloop', 'uvloop', 'rloop-proto', 'uvloop-proto'],
  },
]

function comparedSections(results: Results, bars: readonly BarResult[]): string {
  return COMPARED.map(({ work, title, note, against }) => {
    const rows = results.rows.filter(({ row }) => row.work === work)
    const [first] = rows
    if (first === undefined) return ''
    const ratios = first.row.rates.flatMap((rate) =>
      against
        .filter((peer) => rows.some((result) => figuresOf(result, peer) !== null))
        .map((peer) => ratioSection(results, rows, bars, rate, peer)),
    )
    const figures = first.row.rates.map(
      (rate) => `<h3>${capitalized(METRIC_TITLES[rate])}</h3>
${barPlot(METRIC_TITLES[rate], rateGroups(results, rows, rate))}`,
    )
    return `<h2>${escaped(title)}</h2>
<p class="soft">${escaped(note)}</p>
${ratios.join('\n')}
${figures.join('\n')}`
  }).join('\n')
}

function ratioSection(
  results: Results,
  rows: readonly RowResult[],
  bars: readonly BarResult[],
  rate: Rate,
  against: PeerId,
): string {
  const groups = ratioGroups(
    results,
    rows,
    bars,
    () => rate,
    (pair) => pair.against === against,
  )
  if (groups.every(({ lines }) => lines.length === 0)) return ''
  const heading = `${capitalized(METRIC_TITLES[rate])}, as a ratio to ${PEERS[against].title}`
  return `<h3>${escaped(heading)}</h3>
<p class="soft">Right is better; the dashed line is ${escaped(PEERS[against].title)}. ${RATIO_KEY}</p>
${ratioPlot(heading, groups)}`
}

function rateGroups(
  results: Results,
  rows: readonly RowResult[],
  rate: Rate,
): ReturnType<typeof valueGroups> {
  return valueGroups(results, rows, (figures) => {
    const value = rate.endsWith('per-cpu-second') ? figures.requestsPerCpuSec : figures.requestsPerSec
    return { value, text: format.short(value) }
  })
}

function mainRate(row: Row): Rate {
  return row.rates[0]
}

function capitalized(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1)
}

/** Rows in which our protocols have work of their own, by the clock. */
function burnSection(results: Results, bars: readonly BarResult[]): string {
  const rows = results.rows.filter(({ row }) => row.work === 'burn')
  if (rows.length === 0) return ''
  const groups = ratioGroups(results, rows, bars, mainRate, () => true)
  const perSec = valueGroups(results, rows, ({ requestsPerSec }) => ({
    value: requestsPerSec,
    text: format.short(requestsPerSec),
  }))
  const cpu = valueGroups(results, rows, ({ cpuUsPerRequest }) => ({
    value: cpuUsPerRequest,
    text: `${cpuUsPerRequest.toFixed(1)} µs`,
  }))
  const ratios = groups.every(({ lines }) => lines.length === 0)
    ? ''
    : `<h3>Requests per second, as a ratio to mio in the same mode</h3>
<p class="soft">Right is better; the dashed line is mio. ${RATIO_KEY}</p>
${ratioPlot('Ratio to mio', groups)}`
  return `<h2>Protocols with work of their own</h2>
<p class="soft">For each message the protocol keeps its thread in JavaScript for ${BURN_US} µs by the clock before it answers. The server has two CPUs, one for JavaScript and one for its I/O thread, if it has one; the client shares the second.</p>
${ratios}
<h3>Requests per second</h3>
<p class="soft">Right is better; median of the rounds that count.</p>
${barPlot('Requests per second', perSec)}
<h3>Processor time of the server for a request</h3>
<p class="soft">Left is better; ${BURN_US} µs of it are the protocol's.</p>
${barPlot('Processor time for a request', cpu)}`
}

function ratioGroups(
  results: Results,
  rows: readonly RowResult[],
  bars: readonly BarResult[],
  rateOf: (row: Row) => Rate,
  wanted: (pair: Pair) => boolean,
): Parameters<typeof ratioPlot>[1] {
  return rows.map((result) => ({
    title: result.row.title,
    lines: pairsOf(result.row, results.peers)
      .filter(wanted)
      .sort((one, other) => results.peers.indexOf(one.peer) - results.peers.indexOf(other.peer))
      .map((pair) => ({
        peer: pair.peer,
        interval: rateRatio(result, pair, rateOf(result.row)),
        rough: roughRateRatio(result, pair, rateOf(result.row)),
        goals: bars
          .filter(({ bar }) => bar.row === result.row.id && bar.metric === rateOf(result.row))
          .filter(({ bar }) => bar.peer === pair.peer && bar.against === pair.against)
          .map(({ bar }) => bar.value),
      })),
  }))
}

function valueGroups(
  results: Results,
  rows: readonly RowResult[],
  show: (figures: PeerFigures) => { value: number; text: string },
): Parameters<typeof barPlot>[1] {
  return rows.map((result) => ({
    title: result.row.title,
    lines: figuresOfAll(results, result).map((figures) => ({ peer: figures.peer, ...show(figures) })),
  }))
}

function figuresOfAll(results: Results, result: RowResult): PeerFigures[] {
  return results.peers.flatMap((peer) => figuresOf(result, peer) ?? [])
}

function figureTable(results: Results, result: RowResult): string {
  const lines = figuresOfAll(results, result).map((figures) => [
    peerName(figures.peer),
    format.count(figures.requestsPerSec),
    format.count(figures.requestsPerCpuSec),
    `${figures.cpuUsPerRequest.toFixed(1)} µs`,
    format.percent(figures.serverBusy),
    format.micros(figures.p50),
    format.micros(figures.p99),
    format.micros(figures.p999),
    `${figures.rounds}`,
    `${figures.leftOutBusy} idle, ${figures.leftOutNoise} noise`,
  ])
  const head = [
    '',
    'requests/s',
    'per CPU-s',
    'CPU each',
    'busy',
    'p50',
    'p99',
    'p99.9',
    'rounds',
    'left out',
  ]
  return `<h3>${escaped(result.row.title)}</h3>${table(head, lines)}`
}
