import type { FileHandle } from 'node:fs/promises'
import { ShardloopError } from '../errors.js'
import { PENDING_TOLD_MAX } from '../limits.js'
import type { Server } from '../server/server.js'
import { monotonicTime } from '../workers/clock.js'
import type { ExceptionContext, ExceptionHandler } from '../workers/connection-server.js'
import { debugMode } from '../workers/debug-mode.js'
import {
  callExceptionHandler,
  exceptionContext,
  exceptionHandler,
  setExceptionHandler,
} from '../workers/exception-handler.js'
import { printException } from '../workers/exception-report.js'
import { type Handle, TimerCall, type TimerHandle } from '../workers/handles.js'
import { invalid } from '../workers/invalid.js'
import type { IpSocketAddress, Protocol, ProtocolFactory, Transport } from '../workers/protocol.js'
import { Scheduler } from '../workers/scheduler.js'
import { type SendFileOptions, sendFile } from '../workers/send-file.js'
import { SignalHandlers, type SignalName } from '../workers/signal-handlers.js'
import { threadLog } from '../workers/thread-log.js'
import type { Connected } from './connect.js'
import type { AcceptedSocketOptions, ConnectionOptions, UnixConnectionOptions } from './connection-options.js'
import { LoopNetwork, type LoopServerOptions } from './loop-network.js'
import {
  type AddressLookupOptions,
  lookupAddresses,
  lookupName,
  type NameInfo,
  type NameLookupOptions,
} from './name-lookup.js'
import { type ExecutorTaskOptions, LoopTasks } from './run-in-executor.js'

/**
 * A thread's loop, as asyncio has it: {@link getLoop} gives it in every thread, whether or not it serves anything.
 *
 * **Rounds.** Callbacks run in rounds, as in asyncio. A round takes what is ready when it begins, in the order in which it
 * was scheduled, and then the timers that are due by then; what is scheduled meanwhile runs in the next one. Between
 * two rounds Node's own timers and I/O have their turn. Next ticks and microtasks run after a round, not between its
 * callbacks: in asyncio, too, a future's callbacks wait for their turn.
 *
 * **Context.** Each callback runs in the async context (AsyncLocalStorage) of the call that scheduled it, with `this`
 * undefined. What it throws reaches the thread's exception handler, in the same context, and stops no other callback.
 *
 * **Life.** What waits keeps the thread alive, as setTimeout does; an empty loop does not.
 *
 * Every method but `isClosed`, `close`, `getExceptionHandler`, `callExceptionHandler` and `defaultExceptionHandler` throws (or
 * rejects with) ShardloopError ERR_SHARDLOOP_STATE once the loop is closed, and ERR_SHARDLOOP_ARGUMENT for an argument that it does not take.
 */
