/** What changes over time as a page of plots, one below the other with one time axis. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './load.js'
import { escaped } from './plots.js'

const WIDTH = 880
const HEIGHT = 130
const LEFT = 64
const RIGHT = 12
const HEAD = 26
const FOOT = 22

const STYLE = `:root { color-scheme: light dark; --text: #1c2330; --soft: #5b6574; --grid: #dfe3e9; --page: #fff; --line: #1d5fd1 }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #9aa4b2; --grid: #323a46; --page: #14181e; --line: #6ba2ff } }
body { margin: 0 auto; max-width: 960px; padding: 32px 24px 64px; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif }
svg { width: 100%; height: auto; display: block; margin: 8px 0 } text { fill: var(--text); font-size: 13px } .tick { fill: var(--soft); font-size: 12px }
.grid { stroke: var(--grid) } polyline { fill: none; stroke: var(--line); stroke-width: 1.5 } .soft { color: var(--soft) }`

/** One quantity over time. */
export interface Curve {
  readonly title: string
  /** In order of time. */
  readonly points: readonly { readonly atSecs: number; readonly value: number }[]
  /** How a value of the axis is written. */
  readonly format: (value: number) => string
}

/** SVG of the curves, each on its own axis from 0. */
export function timelinePlot(title: string, curves: readonly Curve[]): string {
  const end = Math.max(1, ...curves.flatMap(({ points }) => points.map(({ atSecs }) => atSecs)))
  const x = (secs: number): number => LEFT + (secs / end) * (WIDTH - LEFT - RIGHT)
  const body = curves.map((curve, index) => {
    const top = index * (HEAD + HEIGHT + FOOT) + HEAD
    const most = Math.max(1, ...curve.points.map(({ value }) => value)) * 1.1
    const y = (value: number): number => top + HEIGHT - (value / most) * HEIGHT
    const line = curve.points.map(({ atSecs, value }) => `${x(atSecs).toFixed(1)},${y(value).toFixed(1)}`)
    const levels = [0, most / 2.2, most / 1.1].map(
      (value) =>
        `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}" class="grid"/>${label(LEFT - 8, y(value) + 4, curve.format(value), 'end')}`,
    )
    const times = Array.from({ length: 7 }, (_, tick) => (end / 6) * tick).map((secs) =>
      label(x(secs), top + HEIGHT + 16, `${Math.round(secs)} s`, 'middle'),
    )
    return `<text x="0" y="${top - 8}">${escaped(curve.title)}</text>${levels.join('')}${times.join('')}<polyline points="${line.join(' ')}"/>`
  })
  const height = curves.length * (HEAD + HEIGHT + FOOT)
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(title)}">\n${body.join('\n')}\n</svg>`
}

/** Writes a page with the plot and `facts` above it to bench/results/, and returns its path. */
export function saveTimeline(
  name: string,
  title: string,
  facts: readonly string[],
  curves: readonly Curve[],
): string {
  const directory = join(ROOT, 'bench', 'results')
  mkdirSync(directory, { recursive: true })
  const file = join(directory, `${name}.html`)
  writeFileSync(
    file,
    `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escaped(title)}</title><style>${STYLE}</style></head><body>
<h1>${escaped(title)}</h1>
${facts.map((fact) => `<p class="soft">${escaped(fact)}</p>`).join('\n')}
${timelinePlot(title, curves)}
</body></html>
`,
  )
  return file
}

function label(x: number, y: number, value: string, anchor: string): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="tick" text-anchor="${anchor}">${escaped(value)}</text>`
}
