import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import type { MessagePort, Worker } from 'node:worker_threads'
import { Deferred } from '../deferred.js'
import { ShardloopError } from '../errors.js'
import { EXECUTOR_IMPORT_GRACE_MS, EXECUTOR_STOP_GRACE_MS } from '../limits.js'
import { executorFull } from '../workers/executor-client.js'
import {
  count,
  EXECUTOR_CANCELLED,
  EXECUTOR_COMPLETED,
  EXECUTOR_FAILED,
  EXECUTOR_QUEUE_TIME,
  EXECUTOR_QUEUED,
  EXECUTOR_REFUSED,
  EXECUTOR_RUN_TIME,
  EXECUTOR_RUNNING,
  EXECUTOR_THREADS,
  type ExecutorCounters,
  recordTime,
} from '../workers/executor-counters.js'
import {
  TASK_CANCELLED,
  TASK_IMPORTING,
  type TaskOrder,
  type TaskReport,
} from '../workers/executor-messages.js'
import { threadLog } from '../workers/thread-log.js'
import type { ExecutorPlan } from './executor-options.js'
import { type PiscinaThread, WaitingTasks } from './executor-waiting.js'
import { programEntry, shardExecArgv, tsxApi } from './program-entry.js'

/** Somebody's task that the pool has. */
export interface PooledTask {
  /** Whose it is; threads take turns. */
  readonly owner: object
  readonly module: string
  readonly exported: string | null
  readonly calledMs: number
  readonly port: MessagePort
  /**
   * It is done with, whichever way, but for a cancel. Called once.
   * @param error why its caller will not have a reply; null when it has one
   */
  ended(error: unknown): void
}

/**
 * As much of piscina as is used here. Its own declarations do not pass `exactOptionalPropertyTypes`, and with them neither would
 * programs that use this package.
 */
interface Piscina {
  readonly threads: Worker[]
  readonly idleThreads: number
  run(order: TaskOrder, options: { transferList: MessagePort[]; signal: AbortSignal }): Promise<TaskReport>
  destroy(): Promise<void>
  on(event: 'error', listener: (error: unknown) => void): this
  on(event: 'workerCreate', listener: (thread: PiscinaThread) => void): this
}

interface PiscinaModule {
  readonly Piscina: new (options: Readonly<Record<string, unknown>>) => Piscina
}

/**
 * By `require`, which Node tries anew after it failed; of an `import` it keeps the failure. It reads package.json now, for Node
 * keeps that it was not read, too.
 */
const require = createRequire(import.meta.url)
const PISCINA: string = resolved('piscina')

/** The file of a package; its name when it is not there, which is told by whoever requires it. */
function resolved(name: string): string {
  try {
    return require.resolve(name)
  } catch {
    return name
  }
}

/** A task that a thread runs, or is about to. */
interface Run {
  /** See {@link TaskOrder}. */
  readonly state: Int32Array
  /** Ends its thread. */
  readonly controller: AbortController
  isCancelled: boolean
  /** Runs while a cancelled one imports. */
  timer: NodeJS.Timeout | undefined
  /** Its caller has the result, and it will be over in a moment. */
  hasReplied: boolean
}

const THREAD_FILE = fileURLToPath(new URL('../workers/executor-thread.js', import.meta.url))

/**
 * The executor's threads, which piscina starts, feeds and ends, and the queue before them. The queue is ours, so that callers
 * take turns: one shard's thousand tasks do not keep another's single one waiting. piscina is given a task when a thread is
 * free for it, or may be started. A task that is cancelled while its module is imported leaves its thread alone, which goes on
 * to the next one, unless the import takes long. A thread that was terminated counts until it is gone, which takes as long as native code
 * holds it; so however often tasks are aborted, there are never more than `maxThreads` threads.
 */
export class ExecutorPool {
  readonly plan: ExecutorPlan
  readonly #counters: ExecutorCounters
  readonly #tsxApi: string | null = tsxApi()
  /** What waits, by whose it is; who is first in the map is next. */
  readonly #queues = new Map<object, Set<PooledTask>>()
  #queued = 0
  #told = { threads: 0, running: 0, queued: 0 }
  /** In the order in which piscina got them. */
  readonly #runs = new Map<PooledTask, Run>()
  /** Those that have not ended. */
  readonly #threads = new Set<Worker>()
  #piscina: Piscina | null = null
  #isLoading = false
  readonly #waiting = new WaitingTasks()
  #isRetired = false
  /** Resolves when it is retired and the last thread is gone. */
  readonly #ended = new Deferred<void>()
  /** What the latest thread died of that had no task. */
  #lastDeath: unknown

  constructor(plan: ExecutorPlan, counters: ExecutorCounters) {
    this.plan = plan
    this.#counters = counters
  }

