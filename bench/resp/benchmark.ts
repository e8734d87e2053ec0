/** `npm run bench -- resp`: the example resp beside the same protocol code on node:net. */
import { join } from 'node:path'
import { ROOT } from '../load.js'
import { measuredCpus } from '../machine.js'
import type { Measurable, PairedBar, PairedBenchmark, PairedPeer, PairedRow } from '../paired/benchmark.js'
import { startServer } from '../servers.js'
import { RedisBenchmark, type RedisLoad, redisBenchmarkAbsent } from './redis-benchmark.js'

/** Who answers. */
export type RespPeer = 'mio' | 'tokio' | 'node-net'

const PEERS: Readonly<Record<RespPeer, PairedPeer>> = {
  mio: { title: 'shardloop mio', colour: 'mio-borrowed' },
  tokio: { title: 'shardloop tokio', colour: 'tokio-borrowed' },
  'node-net': { title: 'node:net', colour: 'node-net' },
}

interface RespRow extends PairedRow<RespPeer>, RedisLoad {}

const CONNECTIONS = 50

function row(command: RedisLoad['command'], pipeline: number): RespRow {
  return {
    id: `${command}-p${pipeline}`,
    title: `${command.toUpperCase()}, ${CONNECTIONS} connections, ${pipeline} out on each`,
    unit: 'requests',
    peers: ['mio', 'tokio', 'node-net'],
    baselines: ['node-net'],
    figures: ['per-cpu-second', 'per-second', 'p50'],
    command,
    pipeline,
    connections: CONNECTIONS,
  }
}

const ROWS: readonly RespRow[] = [row('get', 1), row('set', 1), row('get', 16), row('set', 16)]

function bar(kind: 'must' | 'aim', { id }: RespRow, peer: RespPeer): PairedBar<RespPeer> {
  const figure = 'per-cpu-second'
  return { kind, row: id, peer, against: 'node-net', figure, direction: 'at-least', value: 1.3 }
}

/** See {@link PairedBenchmark}. */
export const RESP: PairedBenchmark<RespPeer> = {
  name: 'resp',
  title: "a key-value server that speaks Redis' protocol, beside the same on node:net",
  method:
    "all threads of the server on the first, redis-benchmark on the second, over loopback. Parser, commands and keyspace are the same code in all servers (examples/lib/resp); shardloop's has one shard. redis-benchmark is told how many requests to send, as many as should take as long as the window; its start is part of that.",
  peers: PEERS,
  rows: ROWS,
  bars: ROWS.flatMap((one) => [bar('must', one, 'mio'), bar('aim', one, 'tokio')]),
  groups: ['get', 'set'],
  duration: 'six minutes on a quiet machine, and up to half an hour on a noisy one',
  absent: () => null,
  check: () => {
    const why = redisBenchmarkAbsent()
    if (why !== null) throw new Error(why)
  },
  start: (given, peer) => startRespServer(rowOf(given), peer),
  countCalls: null,
}

function rowOf({ id }: PairedRow<RespPeer>): RespRow {
  const found = ROWS.find((one) => one.id === id)
  if (found === undefined) throw new Error(`${id} is no row of resp`)
  return found
}

/** How to start a peer. */
export function respServerCommand(peer: RespPeer): string[] {
  const flags = ['--host', '127.0.0.1', '--port', '0']
  if (peer === 'node-net')
    return [process.execPath, join(ROOT, 'dist', 'bench', 'resp', 'node-net-server.js'), ...flags]
  const program = join(ROOT, 'dist', 'examples', 'resp.js')
  return [process.execPath, program, ...flags, '--shards', '1', '--engine', peer]
}

async function startRespServer(given: RespRow, peer: RespPeer): Promise<Measurable> {
  const [serverCpu, clientCpu] = measuredCpus()
  const server = await startServer(serverCpu, respServerCommand(peer))
  const client = new RedisBenchmark(given, server, clientCpu)
  return {
    measure: (warmupSecs, windowSecs) => client.measure(warmupSecs, windowSecs),
    stop: () => server.stop(),
    kill: () => server.child.kill('SIGKILL'),
  }
}
