import { EventEmitter } from 'node:events'
import { Deferred } from '../deferred.js'
import { ShardloopError, type TlsError } from '../errors.js'
import { ABORT_GRACE_MS } from '../limits.js'
import type { TlsServerOptions } from '../tls/server-options.js'
import type { CallPlace } from '../workers/call-counter.js'
import type { EngineName } from '../workers/engine.js'
import type { SocketAddress } from '../workers/protocol.js'
import { threadLog } from '../workers/thread-log.js'
import type { CallEnd } from './call-book.js'
import { messageOf, reasonOf } from './death-report.js'
import { healthOf } from './health.js'
import { lateStart } from './late-start.js'
import { listenerSocket } from './listener-socket.js'
import type { Listeners } from './listeners.js'
import type { EndedCall, ServeOrder, ShardChange, ShardState, ToldShardChange } from './messages.js'
import type { ServerMetrics } from './metrics.js'
import { parseDeadline, type ServerSettings } from './options.js'
import { renderPrometheus } from './prometheus.js'
import type { EventSignal, ListenerSocket, Server, ServerEvents, ServerHealth, ShardInfo } from './server.js'
import type { ServerTls } from './server-tls.js'
import type { AfterDeath, ShardControl, ShardDeath, ShardGroup, ShardUser } from './shard-control.js'
import { processSignals } from './signals.js'
import { startFailure } from './worker-shard.js'

/** What a server is made of. */
export interface ServerPlan {
  readonly name: string
  /** Which call of createServer this is, as shards know it; null for one that is this thread's own affair. */
  readonly place: CallPlace | null
  readonly server: number
  readonly settings: ServerSettings
  /** URL of the module with the factory, or null. */
  readonly module: string | null
  readonly listeners: Listeners
  readonly group: ShardGroup
  readonly tls: ServerTls | null
  /** Called once when the server is over, before its shards end. */
  readonly onEnd: (end: CallEnd) => void
}

type Phase = 'starting' | 'listening' | 'draining' | 'closed'

/** A server, where it is controlled: owns the listeners, and orders its shards to serve, to drain and to abort. */
export class SupervisorServer implements Server, ShardUser {
  readonly name: string
  readonly key: string
  readonly server: number
  readonly startTimeoutMs: number
  readonly stallAfterMs: number
  readonly killAfterMs: number
  readonly engine: EngineName
  readonly events: EventEmitter<ServerEvents> = new EventEmitter<ServerEvents>()
  readonly sockets: readonly ListenerSocket[]
  readonly addresses: readonly SocketAddress[]
  readonly #plan: ServerPlan
  #phase: Phase = 'starting'
  #listenersClosed = false
  #shards: readonly ShardControl[] = []
  #states: readonly ToldShardChange[] = []
  /** Rejects when the start fails before every shard has answered. */
  readonly #startBroken = new Deferred<never>()
  /** Resolves when the start has succeeded or failed. */
  readonly #started = new Deferred<void>()
  #ended: Promise<void> | null = null
  /** When open connections are aborted, on performance.now()'s clock. */
  #deadline = Number.POSITIVE_INFINITY
  #deadlineTimer: NodeJS.Timeout | undefined
  /** Shards that we terminated ourselves, as they were stuck past the deadline. */
  readonly #terminated = new Set<number>()
  readonly #drained = new Set<number>()
  /** The death for which the first shard failed. */
  #firstDeath: ShardDeath | null = null
  /** Why the server did not end in order; emitted when all is closed. */
  #failure: Error | null = null

