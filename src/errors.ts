import { getSystemErrorMap } from 'node:util'
import { brand } from './brand.js'

/**
 * Every error that shardloop itself raises. The codes are stable; messages are for people and may change.
 * Errors of the operating system keep Node's own shape (`code: 'ECONNRESET', errno, syscall`), see
 * {@link systemError}.
 */
export const ERROR_CODES = {
  /** An option has a wrong type or value, is unknown, or contradicts another. Raised before anything starts. */
  ERR_SHARDLOOP_OPTION: 'configuration',
  /** An argument of a method has a wrong type or value. */
  ERR_SHARDLOOP_ARGUMENT: 'configuration',
  /** The call is not valid in the state that the transport, server or shard is in. */
  ERR_SHARDLOOP_STATE: 'configuration',
  /** A borrowed range was used outside the callback that lent it, or beyond its bounds. */
  ERR_SHARDLOOP_BORROW: 'configuration',
  /** A shard did not start serving within `startTimeoutMs`, or its entry never called `createServer`. */
  ERR_SHARDLOOP_START: 'configuration',
  /** The native addon is missing, does not fit this platform, or is of another version. */
  ERR_SHARDLOOP_NATIVE: 'configuration',
  /** Every shard died too often to be replaced, so the server ended; or a shard was stuck and had to be terminated. */
  ERR_SHARDLOOP_SHARD_DIED: 'shardloop',
  /** More than `writeMaxBytes` waited for one peer that does not read; the connection was aborted. */
  ERR_SHARDLOOP_WRITE_OVERFLOW: 'peer',
  /** No byte moved for the time of `setIdleTimeout`; the connection was aborted. */
  ERR_SHARDLOOP_IDLE_TIMEOUT: 'peer',
  /** More than `writeMaxBytes` waited to be sent by an endpoint; the datagrams on top of that were dropped. It goes on. */
  ERR_SHARDLOOP_DATAGRAM_DROPPED: 'peer',
  /**
   * The memory given to `writeOwned` was detached before it was flushed, and the connection was aborted; or that given to
   * `sockSendall`, `sockRecvInto` and their like, while they waited.
   */
  ERR_SHARDLOOP_DETACHED: 'configuration',
  /**
   * The connection ended before what was handed to `writeOwned` or `sendFile` was sent, or what a stream's `drain` waited for, or
   * the loop was closed meanwhile; or the RawSocket that an operation waited for was closed or detached.
   */
  ERR_SHARDLOOP_CLOSED: 'peer',
  /** The connection ended before all had come that a read of a stream asked for; see {@link IncompleteReadError}. */
  ERR_SHARDLOOP_INCOMPLETE_READ: 'peer',
  /** A line, or whatever ends with a separator or begins with its length, is longer than allowed; see {@link LimitOverrunError}. */
  ERR_SHARDLOOP_LIMIT_OVERRUN: 'peer',
  /** What came is no frame: its length does not count itself, though it should. */
  ERR_SHARDLOOP_FRAME: 'peer',
  /** A thread has not read what it was sent, up to the bound of its mailbox; the message was not sent. */
  ERR_SHARDLOOP_MAILBOX_FULL: 'configuration',
  /** The thread that was called is not there: it has ended, was replaced, or has not begun. */
  ERR_SHARDLOOP_GONE: 'shardloop',
  /** The thread that was called exposes no function of that name. */
  ERR_SHARDLOOP_NOT_EXPOSED: 'configuration',
  /** A named bound of the process would be passed: more subprocesses, say, than may run at once. Nothing was begun. */
  ERR_SHARDLOOP_LIMIT: 'configuration',
  /** The connection was aborted because its server was stopped by force, or past its drain deadline. */
  ERR_SHARDLOOP_SERVER_ABORTED: 'shardloop',
  /** The peer's certificate was not accepted; `reason` says why, see {@link TlsError}. So for the others of TLS. */
  ERR_SHARDLOOP_TLS_CERTIFICATE: 'peer',
  /** The peer ended the connection by a fatal alert, which `alert` names (RFC 8446, section 6). */
  ERR_SHARDLOOP_TLS_ALERT: 'peer',
  /** What the peer sent is no TLS, or against its rules; or (`'internal'`) our side failed. */
  ERR_SHARDLOOP_TLS_PROTOCOL: 'peer',
  /** There is no version, cipher or group, application protocol or certificate that suits both sides. */
  ERR_SHARDLOOP_TLS_INCOMPATIBLE: 'configuration',
  /** The handshake took longer than `handshakeTimeoutMs`. */
  ERR_SHARDLOOP_TLS_TIMEOUT: 'peer',
  /** The connection ended without TLS's own end (close_notify): what was received may not be all; or during the handshake. */
  ERR_SHARDLOOP_TLS_TRUNCATED: 'peer',
  /** As many tasks as may wait (`executor.maxQueue`) wait already, all threads of the executor being busy. */
  ERR_SHARDLOOP_EXECUTOR_FULL: 'configuration',
  /** The thread that ran a task ended without a result: by `process.exit`, its heap limit, or an uncaught error. */
  ERR_SHARDLOOP_EXECUTOR_DIED: 'configuration',
} as const

/** A stable error code of shardloop. */
export type ShardloopErrorCode = keyof typeof ERROR_CODES

/** Whose fault an error is: the peer's, that of the program or its configuration, or shardloop's own. */
export type Blame = (typeof ERROR_CODES)[ShardloopErrorCode]

