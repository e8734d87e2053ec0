import type { Buffer } from 'node:buffer'
import { isThenable } from '../workers/callback-results.js'
import type { Protocol, Transport } from '../workers/protocol.js'
import type { TcpTransport } from '../workers/transport.js'
import { FlowControl } from './flow-control.js'
import { Stream } from './stream.js'
import { StreamReader } from './stream-reader.js'
import { StreamWriter } from './stream-writer.js'

/** What a server does with a connection, from its beginning on. */
export type StreamHandler = (stream: Stream) => unknown

/** The protocol that feeds a stream: asyncio's StreamReaderProtocol. */
export class StreamProtocol implements Protocol {
  /** There from `connectionMade` on. */
  stream!: Stream
  private flow!: FlowControl
  private writer!: StreamWriter
  private readonly reader: StreamReader
  private readonly handler: StreamHandler | null
  private drains: AbortController | null = null
  private isDraining = false

  /** @param handler null where somebody else takes the stream */
  constructor(limit: number, handler: StreamHandler | null) {
    this.reader = new StreamReader(limit)
    this.handler = handler
  }

  connectionMade(transport: Transport): Promise<void> | void {
    this.flow = new FlowControl(transport)
    this.writer = new StreamWriter(this.flow)
    this.reader.attach(transport)
    this.stream = new Stream(this.reader, this.writer, this)
    if (this.handler === null) return
    const handled = this.handler(this.stream)
    // asyncio: a handler that is no coroutine leaves the connection open.
    if (isThenable(handled)) return this.follow(handled)
  }

  dataReceived(chunk: Buffer): void {
    this.flow.told()
    this.writer.owes = true
    this.reader.feedData(chunk)
  }

  /** As asyncio's: it can be written on until the handler is done. */
  eofReceived(): true {
    this.reader.feedEof()
    return true
  }

  pauseWriting(): void {
    this.flow.pause()
  }

  resumeWriting(): void {
    this.flow.resume()
  }

  connectionLost(error: Error | null): void {
    this.flow.lost(error)
    if (error === null) this.reader.feedEof()
    else this.reader.setException(error)
  }

  /** The handler's promise is pending for as long as the connection stands, so it is for us to see when that may end. */
  draining(): void {
    this.isDraining = true
    this.drains?.abort()
    this.reader.whenWaiting = () => this.askForRest()
    this.askForRest()
  }

  /** Not an async function: it would keep a frame for each connection. */
  private follow(handled: PromiseLike<unknown>): Promise<void> {
    return Promise.resolve(handled).then(
      () => this.flow.transport.close(),
      (error: unknown) => {
        // To let through what a read of a broken connection rejects with is how most handlers end, and no failure of theirs.
        if (!this.flow.isLoss(error)) throw error
      },
    )
  }

  /** See {@link Stream.draining}. */
  drainSignal(): AbortSignal {
    if (this.drains === null) {
      this.drains = new AbortController()
      if (this.isDraining) this.drains.abort()
    }
    return this.drains.signal
  }

  /** It waits for the peer, and owes it nothing that is known of. */
  private isAtRest(): boolean {
    const { idling } = this.reader
    return idling === 'for any' || (idling === 'for all' && !this.writer.owes)
  }

  /** Asked again with every read that waits; a write that answers makes native code look by itself. */
  private askForRest(): void {
    const transport = this.flow.transport as Partial<TcpTransport>
    transport.askForRest?.(() => {
      if (this.isAtRest()) this.reader.feedEof()
    })
  }
}
