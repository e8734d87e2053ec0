/** As much of what piscina makes of a task as is used here. */
interface Waiting {
  readonly taskId: number
}

/** piscina's view of one of its threads. */
export interface PiscinaThread {
  readonly currentUsage: number
  readonly destroyed: boolean
}

/**
 * piscina's queue (its option `taskQueue`), in which a task is only while the thread that was started for it starts. piscina's
 * own would keep a task, and the promise for it out of reach, when that thread cannot be started. It is never told of more
 * tasks than threads are free: it would start further threads by itself, and throw to nobody when they cannot be started.
 */
export class WaitingTasks {
  readonly #tasks: Waiting[] = []
  /** Those that have started. */
  #threads: PiscinaThread[] = []
  /** The task that is being handed over. */
  #given: Waiting | null = null
  #isGiving = false

  /**
   * Hands a task to piscina that no thread is free for, and that one is started for.
   * @param run piscina's; what it throws is thrown, and piscina has nothing of the task
   */
  give<T>(run: () => T): T {
    this.#isGiving = true
    try {
      return run()
    } catch (error) {
      if (this.#given !== null) this.remove(this.#given)
      throw error
    } finally {
      this.#isGiving = false
      this.#given = null
    }
  }

  /** A thread has started. */
  started(thread: PiscinaThread): void {
    this.#threads = this.#threads.filter(({ destroyed }) => !destroyed)
    this.#threads.push(thread)
  }

  /** piscina looks at it to learn whether the queue is to be used at all. */
  get size(): number {
    if (this.#isGiving) return this.#tasks.length + 1
    if (this.#tasks.length === 0) return 0
    const free = this.#threads.filter(({ destroyed, currentUsage }) => !destroyed && currentUsage === 0)
    return Math.min(this.#tasks.length, free.length)
  }

  push(task: Waiting): void {
    this.#tasks.push(task)
    if (this.#isGiving) this.#given = task
  }

  unshift(task: Waiting): void {
    this.#tasks.unshift(task)
  }

  shift(): Waiting | null {
    return this.#tasks.shift() ?? null
  }

  remove(task: Waiting): void {
    const place = this.#tasks.indexOf(task)
    if (place >= 0) this.#tasks.splice(place, 1)
  }
}
