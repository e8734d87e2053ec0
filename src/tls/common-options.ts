import {
  TIME_MAX_MS,
  TLS_ALPN_MAX,
  TLS_HANDSHAKE_TIMEOUT_DEFAULT_MS,
  TLS_NAME_MAX_LENGTH,
} from '../limits.js'
import { GivenOptions, show, wrong } from '../server/given-options.js'
import { refused, sourceOf, sourcesOf, type TlsMaterial, type TlsSource } from './material.js'

/** A version of TLS, as node:tls names it. */
export type TlsVersion = 'TLSv1.2' | 'TLSv1.3'

/** What servers and clients have in common. */
export interface TlsCommonOptions {
  /** Our certificate, and behind it those of who signed it: PEM with all of them, or several in that order. */
  readonly cert?: TlsMaterial | readonly TlsMaterial[]
  /** Its private key: PKCS#8, PKCS#1 or SEC1. */
  readonly key?: TlsMaterial
  /** What decrypts the key, if it is encrypted. */
  readonly passphrase?: string
  /** Application protocols (RFC 7301), the preferred one first: `['h2', 'http/1.1']`. Default: none is negotiated. */
  readonly alpn?: readonly string[]
  /** Default `'TLSv1.2'`. */
  readonly minVersion?: TlsVersion
  /** Default `'TLSv1.3'`. */
  readonly maxVersion?: TlsVersion
  /** Ciphers that may be used, the preferred one first, by the names that IANA or OpenSSL has for them. Default: rustls' choice. */
  readonly ciphers?: readonly string[]
  /** Groups for the key exchange, the preferred one first. Default: X25519MLKEM768, X25519, P-256, P-384. */
  readonly groups?: readonly string[]
  /**
   * Milliseconds that the handshake may take, at least 1. Default 10,000; past it the connection ends with ERR_SHARDLOOP_TLS_TIMEOUT. If
   * bytes of the peer wait to be read then, as after the thread was blocked, it has that time once more.
   */
  readonly handshakeTimeoutMs?: number
  /**
   * A file to which the secrets of every session are appended in the format of NSS (SSLKEYLOGFILE), so that Wireshark can read what
   * was captured: for debugging. The environment variable of that name is not looked at.
   */
  readonly keyLog?: string
}

/** A certificate and its key, not read yet. */
export interface IdentitySources {
  readonly cert: readonly TlsSource[]
  readonly key: TlsSource
  readonly passphrase: string | undefined
}

/** {@link TlsCommonOptions}, checked. */
export interface TlsCommonSettings {
  readonly identity: IdentitySources | null
  readonly alpn: readonly string[]
  readonly minVersion: TlsVersion
  readonly maxVersion: TlsVersion
  readonly ciphers: readonly string[] | null
  readonly groups: readonly string[] | null
  readonly handshakeTimeoutMs: number
  readonly keyLog: string | null
}

const VERSIONS: readonly TlsVersion[] = ['TLSv1.2', 'TLSv1.3']

/** Reads options of TLS by name, which messages give with their prefix: `tls.cert`. */
export class TlsGiven extends GivenOptions {
  readonly #prefix: string

  /** @throws ShardloopError ERR_SHARDLOOP_OPTION when they are no object @param prefix empty, or `'tls.'` */
  constructor(options: unknown, prefix: string) {
    if (typeof options !== 'object' || options === null || Array.isArray(options))
      throw wrong(prefix === '' ? 'options' : prefix.slice(0, -1), options, 'an object of options')
    super(Object.fromEntries(Object.entries(options).map(([name, value]) => [prefix + name, value])))
    this.#prefix = prefix
  }

  /** An option's whole name. */
  at(name: string): string {
    return this.#prefix + name
  }

  sources(name: string): readonly TlsSource[] {
    return sourcesOf(this.at(name), this.take(this.at(name)))
  }

  source(name: string): TlsSource | null {
    const value = this.take(this.at(name))
    return value === undefined ? null : sourceOf(this.at(name), value)
  }

  passphrase(): string | undefined {
    const value = this.take(this.at('passphrase'))
    if (value === undefined || typeof value === 'string') return value
    throw refused(this.at('passphrase'), `expected a string, given a ${typeof value}`)
  }

  /** Names of something, in order. @param fits what one is like */
  names(
    name: string,
    expected: string,
    most: number,
    fits: (one: string) => boolean,
  ): readonly string[] | null {
    const value = this.take(this.at(name))
    if (value === undefined) return null
    const isList = Array.isArray(value) && value.length >= 1 && value.length <= most
    if (isList && value.every((one) => typeof one === 'string' && fits(one)))
      return [...new Set(value as string[])]
    throw wrong(this.at(name), value, expected)
  }

  text(name: string, expected: string): string | null {
    const value = this.take(this.at(name))
    if (value === undefined) return null
    if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value
    throw wrong(this.at(name), value, expected)
  }

  any(name: string): unknown {
    return this.take(this.at(name))
  }

  /** A certificate with its key, or neither. */
  identity(): IdentitySources | null {
    const cert = this.sources('cert')
    const key = this.source('key')
    const passphrase = this.passphrase()
    if (key === null) {
      if (cert.length > 0) throw refused(this.at('key'), 'expected the private key of cert, given none')
      if (passphrase !== undefined) throw refused(this.at('passphrase'), 'expected nothing without key')
      return null
    }
    if (cert.length === 0) throw refused(this.at('cert'), 'expected the certificate of key, given none')
    return { cert, key, passphrase }
  }

  common(): TlsCommonSettings {
    const minVersion = this.oneOf(this.at('minVersion'), VERSIONS, 'TLSv1.2')
    const maxVersion = this.oneOf(this.at('maxVersion'), VERSIONS, 'TLSv1.3')
    if (minVersion > maxVersion)
      throw wrong(this.at('minVersion'), minVersion, `no more than maxVersion (${maxVersion})`)
    return {
      identity: this.identity(),
      alpn: this.names('alpn', ALPN_EXPECTED, TLS_ALPN_MAX, isProtocolName) ?? [],
      minVersion,
      maxVersion,
      ciphers: this.names('ciphers', 'names of ciphers, as TLS_AES_128_GCM_SHA256', NAMED_MAX, isName),
      groups: this.names('groups', 'names of groups, as X25519', NAMED_MAX, isName),
      handshakeTimeoutMs: this.integer(
        this.at('handshakeTimeoutMs'),
        1,
        TIME_MAX_MS,
        TLS_HANDSHAKE_TIMEOUT_DEFAULT_MS,
      ),
      keyLog: this.text('keyLog', 'the path of a file'),
    }
  }
}

/** Ciphers or groups: more names than there are. */
const NAMED_MAX = 256
const ALPN_EXPECTED = `1 to ${TLS_ALPN_MAX} protocols' names of 1 to 255 bytes, as 'h2'`

function isProtocolName(name: string): boolean {
  const bytes = Buffer.byteLength(name)
  return bytes >= 1 && bytes <= 255
}

function isName(name: string): boolean {
  return name !== ''
}

/** Whether it can be a server's name: a host's name or an address. Native code looks closer. */
export function isServerName(value: unknown): value is string {
  return (
    typeof value === 'string' &&
    value.length >= 1 &&
    value.length <= TLS_NAME_MAX_LENGTH &&
    !/[\s\0]/.test(value)
  )
}

export const SERVER_NAME_EXPECTED = 'the name of the host, or its address, as its certificate has it'

/** What native code says against options, as our error. */
export function refusedByNative(name: string, error: unknown): Error {
  return refused(name, error instanceof Error ? error.message : show(error))
}
