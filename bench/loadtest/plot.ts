/** What a load over HTTP found, as a page or as an image: percentiles of latency, and requests and latency over time. */
import * as format from '../format.js'
import { escaped } from '../plots.js'
import { type Curve, type Moment, timelinePlot } from '../timeline.js'
import {
  CURVE_STYLE,
  type PercentileLine,
  type PercentilePoint,
  percentileCurve,
} from './percentile-curve.js'

/** What the load generator writes with `http --out`. */
export interface HttpRun {
  readonly addr: string
  readonly request: string
  readonly connections: number
  readonly pipeline: number
  readonly newConnection: boolean
  readonly ratePerSec: number | null
  readonly secs: number
  readonly requests: number
  readonly requestsPerSec: number
  readonly bytesPerSec: number
  readonly statuses: Readonly<Record<string, number>>
  readonly unsent: number
  readonly lostRequests: number
  readonly failures: { readonly first: string | null }
  readonly errors: Readonly<Record<string, number>>
  readonly curve: readonly PercentilePoint[]
  /** From when requests went out; null without a rate. */
  readonly uncorrectedCurve: readonly PercentilePoint[] | null
  readonly seconds: readonly Second[]
}

/** A second of the measured window; the last one may be shorter. */
interface Second {
  readonly secs: number
  readonly requests: number
  /** Microseconds. */
  readonly p50: number
  readonly p99: number
  readonly errors: number
}

const WIDTH = 880
const MARGIN = 24
const TEXT_LINE = 20

const LIGHT = `text { fill: #1c2330; font-size: 13px } .tick { fill: #5b6574; font-size: 12px } .grid { stroke: #dfe3e9 } .soft { fill: #5b6574; color: #5b6574 }
polyline { fill: none; stroke: #1d5fd1; stroke-width: 1.5 } .mark { fill: #b3261e } ${CURVE_STYLE}`
const DARK = `text { fill: #e6e9ee } .tick, .soft { fill: #9aa4b2; color: #9aa4b2 } .grid { stroke: #323a46 } polyline { stroke: #6ba2ff } .mark { fill: #ff8a80 }`
const PAGE_STYLE = `:root { color-scheme: light dark } body { margin: 0 auto; max-width: 960px; padding: 32px 24px 64px; background: #fff; color: #1c2330; font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 24px; margin: 0 0 8px } h2 { font-size: 18px; margin: 32px 0 4px } p { margin: 4px 0 } svg { width: 100%; height: auto; display: block; margin: 8px 0 } ${LIGHT}
@media (prefers-color-scheme: dark) { body { background: #14181e; color: #e6e9ee } ${DARK} }`
const IMAGE_STYLE = `svg { font-family: system-ui, "DejaVu Sans", sans-serif } .page { fill: #fff } .title { font-size: 20px; font-weight: 600 } ${LIGHT}
@media (prefers-color-scheme: dark) { .page { fill: #14181e } ${DARK} }`

/** One HTML file without scripts or outside references. */
export function runPage(run: HttpRun, date: Date): string {
  const title = titleOf(run)
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title><style>${PAGE_STYLE}</style></head><body>
<h1>${escaped(title)}</h1>
${factsOf(run, date)
  .map((fact) => `<p class="soft">${escaped(fact)}</p>`)
  .join('\n')}
<h2>Latency by percentile</h2>
${percentileCurve(linesOf(run))}
<h2>Over time</h2>
${timelinePlot('Over time', timeOf(run))}
</body></html>
`
}

/** One SVG file. */
export function runImage(run: HttpRun, date: Date): string {
  const facts = factsOf(run, date)
  const title = titleOf(run)
  const text = [
    `<text x="${MARGIN}" y="${MARGIN + 16}" class="title">${escaped(title)}</text>`,
    ...facts.map(
      (fact, index) =>
        `<text x="${MARGIN}" y="${MARGIN + 20 + (index + 1) * TEXT_LINE}" class="soft">${escaped(fact)}</text>`,
    ),
  ]
  const plots = [percentileCurve(linesOf(run)), timelinePlot('Over time', timeOf(run))]
  let y = MARGIN + 20 + facts.length * TEXT_LINE + 16
  const placed = plots.map((plot) => {
    const height = Number(/viewBox="0 0 \d+ (\d+)"/.exec(plot)?.[1])
    const at = `<svg x="${MARGIN}" y="${y}" width="${WIDTH}" height="${height}" `
    y += height + MARGIN
    return plot.replace('<svg ', at)
  })
  const width = WIDTH + 2 * MARGIN
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" width="${width}" height="${y}" role="img" aria-label="${escaped(title)}">
<style>${IMAGE_STYLE}</style>
<rect width="${width}" height="${y}" class="page"/>
${[...text, ...placed].join('\n')}
</svg>
`
}

function titleOf({ request, addr }: HttpRun): string {
  return `${request} at ${addr}`
}

/** What was done and found, in sentences. */
export function factsOf(run: HttpRun, date: Date): string[] {
  const how = run.newConnection
    ? 'a new one for each request'
    : `kept alive, ${run.pipeline} in flight on each`
  const rate =
    run.ratePerSec === null
      ? 'The next request followed a response.'
      : `${format.count(run.ratePerSec)} requests/s were due by a fixed schedule; ${format.count(run.unsent)} found no room.`
  const statuses = Object.entries(run.statuses).filter(([, count]) => count > 0)
  const answered = statuses.map(([status, count]) => `${status} ${format.count(count)}`).join(', ')
  const errors = Object.values(run.errors).reduce((sum, count) => sum + count, 0)
  const failed =
    errors === 0 ? 'no errors' : `${format.count(errors)} errors, the first: ${run.failures.first ?? ''}`
  const megabytes = (run.bytesPerSec / 1e6).toFixed(1)
  return [
    `${date.toISOString().slice(0, 16).replace('T', ' ')} UTC, ${run.secs.toFixed(1)} s. ${format.count(run.connections)} connections, ${how}. ${rate}`,
    `${format.count(run.requests)} requests, ${format.count(run.requestsPerSec)}/s, ${megabytes} MB/s; ${answered === '' ? 'no responses' : answered}; ${failed}.`,
  ]
}

function linesOf({ curve, uncorrectedCurve }: HttpRun): PercentileLine[] {
  if (uncorrectedCurve === null) return [{ title: 'from when a request went out', points: curve }]
  return [
    { title: 'from when a request was due', points: curve },
    { title: 'from when it went out (not corrected)', points: uncorrectedCurve },
  ]
}

function timeOf({ seconds }: HttpRun): Curve[] {
  const series = (read: (second: Second) => number): Moment[] => {
    let atSecs = 0
    const points = seconds.map((second) => {
      atSecs += second.secs
      return { atSecs, value: read(second) }
    })
    // So that one second is a line, too.
    const [first] = points
    return first === undefined ? [] : [{ atSecs: 0, value: first.value }, ...points]
  }
  const plots: Curve[] = [
    { title: 'requests/s', points: series(({ requests, secs }) => requests / secs), format: format.short },
    { title: 'p99 of each second', points: series(({ p99 }) => p99), format: format.micros },
  ]
  if (seconds.every(({ errors }) => errors === 0)) return plots
  return [
    ...plots,
    { title: 'errors/s', points: series(({ errors, secs }) => errors / secs), format: format.short },
  ]
}
