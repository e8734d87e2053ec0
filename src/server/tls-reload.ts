import { stat } from 'node:fs/promises'
import { MISSING, stampOf } from '../tls/material.js'
import type { TlsServerSettings } from '../tls/server-options.js'

/** As they were before the program may have replaced them (a test runner's timers). */
const [later, never] = [setTimeout, clearTimeout]

/** What is read again. */
export interface Reloadable {
  /** Its files, and what each was when it was looked at last. */
  readonly files: ReadonlyMap<string, string>
  readonly settings: Pick<TlsServerSettings, 'reloadEveryMs'>
  /** @param seen what the files are now @throws when it cannot be used; then it stays as it was, and knows what was seen */
  reload(settings?: undefined, seen?: ReadonlyMap<string, string>): void
}

/** Who is told. */
export interface ReloadObserver {
  reloaded(): void
  /** Once for each change. */
  failed(error: Error): void
}

/**
 * Looks whether files have changed, from time to time and by stat(2): a watch (inotify) loses those that are replaced by a symbolic
 * link, as Kubernetes does, and those of other machines. It does not keep the process alive.
 */
export class TlsReload {
  readonly #target: Reloadable
  readonly #observer: ReloadObserver
  #timer: NodeJS.Timeout | undefined
  /** Counts starts and stops: a look that was under way meanwhile is of no interest any more. */
  #round = 0

  constructor(target: Reloadable, observer: ReloadObserver) {
    this.#target = target
    this.#observer = observer
  }

  /** From now on, as often as the target's settings say. */
  start(): void {
    this.stop()
    this.#next()
  }

  stop(): void {
    this.#round++
    if (this.#timer !== undefined) never(this.#timer)
    this.#timer = undefined
  }

  /** Looks now. Never rejects. */
  async look(): Promise<void> {
    const round = this.#round
    const known = this.#target.files
    const seen = new Map<string, string>()
    await Promise.all([...known.keys()].map(async (path) => seen.set(path, await stampOfFile(path))))
    if (round !== this.#round || known !== this.#target.files) return
    if ([...known].every(([path, stamp]) => seen.get(path) === stamp)) return
    try {
      this.#target.reload(undefined, seen)
    } catch (error) {
      this.#observer.failed(error as Error)
      return
    }
    this.#observer.reloaded()
  }

  #next(): void {
    const { reloadEveryMs } = this.#target.settings
    if (reloadEveryMs === 0 || this.#target.files.size === 0) return
    const round = this.#round
    this.#timer = later(() => {
      void this.look().then(() => {
        if (round === this.#round) this.#next()
      })
    }, reloadEveryMs)
    this.#timer.unref()
  }
}

async function stampOfFile(path: string): Promise<string> {
  try {
    return stampOf(await stat(path, { bigint: true }))
  } catch {
    return MISSING
  }
}
