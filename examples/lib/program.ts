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
}

/**
 * --host, --port, --shards and --engine.
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
  const values = parseArgs({ options }).values as Record<string, string> & More
  return {
    ...values,
    host: values['host'] as string,
    port: number(values['port'] as string),
    shards: number(values['shards'] as string),
    engine: engine(values['engine'] as string),
  }
}

/** `http://127.0.0.1:8080` */
export function urlOf(server: Server, scheme = 'http'): string {
  const [address] = server.addresses
  const host = address?.family === 'IPv6' ? `[${address.address}]` : address?.address
  return `${scheme}://${host}:${address?.port}`
}

/** `http://127.0.0.1:8080 (shards 2, engine mio)` */
export function listening(server: Server, scheme = 'http'): string {
  return `${urlOf(server, scheme)} (shards ${server.shards.length}, engine ${server.engine})`
}

/** Ends a program that could not start: one line, and 2 for wrong flags, as shells do, else 1. */
export function failure(program: string): (error: Error & { code?: string }) => void {
  return ({ code = '', message }) => {
    console.error(`${program}: ${message.split('\n', 1)[0]}`)
    process.exitCode = /^ERR_(PARSE_ARGS|SHARDLOOP_OPTION)/.test(code) ? 2 : 1
  }
}
