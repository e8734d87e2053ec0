/**
 * Memory per idle connection: the slope between two numbers of idle connections, since a process has large fixed costs.
 *
 * Resident memory counts when the server has accepted all connections (its open descriptors say so) and has settled:
 * {@link SETTLE_SAMPLES} samples in a row, {@link SETTLE_INTERVAL_MS} apart, within {@link SETTLE_SPREAD_BYTES} of each
 * other. JS heap is asked from the server program of the latency part, after a garbage collection, in a run of its own,
 * since collecting garbage would change what stays resident.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { ask, insideCommand } from './inside.js'
import { loadgenProgram } from './load.js'
import { measuredCpus, pinned } from './machine.js'
import type { PeerId } from './peers.js'
import { serverCommand } from './programs.js'
import { type RunningServer, startServer, within } from './servers.js'

/** The two numbers of idle connections. */
export const IDLE_CONNECTIONS: readonly [fewer: number, more: number] = [5000, 15_000]
/** See the head of this file. */
export const SETTLE_SAMPLES = 10
/** See the head of this file. */
export const SETTLE_INTERVAL_MS = 100
/** See the head of this file; 0.25 MiB is 26 bytes a connection. */
export const SETTLE_SPREAD_BYTES: number = 256 * 1024
const SETTLE_TIMEOUT_MS = 20_000
const HOLD_TIMEOUT_MS = 60_000

/** Bytes per idle connection of one server. */
export interface MemoryResult {
  readonly peer: PeerId
  /** One value per repetition. */
  readonly residentBytes: readonly number[]
  /** The same; empty for peers whose heap cannot be asked. */
  readonly heapBytes: readonly number[]
  /** Resident memory was still moving when a measurement was taken. */
  readonly unsettled: boolean
}

/** Measures every peer `repetitions` times, each time with a fresh process. */
export async function measureMemory(
  peers: readonly PeerId[],
  repetitions: number,
  progress: (text: string) => void,
): Promise<MemoryResult[]> {
  const [serverCpu] = measuredCpus()
  const results: MemoryResult[] = []
  for (const peer of peers) {
    const residentBytes: number[] = []
    const heapBytes: number[] = []
    let unsettled = false
    for (let repetition = 1; repetition <= repetitions; repetition++) {
      progress(`memory: ${peer}, ${repetition} of ${repetitions}`)
      const command = serverCommand(peer)
      if (command === null) throw new Error(`${peer} is not installed`)
      const resident = await slope(await startServer(serverCpu, command), settledResident)
      residentBytes.push(resident.slope)
      unsettled ||= resident.unsettled
      const inside = insideCommand(peer)
      if (inside !== null)
        heapBytes.push((await slope(await startServer(serverCpu, inside), collectedHeap)).slope)
    }
    results.push({ peer, residentBytes, heapBytes, unsettled })
  }
  return results
}

/** Bytes per idle connection of a server, which is stopped then. */
export interface Slope {
  readonly slope: number
  readonly unsettled: boolean
}

interface Reading {
  readonly bytes: number
  readonly settled: boolean
}

/** Resident memory between two numbers of idle connections. */
export function residentSlope(
  server: RunningServer,
  connections: readonly [fewer: number, more: number],
): Promise<Slope> {
  return slope(server, settledResident, connections)
}

async function slope(
  server: RunningServer,
  read: (server: RunningServer) => Promise<Reading>,
  [fewer, more]: readonly [fewer: number, more: number] = IDLE_CONNECTIONS,
): Promise<Slope> {
  const holders: ChildProcess[] = []
  try {
    const before = descriptors(server.pid)
    holders.push(await hold(server, fewer))
    await accepted(server, before + fewer)
    const low = await read(server)
    holders.push(await hold(server, more - fewer))
    await accepted(server, before + more)
    const high = await read(server)
    return { slope: (high.bytes - low.bytes) / (more - fewer), unsettled: !(low.settled && high.settled) }
  } finally {
    for (const holder of holders) holder.stdin?.end()
    await server.stop()
  }
}

/** Starts a process that holds `count` connections until its stdin closes. */
async function hold(server: RunningServer, count: number): Promise<ChildProcess> {
  const [, clientCpu] = measuredCpus()
  const command = [loadgenProgram('loadgen'), 'idle', '--addr', server.addr, '--conns', String(count)]
  const [program, ...args] = pinned(clientCpu, command)
  const child = spawn(program as string, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const line = await within(HOLD_TIMEOUT_MS, lines.next())
  if (line?.value === `holding ${count}`) return child
  child.kill('SIGKILL')
  throw new Error(`${count} idle connections to ${server.addr} could not be established`)
}

/** Waits until the server has taken the connections from the kernel's queue. */
async function accepted(server: RunningServer, count: number): Promise<void> {
  const deadline = Date.now() + HOLD_TIMEOUT_MS
  while (descriptors(server.pid) < count) {
    if (Date.now() > deadline)
      throw new Error(`the server has accepted ${descriptors(server.pid)} of ${count}`)
    await tick(SETTLE_INTERVAL_MS)
  }
}

function descriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

async function settledResident(server: RunningServer): Promise<Reading> {
  const samples: number[] = []
  const deadline = Date.now() + SETTLE_TIMEOUT_MS
  while (Date.now() < deadline) {
    samples.push(residentBytes(server.pid))
    const last = samples.slice(-SETTLE_SAMPLES)
    if (last.length === SETTLE_SAMPLES && Math.max(...last) - Math.min(...last) <= SETTLE_SPREAD_BYTES) {
      return { bytes: last.at(-1) as number, settled: true }
    }
    await tick(SETTLE_INTERVAL_MS)
  }
  return { bytes: samples.at(-1) as number, settled: false }
}

async function collectedHeap(server: RunningServer): Promise<Reading> {
  const { heapBytes } = await ask(server, 'heap')
  return { bytes: heapBytes as number, settled: true }
}

function residentBytes(pid: number): number {
  const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  if (kibibytes === undefined) throw new Error(`/proc/${pid}/status has no VmRSS`)
  return Number(kibibytes) * 1024
}

/** The interval of a poll of /proc, which has no event to wait for. */
function tick(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