export interface Loop extends AsyncDisposable {
  /** Seconds of the system's monotonic clock (CLOCK_MONOTONIC on Linux): of the same clock in all threads of the process. */
  time(): number
  /** The same in milliseconds. */
  timeMs(): number
  /** Calls back in the next round. Callbacks run in the order of the calls. */
  callSoon<Args extends unknown[]>(callback: (...args: Args) => unknown, ...args: Args): Handle
  /**
   * Calls back once `delaySeconds` have passed: never early by `time()`, and of those that are due the earliest first, those
   * of the same time in the order of the calls. A delay of 0 or less is `callSoon`. There is no longest delay.
   */
  callLater<Args extends unknown[]>(
    delaySeconds: number,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): TimerHandle
  /** As `callLater`, at a time of `time()`. */
  callAt<Args extends unknown[]>(
    whenSeconds: number,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): TimerHandle
  /**
   * The addresses of a host, all of them, in the order in which the system prefers them (node:dns `lookup`); those of the
   * loopback interface for null. Rejects with Node's error when there is none (`ENOTFOUND`, `syscall: 'getaddrinfo'`), and
   * with the signal's reason; with ERR_SHARDLOOP_OPTION for an option that it does not know.
   * @param port 0 to 65535, for the result
   */
  getaddrinfo(host: string | null, port: number, options?: AddressLookupOptions): Promise<IpSocketAddress[]>
  /** The name of an address, and that of the service on its port (node:dns `lookupService`). Rejects as `getaddrinfo` does. */
  getnameinfo(
    socketAddress: Pick<IpSocketAddress, 'address' | 'port'>,
    options?: NameLookupOptions,
  ): Promise<NameInfo>
  /**
   * A server in this very thread, as `createServer` with `shards: 0`; in a shard it is that shard's own affair. Resolves when it
   * listens.
   */
  createServer(source: ProtocolFactory | URL, options?: LoopServerOptions): Promise<Server>
  /** The same on a Unix socket; `path` is required. */
  createUnixServer(source: ProtocolFactory | URL, options: LoopServerOptions): Promise<Server>
  /**
   * Connects over TCP. Of a name's addresses all are tried, the next one beside those before it after a moment (RFC 8305).
   * Resolves when the protocol's `connectionMade` was called; its callbacks run in the async context of this call. Rejects
   * with the system's error in Node's shape (an AggregateError of several addresses' has the first one's `code`), with what
   * the factory threw, or with the signal's reason; with ERR_SHARDLOOP_OPTION for options that cannot be.
   *
   * A shard whose last server is over ends: its connections to others are closed in good order then.
   */
  createConnection<Made extends Protocol>(
    factory: () => Made,
    options: ConnectionOptions,
  ): Promise<Connected<Made>>
  /**
   * Connects to a Unix socket. One whose queue is full is tried until there is room, as a blocking connect(2) would wait. Else
   * as `createConnection`.
   */
  createUnixConnection<Made extends Protocol>(
    factory: () => Made,
    options: UnixConnectionOptions,
  ): Promise<Connected<Made>>
  /** Goes on with a connection that was accepted elsewhere. Rejects with EBADF, ENOTCONN … when it is none. */
  connectAcceptedSocket<Made extends Protocol>(
    factory: () => Made,
    options: AcceptedSocketOptions,
  ): Promise<Connected<Made>>
  /** See {@link sendFile}. */
  sendFile(
    transport: Transport,
    file: FileHandle | number,
    offset?: number,
    count?: number | null,
    options?: SendFileOptions,
  ): Promise<number>
  /**
   * Runs a function of a module on a thread of the executor, which the supervisor owns and all shards share; resolves with what
   * it returns, or what the promise that it returns resolves with. On the main thread and in shards.
   *
   * Arguments and result are structured clones (a Buffer arrives as a Uint8Array), but what `transferList` names moves. Of
   * a result moves what it has for itself: an ArrayBuffer, memory of a typed array that spans all of it, a MessagePort, within
   * arrays and plain objects, too. So a task that keeps such memory returns a copy, or marks it by `markAsUntransferable`. Of
   * views of larger memory a copy of their exact size is sent, either way.
   *
   * Rejects with what the task threw or its import failed with, as it was there: class, message, stack, code, cause; with the
   * signal's reason at once, then the thread that runs the task is ended; with ERR_SHARDLOOP_EXECUTOR_FULL when as many wait as
   * may, ERR_SHARDLOOP_EXECUTOR_DIED when the thread ends by itself, ERR_SHARDLOOP_CLOSED when the loop is closed or the shard ends
   * with its last server, and ERR_SHARDLOOP_STATE in a worker thread of the program's own.
   *
   * @param task the file: URL of a module, or a name of the option `executor.tasks` of createServer
   * @param args what the function is called with
   */
  runInExecutor<Result = unknown>(
    task: URL | string,
    args?: readonly unknown[],
    options?: ExecutorTaskOptions,
  ): Promise<Result>
  /**
   * Calls back for each such signal that the process gets; in a shard the supervisor hands it on. There is one handler for
   * each signal, as in asyncio: another takes its place. (`onSignal` is for several.) Signals that cannot be handled are
   * refused by name (ERR_SHARDLOOP_ARGUMENT), SIGCHLD among them; a worker thread of the program's own has none
   * (ERR_SHARDLOOP_STATE). What the callback throws or rejects with reaches the exception handler.
   */
  addSignalHandler<Args extends unknown[]>(
    signal: SignalName,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): void
  /** Whether there was a handler. With the last listener for a signal its default action comes back. */
  removeSignalHandler(signal: SignalName): boolean
  /**
   * Who is told, in this thread, of what callbacks throw where no server has a handler of its own. null: the default one,
   * which logs. What the handler itself throws is logged.
   */
  setExceptionHandler(handler: ExceptionHandler | null): void
  /** The handler that was set, or null. */
  getExceptionHandler(): ExceptionHandler | null
  /** Tells the handler, with asyncio's keys: `message`, and what is concerned. */
  callExceptionHandler(context: Omit<ExceptionContext, 'error'>): void
  /** What the default handler does: logs an error. */
  defaultExceptionHandler(context: Omit<ExceptionContext, 'error'>): void
  /**
   * Switches this thread's debug mode, which is on from the start where the environment has SHARDLOOP_DEBUG=1. While it is on,
   * callbacks that take `slowCallbackDuration` or longer are logged (level `warn`) with their duration and with where they come
   * from; so are, when a loop is closed, what still waits and, as at the end of the thread, connections that were not closed,
   * with the stack of the call that made them. It costs time.
   */
  setDebug(enabled: boolean): void
  getDebug(): boolean
  /** Seconds from which on debug mode calls a callback slow, 0 or more. Default 0.1, as in asyncio. Of the whole thread. */
  slowCallbackDuration: number
  /**
   * Cancels all callbacks that wait, those of the round that runs included, aborts the servers that the loop made and the
   * connections that this thread made (ERR_SHARDLOOP_CLOSED), also those that it was about to make, and its tasks in the executor, removes its signal handlers and the thread's exception handler.
   * Resolves when nothing native is left. Look-ups that run end as they would have. Idempotent; `getLoop` gives another loop from now on.
   */
  close(): Promise<void>
  /** Whether `close` was called. */
  isClosed(): boolean
}

