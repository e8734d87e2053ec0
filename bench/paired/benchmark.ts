/**
 * A benchmark that compares pairs of programs: its rows, who takes part in them, and what must be reached. What is common to
 * such benchmarks is in this directory; `../threads/`, `../datagrams/`, `../http/`, `../streams/`, `../resp/` and `../tls/` are
 * such.
 */
import type { LatencySummary, LoadResult } from '../load.js'
import type { PeerId } from '../peers.js'
import type { RoundPlan } from '../rounds.js'
import type { CallsPerRequest } from '../syscalls.js'

/** A program that is measured, as tables and plots show it. */
export interface PairedPeer {
  readonly title: string
  /** Whose colour it has in plots. */
  readonly colour: PeerId
}

/**
 * What only the server's side knows: how late a timer of its event loop is, in microseconds, and resident bytes for each
 * connection.
 */
export type InsideFigure = 'lag-p99' | 'lag-max' | 'bytes'

/** What programs are compared by. A request is whatever the row counts: a message, a delivery, a datagram. */
export type PairedFigure = 'per-cpu-second' | 'per-second' | 'p50' | InsideFigure

/** One workload. */
export interface PairedRow<Peer extends string = string> {
  readonly id: string
  readonly title: string
  /** What is counted, in the plural. */
  readonly unit: string
  readonly peers: readonly Peer[]
  /** Whom the others are compared with. */
  readonly baselines: readonly Peer[]
  /** What they are compared by; the first one most of all. */
  readonly figures: readonly [PairedFigure, ...PairedFigure[]]
  /** Rounds that are enough, where one takes long; fewer than the plan's. */
  readonly rounds?: number
  /** Each measurement starts a process of its own: there is nothing to warm. */
  readonly fresh?: boolean
}

/** One thing to reach: a ratio of ours to the other's, over rounds in which both count. */
export interface PairedBar<Peer extends string = string> {
  /** `must` is a promise of the project, `aim` is where it wants to get. */
  readonly kind: 'must' | 'aim'
  readonly row: string
  readonly peer: Peer
  readonly against: Peer
  readonly figure: PairedFigure
  readonly direction: 'at-least' | 'at-most'
  readonly value: number
}

/** What one measurement found. The load generator's result is one; a row may bring another client. */
export interface PairedLoad
  extends Pick<LoadResult, 'secs' | 'requests' | 'requestsPerSec' | 'sent' | 'lost'> {
  readonly latencyUs: Partial<LatencySummary> & Pick<LatencySummary, 'p50' | 'p99'>
  /** Null where others that use the processor change nothing of what is measured, as with memory. */
  readonly cpu: LoadResult['cpu'] | null
  readonly inside?: Inside
}

/** See {@link InsideFigure}. */
export type Inside = { readonly [Figure in InsideFigure]?: number }

/** A program that is up, warm or not. */
export interface Measurable {
  /** One measurement: a warm-up and a window. What is measured stands for the server in the result. */
  measure(warmupSecs: number, windowSecs: number): Promise<PairedLoad>
  /** Ends it. Rejects when it has ended before, or does not end. */
  stop(): Promise<void>
  /** Ends it by force. */
  kill(): void
}

/** A whole benchmark. */
export interface PairedBenchmark<Peer extends string = string> {
  /** Its name as a command, and in the names of result files. */
  readonly name: string
  readonly title: string
  /** How it is measured, in a few sentences, for the report. */
  readonly method: string
  readonly peers: Readonly<Record<Peer, PairedPeer>>
  readonly rows: readonly PairedRow<Peer>[]
  readonly bars: readonly PairedBar<Peer>[]
  /** Names of rows that stand for several: the beginnings of these rows' names. */
  readonly groups: readonly string[]
  /** How long it takes, for the help. */
  readonly duration: string
  /** Why a peer cannot be measured here; null when it can. Asked once, before anything is. */
  absent(peer: Peer): string | null
  /** Throws by name when rows cannot be measured on this machine, before anything is. */
  check(rows: readonly PairedRow<Peer>[]): void
  /** Starts a peer for a row. */
  start(row: PairedRow<Peer>, peer: Peer): Promise<Measurable>
  /** Counts a peer's system calls for a request; null where that is not asked for. */
  readonly countCalls: ((row: PairedRow<Peer>, peer: Peer, secs: number) => Promise<CallsPerRequest>) | null
}

const TITLES: Readonly<Record<PairedFigure, (unit: string) => string>> = {
  'per-cpu-second': (unit) => `${unit} per server-CPU-second`,
  'per-second': (unit) => `${unit} per second`,
  p50: () => 'p50 latency',
  'lag-p99': () => 'p99 event-loop lag',
  'lag-max': () => 'longest event-loop lag',
  bytes: () => 'resident bytes per connection',
}

/** How each figure is called. */
export function figureTitle(figure: PairedFigure, unit: string): string {
  return TITLES[figure](unit)
}

/** Whether a figure is the better the lower it is. */
export function lowerIsBetter(figure: PairedFigure): boolean {
  return figure !== 'per-cpu-second' && figure !== 'per-second'
}

/** The plan of a row. */
export function planOf({ rounds }: PairedRow, plan: RoundPlan): RoundPlan {
  if (rounds === undefined || rounds >= plan.wanted) return plan
  return { ...plan, wanted: rounds, max: Math.ceil((rounds * plan.max) / plan.wanted) }
}

/** Every comparison of a row among `peers`. */
export function pairedWith<Peer extends string>(
  row: PairedRow<Peer>,
  peers: readonly Peer[],
): { readonly peer: Peer; readonly against: Peer }[] {
  return row.baselines.flatMap((against) =>
    row.peers
      // Of two baselines the one is compared with the other, but not the other way round.
      .filter((peer) => !row.baselines.slice(row.baselines.indexOf(against)).includes(peer))
      .filter((peer) => peers.includes(peer) && peers.includes(against))
      .map((peer) => ({ peer, against })),
  )
}
