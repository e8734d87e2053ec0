import type { Protocol, Transport } from '../../src/index.js'

/** Stops reading while the peer does not read its echo, so that any amount passes through bounded memory. */
class Echo implements Protocol {
  protected transport!: Transport

  connectionMade(transport: Transport): void {
    this.transport = transport
  }

  pauseWriting(): void {
    this.transport.pauseReading()
  }

  resumeWriting(): void {
    this.transport.resumeReading()
  }
}

export class ChunkEcho extends Echo {
  dataReceived(chunk: Buffer): void {
    this.transport.write(chunk)
  }
}

export class BorrowedEcho extends Echo {
  bytesReceived(_slab: Buffer, start: number, end: number): void {
    this.transport.writeBorrowed(start, end)
  }
}

export class BufferedEcho extends Echo {
  #memory = new Uint8Array(0)

  /** Reuses one piece of memory: `write` has value semantics, so it may be filled again at once. */
  getBuffer(sizeHint: number): Uint8Array {
    if (this.#memory.length < sizeHint) this.#memory = new Uint8Array(sizeHint)
    return this.#memory
  }

  bufferUpdated(bytes: number): void {
    this.transport.write(this.#memory.subarray(0, bytes))
  }
}

export type ReceiveMode = 'chunk' | 'borrowed' | 'buffered'

/** An echo for each way to receive. */
export const ECHOES: Readonly<Record<ReceiveMode, new () => Protocol>> = {
  chunk: ChunkEcho,
  borrowed: BorrowedEcho,
  buffered: BufferedEcho,
}

export const RECEIVE_MODES: readonly ReceiveMode[] = ['chunk', 'borrowed', 'buffered']