  submit(task: PooledTask): void {
    const { maxThreads, maxQueue } = this.plan
    if (this.#queued + this.#runs.size >= maxThreads + maxQueue) {
      count(this.#counters, EXECUTOR_REFUSED)
      task.port.close()
      task.ended(executorFull(`${this.#queued + this.#runs.size} tasks run or wait`))
      return
    }
    let queue = this.#queues.get(task.owner)
    if (queue === undefined) {
      queue = new Set()
      this.#queues.set(task.owner, queue)
    }
    queue.add(task)
    this.#queued += 1
    if (this.#piscina === null && !this.#isLoading) this.#load()
    this.#dispatch()
  }

  /** Takes a task out of the queue, or ends the thread that runs it. */
  cancel(task: PooledTask): void {
    const run = this.#runs.get(task)
    if (run !== undefined) {
      if (run.isCancelled) return
      run.isCancelled = true
      const state = Atomics.compareExchange(run.state, 0, TASK_IMPORTING, TASK_CANCELLED)
      if (state !== TASK_IMPORTING) this.#break(task, run)
      else run.timer = setTimeout(() => this.#break(task, run), EXECUTOR_IMPORT_GRACE_MS).unref()
    } else if (this.#unqueue(task)) task.port.close()
    else return
    count(this.#counters, EXECUTOR_CANCELLED)
    this.#dispatch()
    this.#endIfOver()
  }

  /** Ends the thread of a task. */
  #break(task: PooledTask, run: Run): void {
    this.#over(task, run)
    run.controller.abort()
    task.port.close()
    this.#dispatch()
    this.#endIfOver()
  }

  /** The caller says that it has the result. */
  replied(task: PooledTask): void {
    const run = this.#runs.get(task)
    if (run !== undefined) run.hasReplied = true
  }

  /**
   * It gets no more tasks, and its threads end when those that it has are over. Resolves when the threads are gone or past a
   * grace; at once where somebody still waits for a task.
   */
  async retire(): Promise<void> {
    this.#isRetired = true
    const isWaitedFor =
      this.#queued > 0 || [...this.#runs.values()].some((run) => !run.hasReplied && !run.isCancelled)
    this.#endIfOver()
    if (isWaitedFor) return
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, EXECUTOR_STOP_GRACE_MS)
    })
    await Promise.race([late, this.#ended.promise])
    clearTimeout(timer)
    if (this.#threads.size > 0)
      threadLog().write('warn', 'threads of the executor do not end: native code of their tasks holds them', {
        threads: this.#threads.size,
      })
  }

  #endIfOver(): void {
    if (!this.#isRetired || this.#queued > 0 || this.#runs.size > 0) return
    const piscina = this.#piscina
    if (this.#threads.size === 0) this.#ended.resolve()
    // Threads that start import, too: they are waited for. What `destroy` waits for is not bounded.
    else if (piscina !== null && piscina.idleThreads === piscina.threads.length)
      piscina.destroy().catch(() => {})
  }

  /** piscina is loaded by the first task, so that programs without tasks do without; when that fails, again by the next one. */
  #load(): void {
    this.#isLoading = true
    setImmediate(() => {
      this.#isLoading = false
      if (this.#isRetired && this.#queued === 0) return
      try {
        this.#piscina = this.#makePiscina()
      } catch (error) {
        this.#refuseAll(error)
        return
      }
      this.#dispatch()
      this.#endIfOver() // when no thread could be started
    })
  }

  #makePiscina(): Piscina {
    const { Piscina } = require(PISCINA) as PiscinaModule
    const { maxThreads, idleTimeoutMs, resourceLimits } = this.plan
    const execArgv = shardExecArgv()
    const piscina = new Piscina({
      filename: THREAD_FILE,
      minThreads: 0,
      maxThreads,
      idleTimeout: idleTimeoutMs,
      concurrentTasksPerWorker: 1,
      stricterFIFO: true,
      taskQueue: this.#waiting,
      // Between tasks a thread's own timers and sockets go on, as anywhere; else it would wait in Atomics.wait.
      atomics: 'disabled',
      recordTiming: false,
      argv: process.argv.slice(programEntry() === null ? 1 : 2),
      resourceLimits,
      ...(execArgv && { execArgv }),
    })
    // Without a listener it would end the process.
    piscina.on('error', (error: unknown) => {
      this.#lastDeath = error
      threadLog().write('error', 'a thread of the executor died between tasks', { err: error })
    })
    // Behind the event, when piscina counts the thread among those that are free.
    piscina.on('workerCreate', (thread) => {
      this.#waiting.started(thread)
      queueMicrotask(() => {
        this.#dispatch()
        this.#endIfOver()
      })
    })
    return piscina
  }

  #refuseAll(error: unknown): void {
    for (const queue of [...this.#queues.values()])
      for (const task of [...queue]) {
        this.#unqueue(task)
        task.port.close()
        this.#fail(task, error)
      }
  }

  #dispatch(): void {
    const piscina = this.#piscina
    while (piscina !== null && this.#queued > 0 && this.#hasThread(piscina))
      this.#start(piscina, this.#next())
    this.#tell()
  }

  /** Whether a task would be run at once, by a thread that is free or one that may be started for it. */
  #hasThread(piscina: Piscina): boolean {
    if (piscina.idleThreads > 0) return true
    // One that starts without a task, as the task was cancelled meanwhile, will be free.
    if (piscina.threads.length > this.#runs.size) return false
    return this.#threads.size < this.plan.maxThreads
  }

  #next(): PooledTask {
    const [[owner, queue]] = this.#queues as unknown as Iterable<[object, Set<PooledTask>]> as [
      [object, Set<PooledTask>],
    ]
    const [task] = queue as unknown as [PooledTask]
    this.#unqueue(task)
    // Behind the others.
    if (this.#queues.delete(owner)) this.#queues.set(owner, queue)
    return task
  }

  #unqueue(task: PooledTask): boolean {
    const queue = this.#queues.get(task.owner)
    if (!queue?.delete(task)) return false
    if (queue.size === 0) this.#queues.delete(task.owner)
    this.#queued -= 1
    return true
  }

  #start(piscina: Piscina, task: PooledTask): void {
    const { port, module, exported } = task
    const state = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
    const controller = new AbortController()
    const run: Run = { state, controller, isCancelled: false, timer: undefined, hasReplied: false }
    this.#runs.set(task, run)
    const order: TaskOrder = { port, module, exported, state, tsxApi: this.#tsxApi }
    const give = (): Promise<TaskReport> =>
      piscina.run(order, { transferList: [port], signal: controller.signal })
    let reported: Promise<TaskReport>
    try {
      reported = piscina.idleThreads > 0 ? give() : this.#waiting.give(give)
    } catch (cause) {
      // Node cannot start a thread: the system has no more, or no memory for its stack.
      this.#over(task, run)
      port.close()
      count(this.#counters, EXECUTOR_FAILED)
      task.ended(threadDied(task, cause))
      return // whoever dispatches goes on, and tries again for the next task
    }
    reported.then(
      (report: TaskReport) => this.#reported(task, run, report),
      (error: unknown) => this.#died(task, run, error),
    )
    for (const thread of piscina.threads) this.#watch(thread)
  }

  #reported(task: PooledTask, run: Run, { startedMs, endedMs, hasFailed }: TaskReport): void {
    this.#over(task, run)
    if (!run.isCancelled) {
      recordTime(this.#counters, EXECUTOR_QUEUE_TIME, startedMs - task.calledMs)
      recordTime(this.#counters, EXECUTOR_RUN_TIME, endedMs - startedMs)
      count(this.#counters, hasFailed ? EXECUTOR_FAILED : EXECUTOR_COMPLETED)
      task.ended(null)
    }
    this.#dispatch()
    this.#endIfOver()
  }

  /** Nothing of it is with piscina any more. */
  #over(task: PooledTask, run: Run): void {
    clearTimeout(run.timer)
    this.#runs.delete(task)
  }

  #died(task: PooledTask, run: Run, cause: unknown): void {
    this.#over(task, run)
    task.port.close()
    if (run.isCancelled) {
      this.#dispatch()
      this.#endIfOver()
      return
    }
    this.#fail(task, threadDied(task, cause))
  }

  #fail(task: PooledTask, error: unknown): void {
    count(this.#counters, EXECUTOR_FAILED)
    task.ended(error)
    this.#dispatch()
    this.#endIfOver()
  }

  #watch(thread: Worker): void {
    if (this.#threads.has(thread)) return
    this.#threads.add(thread)
    thread.once('exit', () => {
      this.#threads.delete(thread)
      this.#tell()
      this.#endIfOver()
      // Behind what piscina makes of it for the task of that thread.
      setImmediate(() => {
        this.#refuseThreadless()
        this.#dispatch()
      })
    })
  }

  /** A thread that dies before it is ready leaves its task with piscina, which starts no other for it. */
  #refuseThreadless(): void {
    const piscina = this.#piscina
    if (piscina === null) return
    const missing = this.#runs.size - piscina.threads.length
    if (missing <= 0) return
    // piscina serves them in order, so it is the last ones that wait.
    for (const [task, run] of [...this.#runs].slice(-missing)) {
      this.#died(task, run, this.#lastDeath ?? new Error('it could not start'))
      run.isCancelled = true // what piscina says of it is nobody's
      run.controller.abort()
    }
  }

  /** Adds what has changed, for threads of a pool that ends may be there beside those of the next one. */
  #tell(): void {
    this.#told = {
      threads: this.#add(EXECUTOR_THREADS, this.#threads.size, this.#told.threads),
      running: this.#add(EXECUTOR_RUNNING, this.#runs.size, this.#told.running),
      queued: this.#add(EXECUTOR_QUEUED, this.#queued, this.#told.queued),
    }
  }

  #add(counter: number, now: number, told: number): number {
    if (now !== told) count(this.#counters, counter, now - told)
    return now
  }
}

function threadDied({ module }: PooledTask, cause: unknown): ShardloopError {
  const reason = cause instanceof Error ? cause.message : String(cause)
  const message = `the executor's thread ended before ${module} had a result: ${reason}`
  return new ShardloopError('ERR_SHARDLOOP_EXECUTOR_DIED', message, { cause })
}
