/** Certificates for tests, made at run time: each kind once per process, when it is first asked for. */
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { isIP } from 'node:net'
import * as der from './der.js'

const DAY_MS = 86_400_000

/** The signature's algorithm of each kind of key, and the digest that node:crypto has to be told. */
const SIGNATURES: Record<KeyType, { readonly digest: string | null; readonly algorithm: Buffer }> = {
  p256: { digest: 'sha256', algorithm: der.sequence(der.objectId('1.2.840.10045.4.3.2')) },
  p384: { digest: 'sha384', algorithm: der.sequence(der.objectId('1.2.840.10045.4.3.3')) },
  rsa: {
    digest: 'sha256',
    algorithm: der.sequence(der.objectId('1.2.840.113549.1.1.11'), der.tagged(0x05)),
  },
  ed25519: { digest: null, algorithm: der.sequence(der.objectId('1.3.101.112')) },
}

export type KeyType = 'p256' | 'p384' | 'rsa' | 'ed25519'

interface KeyPair {
  readonly publicKey: KeyObject
  readonly privateKey: KeyObject
}

/** Who one end is: what `cert` and `key` take. */
export interface Identity {
  /** PEM: its certificate, then the intermediate ones up to (and without) the root. */
  readonly cert: string
  /** PEM, PKCS#8. */
  readonly key: string
  /** Its certificate alone. */
  readonly der: Buffer
  readonly privateKey: KeyObject
  /** As node:tls has it: hexadecimal, upper case. */
  readonly serialNumber: string
  /** SHA-256 of its SubjectPublicKeyInfo, base64. */
  readonly spki: string
}

export interface IssueOptions {
  /** P-256 by default. */
  readonly keyType?: KeyType
  /** DNS names and IP addresses it is for; {@link LOCAL_NAMES} by default, none for a client. */
  readonly names?: readonly string[]
  readonly commonName?: string
  /** What it may be used for; `server` by default. */
  readonly usage?: 'server' | 'client'
  /** Days from now, negative ones are past: from yesterday to in 30 days by default. */
  readonly fromDays?: number
  readonly toDays?: number
}

/** Where a test's server is. */
export const LOCAL_NAMES: readonly string[] = ['localhost', '127.0.0.1', '::1']

/** One who signs certificates. */
export class Authority {
  /** PEM of the root above it, or its own: what `ca` takes. */
  readonly root: string
  /** PEM of the intermediate ones from this one up; empty for a root. */
  readonly #chain: string
  readonly #name: Buffer
  readonly #keyType: KeyType
  readonly #keys: KeyPair

  private constructor(name: Buffer, keyType: KeyType, keys: KeyPair, root: string, chain: string) {
    this.#name = name
    this.#keyType = keyType
    this.#keys = keys
    this.root = root
    this.#chain = chain
  }

  static create(commonName: string, keyType: KeyType = 'p256'): Authority {
    const name = nameOf(commonName)
    const keys = newKeys(keyType)
    const signer = { name, keyType, keys }
    const { bytes } = certify(signer, name, keys, authorityExtensions(keys), {})
    return new Authority(name, keyType, keys, der.pem('CERTIFICATE', bytes), '')
  }

