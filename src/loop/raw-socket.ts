import { isIP } from 'node:net'
import { constants } from 'node:os'
import { inspect } from 'node:util'
import { ShardloopError, systemError } from '../errors.js'
import { BACKLOG_DEFAULT, BACKLOG_MAX } from '../limits.js'
import type { NativeSocket, SystemFailure } from '../native/binding.js'
import { native } from '../native/index.js'
import { GivenOptions, show, wrong } from '../server/given-options.js'
import { invalid } from '../workers/invalid.js'
import type { IpSocketAddress, SocketAddress } from '../workers/protocol.js'
import { threadSingletonGetter } from '../workers/thread-singleton.js'
import type { SocketOptions } from '../workers/transport-socket.js'
import { isUnixPath, UNIX_PATH_EXPECTED } from '../workers/unix-path.js'
import { refuseTransport } from './refuse-transport.js'

/** Where a socket is to be: an IP address and a port, or the name of a Unix socket. */
export type SocketTarget = Pick<IpSocketAddress, 'address' | 'port'> | string

/** Options of {@link openSocket}. */
export interface RawSocketOptions {
  readonly family?: 'IPv4' | 'IPv6' | 'unix'
  /** Default `'stream'`. */
  readonly type?: 'stream' | 'datagram'
  /**
   * In the place of both: the descriptor of a socket from elsewhere (another process, `detach`), which is the RawSocket's from
   * now on. It is made non-blocking for all that share it, and close-on-exec.
   */
  readonly fd?: number
}

/** Socket options that a RawSocket takes beside those of a transport's socket. */
export interface RawSocketSettings extends Omit<SocketOptions, 'reuseAddress' | 'reusePort'> {
  /** SO_REUSEADDR; before `bind`. */
  reuseAddress: boolean
  /** SO_REUSEPORT; before `bind`. */
  reusePort: boolean
  /** IPV6_V6ONLY; before `bind`. */
  ipv6Only: boolean
  /** SO_BROADCAST: datagrams may be sent to broadcast addresses. */
  broadcast: boolean
}

/**
 * A socket of the program's own, for `sockRecv` and its like: a descriptor with an owner, non-blocking and close-on-exec. It is of
 * the thread that opened it, and closes with `close`, when it is collected, or with its thread. Every method but `detach`, `close`
 * and the getters throws the system's error; of one that is closed or detached that is EBADF.
 */
export interface RawSocket extends Disposable {
  /** The descriptor's number; -1 when it is closed or detached. */
  readonly fd: number
  /** What its addresses are. Throws EBADF when it is closed. */
  readonly family: 'IPv4' | 'IPv6' | 'unix'
  /** Addresses only, no names. Port 0: the system chooses. The file that binding a Unix socket makes stays when it is closed. */
  bind(address: SocketTarget): void
  /** @param backlog connections that may wait to be accepted, 1 to 2^31 - 1. Default 4096; the system caps it */
  listen(backlog?: number): void
  getsockname(): SocketAddress
  getpeername(): SocketAddress
  getOption<Name extends keyof RawSocketSettings>(name: Name): RawSocketSettings[Name]
  setOption<Name extends keyof RawSocketSettings>(name: Name, value: RawSocketSettings[Name]): void
  /** Ends the half that sends (`'write'`), that receives, or both. */
  shutdown(how: 'read' | 'write' | 'both'): void
  /**
   * Gives the descriptor away, which is open and the caller's from now on. Who waits for it is told that it was closed
   * (ERR_SHARDLOOP_CLOSED). @returns its number. @throws the system's EBADF when there is none any more
   */
  detach(): number
  /** Closes the descriptor; operations that wait for it reject with ERR_SHARDLOOP_CLOSED. Again it does nothing. */
  close(): void
}

/** Of every copy of this package in the process: tsx loads it twice for CommonJS. */
const BRAND = Symbol.for('shardloop.raw-socket')

/** Who watches descriptors in this thread, and is told before one closes. */
export const descriptorHolders: () => Set<{ forget(fd: number, error: Error): void }> = threadSingletonGetter(
  'descriptor-holders',
  () => new Set<{ forget(fd: number, error: Error): void }>(),
)

let lastSerial = 0

