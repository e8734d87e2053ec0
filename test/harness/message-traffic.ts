import type { CallTarget, Loop } from '../../src/index.js'
import type { Random } from './random.js'

const BURST_MAX = 200
const LARGE_MAX_BYTES = 100_000
/** How long a thread is left alone that is not there. */
const AWAY_MS = 5

/** What one thread has said to another, at the end. */
export interface TrafficReport {
  readonly life: string
  /** By target: the number of the latest message that was not refused. */
  readonly sent: Readonly<Record<string, number>>
  /** By the sender's life: the number of the latest message that came. */
  readonly seen: Readonly<Record<string, number>>
  readonly calls: number
  readonly settled: number
  readonly messages: number
}

/**
 * One thread that says as much as it can to all others, in bursts of messages and calls; the next begins when calls of the last were
 * answered. Messages to each target are numbered: what one life gets of another has no gap and nothing twice.
 */
export class MessageTraffic {
  readonly #loop: Loop
  readonly #life: string
  readonly #random: Random
  readonly #violated: (what: string) => void
  readonly #sent: Record<string, number> = {}
  readonly #seen: Record<string, number> = {}
  #lanes: Promise<void>[] = []
  #going = true
  #calls = 0
  #settled = 0
  #messages = 0

  constructor(loop: Loop, life: string, random: Random, violated: (what: string) => void) {
    this.#loop = loop
    this.#life = life
    this.#random = random
    this.#violated = violated
    const note = ([from, number]: [string, number, string]): number => this.#note(from, number)
    loop.expose('traffic', note)
    loop.expose('traffic later', async (payload: [string, number, string]) => {
      const number = note(payload)
      await new Promise((resolve) => setImmediate(resolve))
      return number
    })
    loop.expose('stop traffic', () => this.stop())
    loop.expose('traffic seen', () => this.report())
  }

  start(targets: readonly CallTarget[]): void {
    this.#lanes = targets.map((target) => this.#lane(target))
  }

  async stop(): Promise<TrafficReport> {
    this.#going = false
    await Promise.all(this.#lanes)
    return this.report()
  }

  report(): TrafficReport {
    const [sent, seen] = [{ ...this.#sent }, { ...this.#seen }]
    return {
      life: this.#life,
      sent,
      seen,
      calls: this.#calls,
      settled: this.#settled,
      messages: this.#messages,
    }
  }

  #note(from: string, number: number): number {
    const before = this.#seen[from]
    if (before !== undefined && number !== before + 1)
      this.#violated(`${this.#life} got ${number} of ${from} behind ${before}`)
    this.#seen[from] = number
    this.#messages += 1
    return number
  }

  async #lane(target: CallTarget): Promise<void> {
    // One that is only starting is asked until it answers: messages would be lost, and reported there.
    let isThere = false
    while (this.#going) {
      if (isThere) isThere = (await Promise.all(this.#burst(target))).every((answered) => answered)
      else isThere = await this.#numberedCall(target)
      if (!isThere) await new Promise((resolve) => setTimeout(resolve, AWAY_MS))
    }
  }

  #numberedCall(target: CallTarget, filler = ''): Promise<boolean> {
    const number = (this.#sent[target] ?? 0) + 1
    this.#sent[target] = number // refused or not: then it is another life's
    return this.#call(target, number, [this.#life, number, filler])
  }

  /** Whether the target was there, for each call. */
  #burst(target: CallTarget): Promise<boolean>[] {
    const random = this.#random
    const calls: Promise<boolean>[] = []
    for (let left = random.between(1, BURST_MAX); left >= 0; left--) {
      const filler = 'x'.repeat(random.below(100) === 0 ? random.size(1, LARGE_MAX_BYTES) : random.below(40))
      if (left === 0 || random.below(5) === 0) {
        calls.push(this.#numberedCall(target, filler))
        continue
      }
      const number = (this.#sent[target] ?? 0) + 1
      try {
        this.#loop.callSoonThreadsafe(target, 'traffic', [this.#life, number, filler])
        this.#sent[target] = number
      } catch (error) {
        this.#refused(error)
      }
    }
    return calls
  }

  async #call(target: CallTarget, number: number, payload: unknown): Promise<boolean> {
    const name = this.#random.below(2) === 0 ? 'traffic' : 'traffic later'
    this.#calls += 1
    try {
      const result = await this.#loop.call(target, name, payload)
      if (result !== number) this.#violated(`the result of ${number} is ${result}`)
      return true
    } catch (error) {
      this.#refused(error)
      return false
    } finally {
      this.#settled += 1
    }
  }

  #refused(error: unknown): void {
    const { code } = error as { code?: string }
    // A replacement that is only starting has not exposed anything.
    if (code !== 'ERR_SHARDLOOP_GONE' && code !== 'ERR_SHARDLOOP_NOT_EXPOSED') this.#violated(String(error))
  }
}
