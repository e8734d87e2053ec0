import { AsyncResource } from 'node:async_hooks'
import { systemError } from '../errors.js'
import { WATCH_GONE, WATCH_READABLE, WATCH_RECORD_WORDS, WATCH_WORDS, WATCH_WRITABLE } from '../native/abi.js'
import type { NativeWatcher } from '../native/binding.js'
import { native } from '../native/index.js'

/** To be read from: bytes, connections, an end or an error. */
export const READABLE: number = WATCH_READABLE
/** To be written to: room, a connection that was made, or an error. */
export const WRITABLE: number = WATCH_WRITABLE
/** It was closed while it was watched. */
export const GONE: number = WATCH_GONE

/** As with the alarm's: a watcher keeps none of the stores (AsyncLocalStorage) of whoever makes it. */
const neutral = new AsyncResource('SHARDLOOP_WATCHER')

/** Told of one descriptor that is ready: its number, the name of its watch, and what for. */
type Tell = (fd: number, id: number, readiness: number) => void

/**
 * Tells which of a thread's descriptors are ready, level-triggered; its native half is a poll of its own, nested in the thread's
 * libuv loop. Numbers of descriptors are checked by whoever calls it.
 */
export class DescriptorWatcher {
  readonly #native: NativeWatcher
  readonly #whenClosed: Promise<void>

  /**
   * @param tell called for each that is ready
   * @param told called behind the last of one turn; then next ticks and microtasks run. Neither must throw
   * @throws the system's error when there is no descriptor left
   */
  constructor(tell: Tell, told: () => void) {
    const records = new Int32Array(WATCH_WORDS)
    const ready = (): void => {
      const end = 1 + (records[0] as number) * WATCH_RECORD_WORDS
      for (let at = 1; at < end; at += WATCH_RECORD_WORDS)
        tell(records[at] as number, records[at + 1] as number, records[at + 2] as number)
      told()
    }
    let closed!: () => void
    this.#whenClosed = neutral.runInAsyncScope(
      () =>
        new Promise<void>((resolve) => {
          closed = resolve
        }),
    )
    const opened = neutral.runInAsyncScope(() => native.openWatcher({ records, ready, closed }))
    if ('errno' in opened) throw systemError(opened.errno, opened.syscall)
    this.#native = opened
  }

  /**
   * Begins to watch, or changes what for.
   * @param id names the watch; another one for each that begins
   * @param owned the descriptor is taken out before it is closed, so that nobody needs to ask whether the number still is its
   * @returns false when the number had been watched and was closed since, so that what was watched is no more
   * @throws the system's error when it cannot be watched; then it is not, whatever was before
   */
  watch(fd: number, id: number, interest: number, owned: boolean): boolean {
    const result = this.#native.watch(fd, id, interest, owned)
    if (typeof result === 'boolean') return result
    const error = systemError(result.errno, result.syscall)
    error.message += ` (descriptor ${fd}${error.code === 'EPERM' ? ', a file that is always ready, so that there is nothing to wait for' : ''})`
    throw error
  }

  unwatch(fd: number): void {
    this.#native.unwatch(fd)
  }

  /** Whether it keeps the thread alive; from the start it does not. */
  keepAlive(alive: boolean): void {
    this.#native.keepAlive(alive)
  }

  /** Resolves when the native half is gone. */
  close(): Promise<void> {
    this.#native.close()
    return this.#whenClosed
  }
}
