import { ShardloopError } from '../errors.js'
import {
  SOCKET_BUFFER_MAX_BYTES,
  WRITE_BOUND_MAX_BYTES,
  WRITE_HIGH_DEFAULT_BYTES,
  WRITE_MAX_DEFAULT_BYTES,
} from '../limits.js'
import { show, wrong } from '../server/given-options.js'
import type { EngineName } from '../workers/engine.js'
import { isUnixPath, UNIX_PATH_EXPECTED } from '../workers/unix-path.js'
import { type CommonConnectionOptions, ConnectionGiven } from './connection-options.js'
import { isRawSocket, type RawSocket } from './raw-socket.js'

/** Where an endpoint is: `host` an address or a name, of which the first address counts that can be had. */
export interface DatagramHost {
  /** Of `local`: default every address of the machine. Of `remote`: default `'localhost'`. */
  readonly host?: string
  /** Of `local`: default 0, the system chooses. Of `remote`: 1 to 65535. */
  readonly port?: number
}

/** Options of a socket of datagrams. */
export interface DatagramTuningOptions {
  /** SO_BROADCAST: may send to broadcast addresses. Default false. */
  readonly broadcast?: boolean
  /** Bytes that may wait in the kernel to be received, 1 to 2^30. Default: the system's. Linux doubles it, and caps it by net.core.rmem_max. */
  readonly receiveBufferBytes?: number
  /** Bytes that may wait in the kernel to be sent; as above. */
  readonly sendBufferBytes?: number
  /**
   * Has the kernel handle several datagrams as one packet: those of one length to one destination that are sent one behind the
   * other (GSO), and those that it can merge when it receives (GRO). Default true, where the kernel has it (Linux). Then what it
   * drops for want of room counts as one, however many datagrams that was.
   */
  readonly offload?: boolean
  /** Bytes waiting to be sent above which `pauseWriting` is called, at least 1. Default 64 KiB. */
  readonly writeHighBytes?: number
  /** Bytes waiting to be sent at or below which `resumeWriting` is called. Default a quarter of `writeHighBytes`. */
  readonly writeLowBytes?: number
  /** Bytes that may wait to be sent; datagrams beyond it are dropped, and `errorReceived` is told. Default 64 MiB. */
  readonly writeMaxBytes?: number
}

/** Options of `createDatagramEndpoint`. */
export interface DatagramEndpointOptions extends CommonConnectionOptions, DatagramTuningOptions {
  /** Where to be; or a Unix socket: a path, which is removed when the endpoint is over, or on Linux an abstract name. */
  readonly local?: DatagramHost | string
  /** Connects: datagrams go there, and are received from there alone; what the network says of it is told (ECONNREFUSED). */
  readonly remote?: DatagramHost | string
  /** IP version of names and of what is left out; `'unix'`: a Unix socket without a name, when there is no `local`. */
  readonly family?: 4 | 6 | 'unix'
  /**
   * SO_REUSEADDR. Default false. On Linux several sockets that have it may have the same port, of which the latest gets all
   * that is sent to it: it is for groups.
   */
  readonly reuseAddress?: boolean
  /** SO_REUSEPORT: the sockets of one user that have it share a port; Linux spreads peers over them. Default false. */
  readonly reusePort?: boolean
  /** IPV6_V6ONLY. Default: the system's (on Linux a socket on `::` receives IPv4, too). */
  readonly ipv6Only?: boolean
  /** Hops of what is sent to groups, 0 to 255. Default: the system's, 1. */
  readonly multicastTtl?: number
  /** Whether what is sent to groups comes back to members on this machine. Default: the system's, true. */
  readonly multicastLoop?: boolean
  /** By which interface what is sent to groups leaves: its address for IPv4, its name or number for IPv6. */
  readonly multicastInterface?: string
  /**
   * In place of `local`, `remote` and the options of opening: the descriptor of a socket of datagrams, which is the
   * endpoint's from now on. A RawSocket: it is detached.
   */
  readonly socket?: number | RawSocket
}

/** An IP address or name, and port. */
export interface DatagramPlace {
  /** null: any address. */
  readonly host: string | null
  readonly port: number
}

/** What was checked. */
export interface DatagramSettings {
  readonly engine: EngineName | null
  readonly signal: AbortSignal | undefined
  readonly socket: number | RawSocket | undefined
  /** null: none. A string is the name of a Unix socket. */
  readonly local: DatagramPlace | string | null
  readonly remote: DatagramPlace | string | null
  /** 0: of either. */
  readonly family: 0 | 4 | 6 | 'unix'
  readonly reuseAddress: boolean
  readonly reusePort: boolean
  /** null: the system's default, as with the others. */
  readonly ipv6Only: boolean | null
  readonly broadcast: boolean
  readonly multicastTtl: number | null
  readonly multicastLoop: boolean | null
  readonly multicastInterface: string | null
  readonly receiveBufferBytes: number | null
  readonly sendBufferBytes: number | null
  readonly offload: boolean
  readonly writeHighBytes: number
  readonly writeLowBytes: number
  readonly writeMaxBytes: number
}

