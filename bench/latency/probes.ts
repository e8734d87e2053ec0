/**
 * Probes that run on a server's own loop while it is under load: how late a timer is, how long a file read and a fetch
 * take. Each runs again {@link GAP_MS} after the last ended.
 */
import { readFile } from 'node:fs/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { quantile } from '../statistics.js'

/** Pause between two probes of a kind, and the timer whose lateness is measured. */
const GAP_MS = 10

/** Milliseconds. */
export interface ProbeSummary {
  readonly count: number
  readonly p50: number
  readonly p99: number
}

/** What `report` answers. `fetch` is null when no URL was given. */
export interface ProbeReport {
  readonly timer: ProbeSummary
  readonly fs: ProbeSummary
  readonly fetch: ProbeSummary | null
}

/** The probes of one thread. They start at once and run until {@link Probes.stop}. */
export class Probes {
  readonly #url: string | null
  #timer: number[] = []
  #fs: number[] = []
  #fetch: number[] = []
  #running = true

  /** `url` is what the fetch probe asks for, from another process. */
  constructor(url: string | null) {
    this.#url = url
    const fail = (error: unknown): void => {
      console.error(error)
      process.exitCode = 1
    }
    void this.#repeatTimer()
    this.#repeatFs().catch(fail)
    if (url !== null) this.#repeatFetch(url).catch(fail)
  }

  /** Forgets what was measured so far. */
  reset(): void {
    this.#timer = []
    this.#fs = []
    this.#fetch = []
  }

  /** Summary since the start or the last reset. */
  report(): ProbeReport {
    return {
      timer: summary(this.#timer),
      fs: summary(this.#fs),
      fetch: this.#url === null ? null : summary(this.#fetch),
    }
  }

  /** Ends every probe after its current turn. */
  stop(): void {
    this.#running = false
  }

  async #repeatTimer(): Promise<void> {
    while (this.#running) {
      const started = performance.now()
      await pause()
      this.#timer.push(performance.now() - started - GAP_MS)
    }
  }

  async #repeatFs(): Promise<void> {
    while (this.#running) {
      const started = performance.now()
      await readFile(import.meta.filename)
      this.#fs.push(performance.now() - started)
      await pause()
    }
  }

  async #repeatFetch(url: string): Promise<void> {
    while (this.#running) {
      const started = performance.now()
      const response = await fetch(url)
      await response.text()
      this.#fetch.push(performance.now() - started)
      await pause()
    }
  }
}

/** Bytes of this thread's JS heap in use after a full garbage collection. */
export function collectedHeapBytes(): number {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  // What the first collection finalises, the second frees.
  collect()
  collect()
  return process.memoryUsage().heapUsed
}

/** A pause that does not keep the thread alive. */
function pause(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, GAP_MS).unref()
  })
}

function summary(values: readonly number[]): ProbeSummary {
  return { count: values.length, p50: quantile(values, 0.5), p99: quantile(values, 0.99) }
}
