/** `npm run bench -- threads`: messages and calls between threads beside MessagePort, broadcasts beside node:net. */
import { join } from 'node:path'
import { cAbsent, cCommand } from '../c-program.js'
import { ROOT } from '../load.js'
import { measuredCpus } from '../machine.js'
import type { Measurable, PairedBar, PairedBenchmark, PairedPeer, PairedRow } from '../paired/benchmark.js'
import { placeThread, startServer } from '../servers.js'
import { checkDescriptors, measureListeners, startListening } from './listeners.js'
import type { Way } from './load.js'
import type { PayloadName } from './payloads.js'

/** Who sends. */
export type ThreadPeer = 'shardloop' | 'message-port' | 'mio' | 'tokio' | 'mio-shard' | 'node-net' | 'c'

const PEERS: Readonly<Record<ThreadPeer, PairedPeer>> = {
  shardloop: { title: 'shardloop', colour: 'mio-chunk' },
  'message-port': { title: 'MessagePort', colour: 'node-net' },
  mio: { title: 'shardloop mio', colour: 'mio-chunk' },
  tokio: { title: 'shardloop tokio', colour: 'tokio-chunk' },
  'mio-shard': { title: 'shardloop mio, to a shard', colour: 'mio-borrowed' },
  'node-net': { title: 'node:net', colour: 'node-net' },
  c: { title: 'C, a loop of send', colour: 'raw-mio' },
}

/** A workload, with what it takes to do it. */
type ThreadRow = PairedRow<ThreadPeer> &
  (
    | { readonly work: 'messages'; readonly way: Way; readonly payload: PayloadName }
    | {
        readonly work: 'broadcast'
        readonly connections: number
        readonly size: number
        readonly atOnce: number
      }
  )

/** Listeners of a broadcast. */
export const LISTENERS = 10_000
/** Bytes of a broadcast. */
const BROADCAST_BYTES = 64

const PAYLOAD_TITLES: Readonly<Record<PayloadName, string>> = {
  bytes: '64 B',
  object: 'a small plain object',
  nested: 'a nested object of 20 properties',
  mapDate: 'an object with a Map and a Date',
  string: 'a short string',
  number: 'a number',
}

const ROWS: readonly ThreadRow[] = [
  ...(Object.keys(PAYLOAD_TITLES) as PayloadName[]).map(
    (payload): ThreadRow => ({
      ...messageRow(`messages-${payload.toLowerCase()}`, 'send', payload),
      title: `messages from the main thread to a shard: ${PAYLOAD_TITLES[payload]}`,
      unit: 'messages',
      figures: ['per-second', 'per-cpu-second'],
    }),
  ),
  {
    ...messageRow('calls-bytes', 'call', 'bytes'),
    title: 'a call and its answer, 64 B each, one at a time',
    unit: 'calls',
    figures: ['p50', 'per-cpu-second'],
  },
  {
    ...messageRow('calls-paused', 'call-paused', 'bytes'),
    title: 'the same, a millisecond after the last',
    unit: 'calls',
    figures: ['p50', 'per-cpu-second'],
  },
  broadcastRow(1),
  broadcastRow(16),
]

function messageRow(
  id: string,
  way: Way,
  payload: PayloadName,
): Pick<ThreadRow, 'id' | 'peers' | 'baselines'> & { work: 'messages'; way: Way; payload: PayloadName } {
  return {
    id,
    work: 'messages',
    way,
    payload,
    peers: ['shardloop', 'message-port'],
    baselines: ['message-port'],
  }
}

function broadcastRow(atOnce: number): ThreadRow {
  const count = LISTENERS.toLocaleString('en-US')
  return {
    id: `broadcast-${atOnce}`,
    title: `broadcasts of ${BROADCAST_BYTES} B to ${count} connections, ${atOnce === 1 ? 'one' : atOnce} at once`,
    unit: 'deliveries',
    peers: ['mio', 'tokio', 'mio-shard', 'node-net', 'c'],
    baselines: ['node-net', 'c'],
    figures: ['per-cpu-second', 'per-second'],
    work: 'broadcast',
    connections: LISTENERS,
    size: BROADCAST_BYTES,
    atOnce,
  }
}

