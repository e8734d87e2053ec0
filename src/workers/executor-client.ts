import { isMainThread, MessageChannel, type MessagePort, type TransferListItem } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { EXECUTOR_QUEUE_DEFAULT } from '../limits.js'
import { monotonicTime } from './clock.js'
import { unpackError } from './error-transfer.js'
import {
  count,
  EXECUTOR_PENDING_MAX,
  EXECUTOR_REFUSED,
  type ExecutorCounters,
  executorCounters,
} from './executor-counters.js'
import { packArguments } from './executor-memory.js'
import type { ExecutorRefusal, ExecutorRequest, TaskReply } from './executor-messages.js'
import { shardIdentity } from './identity.js'
import { unwatchSignal, watchSignal } from './shared-signals.js'
import { threadSingleton } from './thread-singleton.js'

/** What is to be run, as it was checked. */
export interface TaskCall {
  /** URL of a module, or a name of `executor.tasks`. */
  readonly task: string
  readonly exported: string | null
  readonly args: readonly unknown[]
  readonly transferList: readonly TransferListItem[]
  readonly signal: AbortSignal | undefined
}

/** A task that has not come to its end. */
export interface PendingTask {
  readonly result: Promise<unknown>
  /** Rejects it, and has the executor end what runs of it. */
  cancel(reason: unknown): void
}

/** Takes a thread's requests to the executor. */
export type SendRequest = (request: ExecutorRequest) => void

/** The tasks that a thread, the main one or a shard's, has in the executor. */
export class ExecutorClient {
  readonly #counters: ExecutorCounters = executorCounters()
  readonly #pending = new Map<number, Task>()
  /** What waits until the executor can be reached: on the main thread its code is loaded for the first task. */
  #unsent: ExecutorRequest[] | null = []
  #send: SendRequest = (request) => this.#unsent?.push(request)
  #release: (() => Promise<void>) | null = null
  #lastId = 0
  #closed: ShardloopError | null = null

  /**
   * The executor can be reached from now on.
   * @param release has it end its threads if nobody else uses them; null where they are not this thread's affair
   */
  connect(send: SendRequest, release: (() => Promise<void>) | null): void {
    this.#release = release
    const unsent = this.#unsent ?? []
    this.#unsent = null
    this.#send = send
    for (const request of unsent) send(request)
  }

