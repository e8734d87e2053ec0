import type { Buffer } from 'node:buffer'
import { type StartTlsOptions, startTls } from '../tls/start-tls.js'
import type { ExtraInfo, Transport, WriteData } from '../workers/protocol.js'
import { TcpTransport } from '../workers/transport.js'
import type { Separator } from './separator-search.js'
import type { ReadOptions, StreamReader } from './stream-reader.js'
import type { StreamWriter } from './stream-writer.js'
import type { WaitOptions } from './waiters.js'

/** Options of a stream's `startTls`: a stream knows what it has received, and stays with its connection. */
export type StreamTlsOptions = StartTlsOptions & {
  readonly received?: undefined
  readonly protocol?: undefined
}

/** Who knows whether the server drains. */
interface DrainTeller {
  drainSignal(): AbortSignal
}

/**
 * One connection, to be read and written by `await`: asyncio's StreamReader and StreamWriter in one. Every method is one of
 * theirs, and described there.
 */
export class Stream implements AsyncIterable<Buffer>, AsyncDisposable {
  readonly reader: StreamReader
  readonly writer: StreamWriter
  readonly #server: DrainTeller

  /** @internal */
  constructor(reader: StreamReader, writer: StreamWriter, server: DrainTeller) {
    this.reader = reader
    this.writer = writer
    this.#server = server
  }

  get transport(): Transport {
    return this.writer.transport
  }

  /**
   * Aborted when the server drains, for whoever wants to say goodbye: `await stream.readLine({ signal: stream.draining })`. It
   * need not be looked at. A handler that waits in a read, with nothing left to be read, then reads an end; one that does
   * something else goes on until it reads, or until the drain's deadline. Whoever waits in `readExactly` for what belongs to
   * bytes that were not answered yet is left to it, too.
   */
  get draining(): AbortSignal {
    return this.#server.drainSignal()
  }

  read(count?: number, options?: ReadOptions): Promise<Buffer> {
    return this.reader.read(count, options)
  }

  readExactly(count: number, options?: WaitOptions): Promise<Buffer> {
    return this.reader.readExactly(count, options)
  }

  readLine(options?: WaitOptions): Promise<Buffer> {
    return this.reader.readLine(options)
  }

  readUntil(separator?: Separator | readonly Separator[], options?: WaitOptions): Promise<Buffer> {
    return this.reader.readUntil(separator, options)
  }

  atEof(): boolean {
    return this.reader.atEof()
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Buffer, undefined> {
    return this.reader[Symbol.asyncIterator]()
  }

  write(data: WriteData): Promise<void> | undefined {
    return this.writer.write(data)
  }

  writev(pieces: readonly WriteData[]): Promise<void> | undefined {
    return this.writer.writev(pieces)
  }

  writeLines(pieces: readonly WriteData[]): Promise<void> | undefined {
    return this.writer.writev(pieces)
  }

  drain(options?: WaitOptions): Promise<void> {
    return this.writer.drain(options)
  }

  writeEof(): void {
    this.writer.writeEof()
  }

  canWriteEof(): boolean {
    return this.writer.canWriteEof()
  }

  /**
   * Makes the connection TLS; see `Transport.startTls`. What was received and not read belongs to TLS, and is given back to it. A read
   * that waits goes on behind it.
   */
  async startTls(options: StreamTlsOptions): Promise<void> {
    const { transport } = this
    if (!(transport instanceof TcpTransport)) return transport.startTls(options)
    return startTls(transport, options, { received: () => this.reader.takeAll() })
  }

  close(): void {
    this.writer.close()
  }

  isClosing(): boolean {
    return this.writer.isClosing()
  }

  waitClosed(options?: WaitOptions): Promise<void> {
    return this.writer.waitClosed(options)
  }

  getExtraInfo<Name extends keyof ExtraInfo>(name: Name): ExtraInfo[Name] | undefined
  getExtraInfo<Name extends keyof ExtraInfo, Default>(
    name: Name,
    fallback: Default,
  ): ExtraInfo[Name] | Default
  getExtraInfo(name: keyof ExtraInfo, fallback?: unknown): unknown {
    return this.writer.getExtraInfo(name, fallback)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.writer[Symbol.asyncDispose]()
  }
}
