import { CHUNK_SLAB_BYTES } from '../native/abi.js'

/** Below this part of the limit chunks are handed out without a copy again. */
const RESUME_FRACTION = 0.75

/**
 * Counts slabs that were handed out in chunks and may still be kept alive by one. Only weak references are held, so a
 * slab counts until the garbage collector has found that no chunk of it is left.
 */
export class SlabRetention {
  private retired: WeakRef<ArrayBufferLike>[] = []
  private readonly limitSlabs: number

  /** @param limitBytes above it, {@link isOver} says so */
  constructor(limitBytes: number) {
    this.limitSlabs = Math.floor(limitBytes / CHUNK_SLAB_BYTES)
  }

  /** Bytes of slabs that may still be referred to. */
  get bytes(): number {
    return this.retired.length * CHUNK_SLAB_BYTES
  }

  /** Follows a slab that native code will not fill any more. */
  add(slab: ArrayBufferLike): void {
    this.retired.push(new WeakRef(slab))
  }

  /**
   * Whether more is retained than the limit; or, when it was over before (`wasOver`), not yet clearly less. Looks at
   * the references only when the answer depends on them.
   */
  isOver(wasOver: boolean): boolean {
    const limit = wasOver ? this.limitSlabs * RESUME_FRACTION : this.limitSlabs
    if (this.retired.length <= limit) return false
    this.retired = this.retired.filter((slab) => slab.deref() !== undefined)
    return this.retired.length > limit
  }
}
