import { AsyncResource, executionAsyncId } from 'node:async_hooks'
import type { TimerEntry } from './timer-heap.js'

/** A callback that waits for its turn, as `callSoon` returns it. */
export interface Handle {
  /** Takes it back: it will not be called, and what it holds is let go of. Later calls, and those of one that was called, do nothing more. */
  cancel(): void
  /** Whether `cancel` was called. */
  cancelled(): boolean
}

/** A callback that waits for its time, as `callLater` and `callAt` return it. */
export interface TimerHandle extends Handle {
  /** When it is due, in seconds of the loop's `time()`. */
  when(): number
}

/** What a handle calls. */
export type Callback = (...args: never[]) => unknown

/** Stand in for the callback of a handle that is over. */
const CANCELLED: Callback = () => {}
const CALLED: Callback = () => {}

/**
 * A handle, in the async context of the call that made it. It is the AsyncResource itself, for there may be very many:
 * two objects take twice as long. For the same reason fields are set once, by the constructor: an initialiser is a
 * store more, and on newer Node a slow one.
 */
export class ScheduledCall extends AsyncResource implements Handle {
  /** What is called; another one once it is over, so that it is not kept. */
  declare callback: Callback
  declare private args: readonly unknown[] | undefined
  /** The one behind it, among those that are ready or in a chain of timers. */
  declare next: ScheduledCall | null
  /** Where it was scheduled; in debug mode only. */
  declare source?: string

  constructor(type: string, callback: Callback, args: readonly unknown[] | undefined) {
    // The trigger's id in place of the options: that is what they default to, and it spares looking them through.
    super(type, executionAsyncId())
    this.callback = callback
    this.args = args
    this.next = null
  }

  cancel(): void {
    this.callback = CANCELLED
    this.args = undefined
  }

  cancelled(): boolean {
    return this.callback === CANCELLED
  }

  /** Calls it; what it throws is for whoever calls this. */
  call(): void {
    const { args } = this
    if (args === undefined) this.runInAsyncScope(this.callback as () => unknown)
    else this.runInAsyncScope(this.callback as (...args: unknown[]) => unknown, undefined, ...args)
  }

  /** What it calls, for people. */
  describe(): string {
    return `the callback ${this.callback.name || '(anonymous)'} of ${this.method}`
  }

  /** The method that made it. */
  protected get method(): string {
    return 'callSoon'
  }

  /** It was called: lets go of what it holds, for a program may keep the handle. */
  finish(): void {
    if (this.callback === CANCELLED) return
    this.callback = CALLED
    this.args = undefined
  }
}

/** What a timer is taken out of when it is cancelled. */
export interface TimerQueue {
  forget(timer: TimerCall): void
}

/** A handle with a time. */
export class TimerCall extends ScheduledCall implements TimerHandle, TimerEntry<TimerCall> {
  declare readonly deadline: number
  declare order: number
  declare position: number
  declare lane: number
  declare previous: TimerCall | null
  declare next: TimerCall | null
  declare private readonly queue: TimerQueue

  constructor(queue: TimerQueue, deadline: number, callback: Callback, args: readonly unknown[] | undefined) {
    super('SHARDLOOP_TIMER_HANDLE', callback, args)
    this.queue = queue
    this.deadline = deadline
    this.order = 0
    this.position = -1
    this.lane = 0
    this.previous = null
  }

  when(): number {
    return this.deadline
  }

  protected override get method(): string {
    return 'callLater or callAt'
  }

  override cancel(): void {
    super.cancel()
    this.queue.forget(this)
  }
}