  /** The executor cannot be reached: what waits for it is rejected. Only for one that is forgotten. */
  fail(error: unknown): void {
    for (const task of [...this.#pending.values()]) task.cancel(error)
    for (const request of this.#unsent ?? []) if (request.type === 'run') request.port.close()
    this.#unsent = null
  }

  /**
   * Copies the arguments, and hands the task to the executor.
   * @param settled called once when it has come to its end, whichever
   * @throws ShardloopError ERR_SHARDLOOP_EXECUTOR_FULL, ERR_SHARDLOOP_ARGUMENT for arguments that cannot be sent
   */
  run(call: TaskCall, settled: (task: PendingTask) => void): PendingTask {
    if (this.#closed !== null) throw this.#closed
    const max = Number(Atomics.load(this.#counters, EXECUTOR_PENDING_MAX)) || EXECUTOR_QUEUE_DEFAULT
    if (this.#pending.size >= max) {
      count(this.#counters, EXECUTOR_REFUSED)
      throw executorFull(`${max} tasks of this thread run or wait`)
    }
    const { port1, port2 } = new MessageChannel()
    try {
      const { value, transferList } = packArguments(call.args, call.transferList)
      port1.postMessage(value, transferList)
    } catch (cause) {
      port1.close()
      const message = `the arguments of ${call.task} cannot be sent to another thread: ${(cause as Error).message}`
      throw new ShardloopError('ERR_SHARDLOOP_ARGUMENT', message, { cause })
    }
    this.#lastId += 1
    const id = this.#lastId
    const task = new Task(port1, call.signal, (isOver) => {
      this.#pending.delete(id)
      if (!isOver) this.#send({ type: 'cancel', id })
      else if (this.#release !== null) this.#send({ type: 'replied', id })
      settled(task)
    })
    this.#pending.set(id, task)
    const { task: name, exported } = call
    this.#send({ type: 'run', id, task: name, exported, calledMs: monotonicTime() * 1000, port: port2 })
    return task
  }

  /** The executor says that a task will not reply. */
  refused({ id, error }: ExecutorRefusal): void {
    this.#pending.get(id)?.refuse(unpackError(error))
  }

  /** A loop of the thread is closed, and has no tasks any more. */
  async release(): Promise<void> {
    await this.#release?.()
  }

  /** For good: the thread ends. */
  close(reason: ShardloopError): void {
    this.#closed = reason
    for (const task of [...this.#pending.values()]) task.cancel(reason)
  }
}

class Task implements PendingTask {
  readonly result: Promise<unknown>
  readonly #port: MessagePort
  readonly #signal: AbortSignal | undefined
  readonly #settled: (isOver: boolean) => void
  #resolve!: (value: unknown) => void
  #reject!: (reason: unknown) => void
  #isSettled = false

  /** @param settled told whether the executor is done with it, too */
  constructor(port: MessagePort, signal: AbortSignal | undefined, settled: (isOver: boolean) => void) {
    this.#port = port
    this.#signal = signal
    this.#settled = settled
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // An open port keeps the thread alive for as long as somebody waits, as a timer does.
    port.on('message', (reply: TaskReply) => this.#replied(reply))
    port.on('messageerror', (error: unknown) => this.refuse(error))
    if (signal !== undefined) watchSignal(signal, this)
  }

  cancel(reason: unknown): void {
    if (!this.#settle(false)) return
    // Who waits for it gets the rejection; when nobody does, as the program has closed its loop, it is nothing to report.
    this.result.catch(() => {})
    this.#reject(reason)
  }

  refuse(error: unknown): void {
    if (this.#settle(true)) this.#reject(error)
  }

  #replied(reply: TaskReply): void {
    if (!this.#settle(true)) return
    if (reply.isResult) this.#resolve(reply.value)
    else this.#reject(unpackError(reply.error))
  }

  /** The signal's. */
  handleEvent(): void {
    this.cancel(this.#signal?.reason)
  }

  /** Whether it was not settled before. */
  #settle(isOver: boolean): boolean {
    if (this.#isSettled) return false
    this.#isSettled = true
    if (this.#signal !== undefined) unwatchSignal(this.#signal, this)
    this.#port.close()
    this.#settled(isOver)
    return true
  }
}

/** @param state what is full */
export function executorFull(state: string): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_EXECUTOR_FULL',
    `${state} in the executor, as many as executor.maxThreads and executor.maxQueue allow: wait for some of them, or ` +
      'raise executor.maxQueue in the options of createServer',
  )
}

/** What the thread has of the executor. */
interface ClientSlot {
  client: ExecutorClient | null
}

function slot(): ClientSlot {
  return threadSingleton<ClientSlot>('executor-client', () => ({ client: null }))
}

/**
 * This thread's.
 * @param connectMain has the executor of this very thread connected, on the main thread
 * @throws ShardloopError ERR_SHARDLOOP_STATE in a worker thread of the program's own
 */
export function executorClient(connectMain: (client: ExecutorClient) => void): ExecutorClient {
  const current = slot()
  if (current.client !== null) return current.client
  const port = shardIdentity()?.executorPort
  if (port === undefined && !isMainThread) {
    throw new ShardloopError(
      'ERR_SHARDLOOP_STATE',
      "runInExecutor was called in a worker thread of the program's own, or in a task: the executor serves the main thread " +
        'and shards. Call it there and send the result here by postMessage, or compute in this very thread',
    )
  }
  const client = new ExecutorClient()
  current.client = client
  if (port === undefined) connectMain(client)
  else {
    port.on('message', (refusal: ExecutorRefusal) => client.refused(refusal))
    port.unref() // tasks keep the thread alive, and this does not
    client.connect((request) => port.postMessage(request, request.type === 'run' ? [request.port] : []), null)
  }
  return client
}

/** One that has failed is not this thread's any more: the next task makes another one. */
export function forgetExecutorClient(client: ExecutorClient): void {
  const current = slot()
  if (current.client === client) current.client = null
}

/** What is left to do when a loop of this thread, whose tasks are over, is closed. */
export async function releaseExecutor(): Promise<void> {
  await slot().client?.release()
}

/** The thread's tasks are over, for the thread is about to end. */
export function closeExecutorClient(): void {
  const reason = new ShardloopError('ERR_SHARDLOOP_CLOSED', 'the shard ends, as no server is left')
  slot().client?.close(reason)
}
