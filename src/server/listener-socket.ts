import { constants } from 'node:os'
import { systemError } from '../errors.js'
import type { NativeAddress, SystemFailure } from '../native/binding.js'
import type { SocketAddress } from '../workers/protocol.js'
import type { ListenerDescription } from './messages.js'
import type { ListenerOptions, ListenerSocket } from './server.js'

/** A socket that the supervisor holds for its shards: a listener, or one of a datagram server. */
export interface BoundSocket {
  /** Names it in every thread. */
  readonly token: number
  readonly fd: number
  address(): NativeAddress | string
  getOption(name: string): number | SystemFailure
  close(): void
}

/** Every option of {@link ListenerOptions}, and whether it is a switch. */
const OPTIONS: { readonly [Name in keyof ListenerOptions]: 'switch' | 'number' } = {
  reuseAddress: 'switch',
  reusePort: 'switch',
  noDelay: 'switch',
  ipv6Only: 'switch',
  receiveBufferSize: 'number',
  sendBufferSize: 'number',
}

/** Describes a listener to shards. */
export function describeListener(listener: BoundSocket): ListenerDescription {
  const options: Record<string, number> = {}
  for (const name of Object.keys(OPTIONS)) {
    const value = listener.getOption(name)
    if (typeof value === 'number') options[name] = value
  }
  return { address: socketAddress(listener), fd: listener.fd, options }
}

/** Where an open listener listens. */
export function socketAddress(listener: BoundSocket): SocketAddress {
  const address = listener.address()
  return (typeof address === 'string' ? address : Object.freeze(address)) as SocketAddress
}

/**
 * `server.sockets` on either side: what was true when the listener was opened and cannot change while it is open.
 * @param isClosed whether the listener is closed by now
 */
export function listenerSocket(description: ListenerDescription, isClosed: () => boolean): ListenerSocket {
  const assertOpen = (syscall: string): void => {
    if (isClosed()) throw systemError(constants.errno.EBADF, syscall)
  }
  return {
    getsockname() {
      assertOpen('getsockname')
      return description.address
    },
    fileno: () => (isClosed() ? -1 : description.fd),
    getOption<Name extends keyof ListenerOptions>(name: Name): ListenerOptions[Name] {
      assertOpen('getsockopt')
      const value = description.options[name]
      if (value === undefined) throw systemError(constants.errno.ENOPROTOOPT, 'getsockopt')
      return (OPTIONS[name] === 'switch' ? value !== 0 : value) as ListenerOptions[Name]
    },
  }
}
