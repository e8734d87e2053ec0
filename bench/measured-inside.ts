/** For programs that measure themselves from inside: nobody else knows when their windows open and close. */
import { readFileSync } from 'node:fs'
import type { LatencySummary } from './load.js'
import { sortedQuantile } from './statistics.js'

/** USER_HZ, the unit of /proc, is 100 on every Linux that Node runs on. */
const TICKS_PER_SEC = 100

/** Processor times since some point in the past. */
export interface ProcessorSample {
  readonly atMs: number
  readonly ownSecs: number
  readonly targetSecs: number
  readonly busySecs: number
  readonly stealSecs: number
}

/** Samples now; `targetPid` is another process, or `self`. Linux only. */
export function sampleProcessor(targetPid: string): ProcessorSample {
  const { user, system } = process.cpuUsage()
  // The name in parentheses may hold spaces and parentheses itself; utime and stime are fields 14 and 15.
  const target = readFileSync(`/proc/${targetPid}/stat`, 'utf8')
  const fields = target.slice(target.lastIndexOf(')') + 2).split(' ')
  const machine = /^cpu +(.*)$/m.exec(readFileSync('/proc/stat', 'utf8'))?.[1]?.split(' ').map(Number) ?? []
  const [userTicks = 0, nice = 0, systemTicks = 0, , , irq = 0, softirq = 0, steal = 0] = machine
  return {
    atMs: performance.now(),
    ownSecs: (user + system) / 1e6,
    targetSecs: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SEC,
    busySecs: (userTicks + nice + systemTicks + irq + softirq) / TICKS_PER_SEC,
    stealSecs: steal / TICKS_PER_SEC,
  }
}

/** Of latencies in microseconds, in any order. */
export function latencySummary(latencies: readonly number[]): LatencySummary {
  const sorted = Float64Array.from(latencies).sort()
  const sum = sorted.reduce((total, one) => total + one, 0)
  const at = (share: number): number => (sorted.length === 0 ? 0 : sortedQuantile(sorted, share))
  return {
    count: sorted.length,
    mean: sorted.length === 0 ? 0 : sum / sorted.length,
    p50: at(0.5),
    p90: at(0.9),
    p99: at(0.99),
    p999: at(0.999),
    p9999: at(0.9999),
    max: sorted.at(-1) ?? 0,
  }
}
