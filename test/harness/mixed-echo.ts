import type { Protocol, Transport } from '../../src/index.js'
import type { Random } from './random.js'

/**
 * An echo that does everything in every way: bytes go back at once or later, from any source, by any kind of
 * write; it pauses and resumes reading, changes its watermarks, and hands itself over between the three ways to
 * receive in the middle of the stream.
 */
export class MixedEcho implements Protocol {
  readonly #random: Random
  #transport!: Transport
  /** Echoes that wait for their turn, oldest first; nothing may overtake them. */
  #later: Buffer[] = []
  #ended = false
  #memory: Uint8Array = new Uint8Array(0)
  #stopped = false

  constructor(random: Random) {
    this.#random = random
  }

  connectionMade(transport: Transport): void {
    this.#transport = transport
    this.#switch()
  }

  eofReceived(): boolean {
    this.#ended = true
    if (this.#later.length === 0) this.#transport.close()
    return true
  }

  connectionLost(): void {
    this.#later = []
  }

  pauseWriting(): void {
    this.#stopped = true
    this.#transport.pauseReading()
  }

  resumeWriting(): void {
    this.#stopped = false
    this.#transport.resumeReading()
  }

  /** Each mode is another object with the same callbacks, so that setProtocol is what changes it. */
  #switch(): void {
    const common: Protocol = {
      eofReceived: () => this.eofReceived(),
      connectionLost: () => this.connectionLost(),
      pauseWriting: () => this.pauseWriting(),
      resumeWriting: () => this.resumeWriting(),
    }
    const mode = this.#random.below(3)
    if (mode === 0) {
      this.#transport.setProtocol({ ...common, dataReceived: (chunk) => this.#echo(chunk, true) })
    } else if (mode === 1) {
      this.#transport.setProtocol({
        ...common,
        bytesReceived: (slab, start, end) => {
          const middle = this.#random.between(start, end)
          if (this.#later.length > 0) return this.#echo(Buffer.from(slab.subarray(start, end)), true)
          this.#transport.writeBorrowed(start, middle)
          return this.#echo(slab.subarray(middle, end), false)
        },
      })
    } else {
      this.#transport.setProtocol({
        ...common,
        getBuffer: (sizeHint) => {
          this.#memory = new Uint8Array(this.#random.size(1, sizeHint * 2))
          return this.#memory
        },
        bufferUpdated: (bytes) => this.#echo(Buffer.from(this.#memory.buffer, 0, bytes), true),
      })
    }
  }

  /** @param isOwn the bytes stay what they are after this callback */
  #echo(bytes: Buffer, isOwn: boolean): void {
    const random = this.#random
    if (this.#later.length > 0 || random.below(8) === 0) {
      this.#later.push(isOwn ? bytes : Buffer.from(bytes))
      if (this.#later.length === 1) this.#schedule()
    } else {
      this.#write(bytes, isOwn)
    }
    if (random.below(10) === 0) this.#switch()
    if (random.below(20) === 0) this.#transport.setWriteBufferLimits({ high: random.size(1, 1 << 20) })
    if (random.below(12) === 0 && !this.#stopped) {
      this.#transport.pauseReading()
      const resume = (): void => {
        if (!this.#stopped) this.#transport.resumeReading()
      }
      if (random.below(2) === 0) setImmediate(resume)
      else setTimeout(resume, random.below(4))
    }
  }

  #write(bytes: Buffer, isOwn: boolean): void {
    const random = this.#random
    const way = random.below(isOwn ? 4 : 3)
    if (way === 0) {
      this.#transport.write(bytes)
    } else if (way === 1) {
      this.#transport.writev([...random.pieces(bytes, 1, bytes.length)])
    } else if (way === 2) {
      const scratch = Buffer.from(bytes)
      this.#transport.write(scratch)
      scratch.fill(0xaa)
    } else {
      this.#transport.writeOwned(bytes).catch(() => {})
    }
  }

  #schedule(): void {
    const flush = (): void => {
      for (const bytes of this.#later.splice(0)) this.#write(bytes, true)
      if (this.#ended) this.#transport.close()
    }
    const source = this.#random.below(4)
    if (source === 0) process.nextTick(flush)
    else if (source === 1) queueMicrotask(flush)
    else if (source === 2) setImmediate(flush)
    else setTimeout(flush, this.#random.below(3))
  }
}