/** An error raised by shardloop. `code` is stable. */
export class ShardloopError extends Error {
  readonly code: ShardloopErrorCode

  constructor(code: ShardloopErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }

  override get name(): string {
    return 'ShardloopError'
  }

  /** Whose fault it is: `'peer'`, `'configuration'` or `'shardloop'`. */
  get blame(): Blame {
    return ERROR_CODES[this.code]
  }
}

brand(ShardloopError, 'error')

/** A stream ended within what was read: asyncio's. `instanceof` holds for errors of every copy of this package. */
export class IncompleteReadError extends ShardloopError {
  /** What had come; it is read now. */
  readonly partial: Buffer
  /** How many bytes were asked for; null when a separator was. */
  readonly expected: number | null

  constructor(partial: Buffer, expected: number | null) {
    const asked = expected === null ? 'up to a separator' : `of ${expected}`
    super('ERR_SHARDLOOP_INCOMPLETE_READ', `the stream ended: ${partial.length} bytes were read ${asked}`)
    this.partial = partial
    this.expected = expected
  }
}

/** More came before a separator than a limit allows: asyncio's. `instanceof` holds for errors of every copy of this package. */
export class LimitOverrunError extends ShardloopError {
  /** Bytes in which no separator begins. */
  readonly consumed: number

  constructor(message: string, consumed: number) {
    super('ERR_SHARDLOOP_LIMIT_OVERRUN', message)
    this.consumed = consumed
  }
}

/** The codes of {@link TlsError}. */
export type TlsErrorCode = Extract<ShardloopErrorCode, `ERR_SHARDLOOP_TLS_${string}`>

/** What kind of failure of its code a {@link TlsError} is; null where the code says it all. */
export type TlsErrorReason =
  | 'expired'
  | 'not-yet-valid'
  | 'untrusted'
  | 'wrong-name'
  | 'revoked'
  | 'missing'
  | 'invalid'
  | 'pin'
  | 'not-tls'
  | 'malformed'
  | 'internal'
  | 'parameters'
  | 'alpn'
  | 'no-certificate'
  | 'data'
  | 'handshake'

/** What a TLS connection, or its handshake, failed with. `instanceof` holds for errors of every copy of this package. */
export class TlsError extends ShardloopError {
  declare readonly code: TlsErrorCode
  /**
   * Of ERR_SHARDLOOP_TLS_CERTIFICATE `'expired'`, `'not-yet-valid'`, `'untrusted'`, `'wrong-name'`, `'revoked'`, `'missing'`,
   * `'invalid'`, `'pin'`; of _PROTOCOL `'not-tls'`, `'malformed'`, `'internal'`; of _INCOMPATIBLE `'parameters'`, `'alpn'`,
   * `'no-certificate'`; of _TRUNCATED `'data'`, `'handshake'`.
   */
  readonly reason: TlsErrorReason | null
  /** The alert's name in RFC 8446 and its number; null but with ERR_SHARDLOOP_TLS_ALERT. */
  readonly alert: string | null
  readonly alertNumber: number | null
  /** Where the peer is, as far as it is known; a path for a Unix socket. */
  readonly peer: TlsPeer | null

  constructor(code: TlsErrorCode, message: string, details: Partial<TlsErrorDetails> = {}) {
    super(code, message)
    const { reason = null, alert = null, alertNumber = null, peer = null } = details
    this.reason = reason
    this.alert = alert
    this.alertNumber = alertNumber
    this.peer = peer
  }
}

/** Where the peer of a {@link TlsError} is. */
export type TlsPeer =
  | { readonly address: string; readonly port: number; readonly family: 'IPv4' | 'IPv6' }
  | string

type TlsErrorDetails = Pick<TlsError, 'reason' | 'alert' | 'alertNumber' | 'peer'>

const BY_CODE = [
  [IncompleteReadError, /^ERR_SHARDLOOP_INCOMPLETE_READ$/],
  [LimitOverrunError, /^ERR_SHARDLOOP_LIMIT_OVERRUN$/],
  [TlsError, /^ERR_SHARDLOOP_TLS_/],
] as const
for (const [Class, codes] of BY_CODE) {
  Object.defineProperty(Class, Symbol.hasInstance, {
    value(this: unknown, error: unknown): boolean {
      if (this !== Class) return Function.prototype[Symbol.hasInstance].call(this, error) // a subclass
      return error instanceof ShardloopError && codes.test(error.code)
    },
  })
}

/** The operating system's error in Node's own shape: `code`, `errno` (negative), `syscall`, `address`, `port`. */
export interface SystemError extends Error {
  readonly code: string
  readonly errno: number
  readonly syscall: string
  readonly address?: string
  readonly port?: number
}

/**
 * Makes an error like those of node:net (`listen EADDRINUSE: address already in use 127.0.0.1:8000`).
 * @param errno the system's number, positive as in errno.h
 */
export function systemError(errno: number, syscall: string, address?: string, port?: number): SystemError {
  const [code, description] = getSystemErrorMap().get(-errno) ?? [`E${errno}`, 'unknown error']
  // An abstract name begins with a zero character, which ss(8) and others show so.
  const shown = address?.replace(/^\0/, '@')
  const where = shown === undefined ? '' : ` ${port === undefined ? shown : `${shown}:${port}`}`
  const details = {
    code,
    errno: -errno,
    syscall,
    ...(address !== undefined && { address }),
    ...(port !== undefined && { port }),
  }
  return Object.assign(new Error(`${syscall} ${code}: ${description}${where}`), details)
}
