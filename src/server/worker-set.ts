import { isDeepStrictEqual } from 'node:util'
import { ShardloopError } from '../errors.js'
import { MAX_RESTARTS_DEFAULT, RESTART_WINDOW_DEFAULT_MS } from '../limits.js'
import { native } from '../native/index.js'
import type { CallHistory, PastCalls } from '../workers/call-history.js'
import { chooseEngine, type EngineName } from '../workers/engine.js'
import { unpackError } from '../workers/error-transfer.js'
import { threadLog } from '../workers/thread-log.js'
import { threadSingleton } from '../workers/thread-singleton.js'
import { CallBook } from './call-book.js'
import { printDeath } from './death-report.js'
import { type ExecutorHold, holdExecutor } from './executor.js'
import { show, wrong } from './given-options.js'
import type { EndedCall, ShardRequest, SupervisorMessage } from './messages.js'
import { readServerMetrics, type ServerMetrics } from './metrics.js'
import type { ServerSettings } from './options.js'
import { programEntry, tsxApi } from './program-entry.js'
import type { RestartLimits } from './restart-policy.js'
import type { AfterDeath, ShardControl, ShardDeath, ShardGroup, ShardUser } from './shard-control.js'
import { processSignals } from './signals.js'
import { StallWatch } from './stall-watch.js'
import { type ShardSupervisor, SupervisedShard } from './supervised-shard.js'
import type { ShardResourceLimits } from './worker-shard.js'

/** What all servers of a process share. */
export interface SetPlan {
  /** Number of shards. */
  readonly size: number
  readonly engine: EngineName
  readonly restarts: RestartLimits
  readonly resourceLimits: ShardResourceLimits
}

/** The process's shards in worker threads, shared by its servers: they start with the first and end with the last. */
export class WorkerSet implements ShardGroup {
  readonly plan: SetPlan
  /** What runs the shards' tasks. */
  readonly executor: ExecutorHold
  readonly #history: CallHistory
  readonly #onEnd: () => void
  readonly #users = new Set<ShardUser>()
  readonly #tokens: readonly number[]
  readonly #stalls: StallWatch
  #shards: readonly SupervisedShard[] = []
  /** Servers that have joined and not left, those that are not users yet included. */
  #members = 0
  #ending: Promise<ShardDeath | null> | null = null
  #lastMetrics: ServerMetrics | null = null