/** See {@link Loop}. */
export class EventLoop implements Loop {
  /** A function of its own, so that structured clone refuses it: it belongs to its thread. */
  protected readonly isOfOneThread = (): true => true
  readonly #scheduler: Scheduler = new Scheduler(reportException)
  readonly #network = new LoopNetwork()
  readonly #tasks = new LoopTasks()
  readonly #signals = new SignalHandlers()
  readonly #whenClosing: () => void
  #closed: Promise<void> | null = null

  /** @param whenClosing called when it closes */
  constructor(whenClosing: () => void) {
    this.#whenClosing = whenClosing
  }

  time(): number {
    this.#open('time')
    return monotonicTime()
  }

  timeMs(): number {
    this.#open('timeMs')
    return monotonicTime() * 1000
  }

  callSoon<Args extends unknown[]>(callback: (...args: Args) => unknown, ...args: Args): Handle {
    if (this.#closed !== null) throw closedError('callSoon')
    if (typeof callback !== 'function') throw invalid('callback', callback, 'a function')
    return this.#scheduler.callSoon(callback, args.length === 0 ? undefined : args)
  }

  callLater<Args extends unknown[]>(
    delaySeconds: number,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): TimerHandle {
    if (this.#closed !== null) throw closedError('callLater')
    if (!isFiniteNumber(delaySeconds)) throw invalid('delaySeconds', delaySeconds, SECONDS_EXPECTED)
    if (typeof callback !== 'function') throw invalid('callback', callback, 'a function')
    return this.#scheduler.callLater(delaySeconds, callback, args.length === 0 ? undefined : args)
  }

  callAt<Args extends unknown[]>(
    whenSeconds: number,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): TimerHandle {
    if (this.#closed !== null) throw closedError('callAt')
    if (!isFiniteNumber(whenSeconds)) throw invalid('whenSeconds', whenSeconds, SECONDS_EXPECTED)
    if (typeof callback !== 'function') throw invalid('callback', callback, 'a function')
    return this.#scheduler.callAt(whenSeconds, callback, args.length === 0 ? undefined : args)
  }

  async getaddrinfo(
    host: string | null,
    port: number,
    options: AddressLookupOptions = {},
  ): Promise<IpSocketAddress[]> {
    this.#open('getaddrinfo')
    return await lookupAddresses(host, port, options)
  }

  async getnameinfo(
    socketAddress: Pick<IpSocketAddress, 'address' | 'port'>,
    options: NameLookupOptions = {},
  ): Promise<NameInfo> {
    this.#open('getnameinfo')
    return await lookupName(socketAddress, options)
  }

  async createServer(source: ProtocolFactory | URL, options: LoopServerOptions = {}): Promise<Server> {
    return this.#open('createServer').#network.createServer(source, options)
  }

  async createUnixServer(source: ProtocolFactory | URL, options: LoopServerOptions): Promise<Server> {
    return this.#open('createUnixServer').#network.createUnixServer(source, options)
  }

  /** Not an async function: the promise of its own that each of those makes costs a client as much as a system call. */
  createConnection<Made extends Protocol>(
    factory: () => Made,
    options: ConnectionOptions,
  ): Promise<Connected<Made>> {
    try {
      return this.#open('createConnection').#network.createConnection(factory, options)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  async createUnixConnection<Made extends Protocol>(
    factory: () => Made,
    options: UnixConnectionOptions,
  ): Promise<Connected<Made>> {
    return this.#open('createUnixConnection').#network.createUnixConnection(factory, options)
  }

  async connectAcceptedSocket<Made extends Protocol>(
    factory: () => Made,
    options: AcceptedSocketOptions,
  ): Promise<Connected<Made>> {
    return this.#open('connectAcceptedSocket').#network.connectAcceptedSocket(factory, options)
  }

  async sendFile(
    transport: Transport,
    file: FileHandle | number,
    offset?: number,
    count?: number | null,
    options?: SendFileOptions,
  ): Promise<number> {
    this.#open('sendFile')
    return sendFile(transport, file, offset, count, options)
  }

  /** Not an async function: a task that is cancelled and that nobody waits for must not end the process. */
  runInExecutor<Result = unknown>(
    task: URL | string,
    args: readonly unknown[] = [],
    options: ExecutorTaskOptions = {},
  ): Promise<Result> {
    try {
      return this.#open('runInExecutor').#tasks.run(task, args, options) as Promise<Result>
    } catch (error) {
      return Promise.reject(error)
    }
  }

  addSignalHandler<Args extends unknown[]>(
    signal: SignalName,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): void {
    this.#open('addSignalHandler')
    this.#signals.add(signal, callback, args)
  }

  removeSignalHandler(signal: SignalName): boolean {
    this.#open('removeSignalHandler')
    return this.#signals.remove(signal)
  }

  setExceptionHandler(handler: ExceptionHandler | null): void {
    this.#open('setExceptionHandler')
    if (handler !== null && typeof handler !== 'function')
      throw invalid('handler', handler, 'a function, or null for the default')
    setExceptionHandler(handler)
  }

  getExceptionHandler(): ExceptionHandler | null {
    return exceptionHandler()
  }

  callExceptionHandler(context: Omit<ExceptionContext, 'error'>): void {
    callExceptionHandler(checked(context))
  }

  defaultExceptionHandler(context: Omit<ExceptionContext, 'error'>): void {
    printException(checked(context))
  }

  setDebug(enabled: boolean): void {
    this.#open('setDebug')
    if (typeof enabled !== 'boolean') throw invalid('enabled', enabled, 'true or false')
    debugMode().enabled = enabled
  }

  getDebug(): boolean {
    return debugMode().enabled
  }

  get slowCallbackDuration(): number {
    return debugMode().slowCallbackDuration
  }

  set slowCallbackDuration(seconds: number) {
    if (!(isFiniteNumber(seconds) && seconds >= 0))
      throw invalid('slowCallbackDuration', seconds, 'seconds, 0 or more')
    debugMode().slowCallbackDuration = seconds
  }

  close(): Promise<void> {
    if (this.#closed === null) {
      if (debugMode().enabled) this.#tellWhatWaits()
      this.#signals.clear()
      setExceptionHandler(null)
      this.#closed = Promise.all([this.#scheduler.close(), this.#network.close(), this.#tasks.close()]).then(
        () => {},
      )
      this.#whenClosing()
    }
    return this.#closed
  }

  isClosed(): boolean {
    return this.#closed !== null
  }

  /** The loop, unless it is closed. */
  #open(method: keyof Loop & string): this {
    if (this.#closed !== null) throw closedError(method)
    return this
  }

  #tellWhatWaits(): void {
    const pending = this.#scheduler.pending()
    if (pending.length === 0) return
    const handles = pending.slice(0, PENDING_TOLD_MAX).map((call) => {
      const when =
        call instanceof TimerCall ? `, due in ${(call.when() - monotonicTime()).toFixed(3)} seconds` : ''
      return `${call.describe()}${when}${call.source === undefined ? '' : `\n${call.source}`}`
    })
    threadLog().write('warn', `the loop was closed while ${pending.length} callbacks waited`, { handles })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

const SECONDS_EXPECTED = 'seconds, as a finite number'

function isFiniteNumber(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value)
}

function reportException(error: unknown, handle: Handle): void {
  const method = handle instanceof TimerCall ? 'callLater' : 'callSoon'
  callExceptionHandler(exceptionContext(`a callback of ${method} threw`, error, { handle }))
}

function checked(context: Omit<ExceptionContext, 'error'>): ExceptionContext {
  if (typeof context !== 'object' || context === null || typeof context.message !== 'string')
    throw invalid('context', context, 'an object with a message')
  return { ...context, error: context.exception }
}

function closedError(method: keyof Loop & string): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_STATE',
    `${method} was called on a loop that is closed: getLoop() gives another`,
  )
}
