import { ShardloopError } from '../errors.js'
import { native } from '../native/index.js'
import { threadSingleton } from '../workers/thread-singleton.js'
import { CallBook } from './call-book.js'
import type { EndedCall, ShardMessage, SupervisorMessage } from './messages.js'
import { readServerMetrics, type ServerMetrics } from './metrics.js'
import { programEntry, tsxApi } from './program-entry.js'
import type { ShardControl, ShardDeath, ShardGroup, ShardUser } from './shard-control.js'
import { WorkerShard } from './worker-shard.js'

/** The process's shards in worker threads, shared by its servers: they start with the first and end with the last. */
export class WorkerSet implements ShardGroup {
  readonly size: number
  readonly #history: readonly EndedCall[]
  readonly #onEnd: () => void
  readonly #users = new Set<ShardUser>()
  readonly #tokens: readonly number[]
  #shards: WorkerShard[] = []
  /** Servers that have joined and not left, those that are not users yet included. */
  #members = 0
  #ending: Promise<ShardDeath | null> | null = null
  #lastMetrics: ServerMetrics | null = null
  /** Whether a shard died; then its servers end, and a new one takes new shards. */
  #broken = false

  /** @param history calls that are over, for the shards to match the program's calls with */
  constructor(size: number, history: readonly EndedCall[], onEnd: () => void) {
    this.size = size
    this.#history = history
    this.#onEnd = onEnd
    this.#tokens = Array.from({ length: size }, () => native.allocateMetrics())
  }

  /** Whether another server can still join. */
  get isOpen(): boolean {
    return this.#ending === null && !this.#broken
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
  }

  start(): readonly ShardControl[] {
    if (this.#broken)
      throw new ShardloopError('ERR_SHARDLOOP_START', 'a shard that this server was to share has died')
    if (this.#shards.length === this.size) return this.#shards
    // It stays so when a thread cannot be made: what there is ends with the servers that wanted it.
    this.#broken = true
    const program = { entry: programEntry(), tsxApi: tsxApi(), metricsTokens: this.#tokens }
    for (let shardId = 0; shardId < this.size; shardId += 1) {
      const shard = new WorkerShard(
        { ...program, shardId },
        {
          controlled: (message) => this.#control(message),
          ended: (death) => this.#shardEnded(death),
        },
      )
      this.#shards.push(shard)
      for (const call of this.#history) shard.send({ type: 'ended', call })
    }
    this.#broken = false
    return this.#shards
  }

  announce(message: SupervisorMessage): void {
    for (const shard of this.#shards) shard.send(message)
  }

  metrics(): ServerMetrics {
    return this.#lastMetrics ?? readServerMetrics(this.#tokens)
  }

  async leave(user: ShardUser): Promise<ShardDeath | null> {
    this.#users.delete(user)
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

  #end(how: 'stop' | 'cancel'): Promise<ShardDeath | null> {
    this.#ending ??= this.#endShards(how)
    return this.#ending
  }

  async #endShards(how: 'stop' | 'cancel'): Promise<ShardDeath | null> {
    // Those that died before were reported then.
    const living = this.#shards.filter((shard) => !shard.hasEnded)
    const deaths = await Promise.all(living.map((shard) => (how === 'stop' ? shard.stop() : shard.cancel())))
    this.#lastMetrics = readServerMetrics(this.#tokens)
    for (const token of this.#tokens) native.freeMetrics(token)
    this.#onEnd()
    return deaths.find((death) => death.error !== undefined) ?? null
  }

  #shardEnded(death: ShardDeath): void {
    if (this.#ending !== null) return
    this.#broken = true
    for (const user of [...this.#users]) user.shardDied(death)
  }

  #control(message: Extract<ShardMessage, { type: 'control' }>): void {
    const user = [...this.#users].find(({ key }) => key === message.key)
    if (message.action === 'abort') void user?.abort()
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

/**
 * The shards that run, or new ones; kept for the caller until it leaves. Waits for shards that are on their way out.
 * @param size how many the caller wants; null takes those that run
 * @throws ShardloopError ERR_SHARDLOOP_OPTION when another number of shards runs
 */
export async function joinWorkerSet(size: number | null, automatic: () => number): Promise<WorkerSet> {
  const current = slot()
  while (current.set !== null && !current.set.isOpen) await current.ended
  if (current.set === null) {
    let onEnd = (): void => {}
    current.ended = new Promise((resolve) => {
      onEnd = () => {
        current.set = null
        resolve()
      }
    })
    current.set = new WorkerSet(size ?? automatic(), current.book.ended, onEnd)
  } else if (size !== null && size !== current.set.size) {
    throw new ShardloopError(
      'ERR_SHARDLOOP_OPTION',
      `option shards: expected ${current.set.size}, as all servers of a process share its shards, given ${size}`,
    )
  }
  current.set.reserve()
  return current.set
}
