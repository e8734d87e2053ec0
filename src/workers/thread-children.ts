import { isMainThread } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { CHILD_KILL_GRACE_MS } from '../limits.js'
import { native } from '../native/index.js'
import { threadLog } from './thread-log.js'
import { threadSingletonGetter } from './thread-singleton.js'

/** As they were before the program may have replaced them (a test runner's timers). */
const [later, afterMs, never] = [setImmediate, setTimeout, clearTimeout]

/** A child process that has not been told to be over. */
export interface RunningChild {
  readonly pid: number
  /** Kills it, and closes its pipes. */
  close(): void
  /** Resolves when all of it is over. */
  untilLost(): Promise<void>
  /** It keeps the thread alive no more. */
  unref(): void
}

/**
 * The child processes of this thread. Native code kills and reaps what is left when the thread ends without this one being
 * asked (a crash, `worker.terminate`); on the main thread, whose environment is not cleaned up by `process.exit`, we see to it.
 */
export class ThreadChildren {
  readonly #graceMs: number
  readonly #running = new Set<RunningChild>()
  /** Resolves when the last of those that wait for it has had its turn. */
  #turns: Promise<void> = Promise.resolve()
  #closings = 0

  /** @param graceMs see CHILD_KILL_GRACE_MS; another for tests */
  constructor(graceMs: number = CHILD_KILL_GRACE_MS) {
    this.#graceMs = graceMs
  }

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

  /** Kills them all; resolves when they are over, or have had the time for it. */
  async close(): Promise<void> {
    this.#closings += 1
    const running = new Set(this.#running)
    if (running.size === 0) return
    for (const child of running) child.close()
    const over = [...running].map((child) => child.untilLost().then(() => running.delete(child)))
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = afterMs(resolve, this.#graceMs)
    })
    await Promise.race([Promise.all(over), late])
    never(timer)
    for (const child of running) {
      child.unref()
      const message = `subprocess ${child.pid} has not ended ${this.#graceMs} ms after it was killed: it is left alone`
      threadLog().write('warn', message, { pid: child.pid })
    }
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
