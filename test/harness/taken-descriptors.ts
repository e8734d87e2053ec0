import { closeSync, openSync, readlinkSync } from 'node:fs'

/**
 * What glibc reads, once in a process, when a thread first gives memory of its arena back: of Node's own threads one may do so at any
 * time, and holds a descriptor meanwhile.
 */
const HELD_FOR_A_MOMENT = '/proc/sys/vm/overcommit_memory'

/** Descriptors that a program holds so that it runs out of them. */
export class TakenDescriptors {
  readonly #taken: number[] = []

  /** Takes all that the process may still open. */
  exhaust(): void {
    // In this order: with none left nobody opens what was not open when it was looked for.
    for (;;) {
      const isHeld = this.#isOneHeldForAMoment()
      if (this.#take() === 0 && !isHeld) return
    }
  }

  /** @returns how many there were */
  #take(): number {
    const before = this.#taken.length
    try {
      for (;;) this.#taken.push(openSync('/dev/null', 'r'))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EMFILE') throw error
      return this.#taken.length - before
    }
  }

  #isOneHeldForAMoment(): boolean {
    const taken = new Set(this.#taken)
    // It may have got the last number that there was.
    const end = this.#taken.reduce((most, descriptor) => Math.max(most, descriptor), 0) + 1
    for (let descriptor = 0; descriptor <= end; descriptor++) {
      if (!taken.has(descriptor) && linkOf(descriptor) === HELD_FOR_A_MOMENT) return true
    }
    return false
  }

  /** Gives some of them back. */
  free(count: number = Number.POSITIVE_INFINITY): void {
    for (const descriptor of this.#taken.splice(0, count)) closeSync(descriptor)
  }
}

/** What a descriptor is open to; empty when it is not open, or the system does not tell. Takes no descriptor. */
function linkOf(descriptor: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${descriptor}`)
  } catch {
    return ''
  }
}
