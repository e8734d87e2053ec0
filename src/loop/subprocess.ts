import { AsyncResource } from 'node:async_hooks'
import { type ChildProcess, spawn } from 'node:child_process'
import { constants } from 'node:os'
import { ShardloopError, systemError } from '../errors.js'
import type { NativePipe } from '../native/binding.js'
import { native } from '../native/index.js'
import { checkedProtocol, isThenable } from '../workers/callback-results.js'
import { callExceptionHandler, exceptionContext } from '../workers/exception-handler.js'
import { invalid } from '../workers/invalid.js'
import type { ReadPipeTransport, WritePipeTransport } from '../workers/pipe-transport.js'
import type { Protocol } from '../workers/protocol.js'
import { unwatchSignal, watchSignal } from '../workers/shared-signals.js'
import { type RunningChild, threadChildren } from '../workers/thread-children.js'
import type { Connects } from './connect.js'
import { unlessAborted } from './name-lookup.js'
import { connectPipe } from './pipes.js'
import type { SubprocessSettings } from './subprocess-options.js'

type CallbackResult = void | PromiseLike<void>

/**
 * What is done with the events of a child process: asyncio's SubprocessProtocol. Every method is optional. They run on the
 * thread that started it, in the async context of that call. What `pipeDataReceived` throws or rejects with ends its pipe
 * alone; all of it reaches the thread's exception handler.
 */
export interface SubprocessProtocol {
  /** It runs, and its pipes are connected; called once, first. */
  connectionMade?(transport: SubprocessTransport): CallbackResult
  /** Bytes that the child has written to its descriptor `fd` (1 or 2), in order. `data` is the protocol's to keep. */
  pipeDataReceived?(fd: number, data: Buffer): CallbackResult
  /**
   * A pipe is over, and nothing more comes of it; once for each. `error` is null at its end, and when the child has closed its
   * input (fd 0) with nothing waiting to be sent; EPIPE when something was.
   */
  pipeConnectionLost?(fd: number, error: Error | null): CallbackResult
  /** The process has ended; `returnCode` is known. Output that it has left in its pipes may still come. */
  processExited?(): CallbackResult
  /** It has ended and all its pipes are over; once, last. `null` but for what `signal` was aborted with. */
  connectionLost?(error: Error | null): CallbackResult
  /** More than the high watermark waits to be sent to the child's input. */
  pauseWriting?(): CallbackResult
  /** No more than the low watermark waits to be sent. */
  resumeWriting?(): CallbackResult
}

/** A child process. Lives on the thread that started it, and ends with it. */
export interface SubprocessTransport extends AsyncDisposable {
  readonly pid: number
  /** Null while it runs; then what it exited with, or the negative number of the signal that ended it, as in asyncio. */
  readonly returnCode: number | null
  readonly protocol: SubprocessProtocol
  /** The pipe to the child's input (0) or from its output (1, 2), also once it is closed; null when there is none. */
  getPipeTransport(fd: 0): WritePipeTransport | null
  getPipeTransport(fd: 1 | 2): ReadPipeTransport | null
  getPipeTransport(fd: number): WritePipeTransport | ReadPipeTransport | null
  /**
   * Sends a signal, by its name or number. False when the process has ended: its number may be another one's, and is not
   * signalled any more.
   */
  sendSignal(signal: NodeJS.Signals | number): boolean
  /** SIGTERM. */
  terminate(): boolean
  /** SIGKILL. */
  kill(): boolean
  /** Closes the pipes (what waits to be sent is dropped) and kills the process if it runs. `connectionLost` follows. */
  close(): void
  /** Whether `close` was called. */
  isClosing(): boolean
  /**
   * Resolves with the return code when it has ended. As in asyncio, what it has left in its pipes may still come: all of it has come when
   * the protocol's `connectionLost` is called.
   */
  wait(): Promise<number>
  /** `close()`; resolves when `connectionLost` was called. For `await using`. */
  [Symbol.asyncDispose](): Promise<void>
}

