/** `npm run bench -- datagrams`: echo of datagrams beside node:dgram and C. */
import { join } from 'node:path'
import { cAbsent, cCommand } from '../c-program.js'
import { ROOT, runLoad } from '../load.js'
import { measuredCpus } from '../machine.js'
import type { Measurable, PairedBar, PairedBenchmark, PairedPeer, PairedRow } from '../paired/benchmark.js'
import { type RunningServer, startServer } from '../servers.js'
import { countPerRequest } from '../syscalls.js'

/** Who echoes. */
export type DatagramPeer = 'mio' | 'tokio' | 'node-dgram' | 'c'

const PEERS: Readonly<Record<DatagramPeer, PairedPeer>> = {
  mio: { title: 'shardloop mio', colour: 'mio-chunk' },
  tokio: { title: 'shardloop tokio', colour: 'tokio-chunk' },
  'node-dgram': { title: 'node:dgram', colour: 'node-net' },
  c: { title: 'C, recvmmsg and sendmmsg', colour: 'raw-mio' },
}

/** A workload: so many datagrams are out on each of the sockets. */
interface DatagramRow extends PairedRow<DatagramPeer> {
  readonly sockets: number
  readonly size: number
  readonly window: number
}

/** Room for what all clients have out, many times: what is lost then is the server's doing. Linux caps it by net.core.rmem_max. */
const RECEIVE_BUFFER_BYTES = 1 << 20

function row(sockets: number, size: number, window: number): DatagramRow {
  return {
    id: `${sockets}x${size}-w${window}`,
    title: `${sockets} sockets × ${size} B, ${window} out on each`,
    unit: 'datagrams',
    peers: ['mio', 'tokio', 'node-dgram', 'c'],
    baselines: ['node-dgram', 'c'],
    figures: ['per-cpu-second', 'per-second', 'p50'],
    sockets,
    size,
    window,
  }
}

const ROWS: readonly DatagramRow[] = [row(64, 64, 1), row(64, 64, 8), row(64, 1200, 8)]

function bars({ id, size }: DatagramRow): PairedBar<DatagramPeer>[] {
  const bar = (
    kind: 'must' | 'aim',
    peer: DatagramPeer,
    against: DatagramPeer,
    value: number,
  ): PairedBar<DatagramPeer> => ({
    ...{ kind, row: id, peer, against, value },
    figure: 'per-cpu-second',
    direction: 'at-least',
  })
  return [
    bar(size === 64 ? 'must' : 'aim', 'mio', 'node-dgram', 2),
    // Each datagram passes between two threads there, on one CPU.
    bar('aim', 'tokio', 'node-dgram', 2),
    bar('aim', 'mio', 'c', 0.85),
  ]
}

/** See {@link PairedBenchmark}. */
export const DATAGRAMS: PairedBenchmark<DatagramPeer> = {
  name: 'datagrams',
  title: 'echo of datagrams, beside node:dgram and C',
  method:
    'all threads of the server on the first, the load generator on the second, over loopback. A datagram without an answer in 100 ms is lost, and another one is sent in its place. The C server does without GSO and GRO, which ours uses where several datagrams in a row go to one socket. A server that is not busy waits for the load generator, and takes fewer datagrams by a call than it could: of C that lowers what it does by processor time. The processor time of a datagram is also that of the client that receives it: the kernel hands it over while the server sends.',
  peers: PEERS,
  rows: ROWS,
  bars: ROWS.flatMap(bars),
  groups: [],
  duration: 'six minutes on a quiet machine, and up to half an hour on a noisy one',
  absent: (peer) => (peer === 'c' ? cAbsent('udp-echo') : null),
  check: () => {},
  start: (given, peer) => startDatagramServer(rowOf(given), peer),
  countCalls: async (given, peer, secs) => {
    const [serverCpu] = measuredCpus()
    const server = await startServer(serverCpu, datagramServerCommand(peer))
    try {
      return await countPerRequest(peer, server, (length) => load(rowOf(given), server, 0, length), secs)
    } finally {
      await server.stop()
    }
  },
}

function rowOf({ id }: PairedRow<DatagramPeer>): DatagramRow {
  const found = ROWS.find((one) => one.id === id)
  if (found === undefined) throw new Error(`${id} is no row of datagrams`)
  return found
}

/** How to start a peer. */
export function datagramServerCommand(peer: DatagramPeer): string[] {
  const flags = ['--receive-buffer', String(RECEIVE_BUFFER_BYTES)]
  if (peer === 'node-dgram')
    return [process.execPath, join(ROOT, 'bench', 'peers', 'node-dgram.mjs'), ...flags]
  if (peer === 'c') return [...cCommand('udp-echo'), ...flags]
  const program = join(ROOT, 'dist', 'bench', 'datagrams', 'server.js')
  return [process.execPath, program, ...flags, '--engine', peer]
}

async function startDatagramServer(row: DatagramRow, peer: DatagramPeer): Promise<Measurable> {
  const [serverCpu] = measuredCpus()
  const server = await startServer(serverCpu, datagramServerCommand(peer))
  return {
    measure: (warmupSecs, windowSecs) => load(row, server, warmupSecs, windowSecs),
    stop: () => server.stop(),
    kill: () => server.child.kill('SIGKILL'),
  }
}

/** The load generator's command line for a row, without when and how long. */
export function datagramLoad(
  given: PairedRow<DatagramPeer>,
  { addr, pid }: Pick<RunningServer, 'addr' | 'pid'>,
): string[] {
  const { sockets, size, window } = rowOf(given)
  const how = ['--sockets', String(sockets), '--size', String(size), '--window', String(window)]
  return ['datagrams', '--addr', addr, '--server-pid', String(pid), ...how]
}

function load(
  row: DatagramRow,
  server: RunningServer,
  warmupSecs: number,
  windowSecs: number,
): ReturnType<typeof runLoad> {
  const [, clientCpu] = measuredCpus()
  const when = ['--warmup', String(warmupSecs), '--secs', String(windowSecs)]
  return runLoad(clientCpu, [...datagramLoad(row, server), ...when])
}
