/** Other programs that speak TLS, where they are installed: OpenSSL's own, curl, and Python with its ssl module. */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { authority, type Identity } from './certificates.js'
import type { TestContext } from './suite.js'

export interface Program {
  readonly command: string
  /** Why tests of it cannot run here; null when they can. */
  readonly missing: string | null
}

function find(command: string, args: readonly string[], wanted: RegExp, what: string): Program {
  const { error, stdout } = spawnSync(command, args, { encoding: 'utf8' })
  if (error !== undefined) return { command, missing: `${command} is not installed` }
  if (wanted.test(stdout)) return { command, missing: null }
  return { command, missing: `${command} is no ${what}: ${stdout.split('\n', 1)[0]}` }
}

/** LibreSSL, which macOS has, has other flags. */
export const OPENSSL: Program = find('openssl', ['version'], /^OpenSSL [3-9]\./, 'OpenSSL 3')
export const CURL: Program = find('curl', ['--version'], /\bhttps\b/, 'curl with HTTPS')
export const CURL_HTTP2: Program = find('curl', ['--version'], /\bHTTP2\b/, 'curl with HTTP/2')
export const PYTHON: Program = find(
  'python3',
  ['-c', 'import ssl; print(ssl.HAS_TLSv1_3)'],
  /^True/,
  'Python with TLS 1.3',
)

/** The file with the authority's certificate. */
export function authorityFile(t: TestContext): string {
  return fileWith(t, 'authority', authority().root)
}

/** Files with an identity's certificates and its key. */
export function identityFiles(t: TestContext, { cert, key }: Identity): { cert: string; key: string } {
  return { cert: fileWith(t, 'cert', cert), key: fileWith(t, 'key', key) }
}

export function fileWith(t: TestContext, name: string, text: string): string {
  const path = t.path(name)
  writeFileSync(path, text)
  return path
}
