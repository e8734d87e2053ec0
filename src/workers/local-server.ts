import { ShardloopError, systemError, type TlsError, type TlsPeer } from '../errors.js'
import { TLS_CLIENT_ERRORS_PER_SECOND } from '../limits.js'
import { CLOSE_SERVER } from '../native/abi.js'
import { isHandshakeFailure, tlsError } from '../tls/failures.js'
import type {
  ConnectionOwner,
  ExceptionContext,
  ExceptionHandler,
  ServedServer,
  ServeOptions,
} from './connection-server.js'
import { callExceptionHandler, exceptionContext, tell } from './exception-handler.js'
import type { ProtocolFactory } from './protocol.js'
import type { ShardLoop } from './shard-loop.js'
import type { TcpTransport } from './transport.js'
import { peerAddress } from './transport-socket.js'

const MS_PER_SECOND = 1_000

/** One server's connections in this thread. */
export class LocalServer implements ServedServer, ConnectionOwner {
  readonly name: string
  readonly factory: ProtocolFactory
  readonly writeHighBytes: number
  readonly writeLowBytes: number
  readonly writeMaxBytes: number
  readonly idleTimeoutMs: number
  readonly tls: number
  /** @internal What happens to a connection that comes out of the queue after listening has stopped. */
  stopped: ((transport: TcpTransport) => void) | undefined = undefined
  private readonly loop: ShardLoop
  private readonly number: number
  /** @internal Its number in this thread. */ readonly id: number
  private readonly exceptionHandler: ExceptionHandler | null
  private open = 0
  private announced = 0
  /** Connections in all, once listening has stopped. */
  private accepted: number | undefined = undefined
  private whenEmpty: (() => void) | undefined = undefined
  private draining: Promise<void> | undefined = undefined
  private over = false
  private readonly tlsClientError: (error: TlsError) => void
  /** Failed handshakes that were told in the second that began then. */
  private tlsErrorsSince = 0
  private tlsErrorsTold = 0

  constructor(loop: ShardLoop, id: number, options: ServeOptions) {
    this.loop = loop
    this.id = id
    this.name = options.name
    this.factory = options.factory
    this.number = options.number
    this.exceptionHandler = options.exceptionHandler
    this.writeHighBytes = options.writeHighBytes
    this.writeLowBytes = options.writeLowBytes
    this.writeMaxBytes = options.writeMaxBytes
    this.idleTimeoutMs = options.idleTimeoutMs
    this.tls = options.tls
    this.tlsClientError = options.tlsClientError
  }

  get isDraining(): boolean {
    return this.draining !== undefined
  }

  get connectionCount(): number {
    return this.open + (this.accepted === undefined ? 0 : this.accepted - this.announced)
  }

  stopListening(): void {
    if (this.accepted !== undefined) return
    this.accepted = this.loop.native.unlisten(this.id, this.number) ?? this.announced
    this.settle()
  }

  drain(): Promise<void> {
    this.draining ??= new Promise((resolve) => {
      this.whenEmpty = resolve
      this.stopListening()
      this.stopped ??= (transport) => this.loop.beginDraining(transport)
      for (const transport of this.loop.transportsOf(this)) this.stopped(transport)
      this.settle()
    })
    return this.draining
  }

  abort(): void {
    this.stopListening()
    this.stopped = (transport) => {
      transport.abortFor(
        CLOSE_SERVER,
        new ShardloopError(
          'ERR_SHARDLOOP_SERVER_ABORTED',
          `the server of connection ${transport.id} was stopped by force`,
        ),
      )
    }
    for (const transport of this.loop.transportsOf(this)) this.stopped(transport)
    if (!this.over) this.loop.native.abortHandshakes(this.id)
  }

  /** @internal */
  opened(): void {
    this.open++
    this.announced++
  }

  /** @internal */
  ended(): void {
    this.open--
    this.settle()
  }

  /** @internal A connection was accepted, and ended before its TLS handshake was done: nobody has heard of it. */
  handshakeFailed(handle: number, reason: number): void {
    // Native code logs each.
    if (isHandshakeFailure(reason) && this.mayTellTlsError()) this.tellFailure(handle, reason)
    this.announced++
    this.settle()
  }

  private tellFailure(handle: number, reason: number): void {
    const { native } = this.loop
    const peer = native.handshakePeer(handle)
    const where = peer === null ? null : (peerAddress(peer) as TlsPeer)
    this.tlsClientError(tlsError(reason, `a connection to ${this.name}`, native.tlsDetail(handle), where))
  }

  /** Not every one of a flood. */
  private mayTellTlsError(): boolean {
    const now = performance.now()
    if (now - this.tlsErrorsSince >= MS_PER_SECOND) {
      this.tlsErrorsSince = now
      this.tlsErrorsTold = 0
    }
    return ++this.tlsErrorsTold <= TLS_CLIENT_ERRORS_PER_SECOND
  }

  /** @internal */
  acceptFailed(errno: number, pauses: boolean): void {
    const error = systemError(errno, 'accept')
    const consequence = pauses
      ? 'connections wait in the queue; accepting goes on when a descriptor is free'
      : 'a connection was dropped'
    this.handleException(exceptionContext(`accepting failed: ${error.code}; ${consequence}`, error))
  }

  /** @internal */
  handleException(context: ExceptionContext): void {
    if (this.exceptionHandler === null) callExceptionHandler(context)
    else tell(this.exceptionHandler, context)
  }

  private settle(): void {
    if (this.accepted === undefined || this.connectionCount > 0) return
    if (!this.over) this.loop.forget(this.id)
    this.over = true
    this.whenEmpty?.()
  }
}