/** A child process and its protocol, as asyncio returns them. */
export type ConnectedSubprocess<Made extends SubprocessProtocol> = [
  transport: SubprocessTransport,
  protocol: Made,
]

/**
 * Starts a process. Rejects with the system's error of the start (`spawn ENOENT`, EACCES, EAGAIN …) in Node's shape, with what
 * the factory threw, with the signal's reason, or with ERR_SHARDLOOP_LIMIT; then nothing is left behind.
 */
export async function startSubprocess<Made extends SubprocessProtocol>(
  factory: () => Made,
  settings: SubprocessSettings,
  connects: Connects,
): Promise<ConnectedSubprocess<Made>> {
  const { signal } = settings
  signal?.throwIfAborted()
  // One that is called off leaves its turn to nobody: those behind it keep theirs.
  await unlessAborted(threadChildren().turn(), signal)
  signal?.throwIfAborted()
  const protocol = checkedProtocol(factory())
  const process = await Subprocess.start(protocol, settings)
  await process.connect(connects)
  return [process, protocol]
}

/** Descriptors of a child that may be pipes: its input, its output, and what it says of errors. */
const STREAMS = [0, 1, 2] as const

/** A pipe to or from the child. */
interface ChildPipe {
  readonly native: NativePipe
  /** Whether we write to it. */
  readonly writes: boolean
  transport: WritePipeTransport | ReadPipeTransport | undefined
  /** `pipeConnectionLost` was called, or is about to be. */
  lost: boolean
}

class Subprocess implements SubprocessTransport, RunningChild {
  readonly pid: number
  readonly protocol: SubprocessProtocol
  returnCode: number | null = null
  readonly #child: ChildProcess
  readonly #pipes: ReadonlyMap<number, ChildPipe>
  readonly #settings: SubprocessSettings
  readonly #resource = new AsyncResource('SHARDLOOP_SUBPROCESS', { requireManualDestroy: true })
  /** What happened before `connectionMade`; null behind it. Four at most: three pipes and the end. */
  #early: (() => void)[] | null = []
  #closing = false
  #lost = false
  #error: Error | null = null
  readonly #whenExited: ((returnCode: number) => void)[] = []
  readonly #whenLost: (() => void)[] = []

  /** @throws the system's error, ERR_SHARDLOOP_LIMIT */
  static async start(protocol: SubprocessProtocol, settings: SubprocessSettings): Promise<Subprocess> {
    const pipes = openPipes(settings)
    try {
      if (!native.reserveChild()) {
        throw new ShardloopError(
          'ERR_SHARDLOOP_LIMIT',
          'as many subprocesses run in this process as may (CHILDREN_MAX, 4096): wait until some have ended',
        )
      }
      const child = spawnChild(settings, pipes)
      // Nothing comes between the start and this: the event of its end has not been handled.
      if (child.pid !== undefined) return new Subprocess(child, child.pid, protocol, settings, pipes)
      native.childNotStarted()
      throw await new Promise<Error>((resolve) => child.once('error', resolve))
    } catch (error) {
      for (const { native: pipe, writes } of pipes.values()) pipe.closeEnd(writes)
      throw error
    } finally {
      // The child has duplicates of its ends, if it runs.
      for (const { native: pipe, writes } of pipes.values()) pipe.closeEnd(!writes)
    }
  }

