/** What is measured, with whom it is compared, and what it must reach. All bars of the project are in this one table. */

import { BURN_US } from './burn/message-burn.js'
import { type Engine, MODES, oursOn, type PeerId } from './peers.js'

/** One workload, measured in rounds. */
export interface Row {
  readonly id: string
  readonly title: string
  readonly mode: 'echo' | 'churn' | 'connect'
  /** Connections, with churn and connect those at once. */
  readonly connections: number
  /** Bytes of a message. */
  readonly size: number
  /** Messages in flight on each connection. */
  readonly pipeline: number
  /**
   * Share of its CPU that a server must have used for its measurement to count; null: not asked for.
   * With churn the client does more work per connection than the server, so no server gets near 1.
   */
  readonly busyFloor: number | null
  readonly work: Work
  /** What servers are compared by; the first one most of all. */
  readonly rates: readonly [Rate, ...Rate[]]
}

/**
 * What is done in a row, and with that who takes part (see `comparisons.ts`).
 *
 * - `echo`: servers send back what they get, with all their threads on one CPU.
 * - `raw`: the same for one client that waits for each answer, as in RLoop's benchmark of that name; Python's event loops
 *   take part.
 * - `unix`: as `echo`, over a Unix socket.
 * - `connect`: clients connect and close, and are what is measured: they have the server's CPU, and stand where servers
 *   stand in samples and figures; a request is a connection.
 * - `burn`: before they answer, protocols keep their thread for {@link BURN_US} microseconds of JavaScript, with two CPUs:
 *   one for JavaScript, one for an I/O thread and the client. Only ours burn.
 */
export type Work = 'echo' | 'raw' | 'unix' | 'connect' | 'burn'

/** What servers may be compared by. */
export type Rate =
  | 'requests-per-cpu-second'
  | 'requests-per-second'
  | 'connections-per-cpu-second'
  | 'connections-per-second'

/** A server below this share of its CPU waited for the client, and what it costs per request then depends on the wait. */
export const BUSY_FLOOR = 0.95

const ECHO = {
  mode: 'echo',
  busyFloor: BUSY_FLOOR,
  work: 'echo',
  rates: ['requests-per-cpu-second'],
} as const

/** Who waits for whom is what is measured here, so nobody has to be busy. */
const BURN = { mode: 'echo', busyFloor: null, work: 'burn', rates: ['requests-per-second'] } as const

const UNIX = {
  mode: 'echo',
  busyFloor: BUSY_FLOOR,
  work: 'unix',
  rates: ['requests-per-cpu-second', 'requests-per-second'],
} as const

/** One client that waits for each answer; the server waits for it as often, so nobody can be busy. */
const RAW = {
  mode: 'echo',
  connections: 1,
  pipeline: 1,
  busyFloor: null,
  work: 'raw',
  rates: ['requests-per-second', 'requests-per-cpu-second'],
} as const

/** The workloads, in the order in which they run. */
export const ROWS: readonly Row[] = [
  {
    id: '64x64',
    title: '64 connections × 64 B, 1 in flight',
    connections: 64,
    size: 64,
    pipeline: 1,
    ...ECHO,
  },
  {
    id: '64x64-p16',
    title: '64 connections × 64 B, 16 in flight',
    connections: 64,
    size: 64,
    pipeline: 16,
    ...ECHO,
  },
  {
    id: '64x16k',
    title: '64 connections × 16 KiB, 1 in flight',
    connections: 64,
    size: 16_384,
    pipeline: 1,
    ...ECHO,
  },
  {
    id: '1000x64',
    title: '1,000 connections × 64 B, 1 in flight',
    connections: 1000,
    size: 64,
    pipeline: 1,
    ...ECHO,
  },
  {
    id: 'churn',
    title: 'connect, echo 64 B, close; 64 at once',
    connections: 64,
    size: 64,
    pipeline: 1,
    ...ECHO,
    mode: 'churn',
    busyFloor: null,
  },
  {
    id: 'unix-64x64',
    title: '64 connections × 64 B over a Unix socket, 1 in flight',
    connections: 64,
    size: 64,
    pipeline: 1,
    ...UNIX,
  },
  {
    id: 'unix-64x16k',
    title: '64 connections × 16 KiB over a Unix socket, 1 in flight',
    connections: 64,
    size: 16_384,
    pipeline: 1,
    ...UNIX,
  },
  {
    id: 'connect',
    title: 'a client connects and closes; 16 at once',
    mode: 'connect',
    connections: 16,
    size: 0,
    pipeline: 1,
    busyFloor: BUSY_FLOOR,
    work: 'connect',
    rates: ['connections-per-cpu-second', 'connections-per-second'],
  },
  { id: 'raw-1k', title: 'one connection × 1 KiB, 1 in flight', size: 1024, ...RAW },
  { id: 'raw-10k', title: 'one connection × 10 KiB, 1 in flight', size: 10 * 1024, ...RAW },
  { id: 'raw-100k', title: 'one connection × 100 KiB, 1 in flight', size: 100 * 1024, ...RAW },
  {
    id: 'burn-64',
    title: `${BURN_US} µs of JavaScript a message, 64 connections × 64 B`,
    connections: 64,
    size: 64,
    pipeline: 1,
    ...BURN,
  },
  {
    id: 'burn-16k',
    title: `${BURN_US} µs of JavaScript a message, 64 connections × 16 KiB`,
    connections: 64,
    size: 16_384,
    pipeline: 1,
    ...BURN,
  },
]

