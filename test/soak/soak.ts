/** One soak: a server in a process of its own, its clients in this one, and what is noted meanwhile. */
import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { EngineName } from 'shardloop'
import { mebibytes } from '../../bench/format.js'
import { Child } from '../harness/child.js'
import { WrongBytes } from '../harness/client.js'
import { Deferred, Observable } from '../harness/deferred.js'
import { Random } from '../harness/random.js'
import { MOMENTS_MIN, warmUpSecs } from './drift.js'
import type { Guest } from './guest.js'
import type { Holding } from './holding.js'
import { Material } from './material.js'
import type { SoakOptions } from './options.js'
import type { Ready } from './plan.js'
import { Resident } from './resident.js'
import { type Kind, TRANSFER_MAX_BYTES, Visit } from './visits.js'

/** Connections that last. */
export const RESIDENTS = 16
/** Load between two quiet moments: so long that a run has about {@link QUIET_MOMENTS}. */
const LOAD_MIN_SECS = 0.5
const LOAD_MAX_SECS = 60
const QUIET_MOMENTS = 60
/** A connection on which no byte moves for so long hangs. However busy the machine is, each gets its turn before. */
const HANGS_AFTER_MS = 10_000
const LOOK_EVERY_MS = 1_000
/** What the server has to end in when it is told, and what it has to tell of a failure that a client noticed first. */
const END_TIMEOUT_MS = 15_000
const NEWS_MS = 500
/** V8 would give busy threads a larger young generation and keep it; at its smallest heaps can be compared. */
const NODE_FLAGS = ['--max-semi-space-size=1']

/** What the server held, with what the clients had done by then. */
export interface Sample extends Holding {
  readonly visits: number
  readonly echoedBytes: number
}

/** Something that went wrong, by the check that it fails. */
export interface Problem {
  readonly check: 'content' | 'connections' | 'hangs' | 'server'
  readonly text: string
}

/** All that a soak found. */
export interface SoakRecord {
  readonly engine: EngineName
  /** How long the clients were at it. */
  readonly secs: number
  readonly samples: readonly Sample[]
  readonly visits: Readonly<Partial<Record<Kind, number>>>
  readonly problems: readonly Problem[]
  /** It was ended before its time by a signal. */
  readonly interrupted: boolean
}

/** Runs until the time is over, something goes wrong, or `interrupt` aborts. */
export class Soak extends Observable {
  readonly #options: SoakOptions
  readonly #child: Child
  readonly #material: Material
  readonly #samples: Sample[] = []
  readonly #problems: Problem[] = []
  readonly #visits: Partial<Record<Kind, number>> = {}
  readonly #interrupt: AbortSignal
  readonly #progress: (text: string) => void
  #residents: Resident[] = []
  #hurry = new AbortController()
  #visitsBegun = 0
  #visitsDone = 0
  #echoedBytes = 0
  #quietMoments = 0

