/** Latency by percentile: both axes logarithmic, the one across by what lies beyond, so that each nine is as wide as the last. */
import * as format from '../format.js'
import { escaped } from '../plots.js'

/** A share of the requests, 0 to 1, and the microseconds that these took at most. */
export type PercentilePoint = readonly [share: number, micros: number]

/** One distribution. */
export interface PercentileLine {
  readonly title: string
  /** In order; the last one, at 1, is the longest. */
  readonly points: readonly PercentilePoint[]
}

const WIDTH = 880
const HEIGHT = 300
const LEFT = 72
const RIGHT = 24
const HEAD = 26
const FOOT = 28
const CLASSES: readonly string[] = ['first', 'second']
/** Below this many decades the levels between them have lines, too. */
const FEW_DECADES = 3

/** The lines' own style; the page's has the rest. */
export const CURVE_STYLE: string = `.curve { fill: none; stroke-width: 2 } .curve.first { stroke: #1d5fd1 } .curve.second { stroke: #c76a06 } .key.first { fill: #1d5fd1 } .key.second { fill: #c76a06 }`

/** SVG of at most two lines. */
export function percentileCurve(lines: readonly PercentileLine[]): string {
  const points = lines.flatMap((line) => line.points)
  const values = points.map(([, micros]) => micros).filter((micros) => micros > 0)
  const [least, most] = bounds(values)
  const nines = Math.max(1, ...points.filter(([share]) => share < 1).map(([share]) => ninesOf(share)))
  // The longest is put a little beyond the last percentile that there are enough requests for.
  const end = nines + 0.3
  const x = (share: number): number => LEFT + (Math.min(ninesOf(share), end) / end) * (WIDTH - LEFT - RIGHT)
  const span = Math.log10(most / least)
  const y = (micros: number): number =>
    HEAD + HEIGHT - (Math.log10(Math.max(micros, least) / least) / span) * HEIGHT

  const body = lines.map(({ points: own }, index) => {
    const path = own.map(([share, micros]) => `${x(share).toFixed(1)},${y(micros).toFixed(1)}`)
    return `<polyline points="${path.join(' ')}" class="curve ${CLASSES[index]}"/>`
  })
  const keys = lines.map(({ title }, index) => {
    const left = LEFT + index * 300
    return `<rect x="${left}" y="4" width="10" height="10" class="key ${CLASSES[index]}"/><text x="${left + 16}" y="14">${escaped(title)}</text>`
  })
  const across = levels(least, most).map(
    (micros) =>
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(micros).toFixed(1)}" y2="${y(micros).toFixed(1)}" class="grid"/>${tick(LEFT - 8, y(micros) + 4, format.micros(micros), 'end')}`,
  )
  const shares = [0, 0.5, ...Array.from({ length: Math.floor(nines) }, (_, index) => 1 - 10 ** -(index + 1))]
  const up = shares.map(
    (share) =>
      `<line x1="${x(share).toFixed(1)}" x2="${x(share).toFixed(1)}" y1="${HEAD}" y2="${HEAD + HEIGHT}" class="grid"/>${tick(x(share), HEAD + HEIGHT + 18, percentileTitle(share), 'middle')}`,
  )
  const last = tick(WIDTH - RIGHT, HEAD + HEIGHT + 18, 'max', 'middle')
  return `<svg viewBox="0 0 ${WIDTH} ${HEAD + HEIGHT + FOOT}" role="img" aria-label="Latency by percentile">\n${[...across, ...up, last, ...keys, ...body].join('\n')}\n</svg>`
}

/** `min`, `p50`, `p99.9`. */
export function percentileTitle(share: number): string {
  return share === 0 ? 'min' : `p${Number((share * 100).toPrecision(10))}`
}

/** 0 for none, 1 for 0.9, 2 for 0.99; without bound towards 1. */
function ninesOf(share: number): number {
  return -Math.log10(Math.max(1 - share, 1e-12))
}

/** The decades around all values; around a millisecond where there is none. */
function bounds(values: readonly number[]): [number, number] {
  if (values.length === 0) return [100, 10_000]
  const least = 10 ** Math.floor(Math.log10(Math.min(...values)))
  return [least, Math.max(10 ** Math.ceil(Math.log10(Math.max(...values))), least * 10)]
}

function levels(least: number, most: number): number[] {
  const decades = Math.round(Math.log10(most / least))
  const steps = decades < FEW_DECADES ? [1, 2, 5] : [1]
  return Array.from({ length: decades + 1 }, (_, index) => least * 10 ** index)
    .flatMap((decade) => steps.map((step) => step * decade))
    .filter((micros) => micros <= most)
}

function tick(x: number, y: number, value: string, anchor: string): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="tick" text-anchor="${anchor}">${escaped(value)}</text>`
}