/** Parts that are measured in another way than the rows; named like rows by `--rows`. */
export const PARTS = ['memory', 'syscalls', 'latency', 'handles'] as const
/** See {@link PARTS}. */
export type Part = (typeof PARTS)[number]

/** What a bar is about. A ratio is ours divided by the baseline's, over rounds in which both count. */
export type Metric =
  | Rate
  | 'p99'
  | 'resident-bytes-per-connection'
  | 'heap-bytes-per-connection'
  | 'syscalls-per-request'
  | `${Probe}-${'p50' | 'p99'}`

/** What is timed inside a loaded server. */
export type Probe = 'timer' | 'fs' | 'fetch'

/** How each metric is called in tables. */
export const METRIC_TITLES: Readonly<Record<Metric, string>> = {
  'requests-per-cpu-second': 'requests per server-CPU-second',
  'requests-per-second': 'requests per second',
  'connections-per-cpu-second': 'connections per client-CPU-second',
  'connections-per-second': 'connections per second',
  p99: 'p99 latency',
  'resident-bytes-per-connection': 'resident bytes per idle connection',
  'heap-bytes-per-connection': 'JS heap bytes per idle connection',
  'syscalls-per-request': 'system calls per request',
  'timer-p50': 'timer lateness under load, p50',
  'timer-p99': 'timer lateness under load, p99',
  'fs-p50': 'fs latency under load, p50',
  'fs-p99': 'fs latency under load, p99',
  'fetch-p50': 'fetch latency under load, p50',
  'fetch-p99': 'fetch latency under load, p99',
}

/** One thing to reach. */
export interface Bar {
  /** `must` is a promise of the project, `aim` is where it wants to get. */
  readonly kind: 'must' | 'aim'
  /** Row or part. */
  readonly row: string
  readonly peer: PeerId
  readonly metric: Metric
  /** What the figure is divided by; null: the figure itself. */
  readonly against: PeerId | null
  /** Whether more or less is better, and the value to reach. */
  readonly direction: 'at-least' | 'at-most'
  readonly value: number
}

/** For the mio engine. */
const CPU_BARS: readonly (readonly [row: string, chunk: number, borrowed: number])[] = [
  ['64x64', 1.45, 1.5],
  ['64x64-p16', 1.4, 1.55],
  ['64x16k', 1.35, 2.0],
  ['1000x64', 1.45, 1.55],
  ['churn', 2.0, 2.0],
]

/** Rows with many connections over TCP, and those of them that are no churn. */
const PEER_ROWS: readonly string[] = rowsOf('echo')
const ECHO_ROWS: readonly string[] = PEER_ROWS.filter((id) => id !== 'churn')

