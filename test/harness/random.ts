import { randomBytes } from 'node:crypto'

/** Repeats a failed run: the seed that its message named. */
const SEED_VARIABLE = 'SHARDLOOP_TEST_SEED'

/** A small seeded generator (mulberry32): the same seed gives the same test on every machine. */
export class Random {
  readonly seed: number
  #state: number

  constructor(seed: number) {
    this.seed = seed >>> 0
    this.#state = this.seed
  }

  /** Seeded from the environment, else freshly. */
  static fromEnvironment(): Random {
    const given = process.env[SEED_VARIABLE]
    return given === undefined ? Random.fresh() : new Random(Number(given))
  }

  /** Seeded by chance. */
  static fresh(): Random {
    return new Random(randomBytes(4).readUInt32LE())
  }

  /** How to run the same again; for failure messages. */
  get advice(): string {
    return `${SEED_VARIABLE}=${this.seed}`
  }

  /** 0 to 2^32 - 1. */
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return (mixed ^ (mixed >>> 14)) >>> 0
  }

  /** 0 to `limit - 1`. */
  below(limit: number): number {
    return Math.floor((this.u32() / 0x1_0000_0000) * limit)
  }

  /** `least` to `most`, both included. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1)
  }

  /** A size whose order of magnitude is uniform, so that 1-byte and 1-MiB pieces both occur. */
  size(least: number, most: number): number {
    const size = Math.round(least * (most / least) ** (this.u32() / 0x1_0000_0000))
    return Math.min(Math.max(size, least), most)
  }

  pick<Item>(items: readonly Item[]): Item {
    return items[this.below(items.length)] as Item
  }

  /** Bytes without a short period: a lost, doubled or swapped piece changes the content. */
  bytes(length: number): Buffer {
    const words = new Int32Array(Math.ceil(length / 4))
    let state = this.u32() | 1
    for (let index = 0; index < words.length; index++) {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      words[index] = state
    }
    return Buffer.from(words.buffer, 0, length)
  }

  /** Cuts `data` into pieces of `least` to `most` bytes (views, not copies). */
  *pieces(data: Buffer, least: number, most: number): Generator<Buffer> {
    for (let offset = 0; offset < data.length; ) {
      const end = Math.min(offset + this.size(least, most), data.length)
      yield data.subarray(offset, end)
      offset = end
    }
  }
}
