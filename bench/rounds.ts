/**
 * Measures a row in interleaved rounds. In a round every peer is measured once, in shuffled order, so that a drift of
 * the machine meets all alike and only the ratios inside a round are used.
 *
 * All servers of a row are up at the same time (an idle one costs nothing) and are started anew every
 * {@link GENERATION_ROUNDS} rounds: long enough to be warm, and often enough that the luck of one process (where its
 * heap lies, what its compiler decided) does not pass for a property of the server. Rows never share a process.
 */
import { pairsOf } from './comparisons.js'
import { measureConnects, startTarget, targetFlags } from './connect/measure.js'
import { type LatencySummary, type LoadResult, runLoad } from './load.js'
import { measuredCpus } from './machine.js'
import type { PeerId } from './peers.js'
import { rowCommand } from './programs.js'
import type { Row } from './rows.js'
import { placeThreads, type RunningServer, startServer } from './servers.js'
import { shuffled } from './statistics.js'

/** Rounds that one set of server processes is measured in. */
export const GENERATION_ROUNDS = 5
/** Other processes may use this much of one CPU in the window, in all. */
export const OTHER_CPU_MAX = 0.05
/** The hypervisor may take this much of one CPU in the window. */
export const STEAL_MAX = 0.02
/** A measurement that noise spoils is made again in its round, up to this many in all; not in a quick run. */
export const NOISE_TRIES = 3

/** Why a measurement does not count: the server waited for the client, or the machine did something else. */
export type LeftOut = 'not-busy' | 'noise'

/** One measurement of a peer in a round; the last of them counts, if any does. Where clients are measured, `server` is one of these. */
export interface Sample {
  readonly round: number
  readonly peer: PeerId
  readonly requestsPerSec: number
  readonly requestsPerCpuSec: number
  /** CPUs that the server used: at most 1, with two at most 2. */
  readonly serverBusy: number
  readonly clientBusy: number
  /** CPUs used by all other processes, and stolen by the hypervisor. */
  readonly otherCpu: number
  readonly steal: number
  readonly latencyUs: LatencySummary
  readonly leftOut: LeftOut | null
}

/** How long to measure, and how often. */
export interface RoundPlan {
  /** Rounds that must count, for each pair of ours and a baseline. */
  readonly wanted: number
  /** Rounds at most. */
  readonly max: number
  /** Tries of a measurement that noise spoils, in its round. */
  readonly tries: number
  readonly windowSecs: number
  readonly warmupSecs: number
  /** Load on a process that has just started. */
  readonly firstWarmupSecs: number
}

/** A row's samples. */
export interface RowResult {
  readonly row: Row
  readonly rounds: number
  readonly samples: readonly Sample[]
}

/** What {@link cleanPairs} looks at. */
interface OneOfRound {
  readonly round: number
  readonly peer: string
  readonly leftOut: LeftOut | null
}

/** The rounds in which both of a pair count, as pairs of samples. */
export function cleanPairs<One extends OneOfRound>(
  samples: readonly One[],
  pair: { readonly peer: One['peer']; readonly against: One['peer'] },
): [ours: One, theirs: One][] {
  const clean = samples.filter((sample) => sample.leftOut === null)
  const theirs = new Map(clean.filter((one) => one.peer === pair.against).map((one) => [one.round, one]))
  return clean.flatMap((sample) => {
    const other = theirs.get(sample.round)
    return sample.peer === pair.peer && other !== undefined ? [[sample, other]] : []
  })
}

/** The processes of a row: what is measured, and what that connects to where clients are. */
interface Processes {
  readonly measured: ReadonlyMap<PeerId, RunningServer>
  readonly target: RunningServer | null
}

/** Measures `row` until every pair has enough rounds that count, the plan's maximum is reached or the time is up. */
export async function measureRow(
  row: Row,
  peers: readonly PeerId[],
  plan: RoundPlan,
  random: () => number,
  progress: (text: string) => void,
  timeIsUp: () => boolean,
): Promise<RowResult> {
  const samples: Sample[] = []
  let processes: Processes = { measured: new Map(), target: null }
  let round = 0
  try {
    for (; round < plan.max; round++) {
      const needed = peersStillNeeded(row, samples, peers, plan.wanted)
      if (needed.length === 0 || timeIsUp()) break
      if (round % GENERATION_ROUNDS === 0) {
        await stopAll(processes)
        processes = await startAll(row, needed, plan, progress)
      }
      for (const peer of shuffled(needed, random)) {
        progress(progressText(row, peer, round, samples, peers, plan))
        const server = processes.measured.get(peer)
        if (server === undefined) throw new Error(`${peer} was given up and is needed again`)
        for (let tries = 1; tries <= plan.tries; tries++) {
          const result = await load(row, server, plan.warmupSecs, plan.windowSecs)
          samples.push(sampleOf(row, round, peer, result))
          if (samples.at(-1)?.leftOut !== 'noise' || timeIsUp()) break
        }
      }
    }
    // A server that has died since is an error, not a figure.
    await stopAll(processes)
  } catch (error) {
    killAll(processes)
    throw error
  }
  return { row, rounds: round, samples }
}

