import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads'
import { Deferred } from '../deferred.js'
import { ShardloopError } from '../errors.js'
import { SHARD_RELEASE_TIMEOUT_MS, SHARD_STOP_GRACE_MS } from '../limits.js'
import { METRIC_RESETS_SHARD_DEATH } from '../native/abi.js'
import { unpackError } from '../workers/error-transfer.js'
import { executorCounters } from '../workers/executor-counters.js'
import { IDENTITY_KEY, type ShardIdentity } from '../workers/identity.js'
import { ShardTasks } from './executor.js'
import type { ServeOrder, ShardMessage, ShardRequest, SupervisorMessage } from './messages.js'
import { readCounter } from './metrics.js'
import { shardExecArgv } from './program-entry.js'
import type { DrainSteps, ShardDeath } from './shard-control.js'

/** Who is told what a shard says that is not the answer to an order. */
export interface ShardObserver {
  controlled(message: ShardRequest): void
  /** Its thread has ended, whoever wanted that. */
  ended(death: ShardDeath): void
}

/** Bounds of a shard's JavaScript memory, as `new Worker` takes them. What is left out is Node's own default. */
export interface ShardResourceLimits {
  /** Main heap, in MiB. A shard that needs more ends with ERR_WORKER_OUT_OF_MEMORY, and is replaced. */
  readonly maxOldGenerationSizeMb?: number
  /** Heap for recently created objects, in MiB. */
  readonly maxYoungGenerationSizeMb?: number
  /** Address space for generated code, in MiB. */
  readonly codeRangeSizeMb?: number
  /** The thread's stack, in MiB. */
  readonly stackSizeMb?: number
}

/** What all lives of a shard have in common of its identity. */
export type ShardProgram = Omit<ShardIdentity, 'port' | 'executorPort' | 'executorCounters'>

/** What one server waits for from one shard. */
interface Serving {
  readonly listening: Deferred<void>
  readonly unlistened: Deferred<void>
  readonly drained: Deferred<void>
}

const BOOTSTRAP = new URL('../workers/bootstrap.js', import.meta.url)

/** One life of a shard: a worker thread, from its start to its end. */
export class WorkerShard {
  readonly id: number
  /** Whether the program's entry ran to its end. */
  hasRunEntry = false
  /** Whether it is being ended because it could not serve. */
  isGivenUp = false
  readonly #worker: Worker
  readonly #port: MessagePort
  readonly #tasks: ShardTasks
  readonly #observer: ShardObserver
  readonly #metricsToken: number
  /** Connections that the shard's earlier threads lost. */
  readonly #lostBefore: number
  readonly #servings = new Map<number, Serving>()
  readonly #exited = new Deferred<ShardDeath>()
  /** What its thread ended with, or why we ended it. */
  #error: unknown
  #stopTimer: NodeJS.Timeout | undefined
  #cancelled = false
  #death: ShardDeath | null = null

