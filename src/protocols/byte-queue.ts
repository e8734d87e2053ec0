import { Buffer } from 'node:buffer'
import { CHUNKS_UNGATHERED_MAX, GATHERED_BLOCK_BYTES } from '../limits.js'
import type { SeparatorSearch } from './separator-search.js'

/** Nothing. Shared, as there is nothing in it. */
export const NO_BYTES: Buffer = Buffer.alloc(0)

/** Chunks of less are gathered into blocks when there are many. */
const SMALL_BYTES = GATHERED_BLOCK_BYTES / 4

/**
 * Bytes in the order in which they came, kept as the chunks in which they came. What is taken out is a view where it lies
 * within one chunk, and copied once where it does not.
 */
export class ByteQueue {
  /** Bytes in it. */
  length = 0
  private first: Buffer | null = null
  /** Where what is left of the first begins. */
  private offset = 0
  /** Those behind the first, from `next` on. */
  private others: Buffer[] | null = null
  private next = 0
  /** What small chunks are copied into. The last of `others` is the filled part of it, if it is not null. */
  private block: Buffer | null = null
  /** How far `find` has looked: which chunk (0 is the first), where in it, and how many bytes that are. */
  private seenChunks = 0
  private seenTo = 0
  private seenBytes = 0

  /** The chunk is kept, and must not be changed. */
  push(chunk: Buffer): void {
    if (chunk.length === 0) return
    this.length += chunk.length
    if (this.first === null) {
      this.first = chunk
      return
    }
    this.others ??= []
    if (chunk.length < SMALL_BYTES && this.others.length - this.next >= CHUNKS_UNGATHERED_MAX) {
      this.gather(this.others, chunk)
    } else {
      this.block = null
      this.others.push(chunk)
    }
  }

  /** The next bytes. @param count at most `length` */
  take(count: number): Buffer {
    this.unsee()
    const { first, offset } = this
    if (first === null || count === 0) return NO_BYTES
    const end = offset + count
    if (end <= first.length) {
      this.advance(count)
      return offset === 0 && end === first.length ? first : first.subarray(offset, end)
    }
    const joined = Buffer.allocUnsafe(count)
    for (let filled = 0; filled < count; ) {
      const chunk = this.first as Buffer
      const bytes = Math.min(chunk.length - this.offset, count - filled)
      chunk.copy(joined, filled, this.offset, this.offset + bytes)
      this.advance(bytes)
      filled += bytes
    }
    return joined
  }

  /** The next bytes as they came, without a copy; the queue must not be empty. */
  takeChunk(): Buffer {
    return this.take((this.first as Buffer).length - this.offset)
  }

  /** One of the next bytes, which stays. @param index below `length` */
  byteAt(index: number): number {
    let at = this.offset + index
    let chunk = this.first as Buffer
    for (let other = this.next; at >= chunk.length; other++) {
      at -= chunk.length
      chunk = (this.others as Buffer[])[other] as Buffer
    }
    return chunk[at] as number
  }

  /** Drops the next bytes. @param count at most `length` */
  skip(count: number): void {
    this.unsee()
    for (let left = count; left > 0; ) {
      const bytes = Math.min((this.first as Buffer).length - this.offset, left)
      this.advance(bytes)
      left -= bytes
    }
  }

  clear(): void {
    this.unsee()
    this.length = 0
    this.first = null
    this.others = null
    this.block = null
    this.offset = 0
    this.next = 0
  }

  /**
   * Looks for a separator, in what it has not looked through since something was taken.
   * @returns how many bytes it takes up to the first one's end, or -1. All must be looked through with one search.
   */
  find(search: SeparatorSearch): number {
    if (this.seenBytes === 0) {
      search.reset()
      this.seenTo = this.offset
    }
    while (this.seenBytes < this.length) {
      const chunk = this.chunk(this.seenChunks)
      if (this.seenTo < chunk.length) {
        const end = search.find(chunk, this.seenTo)
        if (end >= 0) {
          const bytes = this.seenBytes + end - this.seenTo
          this.unsee()
          return bytes
        }
        this.seenBytes += chunk.length - this.seenTo
        this.seenTo = chunk.length // it may be a block, which grows
      } else {
        this.seenChunks += 1
        this.seenTo = 0
      }
    }
    return -1
  }

  /** The next `find` looks through all of it. */
  unsee(): void {
    this.seenChunks = 0
    this.seenBytes = 0
  }

  private chunk(index: number): Buffer {
    return (index === 0 ? this.first : this.others?.[this.next + index - 1]) as Buffer
  }

  /** @param count no more than what is left of the first */
  private advance(count: number): void {
    this.offset += count
    this.length -= count
    if (this.offset === (this.first as Buffer).length) this.dropFirst()
  }

  private dropFirst(): void {
    this.offset = 0
    const { others } = this
    if (others === null) {
      this.first = null
      return
    }
    this.first = others[this.next] as Buffer
    others[this.next] = NO_BYTES
    this.next += 1
    if (this.next === others.length) {
      this.others = null
      this.next = 0
    } else if (this.next >= CHUNKS_UNGATHERED_MAX && this.next * 2 >= others.length) {
      others.splice(0, this.next)
      this.next = 0
    }
  }

  private gather(others: Buffer[], chunk: Buffer): void {
    const filled = this.block === null ? 0 : (others[others.length - 1] as Buffer).length
    if (this.block === null || filled + chunk.length > this.block.length) {
      this.block = Buffer.allocUnsafeSlow(GATHERED_BLOCK_BYTES)
      this.block.set(chunk)
      others.push(this.block.subarray(0, chunk.length))
    } else {
      this.block.set(chunk, filled)
      others[others.length - 1] = this.block.subarray(0, filled + chunk.length)
    }
  }
}
