// Not the global: that one is a getter, called on every use.
import { Buffer } from 'node:buffer'
import { markAsUntransferable } from 'node:worker_threads'
import { BORROWED_SLAB_BYTES, CHUNK_SLAB_BYTES, CHUNK_SLABS } from '../native/abi.js'
import type { NativeShard } from '../native/binding.js'

/** The slab that borrowed bytes are read into; the others are of chunks. */
const BORROWED = 0

/**
 * The class of which every Buffer is an instance; made by it, a view of a slab costs half of what Buffer.from takes,
 * which looks again what it was given.
 */
const BufferView = (Buffer as unknown as Record<typeof Symbol.species, unknown>)[Symbol.species] as new (
  memory: ArrayBufferLike,
  offset: number,
  length: number,
) => Buffer

/** A copy that shares its memory with nothing (Buffer.from would use Buffer's pool, which a kept byte keeps whole). */
export function exactCopy(slab: Buffer, start: number, end: number): Buffer {
  const copy = Buffer.allocUnsafeSlow(end - start)
  slab.copy(copy, 0, start, end)
  return copy
}

function newSlab(index: number): Buffer {
  const slab = Buffer.allocUnsafeSlow(index === BORROWED ? BORROWED_SLAB_BYTES : CHUNK_SLAB_BYTES)
  // A chunk's buffer is everybody's: posting it with a transfer list must not take it from under us. What detaches it
  // all the same (ArrayBuffer.prototype.transfer) is noticed by native code.
  markAsUntransferable(slab.buffer)
  return slab
}

/**
 * The memory that a shard's native half reads into. The first slab starts over with each batch; of the others chunks are
 * handed out, and a full one is replaced.
 */
export class ReadSlabs {
  readonly buffers: Buffer[] = []
  /** Their ArrayBuffers: asking a Buffer for it is a call. */
  private readonly memory: ArrayBufferLike[] = []
  /** The same in words, for the addresses of datagrams. */
  readonly words: Int32Array[] = []
  /** A command refers to a slab of chunks, so it must be flushed before that one is replaced. */
  private referred = false

  constructor() {
    for (let index = 0; index <= CHUNK_SLABS; index++) this.put(index)
  }

  /** Whether memory is that which the next batch overwrites. */
  isBorrowed(memory: ArrayBufferLike): boolean {
    return memory === this.memory[BORROWED]
  }

  /** What was received, as a chunk that may be kept. */
  chunk(index: number, start: number, length: number): Buffer {
    return index === BORROWED
      ? exactCopy(this.buffers[BORROWED] as Buffer, start, start + length)
      : new BufferView(this.memory[index] as ArrayBufferLike, start, length)
  }

  /** A command that waits refers to bytes of this slab. */
  refer(index: number): void {
    if (index !== BORROWED) this.referred = true
  }

  /**
   * @param retired a bit for each slab to be replaced
   * @returns how many replaced ones native code follows, see `SlabRetention`
   */
  replace(retired: number, calls: ReturnType<NativeShard['hotCalls']>): number {
    if (this.referred) {
      calls.flush()
      this.referred = false
    }
    let followed = 0
    for (let index = 0; index < this.buffers.length; index++) {
      if ((retired & (1 << index)) !== 0) followed = calls.replaceSlab(index, this.put(index))
    }
    return followed
  }

  private put(index: number): Buffer {
    const slab = newSlab(index)
    this.buffers[index] = slab
    this.memory[index] = slab.buffer
    this.words[index] = new Int32Array(slab.buffer)
    return slab
  }
}
