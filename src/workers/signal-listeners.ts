import { inspect } from 'node:util'
import { ShardloopError } from '../errors.js'
import { VALUE_SHOWN_MAX_LENGTH } from '../limits.js'
import { isThenable } from './callback-results.js'
import { printException } from './exception-report.js'

/** Signals that a program can listen to by `onSignal`. */
export const HANDLED_SIGNALS = [
  'SIGHUP',
  'SIGINT',
  'SIGQUIT',
  'SIGTERM',
  'SIGUSR2',
  'SIGWINCH',
  'SIGCONT',
] as const

/** One of {@link HANDLED_SIGNALS}. */
export type HandledSignal = (typeof HANDLED_SIGNALS)[number]

/** Called with the signal's name. A promise that it returns is watched. */
export type SignalListener = (signal: HandledSignal) => void | PromiseLike<void>

/** Where a thread gets its signals from: from the supervisor in a shard, from Node on the main thread. */
export interface SignalSource {
  /** The thread has its first listener for `signal`. */
  subscribe(signal: HandledSignal): void
  /** The thread has no listener for `signal` any more. */
  unsubscribe(signal: HandledSignal): void
}

/** A listener as it was added; the same function may be added several times. */
interface Entry {
  readonly listener: SignalListener
}

/** One thread's listeners for signals; subscribes to those that somebody listens to, and to no other. */
export class SignalListeners {
  readonly #source: SignalSource
  readonly #entries = new Map<HandledSignal, Set<Entry>>()

  constructor(source: SignalSource) {
    this.#source = source
  }

  /**
   * Adds a listener, behind those that are there.
   * @returns removes it; calling that again does nothing
   * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT
   */
  add(signal: HandledSignal, listener: SignalListener): () => void {
    checkSignal(signal)
    if (typeof listener !== 'function')
      throw new ShardloopError(
        'ERR_SHARDLOOP_ARGUMENT',
        `onSignal: expected a function to call, given ${show(listener)}`,
      )
    const entry: Entry = { listener }
    const entries = this.#entries.get(signal)
    if (entries !== undefined) entries.add(entry)
    else {
      this.#entries.set(signal, new Set([entry]))
      this.#source.subscribe(signal)
    }
    return () => this.#remove(signal, entry)
  }

  /** Calls those who listen now. What one throws or rejects with is logged, and the others are called all the same. */
  deliver(signal: HandledSignal): void {
    for (const { listener } of [...(this.#entries.get(signal) ?? [])]) {
      const failed = (error: unknown): void =>
        printException({ message: `a listener of onSignal('${signal}') threw`, error })
      try {
        const result: unknown = listener(signal)
        if (isThenable(result)) result.then(undefined, failed)
      } catch (error) {
        failed(error)
      }
    }
  }

  #remove(signal: HandledSignal, entry: Entry): void {
    const entries = this.#entries.get(signal)
    if (!entries?.delete(entry) || entries.size > 0) return
    this.#entries.delete(signal)
    this.#source.unsubscribe(signal)
  }
}

/** @param method for the message @throws ShardloopError ERR_SHARDLOOP_ARGUMENT */
export function checkSignal(signal: unknown, method = 'onSignal'): asserts signal is HandledSignal {
  if (HANDLED_SIGNALS.some((handled) => handled === signal)) return
  const reason = REFUSED.get(signal as string)
  throw new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `${method}: expected ${HANDLED_SIGNALS.join(', ')}, given ${show(signal)}${reason === undefined ? '' : `: ${reason}`}`,
  )
}

/** Why some signals cannot be had. */
const REFUSED: ReadonlyMap<string, string> = new Map([
  ['SIGKILL', 'no process can catch it'],
  ['SIGSTOP', 'no process can catch it'],
  ['SIGUSR1', "it is Node's own, and starts its debugger"],
  ['SIGPROF', "it is V8's own, for its profiler"],
  ['SIGCHLD', "it is libuv's own, for child processes: listen to their 'exit'"],
  ['SIGPIPE', 'Node ignores it: a write to a broken pipe fails with EPIPE'],
  ...['SIGSEGV', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGABRT', 'SIGTRAP', 'SIGSYS'].map(
    (signal): [string, string] => [signal, 'a process that it is sent to is broken, and runs no JavaScript'],
  ),
])

function show(value: unknown): string {
  return inspect(value).slice(0, VALUE_SHOWN_MAX_LENGTH)
}
