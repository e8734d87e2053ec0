import { Buffer } from 'node:buffer'
import { ShardloopError } from '../../errors.js'
import { wrong } from '../../server/given-options.js'
import { invalid } from '../../workers/invalid.js'
import { booleanOption, Framer, type FramerOptions, refuseUnknown } from './framer.js'

/** Options of {@link LengthPrefixedFramer}. */
export interface LengthPrefixedOptions extends FramerOptions {
  /** Bytes that the length takes, before each frame. Default 4. */
  readonly lengthBytes?: 1 | 2 | 4
  /** Whether its lowest byte comes first. Default false: network order. */
  readonly littleEndian?: boolean
  /** Whether the length counts its own bytes, too. Default false. */
  readonly includesHeader?: boolean
}

/** Frames with their length before each. They may be empty. */
export class LengthPrefixedFramer extends Framer {
  readonly #lengthBytes: 1 | 2 | 4
  readonly #isLittle: boolean
  /** What the length counts beside the frame. */
  readonly #extra: number
  /** The length of the next frame, once it is known. */
  #length = -1

  /** @throws ShardloopError ERR_SHARDLOOP_OPTION */
  constructor(options: LengthPrefixedOptions = {}) {
    super(options.maxFrameBytes)
    refuseUnknown(options, ['lengthBytes', 'littleEndian', 'includesHeader', 'maxFrameBytes'])
    const { lengthBytes = 4, littleEndian = false, includesHeader = false } = options
    if (lengthBytes !== 1 && lengthBytes !== 2 && lengthBytes !== 4)
      throw wrong('lengthBytes', lengthBytes, '1, 2 or 4')
    this.#lengthBytes = lengthBytes
    this.#isLittle = booleanOption('littleEndian', littleEndian)
    this.#extra = booleanOption('includesHeader', includesHeader) ? lengthBytes : 0
  }

  /** A frame as it is sent. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT when it is too long */
  encode(frame: string | Uint8Array): Buffer {
    const bytes = this.checked(frame)
    return Buffer.concat([this.header(bytes.length), bytes])
  }

  /**
   * What comes before a frame of so many bytes: `transport.writev([framer.header(frame.length), frame])` sends it without a
   * copy of its own.
   * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT when it is too long
   */
  header(frameBytes: number): Buffer {
    const most = Math.min(2 ** (8 * this.#lengthBytes) - 1 - this.#extra, this.maxFrameBytes)
    if (!(Number.isInteger(frameBytes) && frameBytes >= 0 && frameBytes <= most))
      throw invalid('the length of a frame', frameBytes, `an integer from 0 to ${most}`)
    const header = Buffer.allocUnsafe(this.#lengthBytes)
    const length = frameBytes + this.#extra
    if (this.#isLittle) header.writeUIntLE(length, 0, this.#lengthBytes)
    else header.writeUIntBE(length, 0, this.#lengthBytes)
    return header
  }

  /** What came of the next frame, without its length if that was complete. */
  override end(): Buffer {
    this.#length = -1
    return super.end()
  }

  protected override take(): Buffer | undefined {
    const { queue } = this
    if (this.#length < 0) {
      if (queue.length < this.#lengthBytes) return undefined
      const length = this.#readLength() - this.#extra
      if (length > this.maxFrameBytes) throw this.tooLong(length)
      if (length < 0)
        throw new ShardloopError(
          'ERR_SHARDLOOP_FRAME',
          'the length of a frame is less than it takes by itself',
        )
      queue.skip(this.#lengthBytes)
      this.#length = length
    }
    if (queue.length < this.#length) return undefined
    const frame = queue.take(this.#length)
    this.#length = -1
    return frame
  }

  #readLength(): number {
    let length = 0
    for (let index = 0; index < this.#lengthBytes; index++) {
      const place = this.#isLittle ? index : this.#lengthBytes - 1 - index
      length += this.queue.byteAt(index) * 2 ** (8 * place)
    }
    return length
  }
}
