import { isMainThread } from 'node:worker_threads'
import { native } from '../native/index.js'
import { threadSingletonGetter } from './thread-singleton.js'

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