const IP_ONLY = [
  'reuseAddress',
  'reusePort',
  'ipv6Only',
  'broadcast',
  'multicastTtl',
  'multicastLoop',
  'multicastInterface',
] as const

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parseDatagramOptions(options: unknown): DatagramSettings {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new ShardloopError(
      'ERR_SHARDLOOP_OPTION',
      `createDatagramEndpoint: expected an object of options, given ${show(options)}`,
    )
  }
  const given = new DatagramGiven(options as Record<string, unknown>)
  const writeHighBytes = given.integer('writeHighBytes', 1, WRITE_BOUND_MAX_BYTES, WRITE_HIGH_DEFAULT_BYTES)
  const settings: DatagramSettings = {
    engine: given.engine(),
    signal: given.signal(),
    socket: given.datagramSocket(),
    local: given.place('local', 0, null),
    remote: given.place('remote', 1, 'localhost'),
    family: given.kind(),
    reuseAddress: given.boolean('reuseAddress', false),
    reusePort: given.boolean('reusePort', false),
    ipv6Only: given.switch('ipv6Only'),
    broadcast: given.boolean('broadcast', false),
    multicastTtl: given.integer('multicastTtl', 0, 255, null),
    multicastLoop: given.switch('multicastLoop'),
    multicastInterface: given.text('multicastInterface'),
    receiveBufferBytes: given.integer('receiveBufferBytes', 1, SOCKET_BUFFER_MAX_BYTES, null),
    sendBufferBytes: given.integer('sendBufferBytes', 1, SOCKET_BUFFER_MAX_BYTES, null),
    offload: given.boolean('offload', true),
    writeHighBytes,
    writeLowBytes: given.integer('writeLowBytes', 0, WRITE_BOUND_MAX_BYTES, Math.floor(writeHighBytes / 4)),
    writeMaxBytes: given.integer(
      'writeMaxBytes',
      1,
      WRITE_BOUND_MAX_BYTES,
      Math.max(WRITE_MAX_DEFAULT_BYTES, writeHighBytes),
    ),
  }
  given.refuseUnknown()
  refuseContradictions(settings, given)
  return Object.freeze(settings)
}

function refuseContradictions(settings: DatagramSettings, given: DatagramGiven): void {
  const { local, remote, family, socket, writeHighBytes, writeLowBytes, writeMaxBytes } = settings
  if (writeLowBytes > writeHighBytes)
    throw wrong('writeLowBytes', writeLowBytes, `no more than writeHighBytes (${writeHighBytes})`)
  if (writeMaxBytes < writeHighBytes)
    throw wrong('writeMaxBytes', writeMaxBytes, `no less than writeHighBytes (${writeHighBytes})`)
  if (socket !== undefined) {
    const opening = ['local', 'remote', 'family', 'receiveBufferBytes', 'sendBufferBytes', ...IP_ONLY]
    given.refuse(opening, 'nothing beside socket, which is open; its options are set by the transport')
    return
  }
  const isUnix = family === 'unix' || typeof local === 'string' || typeof remote === 'string'
  if (!isUnix) {
    if (local === null && remote === null && family === 0)
      throw wrong('local', undefined, 'a local or a remote address, a socket, or a family')
    return
  }
  given.refuse(IP_ONLY, 'nothing with a Unix socket: it is for UDP')
  for (const [name, place] of Object.entries({ local, remote }))
    if (place !== null && typeof place !== 'string')
      throw wrong(name, place, `${UNIX_PATH_EXPECTED}, as the endpoint is a Unix socket`)
  if (family === 4 || family === 6)
    throw wrong('family', family, "'unix' or none, as local or remote is the name of a Unix socket")
}

/** Options of endpoints. */
class DatagramGiven extends ConnectionGiven {
  /** @param anyHost what is meant by a host that is left out */
  place<AnyHost extends string | null>(
    name: 'local' | 'remote',
    portMin: number,
    anyHost: AnyHost,
  ): DatagramPlace | string | null {
    const value = this.take(name)
    if (value === undefined) return null
    if (isUnixPath(value)) return value
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw wrong(name, value, `{ host, port }, or ${UNIX_PATH_EXPECTED}`)
    const { host = anyHost, port = 0, ...others } = value as Record<string, unknown>
    if (Object.keys(others).length > 0) throw wrong(name, value, '{ host, port } and nothing else')
    if (host !== null && !this.isHost(host)) throw wrong(`${name}.host`, host, 'an address or a host name')
    if (!(typeof port === 'number' && Number.isInteger(port) && port >= portMin && port <= 65535))
      throw wrong(`${name}.port`, port, `an integer from ${portMin} to 65535`)
    return { host, port }
  }

  kind(): 0 | 4 | 6 | 'unix' {
    const value = this.take('family')
    if (value === undefined) return 0
    if (value === 4 || value === 6 || value === 'unix') return value
    throw wrong('family', value, "4, 6 or 'unix'")
  }

  switch(name: string): boolean | null {
    const value = this.take(name)
    if (value === undefined) return null
    if (typeof value === 'boolean') return value
    throw wrong(name, value, 'true or false')
  }

  text(name: string): string | null {
    const value = this.take(name)
    if (value === undefined) return null
    if (this.isHost(value)) return value
    throw wrong(name, value, "an interface's address, name or number")
  }

  datagramSocket(): number | RawSocket | undefined {
    const value = this.take('socket')
    if (value === undefined || isRawSocket(value)) return value
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 0x7fffffff)
      return value
    throw wrong('socket', value, "a descriptor's number, or a RawSocket")
  }
}
