/** As it was before a test runner may have replaced it. */
const { hrtime } = process

/**
 * Seconds of the monotonic clock (CLOCK_MONOTONIC on Linux), the same in every thread of the process. Not
 * `performance.now`, which counts from each thread's start and would need an offset, inexact by the time that taking it takes.
 */
export function monotonicTime(): number {
  const time = hrtime()
  // Whole seconds and nanoseconds; native/src/alarm.rs adds them in the same way, so that both find the same times due.
  return time[0] + time[1] * 1e-9
}
