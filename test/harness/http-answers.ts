import assert from 'node:assert/strict'
import type { Client } from './client.js'

/** An answer as it came. */
export interface Answer {
  readonly status: number
  /** By lower-case names; of equal ones the last. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** Reads the next answer from a connection: its body has a length, is chunked, or there is none. */
export async function readAnswer(client: Client): Promise<Answer> {
  const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(await headLine(client)) ?? []
  assert.ok(status !== undefined, 'a status line')
  const headers: Record<string, string> = {}
  for (let line = await headLine(client); line !== ''; line = await headLine(client)) {
    const [, name = '', value = ''] = /^([^:]+): ?(.*)$/.exec(line) ?? []
    headers[name.toLowerCase()] = value
  }
  return { status: Number(status), headers, body: await readBody(client, headers) }
}

async function readBody(client: Client, headers: Readonly<Record<string, string>>): Promise<string> {
  if (headers['transfer-encoding'] !== 'chunked')
    return (await client.readExactly(Number(headers['content-length'] ?? 0))).toString()
  let body = ''
  for (;;) {
    const length = Number.parseInt(await headLine(client), 16)
    body += (await client.readExactly(length)).toString()
    assert.equal(await headLine(client), '')
    if (length === 0) return body
  }
}

async function headLine(client: Client): Promise<string> {
  return (await client.readLine()).replace(/\r$/, '')
}

/** A request without a body. */
export function get(path: string, headers: Readonly<Record<string, string>> = {}): string {
  const lines = Object.entries({ host: 'test', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
  return `GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`
}
