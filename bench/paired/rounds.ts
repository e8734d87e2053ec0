/**
 * Measures a row of a paired benchmark in interleaved rounds, as `../rounds.ts` does echo servers: in a round every peer is
 * measured once, in shuffled order, and only ratios inside a round are used. Programs are started anew every few rounds.
 */
import {
  type CpuShares,
  cleanPairs,
  cpuShares,
  GENERATION_ROUNDS,
  type LeftOut,
  type RoundPlan,
} from '../rounds.js'
import { shuffled } from '../statistics.js'
import { type Inside, type Measurable, type PairedLoad, type PairedRow, pairedWith } from './benchmark.js'

/** One measurement of a peer in a round; the last of them counts, if any does. */
export interface PairedSample {
  readonly round: number
  readonly peer: string
  readonly perSec: number
  readonly perCpuSec: number
  /** Microseconds. */
  readonly p50: number
  readonly p99: number
  /** CPUs that it used, and its client. */
  readonly busy: number
  readonly clientBusy: number
  /** CPUs used by all other processes, and stolen by the hypervisor. */
  readonly otherCpu: number
  readonly steal: number
  /** Share of what was sent that got no answer; where that is counted. */
  readonly lost: number | null
  readonly inside?: Inside
  readonly leftOut: LeftOut | null
}

/** A row's samples. */
export interface PairedRowResult {
  readonly row: PairedRow
  readonly rounds: number
  readonly samples: readonly PairedSample[]
}

/** Measures until every pair has enough rounds that count, the plan's maximum is reached or the time is up. */
export async function measurePairedRow(
  row: PairedRow,
  peers: readonly string[],
  start: (peer: string) => Promise<Measurable>,
  plan: RoundPlan,
  random: () => number,
  progress: (text: string) => void,
  timeIsUp: () => boolean,
): Promise<PairedRowResult> {
  const samples: PairedSample[] = []
  const running = new Map<string, Measurable>()
  const stopAll = async (): Promise<void> => {
    for (const one of running.values()) await one.stop()
    running.clear()
  }
  let round = 0
  try {
    for (; round < plan.max; round++) {
      const needed = peersStillNeeded(row, samples, peers, plan.wanted)
      if (needed.length === 0 || timeIsUp()) break
      if (round % GENERATION_ROUNDS === 0) {
        await stopAll()
        for (const peer of needed) {
          progress(`${row.id}: starting and warming ${peer}`)
          const one = await start(peer)
          running.set(peer, one)
          if (row.fresh !== true) await one.measure(plan.firstWarmupSecs, plan.warmupSecs)
        }
      }
      for (const peer of shuffled(needed, random)) {
        progress(progressText(row, peer, round, samples, peers, plan))
        const one = running.get(peer)
        if (one === undefined) throw new Error(`${peer} was given up and is needed again`)
        for (let tries = 1; tries <= plan.tries; tries++) {
          samples.push(pairedSample(round, peer, await one.measure(plan.warmupSecs, plan.windowSecs)))
          if (samples.at(-1)?.leftOut === null || timeIsUp()) break
        }
      }
    }
    // A program that has died since is an error, not a figure.
    await stopAll()
  } catch (error) {
    for (const one of running.values()) one.kill()
    throw error
  }
  return { row, rounds: round, samples }
}

/** Where processor times are not measured. */
const NOT_ASKED: CpuShares = {
  ...{ serverSecs: 0, serverBusy: 0, clientBusy: 0, otherCpu: 0, steal: 0 },
  noisy: false,
}

/** A pair stays unfinished until it has enough; without pairs each peer is measured so often. */
export function peersStillNeeded(
  row: PairedRow,
  samples: readonly PairedSample[],
  peers: readonly string[],
  wanted: number,
): readonly string[] {
  const pairs = pairedWith(row, peers)
  const taking = peers.filter((peer) => row.peers.includes(peer))
  if (pairs.length === 0)
    return taking.filter((peer) => samples.filter((sample) => sample.peer === peer).length < wanted)
  const unfinished = pairs.filter((pair) => cleanPairs(samples, pair).length < wanted)
  return taking.filter((peer) => unfinished.some((pair) => pair.peer === peer || pair.against === peer))
}

/** What a measurement says. Throws when processor times are missing. */
export function pairedSample(round: number, peer: string, result: PairedLoad): PairedSample {
  const { cpu, inside, lost, sent } = result
  const { serverSecs, serverBusy, clientBusy, otherCpu, steal, noisy } =
    cpu === null ? NOT_ASKED : cpuShares({ secs: result.secs, cpu })
  return {
    round,
    peer,
    perSec: result.requestsPerSec,
    perCpuSec: cpu === null ? 0 : result.requests / serverSecs,
    p50: result.latencyUs.p50,
    p99: result.latencyUs.p99,
    busy: serverBusy,
    clientBusy,
    otherCpu,
    steal,
    lost: lost === undefined || sent === undefined ? null : lost / Math.max(1, sent),
    ...(inside === undefined ? {} : { inside }),
    leftOut: noisy ? 'noise' : null,
  }
}

function progressText(
  row: PairedRow,
  peer: string,
  round: number,
  samples: readonly PairedSample[],
  peers: readonly string[],
  plan: RoundPlan,
): string {
  const counts = pairedWith(row, peers).map((pair) => cleanPairs(samples, pair).length)
  const clean = counts.length === 0 ? round : Math.min(...counts)
  const leftOut = samples.filter((sample) => sample.leftOut !== null).length
  return `${row.id}: round ${round + 1}, ${clean} of ${plan.wanted} clean, ${leftOut} measurements left out, now ${peer}`
}
