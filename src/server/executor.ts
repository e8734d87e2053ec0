import { isMainThread, type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { packError } from '../workers/error-transfer.js'
import {
  count,
  EXECUTOR_CANCELLED,
  EXECUTOR_FAILED,
  EXECUTOR_PENDING_MAX,
  type ExecutorCounters,
  executorCounters,
  set,
} from '../workers/executor-counters.js'
import type { ExecutorRefusal, ExecutorRequest } from '../workers/executor-messages.js'
import { threadSingletonGetter } from '../workers/thread-singleton.js'
import {
  addTaskNames,
  type ExecutorPlan,
  type ExecutorSettings,
  planFor,
  refuseOtherPlan,
  resolveTask,
} from './executor-options.js'
import { ExecutorPool, type PooledTask } from './executor-pool.js'
import { wrong } from './given-options.js'

/** Keeps the executor as it is, for servers. */
export interface ExecutorHold {
  /** Another server shares it. @throws ShardloopError ERR_SHARDLOOP_OPTION when it wants another one */
  share(wanted: ExecutorSettings | null): void
  /** The servers are over. Resolves when the threads are gone, if these were the last. */
  release(): Promise<void>
}

/**
 * The executor of the process: it belongs to the main thread and serves all shards. What it is is decided by the first server,
 * or else by the first task; it is there until the last server and its tasks are over.
 */
export class Executor {
  readonly #counters: ExecutorCounters = executorCounters()
  readonly #names = new Map<string, string>()
  #plan: ExecutorPlan | null = null
  #pool: ExecutorPool | null = null
  #holds = 0

  /** @throws ShardloopError ERR_SHARDLOOP_OPTION when what runs is not what is wanted */
  hold(wanted: ExecutorSettings | null): ExecutorHold {
    // Made for tasks before there was a server: another takes its place, and it ends when they do.
    if (this.#holds === 0) void this.#end()
    this.#share(wanted)
    this.#holds += 1
    let isHeld = true
    return {
      share: (another) => this.#share(another),
      release: async () => {
        if (isHeld) this.#holds -= 1
        isHeld = false
        await this.release()
      },
    }
  }

  /** Ends it, unless a server holds it; threads with tasks end behind them. Resolves when the others are gone. */
  async release(): Promise<void> {
    if (this.#holds === 0) await this.#end()
  }

  /** A thread that has tasks. @param refuse tells it what will not reply */
  connect(refuse: (refusal: ExecutorRefusal) => void): ExecutorConnection {
    return new ExecutorConnection(this, refuse)
  }

  /** @internal Throws what is wrong with it. */
  submit(
    task: string,
    make: (module: string) => PooledTask,
  ): { readonly pool: ExecutorPool; readonly task: PooledTask } {
    const pooled = make(resolveTask(this.#names, task))
    this.#pool ??= new ExecutorPool(this.#decide(null), this.#counters)
    this.#pool.submit(pooled)
    return { pool: this.#pool, task: pooled }
  }

  /** @internal Counts a task that no pool has seen. */
  count(counter: number): void {
    count(this.#counters, counter)
  }

  #share(wanted: ExecutorSettings | null): void {
    if (this.#plan !== null) refuseOtherPlan(this.#plan, wanted)
    addTaskNames(this.#names, wanted)
    this.#decide(wanted)
  }

  #decide(wanted: ExecutorSettings | null): ExecutorPlan {
    this.#plan ??= planFor(wanted)
    set(this.#counters, EXECUTOR_PENDING_MAX, this.#plan.maxThreads + this.#plan.maxQueue)
    return this.#plan
  }

  async #end(): Promise<void> {
    const pool = this.#pool
    this.#pool = null
    this.#plan = null
    this.#names.clear()
    set(this.#counters, EXECUTOR_PENDING_MAX, 0)
    await pool?.retire()
  }
}

/** One thread's way to the executor, on the main thread. */
export class ExecutorConnection {
  readonly #executor: Executor
  readonly #refuse: (refusal: ExecutorRefusal) => void
  readonly #tasks = new Map<number, { readonly pool: ExecutorPool; readonly task: PooledTask }>()
  #isOver = false

  constructor(executor: Executor, refuse: (refusal: ExecutorRefusal) => void) {
    this.#executor = executor
    this.#refuse = refuse
  }

  receive(request: ExecutorRequest): void {
    if (request.type === 'run') return this.#run(request)
    const known = this.#tasks.get(request.id)
    if (known === undefined) return
    if (request.type === 'replied') return known.pool.replied(known.task)
    this.#tasks.delete(request.id)
    known.pool.cancel(known.task)
  }

  /** The thread is gone: its tasks are cancelled. */
  end(): void {
    this.#isOver = true
    const left = [...this.#tasks.values()]
    this.#tasks.clear()
    for (const { pool, task } of left) pool.cancel(task)
  }

  #run({ id, task, exported, calledMs, port }: ExecutorRequest & { type: 'run' }): void {
    if (this.#isOver) {
      this.#executor.count(EXECUTOR_CANCELLED)
      return port.close()
    }
    let hasEnded = false
    const ended = (error: unknown): void => {
      hasEnded = true
      this.#tasks.delete(id)
      if (error !== null && !this.#isOver) this.#refuse({ id, error: packError(error) })
    }
    try {
      const make = (module: string): PooledTask => ({ owner: this, module, exported, calledMs, port, ended })
      const submitted = this.#executor.submit(task, make)
      if (!hasEnded) this.#tasks.set(id, submitted)
    } catch (error) {
      port.close()
      this.#executor.count(EXECUTOR_FAILED)
      ended(error)
    }
  }
}

/** That of the process; for the main thread. */
export const executor: () => Executor = threadSingletonGetter('executor', () => new Executor())

const NOTHING_TO_HOLD: ExecutorHold = { share: () => {}, release: async () => {} }

/**
 * Keeps the executor for a server.
 * @throws ShardloopError ERR_SHARDLOOP_OPTION when what runs is not what is wanted
 */
export function holdExecutor(wanted: ExecutorSettings | null): ExecutorHold {
  if (isMainThread) return executor().hold(wanted)
  if (wanted === null) return NOTHING_TO_HOLD
  throw wrong(
    'executor',
    wanted,
    "nothing in this thread: the executor is the main thread's, whose servers have it",
  )
}

/** A shard's way to the executor, through a port of its own: what comes here does not delay the orders. */
export class ShardTasks {
  readonly #port: MessagePort
  readonly #connection: ExecutorConnection

  constructor(port: MessagePort) {
    this.#port = port
    this.#connection = executor().connect((refusal) => port.postMessage(refusal))
    port.on('message', (request: ExecutorRequest) => this.#connection.receive(request))
    // The shard's thread keeps the process alive, and only as long as it runs.
    port.unref()
  }

  /** Its thread has ended. */
  end(): void {
    this.#connection.end()
    // What it asked for before its end may still wait in the port; it is counted.
    for (let next = receiveMessageOnPort(this.#port); next; next = receiveMessageOnPort(this.#port)) {
      this.#connection.receive(next.message as ExecutorRequest)
    }
    this.#port.close()
  }
}
