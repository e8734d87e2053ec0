import type { AsyncResource } from 'node:async_hooks'
import { isIP, type Socket } from 'node:net'
import { constants } from 'node:os'
import { ShardloopError, type SystemError, systemError } from '../errors.js'
import { UNIX_RETRY_FIRST_MS, UNIX_RETRY_MAX_MS } from '../limits.js'
import type { ConnectAttempt, ConnectTarget } from '../workers/outgoing.js'
import type { Protocol, Transport } from '../workers/protocol.js'
import { type HeldLoop, threadLoop } from '../workers/thread-loop.js'
import { connectionResource, type TcpTransport } from '../workers/transport.js'
import type { ConnectionSettings } from './connection-options.js'
import { lookUp } from './name-lookup.js'

/** A connection and its protocol, as asyncio returns them. */
export type Connected<Made extends Protocol> = [transport: Transport, protocol: Made]

/** As they were before the program may have replaced them (a test runner's timers). */
const [later, never] = [setTimeout, clearTimeout]

/** Connections that are being made, all on behalf of one loop. */
export type Connects = Set<{ callOff(error: Error): void }>

/**
 * Makes a connection, which is one of `connects` until it stands. The protocol's callbacks run in the async context of the
 * caller. Rejects with the system's error, in Node's shape; when several addresses were tried with an AggregateError of
 * theirs that has the first one's `code`; with what the factory threw; or with the signal's reason. Then nothing is left
 * behind.
 */
export function connect<Made extends Protocol>(
  factory: () => Made,
  settings: ConnectionSettings,
  connects: Connects,
): Promise<Connected<Made>> {
  const { signal, to } = settings
  if (signal?.aborted) return Promise.reject(signal.reason)
  return new Promise((resolve, reject) => {
    const held = threadLoop().acquire(settings.engine)
    const connecting = new Connecting(held, factory, settings, (error, transport) => {
      connects.delete(connecting)
      if (transport === null) reject(error)
      else resolve([transport, transport.protocol as Made])
    })
    connects.add(connecting)
    if (to.kind === 'socket') connecting.adopt(to.socket)
    else if (to.kind === 'unix') connecting.toUnix(to.path)
    else void connecting.toHost(to)
  })
}

type Told = (error: unknown, transport: TcpTransport | null) => void

/** One call, which may take several attempts. It holds the thread's loop until it has ended, each attempt for itself beside. */
class Connecting {
  readonly #held: HeldLoop
  readonly #factory: () => Protocol
  readonly #settings: ConnectionSettings
  readonly #resource: AsyncResource = connectionResource()
  readonly #requests = new Set<number>()
  readonly #errors: unknown[] = []
  readonly #told: Told
  #timeout: NodeJS.Timeout | undefined
  /** The next attempt, when those that run have had their time. */
  #next: NodeJS.Timeout | undefined
  #over = false