  constructor(plan: ServerPlan) {
    this.#plan = plan
    this.name = plan.name
    this.key = plan.place?.key ?? 'local'
    this.server = plan.server
    this.startTimeoutMs = plan.settings.startTimeoutMs
    this.stallAfterMs = plan.settings.stallAfterMs
    this.killAfterMs = plan.settings.killAfterMs
    this.engine = plan.group.engine
    const { sockets } = plan.listeners
    this.addresses = Object.freeze(sockets.map(({ address }) => address))
    this.sockets = Object.freeze(sockets.map((socket) => listenerSocket(socket, () => this.#listenersClosed)))
  }

  get shards(): readonly ShardInfo[] {
    const { group } = this.#plan
    return this.#states.map(({ id, state, restarts }) => ({
      id,
      state,
      restarts,
      stalledMs: group.stalledMs(id),
    }))
  }

  get isStarting(): boolean {
    return this.#phase === 'starting'
  }

  get isWatched(): boolean {
    return this.events.listenerCount('shard') > 0
  }

  health(): ServerHealth {
    const phase = this.#phase === 'draining' || this.#phase === 'closed' ? this.#phase : 'serving'
    return healthOf(this.shards, this.stallAfterMs, phase)
  }

  metrics(): ServerMetrics {
    return this.#plan.group.metrics()
  }

  prometheus(): Promise<string> {
    return renderPrometheus(this.name, this.metrics())
  }

