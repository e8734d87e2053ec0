/** `npm run bench -- http`: HTTP applications on shardloop beside node:http, Fastify and node:cluster. */
import { join } from 'node:path'
import { type LoadResult, ROOT, runLoad } from '../load.js'
import { measuredCpus } from '../machine.js'
import type { Measurable, PairedBar, PairedBenchmark, PairedPeer, PairedRow } from '../paired/benchmark.js'
import { type RunningServer, startServer } from '../servers.js'
import { countPerRequest } from '../syscalls.js'
import { type App, LARGE_BYTES } from './apps.js'

/** Who serves. */
export type HttpPeer = 'mio' | 'tokio' | 'mio-shard' | 'node-http' | 'fastify' | 'cluster'

const PEERS: Readonly<Record<HttpPeer, PairedPeer>> = {
  mio: { title: 'shardloop mio', colour: 'mio-chunk' },
  tokio: { title: 'shardloop tokio', colour: 'tokio-chunk' },
  'mio-shard': { title: 'shardloop mio, one shard', colour: 'mio-borrowed' },
  'node-http': { title: 'node:http', colour: 'node-net' },
  fastify: { title: 'Fastify on node:http', colour: 'rloop' },
  cluster: { title: 'node:cluster, one worker', colour: 'bun' },
}

/** A workload: an application, and what is asked of it. */
interface HttpRow extends PairedRow<HttpPeer> {
  readonly app: App
  /** Arguments of the load generator. */
  readonly load: readonly string[]
}

const CONNECTIONS = 64

function row(
  id: string,
  title: string,
  app: App,
  load: readonly string[],
  more: { readonly peers?: readonly HttpPeer[]; readonly baselines?: readonly HttpPeer[] } = {},
): HttpRow {
  return {
    id,
    title,
    unit: 'requests',
    peers: more.peers ?? ['mio', 'tokio', 'node-http'],
    baselines: more.baselines ?? ['node-http'],
    figures: ['per-cpu-second', 'per-second', 'p50'],
    app,
    load: ['--conns', String(CONNECTIONS), ...load],
  }
}

const ROWS: readonly HttpRow[] = [
  row('hello', `hello, ${CONNECTIONS} connections`, 'hello', [], {
    peers: ['mio', 'tokio', 'mio-shard', 'node-http', 'fastify', 'cluster'],
    baselines: ['node-http', 'fastify', 'cluster'],
  }),
  row('pipelined', 'the same, 16 in flight on each', 'hello', ['--pipeline', '16'], {
    peers: ['mio', 'tokio', 'node-http', 'fastify'],
    baselines: ['node-http', 'fastify'],
  }),
  row('express', 'Express, hello', 'express', []),
  row('fastify', 'Fastify, hello', 'fastify', []),
  row('new-connection', 'hello, a connection for each request', 'hello', ['--new-connection'], {
    peers: ['mio', 'tokio', 'mio-shard', 'node-http', 'cluster'],
    baselines: ['node-http', 'cluster'],
  }),
  row('large', `responses of ${LARGE_BYTES / 1024} KiB`, 'large', []),
  row('upload', `requests of ${LARGE_BYTES / 1024} KiB`, 'upload', [
    ...['--method', 'POST', '--body-bytes', String(LARGE_BYTES)],
  ]),
]

function bar(kind: 'must' | 'aim', row: string, peer: HttpPeer, value: number): PairedBar<HttpPeer> {
  const figure = 'per-cpu-second'
  return { kind, row, peer, against: 'node-http', figure, direction: 'at-least', value }
}

const BARS: readonly PairedBar<HttpPeer>[] = [
  bar('must', 'hello', 'mio', 1),
  bar('aim', 'hello', 'mio', 1.15),
  bar('must', 'express', 'mio', 1),
  bar('aim', 'fastify', 'mio', 1),
  bar('aim', 'pipelined', 'mio', 1),
  bar('aim', 'new-connection', 'mio', 1),
  bar('aim', 'large', 'mio', 1),
  bar('aim', 'upload', 'mio', 1),
  // Requests and responses pass between two threads there, on one CPU.
  bar('aim', 'hello', 'tokio', 1),
]

