import { TLS_CLIENT_SESSIONS, TLS_PINS_MAX } from '../limits.js'
import type { NativeTlsClient } from '../native/binding.js'
import { wrong } from '../server/given-options.js'
import {
  isServerName,
  SERVER_NAME_EXPECTED,
  type TlsCommonOptions,
  type TlsCommonSettings,
  TlsGiven,
} from './common-options.js'
import {
  type FileStamps,
  readChain,
  readKey,
  readSource,
  type TlsMaterial,
  type TlsSource,
} from './material.js'

/**
 * Options of `tls` of a connection that this thread makes. The server's certificate is verified, by the system's own rules and
 * authorities unless `ca` says others.
 */
export interface TlsClientOptions extends TlsCommonOptions {
  /** The name that the server's certificate must have, and that is sent (SNI). Default: the connection's `host`. */
  readonly servername?: string
  /** Certificates of the authorities that are trusted, in place of the system's. */
  readonly ca?: TlsMaterial | readonly TlsMaterial[]
  /** Lists of revoked certificates, PEM or DER; only with `ca`. An OCSP answer that the server sends along is not looked at. */
  readonly crl?: TlsMaterial | readonly TlsMaterial[]
  /**
   * SHA-256 hashes of public keys (SubjectPublicKeyInfo) in base64, with `sha256/` in front or without, as RFC 7469 has them: the
   * server's own certificate must have one of them, on top of all else. (Those of authorities are no pins here: `ca` says whom to trust.)
   */
  readonly pinnedSpki?: readonly string[]
  /** Whether sessions are kept and resumed. Default true. */
  readonly sessions?: boolean
  /** Whoever answers is taken for the server: what is sent may be read and changed by anybody on the way. For tests. */
  readonly dangerouslyAcceptAnyCertificate?: boolean
  /** A valid certificate of any name will do: whoever has one can answer in the server's place. */
  readonly dangerouslyAcceptAnyName?: boolean
}

/** The same, checked, and not read. */
export interface TlsClientSettings extends TlsCommonSettings {
  readonly servername: string | null
  readonly ca: readonly TlsSource[]
  readonly crl: readonly TlsSource[]
  readonly pins: readonly Buffer[]
  readonly sessions: boolean
  readonly acceptAnyCertificate: boolean
  readonly acceptAnyName: boolean
}

/** @param prefix empty, or `'tls.'` @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parseTlsClientOptions(options: unknown, prefix: string): TlsClientSettings {
  const given = new TlsGiven(options, prefix)
  const settings: TlsClientSettings = {
    ...given.common(),
    servername: serverNameOf(given.at('servername'), given.any('servername')),
    ca: given.sources('ca'),
    crl: given.sources('crl'),
    pins: pinsOf(given),
    sessions: given.boolean(given.at('sessions'), true),
    acceptAnyCertificate: given.boolean(given.at('dangerouslyAcceptAnyCertificate'), false),
    acceptAnyName: given.boolean(given.at('dangerouslyAcceptAnyName'), false),
  }
  given.refuseUnknown()
  const { acceptAnyCertificate } = settings
  if (settings.crl.length > 0 && settings.ca.length === 0)
    given.refuse([given.at('crl')], 'nothing without ca: the system has lists of its own')
  if (acceptAnyCertificate)
    given.refuse([given.at('ca'), given.at('crl')], 'nothing beside dangerouslyAcceptAnyCertificate')
  return Object.freeze(settings)
}

/** Reads the files. @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function readTlsClient(settings: TlsClientSettings): NativeTlsClient {
  const files: FileStamps = new Map()
  const { identity, alpn, minVersion, maxVersion, ciphers, groups, ca, crl, pins } = settings
  const { acceptAnyCertificate, acceptAnyName, sessions, keyLog, handshakeTimeoutMs } = settings
  return {
    ca: ca.length === 0 ? null : ca.map((source) => readSource(source, files)),
    crl: crl.map((source) => readSource(source, files)),
    identity:
      identity === null
        ? null
        : {
            names: [],
            cert: readChain(identity.cert, files),
            key: readKey(identity.key, identity.passphrase, files),
            ocsp: null,
          },
    alpn: [...alpn],
    minVersion,
    maxVersion,
    ciphers: ciphers === null ? null : [...ciphers],
    groups: groups === null ? null : [...groups],
    pins: [...pins],
    acceptAnyCertificate,
    acceptAnyName,
    sessionCacheSize: sessions ? TLS_CLIENT_SESSIONS : 0,
    keyLog,
    handshakeTimeoutMs,
  }
}

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function serverNameOf(name: string, value: unknown): string | null {
  if (value === undefined) return null
  if (isServerName(value)) return value
  throw wrong(name, value, SERVER_NAME_EXPECTED)
}

const PIN = /^(?:sha256\/)?([A-Za-z0-9+/]{43}=)$/
const PINS_EXPECTED = `1 to ${TLS_PINS_MAX} SHA-256 hashes in base64, with 'sha256/' in front or without`

function pinsOf(given: TlsGiven): Buffer[] {
  const pins = given.names('pinnedSpki', PINS_EXPECTED, TLS_PINS_MAX, (pin) => PIN.test(pin)) ?? []
  return pins.map((pin) => Buffer.from(PIN.exec(pin)?.[1] ?? '', 'base64'))
}
