/** Connects as fast as a client can, and measures it from inside: nobody else knows when its window opens and closes. */
import { setTimeout as delay } from 'node:timers/promises'
import type { LatencySummary } from '../load.js'
import { latencySummary, type ProcessorSample, sampleProcessor } from '../measured-inside.js'
import type { Connector } from './connector.js'

/** Where to connect to. */
export interface Target {
  /** Addresses, taken in turn. */
  readonly hosts: readonly string[]
  readonly port: number
  /** The process that listens there, for its processor time. */
  readonly pid: string
}

/** What happened in the measured window. */
export interface ConnectReport {
  readonly secs: number
  /** Connections that were gone by then, and in all. */
  readonly connections: number
  readonly connectionsTotal: number
  /** From the call to the established connection. */
  readonly latencyUs: LatencySummary
  /** The first failure in words; no connection is opened after it. */
  readonly failure: string | null
  /** Processor time of this process, of the target's, and of the whole machine, without and with what was stolen. */
  readonly cpu: {
    readonly ownSecs: number
    readonly targetSecs: number
    readonly machineBusySecs: number
    readonly machineStealSecs: number
  }
}

/**
 * Keeps `atOnce` connections under way, for a warm-up and a window. Resolves when all are gone; a connection that fails keeps
 * further ones from being opened, and is in the report.
 */
export async function connectAsFastAsPossible(
  connector: Connector,
  target: Target,
  atOnce: number,
  warmupSecs: number,
  secs: number,
): Promise<ConnectReport> {
  const load = new Load(connector, target)
  load.start(atOnce)
  await delay(warmupSecs * 1000)
  const [before, endedBefore] = [sampleProcessor(target.pid), load.ended]
  load.record()
  await delay(secs * 1000)
  const [after, endedAfter, latencies] = [sampleProcessor(target.pid), load.ended, load.stopRecording()]
  await load.stop()
  const used = (read: (one: ProcessorSample) => number): number => read(after) - read(before)
  return {
    secs: used(({ atMs }) => atMs) / 1000,
    connections: endedAfter - endedBefore,
    connectionsTotal: load.ended,
    latencyUs: latencySummary(latencies),
    failure: load.failure,
    cpu: {
      ownSecs: used(({ ownSecs }) => ownSecs),
      targetSecs: used(({ targetSecs }) => targetSecs),
      machineBusySecs: used(({ busySecs }) => busySecs),
      machineStealSecs: used(({ stealSecs }) => stealSecs),
    },
  }
}

/** Keeps `atOnce` connections under way. */
class Load {
  readonly #connector: Connector
  readonly #target: Target
  #opened = 0
  #underWay = 0
  #opening = false
  #recording = false
  #latencies: number[] = []
  #idle: (() => void) | null = null
  ended = 0
  failure: string | null = null

  constructor(connector: Connector, target: Target) {
    this.#connector = connector
    this.#target = target
  }

  start(atOnce: number): void {
    this.#opening = true
    for (let slot = 0; slot < atOnce; slot++) this.#open()
  }

  /** Latencies of what is established from now on are kept. */
  record(): void {
    this.#latencies = []
    this.#recording = true
  }

  /** Microseconds, unordered. */
  stopRecording(): readonly number[] {
    this.#recording = false
    return this.#latencies
  }

  /** Resolves when the connections that are under way are gone. */
  async stop(): Promise<void> {
    this.#opening = false
    if (this.#underWay === 0) return
    await new Promise<void>((resolve) => {
      this.#idle = resolve
    })
  }

  #open(): void {
    const { hosts, port } = this.#target
    const host = hosts[this.#opened++ % hosts.length] as string
    this.#underWay += 1
    const startedMs = performance.now()
    this.#connector.open(
      host,
      port,
      () => {
        if (this.#recording) this.#latencies.push((performance.now() - startedMs) * 1000)
      },
      (error) => {
        this.#underWay -= 1
        this.ended += 1
        if (error !== null) {
          this.failure ??= error.message
          this.#opening = false
        }
        if (this.#opening) this.#open()
        else if (this.#underWay === 0) this.#idle?.()
      },
    )
  }
}
