import { Readable, Writable } from 'node:stream'
import { assertBytes } from './client.js'
import { KiB } from './memory.js'

/** A prime, so that pieces that are lost, doubled or exchanged by any buffer's size do not fit. */
const PERIOD_BYTES = 65_521
const PIECE_MAX_BYTES = 1024 * KiB
const BYTES = repeatedNoise()

/** The bytes of an endless stream from one place on; the next ones for as long as nobody writes to them. */
export function streamBytes(at: number, length: number): Buffer {
  const from = at % PERIOD_BYTES
  return BYTES.subarray(from, from + length)
}

/** The first `length` bytes of that stream. */
export function longStream(length: number, pieceBytes: number = 64 * KiB): Readable {
  let at = 0
  return new Readable({
    highWaterMark: pieceBytes,
    read() {
      const piece = streamBytes(at, Math.min(pieceBytes, length - at))
      at += piece.length
      this.push(piece.length === 0 ? null : piece)
    },
  })
}

/** Takes that stream, and fails at the first byte that is wrong. */
export class LongStreamCheck extends Writable {
  bytes = 0

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    try {
      for (let at = 0; at < chunk.length; at += PIECE_MAX_BYTES) {
        const piece = chunk.subarray(at, at + PIECE_MAX_BYTES)
        assertBytes(piece, streamBytes(this.bytes, piece.length), `from byte ${this.bytes} on`)
        this.bytes += piece.length
      }
      callback()
    } catch (error) {
      callback(error as Error)
    }
  }
}

/** Noise by xorshift, the same in every process. */
function repeatedNoise(): Buffer {
  const bytes = Buffer.alloc(PERIOD_BYTES + PIECE_MAX_BYTES)
  let state = 0x2545f491
  for (let at = 0; at < PERIOD_BYTES; at++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    bytes[at] = state
  }
  for (let at = PERIOD_BYTES; at < bytes.length; at += PERIOD_BYTES) bytes.copy(bytes, at, 0, PERIOD_BYTES)
  return bytes
}
