import {
  ShardloopError,
  systemError,
  TlsError,
  type TlsErrorCode,
  type TlsErrorReason,
  type TlsPeer,
} from '../errors.js'
import {
  TLS_ABANDONED,
  TLS_ALERT,
  TLS_CERT_EXPIRED,
  TLS_CERT_INVALID,
  TLS_CERT_MISSING,
  TLS_CERT_NAME,
  TLS_CERT_NOT_YET_VALID,
  TLS_CERT_PIN,
  TLS_CERT_REVOKED,
  TLS_CERT_UNTRUSTED,
  TLS_INCOMPATIBLE,
  TLS_INTERNAL,
  TLS_MALFORMED,
  TLS_NO_ALPN,
  TLS_NO_CERTIFICATE,
  TLS_NOT_TLS,
  TLS_TIMEOUT,
  TLS_TRUNCATED,
} from '../native/abi.js'

type Failure = readonly [code: TlsErrorCode, reason: TlsErrorReason | null, text: string]

const [CERTIFICATE, PROTOCOL, INCOMPATIBLE, TRUNCATED] = [
  'ERR_SHARDLOOP_TLS_CERTIFICATE',
  'ERR_SHARDLOOP_TLS_PROTOCOL',
  'ERR_SHARDLOOP_TLS_INCOMPATIBLE',
  'ERR_SHARDLOOP_TLS_TRUNCATED',
] as const

/** By the TLS_ constants. */
const FAILURES: ReadonlyMap<number, Failure> = new Map<number, Failure>([
  [TLS_TIMEOUT, ['ERR_SHARDLOOP_TLS_TIMEOUT', null, 'the handshake took longer than handshakeTimeoutMs']],
  [
    TLS_TRUNCATED,
    [TRUNCATED, 'data', 'the peer ended the connection without close_notify: what came may not be all'],
  ],
  [TLS_ABANDONED, [TRUNCATED, 'handshake', 'the peer ended the connection during the handshake']],
  [TLS_NOT_TLS, [PROTOCOL, 'not-tls', 'what the peer sent first is no TLS']],
  [TLS_MALFORMED, [PROTOCOL, 'malformed', 'what the peer sent is against the rules of TLS']],
  [TLS_INTERNAL, [PROTOCOL, 'internal', 'TLS failed on our side']],
  [
    TLS_INCOMPATIBLE,
    [INCOMPATIBLE, 'parameters', 'there is no version, cipher or group that both sides have'],
  ],
  [TLS_NO_ALPN, [INCOMPATIBLE, 'alpn', 'there is no application protocol (ALPN) that both sides have']],
  [
    TLS_NO_CERTIFICATE,
    [
      INCOMPATIBLE,
      'no-certificate',
      'there is no certificate for the name and the ciphers that the peer asked for',
    ],
  ],
  [TLS_CERT_EXPIRED, [CERTIFICATE, 'expired', "the peer's certificate has expired"]],
  [TLS_CERT_NOT_YET_VALID, [CERTIFICATE, 'not-yet-valid', "the peer's certificate is not valid yet"]],
  [
    TLS_CERT_UNTRUSTED,
    [CERTIFICATE, 'untrusted', "the peer's certificate is not of an authority that is trusted"],
  ],
  [
    TLS_CERT_NAME,
    [CERTIFICATE, 'wrong-name', "the peer's certificate is for other names than the one that was asked for"],
  ],
  [TLS_CERT_REVOKED, [CERTIFICATE, 'revoked', "the peer's certificate was revoked"]],
  [TLS_CERT_MISSING, [CERTIFICATE, 'missing', 'the peer has shown no certificate']],
  [TLS_CERT_INVALID, [CERTIFICATE, 'invalid', "the peer's certificate is not valid"]],
  [TLS_CERT_PIN, [CERTIFICATE, 'pin', "none of the peer's public keys is among those of pinnedSpki"]],
])

