import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { threadCalls } from '../messages/calls.js'
import type { EndedCall, ServeOrder, ShardMessage, SupervisorMessage } from '../server/messages.js'
import { CallCounter } from './call-counter.js'
import { CallHistory } from './call-history.js'
import { packError, unpackError } from './error-transfer.js'
import { closeExecutorClient } from './executor-client.js'
import { importFactory, type Registration } from './factory-module.js'
import type { ShardIdentity } from './identity.js'
import { Program } from './program.js'
import { ServerLink } from './server-link.js'
import { SignalListeners } from './signal-listeners.js'
import { adoptLogger } from './thread-log.js'
import { type HeldLoop, threadLoop } from './thread-loop.js'
import { threadSingleton } from './thread-singleton.js'

/** A call of `createServer` made by the program in a shard. */
export interface ShardCall {
  readonly name: string | undefined
  /** A factory, or the URL of a module that exports it. */
  readonly source: Registration | URL
  /** How long the supervisor may take to make the same call, in milliseconds. */
  readonly startTimeoutMs: number
}

/**
 * What runs in a shard's thread: it brings the supervisor's orders and the program's calls of `createServer` together,
 * serves what both know, and answers the supervisor.
 */
export class Shard {
  readonly identity: ShardIdentity
  /** Who listens to signals in this thread; the supervisor hands on those that somebody does. */
  readonly signals: SignalListeners
  readonly #port: MessagePort
  readonly #program: Program
  readonly #calls = new CallCounter()
  /** Calls that are over for the supervisor, and that the program may come by. */
  readonly #history = new CallHistory()
  /** Those that are not, by key. */
  readonly #links = new Map<string, ServerLink>()
  #held: HeldLoop | null = null
  #entryStarted = false
  #entryFailure: { readonly error: unknown } | null = null
  #stopped = false

  constructor(identity: ShardIdentity) {
    this.identity = identity
    this.#port = identity.port
    this.#program = new Program(identity.entry, identity.tsxApi)
    this.signals = new SignalListeners({
      subscribe: (signal) => this.#post({ type: 'subscribe', signal }),
      unsubscribe: (signal) => this.#post({ type: 'unsubscribe', signal }),
    })
  }

