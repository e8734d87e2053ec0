/** `npm run bench -- tls`: TLS beside node:tls, Bun.listen and tokio-rustls. */
import { ask } from '../inside.js'
import { type LatencySummary, type LoadResult, runLoad } from '../load.js'
import { measuredCpus } from '../machine.js'
import { residentSlope } from '../memory.js'
import type {
  Measurable,
  PairedBar,
  PairedBenchmark,
  PairedFigure,
  PairedLoad,
  PairedPeer,
  PairedRow,
} from '../paired/benchmark.js'
import { BUN_ABSENT, bunProgram } from '../programs.js'
import { placeThreads, type RunningServer, startServer } from '../servers.js'
import { laggingServerCommand, type TlsPeer, tlsServerCommand } from './servers.js'

const PEERS: Readonly<Record<TlsPeer, PairedPeer>> = {
  mio: { title: 'shardloop mio', colour: 'mio-chunk' },
  'mio-borrowed': { title: 'shardloop mio, borrowed bytes', colour: 'mio-borrowed' },
  tokio: { title: 'shardloop tokio', colour: 'tokio-chunk' },
  'tokio-borrowed': { title: 'shardloop tokio, borrowed bytes', colour: 'tokio-borrowed' },
  'node-tls': { title: 'node:tls', colour: 'node-net' },
  bun: { title: 'Bun.listen', colour: 'bun' },
  'raw-tokio': { title: 'tokio-rustls (Rust)', colour: 'raw-tokio' },
}
const ALL = Object.keys(PEERS) as TlsPeer[]
/** How a protocol receives matters for content, and not for handshakes. */
const ONE_OF_EACH: readonly TlsPeer[] = ['mio', 'tokio', 'node-tls', 'bun', 'raw-tokio']
/** Those that Node runs. */
const ON_NODE: readonly TlsPeer[] = ['mio', 'tokio', 'node-tls']

/** A workload. */
interface TlsRow extends PairedRow<TlsPeer> {
  readonly work: 'echo' | 'full' | 'resumed' | 'memory' | 'lag'
  /** Arguments of the load generator. */
  readonly load: readonly string[]
}

const CONNECTIONS = 64
const ECHO_SIZES = { 'echo-64': 64, 'echo-16k': 16_384 } as const
/** Idle connections, the two numbers whose difference counts. */
const IDLE_CONNECTIONS = [1000, 5000] as const
/** Longer than a window for other rows: the p99 of a timer that fires 200 times a second needs more of them. */
const STORM_WINDOWS = 3
/** Share of handshakes that must have been resumed where that is measured. */
const RESUMED_LEAST = 0.95

const RATES: readonly [PairedFigure, ...PairedFigure[]] = ['per-cpu-second', 'per-second', 'p50']

function echoRow(id: keyof typeof ECHO_SIZES): TlsRow {
  const size = ECHO_SIZES[id]
  return {
    ...{ id, unit: 'requests', work: 'echo', peers: ALL, figures: RATES },
    title: `echo: ${CONNECTIONS} connections × ${size === 64 ? '64 B' : '16 KiB'}`,
    baselines: ['node-tls', 'bun', 'raw-tokio'],
    load: ['echo', '--conns', String(CONNECTIONS), '--size', String(size)],
  }
}

function handshakeRow(work: 'full' | 'resumed', flags: readonly string[]): TlsRow {
  return {
    ...{ id: `handshakes-${work}`, unit: 'handshakes', work, peers: ONE_OF_EACH, figures: RATES },
    title: `${work} handshakes, each with accept, one echo and close: ${CONNECTIONS} at once`,
    baselines: ['node-tls', 'bun', 'raw-tokio'],
    load: ['churn', '--conns', String(CONNECTIONS), '--size', '64', ...flags],
  }
}

const FULL = handshakeRow('full', [])
const ROWS: readonly TlsRow[] = [
  echoRow('echo-64'),
  echoRow('echo-16k'),
  FULL,
  handshakeRow('resumed', ['--tls-resume']),
  {
    ...{ id: 'memory', unit: 'connections', work: 'memory', figures: ['bytes'], load: [] },
    title: `memory of an idle connection, from ${IDLE_CONNECTIONS.join(' to ')} of them`,
    peers: ['mio', 'tokio', 'node-tls', 'bun'],
    baselines: ['node-tls', 'bun'],
    rounds: 5,
    fresh: true,
  },
  {
    ...{ id: 'lag', unit: 'handshakes', work: 'lag', peers: ON_NODE, baselines: ['node-tls'] },
    title: `event-loop lag while full handshakes come as fast as they can, ${CONNECTIONS} at once`,
    figures: ['lag-p99', 'lag-max', 'per-cpu-second'],
    load: FULL.load,
  },
]

type Bar = PairedBar<TlsPeer>

function atLeast(kind: Bar['kind'], row: string, peer: TlsPeer, value: number, against: TlsPeer): Bar {
  return { kind, row, peer, against, figure: 'per-cpu-second', direction: 'at-least', value }
}

function atMost(kind: Bar['kind'], row: string, peer: TlsPeer, figure: PairedFigure, value: number): Bar {
  return { kind, row, peer, against: 'node-tls', figure, direction: 'at-most', value }
}

/** Echo: what to gain on node:tls; and no worse than Bun. */
function echoBars(kind: Bar['kind'], peers: readonly TlsPeer[]): Bar[] {
  return peers.flatMap((peer) => [
    atLeast(kind, 'echo-64', peer, 1.7, 'node-tls'),
    atLeast(kind, 'echo-16k', peer, 1.6, 'node-tls'),
    atLeast(kind, 'echo-64', peer, 1, 'bun'),
    atLeast(kind, 'echo-16k', peer, 1, 'bun'),
  ])
}

