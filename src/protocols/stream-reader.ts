import type { Buffer } from 'node:buffer'
import { IncompleteReadError, LimitOverrunError, ShardloopError } from '../errors.js'
import { READ_MAX_BYTES, READ_TO_END_DEFAULT_BYTES, STREAM_LIMIT_DEFAULT_BYTES } from '../limits.js'
import { invalid } from '../workers/invalid.js'
import { type SignalListener, unwatchSignal, watchSignal } from '../workers/shared-signals.js'
import { ByteQueue, NO_BYTES } from './byte-queue.js'
import { type Separator, SeparatorSearch } from './separator-search.js'
import { NO_OPTIONS, type WaitOptions } from './waiters.js'

/** Options of {@link StreamReader.read}. */
export interface ReadOptions extends WaitOptions {
  /**
   * Without a count: most bytes that are read to the end. Default 64 MiB. When more have come, the read rejects with
   * ERR_SHARDLOOP_LIMIT_OVERRUN and they stay to be read.
   */
  readonly maxBytes?: number
}

/** What the reader does to where its bytes come from. */
interface Source {
  pauseReading(): void
  resumeReading(): void
}

/**
 * The receiving half of a stream: asyncio's StreamReader. One read waits at a time; another one meanwhile rejects with
 * ERR_SHARDLOOP_STATE. A read that is called off has taken no byte. When the connection breaks, all reads reject with what
 * broke it, and what was not read by then is lost, as in asyncio; after an end in good order it can still be read.
 *
 * Bytes are views of what was received where they lie within one piece of it, and copied once where they do not. They are
 * the caller's to keep.
 */
export class StreamReader implements AsyncIterable<Buffer> {
  private readonly limit: number
  private readonly queue: ByteQueue = new ByteQueue()
  private source: Source | null = null
  private paused = false
  private ended = false
  private failure: Error | null = null
  private waiting: WaitingRead | null = null
  private lastSearch: { readonly separator: string; readonly search: SeparatorSearch } | null = null
  /** @internal Told when a read begins to wait. */ whenWaiting: (() => void) | null = null

  /** @param limit longest line in bytes; receiving is paused when twice as much waits to be read */
  constructor(limit: number = STREAM_LIMIT_DEFAULT_BYTES) {
    this.limit = limit
  }

  /** Bytes that were received and wait to be read. */
  get buffered(): number {
    return this.queue.length
  }

  /** Whether the peer has ended and everything was read. */
  atEof(): boolean {
    return this.ended && this.queue.length === 0
  }

  /**
   * The next bytes: at least one and at most `count`, as many as are there. Nothing (a Buffer of length 0) at the end.
   * Without `count`, or with -1: all bytes up to the end, at most `maxBytes`.
   */
  read(count = -1, options: ReadOptions = NO_OPTIONS): Promise<Buffer> {
    const { queue } = this
    if (count === -1) {
      const { maxBytes = READ_TO_END_DEFAULT_BYTES } = options
      if (!isCount(maxBytes)) return Promise.reject(invalid('maxBytes', maxBytes, COUNT_EXPECTED))
      return this.request(() => {
        if (queue.length > maxBytes) {
          throw new LimitOverrunError(
            `more than ${maxBytes} bytes came before the end (maxBytes)`,
            queue.length,
          )
        }
        return this.ended ? queue.take(queue.length) : undefined
      }, options.signal)
    }
    if (!isCount(count)) return Promise.reject(invalid('count', count, `-1, or ${COUNT_EXPECTED}`))
    return this.request(() => {
      if (queue.length > 0 || count === 0) return queue.take(Math.min(queue.length, count))
      return this.ended ? NO_BYTES : undefined
    }, options.signal)
  }

  /**
   * The next `count` bytes, which may be more than the limit. Rejects with an {@link IncompleteReadError} when the end comes
   * before; what had come is its `partial`, and is read then.
   */
  readExactly(count: number, options: WaitOptions = NO_OPTIONS): Promise<Buffer> {
    if (!isCount(count)) return Promise.reject(invalid('count', count, COUNT_EXPECTED))
    const { queue } = this
    return this.request(
      () => {
        if (queue.length >= count) return queue.take(count)
        if (this.ended) throw new IncompleteReadError(queue.take(queue.length), count)
        return undefined
      },
      options.signal,
      true,
    )
  }

