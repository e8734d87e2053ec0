import { isMainThread, type TransferListItem } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { TASK_EXPECTED, taskOf } from '../server/executor-options.js'
import {
  type ExecutorClient,
  executorClient,
  forgetExecutorClient,
  type PendingTask,
  releaseExecutor,
  type TaskCall,
} from '../workers/executor-client.js'
import { invalid } from '../workers/invalid.js'
import { takeOptions } from './connection-options.js'

/** Options of `runInExecutor`. */
export interface ExecutorTaskOptions {
  /** Which export of the module is the function. Default: the default export. With a name of `executor.tasks` it means the same. */
  readonly name?: string
  /** Gives the task up: the promise rejects with the signal's reason at once, and the thread that runs it is ended. */
  readonly signal?: AbortSignal
  /** What moves to the executor's thread instead of being copied, as for `postMessage`. */
  readonly transferList?: readonly TransferListItem[]
}

/** What a loop has in the executor. */
export class LoopTasks {
  readonly #pending = new Set<PendingTask>()

  /** Throws what is wrong with its arguments. */
  run(task: unknown, args: unknown, options: unknown): Promise<unknown> {
    const call = parseCall(task, args, options)
    call.signal?.throwIfAborted()
    const pending = executorClient(connectMain).run(call, (settled) => void this.#pending.delete(settled))
    this.#pending.add(pending)
    return pending.result
  }

  /** Rejects what is outstanding. Resolves when the executor's threads are gone, if the loop was their last user. */
  async close(): Promise<void> {
    const reason = new ShardloopError(
      'ERR_SHARDLOOP_CLOSED',
      'the loop was closed before the task had a result',
    )
    for (const pending of [...this.#pending]) pending.cancel(reason)
    await releaseExecutor()
  }
}

type ExecutorModule = typeof import('../server/executor.js')

/** Which attempt to load the executor is next. */
let attempt = 0
/** A shard does not load it, and the main thread with the package, when a descriptor is as free as for the rest of it. */
let loading = isMainThread ? loadExecutor() : undefined

/** Node keeps that an import has failed; so the next attempt is at another URL. The executor is the process's, whichever that is. */
function loadExecutor(): Promise<ExecutorModule> {
  const loaded: Promise<ExecutorModule> =
    attempt === 0
      ? import('../server/executor.js')
      : import(new URL(`../server/executor.js?attempt=${attempt}`, import.meta.url).href)
  loaded.catch(() => {}) // who has a task hears of it
  return loaded
}

function connectMain(client: ExecutorClient): void {
  loading ??= loadExecutor()
  loading.then(
    ({ executor }) => {
      const connection = executor().connect((refusal) => client.refused(refusal))
      client.connect(
        (request) => connection.receive(request),
        () => executor().release(),
      )
    },
    (error: unknown) => {
      attempt += 1
      loading = undefined
      forgetExecutorClient(client)
      client.fail(error)
    },
  )
}

function parseCall(task: unknown, args: unknown, options: unknown): TaskCall {
  if (!Array.isArray(args)) throw invalid('args', args, 'an array of the arguments of the task')
  const given = takeOptions('runInExecutor', options)
  const exported = given.name() ?? null
  const signal = given.signal()
  const transferList = given.transferList()
  given.refuseUnknown()
  const name = taskOf(task)
  if (name === null) throw invalid('task', task, TASK_EXPECTED)
  return { task: name, exported, args, transferList, signal }
}