  /** @param history calls that are over, for the shards to match the program's calls with; it grows meanwhile */
  constructor(plan: SetPlan, executor: ExecutorHold, history: CallHistory, onEnd: () => void) {
    this.plan = plan
    this.executor = executor
    this.#history = history
    this.#onEnd = onEnd
    threadLog() // the guardian's records come here
    this.#tokens = Array.from({ length: plan.size }, () => native.allocateMetrics())
    try {
      this.#stalls = new StallWatch(this.#tokens, (shard, why) => this.#shards[shard]?.terminate(why))
    } catch (error) {
      for (const token of this.#tokens) native.freeMetrics(token)
      throw error
    }
  }

  get engine(): EngineName {
    return this.plan.engine
  }

  /** Whether another server can still join. When every shard has failed its servers end, and a new one takes new shards. */
  get isOpen(): boolean {
    return this.#ending === null && !this.#hasFailed
  }

  /** Keeps the set for a server; paired with `leave` or `discard`, or with `withdraw` before there is a user. */
  reserve(): void {
    this.#members += 1
  }

  /** Undoes `reserve` for a server that could not be made. */
  async withdraw(): Promise<void> {
    this.#members -= 1
    if (this.#members === 0) await this.#end('cancel')
  }

  addUser(user: ShardUser): void {
    this.#users.add(user)
    this.#stalls.watchFor(this.#users)
  }

  start(): readonly ShardControl[] {
    if (this.#hasFailed)
      throw new ShardloopError('ERR_SHARDLOOP_START', 'the shards that this server was to share have died')
    if (this.#shards.length > 0) return this.#shards
    const { engine, restarts, resourceLimits } = this.plan
    const program = { engine, entry: programEntry(), tsxApi: tsxApi(), metricsTokens: this.#tokens }
    const supervisor: ShardSupervisor = {
      pastCalls: () => this.#pastCalls(),
      controlled: (shard, message) => this.#control(shard, message),
      died: (death, after) => this.#died(death, after),
    }
    this.#shards = this.#tokens.map(
      (_, shardId) =>
        new SupervisedShard({ identity: { ...program, shardId }, resourceLimits, restarts }, supervisor),
    )
    return this.#shards
  }

  guard(server: number, listeners: readonly number[]): void {
    native.guardServer(server, [...listeners])
  }

  unguard(server: number): void {
    native.unguardServer(server)
  }

  announce(message: SupervisorMessage): void {
    for (const shard of this.#shards) shard.send(message)
  }

  metrics(): ServerMetrics {
    return this.#lastMetrics ?? readServerMetrics(this.#tokens, this.#restarts)
  }

  stalledMs(shard: number): number {
    const token = this.#tokens[shard]
    return token === undefined ? 0 : native.stalledMs(token)
  }

  async leave(user: ShardUser): Promise<ShardDeath | null> {
    this.#users.delete(user)
    this.#stalls.watchFor(this.#users)
    this.#members -= 1
    return this.#members === 0 ? this.#end('stop') : null
  }

  async discard(user: ShardUser): Promise<boolean> {
    if (this.#members > 1) return false
    this.#users.delete(user)
    this.#members -= 1
    await this.#end('cancel')
    return true
  }

  get #restarts(): number[] {
    return this.#shards.map(({ restarts }) => restarts)
  }

  get #hasFailed(): boolean {
    return this.#shards.length > 0 && this.#shards.every(({ failure }) => failure !== null)
  }

  #end(how: 'stop' | 'cancel'): Promise<ShardDeath | null> {
    this.#ending ??= this.#endShards(how)
    return this.#ending
  }

  async #endShards(how: 'stop' | 'cancel'): Promise<ShardDeath | null> {
    // Those that died before were reported then.
    const deaths = await Promise.all(this.#shards.map((shard) => shard.end(how)))
    await this.executor.release()
    this.#lastMetrics = readServerMetrics(this.#tokens, this.#restarts)
    for (const token of this.#tokens) native.freeMetrics(token)
    this.#stalls.end()
    this.#onEnd()
    return deaths.find((death) => death !== null && death.error !== undefined) ?? null
  }

  #pastCalls(): PastCalls {
    const past = this.#history.pack()
    // A start that failed drains too, but is over already, and not as a server that ran.
    const draining = [...this.#users].map((user) => user.endedCall()).filter((call) => call !== null)
    const isOpen = ({ place }: EndedCall): boolean => this.#history.find(place) === undefined
    return { ...past, servers: [...past.servers, ...draining.filter(isOpen)] }
  }

  #died(death: ShardDeath, after: AfterDeath): void {
    this.#stalls.died(death.shard)
    const users = [...this.#users]
    // A server that starts rejects with it, and a listener of 'shard' is told.
    const isTold = users.every(({ isStarting }) => isStarting) || users.some(({ isWatched }) => isWatched)
    if (!isTold)
      printDeath(
        death,
        after,
        users.some((user) => user.endedCall() === null),
      )
    for (const user of users) user.shardDied(death, after)
  }

  #control(shard: SupervisedShard, message: ShardRequest): void {
    if (message.type === 'subscribe') return processSignals()?.subscribe(shard, message.signal)
    if (message.type === 'unsubscribe') return processSignals()?.unsubscribe(shard, message.signal)
    const user = [...this.#users].find(({ key }) => key === message.key)
    if (message.type === 'tlsClientError') user?.tlsClientError(shard.id, unpackError(message.error))
    else if (message.action === 'abort') void user?.abort()
    else void user?.drain(message.deadlineMs === null ? {} : { deadlineMs: message.deadlineMs })
  }
}

/** What the main thread remembers between calls of `createServer`. */
interface SetSlot {
  readonly book: CallBook
  set: WorkerSet | null
  /** Resolves when `set` has ended. */
  ended: Promise<void>
}

function slot(): SetSlot {
  return threadSingleton<SetSlot>('worker-set', () => ({
    book: new CallBook(),
    set: null,
    ended: Promise.resolve(),
  }))
}

/** The process's calls of `createServer` with shards. */
export function callBook(): CallBook {
  return slot().book
}

/** Tells the shards that run that a call is over. */
export function announceEnd(call: EndedCall): void {
  slot().set?.announce({ type: 'ended', call })
}

/** What a server wants of the shards that it shares; null: what runs, else the default. */
export type SharedSettings = Pick<
  ServerSettings,
  'shards' | 'engine' | 'maxRestarts' | 'restartWindowMs' | 'resourceLimits' | 'executor'
>

/**
 * The shards that run, or new ones; kept for the caller until it leaves. Waits for shards that are on their way out.
 * @param automatic how many shards there are by default
 * @throws ShardloopError ERR_SHARDLOOP_OPTION when the shards that run are not what the caller wants
 */
export async function joinWorkerSet(wanted: SharedSettings, automatic: () => number): Promise<WorkerSet> {
  const current = slot()
  while (current.set !== null && !current.set.isOpen) await current.ended
  const running = current.set?.engine ?? null
  const engine = chooseEngine(wanted.engine, running, 'all servers of a process share its shards')
  if (current.set === null) {
    const executor = holdExecutor(wanted.executor)
    let onEnd = (): void => {}
    current.ended = new Promise((resolve) => {
      onEnd = () => {
        current.set = null
        resolve()
      }
    })
    const plan: SetPlan = {
      size: wanted.shards ?? automatic(),
      engine,
      restarts: {
        maxRestarts: wanted.maxRestarts ?? MAX_RESTARTS_DEFAULT,
        restartWindowMs: wanted.restartWindowMs ?? RESTART_WINDOW_DEFAULT_MS,
      },
      resourceLimits: wanted.resourceLimits ?? {},
    }
    try {
      current.set = new WorkerSet(plan, executor, current.book.history, onEnd)
    } catch (error) {
      await executor.release()
      throw error
    }
  } else {
    refuseOther(current.set.plan, wanted)
    current.set.executor.share(wanted.executor)
  }
  current.set.reserve()
  return current.set
}

function refuseOther({ size, restarts, resourceLimits }: SetPlan, wanted: SharedSettings): void {
  const running = { shards: size, ...restarts, resourceLimits }
  for (const [name, value] of Object.entries(running)) {
    const given = wanted[name as keyof SharedSettings]
    if (given === null || isDeepStrictEqual(given, value)) continue
    throw wrong(name, given, `${show(value)}, as all servers of a process share its shards`)
  }
}
