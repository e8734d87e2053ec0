import { EventEmitter } from 'node:events'
import { ShardloopError } from '../errors.js'
import { native } from '../native/index.js'
import type { EngineName } from '../workers/engine.js'
import type { SocketAddress } from '../workers/protocol.js'
import type { ServerLink } from '../workers/server-link.js'
import type { Shard } from '../workers/shard.js'
import { healthOf } from './health.js'
import { listenerSocket } from './listener-socket.js'
import type { ListenerDescription, ToldShardChange } from './messages.js'
import { readServerMetrics, type ServerMetrics } from './metrics.js'
import { parseDeadline } from './options.js'
import { renderPrometheus } from './prometheus.js'
import type { ListenerSocket, Server, ServerEvents, ServerHealth, ShardInfo } from './server.js'

/** A server as its shards hold it: shows what the supervisor told, and hands control methods on to it. */
export class ShardHandle implements Server {
  readonly events: EventEmitter<ServerEvents> = new EventEmitter<ServerEvents>()
  readonly #shard: Shard
  readonly #link: ServerLink
  readonly #fallbackName: string

  constructor(shard: Shard, link: ServerLink, name: string | undefined) {
    this.#shard = shard
    this.#link = link
    this.#fallbackName = name ?? link.key
    link.observer = {
      shardChanged: (change: ToldShardChange) => this.events.emit('shard', change),
      closed: () => this.events.emit('close'),
    }
  }

  get name(): string {
    return (this.#link.order ?? this.#link.ended)?.name ?? this.#fallbackName
  }

  /** A server that is over may have run on another engine than these shards do. */
  get engine(): EngineName {
    return this.#link.ended?.engine ?? this.#shard.identity.engine
  }

  get sockets(): readonly ListenerSocket[] {
    return this.#descriptions().map((socket) => listenerSocket(socket, () => this.#link.ended !== null))
  }

  get addresses(): readonly SocketAddress[] {
    return this.#descriptions().map(({ address }) => address)
  }

  get shards(): readonly ShardInfo[] {
    return this.#link.shards.map(({ id, state, restarts }) => {
      const token = this.#shard.identity.metricsTokens[id]
      return { id, state, restarts, stalledMs: token === undefined ? 0 : native.stalledMs(token) }
    })
  }

  health(): ServerHealth {
    const isDraining = this.#link.shards.some(({ state }) => state === 'draining')
    const phase = this.#link.ended !== null ? 'closed' : isDraining ? 'draining' : 'serving'
    return healthOf(this.shards, this.#link.order?.stallAfterMs ?? 0, phase)
  }

  metrics(): ServerMetrics {
    return readServerMetrics(
      this.#shard.identity.metricsTokens,
      this.#link.shards.map(({ restarts }) => restarts),
    )
  }

  prometheus(): Promise<string> {
    return renderPrometheus(this.name, this.metrics())
  }

  drain(options?: { readonly deadlineMs?: number }): Promise<void> {
    const deadlineMs = parseDeadline(options)
    if (this.#link.ended === null) this.#shard.requestDrain(this.#link.key, deadlineMs)
    return this.#link.over.promise
  }

  close(): Promise<void> {
    return this.drain()
  }

  abort(): Promise<void> {
    if (this.#link.ended === null) this.#shard.requestAbort(this.#link.key)
    return this.#link.over.promise
  }

  async reloadTls(): Promise<void> {
    const message = `certificates are the supervisor's: call reloadTls of server ${this.name} on the main thread (isSupervisor)`
    throw new ShardloopError('ERR_SHARDLOOP_STATE', message)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #descriptions(): readonly ListenerDescription[] {
    const known = this.#link.order ?? this.#link.ended
    if (known !== null) return known.sockets
    throw new ShardloopError(
      'ERR_SHARDLOOP_STATE',
      `the main thread has not come to createServer (${this.#link.key}) yet`,
    )
  }
}
