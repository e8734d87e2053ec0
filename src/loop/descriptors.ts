import { constants } from 'node:os'
import { ShardloopError, systemError } from '../errors.js'
import { OPERATIONS_AT_ONCE_MAX, WATCHED_DESCRIPTORS_MAX } from '../limits.js'
import { native } from '../native/index.js'
import { creationStack, debugMode } from '../workers/debug-mode.js'
import { type Callback, ScheduledCall } from '../workers/handles.js'
import { invalid } from '../workers/invalid.js'
import type { Scheduler } from '../workers/scheduler.js'
import { threadLog } from '../workers/thread-log.js'
import { DescriptorWatcher, GONE, READABLE, WRITABLE } from './descriptor-watcher.js'
import { descriptorHolders, isRawSocket, type RawSocket, serialOf } from './raw-socket.js'
import { refuseTransport } from './refuse-transport.js'

/** One of the two ways in which a descriptor can be ready. */
export type Direction = 'reader' | 'writer'

/** Who waits for a descriptor to be ready in one direction. */
export interface Waiter {
  /** It is ready. Must not throw. */
  run(): void
  /** Whether it waits no more. */
  cancelled(): boolean
  /** The descriptor is watched no more: it was closed, or given away, or the loop is closed. */
  lost(error: Error): void
}

/** A descriptor, and who waits for it. */
class Watch {
  readonly fd: number
  readonly id: number
  /** The RawSocket's whose it is, which takes it out before it closes; 0 for a plain number. */
  readonly serial: number
  reader: Waiter | null = null
  writer: Waiter | null = null
  /** That RawSocket, while somebody waits: were it collected, it would close. */
  held: RawSocket | null = null
  /** What native code watches it for. */
  interest = 0

  constructor(fd: number, id: number, serial: number) {
    this.fd = fd
    this.id = id
    this.serial = serial
  }

  get owned(): boolean {
    return this.serial !== 0
  }

  get wanted(): number {
    return (this.reader === null ? 0 : READABLE) | (this.writer === null ? 0 : WRITABLE)
  }
}

/** The callback of `addReader` or `addWriter`: a handle that is called again and again. */
export class DescriptorCall extends ScheduledCall implements Waiter {
  declare private readonly scheduler: Scheduler
  declare private readonly adder: string
  /** It mostly removes itself, and is called slow only then. */
  declare private readonly callbackName: string

  constructor(scheduler: Scheduler, direction: Direction, callback: Callback, args: readonly unknown[]) {
    super('SHARDLOOP_DESCRIPTOR_HANDLE', callback, args.length === 0 ? undefined : args)
    this.scheduler = scheduler
    this.adder = adderOf(direction)
    this.callbackName = callback.name || '(anonymous)'
  }

  run(): void {
    this.scheduler.run(this)
  }

  lost(error: Error): void {
    if (debugMode().enabled) {
      const fields = { err: error, ...(this.source !== undefined && { scheduledAt: this.source }) }
      threadLog().write('warn', `${this.describe()} is dropped`, fields)
    }
    this.cancel()
  }

  override get method(): string {
    return this.adder
  }

  override describe(): string {
    return `the callback ${this.callbackName} of ${this.adder}`
  }

  /** It will be called again. */
  override finish(): void {}
}

function adderOf(direction: Direction): string {
  return direction === 'reader' ? 'addReader' : 'addWriter'
}

/**
 * The descriptors that a loop watches: the book over its native watcher, which is made for the first of them.
 *
 * A RawSocket that was waited for by `sockRecv` and its like stays watched for reading until it is ready with nobody waiting:
 * who receives once mostly does so again, and then that costs no system call.
 */
export class Descriptors {
  readonly #scheduler: Scheduler
  readonly #max: number
  readonly #watches = new Map<number, Watch>()
  #watcher: DescriptorWatcher | null = null
  #closed = false
  #nextId = 0
  /** Watches that somebody waits for: the others do not keep the thread alive. */
  #waiting = 0
  /** Operations that completed without waiting since something was last ready. */
  #atOnce = 0
  /** Of one turn: whose descriptor is ready. */
  #due: Waiter[] = []

  /** @param max most descriptors at once, for tests */
  constructor(scheduler: Scheduler, max: number = WATCHED_DESCRIPTORS_MAX) {
    this.#scheduler = scheduler
    this.#max = max
  }

