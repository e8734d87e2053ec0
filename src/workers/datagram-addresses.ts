import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { DATAGRAM_ADDRESSES_KEPT } from '../limits.js'
import {
  ADDRESS_IPV4,
  ADDRESS_IPV6,
  ADDRESS_NONE,
  ADDRESS_PORT_SHIFT,
  ADDRESS_UNIX,
  KIND_MASK,
} from '../native/abi.js'
import type { DatagramDestination } from './datagram-protocol.js'
import { invalid } from './invalid.js'
import type { IpSocketAddress, SocketAddress } from './protocol.js'
import { isUnixPath, UNIX_PATH_EXPECTED } from './unix-path.js'

const WORD_BYTES = 4
const IPV4_WORDS = 2
const IPV6_WORDS = 6

/** An address in words, as native code has it in front of a datagram (native/src/net/datagram_address.rs). */
export interface AddressForm {
  /** Kind, and port or length. */
  readonly first: number
  /** Of IPv4 the address. */
  readonly second: number
  /** All of them; of IPv4 it is not needed. */
  readonly words: Int32Array | null
}

/** That of a connected endpoint's datagrams. */
export const NO_ADDRESS: AddressForm = { first: ADDRESS_NONE, second: 0, words: null }

/** Where an address that we have made keeps its form. Not enumerable, so that it is equal to an object without. */
const FORM = Symbol('form')

interface KnownAddress extends IpSocketAddress {
  readonly [FORM]?: Entry
}

/** An address and both of its forms. */
class Entry implements AddressForm {
  readonly first: number
  readonly second: number
  readonly words: Int32Array | null
  readonly address: KnownAddress

  constructor(first: number, second: number, words: Int32Array | null, address: IpSocketAddress) {
    this.first = first
    this.second = second
    this.words = words
    Object.defineProperty(address, FORM, { value: this })
    this.address = Object.freeze(address)
  }

  isIPv6(words: Int32Array, at: number): boolean {
    const known = this.words
    if (known === null) return false
    for (let word = 0; word < IPV6_WORDS; word++) if (known[word] !== words[at + word]) return false
    return true
  }
}

/** What the program gave as an address, and what it meant then. */
interface GivenAddress {
  readonly address: string
  readonly port: number
  readonly form: AddressForm
}

/** How many words the address has that begins with this one. */
export function wordsOf(first: number): number {
  switch (first & KIND_MASK) {
    case ADDRESS_IPV4:
      return IPV4_WORDS
    case ADDRESS_IPV6:
      return IPV6_WORDS
    case ADDRESS_UNIX:
      return 1 + Math.ceil((first >>> ADDRESS_PORT_SHIFT) / WORD_BYTES)
    default:
      return 1
  }
}

/**
 * The addresses of datagrams: from native code's words to frozen objects and back, neither of which makes anything for a peer
 * that it knows. It knows as many as DATAGRAM_ADDRESSES_KEPT, each in one of two places; another one there takes the place of
 * the one that was used less lately.
 */
export class DatagramAddresses {
  readonly #entries: (Entry | undefined)[] = new Array(DATAGRAM_ADDRESSES_KEPT).fill(undefined)
  readonly #given = new WeakMap<object, GivenAddress>()
  /** The latest; a peer's datagrams often come one behind the other. */
  #latest: Entry | undefined = undefined
  #latestUnix: { readonly path: string; readonly form: AddressForm } | undefined = undefined

  /** The address that begins at this word. */
  read(words: Int32Array, at: number, bytes: Buffer): SocketAddress {
    const first = words[at] as number
    const second = words[at + 1] as number
    const kind = first & KIND_MASK
    const latest = this.#latest
    if (kind === ADDRESS_IPV4) {
      if (latest !== undefined && latest.first === first && latest.second === second) return latest.address
      return this.#find(first, second, words, at)
    }
    if (kind === ADDRESS_IPV6) {
      if (latest !== undefined && latest.first === first && latest.isIPv6(words, at)) return latest.address
      return this.#find(first, second, words, at)
    }
    const start = (at + 1) * WORD_BYTES
    return bytes.toString('utf8', start, start + (first >>> ADDRESS_PORT_SHIFT)) as SocketAddress
  }

  /** The form of a destination. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for what is none */
  form(destination: DatagramDestination): AddressForm {
    if (typeof destination === 'object' && destination !== null) {
      const known = (destination as KnownAddress)[FORM]
      if (known !== undefined) return known
      const given = this.#given.get(destination)
      const { address, port } = destination
      // It may be another one by now.
      if (given !== undefined && given.address === address && given.port === port) return given.form
      const form = ipForm(address, port)
      this.#given.set(destination, { address, port, form })
      return form
    }
    if (!isUnixPath(destination))
      throw invalid('address', destination, `an object with address and port, or ${UNIX_PATH_EXPECTED}`)
    if (this.#latestUnix?.path === destination) return this.#latestUnix.form
    const form = unixForm(destination)
    this.#latestUnix = { path: destination, form }
    return form
  }

  #find(first: number, second: number, words: Int32Array, at: number): SocketAddress {
    const isIPv4 = (first & KIND_MASK) === ADDRESS_IPV4
    let mix = Math.imul(first, 0x9e3779b1) ^ Math.imul(second, 0x85ebca6b)
    if (!isIPv4)
      for (let word = 2; word < IPV6_WORDS; word++)
        mix = Math.imul(mix ^ (words[at + word] as number), 0x85ebca6b)
    mix ^= mix >>> 15
    const place = (mix & (DATAGRAM_ADDRESSES_KEPT / 2 - 1)) * 2
    const entries = this.#entries
    for (let way = 0; way < 2; way++) {
      const entry = entries[place + way]
      if (entry === undefined || entry.first !== first || entry.second !== second) continue
      if (!isIPv4 && !entry.isIPv6(words, at)) continue
      if (way === 1) {
        // The first of the two is the one that was used last.
        entries[place + 1] = entries[place]
        entries[place] = entry
      }
      this.#latest = entry
      return entry.address
    }
    const port = first >>> ADDRESS_PORT_SHIFT
    const entry = isIPv4
      ? new Entry(first, second, null, { address: ipv4Text(second), family: 'IPv4', port })
      : newIPv6(words.slice(at, at + IPV6_WORDS), port)
    entries[place + 1] = entries[place]
    entries[place] = entry
    this.#latest = entry
    return entry.address
  }
}

