import { parseArgs } from 'node:util'
import type { EngineName, Server } from 'shardloop'

/** A flag's number. What is none stays as it is, for createServer to refuse by name. */
export function number(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : (text as unknown as number)
}

/** A flag's engine; the same. */
export function engine(text: string): EngineName | 'auto' {
  return text as EngineName
}

/** What createServer takes of the flags that most examples have. */
export interface ServerFlags {
  readonly host: string
  readonly port: number
  readonly shards: number
  readonly engine: EngineName | 'auto'
  readonly tls?: TlsFiles
}

/** Of --tls-cert and --tls-key: paths of PEM files. createServer reads them, and says what is wrong. */
export interface TlsFiles {
  readonly cert?: string
  readonly key?: string
}

/** Nothing without the flags. */
export function tlsFlags(cert: string | undefined, key: string | undefined): { tls?: TlsFiles } {
  if (cert === undefined && key === undefined) return {}
  return { tls: { ...(cert !== undefined && { cert }), ...(key !== undefined && { key }) } }
}

/**
 * --host, --port, --shards and --engine; --tls-cert and --tls-key for TLS.
 * @param more flags of the example's own, with their defaults
 */
export function serverFlags<More extends Record<string, string> = Record<never, string>>(
  port: number,
  more: More = {} as More,
): ServerFlags & More {
  const defaults: Record<string, string> = {
    host: '127.0.0.1',
    port: `${port}`,
    shards: 'auto',
    engine: 'auto',
    ...more,
  }
  const options = Object.fromEntries(
    Object.entries(defaults).map(([name, value]) => [name, { type: 'string', default: value } as const]),
  )
  const files = { 'tls-cert': { type: 'string' }, 'tls-key': { type: 'string' } } as const
  const given = parseArgs({ options: { ...options, ...files } }).values
  const { 'tls-cert': cert, 'tls-key': key, ...values } = given as Record<string, string>
  return {
    ...(values as More),
    ...tlsFlags(cert, key),
    host: values['host'] as string,
    port: number(values['port'] as string),
    shards: number(values['shards'] as string),
    engine: engine(values['engine'] as string),
  }
}

/** What a URL begins with, without TLS and with it. */
const SCHEMES = { http: 'https', tcp: 'tls', mqtt: 'mqtts' } as const

/** `http://127.0.0.1:8080`, or `https:` */
export function urlOf(
  server: Pick<Server, 'addresses'>,
  { tls }: Pick<ServerFlags, 'tls'>,
  scheme: keyof typeof SCHEMES = 'http',
): string {
  const [address] = server.addresses
  const host = address?.family === 'IPv6' ? `[${address.address}]` : address?.address
  return `${tls === undefined ? scheme : SCHEMES[scheme]}://${host}:${address?.port}`
}

/** `http://127.0.0.1:8080 (shards 2, engine mio)` */
export function listening(
  server: Server,
  flags: Pick<ServerFlags, 'tls'>,
  scheme?: keyof typeof SCHEMES,
): string {
  return `${urlOf(server, flags, scheme)} (shards ${server.shards.length}, engine ${server.engine})`
}

/** Ends a program that could not start: one line, and 2 for wrong flags, as shells do, else 1. */
export function failure(program: string): (error: Error & { code?: string }) => void {
  return ({ code = '', message }) => {
    console.error(`${program}: ${message.split('\n', 1)[0]}`)
    process.exitCode = /^ERR_(PARSE_ARGS|SHARDLOOP_OPTION)/.test(code) ? 2 : 1
  }
}
