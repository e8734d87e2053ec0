/** Waits for something that a signal may call off. */
export interface SignalListener {
  /** The signal was aborted; it is not listened to any more. */
  handleEvent(): void
}

/** One signal, while somebody listens. */
class SharedSignal {
  readonly listeners = new Set<SignalListener>()
  readonly #signal: AbortSignal

  constructor(signal: AbortSignal) {
    this.#signal = signal
    signal.addEventListener('abort', this)
  }

  handleEvent(): void {
    for (const listener of [...this.listeners]) {
      // Another one may have called it off.
      if (!this.listeners.delete(listener)) continue
      try {
        listener.handleEvent()
      } catch (error) {
        // As an EventTarget does it: the others are told all the same.
        process.nextTick(() => {
          throw error
        })
      }
    }
    this.end() // only now, so that who is called off meanwhile is found
  }

  end(): void {
    this.#signal.removeEventListener('abort', this)
    if (shared.get(this.#signal) === this) shared.delete(this.#signal)
  }
}

const shared = new Map<AbortSignal, SharedSignal>()

/** Has a listener told when a signal aborts. All of a thread's share one listener of the signal's: Node warns of eleven. */
export function watchSignal(signal: AbortSignal, listener: SignalListener): void {
  let known = shared.get(signal)
  if (known === undefined) {
    known = new SharedSignal(signal)
    shared.set(signal, known)
  }
  known.listeners.add(listener)
}

/** It is not told any more, if it was to be. */
export function unwatchSignal(signal: AbortSignal, listener: SignalListener): void {
  const known = shared.get(signal)
  if (known?.listeners.delete(listener) && known.listeners.size === 0) known.end()
}
