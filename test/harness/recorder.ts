import type { Protocol, Transport } from '../../src/index.js'
import { Observable } from './deferred.js'

/** A protocol that writes down what happens to it. Receives chunks. */
export class Recorder extends Observable implements Protocol {
  /** The callbacks in order, without the receiving ones. */
  readonly events: string[] = []
  /** What was received, copied on arrival. */
  readonly chunks: Buffer[] = []
  received = 0
  /** Set by connectionMade. */
  transport!: Transport
  /** What connectionLost got; `undefined` before it. */
  lostWith: Error | null | undefined
  /** What eofReceived answers. */
  keepOpen = false

  connectionMade(transport: Transport): void | Promise<void> {
    this.transport = transport
    this.note('made')
  }

  dataReceived(chunk: Buffer): void | Promise<void> {
    this.record(chunk)
  }

  eofReceived(): boolean | void {
    this.note('eof')
    return this.keepOpen
  }

  connectionLost(error: Error | null): void | Promise<void> {
    this.lostWith = error
    this.note('lost')
  }

  pauseWriting(): void | Promise<void> {
    this.note('pause')
  }

  resumeWriting(): void | Promise<void> {
    this.note('resume')
  }

  protected record(bytes: Uint8Array): void {
    this.chunks.push(Buffer.from(bytes))
    this.received += bytes.length
    this.changed()
  }

  protected note(event: string): void {
    this.events.push(event)
    this.changed()
  }

  count(event: string): number {
    return this.events.filter((noted) => noted === event).length
  }

  /** Everything received so far. */
  get bytes(): Buffer {
    return Buffer.concat(this.chunks)
  }

  /** Resolves when `event` was noted. */
  async noted(event: string): Promise<void> {
    await this.until(() => this.events.includes(event))
  }

  /** Resolves with everything received, once it is at least `length` bytes. */
  async receivedAtLeast(length: number): Promise<Buffer> {
    await this.until(() => this.received >= length)
    return this.bytes
  }

  /** Resolves with the error of connectionLost. */
  async lost(): Promise<Error | null> {
    await this.until(() => this.lostWith !== undefined)
    return this.lostWith as Error | null
  }
}

/** The same with borrowed bytes. */
export class BorrowedRecorder extends Recorder {
  bytesReceived(slab: Buffer, start: number, end: number): void | Promise<void> {
    this.record(slab.subarray(start, end))
  }
}

/** The same into memory of the protocol's own, which is used again and again. */
export class BufferedRecorder extends Recorder {
  #memory = new Uint8Array(16 * 1024)

  getBuffer(_sizeHint: number): Uint8Array {
    return this.#memory
  }

  bufferUpdated(bytes: number): void | Promise<void> {
    this.record(this.#memory.subarray(0, bytes))
  }
}

/** The three ways to receive, each with its recorder. */
export const RECORDERS: Readonly<Record<'chunk' | 'borrowed' | 'buffered', new () => Recorder>> = {
  chunk: Recorder,
  borrowed: BorrowedRecorder,
  buffered: BufferedRecorder,
}