function barsOf(row: ThreadRow): PairedBar<ThreadPeer>[] {
  const bar = (
    kind: 'must' | 'aim',
    peer: ThreadPeer,
    against: ThreadPeer,
    figure: PairedBar['figure'],
    value: number,
  ): PairedBar<ThreadPeer> => ({
    ...{ kind, row: row.id, peer, against, figure, value },
    direction: figure === 'p50' ? 'at-most' : 'at-least',
  })
  if (row.work === 'broadcast') {
    // One send for each connection is the kernel's work, and nearly all there is to do for a broadcast by itself: node:net cannot be
    // left behind by more than C leaves it. What is broadcast at once can share a send.
    if (row.atOnce === 1) {
      return [
        bar('must', 'mio', 'c', 'per-cpu-second', 0.85),
        bar('must', 'mio', 'node-net', 'per-cpu-second', 1.1),
        bar('aim', 'tokio', 'node-net', 'per-cpu-second', 1.1),
      ]
    }
    const value = 5
    return [
      bar('must', 'mio', 'node-net', 'per-cpu-second', value),
      bar('aim', 'mio', 'node-net', 'per-second', value),
      bar('aim', 'tokio', 'node-net', 'per-cpu-second', value),
      bar('aim', 'mio-shard', 'node-net', 'per-cpu-second', value),
    ]
  }
  if (row.way === 'send')
    return [bar('must', 'shardloop', 'message-port', 'per-second', row.payload === 'bytes' ? 4 : 1)]
  return [bar(row.way === 'call' ? 'must' : 'aim', 'shardloop', 'message-port', 'p50', 1)]
}

/** See {@link PairedBenchmark}. */
export const THREADS: PairedBenchmark<ThreadPeer> = {
  name: 'threads',
  title: 'messages and calls between threads beside MessagePort, and broadcasts beside node:net',
  method:
    'of messages and calls the main thread has the first and the other thread the second, and their processor time is that of the whole process; 256 messages are sent before the loop turns, 4,096 may be under way, and every one is acknowledged in the end. Of broadcasts all threads of the server have the first, the load generator, which reads and compares every byte, has the second; the next broadcasts are asked for when all connections have had the last, and the server has told before that it has accepted all of them; latency is how long it takes until all have it.',
  peers: PEERS,
  rows: ROWS,
  bars: ROWS.flatMap(barsOf),
  groups: ['messages', 'calls', 'broadcast'],
  duration: 'a quarter of an hour on a quiet machine, and up to an hour on a noisy one',
  absent: (peer) => (peer === 'c' ? cAbsent('broadcast') : null),
  check(rows) {
    for (const row of rows.map(rowOf)) if (row.work === 'broadcast') checkDescriptors(row.connections)
  },
  start: (row, peer) => {
    const found = rowOf(row)
    if (found.work === 'messages') return startMessages(messagesCommand(found, peer))
    return startListening(broadcastCommand(peer), found, measuredCpus())
  },
  countCalls: null,
}

function rowOf({ id }: PairedRow<ThreadPeer>): ThreadRow {
  const found = ROWS.find((one) => one.id === id)
  if (found === undefined) throw new Error(`${id} is no row of threads`)
  return found
}

/** How to start the two threads of a row of messages or calls. */
export function messagesCommand(given: PairedRow<ThreadPeer>, peer: ThreadPeer): string[] {
  const row = rowOf(given)
  if (row.work !== 'messages') throw new Error(`${row.id} has no messages`)
  const program = join(ROOT, 'dist', 'bench', 'threads', 'messages.js')
  const engine = peer === 'shardloop' ? ['--engine', 'mio'] : []
  return [process.execPath, program, '--peer', peer, '--way', row.way, '--payload', row.payload, ...engine]
}

/** How to start a server that broadcasts. */
export function broadcastCommand(peer: ThreadPeer): string[] {
  if (peer === 'c') return cCommand('broadcast')
  const program = [process.execPath, join(ROOT, 'dist', 'bench', 'threads', 'broadcast-server.js')]
  if (peer === 'node-net') return [...program, '--peer', 'node-net']
  const engine = peer === 'tokio' ? 'tokio' : 'mio'
  const shards = peer === 'mio-shard' ? '1' : '0'
  return [...program, '--peer', 'shardloop', '--shards', shards, '--engine', engine]
}

async function startMessages(command: readonly string[]): Promise<Measurable> {
  const [first, second] = measuredCpus()
  const program = await startServer([first, second], command)
  placeThread(String(program.pid), first)
  placeThread(program.addr.replace('thread:', ''), second)
  return {
    measure: (warmupSecs, windowSecs) => measureListeners(program, warmupSecs, windowSecs),
    stop: () => program.stop(),
    kill: () => program.child.kill('SIGKILL'),
  }
}
