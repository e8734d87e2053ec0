import type { Random } from '../harness/random.js'

/** Bytes that all clients of a soak send from; nobody writes to them. */
export class Material {
  readonly #bytes: Buffer

  /** @param largest what can be taken at once */
  constructor(random: Random, largest: number) {
    this.#bytes = random.bytes(2 * largest)
  }

  /** So many bytes from anywhere. */
  take(random: Random, length: number): Buffer {
    const from = random.below(this.#bytes.length - length + 1)
    return this.#bytes.subarray(from, from + length)
  }
}