  private constructor(
    child: ChildProcess,
    pid: number,
    protocol: SubprocessProtocol,
    settings: SubprocessSettings,
    pipes: ReadonlyMap<number, ChildPipe>,
  ) {
    native.childStarted(pid)
    this.#child = child
    this.pid = pid
    this.protocol = protocol
    this.#settings = settings
    this.#pipes = pipes
    child.once('exit', (code, signal) => this.#exited(code, signal))
    child.on('error', () => {}) // of a signal that could not be sent; whoever sends it is told by the result
    if (settings.signal !== undefined) watchSignal(settings.signal, this)
    threadChildren().add(this)
  }

  /** Connects the pipes, then tells the protocol. */
  async connect(connects: Connects): Promise<void> {
    const connecting = [...this.#pipes].map(([fd, pipe]) => this.#connectPipe(fd, pipe, connects))
    const outcomes = await Promise.allSettled(connecting)
    try {
      for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
      this.#settings.signal?.throwIfAborted()
    } catch (error) {
      await this.#undo()
      throw error
    }
    // What comes of it comes with a later batch; so connectionMade is before it, and may pause it again.
    for (const { transport, writes } of this.#pipes.values())
      if (!writes) (transport as ReadPipeTransport).resumeReading()
    this.#run('connectionMade', () => this.protocol.connectionMade?.(this))
    const early = this.#early ?? []
    this.#early = null
    for (const event of early) event()
    this.#endIfOver()
  }

  /** Ends it as if it had never run: the protocol was not told of it, and is told nothing. */
  async #undo(): Promise<void> {
    this.close()
    for (const [fd, pipe] of this.#pipes) {
      // One that was connected while it closed already is open still.
      if (pipe.transport !== undefined) pipe.transport.abort()
      else this.#dropPipe(fd, pipe)
    }
    await this.untilLost()
  }

  async #connectPipe(fd: number, pipe: ChildPipe, connects: Connects): Promise<void> {
    const protocol = pipe.writes ? this.#inputProtocol(fd, pipe) : this.#outputProtocol(fd, pipe)
    const { engine } = this.#settings
    await connectPipe(() => protocol, pipe.native, pipe.writes, engine, undefined, connects)
  }

  #inputProtocol(fd: number, pipe: ChildPipe): Protocol {
    return {
      connectionMade: (transport) => {
        pipe.transport = transport
      },
      pauseWriting: () => this.protocol.pauseWriting?.(),
      resumeWriting: () => this.protocol.resumeWriting?.(),
      connectionLost: (error) => this.#pipeLost(fd, pipe, error),
    }
  }

