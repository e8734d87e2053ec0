import type { AsyncResource } from 'node:async_hooks'
import { ShardloopError, type SystemError, systemError } from '../errors.js'
import { Clients } from './clients.js'
import type { ProtocolFactory } from './protocol.js'
import type { ShardLoop } from './shard-loop.js'
import type { TcpTransport } from './transport.js'

/** Whereto a connection is made. */
export interface ConnectTarget {
  /** An IP address, or the name of a Unix socket. */
  readonly address: string
  /** -1 for a Unix socket. */
  readonly port: number
  /** An IP address to come from; empty: the system chooses. */
  readonly localAddress: string
  readonly localPort: number
  readonly noDelay: boolean
  readonly keepAlive: boolean
}

/** One attempt at a connection. Exactly one of its methods is called, unless it is called off by then. */
export interface ConnectAttempt {
  /** The async context of the connection's callbacks. */
  readonly resource: AsyncResource
  readonly factory: ProtocolFactory
  /** Where it was asked for; in debug mode only. */
  readonly source: string | undefined
  /** Nobody wants it any more: a connection that comes of it is aborted, and its failure is nobody's. */
  cancelled: boolean
  /** After `connectionMade`. */
  connected(transport: TcpTransport): void
  /** @param error the system's */
  failed(error: SystemError): void
  /** It was connected, and then there was no protocol for it. */
  refused(error: unknown): void
}

/** An attempt, and whose its connection will be. */
export interface Attempted {
  readonly attempt: ConnectAttempt
  readonly clients: Clients
}

/** System calls by the CALL_ constants. */
const CALLS: readonly string[] = ['connect', 'socket', 'bind', 'setsockopt', 'epoll_ctl']
/** The numbers of requests start over behind this one. */
const REQUEST_MAX = 0x3fff_ffff

/**
 * The connections that a thread makes to others. Each is asked for by a number, under which native code tells exactly once what
 * became of it.
 */
export class Outgoing {
  private readonly loop: ShardLoop
  private readonly released: () => void
  /** Whose the next ones are, until they are aborted: then those that follow are others. */
  private clients: Clients | undefined = undefined
  /** Those whose event is to come, by the request's number. */
  private readonly attempts = new Map<number, Attempted>()
  private lastRequest = 0

  /** @param released called once for each: when the connection is over, or has come to nothing */
  constructor(loop: ShardLoop, released: () => void) {
    this.loop = loop
    this.released = released
  }

  /**
   * Begins a connection.
   * @returns the request's number
   */
  connect(target: ConnectTarget, attempt: ConnectAttempt): number {
    const clients = this.currentClients()
    const request = this.request({ attempt, clients })
    const { address, port, localAddress, localPort } = target
    const switches = (target.noDelay ? 1 : 0) | (target.keepAlive ? 2 : 0)
    this.loop.calls.connect(request, clients.id, address, port, localAddress, localPort, switches)
    return request
  }

  /**
   * Begins with a socket that is connected.
   * @param duplicate whether the descriptor stays the caller's, and a duplicate is taken
   * @returns the request's number
   * @throws the system's error when it is no socket that is connected; then it stays the caller's
   */
  adopt(fd: number, duplicate: boolean, attempt: ConnectAttempt): number {
    const clients = this.currentClients()
    const request = this.request({ attempt, clients })
    const failure = this.loop.native.adopt(request, clients.id, fd, duplicate)
    if (failure === null) return request
    this.attempts.delete(request)
    clients.ended()
    throw systemError(failure.errno, failure.syscall)
  }

  /** Calls a request off, unless it has ended: nothing is told of it any more. */
  cancel(request: number): void {
    const attempted = this.attempts.get(request)
    if (attempted === undefined) return
    attempted.attempt.cancelled = true
    this.loop.native.cancelConnect(request)
  }

  /** Takes a request whose event has come. */
  take(request: number): Attempted {
    const attempted = this.attempts.get(request)
    if (attempted === undefined) throw new Error('invariant: a request has one event')
    this.attempts.delete(request)
    return attempted
  }

  /** A request has come to nothing. @param call a CALL_ constant */
  failed(request: number, errno: number, call: number): void {
    const { attempt, clients } = this.take(request)
    clients.ended()
    if (!attempt.cancelled) attempt.failed(systemError(errno, CALLS[call] ?? 'connect'))
  }

  /**
   * Aborts the connections that there are; resolves when they are gone, and with them the requests that were made until now,
   * which their owners have called off.
   */
  async abort(): Promise<void> {
    const { clients } = this
    if (clients === undefined) return
    this.loop.warnOfUnclosed(clients)
    this.clients = undefined
    clients.abort()
    await clients.none()
    this.loop.forget(clients.id)
  }

  /** The thread is about to end: closes the connections in good order, and fails what is still to come. */
  close(): void {
    for (const [request, { attempt }] of this.attempts) {
      if (attempt.cancelled) continue
      this.cancel(request)
      attempt.refused(new ShardloopError('ERR_SHARDLOOP_CLOSED', 'its shard ends, as no server is left'))
    }
    this.clients?.close()
  }

  private currentClients(): Clients {
    this.clients ??= this.loop.own((id) => new Clients(this.loop, id, this.released))
    return this.clients
  }

  private request(attempted: Attempted): number {
    do this.lastRequest = this.lastRequest === REQUEST_MAX ? 1 : this.lastRequest + 1
    while (this.attempts.has(this.lastRequest))
    this.attempts.set(this.lastRequest, attempted)
    attempted.clients.requested()
    return this.lastRequest
  }
}
