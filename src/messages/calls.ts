import { AsyncResource } from 'node:async_hooks'
import { inspect } from 'node:util'
import { isMainThread } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { CALL_ERROR_TEXT_MAX, CALLS_PENDING_MAX, SHARDS_MAX } from '../limits.js'
import {
  MAIL_CALL,
  MAIL_CANCEL,
  MAIL_FAILURE,
  MAIL_GONE,
  MAIL_MESSAGE,
  MAIL_RESULT,
  MAIL_UNKNOWN,
  NAME_MAX_BYTES,
  NAMES_MAX,
  PLACE_NONE,
  PLACE_SUPERVISOR,
} from '../native/abi.js'
import { native } from '../native/index.js'
import { GivenOptions } from '../server/given-options.js'
import { isThenable } from '../workers/callback-results.js'
import { debugMode, watchDuration } from '../workers/debug-mode.js'
import { packError, type TransferredError, unpackError } from '../workers/error-transfer.js'
import { callExceptionHandler, exceptionContext } from '../workers/exception-handler.js'
import { shardIdentity } from '../workers/identity.js'
import { invalid } from '../workers/invalid.js'
import { type SignalListener, unwatchSignal, watchSignal } from '../workers/shared-signals.js'
import { threadLog } from '../workers/thread-log.js'
import { threadSingletonGetter } from '../workers/thread-singleton.js'
import { describePlace, type MessageReader, type Outbox, Post } from './post.js'

/** A thread that functions are called in: a shard by its number, or the main thread. */
export type CallTarget = number | 'supervisor'

/** What an exposed function is told beside its payload. */
export interface CallContext {
  /** Who calls; null for a worker thread of the program's own. */
  readonly from: CallTarget | null
  /** Aborts when the caller waits no more: its own signal did, or it is gone. Never when nobody waits from the start. */
  readonly signal: AbortSignal
}

/** What `loop.expose` takes. */
// biome-ignore lint/suspicious/noExplicitAny: the payload is whatever the program's callers send, as in an event emitter
export type ExposedFunction = (payload: any, context: CallContext) => unknown

/** Options of `loop.call`. */
export interface CallOptions {
  /** Calls it off: the promise rejects with the signal's reason, and the function's `context.signal` aborts. */
  readonly signal?: AbortSignal
}

/** A function that other threads may call. */
interface Exposed {
  readonly name: string
  readonly callback: ExposedFunction
  /** The async context of whoever exposed it. */
  readonly resource: AsyncResource
}

/** A call whose answer is waited for. */
class PendingCall {
  readonly outbox: Outbox
  readonly name: string
  readonly resolve: (result: unknown) => void
  readonly reject: (error: unknown) => void
  readonly signal: AbortSignal | undefined
  #listener: SignalListener | null = null

  constructor(
    outbox: Outbox,
    name: string,
    signal: AbortSignal | undefined,
    resolve: (result: unknown) => void,
    reject: (error: unknown) => void,
  ) {
    this.outbox = outbox
    this.name = name
    this.signal = signal
    this.resolve = resolve
    this.reject = reject
  }

  watch(handleEvent: () => void): void {
    if (this.signal === undefined) return
    this.#listener = { handleEvent }
    watchSignal(this.signal, this.#listener)
  }

  unwatch(): void {
    if (this.signal !== undefined && this.#listener !== null) unwatchSignal(this.signal, this.#listener)
  }
}

const neutral = new AsyncResource('SHARDLOOP_MAILBOX')

/**
 * Each call of a function here has an async context of its own, made in that of whoever exposed it: what it enters into an
 * AsyncLocalStorage is seen by no other.
 */
const newResource = (): AsyncResource => new AsyncResource('SHARDLOOP_CALL', { requireManualDestroy: true })

/** A call of another thread's that has not ended, and its async context. */
interface ActiveCall {
  readonly context: Context
  readonly resource: AsyncResource
}

/** One call of a function here, by another thread. */
class Context implements CallContext {
  readonly #place: number
  #controller: AbortController | null = null
  #aborted = false

  constructor(place: number) {
    this.#place = place
  }

  get from(): CallTarget | null {
    if (this.#place === PLACE_SUPERVISOR) return 'supervisor'
    return this.#place >= 0 ? this.#place : null
  }

  /** Made when it is asked for: an AbortSignal costs more than a call. */
  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#aborted) this.#controller.abort()
    }
    return this.#controller.signal
  }

  abort(): void {
    this.#aborted = true
    this.#controller?.abort()
  }
}

/**
 * A thread's functions that others may call, and its calls of theirs. Its mailbox is opened for the first of either, in a
 * shard when its thread starts.
 */
export class Calls implements MessageReader {
  readonly #debug = debugMode()
  #post: Post | null = null
  /** By the number of the name. */
  readonly #exposed = new Map<number, Exposed>()
  readonly #names = new Map<string, number>()
  readonly #pending = new Map<number, PendingCall>()
  /** Calls of others that have not ended, by {@link activeKey}. */
  readonly #active = new Map<number, ActiveCall>()
  /** Who was found at a place. */
  readonly #places = new Map<number, Outbox>()
  #lastCall = 0

