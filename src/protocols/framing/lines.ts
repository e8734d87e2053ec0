import { Buffer } from 'node:buffer'
import { ShardloopError } from '../../errors.js'
import { wrong } from '../../server/given-options.js'
import { SeparatorSearch } from '../separator-search.js'
import { booleanOption, Framer, type FramerOptions, refuseUnknown } from './framer.js'

/** Options of {@link LineFramer}. */
export interface LineOptions extends FramerOptions {
  /** Whether lines come with their end. Default false. */
  readonly keepEnd?: boolean
  /** What `encode` puts behind a line. Default `'\n'`. */
  readonly lineEnd?: '\n' | '\r\n'
}

/** Lines. They end with `\n`, and a `\r` before it belongs to the end. */
export class LineFramer extends Framer {
  readonly #keeps: boolean
  readonly #end: string

  /** @throws ShardloopError ERR_SHARDLOOP_OPTION */
  constructor(options: LineOptions = {}) {
    super(options.maxFrameBytes)
    refuseUnknown(options, ['keepEnd', 'lineEnd', 'maxFrameBytes'])
    const { keepEnd = false, lineEnd = '\n' } = options
    this.#keeps = booleanOption('keepEnd', keepEnd)
    if (lineEnd !== '\n' && lineEnd !== '\r\n') throw wrong('lineEnd', lineEnd, "'\\n' or '\\r\\n'")
    this.#end = lineEnd
  }

  /** A line as it is sent. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT when it is too long, or has an end in it */
  encode(line: string | Uint8Array): Buffer {
    const bytes = this.checked(line)
    // What ends with \r would lose it.
    if (bytes.includes(NEWLINE) || bytes[bytes.length - 1] === RETURN)
      throw new ShardloopError('ERR_SHARDLOOP_ARGUMENT', 'a line has the end of a line in it')
    return Buffer.concat([bytes, Buffer.from(this.#end)])
  }

  protected override take(): Buffer | undefined {
    const { queue } = this
    const end = queue.find(LINE_END)
    const all = end > 0 ? end - 1 : queue.length
    if (end < 0 && all <= this.maxFrameBytes) return undefined
    const length = all > 0 && queue.byteAt(all - 1) === RETURN ? all - 1 : all
    if (length > this.maxFrameBytes) throw this.tooLong(length)
    if (end < 0) return undefined
    if (this.#keeps) return queue.take(end)
    const line = queue.take(length)
    queue.skip(end - length)
    return line
  }
}

const NEWLINE = 10
const RETURN = 13

/** It has no state, as it is one byte. */
const LINE_END = new SeparatorSearch('\n')