  /** Resolves when every shard listens that has not failed. When it rejects, everything that this server had is gone. */
  async start(): Promise<void> {
    const { settings, group } = this.#plan
    const timer = setTimeout(() => this.#startBroken.reject(this.#startTimedOut()), settings.startTimeoutMs)
    try {
      this.#shards = group.start()
      group.guard(this.#plan.server, this.#plan.listeners.ownTokens)
      this.#states = this.#shards.map(({ id, restarts, failure }) =>
        failure === null
          ? { id, state: 'starting', restarts }
          : { id, state: 'failed', restarts, reason: reasonOf(failure) },
      )
      const serving = this.#shards.filter(({ failure }) => failure === null)
      this.#firstDeath = this.#shards.find(({ failure }) => failure !== null)?.failure ?? null
      const listening = serving.map(async (shard) => {
        await shard.serve(this)
        this.shardListens(shard.id)
      })
      await Promise.race([Promise.all(listening), this.#startBroken.promise])
      this.#phase = 'listening'
      this.#plan.tls?.watch(this.events, this.name)
      if (settings.signals) processSignals()?.register(this)
    } catch (error) {
      this.#ended = this.#giveUp(error)
      await this.#ended
      throw error
    } finally {
      clearTimeout(timer)
      this.#started.resolve()
    }
  }

  drain(options?: { readonly deadlineMs?: number }): Promise<void> {
    const deadlineMs = parseDeadline(options) ?? this.#plan.settings.drainTimeoutMs
    return this.#end(deadlineMs)
  }

  close(): Promise<void> {
    return this.drain()
  }

  abort(): Promise<void> {
    return this.#end(0)
  }

  async reloadTls(options?: TlsServerOptions): Promise<void> {
    const { tls } = this.#plan
    if (tls === null) throw new ShardloopError('ERR_SHARDLOOP_STATE', `server ${this.name} has no option tls`)
    if (this.#phase === 'closed')
      throw new ShardloopError(
        'ERR_SHARDLOOP_STATE',
        `server ${this.name} is closed: there is nothing to reload`,
      )
    tls.reload(options)
  }

  tlsClientError(shardId: number, error: unknown): void {
    this.#emit('tlsClientError', { shardId, error: error as TlsError })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  signalled(signal: EventSignal): void {
    this.#emit('signal', signal)
  }

  endedCall(): EndedCall | null {
    const { name, engine } = this
    const { place, listeners } = this.#plan
    if (this.#phase !== 'draining' || place === null) return null
    return { place, name, sockets: listeners.sockets, engine, error: null }
  }

  shardListens(shard: number): void {
    if (this.#phase === 'starting' || this.#phase === 'listening') this.#setState(shard, 'ready')
  }

  shardDied(death: ShardDeath, after: AfterDeath): void {
    if (this.#phase === 'starting') {
      this.#startBroken.reject(startFailure(death))
      return
    }
    const { shard, error, exitCode, connectionsLost } = death
    const why = { reason: reasonOf(death), exitCode, connectionsLost, ...(error !== undefined && { error }) }
    if (this.#terminated.has(shard)) this.#setState(shard, 'stopped', why)
    else if (this.#phase === 'listening' && 'restartInMs' in after)
      this.#setState(shard, 'starting', { ...why, restartInMs: after.restartInMs })
    else {
      this.#firstDeath ??= 'firstDeath' in after ? after.firstDeath : death
      this.#setState(shard, 'failed', why)
      if (this.#hasFailed) void this.drain()
    }
  }

  shardStalled(id: number, stalledMs: number): void {
    if (this.events.listenerCount('stalled') === 0) {
      const fields = { aboutShard: id, server: this.name, stalledMs: Math.round(stalledMs) }
      threadLog().write('warn', `shard ${id} is stuck; new connections are served by others`, fields)
    }
    this.#emit('stalled', { id, stalledMs })
  }

  shardRecovered(id: number, stalledMs: number): void {
    this.#emit('recovered', { id, stalledMs })
  }

  orderFor(shard: number): ServeOrder {
    const { server, name, module, listeners, settings, tls } = this.#plan
    return {
      server,
      key: this.key,
      name,
      module,
      listeners: listeners.tokensFor(shard),
      sockets: listeners.sockets,
      shards: this.#states,
      writeHighBytes: settings.writeHighBytes,
      writeLowBytes: settings.writeLowBytes,
      writeMaxBytes: settings.writeMaxBytes,
      idleTimeoutMs: settings.idleTimeoutMs,
      moderation: settings.moderation,
      tls: tls?.token ?? 0,
      tlsUpgrade: settings.tls?.upgrade ?? false,
      datagrams: settings.datagrams !== undefined,
      stallAfterMs: settings.stallAfterMs,
      logLevel: settings.logLevel,
    }
  }

  /** Ends the server, with the earliest deadline that was asked for. */
  #end(deadlineMs: number): Promise<void> {
    if (this.#phase === 'starting') return this.#endOnceStarted(deadlineMs)
    if (this.#ended === null) {
      // Set first: a listener of 'shard' that is called on the way may end the server too.
      const ended = new Deferred<void>()
      this.#ended = ended.promise
      ended.resolve(this.#drainAndClose())
    }
    const deadline = performance.now() + deadlineMs
    if (this.#phase === 'draining' && deadline < this.#deadline) {
      this.#deadline = deadline
      clearTimeout(this.#deadlineTimer)
      if (deadlineMs === 0) this.#abortShards()
      else this.#deadlineTimer = setTimeout(() => this.#abortShards(), deadlineMs)
    }
    return this.#ended
  }

  /** A shard's program may close the server while other shards still start. */
  async #endOnceStarted(deadlineMs: number): Promise<void> {
    await this.#started.promise
    if (this.#phase !== 'closed') await this.#end(deadlineMs)
  }

  async #drainAndClose(): Promise<void> {
    await this.#drainShards()
    if (this.#hasFailed && this.#firstDeath !== null) {
      const { shard, error } = this.#firstDeath
      const message = `shard ${shard} died: ${reasonOf(this.#firstDeath)}`
      this.#failure = new ShardloopError('ERR_SHARDLOOP_SHARD_DIED', message, { cause: error })
    }
    this.#plan.onEnd({ sockets: this.#plan.listeners.sockets, engine: this.engine })
    const death = await this.#plan.group.leave(this)
    if (death !== null) {
      const message = `shard ${death.shard} died when it was to end: ${messageOf(death.error)}`
      this.#failure ??= new ShardloopError('ERR_SHARDLOOP_SHARD_DIED', message, { cause: death.error })
    }
    this.#phase = 'closed'
    this.#plan.tls?.end()
    processSignals()?.unregister(this)
    if (this.#failure !== null) this.#emit('error', this.#failure)
    this.#emit('close')
  }

  /**
   * Stops listening and waits for the last connection. A listener closes when its shard, or every shard of those that share
   * it, has taken what was queued: who comes after that is refused, and does not wait in a queue that nobody looks at.
   */
  async #drainShards(): Promise<void> {
    this.#phase = 'draining'
    this.#plan.group.unguard(this.#plan.server)
    const unlistened: Promise<void>[] = []
    const drained = this.#shards.map(async (shard) => {
      this.#setState(shard.id, 'draining')
      const steps = shard.drain(this.#plan.server)
      unlistened.push(steps.unlistened)
      await steps.unlistened
      this.#plan.listeners.closeFor(shard.id)
      await steps.drained
      this.#drained.add(shard.id)
      this.#setState(shard.id, 'stopped')
    })
    void Promise.all(unlistened).then(() => this.#closeListeners())
    await Promise.all(drained)
    clearTimeout(this.#deadlineTimer)
    this.#closeListeners()
  }

  /** The deadline is past: aborts what is open, and terminates shards that do not even hear that. */
  #abortShards(): void {
    const left = this.#shards.filter(({ id }) => !this.#drained.has(id))
    for (const shard of left) shard.abort(this.#plan.server)
    this.#deadlineTimer = setTimeout(() => {
      for (const shard of left) {
        if (this.#drained.has(shard.id)) continue
        this.#terminated.add(shard.id)
        const message = `shard ${shard.id} did not answer an abort within ${ABORT_GRACE_MS} ms and was terminated`
        shard.terminate(new ShardloopError('ERR_SHARDLOOP_SHARD_DIED', message))
      }
    }, ABORT_GRACE_MS)
  }

  /** The start failed: leaves nothing behind. Shards that serve others go on, without this server. */
  async #giveUp(error: unknown): Promise<void> {
    const { group, listeners, onEnd } = this.#plan
    if (await group.discard(this)) {
      this.#closeListeners()
      onEnd({ sockets: listeners.sockets, error })
    } else {
      const drained = this.#drainShards()
      this.#abortShards()
      onEnd({ sockets: listeners.sockets, error })
      await drained
      await group.leave(this)
    }
    this.#plan.tls?.end()
    this.#phase = 'closed'
  }

  #closeListeners(): void {
    this.#listenersClosed = true
    this.#plan.listeners.close()
  }

  /** Whether no shard is left that serves, will serve, or has come to its end in order. */
  get #hasFailed(): boolean {
    return this.#states.length > 0 && this.#states.every(({ state }) => state === 'failed')
  }

  #setState(id: number, state: ShardState, why: Omit<ShardChange, 'id' | 'state' | 'restarts'> = {}): void {
    const before = this.#states.find((shard) => shard.id === id)
    const isFinal = before?.state === 'failed' || before?.state === 'stopped'
    // One that dies again before it was ready is starting still, and that is told.
    const isKnown = before?.state === state && why.reason === undefined
    if (before === undefined || isKnown || isFinal) return
    const restarts = this.#shards[id]?.restarts ?? 0
    const change: ShardChange = { id, state, restarts, ...why }
    const { error: _, ...told } = change
    this.#states = this.#states.map((shard) => (shard.id === id ? told : shard))
    this.#plan.group.announce({ type: 'shard', key: this.key, change: told })
    this.#emit('shard', change)
  }

  /** What a listener throws, and an 'error' that nobody listens to, ends the process as it does anywhere else, but not our own work half-way. */
  #emit<Name extends keyof ServerEvents>(name: Name, ...args: ServerEvents[Name]): void {
    try {
      ;(this.events as EventEmitter).emit(name, ...args)
    } catch (error) {
      process.nextTick(() => {
        throw error
      })
    }
  }

  #startTimedOut(): Error {
    const { settings, module } = this.#plan
    const waiting = this.#shards.filter(({ id }) => this.#states[id]?.state === 'starting')
    return lateStart({ key: this.key, module, startTimeoutMs: settings.startTimeoutMs }, waiting)
  }
}
