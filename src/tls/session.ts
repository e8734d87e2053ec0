import type { X509Certificate } from 'node:crypto'
import { createRequire } from 'node:module'
import type { PeerCertificate } from 'node:tls'
import type { NativeTlsInfo } from '../native/binding.js'
import type { TlsVersion } from './common-options.js'

/** A cipher suite: its name at IANA, and the version of TLS it is used with. */
export interface TlsCipher {
  readonly name: string
  readonly version: TlsVersion
}

/** What a TLS connection agreed on: `getExtraInfo('sslObject')`. */
export class TlsSession {
  readonly version: TlsVersion
  readonly cipher: TlsCipher
  /** How the key was exchanged: `'X25519MLKEM768'`; null where a session was resumed without an exchange. */
  readonly group: string | null
  /** The application protocol; null when there is none. */
  readonly alpn: string | null
  /** The name that the client asked for; null when it asked for none. */
  readonly servername: string | null
  readonly sessionReused: boolean
  /** Whether the client's first bytes came before the handshake was done (0-RTT). */
  readonly earlyData: boolean
  /** Whether the peer's certificate was verified. */
  readonly authorized: boolean
  /** The peer's certificates as DER, its own first; none when it has shown none. */
  readonly rawPeerCertificates: readonly Buffer[]
  #certificates: readonly X509Certificate[] | undefined

  /** @internal @param verifies false where any certificate is accepted */
  constructor(info: NativeTlsInfo, verifies: boolean) {
    this.version = info.version as TlsVersion
    this.cipher = Object.freeze({ name: info.cipher, version: this.version })
    this.group = info.group ?? null
    this.alpn = info.alpn ?? null
    this.servername = info.serverName ?? null
    this.sessionReused = info.resumed
    this.earlyData = info.earlyData
    this.authorized = verifies && info.peerCertificates.length > 0
    this.rawPeerCertificates = info.peerCertificates
  }

  /** The peer's certificates, its own first. */
  get peerCertificates(): readonly X509Certificate[] {
    if (this.#certificates === undefined) {
      const { X509Certificate } = createRequire(import.meta.url)(
        'node:crypto',
      ) as typeof import('node:crypto')
      this.#certificates = this.rawPeerCertificates.map((der) => new X509Certificate(der))
    }
    return this.#certificates
  }

  /** @internal As node:tls has it. @param detailed whether the others of the chain are behind `issuerCertificate` */
  legacyCertificate(detailed: boolean): PeerCertificate | Record<string, never> {
    const [own, ...issuers] = this.peerCertificates.map((certificate) => legacy(certificate))
    if (own === undefined) return {}
    if (!detailed) return own
    let last: LegacyCertificate = own
    for (const issuer of issuers) {
      last.issuerCertificate = issuer
      last = issuer
    }
    // node:tls has the last one name itself.
    last.issuerCertificate = last
    return own
  }
}

/** What `getExtraInfo` tells of TLS. */
export type TlsInfoName =
  | 'sslObject'
  | 'cipher'
  | 'peercert'
  | 'alpn'
  | 'servername'
  | 'tlsVersion'
  | 'sessionReused'

const INFO: Readonly<Record<TlsInfoName, (session: TlsSession) => unknown>> = {
  sslObject: (session) => session,
  cipher: ({ cipher }) => cipher,
  peercert: ({ peerCertificates }) => peerCertificates[0],
  alpn: ({ alpn }) => alpn,
  servername: ({ servername }) => servername,
  tlsVersion: ({ version }) => version,
  sessionReused: ({ sessionReused }) => sessionReused,
}

/** Whether `getExtraInfo` has it of TLS. */
export function isTlsInfo(name: string): name is TlsInfoName {
  return Object.hasOwn(INFO, name)
}

/** What it tells then; undefined or null for what is not there. */
export function tlsInfoOf(session: TlsSession | null, name: TlsInfoName): unknown {
  return session === null ? undefined : INFO[name](session)
}

type LegacyCertificate = PeerCertificate & { issuerCertificate?: PeerCertificate }

function legacy(certificate: X509Certificate): LegacyCertificate {
  return certificate.toLegacyObject() as LegacyCertificate
}
