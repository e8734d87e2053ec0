import type { AsyncResource } from 'node:async_hooks'
import { isIP, type Socket } from 'node:net'
import { constants } from 'node:os'
import { ShardloopError, type SystemError, systemError, type TlsPeer } from '../errors.js'
import { UNIX_RETRY_FIRST_MS, UNIX_RETRY_MAX_MS } from '../limits.js'
import type { TlsClientTerms } from '../tls/client-context.js'
import { HandshakeFailure } from '../tls/failures.js'
import type { Clients } from '../workers/clients.js'
import type { ConnectAttempt, ConnectTerms } from '../workers/outgoing.js'
import type { Protocol, SocketAddress, Transport } from '../workers/protocol.js'
import { unwatchSignal, watchSignal } from '../workers/shared-signals.js'
import { type HeldLoop, threadLoop } from '../workers/thread-loop.js'
import { connectionResource, TcpTransport } from '../workers/transport.js'
import type { ConnectionSettings } from './connection-options.js'
import { descriptorOf as numberOf } from './descriptors.js'
import { lookUp } from './name-lookup.js'
import { isRawSocket, type RawSocket } from './raw-socket.js'
import { refuseTransport } from './refuse-transport.js'

/** A connection and its protocol, as asyncio returns them. */
export type Connected<Made extends Protocol> = [transport: Transport, protocol: Made]

/** As they were before the program may have replaced them (a test runner's timers). */
const [later, never] = [setTimeout, clearTimeout]

/** Connections that are being made, all on behalf of one loop. */
export type Connects = Set<{ callOff(error: unknown): void }>

/**
 * Makes a connection, which is one of `connects` until it stands. The protocol's callbacks run in the async context of the
 * caller. Rejects with the system's error, in Node's shape; when several addresses were tried with an AggregateError of
 * theirs that has the first one's `code`; with what the factory threw; or with the signal's reason. Then nothing is left
 * behind.
 * @param source where it was asked for; in debug mode only
 */
export function connect<Made extends Protocol>(
  factory: () => Made,
  settings: ConnectionSettings,
  source: string | undefined,
  connects: Connects,
): Promise<Connected<Made>> {
  const { signal, to } = settings
  if (signal?.aborted) return Promise.reject(signal.reason)
  return new Promise<Connected<Protocol>>((resolve, reject) => {
    const held = threadLoop().acquire(settings.engine)
    const connecting = new Connecting(held, factory, settings, source, connects, resolve, reject)
    if (to.kind === 'socket') connecting.adopt(to.socket)
    else if (to.kind === 'pipe') connecting.adoptPipe(to)
    else if (to.kind === 'unix') connecting.toUnix(to.path)
    else connecting.toHost(to)
  }) as Promise<Connected<Made>>
}

type PipeTarget = Extract<ConnectionSettings['to'], { kind: 'pipe' }>
type TcpTarget = Extract<ConnectionSettings['to'], { kind: 'tcp' }>

/** One call, which may take several attempts. It holds the thread's loop until it has ended, each attempt for itself beside. */
class Connecting {
  readonly #held: HeldLoop
  readonly factory: () => Protocol
  readonly #settings: ConnectionSettings
  readonly source: string | undefined
  readonly resource: AsyncResource = connectionResource()
  readonly #connects: Connects
  readonly #resolve: (connected: Connected<Protocol>) => void
  readonly #reject: (error: unknown) => void
  /** Those under way. */
  readonly #attempts: Attempt[] = []
  #timeout: NodeJS.Timeout | undefined
  /** The next attempt, when those that run have had their time. */
  #next: NodeJS.Timeout | undefined
  #over = false

  constructor(
    held: HeldLoop,
    factory: () => Protocol,
    settings: ConnectionSettings,
    source: string | undefined,
    connects: Connects,
    resolve: (connected: Connected<Protocol>) => void,
    reject: (error: unknown) => void,
  ) {
    this.#held = held
    this.factory = factory
    this.#settings = settings
    this.source = source
    this.#connects = connects
    this.#resolve = resolve
    this.#reject = reject
    connects.add(this)
    const { signal, timeoutMs } = settings
    if (signal !== undefined) watchSignal(signal, this)
    if (timeoutMs > 0) this.#timeout = later(() => this.#end(this.#timedOut(), null), timeoutMs)
  }

