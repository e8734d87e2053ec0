import { type SignalListener, unwatchSignal, watchSignal } from '../workers/shared-signals.js'

/** What every method of a stream that waits takes. */
export interface WaitOptions {
  /** Calls it off: the promise rejects with the signal's reason, and what was waited for is as it was. */
  readonly signal?: AbortSignal
}

/** No options. */
export const NO_OPTIONS: WaitOptions = Object.freeze({})

/** Everybody who waits for the same thing to happen. */
export class Waiters {
  readonly #waiting = new Set<Waiter>()

  get size(): number {
    return this.#waiting.size
  }

  /** Resolves or rejects when it happens, or rejects with the reason of the signal, which is not aborted yet. */
  add(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const waiter = new Waiter(this.#waiting, signal, resolve, reject)
      if (signal !== undefined) watchSignal(signal, waiter) // throws when it is no signal
      this.#waiting.add(waiter)
    })
  }

  resolve(): void {
    for (const waiter of this.#takeAll()) waiter.resolve()
  }

  reject(error: Error): void {
    for (const waiter of this.#takeAll()) waiter.reject(error)
  }

  #takeAll(): Waiter[] {
    const all = [...this.#waiting]
    this.#waiting.clear()
    for (const waiter of all) if (waiter.signal !== undefined) unwatchSignal(waiter.signal, waiter)
    return all
  }
}

class Waiter implements SignalListener {
  readonly signal: AbortSignal | undefined
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
  readonly #others: Set<Waiter>

  constructor(
    others: Set<Waiter>,
    signal: AbortSignal | undefined,
    resolve: () => void,
    reject: (error: unknown) => void,
  ) {
    this.#others = others
    this.signal = signal
    this.resolve = resolve
    this.reject = reject
  }

  handleEvent(): void {
    this.#others.delete(this)
    this.reject(this.signal?.reason)
  }
}