  /** See {@link Loop.addReader}. Arguments are checked here. */
  add(
    direction: Direction,
    target: number | RawSocket,
    callback: (...args: never[]) => unknown,
    args: readonly unknown[],
  ): void {
    const fd = descriptorOf(target)
    if (typeof callback !== 'function') throw invalid('callback', callback, 'a function')
    if (typeof target === 'number') refuseTransport(fd)
    const before = this.#watches.get(fd)?.[direction] ?? null
    if (before !== null && !(before instanceof DescriptorCall))
      throw new ShardloopError(
        'ERR_SHARDLOOP_STATE',
        `${adderOf(direction)}: descriptor ${fd} is waited for by an operation (sockRecv and its like); let it end first`,
      )
    const call = new DescriptorCall(this.#scheduler, direction, callback, args)
    const source = creationStack(this.add)
    if (source !== undefined) call.source = source
    this.wait(direction, target, call)
    before?.cancel()
  }

  /** Whether there was a callback. */
  remove(direction: Direction, target: number | RawSocket): boolean {
    // One that is closed has none, which is no error: clean-up comes in any order.
    const fd = isRawSocket(target) ? target.fd : descriptorOf(target)
    const watch = this.#watches.get(fd)
    const call = watch?.[direction] ?? null
    if (watch === undefined || !(call instanceof DescriptorCall)) return false
    call.cancel()
    this.#release(watch, direction)
    this.#settle(watch)
    return true
  }

  /** Who waits for a descriptor now. @throws ShardloopError ERR_SHARDLOOP_CLOSED when the loop is closed */
  waiter(direction: Direction, fd: number): Waiter | null {
    if (this.#closed) throw new ShardloopError('ERR_SHARDLOOP_CLOSED', 'the loop was closed meanwhile')
    return this.#watches.get(fd)?.[direction] ?? null
  }

  /** Has somebody wait for a descriptor, in the place of who did. @throws when it cannot be watched: nobody waits then */
  wait(direction: Direction, target: number | RawSocket, waiter: Waiter): void {
    const fd = descriptorOf(target)
    const serial = serialOf(target)
    this.#open()
    let watch = this.#watches.get(fd)
    // What had the number before may be closed by now.
    if (watch !== undefined && watch.serial !== serial && !this.#isSame(watch)) watch = undefined
    if (watch === undefined) {
      this.#makeRoom()
      watch = this.#insert(fd, serial)
    }
    if (watch.wanted === 0) this.#count(1)
    watch[direction] = waiter
    if (isRawSocket(target)) watch.held = target
    const isWatched =
      watch.serial === serial && watch.owned && (watch.interest & watch.wanted) === watch.wanted
    if (!isWatched) this.#register(watch, direction)
  }

  /** Nobody waits for that direction any more. Of a RawSocket's reading the watch may stay; see the class. */
  ended(direction: Direction, fd: number, waiter: Waiter): void {
    const watch = this.#watches.get(fd)
    if (watch === undefined || watch[direction] !== waiter) return
    this.#release(watch, direction)
    if (direction === 'writer' || !watch.owned) this.#settle(watch)
  }

  /** A descriptor is about to be closed, or given away: who waits for it is told. */
  forget(fd: number, error: Error): void {
    const watch = this.#watches.get(fd)
    if (watch === undefined) return
    this.#watcher?.unwatch(fd)
    this.#lose(watch, error)
  }

  /**
   * Whether an operation may be tried before its descriptor is known to be ready. A program whose operations all complete at once
   * would keep everything else from its turn.
   */
  mayTry(): boolean {
    this.#atOnce += 1
    return this.#atOnce <= OPERATIONS_AT_ONCE_MAX
  }

  /** Tells all that wait. Resolves when nothing native is left. */
  async close(error: Error): Promise<void> {
    this.#closed = true
    descriptorHolders().delete(this)
    const watches = [...this.#watches.values()]
    for (const watch of watches) this.#lose(watch, error)
    const watcher = this.#watcher
    this.#watcher = null
    await watcher?.close()
  }

  #open(): DescriptorWatcher {
    if (this.#closed) throw new ShardloopError('ERR_SHARDLOOP_STATE', 'the loop is closed')
    if (this.#watcher === null) {
      this.#watcher = new DescriptorWatcher(
        (fd, id, readiness) => this.#ready(fd, id, readiness),
        () => this.#runDue(),
      )
      descriptorHolders().add(this)
    }
    return this.#watcher
  }

  /** @throws ShardloopError ERR_SHARDLOOP_STATE when there are too many */
  #makeRoom(): void {
    if (this.#watches.size < this.#max) return
    for (const watch of this.#watches.values()) if (watch.wanted === 0) this.#settle(watch)
    if (this.#watches.size < this.#max) return
    throw new ShardloopError(
      'ERR_SHARDLOOP_STATE',
      `${this.#max} descriptors are watched in this thread, which is the most; remove some first`,
    )
  }

  #insert(fd: number, serial: number): Watch {
    this.#nextId = (this.#nextId + 1) | 0
    const watch = new Watch(fd, this.#nextId, serial)
    this.#watches.set(fd, watch)
    return watch
  }

  /** Asks the kernel whether a watch is still of what it was; one that is not is forgotten. */
  #isSame(watch: Watch): boolean {
    try {
      if (this.#open().watch(watch.fd, watch.id, watch.interest, false)) return true
      this.#watcher?.unwatch(watch.fd)
    } catch {
      // It cannot be watched, so it is another.
    }
    this.#lose(watch, closedWhileWatched(watch.fd))
    return false
  }

  /** Tells native code what a watch is for. @param added the direction that is new: the other one may be of what was closed */
  #register(watch: Watch, added: Direction): void {
    const { fd, id, wanted, owned, serial } = watch
    const other: Direction = added === 'reader' ? 'writer' : 'reader'
    try {
      if (this.#open().watch(fd, id, wanted, owned) || watch[other] === null) {
        watch.interest = wanted
        return
      }
    } catch (error) {
      // Whoever waited in the other direction does so for nothing; the new one is told by the error.
      watch[added] = null
      this.#drop(watch)
      if (watch.wanted === 0) this.#count(-1)
      this.#lose(watch, closedWhileWatched(fd))
      throw error
    }
    // The number is another descriptor's by now.
    const waiter = watch[added] as Waiter
    watch[added] = null
    this.#lose(watch, closedWhileWatched(fd))
    const fresh = this.#insert(fd, serial)
    fresh[added] = waiter
    fresh.held = watch.held
    this.#count(1)
    this.#register(fresh, added)
  }

  /** Takes out who waits in a direction. */
  #release(watch: Watch, direction: Direction): void {
    watch[direction] = null
    if (watch.wanted !== 0) return
    watch.held = null
    this.#count(-1)
  }

  /** Has native code watch for what is wanted, and no more. */
  #settle(watch: Watch): void {
    const { fd, id, wanted, owned, interest } = watch
    if (wanted === interest) return
    if (wanted === 0) {
      this.#watcher?.unwatch(fd)
      this.#drop(watch)
      return
    }
    try {
      if (this.#open().watch(fd, id, wanted, owned)) {
        watch.interest = wanted
        return
      }
      this.#watcher?.unwatch(fd)
    } catch {
      // As below: it was closed.
    }
    this.#lose(watch, closedWhileWatched(fd))
  }

  /** Tells who waits that there is nothing to wait for, and forgets the watch. */
  #lose(watch: Watch, error: Error): void {
    this.#drop(watch)
    const { reader, writer } = watch
    if (watch.wanted !== 0) this.#count(-1)
    watch.reader = null
    watch.writer = null
    reader?.lost(error)
    writer?.lost(error)
  }

  #drop(watch: Watch): void {
    if (this.#watches.get(watch.fd) === watch) this.#watches.delete(watch.fd)
  }

  #count(change: 1 | -1): void {
    const before = this.#waiting
    this.#waiting += change
    if ((before === 0) !== (this.#waiting === 0)) this.#watcher?.keepAlive(this.#waiting > 0)
  }

  #ready(fd: number, id: number, readiness: number): void {
    const watch = this.#watches.get(fd)
    // An earlier one of this turn may have taken it out.
    if (watch === undefined || watch.id !== id) return
    if ((readiness & GONE) !== 0) {
      this.#lose(watch, closedWhileWatched(fd))
      return
    }
    if ((readiness & ~watch.wanted) !== 0) this.#settle(watch)
    const { reader, writer } = watch
    if ((readiness & READABLE) !== 0 && reader !== null) this.#due.push(reader)
    if ((readiness & WRITABLE) !== 0 && writer !== null) this.#due.push(writer)
  }

  /** Who was found ready runs, unless one that ran before has taken it out. */
  #runDue(): void {
    const due = this.#due
    this.#due = []
    this.#atOnce = 0
    for (const waiter of due) if (!waiter.cancelled()) waiter.run()
  }
}

/** The number of a descriptor. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT; the system's EBADF for a RawSocket that is closed */
export function descriptorOf(target: number | RawSocket): number {
  if (isRawSocket(target)) {
    if (target.fd < 0) throw systemError(constants.errno.EBADF, 'fcntl')
    return target.fd
  }
  if (Number.isInteger(target) && target >= 0 && target <= 0x7fffffff) return target
  throw invalid('fd', target, "a descriptor's number, or a RawSocket")
}

/** Whether native code says that calls on a descriptor return at once. @throws the system's error for one that is not open */
export function isNonblocking(fd: number): boolean {
  const answer = native.isNonblocking(fd)
  if (answer < 0) throw systemError(-answer, 'fcntl')
  return answer !== 0
}

function closedWhileWatched(fd: number): Error {
  const error = systemError(constants.errno.EBADF, process.platform === 'linux' ? 'epoll_ctl' : 'kevent')
  error.message += ` (descriptor ${fd} was closed while it was waited for)`
  return error
}