  /** Starts the thread. Throws what `new Worker` throws. */
  constructor(identity: ShardProgram, resourceLimits: ShardResourceLimits, observer: ShardObserver) {
    this.id = identity.shardId
    this.#observer = observer
    this.#metricsToken = identity.metricsTokens[identity.shardId] ?? 0
    this.#lostBefore = readCounter(this.#metricsToken, METRIC_RESETS_SHARD_DEATH)
    const { port1, port2 } = new MessageChannel()
    const tasks = new MessageChannel()
    const execArgv = shardExecArgv()
    this.#worker = new Worker(BOOTSTRAP, {
      name: `shard ${this.id}`,
      workerData: {
        [IDENTITY_KEY]: {
          ...identity,
          port: port2,
          executorPort: tasks.port2,
          executorCounters: executorCounters().buffer,
        } satisfies ShardIdentity,
      },
      transferList: [port2, tasks.port2],
      argv: process.argv.slice(identity.entry === null ? 1 : 2),
      resourceLimits,
      ...(execArgv && { execArgv }),
    })
    this.#tasks = new ShardTasks(tasks.port1)
    this.#port = port1
    port1.on('message', (message: ShardMessage) => this.#receive(message))
    // The thread itself keeps the process alive, and only as long as it runs.
    port1.unref()
    this.#worker.on('error', (error: unknown) => {
      this.#error ??= error
    })
    this.#worker.on('exit', (exitCode) => this.#onExit(exitCode))
  }

  /** Whether it has an order of this server that it has not drained. */
  knows(server: number): boolean {
    return this.#servings.has(server)
  }

  send(message: SupervisorMessage): void {
    this.#port.postMessage(message)
  }

  /** Resolves when it listens; rejects with what kept it from that. */
  serve(order: ServeOrder): Promise<void> {
    const serving = this.#serving(order.server)
    this.send({ type: 'serve', order })
    return serving.listening.promise
  }

  drain(server: number): DrainSteps {
    const { unlistened, drained } = this.#serving(server)
    this.send({ type: 'drain', server })
    return { unlistened: unlistened.promise, drained: drained.promise }
  }

  abort(server: number): void {
    this.send({ type: 'abort', server })
  }

  /** Lets the thread end by itself, and terminates it when something else of the program keeps it past the grace. */
  stop(): Promise<ShardDeath> {
    this.send({ type: 'stop' })
    this.#terminateAfter(SHARD_RELEASE_TIMEOUT_MS)
    return this.#exited.promise
  }

  /**
   * Ends a thread that need not have started yet. Terminated at once it would leave the files of its half-done imports
   * open (Node does not close them), so it gets the grace too; not more, for it serves nobody.
   */
  cancel(): Promise<ShardDeath> {
    this.send({ type: 'stop' })
    this.#cancelled = true
    this.#terminateAfter(SHARD_STOP_GRACE_MS)
    return this.#exited.promise
  }

  /** Ends a replacement that cannot serve; `why` is what it will have died of. */
  giveUp(why: unknown): void {
    this.#error ??= why
    this.isGivenUp = true
    void this.cancel()
  }

  /** Ends a stuck thread. */
  terminate(why: Error): void {
    this.#error ??= why
    void this.#worker.terminate()
  }

  #terminateAfter(ms: number): void {
    clearTimeout(this.#stopTimer)
    this.#stopTimer = setTimeout(() => void this.#worker.terminate(), ms)
  }

  #serving(server: number): Serving {
    let serving = this.#servings.get(server)
    if (serving === undefined) {
      serving = { listening: new Deferred(), unlistened: new Deferred(), drained: new Deferred() }
      if (this.#death === null) this.#servings.set(server, serving)
      else settle(serving, this.#death)
    }
    return serving
  }

  #receive(message: ShardMessage): void {
    switch (message.type) {
      case 'imported':
        this.hasRunEntry = true
        return
      case 'listening':
        return this.#servings.get(message.server)?.listening.resolve()
      case 'refused':
        return this.#servings.get(message.server)?.listening.reject(unpackError(message.error))
      case 'unlistened':
        return this.#serving(message.server).unlistened.resolve()
      case 'drained':
        this.#serving(message.server).drained.resolve()
        this.#servings.delete(message.server)
        return
      case 'released':
        if (!this.#cancelled) this.#terminateAfter(SHARD_STOP_GRACE_MS)
        return
      case 'control':
      case 'subscribe':
      case 'unsubscribe':
      case 'tlsClientError':
        return this.#observer.controlled(message)
    }
  }

  #onExit(exitCode: number): void {
    // What it said before its end may still wait in the port.
    for (let next = receiveMessageOnPort(this.#port); next; next = receiveMessageOnPort(this.#port)) {
      this.#receive(next.message as ShardMessage)
    }
    this.#port.close()
    this.#tasks.end()
    clearTimeout(this.#stopTimer)
    const lost = readCounter(this.#metricsToken, METRIC_RESETS_SHARD_DEATH)
    const connectionsLost = lost - this.#lostBefore
    const death: ShardDeath = { shard: this.id, error: this.#error, exitCode, connectionsLost }
    this.#death = death
    this.#observer.ended(death)
    for (const serving of this.#servings.values()) settle(serving, death)
    this.#servings.clear()
    this.#exited.resolve(death)
  }
}

function settle(serving: Serving, death: ShardDeath): void {
  serving.listening.reject(startFailure(death))
  serving.unlistened.resolve()
  serving.drained.resolve()
}

/** Why a server cannot start on a shard that ended. */
export function startFailure({ shard, error, exitCode }: ShardDeath): unknown {
  if (error !== undefined) return error
  return new ShardloopError(
    'ERR_SHARDLOOP_START',
    `shard ${shard} ended with exit code ${exitCode} before the server was ready`,
  )
}