  #outputProtocol(fd: number, pipe: ChildPipe): Protocol {
    return {
      connectionMade: (transport) => {
        pipe.transport = transport
        transport.pauseReading() // until the protocol knows of the process
      },
      dataReceived: (chunk) => this.protocol.pipeDataReceived?.(fd, chunk),
      connectionLost: (error) => this.#pipeLost(fd, pipe, error),
    }
  }

  getPipeTransport(fd: 0): WritePipeTransport | null
  getPipeTransport(fd: 1 | 2): ReadPipeTransport | null
  getPipeTransport(fd: number): WritePipeTransport | ReadPipeTransport | null
  getPipeTransport(fd: number): WritePipeTransport | ReadPipeTransport | null {
    return this.#pipes.get(fd)?.transport ?? null
  }

  sendSignal(signal: NodeJS.Signals | number): boolean {
    const known =
      typeof signal === 'number' ? isSignalNumber(signal) : Object.hasOwn(constants.signals, signal)
    if (!known) throw invalid('signal', signal, "a signal's name or number")
    return this.returnCode === null && this.#child.kill(signal)
  }

  terminate(): boolean {
    return this.sendSignal('SIGTERM')
  }

  kill(): boolean {
    return this.sendSignal('SIGKILL')
  }

  close(): void {
    if (this.#closing) return
    this.#closing = true
    for (const { transport } of this.#pipes.values()) transport?.abort()
    this.kill()
  }

  isClosing(): boolean {
    return this.#closing
  }

  wait(): Promise<number> {
    if (this.returnCode !== null) return Promise.resolve(this.returnCode)
    return new Promise((resolve) => this.#whenExited.push(resolve))
  }

  untilLost(): Promise<void> {
    if (this.#lost) return Promise.resolve()
    return new Promise((resolve) => this.#whenLost.push(resolve))
  }

  unref(): void {
    this.#child.unref()
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close()
    return this.untilLost()
  }

  /** The signal's. */
  handleEvent(): void {
    const reason = this.#settings.signal?.reason
    this.#error = reason instanceof Error ? reason : new Error('the signal was aborted', { cause: reason })
    this.close()
  }

  #exited(code: number | null, signal: NodeJS.Signals | null): void {
    native.childReaped(this.pid)
    const returnCode = signal === null ? (code ?? 0) : -constants.signals[signal]
    this.returnCode = returnCode
    for (const resolve of this.#whenExited.splice(0)) resolve(returnCode)
    this.#tell('processExited', () => this.protocol.processExited?.())
    this.#endIfOver()
  }

  #pipeLost(fd: number, pipe: ChildPipe, error: Error | null): void {
    pipe.lost = true
    this.#tell('pipeConnectionLost', () => this.protocol.pipeConnectionLost?.(fd, error))
    this.#endIfOver()
  }

  /** A pipe that was not connected. */
  #dropPipe(fd: number, pipe: ChildPipe): void {
    pipe.native.closeEnd(pipe.writes)
    this.#pipeLost(fd, pipe, null)
  }

  #endIfOver(): void {
    if (this.#lost || this.returnCode === null) return
    for (const { lost } of this.#pipes.values()) if (!lost) return
    this.#lost = true
    const { signal } = this.#settings
    if (signal !== undefined) unwatchSignal(signal, this)
    threadChildren().remove(this)
    this.#tell('connectionLost', () => this.protocol.connectionLost?.(this.#error))
    this.#resource.emitDestroy()
    for (const resolve of this.#whenLost.splice(0)) resolve()
  }

  /** Behind `connectionMade`. */
  #tell(name: keyof SubprocessProtocol, callback: () => unknown): void {
    if (this.#early === null) this.#run(name, callback)
    else this.#early.push(() => this.#run(name, callback))
  }

  #run(name: keyof SubprocessProtocol, callback: () => unknown): void {
    const report = (error: unknown): void =>
      callExceptionHandler(exceptionContext(`${name} of subprocess ${this.pid} threw`, error))
    try {
      const result = this.#resource.runInAsyncScope(callback)
      if (isThenable(result)) result.then(undefined, report)
    } catch (error) {
      report(error)
    }
  }
}

function openPipes(settings: SubprocessSettings): Map<number, ChildPipe> {
  const pipes = new Map<number, ChildPipe>()
  for (const fd of STREAMS) {
    if (settings.stdio[fd] !== 'pipe') continue
    const pipe = native.openPipe()
    if ('errno' in pipe) {
      for (const opened of pipes.values()) for (const end of [true, false]) opened.native.closeEnd(end)
      throw systemError(pipe.errno, pipe.syscall)
    }
    pipes.set(fd, { native: pipe, writes: fd === 0, transport: undefined, lost: false })
  }
  return pipes
}

function spawnChild(settings: SubprocessSettings, pipes: ReadonlyMap<number, ChildPipe>): ChildProcess {
  const [stdin, stdout, stderr] = settings.stdio.map((stream, fd) => {
    const pipe = pipes.get(fd)
    return pipe === undefined ? stream : pipe.native.descriptor(!pipe.writes)
  }) as (typeof settings.stdio)[number][]
  // 'inherit' of the output is descriptor 1 for both.
  const errors = stderr !== 'stdout' ? stderr : stdout === 'inherit' ? 1 : stdout
  try {
    return spawn(settings.program, settings.args, {
      ...settings.spawn,
      stdio: [stdin, stdout, errors] as ('ignore' | 'inherit' | number)[],
    })
  } catch (error) {
    native.childNotStarted()
    throw error
  }
}

function isSignalNumber(signal: number): boolean {
  return Number.isInteger(signal) && signal >= 0 && signal <= SIGNAL_MAX
}

/** The last of Linux's real-time signals; macOS has half as many. */
const SIGNAL_MAX = 64
