import { Alarm } from './alarm.js'
import { monotonicTime } from './clock.js'
import { creationStack, type DebugMode, debugMode, watchDuration } from './debug-mode.js'
import { type Callback, ScheduledCall, TimerCall, type TimerQueue } from './handles.js'
import { TimerHeap } from './timer-heap.js'

/** As it was before a test runner may have replaced it. */
const immediately = setImmediate

/**
 * Runs callbacks in rounds, as asyncio does: first those that were ready when the round began, in the order in which
 * they were scheduled, then timers that were due by then. What they schedule runs in the next round, and timers and I/O of
 * Node have their turn in between. Next ticks and microtasks run after a round, not between its callbacks.
 *
 * Its arguments are checked by whoever calls it. One per loop.
 */
export class Scheduler implements TimerQueue {
  private readonly report: (error: unknown, call: ScheduledCall) => void
  private readonly timers = new TimerHeap<TimerCall>()
  private readonly debug: DebugMode = debugMode()
  /** Those that are ready, as a list: an array would have to grow anew for each round. */
  private first: ScheduledCall | null = null
  private last: ScheduledCall | null = null
  /** Made for the first timer, so that a thread without timers has no descriptor for them. */
  private alarm: Alarm | null = null
  private closed = false
  private readonly round: () => void = this.runRound.bind(this)

  /** @param report told what a callback throws, in the callback's own async context */
  constructor(report: (error: unknown, call: ScheduledCall) => void) {
    this.report = report
  }

  /** Calls back in the next round. */
  callSoon(callback: Callback, args: readonly unknown[] | undefined): ScheduledCall {
    const call = new ScheduledCall('SHARDLOOP_HANDLE', callback, args)
    if (this.debug.enabled) this.note(call)
    this.enqueue(call)
    return call
  }

  /** Calls back after `delay` seconds; in the next round when that is not above 0. */
  callLater(delay: number, callback: Callback, args: readonly unknown[] | undefined): TimerCall {
    const timer = new TimerCall(this, monotonicTime() + delay, callback, args)
    if (this.debug.enabled) this.note(timer)
    this.addTimer(timer, delay)
    return timer
  }

  /** Calls back at `when`, in seconds of {@link monotonicTime}; in the next round when that is not in the future. */
  callAt(when: number, callback: Callback, args: readonly unknown[] | undefined): TimerCall {
    const timer = new TimerCall(this, when, callback, args)
    if (this.debug.enabled) this.note(timer)
    this.addTimer(timer, when - monotonicTime())
    return timer
  }

  /** A timer was cancelled. */
  forget(timer: TimerCall): void {
    const { timers } = this
    if (!timers.has(timer)) return
    const wasEarliest = timer.position === 0
    timers.remove(timer)
    if (wasEarliest) this.alarm?.set(timers.earliest)
  }

  /** Those that wait: the ready ones, and the timers in no order. */
  pending(): ScheduledCall[] {
    const calls: ScheduledCall[] = [...this.timers.all()]
    for (let call = this.first; call !== null; call = call.next) if (!call.cancelled()) calls.push(call)
    return calls
  }

  /** Cancels all that waits. Resolves when nothing native is left. */
  async close(): Promise<void> {
    this.closed = true
    for (let call = this.first; call !== null; call = call.next) call.cancel()
    // Whatever the deadline, cancelling takes it out.
    for (let timer = this.timers.first; timer !== null; timer = this.timers.first) timer.cancel()
    const { alarm } = this
    this.alarm = null
    await alarm?.close()
  }

  /** Every callback is run by this one. Never throws. */
  run(call: ScheduledCall): void {
    try {
      if (this.debug.enabled)
        watchDuration(
          () => call.call(),
          () => told(call),
        )
      else call.call()
    } catch (error) {
      this.tell(error, call)
    }
    call.finish()
  }

  private tell(error: unknown, call: ScheduledCall): void {
    try {
      call.runInAsyncScope(this.report, undefined, error, call)
    } catch (failure) {
      process.nextTick(() => {
        throw failure // a report must not fail; the others of the round have their turn all the same
      })
    }
  }

  private note(call: ScheduledCall): void {
    call.source = creationStack(this.note) ?? ''
  }

  private enqueue(call: ScheduledCall): void {
    if (this.last === null) {
      this.first = call
      immediately(this.round)
    } else {
      this.last.next = call
    }
    this.last = call
  }

  private addTimer(timer: TimerCall, delay: number): void {
    if (delay <= 0) {
      // Timers that are due by now were scheduled before it, and not for later.
      const now = timer.deadline - delay
      let due = this.timers.takeDue(now)
      if (due !== null) {
        for (; due !== null; due = this.timers.takeDue(now)) this.enqueue(due)
        // The round looks at the alarm only when there is a timer left.
        this.alarm?.set(this.timers.earliest)
      }
      this.enqueue(timer)
      return
    }
    const alarm = this.alarm ?? this.openAlarm()
    this.timers.add(timer, delay)
    if (timer.position === 0) alarm.set(timer.deadline)
  }

  private openAlarm(): Alarm {
    this.alarm = new Alarm(this.round)
    return this.alarm
  }

  /** By an immediate, or by the alarm. Never throws. */
  private runRound(): void {
    let call = this.first
    this.first = null
    this.last = null
    const { timers } = this
    // Before anything runs: what becomes due meanwhile is for the next round.
    const now = timers.size > 0 ? monotonicTime() : 0
    while (call !== null) {
      const { next } = call
      call.next = null // or a handle that is kept would keep all that came behind it
      if (this.closed) call.cancel()
      else if (!call.cancelled()) this.run(call)
      call = next
    }
    if (now === 0) return
    for (let timer = timers.takeDue(now); timer !== null; timer = timers.takeDue(now)) this.run(timer)
    this.alarm?.set(timers.earliest)
  }
}

function told(call: ScheduledCall): { what: string; fields: Record<string, unknown> } {
  return { what: call.describe(), fields: { ...(call.source !== undefined && { scheduledAt: call.source }) } }
}
