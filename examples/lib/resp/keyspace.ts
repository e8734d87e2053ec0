/** Keys, values and when they expire: by whoever asks for them, and by a bounded look through those that nobody asks for. */
import { ENTRY_BYTES, KEYSPACE_MAX_BYTES, SWEEP_INTERVAL_MS, SWEEP_MAX_KEYS } from './limits.js'
import { ownText, type Value } from './request.js'

interface Entry {
  value: Value
  /** Milliseconds since 1970; 0: never. */
  expiresAt: number
}

export class Keyspace {
  readonly #entries = new Map<string, Entry>()
  /** Those that expire. */
  readonly #expiring = new Map<string, Entry>()
  readonly #now: () => number
  readonly #maxBytes: number
  /** Where the last look through {@link #expiring} has stopped. */
  #unlooked: IterableIterator<[string, Entry]> | null = null
  #timer: NodeJS.Timeout | null = null
  #bytes = 0

  constructor(now: () => number = Date.now, maxBytes: number = KEYSPACE_MAX_BYTES) {
    this.#now = now
    this.#maxBytes = maxBytes
  }

  /** How many keys there are; expired ones count until they are found. */
  get size(): number {
    return this.#entries.size
  }

  /** What keys and values take. */
  get bytes(): number {
    return this.#bytes
  }

  now(): number {
    return this.#now()
  }

  get(key: string): Value | undefined {
    return this.#live(key)?.value
  }

  has(key: string): boolean {
    return this.#live(key) !== undefined
  }

  /** When a key expires: 0 never, undefined: there is none. */
  expiresAt(key: string): number | undefined {
    return this.#live(key)?.expiresAt
  }

  /**
   * @param expiresAt milliseconds since 1970, 0 for never; one that is over deletes the key
   * @returns false when there is no room for it
   */
  set(key: string, value: Value, expiresAt = 0): boolean {
    const entry = this.#entries.get(key)
    const more = value.length - (entry === undefined ? -key.length - ENTRY_BYTES : entry.value.length)
    if (more > 0 && this.#bytes + more > this.#maxBytes) return false
    this.#bytes += more
    if (entry === undefined) {
      const made = { value, expiresAt: 0 }
      const own = ownText(key)
      this.#entries.set(own, made)
      if (expiresAt !== 0) this.#expire(own, made, expiresAt)
    } else {
      entry.value = value
      if (expiresAt !== entry.expiresAt) this.#expire(key, entry, expiresAt)
    }
    return true
  }

  /** Whether there is such a key. */
  expire(key: string, expiresAt: number): boolean {
    const entry = this.#live(key)
    if (entry !== undefined) this.#expire(key, entry, expiresAt)
    return entry !== undefined
  }

  delete(key: string): boolean {
    const entry = this.#live(key)
    if (entry !== undefined) this.#remove(key, entry)
    return entry !== undefined
  }

  clear(): void {
    this.#entries.clear()
    this.#expiring.clear()
    this.#unlooked = null
    this.#bytes = 0
  }

  /** Looks at some of those that expire, the next ones each time. */
  sweep(): void {
    const now = this.#now()
    this.#unlooked ??= this.#expiring.entries()
    for (let looked = 0; looked < SWEEP_MAX_KEYS; looked++) {
      const next = this.#unlooked.next()
      if (next.done === true) {
        this.#unlooked = null
        return
      }
      const [key, entry] = next.value
      if (entry.expiresAt <= now) this.#remove(key, entry)
    }
  }

  #live(key: string): Entry | undefined {
    const entry = this.#entries.get(key)
    if (entry === undefined || entry.expiresAt === 0 || entry.expiresAt > this.#now()) return entry
    this.#remove(key, entry)
    return undefined
  }

  #remove(key: string, entry: Entry): void {
    this.#entries.delete(key)
    if (entry.expiresAt !== 0) this.#expiring.delete(key)
    this.#bytes -= key.length + entry.value.length + ENTRY_BYTES
  }

  #expire(key: string, entry: Entry, expiresAt: number): void {
    if (expiresAt !== 0 && expiresAt <= this.#now()) {
      this.#remove(key, entry)
      return
    }
    if (expiresAt === 0) this.#expiring.delete(key)
    else if (entry.expiresAt === 0) this.#expiring.set(ownText(key), entry)
    entry.expiresAt = expiresAt
    if (expiresAt !== 0) this.#sweepLater()
  }

  /** While there is something that expires; it does not keep the thread alive. */
  #sweepLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null
      this.sweep()
      if (this.#expiring.size > 0) this.#sweepLater()
    }, SWEEP_INTERVAL_MS).unref()
  }
}
