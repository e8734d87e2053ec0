import { constants } from 'node:os'
import { inspect } from 'node:util'
import { ShardloopError, systemError } from '../errors.js'
import type { NativeShard, SystemFailure } from '../native/binding.js'
import type { IpSocketAddress, SocketAddress } from './protocol.js'

/** Socket options that can be read, with the type of their value. Sizes in bytes, times in seconds. */
export interface SocketOptions {
  noDelay: boolean
  keepAlive: boolean
  /** Seconds of silence before the first keep-alive probe. */
  keepAliveTime: number
  /** Seconds between keep-alive probes. */
  keepAliveInterval: number
  /** Probes without answer before the connection is dropped. */
  keepAliveRetries: number
  receiveBufferSize: number
  sendBufferSize: number
  /**
   * SO_LINGER: seconds, or -1 for off (default). A close does not wait either way, for the socket is non-blocking; with 0 it
   * is a reset, and the system forgets what was not sent. `transport.close()` waits for that by itself when this is off.
   */
  linger: number
  /** IP_TTL, or IPV6_UNICAST_HOPS for an IPv6 socket. */
  ttl: number
  /** Whether SO_REUSEADDR is set. */
  readonly reuseAddress: boolean
  /** Whether SO_REUSEPORT is set. */
  readonly reusePort: boolean
}

/** A view of an open socket, like asyncio's TransportSocket: it can be inspected and tuned, not read or closed. */
export interface TransportSocket {
  /** Our end; throws the system's error when the descriptor is closed. */
  getsockname(): SocketAddress
  /** The peer's end. */
  getpeername(): SocketAddress
  /** The descriptor's number, or -1 when it is closed. It stays the transport's: do not close or read it. */
  fileno(): number
  getOption<Name extends keyof SocketOptions>(name: Name): SocketOptions[Name]
  setOption<Name extends keyof SocketOptions>(name: Name, value: SocketOptions[Name]): void
}

const SWITCHES: ReadonlySet<string> = new Set(['noDelay', 'keepAlive', 'reuseAddress', 'reusePort'])
const SETTABLE: ReadonlySet<string> = new Set([
  'noDelay',
  'keepAlive',
  'keepAliveTime',
  'keepAliveInterval',
  'keepAliveRetries',
  'receiveBufferSize',
  'sendBufferSize',
  'linger',
  'ttl',
])

/** Of the option `linger`. */
const LINGER_OFF = -1

function unknownOption(name: unknown, known: Iterable<string>): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `no such socket option: ${inspect(name)}; expected one of ${[...known].join(', ')}`,
  )
}

/** The value of a socket option in JavaScript's type. @param read looks it up by name in native code */
export function socketOption<Name extends keyof SocketOptions>(
  name: Name,
  read: (name: string) => number | SystemFailure,
): SocketOptions[Name] {
  if (!SWITCHES.has(name) && !SETTABLE.has(name))
    throw unknownOption(name, new Set([...SETTABLE, ...SWITCHES]))
  const value = read(name)
  if (typeof value === 'object') throw systemError(value.errno, value.syscall)
  const plain = name === 'linger' ? value | 0 : value
  return (SWITCHES.has(name) ? value !== 0 : plain) as SocketOptions[Name]
}

/** @param text family, port and address of a peer, or that it is a Unix socket, as native code tells them */
export function peerAddress(text: string): SocketAddress {
  if (text === 'Unix') return '' as SocketAddress
  const [family, port, address] = text.split(' ') as [IpSocketAddress['family'], string, string]
  return { address, family, port: Number(port) }
}

/** Whether native code failed to tell an address. */
export function isFailure(address: object | string): address is SystemFailure {
  return typeof address === 'object' && 'errno' in address
}

/** What a socket view needs of its connection. */
interface Connection {
  readonly handle: number
  /** From then on the handle may be another connection's. */
  readonly lost: boolean
  readonly loop: { readonly native: NativeShard }
}

/** The socket of a connection. */
export class ConnectionSocket implements TransportSocket {
  private readonly connection: Connection
  private readonly peername: () => SocketAddress | undefined

  constructor(connection: Connection, peername: () => SocketAddress | undefined) {
    this.connection = connection
    this.peername = peername
  }

  getsockname(): SocketAddress {
    const address = this.native('getsockname').localAddress(this.connection.handle)
    if (isFailure(address)) throw systemError(address.errno, address.syscall)
    return address as SocketAddress
  }

  getpeername(): SocketAddress {
    const address = this.peername()
    if (address === undefined || this.fileno() < 0) throw systemError(constants.errno.EBADF, 'getpeername')
    return address
  }

  fileno(): number {
    return this.connection.lost ? -1 : this.connection.loop.native.descriptor(this.connection.handle)
  }

  getOption<Name extends keyof SocketOptions>(name: Name): SocketOptions[Name] {
    return socketOption(name, (option) => this.native('getsockopt').getOption(this.connection.handle, option))
  }

  setOption<Name extends keyof SocketOptions>(name: Name, value: SocketOptions[Name]): void {
    if (!SETTABLE.has(name)) throw unknownOption(name, SETTABLE)
    const isSwitch = SWITCHES.has(name)
    const least = name === 'linger' ? LINGER_OFF : 0
    const valid = isSwitch
      ? typeof value === 'boolean'
      : Number.isInteger(value) && (value as number) >= least && (value as number) <= 0x7fffffff
    if (!valid) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_ARGUMENT',
        `socket option ${name} is ${inspect(value)}; expected ${isSwitch ? 'a boolean' : `an integer from ${least} to 2147483647`}`,
      )
    }
    const failure = this.native('setsockopt').setOption(this.connection.handle, name, Number(value) >>> 0)
    if (failure !== null) throw systemError(failure.errno, failure.syscall)
  }

  private native(syscall: string): NativeShard {
    if (this.connection.lost) throw systemError(constants.errno.EBADF, syscall)
    return this.connection.loop.native
  }
}
