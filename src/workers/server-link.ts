import { Deferred } from '../deferred.js'
import type { EndedCall, ServeOrder, ToldShardChange } from '../server/messages.js'
import type { Registration } from './factory-module.js'
import type { ServedServer } from './shard-loop.js'

/** Who is told of what happens to a server: the handle that the shard's call resolved to. */
export interface LinkObserver {
  shardChanged(change: ToldShardChange): void
  closed(): void
}

/**
 * One server as one shard knows it: the supervisor's order on one side, the shard's own call on the other. Either
 * may come first.
 */
export class ServerLink {
  readonly key: string
  /** Whether the shard's program made this call. */
  called = false
  /** Who serves; from the shard's call or from the module that the order names. */
  registration: Registration | null = null
  /** Module named by the shard's own call. */
  module: string | null = null
  order: ServeOrder | null = null
  ended: EndedCall | null = null
  served: ServedServer | null = null
  draining = false
  /** Ends the wait for the supervisor's call. */
  timer: NodeJS.Timeout | undefined
  shards: readonly ToldShardChange[] = []
  observer: LinkObserver | null = null
  /** Settles when the shard's call may return. */
  readonly matched: Deferred<void> = new Deferred<void>()
  /** Resolves when the server is over everywhere. */
  readonly over: Deferred<void> = new Deferred<void>()

  constructor(key: string) {
    this.key = key
  }

  /** Whether the supervisor waits for the shard's program to make this call. */
  get awaitsCall(): boolean {
    return this.order !== null && this.order.module === null && !this.called
  }

  /** Whether the shard's program waits for the supervisor to make this call. */
  get awaitsOrder(): boolean {
    return this.called && this.order === null
  }

  setShard(change: ToldShardChange): void {
    this.shards = this.shards.map((shard) => (shard.id === change.id ? change : shard))
    this.observer?.shardChanged(change)
  }

  /** Once: the shard forgets the link then. */
  end(call: EndedCall): void {
    this.ended = call
    this.shards = this.shards.map(({ id, state, restarts }) => ({
      id,
      state: state === 'failed' ? state : 'stopped',
      restarts,
    }))
    this.matched.resolve()
    this.over.resolve()
    this.observer?.closed()
  }
}
