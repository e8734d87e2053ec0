import type { TlsError } from '../errors.js'
import type { DatagramProtocol, DatagramTransport } from './datagram-protocol.js'
import type { Protocol, ProtocolFactory, Transport } from './protocol.js'
import type { TcpTransport } from './transport.js'
import type { TransportSocket } from './transport-socket.js'
import type { WriteLimits } from './writing.js'

/** What an exception handler is told; asyncio's keys, and `error`. */
export interface ExceptionContext {
  /** What happened, for people. */
  readonly message: string
  /** What was thrown, or the promise's reason; any value. */
  readonly exception?: unknown
  /** The same under the name that JavaScript has for it. */
  readonly error: unknown
  /** The connection concerned. */
  readonly transport?: Transport
  /** Its protocol. */
  readonly protocol?: Protocol
  /** Its socket. */
  readonly socket?: TransportSocket
  /** The endpoint of datagrams concerned... */
  readonly endpoint?: DatagramTransport
  /** ... and its protocol. */
  readonly endpointProtocol?: DatagramProtocol
  /** The callback of `callSoon`, `callLater` or `callAt` concerned. */
  readonly handle?: { cancelled(): boolean }
}

/** Receives what callbacks throw, and failures that belong to no connection. Runs on the shard's thread. */
export type ExceptionHandler = (context: ExceptionContext) => void

/** How one server is served by one shard. */
export interface ServeOptions extends WriteLimits {
  /** The server's name. */
  readonly name: string
  readonly factory: ProtocolFactory
  /** The server's number in the process; 0 for one of this thread's own. */
  readonly number: number
  /** Tokens of native listeners. */
  readonly listeners: readonly number[]
  /** 0 is none. */
  readonly idleTimeoutMs: number
  /** Whether the shard may rest between small batches. */
  readonly moderation: boolean
  /** Token of the native TlsServer; 0 for none. */
  readonly tls: number
  /** Whether connections begin without TLS, though there is one. */
  readonly tlsUpgrade: boolean
  /** Told of TLS handshakes that failed, of some of them when there are many. */
  readonly tlsClientError: (error: TlsError) => void
  /** null: the thread's own. */
  readonly exceptionHandler: ExceptionHandler | null
}

/** One server's part in one shard. */
export interface ServedServer {
  /** Connections that are there, or accepted and about to be announced once listening has stopped. */
  readonly connectionCount: number
  /** Accepts what is queued already, then takes no more. */
  stopListening(): void
  /**
   * Stops listening, then tells every connection's protocol (`draining`), or closes those without that method as soon as
   * they owe their peer nothing. Resolves when the last one is lost.
   */
  drain(): Promise<void>
  /** Stops listening and aborts every connection (`ERR_SHARDLOOP_SERVER_ABORTED`). */
  abort(): void
}

/** Whose connections they are. */
export interface ConnectionOwner extends ConnectionServer {
  /** The server's name, if it is one. */
  readonly name: string | null
  /** What happens to a connection that begins when it should not any more. */
  readonly stopped: ((transport: TcpTransport) => void) | undefined
  opened(): void
  ended(): void
  /** Tells what a callback threw, or what failed otherwise. Never throws. */
  handleException(context: ExceptionContext): void
}

/** What a connection needs to know of its server. */
export interface ConnectionServer extends WriteLimits {
  /** Whether its connections are to end. */
  readonly isDraining: boolean
  /** The idle timeout that its connections begin with; 0 is none. */
  readonly idleTimeoutMs: number
  /** Token of the native TlsServer of its connections; 0 when they have none. */
  readonly tls: number
}