/** See {@link RawSocket}. */
class OpenSocket implements RawSocket {
  /** A function of its own, so that structured clone refuses it: it belongs to its thread. */
  protected readonly isOfOneThread = (): true => true
  /** Tells it from others that have had its number. */
  readonly serial: number = ++lastSerial
  readonly #native: NativeSocket
  #fd: number
  #family: RawSocket['family'] | undefined

  constructor(socket: NativeSocket) {
    this.#native = socket
    this.#fd = socket.fd
  }

  get fd(): number {
    return this.#fd
  }

  get family(): RawSocket['family'] {
    if (this.#family === undefined) {
      const family = native.socketFamily(this.#fd)
      if (typeof family === 'number') throw systemError(-family, 'getsockname')
      this.#family = family as RawSocket['family']
    }
    return this.#family
  }

  bind(address: SocketTarget): void {
    const { name, port } = checkTarget(address)
    if (port >= 0 && isIP(name) === 0)
      throw invalid('address', name, 'an IP address: names are not looked up')
    check(this.#native.bind(name, port), name, port)
  }

  listen(backlog: number = BACKLOG_DEFAULT): void {
    if (!(Number.isInteger(backlog) && backlog >= 1 && backlog <= BACKLOG_MAX))
      throw invalid('backlog', backlog, `an integer from 1 to ${BACKLOG_MAX}`)
    check(this.#native.listen(backlog))
  }

  getsockname(): SocketAddress {
    return told(this.#native.localAddress())
  }

  getpeername(): SocketAddress {
    return told(this.#native.peerAddress())
  }

  getOption<Name extends keyof RawSocketSettings>(name: Name): RawSocketSettings[Name] {
    const isSwitch = switchOrNumber(name)
    const value = this.#native.getOption(name)
    if (typeof value === 'object') throw systemError(value.errno, value.syscall)
    // Only linger is below 0.
    return (isSwitch ? value !== 0 : value | 0) as RawSocketSettings[Name]
  }

  setOption<Name extends keyof RawSocketSettings>(name: Name, value: RawSocketSettings[Name]): void {
    const least = name === 'linger' ? -1 : 0
    if (switchOrNumber(name)) {
      if (typeof value !== 'boolean') throw invalid(`socket option ${name}`, value, 'true or false')
    } else if (!(Number.isInteger(value) && (value as number) >= least && (value as number) <= 0x7fffffff)) {
      throw invalid(`socket option ${name}`, value, `an integer from ${least} to 2147483647`)
    }
    check(this.#native.setOption(name, Number(value) >>> 0))
  }

  shutdown(how: 'read' | 'write' | 'both'): void {
    if (how !== 'read' && how !== 'write' && how !== 'both')
      throw invalid('how', how, "'read', 'write' or 'both'")
    check(this.#native.shutdown(how !== 'write', how !== 'read'))
  }

  detach(): number {
    const fd = this.#fd
    if (fd < 0) throw systemError(constants.errno.EBADF, 'fcntl')
    this.#letGo('detached')
    return this.#native.detach()
  }

  close(): void {
    if (this.#fd < 0) return
    this.#letGo('closed')
    this.#native.close()
  }

  /** Before the number can be another's. */
  #letGo(how: string): void {
    const fd = this.#fd
    this.#fd = -1
    const error = new ShardloopError('ERR_SHARDLOOP_CLOSED', `the socket, descriptor ${fd}, was ${how}`)
    for (const holder of descriptorHolders()) holder.forget(fd, error)
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

Object.defineProperty(OpenSocket.prototype, BRAND, { value: true })

/** Whether a value is a RawSocket. */
export function isRawSocket(value: unknown): value is RawSocket {
  return typeof value === 'object' && value !== null && BRAND in value
}

/** What tells a RawSocket from others of the thread that have had its number; 0 for a plain number. */
export function serialOf(target: number | RawSocket): number {
  return typeof target === 'number' ? 0 : (target as OpenSocket).serial
}

/**
 * Opens a socket, or takes one over by its descriptor.
 * @throws ShardloopError ERR_SHARDLOOP_OPTION; ERR_SHARDLOOP_ARGUMENT for a descriptor that a transport uses; the system's error,
 * also for one that is no socket's (ENOTSOCK), or of a socket of another family (EAFNOSUPPORT)
 */
export function openSocket(options: RawSocketOptions): RawSocket {
  const given = takeOptions('openSocket', options)
  const fd = given.integer('fd', 0, 0x7fffffff, null)
  const family = given.oneOf('family', ['IPv4', 'IPv6', 'unix'] as const, 'IPv4')
  const type = given.oneOf('type', ['stream', 'datagram'] as const, 'stream')
  given.refuseUnknown()
  if (fd === null) {
    if (options.family === undefined) throw wrong('family', undefined, "'IPv4', 'IPv6' or 'unix'")
    return opened(native.openSocket(family, type === 'datagram'))
  }
  if (options.family !== undefined || options.type !== undefined)
    throw wrong('fd', fd, 'neither family nor type beside it: it has its own')
  refuseTransport(fd)
  return opened(native.adoptSocket(fd))
}

/** Two Unix sockets that are connected to each other (socketpair(2)). @throws as {@link openSocket} */
export function socketPair(options: Pick<RawSocketOptions, 'type'> = {}): [RawSocket, RawSocket] {
  const given = takeOptions('socketPair', options)
  const type = given.oneOf('type', ['stream', 'datagram'] as const, 'stream')
  given.refuseUnknown()
  const pair = native.openSocketPair(type === 'datagram')
  if (!Array.isArray(pair)) throw systemError(pair.errno, pair.syscall)
  const [one, other] = pair as [NativeSocket, NativeSocket]
  return [new OpenSocket(one), new OpenSocket(other)]
}

/** That of a connection that was accepted, with the peer's address. */
export function acceptedSocket(accepted: NativeSocket): [RawSocket, SocketAddress] {
  return [new OpenSocket(accepted), accepted.acceptedFrom as SocketAddress]
}

/** The parts of where to; port -1 for the name of a Unix socket. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT */
export function checkTarget(target: SocketTarget): { name: string; port: number } {
  if (typeof target === 'string') {
    if (isUnixPath(target)) return { name: target, port: -1 }
    throw invalid('address', target, `{ address, port }, or for a Unix socket ${UNIX_PATH_EXPECTED}`)
  }
  if (typeof target !== 'object' || target === null)
    throw invalid('address', target, '{ address, port }, or the path of a Unix socket')
  const { address, port } = target
  if (typeof address !== 'string' || address === '' || address.includes('\0'))
    throw invalid('address', address, 'an IP address')
  if (!(Number.isInteger(port) && port >= 0 && port <= 65535))
    throw invalid('port', port, 'an integer from 0 to 65535')
  return { name: address, port }
}

function takeOptions(method: string, options: unknown): GivenOptions {
  if (typeof options === 'object' && options !== null && !Array.isArray(options))
    return new GivenOptions(options as Record<string, unknown>)
  throw new ShardloopError(
    'ERR_SHARDLOOP_OPTION',
    `${method}: expected an object of options, given ${show(options)}`,
  )
}

function opened(socket: NativeSocket | SystemFailure): RawSocket {
  if ('errno' in socket) throw systemError(socket.errno, socket.syscall)
  return new OpenSocket(socket)
}

function check(failure: SystemFailure | null, address?: string, port?: number): void {
  if (failure === null) return
  throw systemError(failure.errno, failure.syscall, address, port === -1 ? undefined : port)
}

function told(address: ReturnType<NativeSocket['localAddress']>): SocketAddress {
  if (typeof address === 'object' && 'errno' in address) throw systemError(address.errno, address.syscall)
  return address as SocketAddress
}

const SWITCHES: ReadonlySet<string> = new Set([
  'noDelay',
  'keepAlive',
  'reuseAddress',
  'reusePort',
  'ipv6Only',
  'broadcast',
])
const NUMBERS: ReadonlySet<string> = new Set([
  'keepAliveTime',
  'keepAliveInterval',
  'keepAliveRetries',
  'receiveBufferSize',
  'sendBufferSize',
  'linger',
  'ttl',
])

/** Whether an option is a switch. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for one that there is not */
function switchOrNumber(name: string): boolean {
  if (SWITCHES.has(name)) return true
  if (NUMBERS.has(name)) return false
  throw new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `no such socket option: ${inspect(name)}; expected one of ${[...SWITCHES, ...NUMBERS].join(', ')}`,
  )
}