  /** Takes the orders that are there already, then every later one. The open port keeps the thread alive. */
  start(): void {
    threadCalls().open() // so that others can tell a shard that exposes nothing from one that is not there
    const waiting: SupervisorMessage[] = []
    for (let next = receiveMessageOnPort(this.#port); next; next = receiveMessageOnPort(this.#port)) {
      waiting.push(next.message as SupervisorMessage)
    }
    const stop = waiting.find(({ type }) => type === 'stop')
    // Cancelled before it began: the program need not run.
    for (const message of stop ? [stop] : waiting) this.#receive(message)
    this.#port.on('message', (message: SupervisorMessage) => this.#receive(message))
  }

  /**
   * The program's call. Resolves as soon as the supervisor's matching call is known; that is at once, unless the
   * supervisor has still to reach it. Rejects as the supervisor's call did, or with ERR_SHARDLOOP_START when the
   * supervisor makes no such call.
   */
  async call(call: ShardCall): Promise<ServerLink> {
    // The thread is about to end, in the middle of a program that goes on to its next server: nothing to report.
    if (this.#stopped) return new Promise(() => {})
    const place = this.#calls.next(call.name)
    const link = this.#link(place.key)
    const past = this.#history.find(place)
    if (past !== undefined) this.#endLink(link, past)
    link.called = true
    if (call.source instanceof URL) link.module = call.source.href
    else link.registration ??= call.source
    this.#serve(link)
    this.#releaseCrossedCalls()
    link.timer = setTimeout(() => link.matched.reject(this.#unmatched(place.key, call)), call.startTimeoutMs)
    try {
      await link.matched.promise
    } finally {
      clearTimeout(link.timer)
    }
    if (link.ended?.error) throw unpackError(link.ended.error)
    return link
  }

  /** Asks the supervisor to drain a server, on behalf of its handle in this shard. */
  requestDrain(key: string, deadlineMs: number | null): void {
    if (!this.#stopped) this.#post({ type: 'control', key, action: 'drain', deadlineMs })
  }

  requestAbort(key: string): void {
    if (!this.#stopped) this.#post({ type: 'control', key, action: 'abort' })
  }

  #post(message: ShardMessage): void {
    this.#port.postMessage(message)
  }

  #link(key: string): ServerLink {
    let link = this.#links.get(key)
    if (link === undefined) {
      link = new ServerLink(key)
      this.#links.set(key, link)
    }
    return link
  }

  #receive(message: SupervisorMessage): void {
    switch (message.type) {
      case 'serve':
        return this.#ordered(message.order)
      case 'drain':
        return this.#drain(message.server)
      case 'abort':
        this.#drain(message.server)
        return this.#served(message.server)?.served?.abort()
      case 'shard':
        return this.#links.get(message.key)?.setShard(message.change)
      case 'past':
        return this.#history.unpack(message.calls)
      case 'ended':
        return this.#ended(message.call)
      case 'signal':
        return this.signals.deliver(message.signal)
      case 'stop':
        return void this.#stop()
    }
  }

  #ordered(order: ServeOrder): void {
    const link = this.#link(order.key)
    link.order = order
    link.shards = order.shards
    link.matched.resolve()
    if (order.module === null && !link.called) this.#evaluateEntry(link)
    else this.#serve(link)
    this.#releaseCrossedCalls()
  }

  /** The program registers the link's factory when it runs. */
  #evaluateEntry(link: ServerLink): void {
    if (this.#entryFailure !== null) {
      this.#refuse(link, this.#entryFailure.error)
      return
    }
    if (this.#entryStarted) return
    this.#entryStarted = true
    this.#program.evaluateEntry().then(
      () => this.#post({ type: 'imported' }),
      (error: unknown) => this.#entryFailed(error),
    )
  }

  #entryFailed(error: unknown): void {
    this.#entryFailure = { error }
    const links = [...this.#links.values()].filter(({ order }) => order?.module === null)
    const refused = links.filter((link) => this.#refuse(link, error))
    if (refused.length > 0) return
    // It threw after its servers listened: like any other error that nobody catches.
    process.nextTick(() => {
      throw error
    })
  }

  /** Listens when both sides are known. */
  #serve(link: ServerLink): void {
    const { order, registration, ended, served, draining } = link
    if (order === null || ended !== null || served !== null || draining || this.#stopped) return
    const module = order.module ?? link.module
    if (module !== null) this.#importFactory(link, module)
    else if (registration !== null) this.#listen(link, order, registration)
  }

  #importFactory(link: ServerLink, module: string): void {
    this.#program
      .registerTsx()
      .then(() => importFactory(module))
      .then(
        (registration) => {
          const isWanted = !link.ended && !link.served && !link.draining && !this.#stopped
          if (link.order && isWanted) this.#listen(link, link.order, registration)
        },
        (error: unknown) => this.#refuse(link, error),
      )
  }

  #listen(link: ServerLink, order: ServeOrder, registration: Registration): void {
    try {
      adoptLogger(registration.logger, order.logLevel)
      this.#held ??= threadLoop().acquire(this.identity.engine)
      link.served = this.#held.loop[order.datagrams ? 'serveDatagrams' : 'serve']({
        name: order.name,
        factory: registration.factory,
        exceptionHandler: registration.exceptionHandler ?? null,
        number: order.server,
        listeners: order.listeners,
        writeHighBytes: order.writeHighBytes,
        writeLowBytes: order.writeLowBytes,
        writeMaxBytes: order.writeMaxBytes,
        idleTimeoutMs: order.idleTimeoutMs,
        moderation: order.moderation,
        tls: order.tls,
        tlsUpgrade: order.tlsUpgrade,
        tlsClientError: (error) =>
          this.#post({ type: 'tlsClientError', key: order.key, error: packError(error) }),
      })
    } catch (error) {
      this.#refuse(link, error)
      return
    }
    this.#post({ type: 'listening', server: order.server })
  }

  /** Tells the supervisor why an order cannot be followed; false when there is none that waits. */
  #refuse(link: ServerLink, error: unknown): boolean {
    if (link.order === null || link.ended !== null || link.served !== null || this.#stopped) return false
    this.#post({ type: 'refused', server: link.order.server, error: packError(error) })
    return true
  }

  #served(server: number): ServerLink | undefined {
    return [...this.#links.values()].find(({ order }) => order?.server === server)
  }

  #drain(server: number): void {
    const link = this.#served(server)
    if (link?.draining) return
    if (link) link.draining = true
    // Not serving yet: there is nothing to end, and it does not begin any more.
    const drained = link?.served?.drain() ?? Promise.resolve()
    this.#post({ type: 'unlistened', server })
    void drained.then(() => this.#post({ type: 'drained', server }))
  }

  #ended(call: EndedCall): void {
    const link = this.#links.get(call.place.key)
    if (link !== undefined) this.#endLink(link, call)
    if (!link?.called) this.#history.add(call) // the program may still come by it
  }

  /** The program's handle keeps what it needs of the link. */
  #endLink(link: ServerLink, call: EndedCall): void {
    this.#links.delete(link.key)
    link.end(call)
    link.served = null
  }

  /**
   * Program and supervisor may make their calls in different orders, each waiting for the other's next one. Then the
   * program goes on: its handle knows no addresses until the supervisor's call comes.
   */
  #releaseCrossedCalls(): void {
    const links = [...this.#links.values()]
    if (!links.some((link) => link.awaitsCall)) return
    for (const link of links) if (link.awaitsOrder) link.matched.resolve()
  }

  #unmatched(key: string, call: ShardCall): ShardloopError {
    return new ShardloopError(
      'ERR_SHARDLOOP_START',
      `createServer (${key}) was called in shard ${this.identity.shardId}, but not by the main thread within ` +
        `startTimeoutMs (${call.startTimeoutMs}). Make the same calls on both sides, or give createServer the URL of a ` +
        'module whose default export is the factory',
    )
  }

  async #stop(): Promise<void> {
    if (this.#stopped) return
    this.#stopped = true
    for (const { timer } of this.#links.values()) clearTimeout(timer)
    closeExecutorClient()
    if (this.#held) await threadLoop().releaseAtEnd()
    await threadCalls().close()
    this.#post({ type: 'released' })
    this.#port.close()
  }
}

/** Where the bootstrap leaves the thread's shard, for `createServer` to find. */
interface ShardSlot {
  shard: Shard | null
}

function slot(): ShardSlot {
  return threadSingleton<ShardSlot>('shard', () => ({ shard: null }))
}

/** The shard that runs in this thread, or null outside of shards. */
export function currentShard(): Shard | null {
  return slot().shard
}

/** Starts this thread's shard; the bootstrap's only step. */
export function startShard(identity: ShardIdentity): void {
  const shard = new Shard(identity)
  slot().shard = shard
  shard.start()
}
