import { AsyncResource } from 'node:async_hooks'
import { systemError } from '../errors.js'
import { ALARM_DEADLINE, ALARM_REFERENCED, ALARM_WORDS } from '../native/abi.js'
import type { NativeAlarm, SystemFailure } from '../native/binding.js'
import { native } from '../native/index.js'

/**
 * Made when the module is loaded. An alarm that is made in this context keeps none of the stores (AsyncLocalStorage) of whoever
 * happens to set the thread's first timer: native code's async context would, and so would a promise.
 */
const neutral = new AsyncResource('SHARDLOOP_ALARM')

/** Calls a function of this thread at a time; its native half is nested in the thread's libuv loop. */
export class Alarm {
  private readonly words: Float64Array = new Float64Array(ALARM_WORDS)
  private readonly native: NativeAlarm
  private readonly whenClosed: Promise<void>

  /**
   * @param wake called in Node's callback scope: next ticks and microtasks run when it returns. It must not throw
   * @param coarse by a clock of milliseconds also where there is a better one, for tests
   * @throws the system's error when there is no descriptor left
   */
  constructor(wake: () => void, coarse = false) {
    this.words[ALARM_DEADLINE] = Number.POSITIVE_INFINITY
    const opened = neutral.runInAsyncScope(() => openNative(this.words, wake, coarse))
    if ('errno' in opened.alarm) throw systemError(opened.alarm.errno, opened.alarm.syscall)
    this.native = opened.alarm
    this.whenClosed = opened.whenClosed
  }

  /**
   * Sets the time, in seconds of the monotonic clock, in the place of the one before; Infinity for never. It costs no native
   * call, but for the first after one of never. While one is set the loop stays alive.
   */
  set(deadline: number): void {
    const { words } = this
    words[ALARM_DEADLINE] = deadline
    if (words[ALARM_REFERENCED] === 0 && deadline !== Number.POSITIVE_INFINITY) this.native.reference()
  }

  /** Resolves when the native half is gone. */
  close(): Promise<void> {
    this.native.close()
    return this.whenClosed
  }
}

function openNative(
  control: Float64Array,
  wake: () => void,
  coarse: boolean,
): { alarm: NativeAlarm | SystemFailure; whenClosed: Promise<void> } {
  let closed!: () => void
  const whenClosed = new Promise<void>((resolve) => {
    closed = resolve
  })
  return { alarm: native.openAlarm({ control, wake, closed, coarse }), whenClosed }
}
