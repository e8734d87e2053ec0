/** Seeded random numbers, quantiles, and the bootstrap interval. Pure: the same input gives the same output. */

/** Resamples of one bootstrap. */
export const BOOTSTRAP_RESAMPLES = 10_000
/** Seed of the order of peers and of the bootstrap, so that a result file can be recomputed. */
export const SEED = 20_260_101
/** Fewer values than this give no interval. */
export const INTERVAL_VALUES_MIN = 3

/** A 95 % interval around a middle value, over `count` values. */
export interface Interval {
  readonly low: number
  readonly middle: number
  readonly high: number
  readonly count: number
}

/** Numbers from 0 up to 1, mulberry32: 32 bits of state are plenty for resampling. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** A shuffled copy (Fisher–Yates). */
export function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const copy = [...items]
  for (let last = copy.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1))
    const held = copy[last] as T
    copy[last] = copy[other] as T
    copy[other] = held
  }
  return copy
}

/** The quantile `share` (0 to 1) with linear interpolation; NaN without values. */
export function quantile(values: readonly number[], share: number): number {
  return sortedQuantile(Float64Array.from(values).sort(), share)
}

/** The middle value. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

/** The geometric mean of positive numbers: for ratios, where 2 and 1/2 must weigh the same. */
export function geometricMean(values: readonly number[]): number {
  return Math.exp(mean(values.map(Math.log)))
}

/**
 * The geometric mean of per-round ratios with its bootstrap 95 % interval (percentiles of resampled means).
 * Null with fewer than {@link INTERVAL_VALUES_MIN} values.
 */
export function ratioInterval(ratios: readonly number[], seed: number = SEED): Interval | null {
  const interval = meanInterval(ratios.map(Math.log), seed)
  if (interval === null) return null
  const { low, middle, high, count } = interval
  return { low: Math.exp(low), middle: Math.exp(middle), high: Math.exp(high), count }
}

/** The mean with its bootstrap 95 % interval. Null with fewer than {@link INTERVAL_VALUES_MIN} values. */
export function meanInterval(values: readonly number[], seed: number = SEED): Interval | null {
  const count = values.length
  if (count < INTERVAL_VALUES_MIN) return null
  const random = seededRandom(seed)
  const means = new Float64Array(BOOTSTRAP_RESAMPLES)
  for (let resample = 0; resample < BOOTSTRAP_RESAMPLES; resample++) {
    let sum = 0
    for (let draw = 0; draw < count; draw++) sum += values[Math.floor(random() * count)] as number
    means[resample] = sum / count
  }
  means.sort()
  return {
    low: sortedQuantile(means, 0.025),
    middle: mean(values),
    high: sortedQuantile(means, 0.975),
    count,
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** The same of values in ascending order. */
export function sortedQuantile(sorted: Float64Array, share: number): number {
  const place = (sorted.length - 1) * share
  const below = sorted[Math.floor(place)] ?? Number.NaN
  const above = sorted[Math.ceil(place)] ?? Number.NaN
  return below + (above - below) * (place - Math.floor(place))
}
