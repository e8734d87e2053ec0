import { CHUNK_SLAB_BYTES } from '../native/abi.js'
import type { NativeShard } from '../native/index.js'

/** Below this part of the limit chunks are handed out without a copy again. */
const RESUME_FRACTION = 0.75

/** Batches between two looks while over the limit: a look costs some nanoseconds a slab. */
const BATCHES_PER_LOOK = 64

/**
 * Decides whether chunks are handed out in their slab or as copies, by how many replaced slabs kept chunks hold back.
 * Native code counts them, by weak references that any garbage collection clears.
 */
export class SlabRetention {
  private readonly native: NativeShard
  private readonly limitSlabs: number
  private batches = 0

  /** @param limitBytes above it, chunks are to be copied */
  constructor(native: NativeShard, limitBytes: number) {
    this.native = native
    this.limitSlabs = Math.floor(limitBytes / CHUNK_SLAB_BYTES)
  }

  /**
   * Whether slabs that were just replaced bring retention over the limit.
   *
   * @param followed how many native code follows, collected ones among them: only too many are worth a look
   */
  isOver(followed: number): boolean {
    return followed > this.limitSlabs && this.native.retainedSlabs(this.limitSlabs) > this.limitSlabs
  }

  /** Asked once per batch while over: whether retention has clearly fallen. */
  hasFallen(): boolean {
    if (++this.batches % BATCHES_PER_LOOK !== 0) return false
    const resume = Math.floor(this.limitSlabs * RESUME_FRACTION)
    return this.native.retainedSlabs(resume) <= resume
  }
}
