import { isIP } from 'node:net'
import { constants } from 'node:os'
import { ShardloopError, systemError } from '../errors.js'
import {
  SOCKET_OPERATIONS_MAX,
  SOCKET_RECEIVE_MAX_BYTES,
  SOCKET_SCRATCH_BYTES,
  UNIX_RETRY_FIRST_MS,
  UNIX_RETRY_MAX_MS,
} from '../limits.js'
import { native } from '../native/index.js'
import { invalid } from '../workers/invalid.js'
import type { SocketAddress } from '../workers/protocol.js'
import { exactCopy } from '../workers/read-slabs.js'
import { unwatchSignal, watchSignal } from '../workers/shared-signals.js'
import { takeOptions } from './connection-options.js'
import { type Descriptors, type Direction, descriptorOf, isNonblocking, type Waiter } from './descriptors.js'
import { lookUp, unlessAborted } from './name-lookup.js'
import {
  acceptedSocket,
  checkTarget,
  descriptorHolders,
  isRawSocket,
  type RawSocket,
  type SocketTarget,
} from './raw-socket.js'
import { refuseTransport } from './refuse-transport.js'

/** Options of `sockRecv` and its like. */
export interface SocketOperationOptions {
  /** Gives up waiting: the promise rejects with the signal's reason, and nothing waits any more. */
  readonly signal?: AbortSignal
}

/** As they were before the program may have replaced them (a test runner's timers). */
const [later, never, nextTurn] = [setTimeout, clearTimeout, setImmediate]

const { EAGAIN, EINPROGRESS } = constants.errno

/** Says that a system call would have waited. */
const WOULD_WAIT: unique symbol = Symbol('would wait')

/** Tries a system call: its result, or WOULD_WAIT. Throws what it failed with. */
type Attempt<Result> = (fd: number) => Result | typeof WOULD_WAIT

/** The operations that wait for one direction of a descriptor, in the order of their calls. */
class OperationQueue implements Waiter {
  readonly #descriptors: Descriptors
  readonly #direction: Direction
  readonly fd: number
  readonly operations: Operation[] = []

  constructor(descriptors: Descriptors, direction: Direction, fd: number) {
    this.#descriptors = descriptors
    this.#direction = direction
    this.fd = fd
  }

  /** Whoever is first has a try, and the next one once that has ended. */
  run(): void {
    for (let first = this.operations[0]; first?.attempt(this.fd); first = this.operations[0])
      this.operations.shift()
    this.#endIfEmpty()
  }

  cancelled(): boolean {
    return this.operations.length === 0
  }

  lost(error: Error): void {
    for (const operation of this.operations.splice(0)) operation.fail(error)
  }

  /** An operation was called off. */
  remove(operation: Operation): void {
    const place = this.operations.indexOf(operation)
    if (place >= 0) this.operations.splice(place, 1)
    this.#endIfEmpty()
  }

  #endIfEmpty(): void {
    if (this.operations.length === 0) this.#descriptors.ended(this.#direction, this.fd, this)
  }
}

/** One operation that waits. */
class Operation {
  readonly #try: Attempt<unknown>
  readonly #resolve: (result: never) => void
  readonly #reject: (error: unknown) => void
  readonly #signal: AbortSignal | undefined
  readonly #queue: OperationQueue

  constructor(
    queue: OperationQueue,
    attempt: Attempt<unknown>,
    signal: AbortSignal | undefined,
    resolve: (result: never) => void,
    reject: (error: unknown) => void,
  ) {
    this.#queue = queue
    this.#try = attempt
    this.#signal = signal
    this.#resolve = resolve
    this.#reject = reject
    if (signal !== undefined) watchSignal(signal, this)
  }

  /** Whether it has ended by that. */
  attempt(fd: number): boolean {
    try {
      const result = this.#try(fd)
      if (result === WOULD_WAIT) return false
      this.#unwatch()
      this.#resolve(result as never)
    } catch (error) {
      this.fail(error)
    }
    return true
  }

  fail(error: unknown): void {
    this.#unwatch()
    this.#reject(error)
  }

