import { ShardloopError, systemError } from '../errors.js'
import type { NativeDatagramSocket, SystemFailure } from '../native/binding.js'
import type { DatagramSocketOptions, DatagramTransportSocket } from './datagram-protocol.js'
import { invalid } from './invalid.js'
import type { SocketAddress } from './protocol.js'
import { isFailure } from './transport-socket.js'

/** Every option, whether it is a switch, and whether it can be set. */
const OPTIONS: {
  readonly [Name in keyof DatagramSocketOptions]: {
    readonly kind: 'switch' | 'number'
    readonly settable: boolean
  }
} = {
  receiveBufferSize: { kind: 'number', settable: true },
  sendBufferSize: { kind: 'number', settable: true },
  ttl: { kind: 'number', settable: true },
  broadcast: { kind: 'switch', settable: true },
  multicastTtl: { kind: 'number', settable: true },
  multicastLoop: { kind: 'switch', settable: true },
  reuseAddress: { kind: 'switch', settable: false },
  reusePort: { kind: 'switch', settable: false },
  ipv6Only: { kind: 'switch', settable: false },
  drops: { kind: 'number', settable: false },
}

/** The socket of an endpoint. */
export class EndpointSocket implements DatagramTransportSocket {
  private readonly native: NativeDatagramSocket

  constructor(native: NativeDatagramSocket) {
    this.native = native
  }

  getsockname(): SocketAddress {
    return told(this.native.localAddress())
  }

  getpeername(): SocketAddress {
    return told(this.native.peerAddress())
  }

  fileno(): number {
    return this.native.fd
  }

  getOption<Name extends keyof DatagramSocketOptions>(name: Name): DatagramSocketOptions[Name] {
    const { kind } = known(name)
    const value = this.native.getOption(name)
    if (typeof value === 'object') throw systemError(value.errno, value.syscall)
    return (kind === 'switch' ? value !== 0 : value) as DatagramSocketOptions[Name]
  }

  setOption<Name extends keyof DatagramSocketOptions>(name: Name, value: DatagramSocketOptions[Name]): void {
    const { kind, settable } = known(name)
    if (!settable)
      throw new ShardloopError('ERR_SHARDLOOP_ARGUMENT', `socket option ${name} can only be read`)
    if (kind === 'switch' ? typeof value !== 'boolean' : !isSize(value))
      throw invalid(
        `socket option ${name}`,
        value,
        kind === 'switch' ? 'a boolean' : 'an integer from 0 to 2147483647',
      )
    const failure = this.native.setOption(name, Number(value))
    if (failure !== null) throw systemError(failure.errno, failure.syscall)
  }
}

function known(name: keyof DatagramSocketOptions): (typeof OPTIONS)[keyof DatagramSocketOptions] {
  if (Object.hasOwn(OPTIONS, name)) return OPTIONS[name]
  throw invalid('the name of a socket option', name, `one of ${Object.keys(OPTIONS).join(', ')}`)
}

function isSize(value: unknown): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0x7fffffff
}

function told(address: object | string | SystemFailure): SocketAddress {
  if (isFailure(address)) throw systemError(address.errno, address.syscall)
  return address as SocketAddress
}
