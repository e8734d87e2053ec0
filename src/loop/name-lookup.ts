import { lookup, lookupService } from 'node:dns/promises'
import { isIP } from 'node:net'
import { invalid } from '../workers/invalid.js'
import type { IpSocketAddress } from '../workers/protocol.js'
import { unwatchSignal, watchSignal } from '../workers/shared-signals.js'
import { takeOptions } from './connection-options.js'

/** Options of `getaddrinfo`. */
export interface AddressLookupOptions {
  /** Only addresses of IPv4 or IPv6. Default: both. */
  readonly family?: 4 | 6
  /** Gives up waiting: the promise rejects with the signal's reason. The system's look-up goes on for nobody. */
  readonly signal?: AbortSignal
}

/** Options of `getnameinfo`. */
export type NameLookupOptions = Pick<AddressLookupOptions, 'signal'>

/** What `getnameinfo` found. */
export interface NameInfo {
  readonly host: string
  readonly service: string
}

/** What the system finds for no host, in its order (RFC 6724 prefers IPv6). */
const LOOPBACK = [
  { address: '::1', family: 6 },
  { address: '127.0.0.1', family: 4 },
] as const

/** See {@link Loop.getaddrinfo}. */
export async function lookupAddresses(
  host: string | null,
  port: number,
  options: AddressLookupOptions,
): Promise<IpSocketAddress[]> {
  const given = takeOptions('getaddrinfo', options)
  const wanted = given.family()
  const signal = given.signal()
  given.refuseUnknown()
  if (host !== null && (typeof host !== 'string' || host === '' || host.includes('\0')))
    throw invalid('host', host, 'an address, a host name, or null for the loopback addresses')
  checkPort(port)
  signal?.throwIfAborted()
  const found = await unlessAborted(lookUp(host, wanted), signal)
  return found.map(({ address, family }) => ({ address, family: family === 6 ? 'IPv6' : 'IPv4', port }))
}

/**
 * All addresses of a host, in the system's order; those of the loopback interface for null. Rejects with Node's error when there
 * is none.
 * @param wanted 0: of either family
 */
export async function lookUp(
  host: string | null,
  wanted: 0 | 4 | 6,
): Promise<readonly { readonly address: string; readonly family: number }[]> {
  const all = host === null ? LOOPBACK : await lookup(host, { all: true, family: wanted, order: 'verbatim' })
  // An address in text is found whatever its family.
  const found = all.filter(({ family }) => wanted === 0 || family === wanted)
  if (found.length === 0) throw notFound(host as string)
  return found
}

/** See {@link Loop.getnameinfo}. */
export async function lookupName(
  socketAddress: Pick<IpSocketAddress, 'address' | 'port'>,
  options: NameLookupOptions,
): Promise<NameInfo> {
  const given = takeOptions('getnameinfo', options)
  const signal = given.signal()
  given.refuseUnknown()
  if (typeof socketAddress !== 'object' || socketAddress === null)
    throw invalid('socketAddress', socketAddress, 'an object with address and port')
  const { address, port } = socketAddress
  if (typeof address !== 'string' || isIP(address) === 0) throw invalid('address', address, 'an IP address')
  checkPort(port)
  signal?.throwIfAborted()
  const { hostname, service } = await unlessAborted(lookupService(address, port), signal)
  return { host: hostname, service }
}

function checkPort(port: unknown): void {
  if (typeof port === 'number' && Number.isInteger(port) && port >= 0 && port <= 65535) return
  throw invalid('port', port, 'an integer from 0 to 65535')
}

/** Waits for `work` until the signal, which is not aborted yet, says otherwise: then it rejects with its reason. */
export function unlessAborted<Value>(work: Promise<Value>, signal: AbortSignal | undefined): Promise<Value> {
  if (signal === undefined) return work
  return new Promise((resolve, reject) => {
    const listener = { handleEvent: (): void => reject(signal.reason) }
    watchSignal(signal, listener)
    work.then(resolve, reject).finally(() => unwatchSignal(signal, listener))
  })
}

/** As node:dns says it. */
function notFound(hostname: string): Error {
  const details = { errno: -3008, code: 'ENOTFOUND', syscall: 'getaddrinfo', hostname }
  return Object.assign(new Error(`getaddrinfo ENOTFOUND ${hostname}`), details)
}
