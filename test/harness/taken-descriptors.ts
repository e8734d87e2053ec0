import { closeSync, openSync } from 'node:fs'

/** Descriptors that a program holds so that it runs out of them. */
export class TakenDescriptors {
  readonly #taken: number[] = []

  /** Takes all that the process may still open. */
  exhaust(): void {
    try {
      for (;;) this.#taken.push(openSync('/dev/null', 'r'))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EMFILE') throw error
    }
  }

  /** Gives some of them back. */
  free(count: number = Number.POSITIVE_INFINITY): void {
    for (const descriptor of this.#taken.splice(0, count)) closeSync(descriptor)
  }
}
