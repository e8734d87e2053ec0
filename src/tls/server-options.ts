import {
  TIME_MAX_MS,
  TLS_EARLY_DATA_MAX_BYTES,
  TLS_HANDSHAKES_DEFAULT,
  TLS_HANDSHAKES_MAX,
  TLS_NAMES_MAX,
  TLS_RELOAD_DEFAULT_MS,
  TLS_RELOAD_MIN_MS,
  TLS_SESSIONS_DEFAULT,
  TLS_SESSIONS_MAX,
} from '../limits.js'
import type { NativeCertificate, NativeTlsServer } from '../native/binding.js'
import { show, wrong } from '../server/given-options.js'
import {
  type IdentitySources,
  isServerName,
  type TlsCommonOptions,
  type TlsCommonSettings,
  TlsGiven,
} from './common-options.js'
import {
  type FileStamps,
  readChain,
  readKey,
  readSource,
  refused,
  type TlsMaterial,
  type TlsSource,
} from './material.js'

/** A certificate of a server, with its key. */
export interface TlsServerIdentity extends Pick<TlsCommonOptions, 'cert' | 'key' | 'passphrase'> {
  /** What its authority says of its revocation (OCSP, RFC 6066), as DER: it is stapled to the certificate. */
  readonly ocsp?: TlsMaterial
}

/**
 * Options of `tls` of a server. What is a path is read when the server starts, and again when the file has changed; nothing is read
 * in shards, which share one configuration.
 */
export interface TlsServerOptions extends TlsCommonOptions, TlsServerIdentity {
  /**
   * Other certificates by the names that clients ask for: `'example.com'`, or `'*.example.com'`, which is one label more. Who
   * asks for none of them, or for no name, gets `cert`; without `cert` they are refused.
   */
  readonly sni?: Readonly<Record<string, TlsServerIdentity>>
  /**
   * Whether clients show a certificate: `'none'` (default), `'optional'`, `'required'`. One that is shown must be of `ca`, else the
   * handshake fails.
   */
  readonly clientCertificates?: 'none' | 'optional' | 'required'
  /** Certificates of the authorities whose clients may come. Needed, and only of use, with `clientCertificates`. */
  readonly ca?: TlsMaterial | readonly TlsMaterial[]
  /** Lists of revoked certificates, PEM or DER. */
  readonly crl?: TlsMaterial | readonly TlsMaterial[]
  /**
   * How sessions are resumed, on whatever shard: `'tickets'` (default; the clients keep them, encrypted by keys that change),
   * `'stateful'` (this process keeps them), or `'none'`.
   */
  readonly sessions?: 'tickets' | 'stateful' | 'none'
  /** Sessions that are kept with `'stateful'`, at least 1. Default 20,480. */
  readonly sessionCacheSize?: number
  /**
   * Bytes that a client may send with a resumed session before the handshake is done (0-RTT, RFC 8446). Default 0: none. Needs
   * `sessions: 'stateful'`, as each session is taken once then. Somebody who has recorded such bytes may send them to another process
   * of the same service again (replay): only for requests that may be carried out twice. Of what is rejected as many bytes are skipped,
   * 17 more for each record counted in; past them the connection ends.
   */
  readonly earlyDataBytes?: number
  /** Handshakes that may be under way at once in each shard, at least 1. Default 1,024; past it connections wait to be accepted. */
  readonly maxHandshakes?: number
  /**
   * Whether files are read again when they have changed, every 10 seconds or as often as this says, at least 50 ms. Default true. New
   * handshakes have the new certificates, connections stay as they are; what cannot be used is refused ('tlsReloadFailed'), and
   * the old ones go on.
   */
  readonly reload?: boolean | { readonly everyMs: number }
  /** Connections begin without TLS; their protocols call `transport.startTls({ server: true })` when it is time (STARTTLS). */
  readonly upgrade?: boolean
}

/** One certificate, not read yet. */
interface CertificateSources extends IdentitySources {
  /** The name it is for; null for the default one. */
  readonly name: string | null
  readonly ocsp: TlsSource | null
}

/** {@link TlsServerOptions}, checked, and not read. */
export interface TlsServerSettings extends Omit<TlsCommonSettings, 'identity'> {
  readonly certificates: readonly CertificateSources[]
  readonly clientCertificates: 'none' | 'optional' | 'required'
  readonly ca: readonly TlsSource[]
  readonly crl: readonly TlsSource[]
  readonly sessions: 'tickets' | 'stateful' | 'none'
  readonly sessionCacheSize: number
  readonly earlyDataBytes: number
  readonly maxHandshakes: number
  /** 0: never. */
  readonly reloadEveryMs: number
  readonly upgrade: boolean
}

