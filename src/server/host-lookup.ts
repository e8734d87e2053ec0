import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'

/** Where to bind. */
export interface BindHost {
  /** An IP literal. */
  readonly address: string
  /** What to bind instead on a system without IPv6. */
  readonly withoutIpv6: string | null
}

/**
 * The addresses that node:net would listen on: names are looked up and the first address counts; no host means `::`
 * for IPv6 and IPv4, or `0.0.0.0` where there is no IPv6. Names that mean the same address are bound once.
 * @param ipv6Only whether the default may not fall back to IPv4
 */
export async function lookupHosts(hosts: readonly string[] | null, ipv6Only: boolean): Promise<BindHost[]> {
  if (hosts === null) return [{ address: '::', withoutIpv6: ipv6Only ? null : '0.0.0.0' }]
  const addresses = new Set<string>()
  for (const host of hosts) addresses.add(isIP(host) === 0 ? (await lookup(host)).address : host)
  return [...addresses].map((address) => ({ address, withoutIpv6: null }))
}
