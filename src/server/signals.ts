import type { EventEmitter } from 'node:events'
import { constants } from 'node:os'
import { isatty } from 'node:tty'
import { isMainThread } from 'node:worker_threads'
import { SIGINT_RELAY_WINDOW_MS } from '../limits.js'
import { HANDLED_SIGNALS, type HandledSignal } from '../workers/signal-listeners.js'
import { threadSingleton } from '../workers/thread-singleton.js'
import type { SupervisorMessage } from './messages.js'
import type { EventSignal, ServerEvents } from './server.js'

/** A server as signals concern it. */
export interface SignalledServer {
  readonly events: EventEmitter<ServerEvents>
  drain(): Promise<void>
  /** Emits 'signal'. */
  signalled(signal: EventSignal): void
}

/** A shard, to which the signals that it subscribes to are handed on. */
export interface SignalSubscriber {
  send(message: SupervisorMessage): void
}

/**
 * What the process's signals do to its servers and shards. SIGINT and SIGTERM drain every server that registered here; a
 * second one ends the process with 128 + its number. SIGHUP and SIGUSR2 become an event of these servers. Shards are
 * handed the signals that they subscribed to.
 *
 * A handler is there only while a server is registered, and but for SIGINT and SIGTERM only while somebody listens;
 * otherwise the system's default action is taken. Handlers are ordinary listeners: those of the program run too.
 */
export class ProcessSignals {
  readonly #servers = new Map<SignalledServer, ListenerWatch>()
  readonly #subscribers = new Map<HandledSignal, Set<SignalSubscriber>>()
  readonly #installed = new Set<HandledSignal>()
  readonly #onSignal = (signal: NodeJS.Signals): void => this.#signalled(signal as HandledSignal)
  /** Time of the first SIGINT or SIGTERM (performance.now()), null before it. */
  #drainingSince: number | null = null

  register(server: SignalledServer): void {
    this.#servers.set(server, new ListenerWatch(server.events, () => this.#update()))
    this.#update()
    // It was still starting when the signal came.
    if (this.#drainingSince !== null) void server.drain()
  }

  unregister(server: SignalledServer): void {
    const watch = this.#servers.get(server)
    if (watch === undefined) return
    watch.stop()
    this.#servers.delete(server)
    this.#update()
    if (this.#servers.size === 0) this.#drainingSince = null
  }

  subscribe(subscriber: SignalSubscriber, signal: HandledSignal): void {
    const subscribers = this.#subscribers.get(signal)
    if (subscribers === undefined) this.#subscribers.set(signal, new Set([subscriber]))
    else subscribers.add(subscriber)
    this.#update()
  }

  unsubscribe(subscriber: SignalSubscriber, signal: HandledSignal): void {
    const subscribers = this.#subscribers.get(signal)
    if (subscribers?.delete(subscriber) && subscribers.size === 0) this.#subscribers.delete(signal)
    this.#update()
  }

  /** The subscriber is gone, and its subscriptions with it. */
  forget(subscriber: SignalSubscriber): void {
    for (const signal of [...this.#subscribers.keys()]) this.unsubscribe(subscriber, signal)
  }

  #update(): void {
    for (const signal of HANDLED_SIGNALS) {
      const wanted = this.#isWanted(signal)
      if (wanted === this.#installed.has(signal)) continue
      if (wanted) {
        this.#installed.add(signal)
        process.on(signal, this.#onSignal)
      } else {
        this.#installed.delete(signal)
        process.off(signal, this.#onSignal)
      }
    }
  }

  #isWanted(signal: HandledSignal): boolean {
    if (this.#servers.size === 0) return false
    if (drains(signal) || this.#subscribers.has(signal)) return true
    return isEvent(signal) && [...this.#servers.values()].some((watch) => watch.hasListener)
  }

  #signalled(signal: HandledSignal): void {
    if (drains(signal) && this.#drainingSince !== null) return this.#drainAgain(signal, this.#drainingSince)
    for (const subscriber of this.#subscribers.get(signal) ?? []) subscriber.send({ type: 'signal', signal })
    if (isEvent(signal)) for (const server of [...this.#servers.keys()]) server.signalled(signal)
    if (!drains(signal)) return
    this.#drainingSince = performance.now()
    for (const server of [...this.#servers.keys()]) void server.drain()
  }

  #drainAgain(signal: HandledSignal, drainingSince: number): void {
    const soon = performance.now() - drainingSince < SIGINT_RELAY_WINDOW_MS
    const relayed = signal === 'SIGINT' && hasTerminal() && soon
    if (!relayed) process.exit(128 + constants.signals[signal])
  }
}

/** Knows whether somebody listens to a server's 'signal' event, and tells when that may have changed. */
class ListenerWatch {
  hasListener: boolean
  readonly #events: EventEmitter
  readonly #changed: () => void
  #stopped = false

  constructor(events: EventEmitter<ServerEvents>, changed: () => void) {
    this.#events = events as EventEmitter
    this.#changed = changed
    this.hasListener = this.#events.listenerCount('signal') > 0
    this.#watch()
  }

  stop(): void {
    this.#stopped = true
    this.#events.off('newListener', this.#added)
    this.#events.off('removeListener', this.#removed)
  }

  #watch(): void {
    this.#events.on('newListener', this.#added)
    this.#events.on('removeListener', this.#removed)
  }

  /** Called just before a listener is added. */
  readonly #added = (name: string | symbol): void => {
    if (name === 'signal') this.#note(true)
  }

  readonly #removed = (name: string | symbol, listener: unknown): void => {
    if (name === 'signal') this.#note(this.#events.listenerCount('signal') > 0)
    // By removeAllListeners(), which goes on to remove this one: watch on when it is done.
    else if (listener === this.#added && !this.#stopped) queueMicrotask(() => this.#watchAgain())
  }

  #watchAgain(): void {
    if (this.#stopped) return
    this.#events.off('removeListener', this.#removed)
    this.#watch()
    this.#note(this.#events.listenerCount('signal') > 0)
  }

  #note(hasListener: boolean): void {
    if (this.hasListener === hasListener) return
    this.hasListener = hasListener
    this.#changed()
  }
}

function drains(signal: HandledSignal): boolean {
  return signal === 'SIGINT' || signal === 'SIGTERM'
}

function isEvent(signal: HandledSignal): signal is EventSignal {
  return signal === 'SIGHUP' || signal === 'SIGUSR2'
}

function hasTerminal(): boolean {
  return isatty(0) || isatty(1) || isatty(2)
}

/** The process's signals, or null on other threads: Node delivers signals to the main thread only. */
export function processSignals(): ProcessSignals | null {
  return isMainThread ? threadSingleton('process-signals', () => new ProcessSignals()) : null
}
