import { Buffer } from 'node:buffer'
import { type BigIntStats, readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ShardloopError } from '../errors.js'
import { TLS_MATERIAL_MAX_BYTES } from '../limits.js'
import { wrong } from '../server/given-options.js'

/**
 * A certificate, a key or something else of that kind: PEM as text, PEM or DER as bytes, or the file that has either: its path (a text
 * without `-----BEGIN`) or its file: URL.
 */
export type TlsMaterial = string | Uint8Array | URL

/** One of them, checked but not read yet. */
export interface TlsSource {
  /** The option, for messages. */
  readonly name: string
  readonly from: { readonly bytes: Buffer } | { readonly path: string }
}

/** What each file was when it was read; see {@link stampOf}. */
export type FileStamps = Map<string, string>

const EXPECTED = 'PEM as text, PEM or DER as bytes, or the path or file: URL of a file'
const PEM_BEGIN = '-----BEGIN '
/** Longer paths there are not (PATH_MAX of Linux): it is a key or a certificate that lost its first line. */
const PATH_MAX_LENGTH = 4096

/**
 * Checks one. Its value is in no message: it may be a key.
 * @throws ShardloopError ERR_SHARDLOOP_OPTION
 */
export function sourceOf(name: string, value: unknown): TlsSource {
  if (typeof value === 'string') {
    if (value.includes(PEM_BEGIN)) return { name, from: { bytes: Buffer.from(value) } }
    const isPath = value !== '' && value.length <= PATH_MAX_LENGTH && !/[\0\r\n]/.test(value)
    if (!isPath) throw refused(name, `expected ${EXPECTED}, given a text that is neither`)
    return { name, from: { path: resolve(value) } }
  }
  if (value instanceof Uint8Array) {
    if (value.length === 0) throw refused(name, `expected ${EXPECTED}, given no bytes`)
    return { name, from: { bytes: Buffer.from(value) } } // a copy: it is read again by a reload
  }
  if (!(value instanceof URL)) throw refused(name, `expected ${EXPECTED}, given ${kindOf(value)}`)
  if (value.protocol !== 'file:') throw wrong(name, value.href, EXPECTED)
  try {
    return { name, from: { path: fileURLToPath(value) } }
  } catch {
    throw wrong(name, value.href, EXPECTED) // of another machine, say
  }
}

/** The same of one or several. @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function sourcesOf(name: string, value: unknown): readonly TlsSource[] {
  if (value === undefined) return []
  if (!Array.isArray(value)) return [sourceOf(name, value)]
  if (value.length === 0) throw refused(name, `expected ${EXPECTED}, or several, given none`)
  return value.map((one, index) => sourceOf(`${name}[${index}]`, one))
}

/** Reads one. @param files what is read is noted there @throws ShardloopError ERR_SHARDLOOP_OPTION when it cannot be read */
export function readSource({ name, from }: TlsSource, files: FileStamps): Buffer {
  if ('bytes' in from) return from.bytes
  const { path } = from
  try {
    // Before it is read: a change that comes in between is seen as one later.
    const stats = statSync(path, { bigint: true })
    files.set(path, stampOf(stats))
    if (stats.size > TLS_MATERIAL_MAX_BYTES)
      throw refused(name, `${path} has more than ${TLS_MATERIAL_MAX_BYTES} bytes`)
    return readFileSync(path)
  } catch (error) {
    if (error instanceof ShardloopError) throw error
    files.set(path, files.get(path) ?? MISSING)
    throw refused(name, `cannot read ${path}: ${(error as Error).message}`, error)
  }
}

/** Reads a chain: several certificates, each PEM or DER, as one. */
export function readChain(sources: readonly TlsSource[], files: FileStamps): Buffer {
  const read = sources.map((source) => readSource(source, files))
  const [only] = read
  if (only !== undefined && read.length === 1) return only
  return Buffer.concat(read.map((bytes) => Buffer.concat([isPem(bytes) ? bytes : asPem(bytes), LINE_END])))
}

/** Reads a private key, and decrypts it. */
export function readKey(source: TlsSource, passphrase: string | undefined, files: FileStamps): Buffer {
  const bytes = readSource(source, files)
  const isEncrypted = isPem(bytes) && bytes.includes('ENCRYPTED')
  if (passphrase === undefined) {
    if (isEncrypted) throw refused(source.name, 'the key is encrypted: give its passphrase, too')
    return bytes
  }
  // Not imported above: few keys are encrypted.
  const { createPrivateKey } = createRequire(import.meta.url)('node:crypto') as typeof import('node:crypto')
  try {
    const given = isPem(bytes)
      ? { key: bytes, passphrase }
      : ({ key: bytes, passphrase, format: 'der', type: 'pkcs8' } as const)
    return createPrivateKey(given).export({ type: 'pkcs8', format: 'der' })
  } catch (error) {
    throw refused(source.name, `the key cannot be decrypted: ${(error as Error).message}`, error)
  }
}

/** By what a file is known to be the same. */
export function stampOf({ dev, ino, size, mtimeNs }: BigIntStats): string {
  return `${dev}:${ino}:${size}:${mtimeNs}`
}

/** The stamp of a file that is not there. */
export const MISSING = 'missing'

const LINE_END = Buffer.from('\n')

function isPem(bytes: Buffer): boolean {
  return bytes.includes(PEM_BEGIN)
}

function asPem(der: Buffer): Buffer {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? []
  return Buffer.from(['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----'].join('\n'))
}

function kindOf(value: unknown): string {
  if (value === null) return 'null'
  return typeof value === 'object'
    ? `an object (${value.constructor?.name ?? 'without a class'})`
    : `a ${typeof value}`
}

/** The error for an option whose value must not be shown. */
export function refused(name: string, why: string, cause?: unknown): ShardloopError {
  return new ShardloopError('ERR_SHARDLOOP_OPTION', `option ${name}: ${why}`, { cause })
}
