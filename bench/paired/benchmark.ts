/**
 * A benchmark that compares pairs of programs: its rows, who takes part in them, and what must be reached. What is common to
 * such benchmarks is in this directory; `../threads/`, `../datagrams/`, `../http/`, `../streams/` and `../resp/` are such.
 */
import type { LatencySummary, LoadResult } from '../load.js'
import type { PeerId } from '../peers.js'
import type { CallsPerRequest } from '../syscalls.js'

/** A program that is measured, as tables and plots show it. */
export interface PairedPeer {
  readonly title: string
  /** Whose colour it has in plots. */
  readonly colour: PeerId
}

/** What programs are compared by. A request is whatever the row counts: a message, a delivery, a datagram. */
export type PairedFigure = 'per-cpu-second' | 'per-second' | 'p50'

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
  extends Pick<LoadResult, 'secs' | 'requests' | 'requestsPerSec' | 'sent' | 'lost' | 'cpu'> {
  readonly latencyUs: Partial<LatencySummary> & Pick<LatencySummary, 'p50' | 'p99'>
}

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

/** How each figure is called. */
export function figureTitle(figure: PairedFigure, unit: string): string {
  if (figure === 'p50') return 'p50 latency'
  return figure === 'per-second' ? `${unit} per second` : `${unit} per server-CPU-second`
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
