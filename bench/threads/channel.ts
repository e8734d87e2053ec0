/** What is measured between two threads: a way to send, and a way to ask. */

/** The main thread's end. */
export interface Channel {
  /** Number of the other thread, for the one that gives it a CPU. */
  readonly thread: string
  /** What does it, as ready lines name it. */
  readonly engine: string
  /** One way. */
  send(payload: unknown): void
  /** Sends and waits for the same payload to come back. */
  call(payload: unknown): Promise<unknown>
  /** Is told how many messages have come, every {@link ACKNOWLEDGED_EVERY}. */
  onAcknowledged(listener: (count: number) => void): void
}

/** How often the receiver says how many messages have come. */
export const ACKNOWLEDGED_EVERY = 256

/** Counts what comes, and acknowledges it. The same for every peer. */
export class Receiver {
  readonly #acknowledge: (count: number) => void
  #count = 0

  constructor(acknowledge: (count: number) => void) {
    this.#acknowledge = acknowledge
  }

  received(): void {
    this.#count += 1
    if (this.#count % ACKNOWLEDGED_EVERY === 0) this.#acknowledge(this.#count)
  }
}
