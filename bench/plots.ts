/** SVG plots as strings. Text and axes take the page's colours; peers have theirs in the page's style sheet. */
import * as format from './format.js'
import { PEERS, type PeerId } from './peers.js'
import type { Interval } from './statistics.js'

const WIDTH = 880
const LABELS = 230
const RIGHT = 150
const LINE = 26
const HEAD = 26

/** Whom a line is about. */
export interface PlotPeer {
  /** Gives the line its colour, and its label unless there is a title. */
  readonly peer: PeerId
  readonly title?: string
}

/** A labelled value with an optional interval. */
export interface RatioLine extends PlotPeer {
  readonly interval: Interval | null
  /** Shown when there is no interval. */
  readonly rough: number | null
  /** Values to reach, marked on the line. */
  readonly goals: readonly number[]
}

/** Ratios with their intervals, one group per row, all on one axis that starts at 0; 1 is the baseline. */
export function ratioPlot(
  title: string,
  groups: readonly { readonly title: string; readonly lines: readonly RatioLine[] }[],
): string {
  const highs = groups.flatMap((group) =>
    group.lines.flatMap((line) => [line.interval?.high ?? line.rough ?? 1, ...line.goals]),
  )
  const most = Math.max(1.2, ...highs) * 1.05
  const x = (value: number): number => LABELS + (value / most) * (WIDTH - LABELS - RIGHT)
  const body: string[] = []
  let y = 8
  const top = y
  for (const group of groups) {
    body.push(text(0, y + 16, group.title, 'group'))
    y += HEAD
    for (const line of group.lines) {
      const middle = y + LINE / 2
      body.push(text(LABELS - 12, middle + 4, labelOf(line), 'label', 'end'))
      body.push(`<line x1="${x(0)}" x2="${x(most)}" y1="${middle}" y2="${middle}" class="guide"/>`)
      for (const goal of line.goals) {
        const tip = `${x(goal)},${middle - 9} ${x(goal)},${middle + 9}`
        body.push(`<polyline points="${tip}" class="goal"><title>to reach: ${goal}</title></polyline>`)
      }
      if (line.interval === null) {
        const ring = `<circle cx="${x(line.rough ?? 0)}" cy="${middle}" r="4.5" class="dot hollow ${line.peer}"/>`
        body.push(line.rough === null ? '' : ring)
        body.push(text(WIDTH - RIGHT + 12, middle + 4, format.interval(null, line.rough), 'label'))
      } else {
        const { low, middle: value, high } = line.interval
        body.push(
          `<line x1="${x(low)}" x2="${x(high)}" y1="${middle}" y2="${middle}" class="span ${line.peer}"/>`,
          `<circle cx="${x(value)}" cy="${middle}" r="4.5" class="dot ${line.peer}"/>`,
          text(WIDTH - RIGHT + 12, middle + 4, format.interval(line.interval), 'figure'),
        )
      }
      y += LINE
    }
    y += 10
  }
  const step = most > 4 ? 1 : most > 2 ? 0.5 : 0.25
  const axis = ticks(most, step).map((value) => {
    const kind = value === 1 ? 'one' : 'grid'
    return `<line x1="${x(value)}" x2="${x(value)}" y1="${top}" y2="${y}" class="${kind}"/>${text(x(value), y + 16, String(value), 'tick', 'middle')}`
  })
  return svg(title, y + 24, axis, body)
}

/** Bars from 0, each group with its own scale. */
export function barPlot(
  title: string,
  groups: readonly {
    readonly title: string
    readonly lines: readonly (PlotPeer & { readonly value: number; readonly text: string })[]
  }[],
): string {
  const body: string[] = []
  let y = 8
  for (const group of groups) {
    const most = Math.max(...group.lines.map((line) => line.value), Number.MIN_VALUE)
    body.push(text(0, y + 16, group.title, 'group'))
    y += HEAD
    for (const line of group.lines) {
      const middle = y + LINE / 2
      const width = (Math.max(line.value, 0) / most) * (WIDTH - LABELS - RIGHT)
      body.push(
        text(LABELS - 12, middle + 4, labelOf(line), 'label', 'end'),
        `<rect x="${LABELS}" y="${y + 5}" width="${width.toFixed(1)}" height="${LINE - 10}" rx="2" class="fill ${line.peer}"/>`,
        text(LABELS + width + 8, middle + 4, line.text, 'figure'),
      )
      y += LINE
    }
    y += 10
  }
  return svg(title, y, [], body)
}

/** Percentiles on a logarithmic axis that all groups share: p50 hollow, p99 full, p99.9 a tick. */
export function percentilePlot(
  title: string,
  groups: readonly {
    readonly title: string
    readonly lines: readonly {
      readonly peer: PeerId
      readonly p50: number
      readonly p99: number
      readonly p999: number | null
    }[]
  }[],
): string {
  const values = groups.flatMap((group) =>
    group.lines.flatMap((line) => [line.p50, line.p99, line.p999 ?? line.p99]),
  )
  const positive = values.filter((value) => value > 0)
  const least = 10 ** Math.floor(Math.log10(Math.min(...positive, 100)))
  const most = 10 ** Math.ceil(Math.log10(Math.max(...positive, 1000)))
  const span = Math.log10(most / least)
  const x = (value: number): number =>
    LABELS + (Math.log10(Math.max(value, least) / least) / span) * (WIDTH - LABELS - RIGHT)
  const body: string[] = []
  let y = 8
  const top = y
  for (const group of groups) {
    body.push(text(0, y + 16, group.title, 'group'))
    y += HEAD
    for (const line of group.lines) {
      const middle = y + LINE / 2
      const last = line.p999 ?? line.p99
      const shown = [line.p50, line.p99].map(format.micros).join(' · ')
      body.push(
        text(LABELS - 12, middle + 4, labelOf(line), 'label', 'end'),
        `<line x1="${x(line.p50)}" x2="${x(last)}" y1="${middle}" y2="${middle}" class="span thin ${line.peer}"/>`,
        `<circle cx="${x(line.p50)}" cy="${middle}" r="4.5" class="dot hollow ${line.peer}"/>`,
        `<circle cx="${x(line.p99)}" cy="${middle}" r="4.5" class="dot ${line.peer}"/>`,
        line.p999 === null
          ? ''
          : `<line x1="${x(last)}" x2="${x(last)}" y1="${middle - 6}" y2="${middle + 6}" class="span thin ${line.peer}"/>`,
        text(WIDTH - RIGHT + 12, middle + 4, shown, 'figure'),
      )
      y += LINE
    }
    y += 10
  }
  const decades = Array.from({ length: Math.round(span) + 1 }, (_, index) => least * 10 ** index)
  const axis = decades.map(
    (value) =>
      `<line x1="${x(value)}" x2="${x(value)}" y1="${top}" y2="${y}" class="grid"/>${text(x(value), y + 16, format.micros(value), 'tick', 'middle')}`,
  )
  return svg(title, y + 24, axis, body)
}

function labelOf({ peer, title }: PlotPeer): string {
  return title ?? PEERS[peer].title
}

/** Text for HTML and SVG. */
export function escaped(value: string): string {
  return value
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}

function ticks(most: number, step: number): number[] {
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step)
}

function text(x: number, y: number, value: string, kind: string, anchor = 'start'): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="${kind}" text-anchor="${anchor}">${escaped(value)}</text>`
}

function svg(title: string, height: number, behind: readonly string[], body: readonly string[]): string {
  return `<svg viewBox="0 0 ${WIDTH} ${Math.ceil(height)}" role="img" aria-label="${escaped(title)}">\n${[...behind, ...body].join('\n')}\n</svg>`
}