/** A pair stays unfinished until it has enough; a peer never drops out and comes back, for pairs only ever finish. */
function peersStillNeeded(
  row: Row,
  samples: readonly Sample[],
  peers: readonly PeerId[],
  wanted: number,
): PeerId[] {
  const pairs = pairsOf(row, peers)
  const unfinished = pairs.filter((pair) => cleanPairs(samples, pair).length < wanted)
  const measured = new Set(samples.map((sample) => sample.round)).size
  const alone = pairs.length === 0 && measured < wanted
  return peers.filter(
    (peer) => alone || unfinished.some((pair) => pair.peer === peer || pair.against === peer),
  )
}

async function startAll(
  row: Row,
  peers: readonly PeerId[],
  plan: RoundPlan,
  progress: (text: string) => void,
): Promise<Processes> {
  const [serverCpu, clientCpu] = measuredCpus()
  const cpus = row.work === 'burn' ? [serverCpu, clientCpu] : serverCpu
  const measured = new Map<PeerId, RunningServer>()
  const target = row.work === 'connect' ? await startTarget(clientCpu) : null
  try {
    for (const peer of peers) {
      progress(`${row.id}: starting and warming ${peer}`)
      const command = rowCommand(row, peer)
      if (command === null) throw new Error(`${peer} is not installed`)
      const flags = target === null ? [] : targetFlags(target)
      const server = await startServer(cpus, [...command, ...flags])
      measured.set(peer, server)
      if (row.work === 'burn') placeThreads(server, serverCpu, clientCpu)
      await load(row, server, 0, plan.firstWarmupSecs)
    }
  } catch (error) {
    killAll({ measured, target })
    throw error
  }
  return { measured, target }
}

async function stopAll({ measured, target }: Processes): Promise<void> {
  for (const server of measured.values()) await server.stop()
  await target?.stop()
}

function killAll({ measured, target }: Processes): void {
  for (const server of measured.values()) server.child.kill('SIGKILL')
  target?.child.kill('SIGKILL')
}

function load(row: Row, server: RunningServer, warmupSecs: number, windowSecs: number): Promise<LoadResult> {
  if (row.work === 'connect') return measureConnects(server, warmupSecs, windowSecs)
  const [, clientCpu] = measuredCpus()
  const args = [row.mode, '--addr', server.addr, '--server-pid', String(server.pid)]
  args.push('--conns', String(row.connections), '--size', String(row.size))
  if (row.mode === 'echo') args.push('--pipeline', String(row.pipeline))
  args.push('--warmup', String(warmupSecs), '--secs', String(windowSecs))
  return runLoad(clientCpu, args)
}

/** Processor times of a measurement, as shares of one CPU. */
export interface CpuShares {
  readonly serverSecs: number
  readonly serverBusy: number
  readonly clientBusy: number
  readonly otherCpu: number
  readonly steal: number
  /** The machine did something else too. */
  readonly noisy: boolean
}

/** Reads them from what the load generator says. Throws when it could not measure them. */
export function cpuShares({ secs, cpu }: Pick<LoadResult, 'secs' | 'cpu'>): CpuShares {
  const { serverSecs, clientSecs, machineBusySecs, machineStealSecs } = cpu
  if (serverSecs === null || clientSecs === null || machineBusySecs === null || machineStealSecs === null) {
    throw new Error('the load generator could not read processor times from /proc')
  }
  const otherCpu = Math.max(0, machineBusySecs - serverSecs - clientSecs) / secs
  const steal = machineStealSecs / secs
  return {
    serverSecs,
    serverBusy: serverSecs / secs,
    clientBusy: clientSecs / secs,
    otherCpu,
    steal,
    noisy: otherCpu > OTHER_CPU_MAX || steal > STEAL_MAX,
  }
}

function sampleOf(row: Row, round: number, peer: PeerId, result: LoadResult): Sample {
  const { serverSecs, serverBusy, clientBusy, otherCpu, steal, noisy } = cpuShares(result)
  const waited = row.busyFloor !== null && serverBusy < row.busyFloor
  return {
    round,
    peer,
    requestsPerSec: result.requestsPerSec,
    requestsPerCpuSec: result.requests / serverSecs,
    serverBusy,
    clientBusy,
    otherCpu,
    steal,
    latencyUs: result.latencyUs,
    leftOut: noisy ? 'noise' : waited ? 'not-busy' : null,
  }
}

function progressText(
  row: Row,
  peer: PeerId,
  round: number,
  samples: readonly Sample[],
  peers: readonly PeerId[],
  plan: RoundPlan,
): string {
  const counts = pairsOf(row, peers).map((pair) => cleanPairs(samples, pair).length)
  const clean = counts.length === 0 ? round : Math.min(...counts)
  const leftOut = samples.filter((sample) => sample.leftOut !== null).length
  return `${row.id}: round ${round + 1}, ${clean} of ${plan.wanted} clean, ${leftOut} measurements left out, now ${peer}`
}
