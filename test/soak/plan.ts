/** What the clients of a soak and its server agree on. */
import type { EngineName } from 'shardloop'
import { KiB } from '../harness/memory.js'
import type { Fault } from './faults.js'

/** How connections are served: each way is a server of its own, and all share the shards. */
export const SERVICES = [
  'chunk',
  'borrowed',
  'buffered',
  'mixed',
  /** Resets the connection somewhere in the first {@link ABORTS_WITHIN_BYTES}. */
  'aborting',
  /** Resets the connection when nothing moved for a while, at most {@link IDLE_MAX_MS}. */
  'expiring',
] as const

export type Service = (typeof SERVICES)[number]

/** Those that echo for as long as they are asked to. */
export const ECHOING: readonly Service[] = ['chunk', 'borrowed', 'buffered', 'mixed']

export const ABORTS_WITHIN_BYTES: number = 64 * KiB
export const IDLE_MIN_MS = 100
export const IDLE_MAX_MS = 300

/** What the server is told when it starts. */
export interface ServerPlan {
  readonly engine: EngineName | 'auto'
  readonly shards: number
  readonly seed: number
  readonly fault: Fault | null
}

/** The server's first line. */
export interface Ready {
  readonly engine: EngineName
  readonly ports: Readonly<Record<Service, number>>
}
