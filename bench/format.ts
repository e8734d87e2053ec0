/** Figures as people read them. */
import { PEERS } from './peers.js'
import { type Bar, METRIC_TITLES } from './rows.js'
import type { Interval } from './statistics.js'

/** `1,234,567`. */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** `12.3k`, `1.86M`: three digits. */
export function short(value: number): string {
  if (value >= 999_500) return `${(value / 1e6).toPrecision(3)}M`
  if (value >= 9_995) return `${(value / 1e3).toPrecision(3)}k`
  return count(value)
}

/** Microseconds as `480 µs`, `1.23 ms` or `2.10 s`. */
export function micros(value: number): string {
  if (value < 1000) return `${value.toFixed(0)} µs`
  return value < 1e6 ? `${(value / 1e3).toPrecision(3)} ms` : `${(value / 1e6).toPrecision(3)} s`
}

/** Bytes as `12.3 MiB` or `1.21 GiB`. */
export function mebibytes(bytes: number): string {
  const mebi = bytes / (1 << 20)
  return mebi >= 1024 ? `${(mebi / 1024).toFixed(2)} GiB` : `${mebi.toFixed(1)} MiB`
}

/** `98 %`. */
export function percent(share: number): string {
  return `${(share * 100).toFixed(0)}\u00a0%`
}

/** `1.47 [1.44, 1.50]`; `~1.47` when there is only a rough figure, or `–`. Figures above 20 without decimals. */
export function interval(value: Interval | null, rough: number | null = null): string {
  const show = (one: number): string => (Math.abs(one) >= 20 ? count(one) : one.toFixed(2))
  if (value === null) return rough === null ? '–' : `~${show(rough)}`
  return `${show(value.middle)} [${show(value.low)}, ${show(value.high)}]`
}

/** `≥ 1.45 × node:net` or `≤ 700 B`. */
export function goal(bar: Bar): string {
  const sign = bar.direction === 'at-least' ? '≥' : '≤'
  return bar.against === null
    ? `${sign} ${bar.value} B`
    : `${sign} ${bar.value} × ${PEERS[bar.against].title}`
}

/** What a bar is about, without the row. */
export function subject(bar: Bar): string {
  return `${PEERS[bar.peer].title}: ${METRIC_TITLES[bar.metric]}`
}
