import { invalid } from './invalid.js'

/** How much may wait to be sent. */
export interface WriteLimits {
  readonly writeHighBytes: number
  readonly writeLowBytes: number
  readonly writeMaxBytes: number
}

/** Above how many bytes `pauseWriting` is called, and at or below how many `resumeWriting`. */
export interface Watermarks {
  readonly high: number
  readonly low: number
}

/** What may be written, for messages. */
export const WRITE_DATA_EXPECTED = 'a Uint8Array, a Buffer or a string'

/** Largest watermark: it travels in an int32. */
const WATERMARK_MAX_BYTES = 0x7fffffff

/**
 * What `setWriteBufferLimits` was given, in full.
 * @param highDefault where it gives neither
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT
 */
export function watermarksOf(limits: Partial<Watermarks>, highDefault: number): Watermarks {
  const high = limits.high ?? (limits.low === undefined ? highDefault : limits.low * 4)
  const low = limits.low ?? Math.floor(high / 4)
  if (
    !(
      Number.isInteger(high) &&
      Number.isInteger(low) &&
      low >= 0 &&
      low <= high &&
      high <= WATERMARK_MAX_BYTES
    )
  ) {
    throw invalid('limits', limits, `integers with 0 <= low <= high <= ${WATERMARK_MAX_BYTES}`)
  }
  return { high, low }
}
