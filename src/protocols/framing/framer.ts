import { Buffer } from 'node:buffer'
import { LimitOverrunError, type ShardloopError } from '../../errors.js'
import { FRAME_MAX_DEFAULT_BYTES, READ_MAX_BYTES } from '../../limits.js'
import { show, wrong } from '../../server/given-options.js'
import { invalid } from '../../workers/invalid.js'
import { ByteQueue } from '../byte-queue.js'

/** Options of every framer. */
export interface FramerOptions {
  /** Longest frame in bytes, without what separates it or tells its length. 1 to 2^31 - 1; default 64 KiB. */
  readonly maxFrameBytes?: number
}

/**
 * Cuts bytes that come in pieces into frames: `for (const frame of framer.push(chunk)) …`. A frame is a view of the chunk
 * where it lies within one, and copied once where it does not. Frames that were not taken stay for the next loop, so it may
 * be left. It knows no socket, and is not bounded by itself when nobody takes frames.
 */
export abstract class Framer implements IterableIterator<Buffer, undefined> {
  readonly maxFrameBytes: number
  protected readonly queue: ByteQueue = new ByteQueue()
  #failure: ShardloopError | null = null

  protected constructor(maxFrameBytes: number = FRAME_MAX_DEFAULT_BYTES) {
    if (!(Number.isInteger(maxFrameBytes) && maxFrameBytes >= 1 && maxFrameBytes <= READ_MAX_BYTES))
      throw wrong('maxFrameBytes', maxFrameBytes, `an integer from 1 to ${READ_MAX_BYTES}`)
    this.maxFrameBytes = maxFrameBytes
  }

  /** What came; it is kept, and must not be changed. */
  push(chunk: Uint8Array): this {
    if (!(chunk instanceof Uint8Array)) throw invalid('chunk', chunk, 'a Uint8Array or a Buffer')
    this.queue.push(asBuffer(chunk))
    return this
  }

  /**
   * The next frame, if all of it is there.
   * @throws LimitOverrunError when it is longer than `maxFrameBytes`, ShardloopError ERR_SHARDLOOP_FRAME when it is no frame;
   * then and from then on, as nobody knows where the next one begins
   */
  next(): IteratorResult<Buffer, undefined> {
    if (this.#failure !== null) throw this.#failure
    let value: Buffer | undefined
    try {
      value = this.take()
    } catch (error) {
      this.#failure = error as ShardloopError
      throw error
    }
    return value === undefined ? DONE : { done: false, value }
  }

  [Symbol.iterator](): this {
    return this
  }

  /** Nothing more comes. Returns what is left of a frame that is not complete, or nothing (a Buffer of length 0). */
  end(): Buffer {
    return this.queue.take(this.queue.length)
  }

  /** Bytes that came and are no frame yet, or one that was not taken. */
  get buffered(): number {
    return this.queue.length
  }

  /** The next frame, taken out of the queue. @throws what is wrong with it */
  protected abstract take(): Buffer | undefined

  protected tooLong(bytes: number): LimitOverrunError {
    return new LimitOverrunError(`a frame has more than ${this.maxFrameBytes} bytes (maxFrameBytes)`, bytes)
  }

  /** Bytes of a frame that is to be sent. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT when it could not be received */
  protected checked(frame: string | Uint8Array): Buffer {
    if (typeof frame !== 'string' && !(frame instanceof Uint8Array))
      throw invalid('a frame', frame, 'a string or a Uint8Array')
    const bytes = typeof frame === 'string' ? Buffer.from(frame) : asBuffer(frame)
    if (bytes.length <= this.maxFrameBytes) return bytes
    throw invalid('the length of a frame', bytes.length, `at most ${this.maxFrameBytes} (maxFrameBytes)`)
  }
}

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function booleanOption(name: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value
  throw wrong(name, value, 'true or false')
}

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function refuseUnknown(options: object, known: readonly string[]): void {
  for (const [name, value] of Object.entries(options)) {
    if (!known.includes(name) && value !== undefined)
      throw wrong(name, value, `nothing: known are ${known.map(show).join(', ')}`)
  }
}

const DONE: IteratorReturnResult<undefined> = Object.freeze({ done: true, value: undefined })

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
}
