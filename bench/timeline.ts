/** What changes over time as plots, one below the other with one time axis: in a page, or as an image of its own. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { RESULTS } from './load.js'
import { escaped } from './plots.js'

const WIDTH = 880
const HEIGHT = 130
const LEFT = 72
const RIGHT = 12
const HEAD = 26
const FOOT = 22
/** Around an image of its own, and the height of one of its lines of text. */
const MARGIN = 24
const TEXT_LINE = 20
/** From here on the time axis is in minutes. */
const MINUTES_FROM_SECS = 600

/** Colours as they stand in an SVG's own style sheet: not every viewer knows variables. */
const PLOT_STYLE = `text { fill: #1c2330; font-size: 13px } .tick { fill: #5b6574; font-size: 12px } .grid { stroke: #dfe3e9 }
polyline { fill: none; stroke: #1d5fd1; stroke-width: 1.5 } .mark { fill: #c76a06 } .from { stroke: #5b6574; stroke-dasharray: 4 3 }`
const DARK_PLOT_STYLE = `text { fill: #e6e9ee } .tick { fill: #9aa4b2 } .grid { stroke: #323a46 } polyline { stroke: #6ba2ff } .mark { fill: #f0a04b } .from { stroke: #9aa4b2 }`
const PAGE_STYLE = `:root { color-scheme: light dark } body { margin: 0 auto; max-width: 960px; padding: 32px 24px 64px; background: #fff; color: #1c2330; font: 15px/1.5 system-ui, sans-serif }
svg { width: 100%; height: auto; display: block; margin: 8px 0 } .soft { color: #5b6574 } ${PLOT_STYLE}
@media (prefers-color-scheme: dark) { body { background: #14181e; color: #e6e9ee } .soft { color: #9aa4b2 } ${DARK_PLOT_STYLE} }`
const IMAGE_STYLE = `svg { font-family: system-ui, "DejaVu Sans", sans-serif } .page { fill: #fff } .title { font-size: 20px; font-weight: 600 } .soft { fill: #5b6574 } ${PLOT_STYLE}
@media (prefers-color-scheme: dark) { .page { fill: #14181e } .soft { fill: #9aa4b2 } ${DARK_PLOT_STYLE} }`

/** A value at a time. */
export interface Moment {
  readonly atSecs: number
  readonly value: number
}

/** One quantity over time. */
export interface Curve {
  readonly title: string
  /** In order of time. */
  readonly points: readonly Moment[]
  /** Moments that are marked by dots. */
  readonly marks?: readonly Moment[]
  /** How a value of the axis is written. */
  readonly format: (value: number) => string
}

/** SVG of the curves, each on its own axis from 0; a dashed line at `fromSecs`, where there is one. */
export function timelinePlot(title: string, curves: readonly Curve[], fromSecs?: number): string {
  return `<svg viewBox="0 0 ${WIDTH} ${heightOf(curves)}" role="img" aria-label="${escaped(title)}">\n${plots(curves, fromSecs)}\n</svg>`
}

/** A whole SVG file: the title, `facts` and the curves. */
export function timelineImage(
  title: string,
  facts: readonly string[],
  curves: readonly Curve[],
  fromSecs?: number,
): string {
  const top = MARGIN + 20 + facts.length * TEXT_LINE + 16
  const [width, height] = [WIDTH + 2 * MARGIN, top + heightOf(curves) + MARGIN]
  const lines = facts.map(
    (fact, index) =>
      `<text x="${MARGIN}" y="${MARGIN + 20 + (index + 1) * TEXT_LINE}" class="soft">${escaped(fact)}</text>`,
  )
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escaped(title)}">
<style>${IMAGE_STYLE}</style>
<rect width="${width}" height="${height}" class="page"/>
<text x="${MARGIN}" y="${MARGIN + 16}" class="title">${escaped(title)}</text>
${lines.join('\n')}
<g transform="translate(${MARGIN} ${top})">
${plots(curves, fromSecs)}
</g>
</svg>
`
}

/** Writes a page with the plot and `facts` above it to bench/results/, and returns its path. */
export function saveTimeline(
  name: string,
  title: string,
  facts: readonly string[],
  curves: readonly Curve[],
): string {
  mkdirSync(RESULTS, { recursive: true })
  const file = join(RESULTS, `${name}.html`)
  writeFileSync(
    file,
    `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escaped(title)}</title><style>${PAGE_STYLE}</style></head><body>
<h1>${escaped(title)}</h1>
${facts.map((fact) => `<p class="soft">${escaped(fact)}</p>`).join('\n')}
${timelinePlot(title, curves)}
</body></html>
`,
  )
  return file
}

function heightOf(curves: readonly Curve[]): number {
  return curves.length * (HEAD + HEIGHT + FOOT)
}

function plots(curves: readonly Curve[], fromSecs: number | undefined): string {
  const end = Math.max(1, ...curves.map(({ points }) => points.at(-1)?.atSecs ?? 0))
  const x = (secs: number): string => (LEFT + (secs / end) * (WIDTH - LEFT - RIGHT)).toFixed(1)
  const body = curves.map(({ title, points, marks = [], format }, index) => {
    const top = index * (HEAD + HEIGHT + FOOT) + HEAD
    const most = [...points, ...marks].reduce((highest, { value }) => Math.max(highest, value), 1) * 1.1
    const y = (value: number): string => (top + HEIGHT - (value / most) * HEIGHT).toFixed(1)
    const line = points.map(({ atSecs, value }) => `${x(atSecs)},${y(value)}`)
    const levels = [0, most / 2.2, most / 1.1].map(
      (value) =>
        `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}" class="grid"/>${label(LEFT - 8, Number(y(value)) + 4, format(value), 'end')}`,
    )
    const times = Array.from({ length: 7 }, (_, tick) => (end / 6) * tick).map((secs, tick) =>
      label(Number(x(secs)), top + HEIGHT + 16, time(secs, end), tick === 6 ? 'end' : 'middle'),
    )
    const from =
      fromSecs === undefined
        ? ''
        : `<line x1="${x(fromSecs)}" x2="${x(fromSecs)}" y1="${top}" y2="${top + HEIGHT}" class="from"/>`
    const dots = marks.map(
      ({ atSecs, value }) => `<circle cx="${x(atSecs)}" cy="${y(value)}" r="2.5" class="mark"/>`,
    )
    return `<text x="0" y="${top - 8}">${escaped(title)}</text>${levels.join('')}${times.join('')}${from}<polyline points="${line.join(' ')}"/>${dots.join('')}`
  })
  return body.join('\n')
}

function time(secs: number, end: number): string {
  if (end >= MINUTES_FROM_SECS) return `${Math.round(secs / 60)} min`
  return `${end < 30 ? secs.toFixed(1) : Math.round(secs)} s`
}

function label(x: number, y: number, value: string, anchor: string): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="tick" text-anchor="${anchor}">${escaped(value)}</text>`
}
