import { Buffer } from 'node:buffer'
import { ShardloopError } from '../../errors.js'
import { type Separator, SeparatorSearch, separatorBytes } from '../separator-search.js'
import { booleanOption, Framer, type FramerOptions, refuseUnknown } from './framer.js'

/** Options of {@link DelimiterFramer}. */
export interface DelimiterOptions extends FramerOptions {
  /** What is behind each frame: at least a byte, a string being UTF-8. */
  readonly delimiter: Separator
  /** Whether frames come with it. Default false. */
  readonly keepDelimiter?: boolean
}

/** Frames with a delimiter behind each. */
export class DelimiterFramer extends Framer {
  readonly #delimiter: Buffer
  readonly #search: SeparatorSearch
  readonly #keeps: boolean

  /** @throws ShardloopError ERR_SHARDLOOP_ARGUMENT, ERR_SHARDLOOP_OPTION */
  constructor(options: DelimiterOptions) {
    super(options.maxFrameBytes)
    refuseUnknown(options, ['delimiter', 'keepDelimiter', 'maxFrameBytes'])
    this.#delimiter = separatorBytes(options.delimiter)
    this.#search = new SeparatorSearch(this.#delimiter)
    this.#keeps = booleanOption('keepDelimiter', options.keepDelimiter ?? false)
  }

  /** A frame as it is sent. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT when it is too long, or has the delimiter in it */
  encode(frame: string | Uint8Array): Buffer {
    const encoded = Buffer.concat([this.checked(frame), this.#delimiter])
    if (encoded.indexOf(this.#delimiter) === encoded.length - this.#delimiter.length) return encoded
    throw new ShardloopError(
      'ERR_SHARDLOOP_ARGUMENT',
      'a frame has the delimiter in it, or makes one with it',
    )
  }

  protected override take(): Buffer | undefined {
    const { queue } = this
    const end = queue.find(this.#search)
    const delimiterBytes = this.#delimiter.length
    // What may be the beginning of a delimiter is not counted.
    const length = end > 0 ? end - delimiterBytes : queue.length + 1 - delimiterBytes
    if (length > this.maxFrameBytes) throw this.tooLong(length)
    if (end < 0) return undefined
    if (this.#keeps) return queue.take(end)
    const frame = queue.take(length)
    queue.skip(delimiterBytes)
    return frame
  }
}