/** RFC 8446, section 6, and those of TLS 1.2 (RFC 5246). */
const ALERTS: Readonly<Record<number, string>> = {
  0: 'close_notify',
  10: 'unexpected_message',
  20: 'bad_record_mac',
  21: 'decryption_failed',
  22: 'record_overflow',
  30: 'decompression_failure',
  40: 'handshake_failure',
  41: 'no_certificate',
  42: 'bad_certificate',
  43: 'unsupported_certificate',
  44: 'certificate_revoked',
  45: 'certificate_expired',
  46: 'certificate_unknown',
  47: 'illegal_parameter',
  48: 'unknown_ca',
  49: 'access_denied',
  50: 'decode_error',
  51: 'decrypt_error',
  60: 'export_restriction',
  70: 'protocol_version',
  71: 'insufficient_security',
  80: 'internal_error',
  86: 'inappropriate_fallback',
  90: 'user_canceled',
  100: 'no_renegotiation',
  109: 'missing_extension',
  110: 'unsupported_extension',
  111: 'certificate_unobtainable',
  112: 'unrecognized_name',
  113: 'bad_certificate_status_response',
  114: 'bad_certificate_hash_value',
  115: 'unknown_psk_identity',
  116: 'certificate_required',
  120: 'no_application_protocol',
}

/** Whether a reason that native code tells is one of TLS. */
export function isTlsReason(reason: number): boolean {
  return reason <= TLS_TIMEOUT
}

/** Whether it ended a handshake by itself: not what we did. An errno is the network's. */
export function isHandshakeFailure(reason: number): boolean {
  return reason > 0 || isTlsReason(reason)
}

/**
 * The error of a TLS_ reason, or of an errno that ended a handshake.
 * @param subject whose it is: `connection 0-7`
 * @param detail what native code says of it
 */
export function tlsError(
  reason: number,
  subject: string,
  detail: string | null,
  peer: TlsPeer | null,
): TlsError {
  const why = detail ?? (reason > 0 ? systemError(reason, 'read').message : '')
  const more = why === '' ? '' : ` (${why})`
  const from = peer === null ? '' : ` with ${shownPeer(peer)}`
  if (reason <= TLS_ALERT) {
    const alertNumber = TLS_ALERT - reason
    const alert = ALERTS[alertNumber] ?? `alert_${alertNumber}`
    const message = `TLS of ${subject}${from}: the peer ended it by the alert ${alert} (${alertNumber})${more}`
    return new TlsError('ERR_SHARDLOOP_TLS_ALERT', message, { alert, alertNumber, peer })
  }
  const [code, kind, text] = FAILURES.get(reason > 0 ? TLS_ABANDONED : reason) ?? UNKNOWN
  return new TlsError(code, `TLS of ${subject}${from}: ${text}${more}`, { reason: kind, peer })
}

/** Of a connection that was being made: where to was told to who asked for it. */
export class HandshakeFailure {
  readonly #reason: number
  readonly #detail: string | null

  /** @param reason a TLS_ constant */
  constructor(reason: number, detail: string | null) {
    this.#reason = reason
    this.#detail = detail
  }

  asError(peer: TlsPeer | null): TlsError {
    return tlsError(this.#reason, 'a connection', this.#detail, peer)
  }
}

const UNKNOWN: Failure = [PROTOCOL, 'internal', 'TLS failed']

/** What native code has against the beginning of TLS on a connection. */
export function cannotSecure(subject: string, why: string): ShardloopError {
  return new ShardloopError('ERR_SHARDLOOP_OPTION', `TLS of ${subject} cannot begin: ${why}`)
}

function shownPeer(peer: TlsPeer): string {
  if (typeof peer === 'string') return peer === '' ? 'a Unix socket' : peer.replace(/^\0/, '@')
  return peer.family === 'IPv6' ? `[${peer.address}]:${peer.port}` : `${peer.address}:${peer.port}`
}