  #unwatch(): void {
    if (this.#signal !== undefined) unwatchSignal(this.#signal, this)
  }

  /** The signal's. */
  handleEvent(): void {
    this.fail(this.#signal?.reason)
    this.#queue.remove(this)
  }
}

/**
 * asyncio's `sock_…` coroutines. Each makes its system call at once, and waits where that would. Those of one descriptor and
 * direction that wait do so in the order of their calls.
 */
export class SocketOperations {
  readonly #descriptors: Descriptors
  /** What is received goes here first, for how much it will be is not known. No user ever sees it. */
  #scratch: Buffer = Buffer.allocUnsafeSlow(0)

  constructor(descriptors: Descriptors) {
    this.#descriptors = descriptors
  }

  receive(socket: number | RawSocket, maxBytes: number, options: SocketOperationOptions): Promise<Buffer> {
    checkMaxBytes(maxBytes)
    return this.#run('sockRecv', 'reader', socket, options, (fd) => {
      const room = this.#room(maxBytes)
      const count = checked(native.socketReceive(fd, room), 'recv')
      return count === WOULD_WAIT ? count : exactCopy(room, 0, count)
    })
  }

  receiveInto(
    socket: number | RawSocket,
    data: Uint8Array,
    options: SocketOperationOptions,
  ): Promise<number> {
    checkRoom(data)
    return this.#run('sockRecvInto', 'reader', socket, options, (fd) => {
      checkAttached('sockRecvInto', data)
      return checked(native.socketReceive(fd, data), 'recv')
    })
  }

  receiveFrom(
    socket: number | RawSocket,
    maxBytes: number,
    options: SocketOperationOptions,
  ): Promise<[Buffer, SocketAddress | null]> {
    checkMaxBytes(maxBytes)
    return this.#run('sockRecvfrom', 'reader', socket, options, (fd) => {
      const room = this.#room(maxBytes)
      const received = receivedFrom(fd, room)
      return received === WOULD_WAIT ? received : [exactCopy(room, 0, received[0]), received[1]]
    })
  }

  receiveFromInto(
    socket: number | RawSocket,
    data: Uint8Array,
    options: SocketOperationOptions,
  ): Promise<[number, SocketAddress | null]> {
    checkRoom(data)
    return this.#run('sockRecvfromInto', 'reader', socket, options, (fd) => {
      checkAttached('sockRecvfromInto', data)
      return receivedFrom(fd, data)
    })
  }

  sendAll(socket: number | RawSocket, data: Uint8Array, options: SocketOperationOptions): Promise<void> {
    checkData(data)
    const { byteLength } = data
    let sent = 0
    return this.#run('sockSendall', 'writer', socket, options, (fd) => {
      if (data.byteLength < byteLength) throw detached('sockSendall', `after ${sent} of ${byteLength} bytes`)
      if (sent === byteLength) return // nothing was to be sent
      const count = checked(native.socketSend(fd, data, sent), 'send')
      if (count === WOULD_WAIT) return count
      sent += count
      // A part: there is no room for the rest now.
      return sent === byteLength ? undefined : WOULD_WAIT
    })
  }

  sendTo(
    socket: number | RawSocket,
    data: Uint8Array,
    address: SocketTarget,
    options: SocketOperationOptions,
  ): Promise<number> {
    checkData(data)
    const { name, port } = checkTarget(address)
    if (port >= 0 && isIP(name) === 0)
      throw invalid('address', name, 'an IP address: loop.getaddrinfo looks names up')
    const { byteLength } = data
    return this.#run('sockSendto', 'writer', socket, options, (fd) => {
      if (data.byteLength < byteLength) throw detached('sockSendto', 'before it was sent')
      const count = native.socketSendTo(fd, data, name, port)
      if (count >= 0) return count
      if (count === -EAGAIN) return WOULD_WAIT
      throw failure(-count, 'send', name, port)
    })
  }

  accept(socket: number | RawSocket, options: SocketOperationOptions): Promise<[RawSocket, SocketAddress]> {
    return this.#run('sockAccept', 'reader', socket, options, (fd) => {
      const accepted = native.socketAccept(fd)
      if (typeof accepted !== 'number') return acceptedSocket(accepted)
      if (accepted === -EAGAIN) return WOULD_WAIT
      throw systemError(-accepted, 'accept')
    })
  }

  async connect(
    socket: number | RawSocket,
    address: SocketTarget,
    options: SocketOperationOptions,
  ): Promise<void> {
    const target = checkTarget(address)
    const { port } = target
    const signal = takeSignal('sockConnect', options)
    const fd = checkedDescriptor('sockConnect', socket)
    signal?.throwIfAborted()
    let { name } = target
    if (port >= 0 && isIP(name) === 0) {
      const family = native.socketFamily(fd)
      if (typeof family === 'number') throw systemError(-family, 'getsockname')
      const [first] = await whileOpen(fd, unlessAborted(lookUp(name, family === 'IPv6' ? 6 : 4), signal))
      signal?.throwIfAborted()
      name = (first as { address: string }).address
    }
    // As with the others: those that all end at once leave others their turn.
    if (!this.#descriptors.mayTry()) await whileOpen(fd, new Promise((resolve) => nextTurn(resolve)))
    for (let pauseMs = UNIX_RETRY_FIRST_MS; ; pauseMs = Math.min(pauseMs * 2, UNIX_RETRY_MAX_MS)) {
      let begun = false
      const attempt = (fd: number): boolean | typeof WOULD_WAIT => {
        const errno = begun ? -native.socketError(fd) : -native.socketConnect(fd, name, port)
        if (errno === 0) return true
        if (!begun && errno === EINPROGRESS) {
          begun = true
          return WOULD_WAIT
        }
        // Of a Unix socket: the listener's queue is full, and nothing tells when there is room.
        if (!begun && errno === EAGAIN && port === -1) return false
        throw failure(errno, 'connect', name, port)
      }
      if (await this.#run('sockConnect', 'writer', socket, options, attempt, true)) return
      await whileOpen(fd, pause(pauseMs, signal))
    }
  }

  /**
   * Not an async function: each promise more costs as much as a system call.
   * @param begins the first try begins what is waited for, and nothing tells when that can be made (macOS says of no socket
   * that is not connected that it is writable)
   */
  #run<Result>(
    method: string,
    direction: Direction,
    socket: number | RawSocket,
    options: SocketOperationOptions,
    attempt: Attempt<Result>,
    begins = false,
  ): Promise<Result> {
    const signal = takeSignal(method, options)
    const fd = checkedDescriptor(method, socket)
    if (signal?.aborted) return Promise.reject(signal.reason)
    const descriptors = this.#descriptors
    const waiter = descriptors.waiter(direction, fd)
    if (waiter === null && (begins || descriptors.mayTry())) {
      const result = attempt(fd)
      if (result !== WOULD_WAIT) return Promise.resolve(result)
    }
    if (waiter !== null && !(waiter instanceof OperationQueue)) {
      const remove = direction === 'reader' ? 'removeReader' : 'removeWriter'
      throw new ShardloopError(
        'ERR_SHARDLOOP_STATE',
        `${method}: descriptor ${fd} has a ${direction}, who would not be told any more; ${remove} first`,
      )
    }
    const queue = waiter ?? new OperationQueue(descriptors, direction, fd)
    if (queue.operations.length >= SOCKET_OPERATIONS_MAX)
      throw new ShardloopError(
        'ERR_SHARDLOOP_STATE',
        `${method}: ${SOCKET_OPERATIONS_MAX} operations wait for descriptor ${fd}, which is the most; await some first`,
      )
    return new Promise<Result>((resolve, reject) => {
      // Before it is queued: it throws when the descriptor cannot be watched.
      if (waiter === null) descriptors.wait(direction, socket, queue)
      queue.operations.push(new Operation(queue, attempt, signal, resolve as (result: never) => void, reject))
    })
  }

  /** Memory to receive into, until the next call. It grows once: a thread that receives little has little. */
  #room(maxBytes: number): Buffer {
    const bytes = Math.min(maxBytes, SOCKET_RECEIVE_MAX_BYTES)
    if (bytes > this.#scratch.length)
      this.#scratch = Buffer.allocUnsafeSlow(
        bytes > SOCKET_SCRATCH_BYTES ? SOCKET_RECEIVE_MAX_BYTES : SOCKET_SCRATCH_BYTES,
      )
    return bytes === this.#scratch.length ? this.#scratch : this.#scratch.subarray(0, bytes)
  }
}

