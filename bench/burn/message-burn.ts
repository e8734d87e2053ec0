/** What a protocol's own work costs: a fixed time of JavaScript for each message. */

/** Microseconds of JavaScript for a message, in the burn rows. */
export const BURN_US = 20

/**
 * Keeps this thread in JavaScript until `micros` of clock time have passed. The clock is read all the time rather than a
 * number of turns counted beforehand: so it is as long on every engine and machine, warm or cold.
 */
export function spin(micros: number): void {
  const end = performance.now() + micros / 1000
  while (performance.now() < end);
}

/**
 * Burns once for each message of a connection, when its last byte has come. Callbacks are no measure: an engine may bring
 * a message in two pieces, or two messages at once, and must neither pay nor gain by that.
 */
export class MessageBurn {
  readonly #size: number
  readonly #burn: () => void
  /** Bytes of the message that has not come whole. */
  #pending = 0

  /** `size` is the bytes of a message. */
  constructor(size: number, burn: () => void = () => spin(BURN_US)) {
    this.#size = size
    this.#burn = burn
  }

  /** To be called with the number of bytes that came. */
  received(bytes: number): void {
    this.#pending += bytes
    while (this.#pending >= this.#size) {
      this.#pending -= this.#size
      this.#burn()
    }
  }
}