  /**
   * The next line with its `\n`, or what comes last without one; nothing at the end. A line longer than the limit is dropped,
   * or what has come of it when its end has not: then it rejects with a {@link LimitOverrunError}. All that is asyncio's.
   */
  readLine(options: WaitOptions = NO_OPTIONS): Promise<Buffer> {
    const { queue } = this
    return this.request(() => {
      const end = queue.find(LINE_END)
      if (end > 0 ? end - 1 > this.limit : queue.length > this.limit) {
        const error = this.overrun(end > 0, end > 0 ? end - 1 : queue.length)
        queue.skip(end > 0 ? end : queue.length)
        throw error
      }
      if (end > 0) return queue.take(end)
      return this.ended ? queue.take(queue.length) : undefined
    }, options.signal)
  }

  /**
   * The next bytes up to and with the separator; of several separators the one that ends first. Rejects with a
   * {@link LimitOverrunError} when more bytes than the limit come before it, which stay to be read: `consumed` of them can be
   * read without the beginning of a separator among them. Rejects with an {@link IncompleteReadError} when the end comes
   * before; what had come is its `partial`, and is read then.
   */
  readUntil(
    separator: Separator | readonly Separator[] = '\n',
    options: WaitOptions = NO_OPTIONS,
  ): Promise<Buffer> {
    let search: SeparatorSearch
    try {
      search = this.searchFor(separator)
    } catch (error) {
      return Promise.reject(error)
    }
    const { queue } = this
    return this.request(() => {
      const end = queue.find(search)
      const before = end > 0 ? end - search.found : queue.length + 1 - search.longest
      if (before > this.limit) throw this.overrun(end > 0, before)
      if (end > 0) return queue.take(end)
      if (this.ended) throw new IncompleteReadError(queue.take(queue.length), null)
      return undefined
    }, options.signal)
  }

  /**
   * What is received, piece by piece as it came, up to the end. To leave the loop leaves the stream as it is: it can be read
   * on. (asyncio's iteration is by lines.)
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<Buffer, undefined> {
    return new Chunks(this)
  }

  /** @internal The next piece, if it is there. */
  takeChunk(): IteratorResult<Buffer, undefined> | undefined {
    if (this.queue.length > 0) return { done: false, value: this.queue.takeChunk() }
    return this.ended ? { done: true, value: undefined } : undefined
  }

  /** @internal Takes out all that was received. */
  takeAll(): Buffer {
    this.queue.unsee()
    const all = this.queue.take(this.queue.length)
    this.resumeIfRoom()
    return all
  }

  /** @internal Where the bytes come from. */
  attach(source: Source): void {
    this.source = source
  }

  /** @internal The chunk is kept, and must not be changed. */
  feedData(chunk: Buffer): void {
    if (this.ended || this.failure !== null) return
    this.queue.push(chunk)
    if (this.waiting !== null) this.look(this.waiting)
    this.pauseIfFull()
  }

  /** @internal Nothing more comes. */
  feedEof(): void {
    this.ended = true
    if (this.waiting !== null) this.look(this.waiting)
  }

  /** @internal It broke. */
  setException(error: Error): void {
    this.failure = error
    this.queue.clear()
    const { waiting } = this
    if (waiting === null) return
    this.release(waiting)
    waiting.reject(error)
  }

  /** @internal What it broke with. */
  exception(): Error | null {
    return this.failure
  }

  /** @internal Whether a read waits, and for what of which nothing has come. */
  get idling(): 'no' | 'for any' | 'for all' {
    if (this.waiting === null || this.queue.length > 0) return 'no'
    return this.waiting.exact ? 'for all' : 'for any'
  }

  /** @internal A read that waits is called off. */
  callOff(waiting: WaitingRead): void {
    this.waiting = null
    this.pauseIfFull()
    waiting.reject(waiting.signal?.reason)
  }