function receivedFrom(fd: number, room: Uint8Array): [number, SocketAddress | null] | typeof WOULD_WAIT {
  const received = native.socketReceiveFrom(fd, room)
  if (typeof received === 'number') return checked(received, 'recvfrom') as typeof WOULD_WAIT
  return [received.bytes, (received.address ?? null) as SocketAddress | null]
}

/** The result of a system call as native code tells it. @throws the system's error */
function checked(result: number, syscall: string): number | typeof WOULD_WAIT {
  if (result >= 0) return result
  if (result === -EAGAIN) return WOULD_WAIT
  throw systemError(-result, syscall)
}

function failure(errno: number, syscall: string, name: string, port: number): Error {
  return systemError(errno, syscall, name, port === -1 ? undefined : port)
}

/**
 * The number of a descriptor whose calls do not wait.
 * @throws the system's EBADF, ERR_SHARDLOOP_ARGUMENT for one that blocks, or that a transport uses
 */
function checkedDescriptor(method: string, socket: number | RawSocket): number {
  const fd = descriptorOf(socket)
  if (isRawSocket(socket)) return fd
  refuseTransport(fd)
  if (!isNonblocking(fd))
    throw new ShardloopError(
      'ERR_SHARDLOOP_ARGUMENT',
      `${method}: descriptor ${fd} is blocking, so that the whole thread would wait; expected a RawSocket, which ` +
        `openSocket({ fd: ${fd} }) makes of it`,
    )
  return fd
}

