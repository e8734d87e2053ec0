// What few connections have.
import type { SystemError } from '../errors.js'
import type { TlsSession } from '../tls/session.js'
import type { TlsUpgrade } from '../tls/start-tls.js'
import type { SocketAddress } from './protocol.js'
import type { ConnectionSocket } from './transport-socket.js'
import type { Watermarks } from './writing.js'

/** A promise of `writeOwned` that waits for its bytes to be flushed. */
interface OwnedWrite {
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

/** A file on its way. */
export interface FileSend {
  /** The kernel is done with it: bytes sent, or the system's error. */
  readonly ended: (outcome: number | SystemError) => void
  /** The connection has ended before. */
  readonly lost: (error: Error) => void
  /** `writeEof` was called meanwhile. */
  thenEof: boolean
}

/** What few connections need, so that the others do not carry it. */
export interface Rare {
  owned?: OwnedWrite[]
  /** Events that came while reading was paused, from the batch in which it was: chunks, then null for the end. */
  held?: (Buffer | null)[]
  releasing?: boolean
  /** How many promises that callbacks returned are pending, and what is called when one is fulfilled. */
  promises?: { pending: number; readonly fulfilled: () => void }
  /** A file is sent. */
  sending?: FileSend
  /** Who waits for `connectionLost`. */
  whenLost?: (() => void)[]
  /** Where the connection was asked for; in debug mode only. */
  source?: string
  /** `draining` was called. */
  toldDraining?: boolean
  /** What the protocol is told by that it may end; see `askForRest`. */
  atRest?: () => void
  /** As native code tells it: read when somebody asks, for few do. */
  peer?: string
  peername?: SocketAddress
  sockname?: SocketAddress
  socket?: ConnectionSocket
  limits?: Watermarks
  /** What TLS agreed on, once somebody has asked; null: there is none. */
  tls?: TlsSession | null
  /** It got TLS otherwise than by its server: as a client, or by `startTls`. */
  secured?: true
  /** Any certificate of the peer is accepted. */
  unverified?: true
  /** It becomes TLS: until then `held` keeps what comes. */
  upgrade?: TlsUpgrade
}
