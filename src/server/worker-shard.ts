import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads'
import { Deferred } from '../deferred.js'
import { ShardloopError } from '../errors.js'
import { SHARD_RELEASE_TIMEOUT_MS, SHARD_STOP_GRACE_MS } from '../limits.js'
import { unpackError } from '../workers/error-transfer.js'
import { IDENTITY_KEY, type ShardIdentity } from '../workers/identity.js'
import type { ServeOrder, ShardMessage, SupervisorMessage } from './messages.js'
import { shardExecArgv } from './program-entry.js'
import type { DrainSteps, ShardControl, ShardDeath } from './shard-control.js'

/** Who is told what a shard says that is not the answer to an order. */
export interface ShardObserver {
  controlled(message: Extract<ShardMessage, { type: 'control' }>): void
  /** Its thread has ended, whoever wanted that. */
  ended(death: ShardDeath): void
}

/** What one server waits for from one shard. */
interface Serving {
  readonly listening: Deferred<void>
  readonly unlistened: Deferred<void>
  readonly drained: Deferred<void>
}

const BOOTSTRAP = new URL('../workers/bootstrap.js', import.meta.url)

/** A shard in a worker thread of its own. */
export class WorkerShard implements ShardControl {
  readonly id: number
  hasRunEntry = false
  readonly #worker: Worker
  readonly #port: MessagePort
  readonly #observer: ShardObserver
  readonly #servings = new Map<number, Serving>()
  readonly #exited = new Deferred<ShardDeath>()
  /** What its thread ended with, or why we ended it. */
  #error: unknown
  #stopTimer: NodeJS.Timeout | undefined
  #cancelled = false
  #death: ShardDeath | null = null

  /** Starts the thread. Throws what `new Worker` throws. */
  constructor(identity: Omit<ShardIdentity, 'port'>, observer: ShardObserver) {
    this.id = identity.shardId
    this.#observer = observer
    const { port1, port2 } = new MessageChannel()
    const execArgv = shardExecArgv()
    this.#worker = new Worker(BOOTSTRAP, {
      name: `shard ${this.id}`,
      workerData: { [IDENTITY_KEY]: { ...identity, port: port2 } },
      transferList: [port2],
      argv: process.argv.slice(identity.entry === null ? 1 : 2),
      ...(execArgv && { execArgv }),
    })
    this.#port = port1
    port1.on('message', (message: ShardMessage) => this.#receive(message))
    // The thread itself keeps the process alive, and only as long as it runs.
    port1.unref()
    this.#worker.on('error', (error: unknown) => {
      this.#error ??= error
    })
    this.#worker.on('exit', (exitCode) => this.#onExit(exitCode))
  }

  get hasEnded(): boolean {
    return this.#death !== null
  }

  send(message: SupervisorMessage): void {
    this.#port.postMessage(message)
  }

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
        return this.#serving(message.server).listening.resolve()
      case 'refused':
        return this.#serving(message.server).listening.reject(unpackError(message.error))
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
        return this.#observer.controlled(message)
    }
  }

  #onExit(exitCode: number): void {
    // What it said before its end may still wait in the port.
    for (let next = receiveMessageOnPort(this.#port); next; next = receiveMessageOnPort(this.#port)) {
      this.#receive(next.message as ShardMessage)
    }
    this.#port.close()
    clearTimeout(this.#stopTimer)
    const death: ShardDeath = { shard: this.id, error: this.#error, exitCode }
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