  /**
   * @internal Reads when what is asked for is there, else waits for it.
   * @param take takes what is asked for, or returns undefined while that is not there; throws what the read rejects with
   * @param exact nothing less will do
   */
  request<Value>(
    take: () => Value | undefined,
    signal: AbortSignal | undefined,
    exact = false,
  ): Promise<Value> {
    if (signal?.aborted) return Promise.reject(signal.reason)
    if (this.waiting !== null) return Promise.reject(alreadyWaiting())
    if (this.failure !== null) return Promise.reject(this.failure)
    // Another read may have looked through it for something else, and was called off.
    this.queue.unsee()
    try {
      const value = take()
      if (value !== undefined) return Promise.resolve(value)
    } catch (error) {
      return Promise.reject(error)
    } finally {
      this.resumeIfRoom()
    }
    return new Promise((resolve, reject) => {
      const waiting = new WaitingRead(this, take, resolve as (value: unknown) => void, reject, signal, exact)
      if (signal !== undefined) watchSignal(signal, waiting) // throws when it is no signal
      this.waiting = waiting
      // However much is there: it waits for more.
      this.resume()
      this.whenWaiting?.()
    })
  }

  /** The one of the last call, if that had the same separator: what is read by lines has one throughout. */
  private searchFor(separator: Separator | readonly Separator[]): SeparatorSearch {
    if (separator === '\n') return LINE_END
    if (this.lastSearch?.separator === separator) return this.lastSearch.search
    const search = new SeparatorSearch(separator)
    // While it waits another one must not have its state; and an array may change.
    if (typeof separator === 'string' && this.waiting === null) this.lastSearch = { separator, search }
    return search
  }

  private look(waiting: WaitingRead): void {
    let value: unknown
    try {
      value = waiting.take()
    } catch (error) {
      this.release(waiting)
      waiting.reject(error)
      return
    }
    if (value === undefined) return
    this.release(waiting)
    waiting.resolve(value)
  }

  private release(waiting: WaitingRead): void {
    this.waiting = null
    if (waiting.signal !== undefined) unwatchSignal(waiting.signal, waiting)
  }

  private pauseIfFull(): void {
    if (this.queue.length <= 2 * this.limit || this.paused || this.waiting !== null) return
    this.paused = true
    this.source?.pauseReading()
  }

  private resumeIfRoom(): void {
    if (this.paused && this.queue.length <= this.limit) this.resume()
  }

  private resume(): void {
    if (!this.paused) return
    this.paused = false
    this.source?.resumeReading()
  }

  private overrun(isFound: boolean, consumed: number): LimitOverrunError {
    const what = isFound ? 'the separator is behind' : 'there is no separator within'
    return new LimitOverrunError(
      `${what} ${consumed} bytes, and a stream's limit is ${this.limit} (limit)`,
      consumed,
    )
  }
}

/** A read that waits. */
class WaitingRead implements SignalListener {
  readonly take: () => unknown
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
  readonly signal: AbortSignal | undefined
  readonly exact: boolean
  readonly #reader: StreamReader

  constructor(
    reader: StreamReader,
    take: () => unknown,
    resolve: (value: unknown) => void,
    reject: (error: unknown) => void,
    signal: AbortSignal | undefined,
    exact: boolean,
  ) {
    this.#reader = reader
    this.take = take
    this.resolve = resolve
    this.reject = reject
    this.signal = signal
    this.exact = exact
  }

  handleEvent(): void {
    this.#reader.callOff(this)
  }
}

/** One promise for each piece. */
class Chunks implements AsyncIterableIterator<Buffer, undefined> {
  readonly #reader: StreamReader
  readonly #take: () => IteratorResult<Buffer, undefined> | undefined

  constructor(reader: StreamReader) {
    this.#reader = reader
    this.#take = () => reader.takeChunk()
  }

  next(): Promise<IteratorResult<Buffer, undefined>> {
    return this.#reader.request(this.#take, undefined)
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

/** It has no state, as it is one byte. */
const LINE_END = new SeparatorSearch('\n')

const COUNT_EXPECTED = `an integer from 0 to ${READ_MAX_BYTES}`

function isCount(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= READ_MAX_BYTES
}

function alreadyWaiting(): ShardloopError {
  return new ShardloopError('ERR_SHARDLOOP_STATE', 'a stream was read from while another read of it waits')
}