function newIPv6(words: Int32Array, port: number): Entry {
  const bytes = Buffer.from(words.buffer, WORD_BYTES, 16)
  const address = ipv6Text(bytes, words[5] as number)
  return new Entry(words[0] as number, words[1] as number, words, { address, family: 'IPv6', port })
}

function ipv4Text(word: number): string {
  return Buffer.from(Int32Array.of(word).buffer).join('.')
}

/** As RFC 5952 has it: the first of the longest runs of zeros, of two or more, is left out. */
function ipv6Text(bytes: Buffer, scope: number): string {
  const groups = Array.from({ length: 8 }, (_, group) => bytes.readUInt16BE(group * 2))
  if (groups.slice(0, 5).every((group) => group === 0)) {
    if (groups[5] === 0xffff) return `::ffff:${bytes.subarray(12).join('.')}`
    // As inet_ntop(3) has it, and so Node.
    if (groups[5] === 0 && groups[6] !== 0) return `::${bytes.subarray(12).join('.')}`
  }
  let [from, length] = [0, 1]
  for (let start = 0; start < groups.length; start++) {
    let end = start
    while (groups[end] === 0) end++
    if (end - start > length) [from, length] = [start, end - start]
  }
  const hex = (part: number[]): string => part.map((group) => group.toString(16)).join(':')
  const text =
    length === 1 ? hex(groups) : `${hex(groups.slice(0, from))}::${hex(groups.slice(from + length))}`
  return scope === 0 ? text : `${text}%${interfaceName(scope)}`
}

/** By its number, as node:dgram shows it. */
function interfaceName(scope: number): string {
  for (const [name, addresses] of Object.entries(networkInterfaces()))
    if (addresses?.some(({ scopeid }) => scopeid === scope)) return name
  return String(scope)
}

function scopeOf(zone: string): number {
  if (/^\d+$/.test(zone)) return Number(zone)
  const found = networkInterfaces()[zone]?.find(({ scopeid }) => scopeid !== undefined && scopeid !== 0)
  if (found?.scopeid !== undefined) return found.scopeid
  throw invalid('address', `%${zone}`, 'a zone that is an interface of this machine')
}

function ipForm(address: unknown, port: unknown): AddressForm {
  const version = typeof address === 'string' ? isIP(address) : 0
  if (version === 0)
    throw invalid('address', address, 'an IP address; loop.getaddrinfo finds those of a name')
  if (!(typeof port === 'number' && Number.isInteger(port) && port > 0 && port <= 65535))
    throw invalid('port', port, 'an integer from 1 to 65535')
  const text = address as string
  if (version === 4) {
    const second = new Int32Array(Uint8Array.from(text.split('.').map(Number)).buffer)[0] as number
    return { first: ADDRESS_IPV4 | (port << ADDRESS_PORT_SHIFT), second, words: null }
  }
  const [plain, zone] = text.split('%') as [string, string | undefined]
  const words = new Int32Array(IPV6_WORDS)
  words[0] = ADDRESS_IPV6 | (port << ADDRESS_PORT_SHIFT)
  Buffer.from(words.buffer).set(ipv6Bytes(plain), WORD_BYTES)
  words[5] = zone === undefined ? 0 : scopeOf(zone)
  return { first: words[0] as number, second: words[1] as number, words }
}

/** @param text an address that `isIP` knows */
function ipv6Bytes(text: string): number[] {
  // The last 32 bits may be written as those of IPv4 are.
  const plain = text.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, ...parts: string[]) => {
    const [a, b, c, d] = parts.slice(0, 4).map(Number) as [number, number, number, number]
    return `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`
  })
  const [head, tail] = plain.split('::') as [string, string | undefined]
  const groups = (part: string | undefined): number[] =>
    part === undefined || part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16))
  const [first, last] = [groups(head), groups(tail)]
  const all = [...first, ...new Array(8 - first.length - last.length).fill(0), ...last] as number[]
  return all.flatMap((group) => [group >> 8, group & 0xff])
}

function unixForm(path: string): AddressForm {
  const name = Buffer.from(path)
  const words = new Int32Array(1 + Math.ceil(name.length / WORD_BYTES))
  words[0] = ADDRESS_UNIX | (name.length << ADDRESS_PORT_SHIFT)
  Buffer.from(words.buffer).set(name, WORD_BYTES)
  return { first: words[0] as number, second: words[1] as number, words }
}
