/**
 * Timer, fs and fetch latency inside a server under full load, ours and node:net, in interleaved rounds. The load is the
 * row 64 connections × 64 B, one in flight: the most events per second, and no pause between them. What fetch asks is a
 * process of its own on the client's CPU, the same for both.
 */
import { join } from 'node:path'
import { ask, insideCommand } from './inside.js'
import type { ProbeReport } from './latency/probes.js'
import { ROOT, runLoad } from './load.js'
import { measuredCpus } from './machine.js'
import type { PeerId } from './rows.js'
import { type RunningServer, startServer } from './servers.js'
import { shuffled } from './statistics.js'

/** One server in one round; milliseconds. */
export interface LatencySample {
  readonly round: number
  readonly peer: PeerId
  readonly requestsPerSec: number
  readonly probes: ProbeReport
}

/** How often and how long to measure. */
export interface LatencyPlan {
  readonly latencyRounds: number
  readonly latencySecs: number
  /** Load before that, on a process that has just started. */
  readonly latencyWarmupSecs: number
}

/** Measures `peers`, those that have a program that measures itself. */
export async function measureInsideLatency(
  peers: readonly PeerId[],
  plan: LatencyPlan,
  random: () => number,
  progress: (text: string) => void,
): Promise<LatencySample[]> {
  const [serverCpu, clientCpu] = measuredCpus()
  const samples: LatencySample[] = []
  const target = await startServer(clientCpu, [
    process.execPath,
    join(ROOT, 'dist', 'bench', 'latency', 'fetch-target.js'),
  ])
  const url = `http://${target.addr}/`
  for (let round = 0; round < plan.latencyRounds; round++) {
    for (const peer of shuffled(peers, random)) {
      const command = insideCommand(peer)
      if (command === null) continue
      progress(`latency: round ${round + 1} of ${plan.latencyRounds}, now ${peer}`)
      const server = await startServer(serverCpu, [...command, '--fetch', url])
      try {
        samples.push(await measure(round, peer, server, clientCpu, plan))
      } finally {
        await server.stop()
      }
    }
  }
  await target.stop()
  return samples
}

async function measure(
  round: number,
  peer: PeerId,
  server: RunningServer,
  clientCpu: number,
  plan: LatencyPlan,
): Promise<LatencySample> {
  const load = ['echo', '--addr', server.addr, '--conns', '64', '--size', '64']
  await runLoad(clientCpu, [...load, '--warmup', '0', '--secs', String(plan.latencyWarmupSecs)])
  // The probes see the load from its first to its last moment, and the little time around it.
  await ask(server, 'reset')
  const result = await runLoad(clientCpu, [...load, '--warmup', '0', '--secs', String(plan.latencySecs)])
  const probes = (await ask(server, 'report')) as unknown as ProbeReport
  return { round, peer, requestsPerSec: result.requestsPerSec, probes }
}
