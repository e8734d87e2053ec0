/** Whether what a server holds stays the same while its load does. Pure: moments in, verdicts out. */
import { median } from '../../bench/statistics.js'
import type { Moment } from '../../bench/timeline.js'

/** Code, pools and the arenas of malloc grow for some time whatever one does: so much of a run is not compared. */
const WARM_UP_SHARE = 1 / 3
/** A long run does not need more. */
const WARM_UP_MAX_SECS = 600
/** Fewer moments than this decide nothing. */
export const MOMENTS_MIN = 6
/** Of more moments the slope is taken from as many as this, evenly chosen: it looks at every pair. */
const SLOPE_MOMENTS_MAX = 400

/** What one check found. */
export interface Verdict {
  /** Its name, the same in every run. */
  readonly check: string
  readonly passed: boolean
  /** The figures, and the bound where one was passed. */
  readonly text: string
}

/** When a run of this length has warmed up. */
export function warmUpSecs(runSecs: number): number {
  return Math.min(runSecs * WARM_UP_SHARE, WARM_UP_MAX_SECS)
}

/** A count that must be the same in every moment. */
export function sameCount(check: string, moments: readonly Moment[]): Verdict {
  const [first] = moments
  if (first === undefined || moments.length < MOMENTS_MIN) return tooFew(check, moments)
  const other = moments.find(({ value }) => value !== first.value)
  if (other === undefined)
    return { check, passed: true, text: `${first.value} in each of ${moments.length} quiet moments` }
  const last = moments.at(-1) as Moment
  return {
    check,
    passed: false,
    text: `${first.value} after ${seconds(first)}, ${other.value} after ${seconds(other)}, ${last.value} at the end; bound: no change (${signed(last.value - first.value, String)})`,
  }
}

/**
 * An amount that may wander, but not grow by more than `bound`: neither from the first third of the moments to the last,
 * by their medians, nor by their slope over the time that they span. So a step shows, a steady rise does, and a moment
 * that is out of line does not.
 */
export function level(
  check: string,
  moments: readonly Moment[],
  bound: number,
  format: (value: number) => string,
): Verdict {
  const [first, last] = [moments[0], moments.at(-1)]
  if (first === undefined || last === undefined || moments.length < MOMENTS_MIN) return tooFew(check, moments)
  const third = Math.ceil(moments.length / 3)
  const values = moments.map(({ value }) => value)
  const [before, after] = [median(values.slice(0, third)), median(values.slice(-third))]
  const perSec = slope(moments)
  const growth = Math.max(after - before, perSec * (last.atSecs - first.atSecs))
  const passed = growth <= bound
  const by = passed ? '' : `, ${format(growth - bound)} too much`
  return {
    check,
    passed,
    text: `${format(before)} to ${format(after)}, ${signed(perSec * 60, format)} a minute; grew by ${format(Math.max(growth, 0))}${by}; bound: ${format(bound)}`,
  }
}

/** The median of the slopes of all pairs (Theil and Sen): up to 29 % of the moments may be anywhere. By the second. */
export function slope(moments: readonly Moment[]): number {
  const step = Math.max(1, moments.length / SLOPE_MOMENTS_MAX)
  const chosen = Array.from(
    { length: Math.min(moments.length, SLOPE_MOMENTS_MAX) },
    (_, index) => moments[Math.floor(index * step)] as Moment,
  )
  const slopes = chosen.flatMap((one, index) =>
    chosen
      .slice(index + 1)
      .filter((other) => other.atSecs > one.atSecs)
      .map((other) => (other.value - one.value) / (other.atSecs - one.atSecs)),
  )
  return slopes.length === 0 ? 0 : median(slopes)
}

function tooFew(check: string, moments: readonly Moment[]): Verdict {
  return {
    check,
    passed: false,
    text: `${moments.length} quiet moments after the warm-up; ${MOMENTS_MIN} are needed to tell`,
  }
}

function seconds({ atSecs }: Moment): string {
  return `${Math.round(atSecs)} s`
}

function signed(value: number, format: (value: number) => string): string {
  return `${value < 0 ? '−' : '+'}${format(Math.abs(value))}`
}
