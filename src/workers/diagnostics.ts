import { channel } from 'node:diagnostics_channel'
import type { Protocol, Transport } from './protocol.js'
import { NO_PROTOCOL, type TcpTransport } from './transport.js'

/** Names of the channels of node:diagnostics_channel on which each thread tells of its connections. */
export const DIAGNOSTICS_CHANNELS = {
  /** {@link ConnectionOpened}: before `connectionMade`. */
  connectionOpen: 'shardloop:connection:open',
  /** {@link ConnectionClosed}: before `connectionLost`, once for each that was opened. */
  connectionClose: 'shardloop:connection:close',
  /** {@link ConnectionBroken}: a callback threw, or the connection ends for another reason than that one side wanted it. */
  connectionError: 'shardloop:connection:error',
} as const

/** Told on `shardloop:connection:open`. */
export interface ConnectionOpened {
  readonly transport: Transport
  /** What the factory made for it. */
  readonly protocol: Protocol
  /** The server's name; null for a connection that this thread has made. */
  readonly server: string | null
}

/** Told on `shardloop:connection:close`. */
export interface ConnectionClosed {
  readonly transport: Transport
  readonly protocol: Protocol
  /** What `connectionLost` gets. */
  readonly error: Error | null
}

/** Told on `shardloop:connection:error`. */
export interface ConnectionBroken {
  readonly transport: Transport
  readonly protocol: Protocol
  /** What was thrown, or what broke the connection. */
  readonly error: unknown
  /** What happened, for people. */
  readonly message: string
}

const opened = channel(DIAGNOSTICS_CHANNELS.connectionOpen)
const closed = channel(DIAGNOSTICS_CHANNELS.connectionClose)
const broken = channel(DIAGNOSTICS_CHANNELS.connectionError)

/** What was told to have broken a connection that is not lost yet: its end does not tell it again. */
const told = new WeakMap<TcpTransport, Error>()

/** The factory has made a protocol. */
export function connectionOpened(transport: TcpTransport, server: string | null): void {
  if (!opened.hasSubscribers) return
  const message: ConnectionOpened = { transport, protocol: transport.protocol, server }
  transport.resource.runInAsyncScope(() => opened.publish(message))
}

/** A callback threw `error`, and `reason` is what the connection is aborted with. */
export function connectionBroke(
  transport: TcpTransport,
  error: unknown,
  reason: Error,
  message: string,
): void {
  if (!broken.hasSubscribers) return
  told.set(transport, reason)
  publishBroken({ transport, protocol: transport.protocol, error, message }, transport)
}

/** A connection is lost. */
export function connectionEnded(transport: TcpTransport, error: Error | null): void {
  if (error !== null && broken.hasSubscribers && told.get(transport) !== error) {
    const message = `connection ${transport.id} broke: ${error.message}`
    publishBroken({ transport, protocol: transport.protocol, error, message }, transport)
  }
  // One whose factory has thrown was not opened.
  if (!closed.hasSubscribers || transport.protocol === NO_PROTOCOL) return
  const message: ConnectionClosed = { transport, protocol: transport.protocol, error }
  transport.resource.runInAsyncScope(() => closed.publish(message))
}

function publishBroken(message: ConnectionBroken, transport: TcpTransport): void {
  transport.resource.runInAsyncScope(() => broken.publish(message))
}
