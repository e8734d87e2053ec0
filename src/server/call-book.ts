import { ShardloopError } from '../errors.js'
import { CallCounter, type CallPlace } from '../workers/call-counter.js'
import { CallHistory } from '../workers/call-history.js'
import type { EngineName } from '../workers/engine.js'
import { packError } from '../workers/error-transfer.js'
import type { EndedCall, ListenerDescription } from './messages.js'

/** A call of `createServer` with shards, on the main thread. */
export interface OpenCall {
  /** How shards know the same call. */
  readonly place: CallPlace
  /** Number of the server, unique in the process. */
  readonly server: number
  readonly name: string
}

/** What is left of a call when its server is over. */
export type CallEnd = { readonly sockets: readonly ListenerDescription[] } & (
  | { readonly engine: EngineName }
  /** What createServer rejected with. */
  | { readonly error: unknown }
)

/** All calls of `createServer` with shards that this process has made. */
export class CallBook {
  readonly #counter = new CallCounter()
  readonly #open = new Map<string, OpenCall>()
  /** Those that are over. */
  readonly history: CallHistory = new CallHistory()
  #servers = 0

  /** Notes a call; every one ends with `end`. */
  open(name: string | undefined): OpenCall {
    this.#servers += 1
    const call = {
      place: this.#counter.next(name),
      server: this.#servers,
      name: name ?? `server ${this.#servers}`,
    }
    this.#open.set(call.place.key, call)
    return call
  }

  /** Throws ERR_SHARDLOOP_OPTION when another server that runs has the call's name. */
  assertNameIsFree(call: OpenCall): void {
    for (const other of this.#open.values()) {
      if (other === call || other.name !== call.name) continue
      const message = `option name: expected one that no running server has, given ${JSON.stringify(call.name)}`
      throw new ShardloopError('ERR_SHARDLOOP_OPTION', message)
    }
  }

  end({ place, name }: OpenCall, end: CallEnd): EndedCall {
    this.#open.delete(place.key)
    const outcome =
      'error' in end ? { engine: null, error: packError(end.error) } : { engine: end.engine, error: null }
    const ended: EndedCall = { place, name, sockets: end.sockets, ...outcome }
    this.history.add(ended)
    return ended
  }
}
