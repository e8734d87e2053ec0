import type { EngineName } from '../workers/engine.js'
import { importFactory, type Registration } from '../workers/factory-module.js'
import type { ProtocolFactory } from '../workers/protocol.js'
import type { ServedServer } from '../workers/shard-loop.js'
import { adoptLogger } from '../workers/thread-log.js'
import { type HeldLoop, threadLoop } from '../workers/thread-loop.js'
import { type ExecutorHold, holdExecutor } from './executor.js'
import { readServerMetrics, type ServerMetrics } from './metrics.js'
import type { ServerSettings } from './options.js'
import type { DrainSteps, ShardControl, ShardDeath, ShardGroup, ShardUser } from './shard-control.js'

/** `shards: 0`: one server on the loop of this very thread. */
export class LocalGroup implements ShardGroup {
  readonly engine: EngineName
  readonly #held: HeldLoop
  readonly #executor: ExecutorHold
  readonly #shard: LocalShard
  #lastMetrics: ServerMetrics | null = null

  /** Takes the loop and the executor; throws what `ThreadLoop.acquire` and `holdExecutor` do. */
  constructor(
    source: ProtocolFactory | URL,
    settings: Pick<ServerSettings, 'engine' | 'executor' | 'exceptionHandler'>,
  ) {
    this.#executor = holdExecutor(settings.executor)
    try {
      this.#held = threadLoop().acquire(settings.engine)
    } catch (error) {
      void this.#executor.release()
      throw error
    }
    this.engine = this.#held.engine
    this.#shard = new LocalShard(this.#held, source, settings.exceptionHandler)
  }

  start(): readonly ShardControl[] {
    return [this.#shard]
  }

  /** Nobody else is there to take anything over. */
  guard(): void {}
  unguard(): void {}

  /** Nobody else is there to be told. */
  announce(): void {}

  metrics(): ServerMetrics {
    return this.#lastMetrics ?? readServerMetrics([this.#held.metricsToken], [0])
  }

  /** Whoever asks does it from this very thread, which is not stuck then. */
  stalledMs(): number {
    return 0
  }

  async leave(): Promise<ShardDeath | null> {
    await this.#executor.release()
    this.#lastMetrics = this.metrics()
    await threadLoop().release()
    return null
  }

  async discard(): Promise<boolean> {
    this.#shard.cancel()
    await this.leave()
    return true
  }
}

class LocalShard implements ShardControl {
  readonly id = 0
  readonly hasRunEntry = true
  readonly isDown = false
  readonly restarts = 0
  readonly failure = null
  readonly #held: HeldLoop
  readonly #source: ProtocolFactory | URL
  readonly #exceptionHandler: Registration['exceptionHandler']
  #served: ServedServer | null = null
  #cancelled = false

  constructor(
    held: HeldLoop,
    source: ProtocolFactory | URL,
    exceptionHandler: Registration['exceptionHandler'],
  ) {
    this.#held = held
    this.#source = source
    this.#exceptionHandler = exceptionHandler
  }

  async serve(user: ShardUser): Promise<void> {
    const order = user.orderFor(this.id)
    const source = this.#source
    const { factory, exceptionHandler, logger } =
      source instanceof URL
        ? await importFactory(source.href)
        : { factory: source, exceptionHandler: this.#exceptionHandler, logger: undefined }
    if (this.#cancelled) return
    // That of a factory's own call was set with the call.
    if (logger !== undefined) adoptLogger(logger, order.logLevel)
    this.#served = this.#held.loop[order.datagrams ? 'serveDatagrams' : 'serve']({
      name: order.name,
      factory,
      exceptionHandler: exceptionHandler ?? null,
      number: 0,
      listeners: order.listeners,
      writeHighBytes: order.writeHighBytes,
      writeLowBytes: order.writeLowBytes,
      writeMaxBytes: order.writeMaxBytes,
      idleTimeoutMs: order.idleTimeoutMs,
      moderation: order.moderation,
      tls: order.tls,
      tlsUpgrade: order.tlsUpgrade,
      tlsClientError: (error) => user.tlsClientError(this.id, error),
    })
  }

  /** An import that is still under way shall not serve any more. */
  cancel(): void {
    this.#cancelled = true
  }

  drain(): DrainSteps {
    return { unlistened: Promise.resolve(), drained: this.#served?.drain() ?? Promise.resolve() }
  }

  abort(): void {
    this.#served?.abort()
  }

  /** A thread cannot be stuck and call this; an abort has closed every connection. */
  terminate(): void {}
}