/** Every bar. */
export const BARS: readonly Bar[] = [
  ...CPU_BARS.flatMap(([row, chunk, borrowed]): Bar[] => [
    ratioBar('must', row, 'mio-chunk', 'requests-per-cpu-second', 'node-net', 'at-least', chunk),
    ratioBar('must', row, 'mio-borrowed', 'requests-per-cpu-second', 'node-net', 'at-least', borrowed),
  ]),
  // Two threads share the work of a message there, and what passes between them costs processor time: no worse than
  // node:net is the promise. What it gains is time on the clock, once a protocol has work of its own.
  ...each('tokio', ECHO_ROWS, (row, peer) => [
    ratioBar('must', row, peer, 'requests-per-cpu-second', 'node-net', 'at-least', 1),
  ]),
  ...rowsOf('burn').flatMap((row) =>
    MODES.map((mode) =>
      ratioBar('must', row, `tokio-${mode}`, 'requests-per-second', `mio-${mode}`, 'at-least', 1.3),
    ),
  ),
  ...each('mio', PEER_ROWS, (row, peer) => [ratioBar('must', row, peer, 'p99', 'node-net', 'at-most', 1)]),
  ...each('mio', rowsOf('unix'), (row, peer) => [
    ratioBar('must', row, peer, 'requests-per-cpu-second', 'node-net', 'at-least', 1.4),
  ]),
  ...each('tokio', rowsOf('unix'), (row, peer) => [
    ratioBar('aim', row, peer, 'requests-per-cpu-second', 'node-net', 'at-least', 1),
  ]),
  ratioBar('must', 'connect', 'mio-chunk', 'connections-per-cpu-second', 'node-net', 'at-least', 1.5),
  ratioBar('aim', 'connect', 'mio-chunk', 'connections-per-second', 'node-net', 'at-least', 1.5),
  ratioBar('aim', 'connect', 'tokio-chunk', 'connections-per-cpu-second', 'node-net', 'at-least', 1),
  ...rawBars('must', 'mio', ['node-net', 'rloop', 'uvloop']),
  // Each message goes from the I/O thread to JavaScript's and back, on one CPU, while nobody else has anything to do.
  ...rawBars('aim', 'tokio', ['node-net', 'rloop', 'uvloop']),
  ...rawBars('aim', 'mio', ['rloop-proto', 'uvloop-proto']),
  ...each('mio', ['memory'], (row, peer) => [
    figureBar(row, peer, 'resident-bytes-per-connection', 700),
    figureBar(row, peer, 'heap-bytes-per-connection', 350),
  ]),
  ...each('mio', ECHO_ROWS, (row, peer) => [
    ratioBar('must', row, peer, 'syscalls-per-request', 'raw-mio', 'at-most', 1.1),
  ]),
  ...(['timer', 'fs', 'fetch'] as const).flatMap((probe) =>
    each('mio', ['latency'], (row, peer) => [
      ratioBar('must', row, peer, `${probe}-p50`, 'node-net', 'at-most', 1),
      ratioBar('must', row, peer, `${probe}-p99`, 'node-net', 'at-most', 1),
    ]),
  ),
  ...each('mio', PEER_ROWS, (row, peer) => [
    ratioBar('aim', row, peer, 'requests-per-cpu-second', 'raw-mio', 'at-least', 0.95),
    ratioBar('aim', row, peer, 'requests-per-cpu-second', 'bun', 'at-least', 1),
  ]),
]

/**
 * Nothing slower than node:net, nor than the loops that this project is modelled on where they do best, by the clock and by
 * processor time.
 */
function rawBars(kind: Bar['kind'], engine: Engine, against: readonly PeerId[]): Bar[] {
  return each(engine, rowsOf('raw'), (row, peer) =>
    against.flatMap((other) =>
      RAW.rates.map((rate) => ratioBar(kind, row, peer, rate, other, 'at-least', 1)),
    ),
  )
}

/** The rows of a kind. */
function rowsOf(work: Work): readonly string[] {
  return ROWS.filter((row) => row.work === work).map((row) => row.id)
}

/** The same bars for each row, or part, and each of ours on an engine. */
function each(engine: Engine, rows: readonly string[], bars: (row: string, peer: PeerId) => Bar[]): Bar[] {
  return rows.flatMap((row) => oursOn(engine).flatMap((peer) => bars(row, peer)))
}

function ratioBar(
  kind: Bar['kind'],
  row: string,
  peer: PeerId,
  metric: Metric,
  against: PeerId,
  direction: Bar['direction'],
  value: number,
): Bar {
  return { kind, row, peer, metric, against, direction, value }
}

function figureBar(row: string, peer: PeerId, metric: Metric, atMost: number): Bar {
  return { kind: 'must', row, peer, metric, against: null, direction: 'at-most', value: atMost }
}
