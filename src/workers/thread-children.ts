import { isMainThread } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { native } from '../native/index.js'
import { threadSingletonGetter } from './thread-singleton.js'

/** As it was before the program may have replaced it (a test runner's timers). */
const later = setImmediate

/** A child process that has not been told to be over. */
export interface RunningChild {
  /** Kills it, and closes its pipes. */
  close(): void
  /** Resolves when all of it is over. */
  untilLost(): Promise<void>
}

/**
 * The child processes of this thread. Native code kills and reaps what is left when the thread ends without this one being
 * asked (a crash, `worker.terminate`); on the main thread, whose environment is not cleaned up by `process.exit`, we see to it.
 */
export class ThreadChildren {
  readonly #running = new Set<RunningChild>()
  /** Resolves when the last of those that wait for it has had its turn. */
  #turns: Promise<void> = Promise.resolve()
  #closings = 0

  /**
   * A start takes the thread some milliseconds (fork(2), and the wait for exec). So many at once take turns, between which
   * the loop has its own.
   * @throws ShardloopError ERR_SHARDLOOP_CLOSED when they were closed meanwhile
   */
  async turn(): Promise<void> {
    const [turn, closings] = [this.#turns, this.#closings]
    this.#turns = turn.then(() => new Promise((resolve) => later(resolve)))
    await turn
    if (closings !== this.#closings)
      throw new ShardloopError('ERR_SHARDLOOP_CLOSED', 'the loop was closed before the process was started')
  }

  add(child: RunningChild): void {
    this.#running.add(child)
    if (this.#running.size === 1 && isMainThread) process.on('exit', killAtExit)
  }

  remove(child: RunningChild): void {
    this.#running.delete(child)
    if (this.#running.size === 0 && isMainThread) process.removeListener('exit', killAtExit)
  }

  /** Kills them all; resolves when they are over. */
  async close(): Promise<void> {
    this.#closings += 1
    const running = [...this.#running]
    for (const child of running) child.close()
    for (const child of running) await child.untilLost()
  }
}

function killAtExit(): void {
  // Node says so before it emits 'exit', which a program may do, too; nothing ends then.
  if ((process as { readonly _exiting?: boolean })._exiting !== false) native.endChildren()
}

/** Those of the calling thread. */
export const threadChildren: () => ThreadChildren = threadSingletonGetter(
  'thread-children',
  () => new ThreadChildren(),
)
