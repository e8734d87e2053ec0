/** The page of the supervision benchmark: one file without scripts or outside references. */

import type { Environment } from '../machine.js'
import { escaped } from '../plots.js'
import type { Figure, Timeline } from './parts.js'

/** All that was measured; the JSON file. */
export interface SupervisionResults {
  readonly environment: Environment
  readonly quick: boolean
  readonly figures: readonly Figure[]
  readonly timelines: readonly Timeline[]
}

const PART_TITLES: Readonly<Record<Figure['part'], string>> = {
  stall: 'One of two is stuck: connect to first byte of new connections',
  share: 'How evenly connections are spread over two',
  replacement: 'How soon a dead shard is replaced',
  death: 'New connections, 400 a second, while one of two dies again and again',
  queue: 'Connections in the queue of one that dies',
}

const STYLE = `:root { color-scheme: light dark; --text: #1c2330; --soft: #5b6574; --grid: #dfe3e9; --page: #fff; --dot: #1d5fd1; --death: #f2c7c3; --fail: #b3261e; --pass: #12733c }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #9aa4b2; --grid: #323a46; --page: #14181e; --dot: #6ba2ff; --death: #5c2a27; --fail: #ff8a80; --pass: #58c98a } }
body { margin: 0 auto; max-width: 960px; padding: 32px 24px 64px; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px } th, td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--grid); text-align: left }
th, .soft { color: var(--soft) } .n { text-align: right } .pass { color: var(--pass) } .FAIL { color: var(--fail) }
svg { width: 100%; height: auto; display: block; margin: 8px 0 } text { fill: var(--text); font-size: 13px } .tick { fill: var(--soft); font-size: 12px }
.grid { stroke: var(--grid) } .dot { fill: var(--dot); opacity: .5 } .lost { fill: var(--fail) } .death { fill: var(--death) }`

/** `12.3 ms`, `1.05`, `1,000`. */
export function shown({ value, unit }: Figure): string {
  const number = Number.isInteger(value) ? value.toLocaleString('en-US') : value.toPrecision(3)
  return unit === '' ? number : `${Number(value.toPrecision(3))} ${unit}`
}

/** Whether a figure reaches its bar; null without one. A figure that is none reaches nothing. */
export function reaches({ value, bar }: Figure): boolean | null {
  return bar === null ? null : value <= bar
}

/** The page for `results`. */
export function supervisionReport({ environment, quick, figures, timelines }: SupervisionResults): string {
  const parts = [...new Set(figures.map(({ part }) => part))]
  const table = (part: Figure['part']): string =>
    figures
      .filter((figure) => figure.part === part)
      .map((figure) => {
        const reached = reaches(figure)
        const verdict = reached === null ? '' : reached ? 'pass' : 'FAIL'
        const bar = figure.bar === null ? '' : `≤ ${figure.bar}`
        return `<tr><td>${escaped(figure.server)}</td><td>${escaped(figure.what)}</td><td class="n">${shown(figure)}</td><td class="n">${bar}</td><td class="${verdict}">${verdict}</td></tr>`
      })
      .join('\n')
  const plots = timelines.map((timeline) => `<h3>${escaped(timeline.server)}</h3>${scatter(timeline)}`)
  const legend = `<p class="soft">A dot is a connection, by when it was opened and how long its first byte took; logarithmic. Bands: from the order to die to the replacement. Red at the top: failed. The last round that counts is shown.</p>`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>shardloop: supervision</title><style>${STYLE}</style></head><body>
<h1>shardloop: supervision${quick ? ' (quick)' : ''}</h1>
<p class="soft">${escaped(environment.date.slice(0, 16).replace('T', ' '))} UTC, commit ${escaped(environment.commit.slice(0, 12))}${environment.modified ? ' with uncommitted changes' : ''}, Node ${escaped(environment.node)}, ${escaped(environment.cpu)}, ${environment.cpus} CPUs. Servers and clients share the CPUs, as two shards need two; but for the deaths the server has CPU ${environment.serverCpu} and the client CPU ${environment.clientCpu}.</p>
${parts
  .map(
    (part) =>
      `<h2>${PART_TITLES[part]}</h2>${part === 'death' ? legend + plots.join('\n') : ''}<table><tr><th>server</th><th></th><th class="n">measured</th><th class="n">bar</th><th></th></tr>${table(part)}</table>`,
  )
  .join('\n')}
</body></html>
`
}

const WIDTH = 880
const HEIGHT = 200
const LEFT = 56
const TOP = 14
const FOOT = 22

function scatter({ points, deaths }: Timeline): string {
  const end = Math.max(1, ...points.map(({ atSecs }) => atSecs))
  const slowest = Math.max(1, ...points.map(({ ms }) => ms ?? 0))
  const [low, high] = [-1, Math.ceil(Math.log10(slowest))]
  const x = (secs: number): number => LEFT + (secs / end) * (WIDTH - LEFT)
  const y = (ms: number): number =>
    TOP + HEIGHT - ((Math.log10(Math.max(ms, 10 ** low)) - low) / (high - low)) * HEIGHT
  const bands = deaths.map(
    ({ fromSecs, toSecs }) =>
      `<rect x="${x(fromSecs).toFixed(1)}" y="${TOP}" width="${Math.max(1, x(toSecs) - x(fromSecs)).toFixed(1)}" height="${HEIGHT}" class="death"/>`,
  )
  const levels = Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index)).map(
    (ms) =>
      `<line x1="${LEFT}" x2="${WIDTH}" y1="${y(ms)}" y2="${y(ms)}" class="grid"/><text x="${LEFT - 6}" y="${y(ms) + 4}" class="tick" text-anchor="end">${ms} ms</text>`,
  )
  const dots = points.map(({ atSecs, ms }) =>
    ms === null
      ? `<circle cx="${x(atSecs).toFixed(1)}" cy="${TOP - 4}" r="3" class="lost"/>`
      : `<circle cx="${x(atSecs).toFixed(1)}" cy="${y(ms).toFixed(1)}" r="1.5" class="dot"/>`,
  )
  const seconds = Array.from({ length: 7 }, (_, index) => (end / 6) * index).map(
    (secs) =>
      `<text x="${x(secs).toFixed(1)}" y="${TOP + HEIGHT + 16}" class="tick" text-anchor="middle">${secs.toFixed(1)} s</text>`,
  )
  return `<svg viewBox="0 0 ${WIDTH + 20} ${TOP + HEIGHT + FOOT}" role="img" aria-label="first byte over time">${[...bands, ...levels, ...dots, ...seconds].join('\n')}</svg>`
}