  constructor(options: SoakOptions, interrupt: AbortSignal, progress: (text: string) => void) {
    super()
    this.#options = options
    this.#interrupt = interrupt
    this.#progress = progress
    interrupt.addEventListener('abort', () => this.#hurry.abort())
    this.#material = new Material(new Random(options.seed), TRANSFER_MAX_BYTES)
    const { engine, shards, seed, fault } = options
    const server = fileURLToPath(new URL('./server.js', import.meta.url))
    this.#child = new Child([...NODE_FLAGS, server, JSON.stringify({ engine, shards, seed, fault })])
  }

  /** Rejects when the server does not start. */
  async run(): Promise<SoakRecord> {
    const ready = JSON.parse((await this.#child.line(/^\{"engine".*/))[0]) as Ready
    const started = performance.now()
    const secs = (): number => (performance.now() - started) / 1000
    const reading = this.#readSamples()
    await this.#settle(ready)
    const [totalSecs, loadSecs] = [this.#options.minutes * 60, this.#loadSecs]
    const enough = (): boolean => secs() >= totalSecs && this.#warmMoments(secs()) >= MOMENTS_MIN
    while (!this.#isOver && !enough()) {
      this.#hurry = new AbortController()
      setMaxListeners(0, this.#hurry.signal) // every visitor may wait for it
      const visitors = Array.from({ length: this.#options.visitors }, () => this.#visitor(ready))
      await sleep(loadSecs * 1000, undefined, { signal: this.#hurry.signal }).catch(() => {})
      this.#hurry.abort()
      await Promise.all(visitors)
      await Promise.all(this.#residents.map((resident) => this.#watch(resident.stay(), resident)))
      if (!this.#isOver) await this.#quiet()
    }
    const took = secs()
    await this.#end()
    await reading
    return {
      engine: ready.engine,
      secs: took,
      samples: this.#samples,
      visits: this.#visits,
      problems: this.#problems,
      interrupted: this.#interrupt.aborted,
    }
  }

  get #loadSecs(): number {
    const secs = (this.#options.minutes * 60) / QUIET_MOMENTS
    return Math.min(Math.max(secs, LOAD_MIN_SECS), LOAD_MAX_SECS)
  }

  get #isOver(): boolean {
    const { deaths = 0, exceptions = 0 } = this.#samples.at(-1) ?? {}
    const isTold = deaths + exceptions > 0
    return isTold || this.#problems.length > 0 || this.#interrupt.aborted || this.#child.exit !== undefined
  }

  #warmMoments(secs: number): number {
    return this.#samples.filter(({ isQuiet, atSecs }) => isQuiet && atSecs >= warmUpSecs(secs)).length
  }

  /** Opens the connections that last. */
  async #settle(ready: Ready): Promise<void> {
    const opening = Array.from({ length: RESIDENTS }, async (_, number) => {
      const resident = new Resident(number, this.#options.seed, ready.ports, this.#material)
      this.#residents.push(resident)
      await this.#watch(resident.come(), resident)
    })
    await Promise.all(opening)
  }

  /** Visits one after the other until it is to be quiet. */
  async #visitor(ready: Ready): Promise<void> {
    while (!this.#hurry.signal.aborted) {
      const { signal } = this.#hurry
      const visit = new Visit(this.#options.seed, this.#visitsBegun++, ready.ports, this.#material, signal)
      if (!(await this.#watch(visit.run(), visit))) return
      this.#visitsDone++
      this.#echoedBytes += visit.echoed
      this.#visits[visit.kind] = (this.#visits[visit.kind] ?? 0) + 1
    }
  }

  /** Whether it went well; what did not is a problem, and nothing of it is left. */
  async #watch(work: Promise<void>, who: Guest): Promise<boolean> {
    const stuck = new Deferred<'stuck'>()
    let [moved, at] = [who.moved, performance.now()]
    const looking = setInterval(() => {
      if (who.moved !== moved) [moved, at] = [who.moved, performance.now()]
      else if (performance.now() - at > HANGS_AFTER_MS) stuck.resolve('stuck')
    }, LOOK_EVERY_MS)
    try {
      if ((await Promise.race([work, stuck.promise])) !== 'stuck') return true
      this.#note('hangs', `${this.#name(who)}: no byte moved for ${HANGS_AFTER_MS} ms, after ${moved} bytes`)
      await Promise.all([who.destroy(), work.catch(() => {})])
    } catch (error) {
      const check = error instanceof WrongBytes ? 'content' : 'connections'
      this.#note(check, `${this.#name(who)}: ${(error as Error).message}`)
    } finally {
      clearInterval(looking)
    }
    return false
  }

  #name(who: Guest): string {
    return `--seed ${this.#options.seed}, ${who.kind} ${who.number} to ${who.service}, from port ${who.port}`
  }

  /** Once something is wrong the rest follows from it, so a few are enough. */
  #note(check: Problem['check'], text: string): void {
    if (this.#problems.length < 10) this.#problems.push({ check, text })
    this.#hurry.abort()
    this.changed()
  }

  /** Every line that the server prints from now on. */
  async #readSamples(): Promise<void> {
    for (let line = 1; ; line++) {
      await this.#child.until(() => this.#child.lines.length > line || this.#child.exit !== undefined)
      const text = this.#child.lines[line]
      if (text === undefined) break
      const holding = JSON.parse(text) as Holding
      this.#samples.push({ ...holding, visits: this.#visitsDone, echoedBytes: this.#echoedBytes })
      if (holding.isQuiet) this.#quietMoments++
      if (this.#isOver) this.#hurry.abort()
      this.#show(holding)
      this.changed()
    }
    this.#hurry.abort()
    this.changed()
  }

  /** Everybody is gone but the residents: has the server tell what it holds then. */
  async #quiet(): Promise<void> {
    const before = this.#quietMoments
    this.#child.send(`quiet ${RESIDENTS}`)
    await this.until(() => this.#quietMoments > before || this.#child.exit !== undefined)
  }

  async #end(): Promise<void> {
    if (this.#child.exit !== undefined) this.#note('server', 'it ended before it was told')
    await Promise.all(
      this.#residents.map(async (resident) => {
        if (this.#problems.length === 0 && this.#child.exit === undefined)
          await this.#watch(resident.go(), resident)
        await resident.destroy()
      }),
    )
    if (this.#child.exit === undefined) {
      // What went wrong last is told, too; a client knows of a death before the supervisor does.
      await sleep(NEWS_MS)
      const before = this.#samples.length
      this.#child.send('look')
      await this.until(() => this.#samples.length > before || this.#child.exit !== undefined)
    }
    this.#child.process.stdin.end('end\n')
    const ended = await Promise.race([this.#child.untilExit(), sleep(END_TIMEOUT_MS, null, { ref: false })])
    if (ended === null) {
      this.#note('server', `it does not end within ${END_TIMEOUT_MS} ms of being told`)
      this.#child.kill('SIGKILL')
      await this.#child.untilExit()
    } else if (ended.code !== 0) {
      this.#note('server', `it ended with code ${ended.code}, signal ${ended.signal}:\n${this.#child.stderr}`)
    }
  }

  #show(holding: Holding): void {
    const { residentBytes, descriptors, threads, connections } = holding
    const heapBytes = [holding.supervisor, ...holding.shards].reduce((sum, one) => sum + one.heapBytes, 0)
    this.#progress(
      [
        `${this.#quietMoments} quiet moments: ${this.#visitsDone} visits`,
        `${mebibytes(this.#echoedBytes)} echoed`,
        `resident ${mebibytes(residentBytes)}`,
        `heap ${mebibytes(heapBytes)}`,
        `${descriptors} descriptors`,
        `${threads} threads`,
        `${connections} open`,
      ].join(', '),
    )
  }
}