/** @param prefix empty, or `'tls.'` @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parseTlsServerOptions(options: unknown, prefix: string): TlsServerSettings {
  const given = new TlsGiven(options, prefix)
  const { identity, ...common } = given.common()
  const ocsp = given.source('ocsp')
  const own = identity === null ? [] : [{ ...identity, name: null, ocsp }]
  const settings: TlsServerSettings = {
    ...common,
    certificates: [...own, ...sniOf(given)],
    clientCertificates: given.oneOf(given.at('clientCertificates'), ['none', 'optional', 'required'], 'none'),
    ca: given.sources('ca'),
    crl: given.sources('crl'),
    sessions: given.oneOf(given.at('sessions'), ['tickets', 'stateful', 'none'], 'tickets'),
    sessionCacheSize: given.integer(given.at('sessionCacheSize'), 1, TLS_SESSIONS_MAX, TLS_SESSIONS_DEFAULT),
    earlyDataBytes: given.integer(given.at('earlyDataBytes'), 0, TLS_EARLY_DATA_MAX_BYTES, 0),
    maxHandshakes: given.integer(given.at('maxHandshakes'), 1, TLS_HANDSHAKES_MAX, TLS_HANDSHAKES_DEFAULT),
    reloadEveryMs: reloadOf(given),
    upgrade: given.boolean(given.at('upgrade'), false),
  }
  given.refuseUnknown()
  if (settings.certificates.length === 0)
    throw refused(given.at('cert'), 'expected a certificate, and its key, given none')
  if (ocsp !== null && identity === null) throw refused(given.at('ocsp'), 'expected nothing without cert')
  refuseContradictions(settings, given)
  return Object.freeze(settings)
}

/** Reads the files. @param files what is read is noted there @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function readTlsServer(settings: TlsServerSettings, files: FileStamps): NativeTlsServer {
  const { alpn, minVersion, maxVersion, ciphers, groups, clientCertificates } = settings
  const { sessions, sessionCacheSize, earlyDataBytes, keyLog, handshakeTimeoutMs, maxHandshakes } = settings
  return {
    certificates: settings.certificates.map((certificate) => readCertificate(certificate, files)),
    alpn: [...alpn],
    minVersion,
    maxVersion,
    ciphers: ciphers === null ? null : [...ciphers],
    groups: groups === null ? null : [...groups],
    clientCertificates,
    ca: settings.ca.map((source) => readSource(source, files)),
    crl: settings.crl.map((source) => readSource(source, files)),
    sessions,
    sessionCacheSize,
    earlyDataBytes,
    keyLog,
    handshakeTimeoutMs,
    maxHandshakes,
  }
}

function readCertificate(
  { name, cert, key, passphrase, ocsp }: CertificateSources,
  files: FileStamps,
): NativeCertificate {
  return {
    names: name === null ? [] : [name],
    cert: readChain(cert, files),
    key: readKey(key, passphrase, files),
    ocsp: ocsp === null ? null : readSource(ocsp, files),
  }
}

function sniOf(given: TlsGiven): CertificateSources[] {
  const value = given.any('sni')
  if (value === undefined) return []
  const name = given.at('sni')
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong(name, value, 'an object with certificates and keys by name')
  const entries = Object.entries(value)
  if (entries.length > TLS_NAMES_MAX) throw refused(name, `expected at most ${TLS_NAMES_MAX} names`)
  return entries.map(([host, identity]) => {
    if (!isSniName(host)) throw wrong(name, host, "names of hosts, as 'example.com' or '*.example.com'")
    const of = new TlsGiven(identity, `${name}[${show(host)}].`)
    const sources = of.identity()
    const ocsp = of.source('ocsp')
    of.refuseUnknown()
    if (sources === null) throw refused(of.at('cert'), 'expected a certificate, and its key, given none')
    return { ...sources, name: host, ocsp }
  })
}

function isSniName(host: string): boolean {
  const rest = host.startsWith('*.') ? host.slice(2) : host
  return isServerName(host) && rest !== '' && !rest.includes('*')
}

function reloadOf(given: TlsGiven): number {
  const value = given.any('reload')
  if (value === undefined || value === true) return TLS_RELOAD_DEFAULT_MS
  if (value === false) return 0
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong(given.at('reload'), value, 'true, false or { everyMs }')
  const of = new TlsGiven(value, `${given.at('reload')}.`)
  const everyMs = of.integer(of.at('everyMs'), TLS_RELOAD_MIN_MS, TIME_MAX_MS, TLS_RELOAD_DEFAULT_MS)
  of.refuseUnknown()
  return everyMs
}

function refuseContradictions(settings: TlsServerSettings, given: TlsGiven): void {
  const { clientCertificates, ca, crl, sessions, earlyDataBytes, maxVersion } = settings
  if (clientCertificates !== 'none' && ca.length === 0)
    throw refused(
      given.at('ca'),
      `expected certificates of authorities, as clientCertificates is '${clientCertificates}'`,
    )
  for (const [name, sources] of [
    ['ca', ca],
    ['crl', crl],
  ] as const) {
    if (clientCertificates === 'none' && sources.length > 0)
      throw refused(given.at(name), "expected nothing without clientCertificates: 'optional' or 'required'")
  }
  if (earlyDataBytes > 0 && sessions !== 'stateful')
    throw wrong(given.at('earlyDataBytes'), earlyDataBytes, "0, as sessions is not 'stateful'")
  if (earlyDataBytes > 0 && maxVersion !== 'TLSv1.3')
    throw wrong(given.at('earlyDataBytes'), earlyDataBytes, `0, as maxVersion is ${maxVersion}`)
}
