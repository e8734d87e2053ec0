import { PORT_ZERO_ATTEMPTS_MAX } from '../limits.js'
import type { NativeDatagramSocket, SystemFailure } from '../native/binding.js'
import { native } from '../native/index.js'
import { isFailure } from '../workers/transport-socket.js'
import type { BoundSocket } from './listener-socket.js'
import type { DatagramServing } from './options.js'

/** What a datagram server's sockets are opened with. */
export interface DatagramBinding extends DatagramServing {
  readonly ipv6Only: boolean
}

/**
 * Opens one of the sockets that share an address; the supervisor's, so that it goes on receiving while a shard is replaced.
 * @param exclusive fail with EADDRINUSE when anybody is there already
 */
export function bindDatagrams(
  binding: DatagramBinding,
  host: string,
  port: number,
  exclusive: boolean,
): BoundSocket | SystemFailure {
  if (port !== 0) return held(open(binding, host, port, true, exclusive))
  // For a socket that shares its port the kernel may choose one that others of this user share, and get their datagrams.
  let failure: SystemFailure | null = null
  for (let attempt = 0; attempt < PORT_ZERO_ATTEMPTS_MAX; attempt += 1) {
    const probe = open(binding, host, 0, false, false)
    if (isFailure(probe)) return probe
    const address = probe.localAddress()
    probe.close()
    if (typeof address === 'string' || isFailure(address))
      throw new Error('invariant: it is on an IP address')
    const bound = open(binding, host, address.port, true, true)
    if (!isFailure(bound)) return held(bound)
    failure = bound // somebody was quicker, or it is not for want of a port
  }
  return failure as SystemFailure
}

function open(
  binding: DatagramBinding,
  host: string,
  port: number,
  reusePort: boolean,
  exclusive: boolean,
): NativeDatagramSocket | SystemFailure {
  const { ipv6Only, broadcast, receiveBufferBytes, sendBufferBytes, offload } = binding
  return native.openDatagramSocket({
    local: host,
    localPort: port,
    remotePort: 0,
    reuseAddress: false,
    reusePort,
    exclusive,
    ipv6Only,
    broadcast,
    ...(receiveBufferBytes !== null && { receiveBufferBytes }),
    ...(sendBufferBytes !== null && { sendBufferBytes }),
    offload,
  })
}

function held(socket: NativeDatagramSocket | SystemFailure): BoundSocket | SystemFailure {
  if (isFailure(socket)) return socket
  const address = socket.localAddress()
  if (isFailure(address)) throw new Error('invariant: a bound socket has an address')
  return {
    token: socket.share(),
    fd: socket.fd,
    address: () => address as Exclude<typeof address, SystemFailure>,
    getOption: (name) => socket.getOption(name),
    close: () => socket.close(),
  }
}