  constructor(held: HeldLoop, factory: () => Protocol, settings: ConnectionSettings, told: Told) {
    this.#held = held
    this.#factory = factory
    this.#settings = settings
    this.#told = told
    const { signal, timeoutMs } = settings
    signal?.addEventListener('abort', this.#aborted)
    if (timeoutMs > 0) this.#timeout = later(() => this.#end(this.#timedOut(), null), timeoutMs)
  }

  adopt(socket: number | Socket): void {
    const attempt = this.#attempt((error) => this.#end(error, null))
    try {
      const descriptor = typeof socket === 'number' ? socket : descriptorOf(socket)
      threadLoop().acquire(this.#held.engine)
      this.#requests.add(this.#held.loop.outgoing.adopt(descriptor, typeof socket !== 'number', attempt))
      if (typeof socket !== 'number') socket.destroy()
    } catch (error) {
      // Of a descriptor that cannot be had the attempt has not begun, and of one that was refused it is over already.
      this.#end(error, null)
    }
  }

  /** Nothing tells when there is room in a Unix listener's queue; so a full one is tried again, a little later each time. */
  toUnix(path: string, pauseMs: number = UNIX_RETRY_FIRST_MS): void {
    const target = { ...UNIX_TARGET, address: path }
    const failed = (error: unknown): void => {
      if (errnoOf(error) === constants.errno.EAGAIN) {
        this.#next = later(() => this.toUnix(path, Math.min(pauseMs * 2, UNIX_RETRY_MAX_MS)), pauseMs)
      } else {
        this.#end(named(error, path), null)
      }
    }
    this.#start(target, failed)
  }

  async toHost(to: Extract<ConnectionSettings['to'], { kind: 'tcp' }>): Promise<void> {
    const { host, port, family, localAddress, localPort, noDelay, keepAlive, attemptDelayMs } = to
    let addresses: readonly string[]
    if (isIP(host) !== 0 && (family === 0 || isIP(host) === family)) addresses = [host]
    else {
      try {
        addresses = interleaved(await lookUp(host, family))
      } catch (error) {
        this.#end(error, null)
        return
      }
      if (this.#over) return
    }
    let started = 0
    let failures = 0
    const startNext = (): void => {
      never(this.#next)
      const address = addresses[started++]
      if (address === undefined || this.#over) return
      if (started < addresses.length) this.#next = later(startNext, attemptDelayMs)
      this.#start({ address, port, localAddress, localPort, noDelay, keepAlive }, (error) => {
        this.#errors.push(named(error, address, port))
        failures += 1
        if (failures === addresses.length) this.#end(this.#failure(), null)
        else startNext()
      })
    }
    startNext()
  }

  #start(target: ConnectTarget, failed: (error: unknown) => void): void {
    // The attempt's own hold, which its end gives back.
    threadLoop().acquire(this.#held.engine)
    const request = this.#held.loop.outgoing.connect(
      target,
      this.#attempt((error) => {
        this.#requests.delete(request)
        failed(error)
      }),
    )
    this.#requests.add(request)
  }

  #attempt(failed: (error: unknown) => void): ConnectAttempt {
    return {
      resource: this.#resource,
      factory: this.#factory,
      source: this.#settings.source,
      cancelled: false,
      connected: (transport) => {
        // Called off by the factory, or by connectionMade.
        if (this.#over) transport.abort()
        this.#end(null, transport)
      },
      failed,
      refused: (error) => this.#end(error, null),
    }
  }

  callOff(error: Error): void {
    this.#end(error, null)
  }

  readonly #aborted = (): void => this.#end(this.#settings.signal?.reason, null)

  #end(error: unknown, transport: TcpTransport | null): void {
    if (this.#over) return
    this.#over = true
    never(this.#timeout)
    never(this.#next)
    this.#settings.signal?.removeEventListener('abort', this.#aborted)
    // The one that stands is known by another name now, or will be told that it is over.
    for (const request of this.#requests) this.#held.loop.outgoing.cancel(request)
    threadLoop().releaseLater()
    this.#told(error, transport)
  }

  #failure(): unknown {
    if (this.#errors.length === 1) return this.#errors[0]
    const [first] = this.#errors as SystemError[]
    const text = this.#errors.map((error) => (error as Error).message).join('; ')
    return Object.assign(new AggregateError(this.#errors, text), { code: first?.code })
  }

  #timedOut(): SystemError {
    const { to } = this.#settings
    if (to.kind === 'tcp') return systemError(constants.errno.ETIMEDOUT, 'connect', to.host, to.port)
    return systemError(constants.errno.ETIMEDOUT, 'connect', to.kind === 'unix' ? to.path : undefined)
  }
}

const UNIX_TARGET: Omit<ConnectTarget, 'address'> = {
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
  return -((error as SystemError).errno ?? 0)
}

/** The system's error with where it was to go, as node:net has it. Any other error as it is. */
function named(error: unknown, address: string, port?: number): unknown {
  const { errno, syscall } = error as Partial<SystemError>
  if (errno === undefined || syscall === undefined) return error
  return systemError(-errno, syscall, address, port)
}

/** The descriptor of a socket of node:net that can be given away. */
function descriptorOf(socket: Socket): number {
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
