/** A promise with its switches outside. */
export class Deferred<Value = void> {
  readonly promise: Promise<Value>
  resolve!: (value: Value) => void
  reject!: (error: unknown) => void

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
    // Whoever waits sees the rejection; nobody waiting is no reason to end the process.
    this.promise.catch(() => {})
  }
}

/** Something that changes by events, and can be waited for without polling. */
export class Observable {
  #waiting: { condition: () => boolean; deferred: Deferred }[] = []

  /** To be called after every change. */
  protected changed(): void {
    const ready = this.#waiting.filter(({ condition }) => condition())
    if (ready.length === 0) return
    this.#waiting = this.#waiting.filter((waiter) => !ready.includes(waiter))
    for (const { deferred } of ready) deferred.resolve()
  }

  /** Resolves once `condition` holds; it is looked at now and after every change. */
  until(condition: () => boolean): Promise<void> {
    if (condition()) return Promise.resolve()
    const deferred = new Deferred()
    this.#waiting.push({ condition, deferred })
    return deferred.promise
  }
}

/**
 * Resolves once `condition` holds. For what makes no event (counters, memory, another process): it is looked
 * at every few milliseconds, and the test's own timeout ends a wait in vain.
 */
export function eventually(condition: () => boolean | Promise<boolean>, everyMs = 5): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = async (): Promise<void> => {
      if (await condition()) resolve()
      else setTimeout(() => look().catch(reject), everyMs)
    }
    look().catch(reject)
  })
}