  /** An authority below this one. */
  intermediate(commonName: string, keyType: KeyType = 'p256'): Authority {
    const name = nameOf(commonName)
    const keys = newKeys(keyType)
    const { bytes } = certify(this.#signer, name, keys, [...authorityExtensions(keys), this.#above], {})
    return new Authority(name, keyType, keys, this.root, der.pem('CERTIFICATE', bytes) + this.#chain)
  }

  issue(options: IssueOptions = {}): Identity {
    const { keys, name, extensions } = subject(options)
    const certificate = certify(this.#signer, name, keys, [...extensions, this.#above], options)
    return identity(keys, certificate, this.#chain)
  }

  /** PEM of a list of certificates that it takes back, in force for 30 days. */
  revoke(...identities: readonly Identity[]): string {
    const { digest, algorithm } = SIGNATURES[this.#keyType]
    const listed = identities.map(({ serialNumber }) =>
      der.sequence(
        der.integer(Buffer.from(serialNumber, 'hex')),
        der.time(new Date(Date.now() - DAY_MS)),
        der.sequence(extension('2.5.29.21', der.enumerated(1))),
      ),
    )
    const list = der.sequence(
      der.integer(Uint8Array.of(1)),
      algorithm,
      this.#name,
      der.time(new Date(Date.now() - DAY_MS)),
      der.time(new Date(Date.now() + 30 * DAY_MS)),
      ...(listed.length > 0 ? [der.sequence(...listed)] : []),
      der.context(0, der.sequence(this.#above, extension('2.5.29.20', der.integer(Uint8Array.of(1))))),
    )
    const signature = der.bitString(sign(digest, list, this.#keys.privateKey))
    return der.pem('X509 CRL', der.sequence(list, algorithm, signature))
  }

  get #signer(): Signer {
    return { name: this.#name, keyType: this.#keyType, keys: this.#keys }
  }

  /** The extension that names the key of this one in what it signs. */
  get #above(): Buffer {
    return extension('2.5.29.35', der.sequence(der.contextValue(0, keyId(this.#keys.publicKey))))
  }
}

/** One that vouches for itself. */
export function selfSigned(options: IssueOptions = {}): Identity {
  const { keys, name, extensions } = subject(options)
  const signer = { name, keyType: options.keyType ?? 'p256', keys }
  return identity(keys, certify(signer, name, keys, extensions, options), '')
}

/** What most tests need. */
const MAKERS = {
  /** P-256, for {@link LOCAL_NAMES}. */
  server: (): Identity => authority().issue(),
  rsa: (): Identity => authority().issue({ keyType: 'rsa' }),
  ed25519: (): Identity => authority().issue({ keyType: 'ed25519' }),
  /** For every name one label below wild.test. */
  wild: (): Identity => authority().issue({ names: ['*.wild.test'] }),
  /** For other.test only. */
  other: (): Identity => authority().issue({ names: ['other.test'] }),
  /** By an intermediate authority, whose certificate is in its chain. */
  chained: (): Identity => authority().intermediate('shardloop test intermediate').issue(),
  expired: (): Identity => authority().issue({ fromDays: -20, toDays: -10 }),
  notYetValid: (): Identity => authority().issue({ fromDays: 10, toDays: 20 }),
  /** Listed by {@link revocations}. */
  revoked: (): Identity => authority().issue(),
  selfSigned: (): Identity => selfSigned(),
  /** By an authority that nobody trusts. */
  untrusted: (): Identity => strangers().issue(),
  client: (): Identity => authority().issue({ usage: 'client', commonName: 'a client' }),
  expiredClient: (): Identity => authority().issue({ usage: 'client', fromDays: -20, toDays: -10 }),
  notYetValidClient: (): Identity => authority().issue({ usage: 'client', fromDays: 10, toDays: 20 }),
  revokedClient: (): Identity => authority().issue({ usage: 'client' }),
  untrustedClient: (): Identity => strangers().issue({ usage: 'client' }),
}

export type IdentityName = keyof typeof MAKERS

const made = new Map<string, unknown>()

function once<Value>(name: string, make: () => Value): Value {
  if (!made.has(name)) made.set(name, make())
  return made.get(name) as Value
}

export function identityOf(name: IdentityName): Identity {
  return once(name, MAKERS[name])
}

/** Who signs what {@link identityOf} has, but for strangers. */
export function authority(): Authority {
  return once('authority', () => Authority.create('shardloop test authority'))
}

function strangers(): Authority {
  return once('strangers', () => Authority.create('a stranger'))
}

/** PEM of the list that has `revoked` and `revokedClient`. */
export function revocations(): string {
  return once('revocations', () => authority().revoke(identityOf('revoked'), identityOf('revokedClient')))
}

/** Its private key in the old forms: PKCS#1 of RSA, SEC1 of elliptic curves. */
export function oldForm({ privateKey }: Identity): string {
  const type = privateKey.asymmetricKeyType === 'rsa' ? 'pkcs1' : 'sec1'
  return privateKey.export({ type, format: 'pem' }).toString()
}

/** Its private key, PKCS#8, encrypted. */
export function encrypted({ privateKey }: Identity, passphrase: string): string {
  return privateKey.export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase }).toString()
}

/** Generating RSA's keys takes long, so all share one pair. */
function newKeys(keyType: KeyType): KeyPair {
  if (keyType === 'rsa') return once('rsa keys', () => generateKeyPairSync('rsa', { modulusLength: 2048 }))
  if (keyType === 'ed25519') return generateKeyPairSync('ed25519')
  return generateKeyPairSync('ec', { namedCurve: keyType === 'p256' ? 'P-256' : 'P-384' })
}

interface Signer {
  readonly name: Buffer
  readonly keyType: KeyType
  readonly keys: KeyPair
}

function certify(
  signer: Signer,
  subjectName: Buffer,
  { publicKey }: KeyPair,
  extensions: readonly Buffer[],
  { fromDays = -1, toDays = 30 }: IssueOptions,
): { bytes: Buffer; serial: Buffer } {
  const { digest, algorithm } = SIGNATURES[signer.keyType]
  const serial = randomBytes(16)
  // Positive and without zeros in front, so that everybody writes it alike.
  serial[0] = 0x40 | ((serial[0] as number) & 0x3f)
  const inDays = (days: number): Buffer => der.time(new Date(Date.now() + days * DAY_MS))
  const body = der.sequence(
    der.context(0, der.integer(Uint8Array.of(2))),
    der.integer(serial),
    algorithm,
    signer.name,
    der.sequence(inDays(fromDays), inDays(toDays)),
    subjectName,
    publicKey.export({ type: 'spki', format: 'der' }),
    der.context(3, der.sequence(...extensions)),
  )
  const signature = der.bitString(sign(digest, body, signer.keys.privateKey))
  return { bytes: der.sequence(body, algorithm, signature), serial }
}

function identity(
  { privateKey, publicKey }: KeyPair,
  { bytes, serial }: { bytes: Buffer; serial: Buffer },
  chain: string,
): Identity {
  return {
    cert: der.pem('CERTIFICATE', bytes) + chain,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    der: bytes,
    privateKey,
    serialNumber: serial.toString('hex').toUpperCase(),
    spki: createHash('sha256')
      .update(publicKey.export({ type: 'spki', format: 'der' }))
      .digest('base64'),
  }
}

function nameOf(commonName: string): Buffer {
  return der.sequence(der.set(der.sequence(der.objectId('2.5.4.3'), der.utf8String(commonName))))
}

function extension(id: string, value: Uint8Array, critical = false): Buffer {
  return der.sequence(der.objectId(id), ...(critical ? [der.boolean(true)] : []), der.octetString(value))
}

function keyId(key: KeyObject): Buffer {
  return createHash('sha1')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest()
}

function authorityExtensions({ publicKey }: KeyPair): Buffer[] {
  return [
    extension('2.5.29.19', der.sequence(der.boolean(true)), true),
    // It signs certificates and lists of revoked ones.
    extension('2.5.29.15', der.bitString(Uint8Array.of(0x06), 1), true),
    extension('2.5.29.14', der.octetString(keyId(publicKey))),
  ]
}

function subject(options: IssueOptions): { keys: KeyPair; name: Buffer; extensions: Buffer[] } {
  const { usage = 'server', keyType = 'p256' } = options
  const names = options.names ?? (usage === 'server' ? LOCAL_NAMES : [])
  const purpose = der.objectId(usage === 'server' ? '1.3.6.1.5.5.7.3.1' : '1.3.6.1.5.5.7.3.2')
  const extensions = [
    extension('2.5.29.19', der.sequence(), true),
    // It makes signatures.
    extension('2.5.29.15', der.bitString(Uint8Array.of(0x80), 7), true),
    extension('2.5.29.37', der.sequence(purpose)),
  ]
  if (names.length > 0) extensions.push(extension('2.5.29.17', der.sequence(...names.map(generalName))))
  return { keys: newKeys(keyType), name: nameOf(options.commonName ?? names[0] ?? usage), extensions }
}

function generalName(name: string): Buffer {
  const version = isIP(name)
  if (version === 0) return der.contextValue(2, Buffer.from(name))
  if (version === 4) return der.contextValue(7, Uint8Array.from(name.split('.').map(Number)))
  return der.contextValue(7, addressBytes(name))
}

/** An IPv6 address without an IPv4 one at its end. */
function addressBytes(address: string): Buffer {
  const [front = '', back = ''] = address.split('::')
  const groups = (text: string): string[] => (text === '' ? [] : text.split(':'))
  const [before, after] = [groups(front), groups(back)]
  const zeros = Array<string>(8 - before.length - after.length).fill('0')
  return Buffer.from([...before, ...zeros, ...after].map((group) => group.padStart(4, '0')).join(''), 'hex')
}
