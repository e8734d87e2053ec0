/** Measures programs that connect, see `client.ts`: what they connect to, and one measurement as the load generator would tell it. */
import { type LoadResult, loadgenProgram } from '../load.js'
import { type RunningServer, startServer, within } from '../servers.js'
import type { ConnectReport } from './load.js'

/**
 * Addresses that are connected to in turn. Each has 28,000 ports to connect from, which stay taken for a minute at worst;
 * Linux takes those of loopback again after a second, where it is left as it comes.
 */
export const ADDRESSES = 64
/** A measurement that takes this much longer than it should is ended: the client hangs. */
const GRACE_MS = 30_000

/** Starts what clients connect to: it accepts and closes, and costs less than any of them. On one CPU, or with null on any. */
export async function startTarget(cpu: number | null): Promise<RunningServer> {
  return startServer(cpu, [loadgenProgram('raw-accept'), '--addresses', String(ADDRESSES)])
}

/** What a client's command takes beyond its own flags to connect to `target`. */
export function targetFlags({ addr, pid }: RunningServer): string[] {
  return ['--addr', addr, '--addresses', String(ADDRESSES), '--target-pid', String(pid)]
}

/**
 * One measurement of a client that is ready. In the result the client stands where a server stands otherwise, being what is
 * measured, and what it connects to stands for the client. Rejects when a connection failed or the client hangs.
 */
export async function measureConnects(
  client: RunningServer,
  warmupSecs: number,
  windowSecs: number,
): Promise<LoadResult> {
  client.child.stdin?.write(`${warmupSecs} ${windowSecs}\n`)
  const answer = await within((warmupSecs + windowSecs) * 1000 + GRACE_MS, client.lines.next())
  if (answer === null || answer.done === true)
    throw new Error(`no answer from the client that connects to ${client.addr}`)
  const { secs, connections, connectionsTotal, latencyUs, failure, cpu } = JSON.parse(
    answer.value,
  ) as ConnectReport
  if (failure !== null) throw new Error(`connecting to ${client.addr}: ${failure}`)
  return {
    ok: true,
    secs,
    requests: connections,
    requestsTotal: connectionsTotal,
    requestsPerSec: connections / secs,
    latencyUs,
    failures: { first: null },
    cpu: {
      serverSecs: cpu.ownSecs,
      clientSecs: cpu.targetSecs,
      machineBusySecs: cpu.machineBusySecs,
      machineStealSecs: cpu.machineStealSecs,
    },
  }
}
