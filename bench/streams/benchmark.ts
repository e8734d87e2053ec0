/** `npm run bench -- streams`: echo by streams of ours and by `transport.duplex()`, beside sockets of node:net. */
import { join } from 'node:path'
import { type LoadResult, ROOT, runLoad } from '../load.js'
import { measuredCpus } from '../machine.js'
import type { Measurable, PairedBar, PairedBenchmark, PairedPeer, PairedRow } from '../paired/benchmark.js'
import { type RunningServer, startServer } from '../servers.js'
import { countPerRequest } from '../syscalls.js'

/** Who echoes. */
export type StreamPeer = 'mio' | 'tokio' | 'node-net'

const PEERS: Readonly<Record<StreamPeer, PairedPeer>> = {
  mio: { title: 'shardloop mio', colour: 'mio-chunk' },
  tokio: { title: 'shardloop tokio', colour: 'tokio-chunk' },
  'node-net': { title: 'node:net', colour: 'node-net' },
}

/** A workload. */
interface StreamRow extends PairedRow<StreamPeer> {
  /** What ours are: streams, or Duplexes with the same code as on node:net. */
  readonly by: 'stream' | 'duplex'
  readonly size: number
}

const CONNECTIONS = 64

function row(by: StreamRow['by'], size: number, called: string): StreamRow {
  const how = by === 'stream' ? 'for await and write' : "'data' and write on a Duplex"
  return {
    id: `${by === 'stream' ? 'streams' : 'duplex'}-${called}`,
    title: `${how}: ${CONNECTIONS} connections × ${size === 1024 ? '1 KiB' : `${size} B`}`,
    unit: 'requests',
    peers: ['mio', 'tokio', 'node-net'],
    baselines: ['node-net'],
    figures: ['per-cpu-second', 'per-second', 'p50'],
    by,
    size,
  }
}

const ROWS: readonly StreamRow[] = [
  row('stream', 1024, '1k'),
  row('stream', 64, '64'),
  row('duplex', 1024, '1k'),
  row('duplex', 64, '64'),
]

function barsOf({ id, by, size }: StreamRow): PairedBar<StreamPeer>[] {
  const bar = (kind: 'must' | 'aim', peer: StreamPeer, value: number): PairedBar<StreamPeer> => ({
    ...{ kind, row: id, peer, against: 'node-net', value },
    figure: 'per-cpu-second',
    direction: 'at-least',
  })
  const value = by === 'stream' ? 1.2 : 1
  // Streams of 64 bytes are what promises cost, more than input and output.
  return [bar(by === 'stream' && size === 64 ? 'aim' : 'must', 'mio', value), bar('aim', 'tokio', value)]
}

/** See {@link PairedBenchmark}. */
export const STREAMS: PairedBenchmark<StreamPeer> = {
  name: 'streams',
  title: 'echo by streams and by Duplexes, beside sockets of node:net',
  method:
    "all threads of the server on the first, the load generator, which compares every byte, on the second, over loopback. node:net echoes by `socket.on('data', (chunk) => socket.write(chunk))` in all rows; ours run in the main thread (shards: 0), as streams by `for await (const chunk of stream) await stream.write(chunk)`, as Duplexes by the very code of node:net.",
  peers: PEERS,
  rows: ROWS,
  bars: ROWS.flatMap(barsOf),
  groups: ['streams', 'duplex'],
  duration: 'six minutes on a quiet machine, and up to half an hour on a noisy one',
  absent: () => null,
  check: () => {},
  start: (given, peer) => startStreamServer(rowOf(given), peer),
  countCalls: async (given, peer, secs) => {
    const [serverCpu] = measuredCpus()
    const server = await startServer(serverCpu, streamServerCommand(given, peer))
    try {
      return await countPerRequest(peer, server, (length) => load(rowOf(given), server, 0, length), secs)
    } finally {
      await server.stop()
    }
  },
}

function rowOf({ id }: PairedRow<StreamPeer>): StreamRow {
  const found = ROWS.find((one) => one.id === id)
  if (found === undefined) throw new Error(`${id} is no row of streams`)
  return found
}

/** How to start a peer for a row. */
export function streamServerCommand(given: PairedRow<StreamPeer>, peer: StreamPeer): string[] {
  const program = [process.execPath, join(ROOT, 'dist', 'bench', 'streams', 'server.js')]
  return peer === 'node-net'
    ? [...program, '--by', 'node-net']
    : [...program, '--by', rowOf(given).by, '--engine', peer]
}

async function startStreamServer(row: StreamRow, peer: StreamPeer): Promise<Measurable> {
  const [serverCpu] = measuredCpus()
  const server = await startServer(serverCpu, streamServerCommand(row, peer))
  return {
    measure: (warmupSecs, windowSecs) => load(row, server, warmupSecs, windowSecs),
    stop: () => server.stop(),
    kill: () => server.child.kill('SIGKILL'),
  }
}

/** The load generator's command line for a row, without when and how long. */
export function streamLoad(
  given: PairedRow<StreamPeer>,
  { addr, pid }: Pick<RunningServer, 'addr' | 'pid'>,
): string[] {
  const how = ['--conns', String(CONNECTIONS), '--size', String(rowOf(given).size)]
  return ['echo', '--addr', addr, '--server-pid', String(pid), ...how]
}

function load(
  row: StreamRow,
  server: RunningServer,
  warmupSecs: number,
  windowSecs: number,
): Promise<LoadResult> {
  const [, clientCpu] = measuredCpus()
  const when = ['--warmup', String(warmupSecs), '--secs', String(windowSecs)]
  return runLoad(clientCpu, [...streamLoad(row, server), ...when])
}
