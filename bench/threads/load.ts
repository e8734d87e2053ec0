/** Loads a channel, and measures it from inside. */
import { setTimeout as delay } from 'node:timers/promises'
import type { LoadResult } from '../load.js'
import { latencySummary, type ProcessorSample, sampleProcessor } from '../measured-inside.js'
import type { Channel } from './channel.js'
import { isSame } from './payloads.js'

/** Messages that are sent before the loop turns. */
export const BATCH = 256
/** Messages that may be under way: neither side grows. */
export const WINDOW: number = 16 * BATCH
/** Between two calls of a pair that sleeps. */
const PAUSE_MS = 1
/** The last messages of a measurement are acknowledged sooner than this, or lost. */
const DRAIN_TIMEOUT_MS = 10_000

/** What is done: messages one way, a call when the last was answered, or when both threads have slept since. */
export type Way = 'send' | 'call' | 'call-paused'

/** One way or the other. */
export interface ThreadLoad {
  /** Loads for a warm-up and a window. Rejects when a message is lost or a payload wrong. */
  measure(warmupSecs: number, windowSecs: number): Promise<LoadResult>
}

/** The load of a channel by `payload`. */
export function threadLoad(channel: Channel, way: Way, payload: unknown): ThreadLoad {
  return way === 'send' ? new Sending(channel, payload) : new Calling(channel, payload, way === 'call-paused')
}

/** As many messages as it can, {@link WINDOW} of them under way at most. */
class Sending implements ThreadLoad {
  readonly #channel: Channel
  readonly #payload: unknown
  #sent = 0
  #acknowledged = 0
  #isGoing = false
  /** Full: the next acknowledgement goes on. */
  #isWaiting = false
  #told: () => void = () => {}

  constructor(channel: Channel, payload: unknown) {
    this.#channel = channel
    this.#payload = payload
    channel.onAcknowledged((count) => {
      this.#acknowledged = count
      this.#told()
      if (!this.#isWaiting) return
      this.#isWaiting = false
      setImmediate(this.#turn)
    })
  }

  async measure(warmupSecs: number, windowSecs: number): Promise<LoadResult> {
    await checkEcho(this.#channel, this.#payload)
    const first = this.#acknowledged
    this.#isGoing = true
    setImmediate(this.#turn)
    await delay(warmupSecs * 1000)
    const [before, acknowledgedBefore] = [sampleProcessor('self'), this.#acknowledged]
    await delay(windowSecs * 1000)
    const [after, acknowledged] = [sampleProcessor('self'), this.#acknowledged]
    this.#isGoing = false
    await this.#drained()
    return resultOf(before, after, acknowledged - acknowledgedBefore, this.#acknowledged - first, [])
  }

  readonly #turn = (): void => {
    if (!this.#isGoing) return
    if (this.#sent - this.#acknowledged > WINDOW - BATCH) {
      this.#isWaiting = true
      return
    }
    for (let index = 0; index < BATCH; index++) this.#channel.send(this.#payload)
    this.#sent += BATCH
    setImmediate(this.#turn)
  }

  /** Every message was a whole batch's, and so each is acknowledged in the end. */
  async #drained(): Promise<void> {
    const late = AbortSignal.timeout(DRAIN_TIMEOUT_MS)
    while (this.#acknowledged < this.#sent) {
      if (late.aborted)
        throw new Error(
          `${this.#sent - this.#acknowledged} of ${this.#sent} messages have not come after ${DRAIN_TIMEOUT_MS} ms`,
        )
      await Promise.race([
        new Promise<void>((resolve) => {
          this.#told = resolve
        }),
        delay(PAUSE_MS),
      ])
    }
    this.#isWaiting = false
  }
}

/** One call at a time. */
class Calling implements ThreadLoad {
  readonly #channel: Channel
  readonly #payload: unknown
  readonly #pauses: boolean

  constructor(channel: Channel, payload: unknown, pauses: boolean) {
    this.#channel = channel
    this.#payload = payload
    this.#pauses = pauses
  }

  async measure(warmupSecs: number, windowSecs: number): Promise<LoadResult> {
    await checkEcho(this.#channel, this.#payload)
    const warm: number[] = []
    await this.#callFor(warmupSecs, warm)
    const latencies: number[] = []
    const before = sampleProcessor('self')
    await this.#callFor(windowSecs, latencies)
    const after = sampleProcessor('self')
    return resultOf(before, after, latencies.length, warm.length + latencies.length, latencies)
  }

  async #callFor(secs: number, latencies: number[]): Promise<void> {
    for (const end = performance.now() + secs * 1000; performance.now() < end; ) {
      const calledMs = performance.now()
      await this.#channel.call(this.#payload)
      latencies.push((performance.now() - calledMs) * 1000)
      if (this.#pauses) await delay(PAUSE_MS)
    }
  }
}

/** What comes back must be what was sent, before it is worth to count how fast. */
async function checkEcho(channel: Channel, payload: unknown): Promise<void> {
  const came = await channel.call(payload)
  if (!isSame(came, payload)) throw new Error('what came back is not what was sent')
}

/** Both threads are of this process, so that it has no client. */
function resultOf(
  before: ProcessorSample,
  after: ProcessorSample,
  requests: number,
  requestsTotal: number,
  latencies: readonly number[],
): LoadResult {
  const used = (read: (one: ProcessorSample) => number): number => read(after) - read(before)
  const secs = used(({ atMs }) => atMs) / 1000
  return {
    ok: true,
    secs,
    requests,
    requestsTotal,
    requestsPerSec: requests / secs,
    latencyUs: latencySummary(latencies),
    failures: { first: null },
    cpu: {
      serverSecs: used(({ ownSecs }) => ownSecs),
      clientSecs: 0,
      machineBusySecs: used(({ busySecs }) => busySecs),
      machineStealSecs: used(({ stealSecs }) => stealSecs),
    },
  }
}