function takeSignal(method: string, options: SocketOperationOptions): AbortSignal | undefined {
  if (options === NO_OPTIONS) return undefined
  const given = takeOptions(method, options)
  const signal = given.signal()
  given.refuseUnknown()
  return signal
}

/** For those that have none. */
export const NO_OPTIONS: SocketOperationOptions = Object.freeze({})

function checkMaxBytes(maxBytes: number): void {
  if (Number.isInteger(maxBytes) && maxBytes >= 1 && maxBytes <= 0x7fffffff) return
  throw invalid('maxBytes', maxBytes, 'an integer from 1 to 2147483647')
}

function checkData(data: Uint8Array): void {
  if (!(data instanceof Uint8Array)) throw invalid('data', data, 'a Buffer or a Uint8Array')
}

function checkRoom(data: Uint8Array): void {
  if (!(data instanceof Uint8Array) || data.byteLength === 0)
    throw invalid('data', data, 'a Buffer or a Uint8Array with room for a byte or more')
}

/** Receiving into nothing would look like the end. */
function checkAttached(method: string, data: Uint8Array): void {
  if (data.byteLength === 0) throw detached(method, 'before anything was received')
}

function detached(method: string, when: string): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_DETACHED',
    `${method}: the memory given to it was detached ${when}`,
  )
}

/** Waits for `work`; rejects with ERR_SHARDLOOP_CLOSED as soon as a RawSocket of that descriptor is closed or detached. */
function whileOpen<Value>(fd: number, work: Promise<Value>): Promise<Value> {
  const holders = descriptorHolders()
  return new Promise<Value>((resolve, reject) => {
    const holder = {
      forget: (closing: number, error: Error): void => {
        if (closing === fd) reject(error)
      },
    }
    holders.add(holder)
    work.then(resolve, reject).finally(() => holders.delete(holder))
  })
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      if (signal !== undefined) unwatchSignal(signal, listener)
      resolve()
    }
    const timer = later(end, ms)
    const handleEvent = (): void => {
      never(timer)
      reject(signal?.reason)
    }
    const listener = { handleEvent }
    if (signal !== undefined) watchSignal(signal, listener)
  })
}
