import { RESTART_DELAY_BASE_MS, RESTART_DELAY_MAX_MS } from '../limits.js'

/** How many deaths of a shard are borne. */
export interface RestartLimits {
  /** Deaths within the window that are answered by a replacement; 0: none is. */
  readonly maxRestarts: number
  readonly restartWindowMs: number
}

/**
 * Decides when a dead shard is replaced: at once the first time, then after twice the time of the last, so that a shard
 * that cannot live takes no processor from those that can. Pure: time and chance come from outside.
 */
export class RestartPolicy<Death> {
  readonly #limits: RestartLimits
  readonly #random: () => number
  /** Those within the window, oldest first; at most one more than `maxRestarts`. */
  #deaths: readonly { readonly atMs: number; readonly death: Death }[] = []

  /** @param random from 0 up to 1; the spread keeps shards that die together from starting together */
  constructor(limits: RestartLimits, random: () => number = Math.random) {
    this.#limits = limits
    this.#random = random
  }

  /**
   * Notes a death.
   * @param nowMs on any clock that does not go backwards
   * @returns milliseconds until the replacement, or the window's first death when there were too many
   */
  died(death: Death, nowMs: number): { readonly restartInMs: number } | { readonly firstDeath: Death } {
    const { maxRestarts, restartWindowMs } = this.#limits
    const recent = this.#deaths.filter(({ atMs }) => nowMs - atMs < restartWindowMs)
    this.#deaths = [...recent, { atMs: nowMs, death }]
    const count = this.#deaths.length
    if (count > maxRestarts) return { firstDeath: this.#deaths[0]?.death ?? death }
    if (count === 1) return { restartInMs: 0 }
    const delayMs = Math.min(RESTART_DELAY_MAX_MS, RESTART_DELAY_BASE_MS * 2 ** (count - 2))
    return { restartInMs: Math.round(delayMs * (0.5 + this.#random() / 2)) }
  }
}
