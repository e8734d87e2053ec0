import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { posix } from 'node:path'
import { SHARDS_MAX } from '../limits.js'

/** Text of a file, or null when it cannot be read. */
export type ReadText = (path: string) => string | null

/** `shards: 'auto'`: as many as the CPUs that this process may use, and the cgroup's quota pays for; at least 1. */
export function automaticShards(): number {
  const quota = process.platform === 'linux' ? cgroupCpuQuota(readText) : Number.POSITIVE_INFINITY
  return shardsFor(availableParallelism(), quota)
}

/** @param quota CPUs that the cgroup may use, Infinity without a limit */
export function shardsFor(parallelism: number, quota: number): number {
  return Math.max(1, Math.min(parallelism, Math.ceil(quota), SHARDS_MAX))
}

/**
 * CPUs that this process's cgroup and those above it may use, the tightest of them; Infinity without a limit. Knows
 * cgroup v2 (`cpu.max`) and v1 (`cpu.cfs_quota_us`). In a container the mount may show the group as its root.
 */
export function cgroupCpuQuota(read: ReadText): number {
  const membership = read('/proc/self/cgroup')
  if (membership === null) return Number.POSITIVE_INFINITY
  let tightest = Number.POSITIVE_INFINITY
  for (const line of membership.split('\n')) {
    const [hierarchy, controllers, group] = splitMembership(line)
    if (group === undefined) continue
    if (hierarchy === '0' && controllers === '') {
      for (const directory of upwards('/sys/fs/cgroup', group)) {
        tightest = Math.min(tightest, parseCpuMax(read(`${directory}/cpu.max`)))
      }
    } else if (controllers?.split(',').includes('cpu')) {
      for (const directory of upwards(`/sys/fs/cgroup/${controllers}`, group).concat(
        upwards('/sys/fs/cgroup/cpu', group),
      )) {
        const period = read(`${directory}/cpu.cfs_period_us`)
        tightest = Math.min(tightest, parseCfsQuota(read(`${directory}/cpu.cfs_quota_us`), period))
      }
    }
  }
  return tightest
}

/** `"150000 100000"` is 1.5 CPUs; `"max 100000"`, nothing and nonsense are no limit. */
export function parseCpuMax(text: string | null): number {
  const [quota, period] = (text ?? '').trim().split(/\s+/)
  return quotient(quota, period)
}

/** Microseconds of CPU per period, each from its own file; -1 is no limit. */
export function parseCfsQuota(quota: string | null, period: string | null): number {
  return quotient(quota?.trim(), period?.trim())
}

function quotient(quota: string | undefined, period: string | undefined): number {
  const cpus = Number(quota || Number.NaN) / Number(period || Number.NaN)
  return Number.isFinite(cpus) && cpus > 0 ? cpus : Number.POSITIVE_INFINITY
}

/** `hierarchy:controllers:path`; a path may hold colons. */
function splitMembership(line: string): string[] {
  const match = /^(\d+):([^:]*):(\/.*)$/.exec(line)
  return match ? match.slice(1) : []
}

/** A group's directory and those above it, up to the mount. */
function upwards(mount: string, group: string): string[] {
  const directories = [mount]
  // A group outside of our view of the hierarchy is shown as /../..; then only the mount's own files can be read.
  if (group.split('/').includes('..')) return directories
  for (let path = posix.normalize(group); path !== '/' && path !== '.'; path = posix.dirname(path)) {
    directories.push(posix.join(mount, path))
  }
  return directories
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    // Not there, or not ours to read: no limit that we could know of.
    return null
  }
}