  /** How many calls wait for their answers. */
  get pending(): number {
    return this.#pending.size
  }

  /** Opens the mailbox, if it is not open. */
  open(): Post {
    // In no async context: whoever happens to be first would leave its stores to every message that comes.
    this.#post ??= neutral.runInAsyncScope(() => new Post(ownPlace(), this))
    return this.#post
  }

  expose(name: string, callback: ExposedFunction): void {
    checkName(name)
    if (typeof callback !== 'function') throw invalid('callback', callback, 'a function')
    const number = native.nameNumber(name, true)
    if (number === 0)
      throw new ShardloopError(
        'ERR_SHARDLOOP_STATE',
        `${NAMES_MAX} different names were exposed in this process: expose fewer, and tell calls apart by their payload`,
      )
    if (this.#exposed.has(number))
      throw new ShardloopError('ERR_SHARDLOOP_STATE', `${name} is exposed already: unexpose it first`)
    this.open()
    this.#exposed.set(number, { name, callback, resource: new AsyncResource('SHARDLOOP_EXPOSED') })
  }

  /** Whether it was exposed. */
  unexpose(name: string): boolean {
    const number = this.#numberOf(name)
    const exposed = this.#exposed.get(number)
    exposed?.resource.emitDestroy()
    return this.#exposed.delete(number)
  }

  /** Has a function called, without an answer. */
  send(target: CallTarget | 'all', name: string, payload: unknown): void {
    const number = this.#numberOf(name)
    if (target === 'all') {
      this.#sendToAll(name, number, payload)
      return
    }
    const place = placeOf(target)
    if (number === 0) throw notExposed(name, place)
    this.#write(place, name, MAIL_MESSAGE, number, 0, payload)
  }

  /** Calls a function and waits for what it returns. */
  call(target: CallTarget, name: string, payload: unknown, options: CallOptions): Promise<unknown> {
    const place = placeOf(target)
    const number = this.#numberOf(name)
    const signal = signalOf(options)
    if (signal?.aborted) throw signal.reason
    if (number === 0) throw notExposed(name, place)
    if (this.#pending.size >= CALLS_PENDING_MAX)
      throw new ShardloopError(
        'ERR_SHARDLOOP_STATE',
        `${CALLS_PENDING_MAX} calls of this thread wait for their results: wait for some before the next`,
      )
    const call = this.#nextCall()
    const outbox = this.#write(place, name, MAIL_CALL, number, call, payload)
    if (this.#pending.size === 0) this.open().keepAlive(true)
    return new Promise((resolve, reject) => {
      const pending = new PendingCall(outbox, name, signal, resolve, reject)
      this.#pending.set(call, pending)
      pending.watch(() => this.#aborted(call))
    })
  }

  /** Nothing of this thread is called or calls any more. Resolves when the native half is gone. */
  async close(): Promise<void> {
    const closed = this.#post?.close()
    this.#post = null
    for (const [call, { name, outbox, reject }] of [...this.#pending]) {
      this.#settle(call)
      const whose = describePlace(outbox.place)
      reject(
        new ShardloopError('ERR_SHARDLOOP_CLOSED', `the loop was closed before ${whose} answered ${name}`),
      )
    }
    for (const { resource } of this.#exposed.values()) resource.emitDestroy()
    this.#exposed.clear()
    this.#places.clear()
    for (const [key, active] of [...this.#active]) this.#callOff(key, active)
    await closed
  }

  /** @internal */
  message(kind: number, from: number, fromPlace: number, name: number, call: number, payload: unknown): void {
    switch (kind) {
      case MAIL_MESSAGE:
        this.#called(name, fromPlace, payload)
        return
      case MAIL_CALL:
        this.#asked(name, from, fromPlace, call, payload)
        return
      case MAIL_RESULT:
        this.#settle(call)?.resolve(payload)
        return
      case MAIL_FAILURE:
        this.#settle(call)?.reject(unpackError(payload as TransferredError))
        return
      case MAIL_UNKNOWN: {
        const pending = this.#settle(call)
        pending?.reject(notExposed(pending.name, pending.outbox.place))
        return
      }
      case MAIL_CANCEL:
        this.#cancelled(activeKey(from, call))
        return
      case MAIL_GONE:
        this.#gone(from, fromPlace)
    }
  }

  /** @internal */
  unreadable(
    kind: number,
    from: number,
    fromPlace: number,
    name: number,
    call: number,
    error: unknown,
  ): void {
    if (kind === MAIL_CALL) this.#fail(this.open().outbox(from, fromPlace), call, error)
    else if (kind !== MAIL_MESSAGE) this.#settle(call)?.reject(error)
    else {
      const whose = this.#exposed.get(name)?.name ?? 'a function'
      const message = `what ${describePlace(fromPlace)} has called ${whose} with cannot be read`
      this.#tell(neutral.runInAsyncScope(newResource), message, error)
    }
  }

  /** Tells the exception handler, in a context that is nobody else's. */
  #tell(resource: AsyncResource, message: string, error: unknown): void {
    resource.runInAsyncScope(callExceptionHandler, undefined, exceptionContext(message, error))
  }

  /** A function is to be called, and nobody waits. */
  #called(name: number, fromPlace: number, payload: unknown): void {
    const exposed = this.#exposed.get(name)
    if (exposed === undefined) {
      const from = describePlace(fromPlace)
      const error = new ShardloopError(
        'ERR_SHARDLOOP_NOT_EXPOSED',
        `${from} has called a function by callSoonThreadsafe that this thread does not expose (any more)`,
      )
      this.#tell(neutral.runInAsyncScope(newResource), error.message, error)
      return
    }
    const resource = exposed.resource.runInAsyncScope(newResource)
    const failed = (error: unknown): void => {
      this.#tell(resource, `the exposed function ${exposed.name} threw`, error)
    }
    resource.runInAsyncScope(() => {
      try {
        const result = this.#run(exposed, payload, new Context(fromPlace))
        if (isThenable(result)) Promise.resolve(result).then(undefined, failed)
      } catch (error) {
        failed(error)
      }
    })
    resource.emitDestroy()
  }

  /** A function is to be called, and its result sent back. */
  #asked(name: number, from: number, fromPlace: number, call: number, payload: unknown): void {
    const outbox = this.open().outbox(from, fromPlace)
    const exposed = this.#exposed.get(name)
    if (exposed === undefined) {
      this.open().answer(outbox, MAIL_UNKNOWN, call, undefined)
      return
    }
    const resource = exposed.resource.runInAsyncScope(newResource)
    resource.runInAsyncScope(() => {
      const context = new Context(fromPlace)
      let result: unknown
      try {
        result = this.#run(exposed, payload, context)
        if (isThenable(result)) {
          this.#await(Promise.resolve(result), outbox, call, { context, resource })
          return
        }
      } catch (error) {
        this.#fail(outbox, call, error)
        return
      }
      this.#answer(outbox, call, result)
    })
    if (!this.#active.has(activeKey(from, call))) resource.emitDestroy()
  }

  #run({ name, callback }: Exposed, payload: unknown, context: Context): unknown {
    if (!this.#debug.enabled) return callback(payload, context)
    let result: unknown
    watchDuration(
      () => {
        result = callback(payload, context)
      },
      () => ({ what: `the exposed function ${name}`, fields: { calledFrom: context.from } }),
    )
    return result
  }

  #await(result: Promise<unknown>, outbox: Outbox, call: number, active: ActiveCall): void {
    const key = activeKey(outbox.address, call)
    this.#active.set(key, active)
    const isWaitedFor = (): boolean => {
      if (this.#active.get(key) !== active) return false // who called is gone, or this loop is closed
      active.resource.emitDestroy()
      return this.#active.delete(key)
    }
    result.then(
      (value) => {
        if (isWaitedFor()) this.#answer(outbox, call, value)
      },
      (error: unknown) => {
        if (isWaitedFor()) this.#fail(outbox, call, error)
      },
    )
  }

  /** Nobody waits for a call any more: not for what it answers, nor for when it ends. */
  #callOff(key: number, { context, resource }: ActiveCall): void {
    if (!this.#active.delete(key)) return
    resource.runInAsyncScope(context.abort, context)
    resource.emitDestroy()
  }

  #cancelled(key: number): void {
    const active = this.#active.get(key)
    if (active !== undefined) this.#callOff(key, active)
  }

  /** Results take room, as what was asked for did: but a caller that has no room is told that. */
  #answer(outbox: Outbox, call: number, result: unknown): void {
    try {
      this.#post?.write(outbox, MAIL_RESULT, 0, call, result)
    } catch (error) {
      this.#fail(outbox, call, error)
    }
  }

  /** So do errors. When there is none, or one has a property that cannot be sent, what is always sent is short. */
  #fail(outbox: Outbox, call: number, error: unknown): void {
    const packed = packError(error)
    try {
      this.#post?.write(outbox, MAIL_FAILURE, 0, call, packed)
    } catch {
      this.#post?.answer(outbox, MAIL_FAILURE, call, shortened(packed))
    }
  }

  /** A thread is gone, and what it had to say was read: no other answer comes. */
  #gone(address: number, place: number): void {
    this.#post?.forget(address)
    if (this.#places.get(place)?.address === address) this.#places.delete(place)
    for (const [call, { outbox, name, reject }] of [...this.#pending]) {
      if (outbox.address !== address) continue
      this.#settle(call)
      reject(
        new ShardloopError('ERR_SHARDLOOP_GONE', `${describePlace(place)} ended before it answered ${name}`),
      )
    }
    for (const [key, active] of [...this.#active])
      if (Math.floor(key / CALL_NUMBERS) === address) this.#callOff(key, active)
    const lost = this.#post?.takeLost() ?? 0
    if (lost > 0)
      threadLog().write(
        'warn',
        `${lost} messages were lost: ${describePlace(place)} ended before it read them`,
      )
  }

  #settle(call: number): PendingCall | undefined {
    const pending = this.#pending.get(call)
    if (pending === undefined) return undefined
    this.#pending.delete(call)
    if (this.#pending.size === 0) this.#post?.keepAlive(false)
    pending.unwatch()
    return pending
  }

  #aborted(call: number): void {
    const pending = this.#settle(call)
    if (pending === undefined) return
    this.#post?.answer(pending.outbox, MAIL_CANCEL, call, undefined)
    pending.reject(pending.signal?.reason)
  }

  #sendToAll(name: string, number: number, payload: unknown): void {
    const post = this.open() // first: who is found is told of then, and so are we of its end
    const shards = native.shardMailboxes()
    if (number === 0 || shards.length === 0)
      throw new ShardloopError(
        number === 0 ? 'ERR_SHARDLOOP_NOT_EXPOSED' : 'ERR_SHARDLOOP_GONE',
        number === 0 ? `no shard exposes ${name}` : `there are no shards to call ${name} in`,
      )
    const outboxes: Outbox[] = []
    for (let index = 0; index < shards.length; index += 2)
      outboxes.push(post.outbox(shards[index + 1] as number, shards[index] as number))
    // One that has just ended hears nothing any more; its replacement did not exist when this was said.
    const refused = post.writeAll(outboxes, MAIL_MESSAGE, number, payload)
    if (refused.length > 0) throw refused[0]
  }

  /** Writes to who is at a place now. */
  #write(place: number, name: string, kind: number, number: number, call: number, payload: unknown): Outbox {
    const post = this.open()
    const known = this.#places.get(place)
    if (known !== undefined && post.write(known, kind, number, call, payload)) return known
    // Not looked up yet; or gone, and that was not read yet: it may have been replaced.
    const address = native.mailboxAt(place)
    if (address === 0) {
      if (place === PLACE_SUPERVISOR) throw notExposed(name, place)
      throw goneError(name, place)
    }
    const outbox = post.outbox(address, place)
    this.#places.set(place, outbox)
    if (!post.write(outbox, kind, number, call, payload)) throw goneError(name, place)
    return outbox
  }

  /** The number of a name; 0 when no thread has exposed it yet. */
  #numberOf(name: string): number {
    let number = this.#names.get(name)
    if (number === undefined) {
      checkName(name)
      number = native.nameNumber(name, false)
      if (number !== 0) this.#names.set(name, number)
    }
    return number
  }

  #nextCall(): number {
    do this.#lastCall = this.#lastCall === CALL_NUMBERS - 1 ? 1 : this.#lastCall + 1
    while (this.#pending.has(this.#lastCall))
    return this.#lastCall
  }
}

/** Numbers of calls begin again behind these: they are small integers, as V8 has them. */
const CALL_NUMBERS = 2 ** 30

function activeKey(from: number, call: number): number {
  return from * CALL_NUMBERS + call
}

function ownPlace(): number {
  return shardIdentity()?.shardId ?? (isMainThread ? PLACE_SUPERVISOR : PLACE_NONE)
}

function placeOf(target: unknown): number {
  if (target === 'supervisor') return PLACE_SUPERVISOR
  if (typeof target !== 'number' || !Number.isInteger(target) || target < 0 || target >= SHARDS_MAX)
    throw invalid('target', target, `the number of a shard, below ${SHARDS_MAX}, or 'supervisor'`)
  return target
}

function checkName(name: unknown): void {
  // In UTF-8 all halves of surrogate pairs are the same.
  const isText = typeof name === 'string' && name !== '' && !/\p{Surrogate}/u.test(name)
  if (!isText || Buffer.byteLength(name) > NAME_MAX_BYTES)
    throw invalid('name', name, `a well-formed text of 1 to ${NAME_MAX_BYTES} bytes in UTF-8`)
}

/** Of a call without options. */
export const NO_OPTIONS: CallOptions = {}

function signalOf(options: unknown): AbortSignal | undefined {
  if (options === NO_OPTIONS) return undefined
  if (typeof options !== 'object' || options === null) throw invalid('options', options, 'an object')
  const given = new GivenOptions(options as Record<string, unknown>)
  const signal = given.signal()
  given.refuseUnknown()
  return signal
}

/** What is left of an error that is sent though there is no room. */
function shortened(packed: TransferredError): TransferredError {
  const cut = (text: string): string => text.slice(0, CALL_ERROR_TEXT_MAX)
  if (packed.kind === 'value') return { kind: 'value', value: cut(inspect(packed.value)) }
  const { name, message, stack, isDomException } = packed
  const properties: Record<string, unknown> = {}
  for (const key of ['code', 'errno', 'syscall']) {
    const value = packed.properties[key]
    if (typeof value === 'string') properties[key] = cut(value)
    else if (typeof value === 'number') properties[key] = value
  }
  const texts = {
    name: cut(name),
    message: cut(message),
    stack: stack === undefined ? undefined : cut(stack),
  }
  return { kind: 'error', ...texts, properties, cause: null, errors: null, isDomException }
}

function notExposed(name: string, place: number): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_NOT_EXPOSED',
    `${describePlace(place)} exposes no function ${name}: call getLoop().expose there, before createServer resolves`,
  )
}

function goneError(name: string, place: number): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_GONE',
    `${describePlace(place)} is not running, so ${name} cannot be called in it`,
  )
}

/** The calling thread's. */
export const threadCalls: () => Calls = threadSingletonGetter('calls', () => new Calls())
