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
import type { PeerId } from './peers.js'
import { cpuShares } from './rounds.js'
import { type RunningServer, startServer } from './servers.js'
import { shuffled } from './statistics.js'

/** One measurement of a server in a round, milliseconds; the last of them counts, if any does. */
export interface LatencySample {
  readonly round: number
  readonly peer: PeerId
  readonly requestsPerSec: number
  /** CPUs used by all other processes; the process that fetch asks is one of them. */
  readonly otherCpu: number
  /** The machine did something else too, so the round does not count. */
  readonly noisy: boolean
  readonly probes: ProbeReport
}

/** How often and how long to measure. */
export interface LatencyPlan {
  /** Rounds in which all count. */
  readonly latencyRounds: number
  /** Rounds at most. */
  readonly latencyRoundsMax: number
  /** Tries of a measurement that noise spoils, in its round. */
  readonly latencyTries: number
  readonly latencySecs: number
  /** Load before that, on a process that has just started. */
  readonly latencyWarmupSecs: number
}

/**
 * Measures `peers`, those that have a program that measures itself. Adds to `samples` as it goes, so that what was
 * measured is there also when it fails.
 */
export async function measureInsideLatency(
  peers: readonly PeerId[],
  plan: LatencyPlan,
  random: () => number,
  progress: (text: string) => void,
  samples: LatencySample[],
): Promise<void> {
  const [serverCpu, clientCpu] = measuredCpus()
  const target = await startServer(clientCpu, [
    process.execPath,
    join(ROOT, 'dist', 'bench', 'latency', 'fetch-target.js'),
  ])
  const url = `http://${target.addr}/`
  for (let round = 0; round < plan.latencyRoundsMax && cleanRounds(samples) < plan.latencyRounds; round++) {
    for (const peer of shuffled(peers, random)) {
      const command = insideCommand(peer)
      if (command === null) continue
      progress(
        `latency: round ${round + 1}, ${cleanRounds(samples)} of ${plan.latencyRounds} clean, now ${peer}`,
      )
      const server = await startServer(serverCpu, [...command, '--fetch', url])
      try {
        for (let tries = 1; tries <= plan.latencyTries; tries++) {
          samples.push(await measure(round, peer, server, clientCpu, plan))
          if (samples.at(-1)?.noisy !== true) break
        }
      } finally {
        await server.stop()
      }
    }
  }
  await target.stop()
}

/** Rounds in which all have a measurement that counts. */
function cleanRounds(samples: readonly LatencySample[]): number {
  const peersIn = (among: readonly LatencySample[], round: number): number =>
    new Set(among.filter((sample) => sample.round === round).map((sample) => sample.peer)).size
  const clean = samples.filter((sample) => !sample.noisy)
  const rounds = [...new Set(samples.map((sample) => sample.round))]
  return rounds.filter((round) => peersIn(clean, round) === peersIn(samples, round)).length
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
  const window = ['--warmup', '0', '--secs', String(plan.latencySecs), '--server-pid', String(server.pid)]
  const result = await runLoad(clientCpu, [...load, ...window])
  const probes = (await ask(server, 'report')) as unknown as ProbeReport
  const { otherCpu, noisy } = cpuShares(result)
  return { round, peer, requestsPerSec: result.requestsPerSec, otherCpu, noisy, probes }
}