  adopt(socket: number | RawSocket | Socket): void {
    try {
      const isOfNode = typeof socket !== 'number' && !isRawSocket(socket)
      if (typeof socket === 'number') refuseTransport(socket)
      const descriptor = isOfNode ? descriptorOf(socket) : numberOf(socket)
      threadLoop().acquire(this.#held.engine)
      const attempt = new Attempt(this, this.#settings.tls, undefined, (error) =>
        this.#end(named(error), null),
      )
      this.#held.loop.outgoing.adopt(descriptor, isOfNode, attempt)
      this.#attempts.push(attempt)
      if (isOfNode) socket.destroy()
      else if (isRawSocket(socket)) socket.detach()
    } catch (error) {
      // Of a descriptor that cannot be had the attempt has not begun, and of one that was refused it is over already.
      this.#end(error, null)
    }
  }

  adoptPipe({ take, transportClass }: PipeTarget): void {
    try {
      const { begin, begun } = take()
      threadLoop().acquire(this.#held.engine)
      const attempt = new Attempt(this, null, undefined, (error) => this.#end(error, null), transportClass)
      begin(this.#held.loop.outgoing, attempt)
      this.#attempts.push(attempt)
      begun?.()
    } catch (error) {
      this.#end(error, null) // as above
    }
  }

  /** Nothing tells when there is room in a Unix listener's queue; so a full one is tried again, a little later each time. */
  toUnix(path: string, pauseMs: number = UNIX_RETRY_FIRST_MS): void {
    this.#start(path, UNIX_TERMS, undefined, (error) => {
      if (errnoOf(error) === constants.errno.EAGAIN) {
        this.#next = later(() => this.toUnix(path, Math.min(pauseMs * 2, UNIX_RETRY_MAX_MS)), pauseMs)
      } else {
        this.#end(named(error, path), null)
      }
    })
  }

  toHost(to: TcpTarget): void {
    const { host, port, family } = to
    const version = isIP(host)
    if (version === 0 || (family !== 0 && version !== family)) {
      void this.#toName(to)
      return
    }
    // An IPv4 address has one spelling, so it is the peer's name; one of IPv6 the system writes in its own way.
    const peername = version === 4 ? ({ address: host, family: 'IPv4', port } as const) : undefined
    this.#start(host, to, peername, (error) => this.#end(named(error, host, port), null))
  }

  async #toName(to: TcpTarget): Promise<void> {
    const { host, port, family, attemptDelayMs } = to
    let addresses: readonly string[]
    try {
      addresses = interleaved(await lookUp(host, family))
    } catch (error) {
      this.#end(error, null)
      return
    }
    const errors: unknown[] = []
    let started = 0
    const startNext = (): void => {
      never(this.#next)
      const address = addresses[started++]
      if (address === undefined || this.#over) return
      if (started < addresses.length) this.#next = later(startNext, attemptDelayMs)
      this.#start(address, to, undefined, (error) => {
        // Of a server that was reached: another one of its addresses is that of the same.
        if (error instanceof HandshakeFailure) return this.#end(named(error, address, port), null)
        errors.push(named(error, address, port))
        if (errors.length === addresses.length) this.#end(failureOf(errors), null)
        else startNext()
      })
    }
    startNext()
  }

  #start(
    address: string,
    terms: ConnectTerms,
    peername: SocketAddress | undefined,
    failed: (error: unknown) => void,
  ): void {
    // The attempt's own hold, which its end gives back.
    threadLoop().acquire(this.#held.engine)
    const attempt = new Attempt(this, this.#settings.tls, peername, failed)
    this.#attempts.push(attempt)
    this.#held.loop.outgoing.connect(address, terms, attempt)
  }

  /** An attempt has its connection. */
  connected(transport: TcpTransport): void {
    // Called off by the factory, or by connectionMade.
    if (this.#over) transport.abort()
    this.#end(null, transport)
  }

  /** An attempt is over, and there is nothing to call off. */
  forget(attempt: Attempt): void {
    const place = this.#attempts.indexOf(attempt)
    if (place >= 0) this.#attempts.splice(place, 1)
  }

  callOff(error: unknown): void {
    this.#end(error, null)
  }

  /** The signal's. */
  handleEvent(): void {
    this.#end(this.#settings.signal?.reason, null)
  }

  #end(error: unknown, transport: TcpTransport | null): void {
    if (this.#over) return
    this.#over = true
    if (this.#timeout !== undefined) never(this.#timeout)
    if (this.#next !== undefined) never(this.#next)
    const { signal } = this.#settings
    if (signal !== undefined) unwatchSignal(signal, this)
    // The one that stands is an attempt no more, or will be told that it is over.
    for (const attempt of this.#attempts) this.#held.loop.outgoing.cancel(attempt)
    threadLoop().releaseLater()
    this.#connects.delete(this)
    if (transport === null) this.#reject(error)
    else this.#resolve([transport, transport.protocol])
  }

  #timedOut(): SystemError {
    const { to } = this.#settings
    if (to.kind === 'tcp') return systemError(constants.errno.ETIMEDOUT, 'connect', to.host, to.port)
    return systemError(constants.errno.ETIMEDOUT, 'connect', to.kind === 'unix' ? to.path : undefined)
  }
}

/** One attempt of a call. A class, as a client may make very many: objects of closures cost several times as much. */
class Attempt implements ConnectAttempt {
  request = 0
  clients: Clients | undefined = undefined
  cancelled = false
  readonly resource: AsyncResource
  readonly factory: () => Protocol
  readonly source: string | undefined
  readonly tls: TlsClientTerms | null
  readonly peername: SocketAddress | undefined
  readonly transportClass: typeof TcpTransport
  readonly #connecting: Connecting
  readonly #whenFailed: (error: unknown) => void

  /** @param whenFailed told the system's error, or how the handshake failed */
  constructor(
    connecting: Connecting,
    tls: TlsClientTerms | null,
    peername: SocketAddress | undefined,
    whenFailed: (error: unknown) => void,
    transportClass: typeof TcpTransport = TcpTransport,
  ) {
    this.resource = connecting.resource
    this.factory = connecting.factory
    this.source = connecting.source
    this.tls = tls
    this.peername = peername
    this.transportClass = transportClass
    this.#connecting = connecting
    this.#whenFailed = whenFailed
  }

  connected(transport: TcpTransport): void {
    this.#connecting.connected(transport)
  }

  failed(error: SystemError | HandshakeFailure): void {
    this.#connecting.forget(this)
    this.#whenFailed(error)
  }

  refused(error: unknown): void {
    this.#connecting.callOff(error)
  }
}

/** Of several addresses. */
function failureOf(errors: readonly unknown[]): unknown {
  if (errors.length === 1) return errors[0]
  const [first] = errors as SystemError[]
  const text = errors.map((error) => (error as Error).message).join('; ')
  return Object.assign(new AggregateError(errors, text), { code: first?.code })
}

const UNIX_TERMS: ConnectTerms = {
  port: -1,
  localAddress: '',
  localPort: 0,
  noDelay: false,
  keepAlive: false,
}

/** RFC 8305, section 4: the families take turns, beginning with that of the first address, in the system's order else. */
function interleaved(found: Awaited<ReturnType<typeof lookUp>>): string[] {
  const first = found.filter(({ family }) => family === found[0]?.family)
  const others = found.filter(({ family }) => family !== found[0]?.family)
  const turns = Array.from({ length: Math.max(first.length, others.length) }, (_, turn) => [
    first[turn],
    others[turn],
  ])
  return turns.flat().flatMap((entry) => (entry === undefined ? [] : [entry.address]))
}

function errnoOf(error: unknown): number {
  return -((error as Partial<SystemError>).errno ?? 0)
}

/** The system's error with where it was to go, as node:net has it; so that of a handshake. Any other error as it is. */
function named(error: unknown, address?: string, port?: number): unknown {
  if (error instanceof HandshakeFailure) return error.asError(peerOf(address, port))
  if (address === undefined) return error
  const { errno, syscall } = error as Partial<SystemError>
  if (errno === undefined || syscall === undefined) return error
  return systemError(-errno, syscall, address, port)
}

function peerOf(address: string | undefined, port: number | undefined): TlsPeer | null {
  if (address === undefined) return null
  return port === undefined ? address : { address, port, family: isIP(address) === 6 ? 'IPv6' : 'IPv4' }
}

/** The descriptor of a socket of node:net that can be given away. */
export function descriptorOf(socket: Socket): number {
  const refuse = (what: string): ShardloopError =>
    new ShardloopError('ERR_SHARDLOOP_ARGUMENT', `the socket of node:net cannot be taken over: ${what}`)
  if ('encrypted' in socket) throw refuse('it has a TLS session of its own')
  if (socket.destroyed || socket.connecting) throw refuse('it is not connected')
  if (socket.readableLength > 0) throw refuse('bytes were read from it that nobody has consumed')
  if (socket.writableLength > 0) throw refuse('bytes wait in it to be written')
  const fd = (socket as unknown as { _handle: { fd?: number } | null })._handle?.fd
  if (fd === undefined || fd < 0) throw refuse('it has no descriptor')
  return fd
}
