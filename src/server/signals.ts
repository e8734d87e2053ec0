import { constants } from 'node:os'
import { isatty } from 'node:tty'
import { isMainThread } from 'node:worker_threads'
import { SIGINT_RELAY_WINDOW_MS } from '../limits.js'
import { threadSingleton } from '../workers/thread-singleton.js'

/** What a signal drains. */
export interface Drainable {
  drain(): Promise<void>
}

const SIGNALS = ['SIGINT', 'SIGTERM'] as const
type DrainSignal = (typeof SIGNALS)[number]

/**
 * SIGINT and SIGTERM drain every server that registered here; a second one ends the process with 128 + its number.
 * The handlers are there only while such a server is. They are ordinary listeners: those of the program run too.
 */
export class SignalDrain {
  readonly #servers = new Set<Drainable>()
  readonly #onSignal = (signal: NodeJS.Signals): void => this.#signalled(signal as DrainSignal)
  /** Time of the first signal (performance.now()), null before it. */
  #drainingSince: number | null = null

  register(server: Drainable): void {
    if (this.#servers.size === 0) for (const signal of SIGNALS) process.on(signal, this.#onSignal)
    this.#servers.add(server)
    // It was still starting when the signal came.
    if (this.#drainingSince !== null) void server.drain()
  }

  unregister(server: Drainable): void {
    if (!this.#servers.delete(server) || this.#servers.size > 0) return
    for (const signal of SIGNALS) process.off(signal, this.#onSignal)
    this.#drainingSince = null
  }

  #signalled(signal: DrainSignal): void {
    const now = performance.now()
    if (this.#drainingSince === null) {
      this.#drainingSince = now
      for (const server of this.#servers) void server.drain()
      return
    }
    const relayed = signal === 'SIGINT' && hasTerminal() && now - this.#drainingSince < SIGINT_RELAY_WINDOW_MS
    if (!relayed) process.exit(128 + constants.signals[signal])
  }
}

function hasTerminal(): boolean {
  return isatty(0) || isatty(1) || isatty(2)
}

/** The process's signal drain, or null on other threads: Node delivers signals to the main thread only. */
export function signalDrain(): SignalDrain | null {
  return isMainThread ? threadSingleton('signal-drain', () => new SignalDrain()) : null
}