/** See {@link PairedBenchmark}. */
export const HTTP: PairedBenchmark<HttpPeer> = {
  name: 'http',
  title: 'HTTP applications beside node:http, Fastify and node:cluster',
  method:
    "all threads and processes of the server on the first, the load generator on the second, over loopback. node:http's parser and objects run in all of them, and the same application: on shardloop by nodeHttp in the main thread (shards: 0) or in one shard, which is what each of several costs. node:cluster has one worker on the same CPU, as more of them would only take turns there; its primary's processor time counts, which accepts the connections and hands them over. Fastify answers by its own router and serializer, which is what a row by its name compares on both; beside hello it is a framework on node:http against a listener of one's own. A server that is not busy waits for the load generator.",
  peers: PEERS,
  rows: ROWS,
  bars: BARS,
  groups: [],
  duration: 'a quarter of an hour on a quiet machine, and up to an hour on a noisy one',
  absent: () => null,
  check: () => {},
  start: (given, peer) => startHttpServer(rowOf(given), peer),
  countCalls: async (given, peer, secs) => {
    const [serverCpu] = measuredCpus()
    const server = await startServer(serverCpu, httpServerCommand(given, peer))
    try {
      const measured = peer === 'cluster' ? { ...server, pid: await workerOf(server) } : server
      return await countPerRequest(peer, measured, (length) => load(rowOf(given), server, 0, length), secs)
    } finally {
      await server.stop()
    }
  },
}

function rowOf({ id }: PairedRow<HttpPeer>): HttpRow {
  const found = ROWS.find((one) => one.id === id)
  if (found === undefined) throw new Error(`${id} is no row of http`)
  return found
}

/** How to start a peer for a row. */
export function httpServerCommand(given: PairedRow<HttpPeer>, peer: HttpPeer): string[] {
  const { app } = rowOf(given)
  const program = [process.execPath, join(ROOT, 'dist', 'bench', 'http', 'server.js')]
  const on = (name: string, its: App): string[] => [...program, '--peer', name, '--app', its]
  switch (peer) {
    case 'node-http':
      return on('node-http', app)
    case 'fastify':
      return on('node-http', 'fastify')
    case 'cluster':
      return on('cluster', app)
    case 'mio':
    case 'tokio':
      return [...on('shardloop', app), '--shards', '0', '--engine', peer]
    case 'mio-shard':
      return [...on('shardloop', app), '--shards', '1', '--engine', 'mio']
  }
}

/** The process that serves, of a server whose own only accepts. */
async function workerOf({ lines }: RunningServer): Promise<number> {
  const { value } = await lines.next()
  const pid = Number(/^worker (\d+)$/.exec(value ?? '')?.[1])
  if (!(pid > 0)) throw new Error(`node:cluster told ${value} and not its worker`)
  return pid
}

async function startHttpServer(row: HttpRow, peer: HttpPeer): Promise<Measurable> {
  const [serverCpu] = measuredCpus()
  const server = await startServer(serverCpu, httpServerCommand(row, peer))
  return {
    measure: (warmupSecs, windowSecs) => load(row, server, warmupSecs, windowSecs),
    stop: () => server.stop(),
    kill: () => server.child.kill('SIGKILL'),
  }
}

/** The load generator's command line for a row, without when and how long. */
export function httpLoad(
  given: PairedRow<HttpPeer>,
  { addr, pid }: Pick<RunningServer, 'addr' | 'pid'>,
): string[] {
  return ['http', '--url', `http://${addr}/`, '--server-pid', String(pid), ...rowOf(given).load]
}

function load(
  row: HttpRow,
  server: RunningServer,
  warmupSecs: number,
  windowSecs: number,
): Promise<LoadResult> {
  const [, clientCpu] = measuredCpus()
  const when = ['--warmup', String(warmupSecs), '--secs', String(windowSecs)]
  return runLoad(clientCpu, [...httpLoad(row, server), ...when])
}
