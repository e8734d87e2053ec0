import { isIP, type Socket } from 'node:net'
import type { TransferListItem } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { CONNECTION_ATTEMPT_DELAY_MS, TIME_MAX_MS } from '../limits.js'
import { GivenOptions, show, wrong } from '../server/given-options.js'
import { type TlsClientTerms, type TlsClientUse, tlsTermsOf } from '../tls/client-context.js'
import type { EngineName } from '../workers/engine.js'
import type { ConnectAttempt, Outgoing } from '../workers/outgoing.js'
import type { TcpTransport } from '../workers/transport.js'
import { UNIX_PATH_EXPECTED } from '../workers/unix-path.js'
import { isRawSocket, type RawSocket } from './raw-socket.js'

/** What every connection of a loop's own takes. */
export interface CommonConnectionOptions {
  /**
   * What does the I/O. `'auto'` (default): what runs in this thread, else mio. While connections or servers of this thread
   * run on one engine, another is refused (ERR_SHARDLOOP_OPTION).
   */
  readonly engine?: 'auto' | EngineName
  /**
   * Calls the attempt off: the promise rejects with the signal's reason, and nothing is left behind. Once the connection
   * stands the signal means nothing any more.
   */
  readonly signal?: AbortSignal
}

/** Options of connections with TLS. */
export interface SecureConnectionOptions {
  /**
   * TLS, as a client: true, options, or a context of {@link createTlsClientContext} (which may be `{ context, servername }`). The name that
   * the server's certificate must have is `host`, unless `servername` is given. The connection is made when the handshake is
   * done; one that fails is a {@link TlsError}, and no other address is tried. Default false.
   */
  readonly tls?: TlsClientUse
}

/** Options of `createConnection`. */
export interface ConnectionOptions extends CommonConnectionOptions, SecureConnectionOptions {
  /** An address, or a name, of which all addresses are tried (RFC 8305). Default `'localhost'`, as in node:net. */
  readonly host?: string
  /** 1 to 65535. */
  readonly port?: number
  /** Of a name's addresses only those of IPv4 or IPv6. Default: both. */
  readonly family?: 4 | 6
  /** An IP address to come from; of a name's addresses those of its family are tried. Default: the system chooses. */
  readonly localAddress?: string
  /** The port to come from. Default 0: the system chooses. Means nothing without `localAddress`. */
  readonly localPort?: number
  /** TCP_NODELAY. Default true, as in asyncio. */
  readonly noDelay?: boolean
  /** SO_KEEPALIVE. Default false. Its times are options of the transport's socket. */
  readonly keepAlive?: boolean
  /**
   * Milliseconds for everything, the look-up of the name and the handshake of TLS included; past it the promise rejects with ETIMEDOUT. Default 0:
   * as long as the system tries.
   */
  readonly timeoutMs?: number
  /**
   * Milliseconds after which the next address is tried beside those before it, at least 10 (RFC 8305, section 5, "Connection
   * Attempt Delay"). Default 250. The next is tried at once when one fails.
   */
  readonly happyEyeballsDelayMs?: number
  /** See {@link AcceptedSocketOptions}; in place of where to connect to. */
  readonly socket?: number | RawSocket | Socket
}

/** Options of `createUnixConnection`. */
export interface UnixConnectionOptions extends CommonConnectionOptions, SecureConnectionOptions {
  /** A path, or on Linux an abstract name behind a zero character. */
  readonly path?: string
  /** As in {@link ConnectionOptions}. */
  readonly timeoutMs?: number
  /** See {@link AcceptedSocketOptions}; in place of `path`. */
  readonly socket?: number | RawSocket | Socket
}

/** Options of `connectAcceptedSocket`. */
export interface AcceptedSocketOptions extends Pick<CommonConnectionOptions, 'engine'> {
  /**
   * A stream socket that is connected. A descriptor: it is the transport's from now on. A socket of node:net from which
   * nothing was read that is not consumed, and to which nothing is still to be written: it is destroyed, and its connection
   * goes on as the transport's. A RawSocket: it is detached.
   */
  readonly socket: number | RawSocket | Socket
}

/** How a pipe that was found is given away. */
export interface PipeTaking {
  /** Gives it to native code. @throws the system's error; then it stays the caller's, and the attempt is over */
  begin(outgoing: Outgoing, attempt: ConnectAttempt): void
  /** It is given: whose it was lets go of it. */
  readonly begun?: () => void
}

/** Whereto, as it was checked. */
export interface ConnectionSettings {
  readonly engine: EngineName | null
  readonly signal: AbortSignal | undefined
  readonly timeoutMs: number
  /** null: none. */
  readonly tls: TlsClientTerms | null
  readonly to:
    | { readonly kind: 'socket'; readonly socket: number | RawSocket | Socket }
    | {
        readonly kind: 'pipe'
        /** Finds the pipe. @throws what is wrong with it, before anything has begun */
        readonly take: () => PipeTaking
        readonly transportClass: typeof TcpTransport
      }
    | { readonly kind: 'unix'; readonly path: string }
    | {
        readonly kind: 'tcp'
        readonly host: string
        readonly port: number
        /** 0: both. */
        readonly family: 0 | 4 | 6
        /** Empty: the system chooses. */
        readonly localAddress: string
        readonly localPort: number
        readonly noDelay: boolean
        readonly keepAlive: boolean
        readonly attemptDelayMs: number
      }
}