const BARS: readonly Bar[] = [
  ...echoBars('must', ['mio', 'mio-borrowed']),
  // Each message passes between two threads there, on one CPU.
  ...echoBars('aim', ['tokio', 'tokio-borrowed']),
  ...(['mio', 'tokio'] as const).flatMap((peer) => [
    atLeast('must', 'handshakes-full', peer, 2.5, 'node-tls'),
    atLeast('must', 'handshakes-resumed', peer, 2.5, 'node-tls'),
    atMost('must', 'memory', peer, 'bytes', 1 / 3),
  ]),
  atMost('must', 'lag', 'tokio', 'lag-p99', 0.1),
  // One sample of a window, the scheduler's worst.
  atMost('aim', 'lag', 'tokio', 'lag-max', 0.1),
]

/** See {@link PairedBenchmark}. */
export const TLS: PairedBenchmark<TlsPeer> = {
  name: 'tls',
  title: 'TLS beside node:tls, Bun.listen and tokio-rustls',
  method: `all threads of the server on the first, the load generator, which compares every byte, on the second, over loopback. TLS 1.3, TLS_AES_128_GCM_SHA256, X25519 and the same certificate on P-256 for all. Ours has one shard. Before resumed handshakes are measured, full ones bring the tickets, for node:tls gives none to a resumed session; each ticket is used once. Memory: what a fresh process holds more with ${IDLE_CONNECTIONS[1]} idle connections than with ${IDLE_CONNECTIONS[0]}, up to five rounds; who else uses the processor does not matter there. Lag: how long a turn of the loop keeps waiting who comes at any time, in the thread that runs JavaScript, which has the first CPU for itself; ours has its shard in the main thread (shards: 0), as node:tls has it, and the I/O thread of engine tokio shares the second CPU with the load generator.`,
  peers: PEERS,
  rows: ROWS,
  bars: BARS,
  groups: ['echo', 'handshakes'],
  duration: 'a quarter of an hour on a quiet machine, and up to an hour on a noisy one',
  absent: (peer) => (peer === 'bun' && bunProgram() === null ? BUN_ABSENT : null),
  check: () => {},
  start: (given, peer) => start(rowOf(given), peer),
  countCalls: null,
}

function rowOf({ id }: PairedRow<TlsPeer>): TlsRow {
  const found = ROWS.find((one) => one.id === id)
  if (found === undefined) throw new Error(`${id} is no row of tls`)
  return found
}

async function start(row: TlsRow, peer: TlsPeer): Promise<Measurable> {
  if (row.work === 'memory') return idleMemory(peer)
  const [serverCpu, clientCpu] = measuredCpus()
  const lags = row.work === 'lag'
  const server = lags
    ? await startServer([serverCpu, clientCpu], laggingServerCommand(peer))
    : await startServer(serverCpu, tlsServerCommand(peer))
  if (lags) placeThreads(server, serverCpu, clientCpu)
  const measure = lags ? measureLag : load
  return {
    measure: (warmupSecs, windowSecs) => measure(row, server, warmupSecs, windowSecs),
    stop: () => server.stop(),
    kill: () => server.child.kill('SIGKILL'),
  }
}

/** The load generator's command line for a row, without when and how long. */
export function tlsLoad(
  given: PairedRow<TlsPeer>,
  { addr, pid }: Pick<RunningServer, 'addr' | 'pid'>,
): string[] {
  return [...rowOf(given).load, '--addr', addr, '--server-pid', String(pid)]
}

async function load(
  row: TlsRow,
  server: RunningServer,
  warmupSecs: number,
  windowSecs: number,
): Promise<LoadResult> {
  const [, clientCpu] = measuredCpus()
  const when = ['--warmup', String(warmupSecs), '--secs', String(windowSecs)]
  const result = await runLoad(clientCpu, [...tlsLoad(row, server), ...when])
  checkHandshakes(row, result)
  return result
}

/** Throws when sessions were resumed where they must not be, or were not where they must. */
export function checkHandshakes(given: PairedRow<TlsPeer>, { tls }: Pick<LoadResult, 'tls'>): void {
  if (tls === undefined) throw new Error(`${given.id}: the load generator has not spoken TLS`)
  const { handshakes, resumed } = tls
  const wanted = rowOf(given).work === 'resumed'
  if (wanted ? resumed < handshakes * RESUMED_LEAST : resumed > 0) {
    throw new Error(`${given.id}: ${resumed} of ${handshakes} handshakes were resumed`)
  }
}

async function measureLag(
  row: TlsRow,
  server: RunningServer,
  warmupSecs: number,
  windowSecs: number,
): Promise<PairedLoad> {
  await load(row, server, 0, warmupSecs)
  await ask(server, 'reset')
  const result = await load(row, server, 0, windowSecs * STORM_WINDOWS)
  const lag = (await ask(server, 'report')) as unknown as LatencySummary
  return { ...result, inside: { 'lag-p99': lag.p99, 'lag-max': lag.max } }
}

/** Each measurement is of a process of its own. */
function idleMemory(peer: TlsPeer): Measurable {
  let server: RunningServer | null = null
  return {
    measure: async () => {
      const startedMs = performance.now()
      const [serverCpu] = measuredCpus()
      server = await startServer(serverCpu, tlsServerCommand(peer))
      const { slope } = await residentSlope(server, IDLE_CONNECTIONS)
      server = null
      return {
        ...{ secs: (performance.now() - startedMs) / 1000, requests: 0, requestsPerSec: 0, cpu: null },
        latencyUs: { p50: 0, p99: 0 },
        inside: { bytes: slope },
      }
    },
    stop: async () => {},
    kill: () => server?.child.kill('SIGKILL'),
  }
}
