import type { AsyncResource } from 'node:async_hooks'
import { constants } from 'node:os'
import { ShardloopError, type SystemError, systemError } from '../errors.js'
import { CALL_CONNECT, CALL_TLS } from '../native/abi.js'
import type { NativePipe, SystemFailure } from '../native/binding.js'
import type { TlsClientTerms } from '../tls/client-context.js'
import { cannotSecure, HandshakeFailure } from '../tls/failures.js'
import { Clients } from './clients.js'
import type { ProtocolFactory, SocketAddress } from './protocol.js'
import type { ShardLoop } from './shard-loop.js'
import type { TcpTransport } from './transport.js'

/** How a connection is made, whereto apart. */
export interface ConnectTerms {
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
  /** The number of its request and whose its connection will be; not before it begins. */
  request: number
  clients: Clients | undefined
  /** The async context of the connection's callbacks. */
  readonly resource: AsyncResource
  readonly factory: ProtocolFactory
  /** What its connection is. */
  readonly transportClass: typeof TcpTransport
  /** Where it was asked for; in debug mode only. */
  readonly source: string | undefined
  /** Nobody wants it any more: a connection that comes of it is aborted, and its failure is nobody's. */
  cancelled: boolean
  /** The peer's address, where it is the one that was connected to in the system's own spelling. */
  readonly peername: SocketAddress | undefined
  /** How it does TLS; null: not at all. */
  readonly tls: TlsClientTerms | null
  /** After `connectionMade`. */
  connected(transport: TcpTransport): void
  /** @param error the system's, or what the TLS handshake failed with */
  failed(error: SystemError | HandshakeFailure): void
  /** It was connected, and then there was no protocol for it. */
  refused(error: unknown): void
}

/** System calls by the CALL_ constants. */
const CALLS: readonly string[] = ['connect', 'socket', 'bind', 'setsockopt', 'epoll_ctl']

/**
 * The connections that a thread makes to others. Each is asked for by a number, under which native code tells exactly once what
 * became of it.
 */
export class Outgoing {
  private readonly loop: ShardLoop
  private readonly released: () => void
  /** Whose the next ones are, until they are aborted: then those that follow are others. */
  private clients: Clients | undefined = undefined
  /** Those whose event is to come, by the request's number less one; and the numbers that are free. */
  private readonly attempts: (ConnectAttempt | undefined)[] = []
  private readonly free: number[] = []

  /** @param released called once for each: when the connection is over, or has come to nothing */
  constructor(loop: ShardLoop, released: () => void) {
    this.loop = loop
    this.released = released
  }

  /**
   * Begins a connection. An address that the system does not know fails at once, with EINVAL.
   * @param address an IP address, or the name of a Unix socket
   */
  connect(address: string, terms: ConnectTerms, attempt: ConnectAttempt): void {
    const { id } = this.request(attempt)
    const { port, localAddress, localPort } = terms
    const switches = (terms.noDelay ? 1 : 0) | (terms.keepAlive ? 2 : 0)
    try {
      this.secure(attempt)
    } catch (error) {
      attempt.refused(error)
      return
    }
    try {
      this.loop.calls.connect(attempt.request, id, address, port, localAddress, localPort, switches)
    } catch {
      // An address with a zone that is no interface of this machine: nothing has begun.
      this.forgetSession(attempt)
      this.failed(attempt.request, constants.errno.EINVAL, CALL_CONNECT)
    }
  }

  /**
   * Begins with a socket that is connected.
   * @param duplicate whether the descriptor stays the caller's, and a duplicate is taken
   * @throws the system's error when it is no socket that is connected, or ERR_SHARDLOOP_OPTION; then it stays the caller's
   */
  adopt(fd: number, duplicate: boolean, attempt: ConnectAttempt): void {
    const { id } = this.request(attempt)
    this.secure(attempt)
    this.adopted(attempt, this.loop.native.adopt(attempt.request, id, fd, duplicate))
  }

  /** As `adopt`, with what is read, or written, as a pipe. */
  adoptPipe(fd: number, writes: boolean, duplicate: boolean, attempt: ConnectAttempt): void {
    const { id } = this.request(attempt)
    this.adopted(attempt, this.loop.native.adoptPipe(attempt.request, id, fd, writes, duplicate))
  }

  /** The same with an end of a new pipe. */
  adoptPipeEnd(pipe: NativePipe, writes: boolean, attempt: ConnectAttempt): void {
    const { id } = this.request(attempt)
    this.adopted(attempt, this.loop.native.adoptPipeEnd(attempt.request, id, pipe, writes))
  }

  /** Before it begins: its connection is to be TLS. @throws ShardloopError ERR_SHARDLOOP_OPTION, and then nothing begins */
  private secure(attempt: ConnectAttempt): void {
    if (attempt.tls === null) return
    const { context, servername } = attempt.tls
    const why = this.loop.native.secureRequest(attempt.request, context.token, servername)
    if (why === null) return
    this.take(attempt.request)
    attempt.clients?.ended()
    throw cannotSecure('a connection', why)
  }

  /** What `secure` made for a connection that did not begin: the next of that number may be one without TLS. */
  private forgetSession(attempt: ConnectAttempt): void {
    if (attempt.tls !== null) this.loop.native.cancelConnect(attempt.request)
  }

  private adopted(attempt: ConnectAttempt, failure: SystemFailure | null): void {
    if (failure === null) return
    this.forgetSession(attempt)
    this.take(attempt.request)
    attempt.clients?.ended()
    throw systemError(failure.errno, failure.syscall)
  }

  /** Calls an attempt off, unless it has ended: nothing is told of it any more. */
  cancel(attempt: ConnectAttempt): void {
    // Its number may be another one's by now.
    if (this.attempts[attempt.request - 1] !== attempt) return
    attempt.cancelled = true
    this.loop.native.cancelConnect(attempt.request)
  }

  /** Takes the attempt whose event has come; its number is free. */
  take(request: number): ConnectAttempt {
    const attempt = this.attempts[request - 1]
    if (attempt === undefined) throw new Error('invariant: a request has one event')
    this.attempts[request - 1] = undefined
    this.free.push(request)
    return attempt
  }

  /** A request has come to nothing. @param errno or a TLS_ reason @param call a CALL_ constant */
  failed(request: number, errno: number, call: number): void {
    const attempt = this.take(request)
    attempt.clients?.ended()
    if (attempt.cancelled) return
    if (call === CALL_TLS)
      attempt.failed(new HandshakeFailure(errno, this.loop.native.requestDetail(request)))
    else attempt.failed(systemError(errno, CALLS[call] ?? 'connect'))
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
    for (const attempt of this.attempts) {
      if (attempt === undefined || attempt.cancelled) continue
      this.cancel(attempt)
      attempt.refused(new ShardloopError('ERR_SHARDLOOP_CLOSED', 'its shard ends, as no server is left'))
    }
    this.clients?.close()
  }

  /** Gives an attempt a number and those that its connection will be of. */
  private request(attempt: ConnectAttempt): Clients {
    this.clients ??= this.loop.own((id) => new Clients(this.loop, id, this.released))
    attempt.clients = this.clients
    attempt.request = this.free.pop() ?? this.attempts.length + 1
    this.attempts[attempt.request - 1] = attempt
    this.clients.requested()
    return this.clients
  }
}