const TCP_ONLY = [
  'host',
  'port',
  'family',
  'localAddress',
  'localPort',
  'noDelay',
  'keepAlive',
  'happyEyeballsDelayMs',
] as const

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parseConnectionOptions(options: unknown): ConnectionSettings {
  const given = takeOptions('createConnection', options)
  const socket = given.socket()
  const localAddress = given.ipAddress('localAddress')
  const family = given.family()
  const to = {
    kind: 'tcp' as const,
    host: given.host('localhost'),
    port: given.integer('port', 1, 65535, 0),
    family: localAddress === '' ? family : (isIP(localAddress) as 4 | 6),
    localAddress,
    localPort: given.integer('localPort', 0, 65535, 0),
    noDelay: given.boolean('noDelay', true),
    keepAlive: given.boolean('keepAlive', false),
    attemptDelayMs: given.integer('happyEyeballsDelayMs', 10, TIME_MAX_MS, CONNECTION_ATTEMPT_DELAY_MS),
  }
  const [engine, signal, timeoutMs] = [given.engine(), given.signal(), given.timeoutMs()]
  const secured = given.parsed('tls', (use) => use)
  given.refuseUnknown()
  if (socket !== undefined) {
    given.refuse([...TCP_ONLY, 'timeoutMs'], 'nothing beside socket, which is connected')
    return { engine, signal, timeoutMs, tls: tlsTermsOf(secured, null), to: { kind: 'socket', socket } }
  }
  if (to.port === 0) throw wrong('port', undefined, 'an integer from 1 to 65535')
  if (to.localPort !== 0 && localAddress === '')
    throw wrong('localPort', to.localPort, 'a localAddress beside it')
  if (localAddress !== '' && family !== 0 && family !== to.family)
    throw wrong('localAddress', localAddress, `an address of the family that is asked for, IPv${family}`)
  return { engine, signal, timeoutMs, tls: tlsTermsOf(secured, to.host), to }
}

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parseUnixConnectionOptions(options: unknown): ConnectionSettings {
  const given = takeOptions('createUnixConnection', options)
  const socket = given.socket()
  const path = given.path()
  const [engine, signal, timeoutMs] = [given.engine(), given.signal(), given.timeoutMs()]
  const secured = given.parsed('tls', (use) => use)
  given.refuseUnknown()
  if (socket !== undefined) {
    given.refuse(['path', 'timeoutMs'], 'nothing beside socket, which is connected')
    return { engine, signal, timeoutMs, tls: tlsTermsOf(secured, null), to: { kind: 'socket', socket } }
  }
  if (path === null) throw wrong('path', undefined, UNIX_PATH_EXPECTED)
  return { engine, signal, timeoutMs, tls: tlsTermsOf(secured, null), to: { kind: 'unix', path } }
}

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parseSocketOptions(options: unknown): ConnectionSettings {
  const given = takeOptions('connectAcceptedSocket', options)
  const socket = given.socket()
  const engine = given.engine()
  given.refuseUnknown()
  if (socket === undefined) throw wrong('socket', undefined, SOCKET_EXPECTED)
  return { engine, signal: undefined, timeoutMs: 0, tls: null, to: { kind: 'socket', socket } }
}

const SOCKET_EXPECTED = "a descriptor's number, a RawSocket, or a socket of node:net, that is connected"

/** @throws ShardloopError ERR_SHARDLOOP_OPTION when they are no object */
export function takeOptions(method: string, options: unknown): ConnectionGiven {
  if (typeof options === 'object' && options !== null && !Array.isArray(options))
    return new ConnectionGiven(options as Record<string, unknown>)
  throw new ShardloopError(
    'ERR_SHARDLOOP_OPTION',
    `${method}: expected an object of options, given ${show(options)}`,
  )
}

/** Options of what has to do with sockets and their addresses. */
export class ConnectionGiven extends GivenOptions {
  host(fallback: string): string {
    const value = this.take('host')
    if (value === undefined) return fallback
    if (this.isHost(value)) return value
    throw wrong('host', value, 'an address or a host name')
  }

  protected isHost(value: unknown): value is string {
    return typeof value === 'string' && value.length > 0 && !value.includes('\0')
  }

  ipAddress(name: string): string {
    const value = this.take(name)
    if (value === undefined) return ''
    if (typeof value === 'string' && isIP(value) !== 0) return value
    throw wrong(name, value, 'an IP address')
  }

  transferList(): readonly TransferListItem[] {
    const value = this.take('transferList')
    if (value === undefined) return []
    if (Array.isArray(value)) return [...value]
    throw wrong('transferList', value, 'an array of what moves to the other thread, as for postMessage')
  }

  timeoutMs(): number {
    return this.integer('timeoutMs', 0, TIME_MAX_MS, 0)
  }

  family(): 0 | 4 | 6 {
    const value = this.take('family')
    if (value === undefined || value === 0) return 0
    if (value === 4 || value === 6) return value
    throw wrong('family', value, '4 or 6')
  }

  socket(): number | RawSocket | Socket | undefined {
    const value = this.take('socket')
    if (value === undefined) return undefined
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 0x7fffffff)
      return value
    if (isRawSocket(value)) return value
    const isSocket = typeof value === 'object' && value !== null && '_handle' in value && 'destroy' in value
    if (isSocket) return value as unknown as Socket
    throw wrong('socket', value, SOCKET_EXPECTED)
  }
}

/** Checks the factory of a connection. */
export function checkFactory(method: string, factory: unknown): void {
  if (typeof factory === 'function') return
  throw new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `${method}: expected a function that makes a protocol, given ${show(factory)}`,
  )
}
