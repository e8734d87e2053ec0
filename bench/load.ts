/** Runs the load generator and reads its JSON line. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { pinned } from './machine.js'

/** Root of the repository; this file is compiled to dist/bench/. */
export const ROOT: string = join(import.meta.dirname, '..', '..')

/** Where commands leave what they found. */
export const RESULTS: string = join(ROOT, 'bench', 'results')

/** A measurement that takes this much longer than it should is ended: the server hangs. */
const GRACE_MS = 60_000

/** Latencies in microseconds. */
export interface LatencySummary {
  readonly count: number
  readonly mean: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly p999: number
  readonly p9999: number
  readonly max: number
}

/** What the load generator prints with `--json`. */
export interface LoadResult {
  readonly ok: boolean
  /** Length of the measured window. */
  readonly secs: number
  /** Requests answered in the window, and in all. */
  readonly requests: number
  readonly requestsTotal: number
  readonly requestsPerSec: number
  readonly latencyUs: LatencySummary
  /** Of datagrams: how many were sent in the window, and how many got no answer. */
  readonly sent?: number
  readonly lost?: number
  /** With TLS: handshakes, with churn those in the window. */
  readonly tls?: {
    readonly version: string
    readonly cipherSuite: string
    readonly handshakes: number
    readonly resumed: number
  }
  readonly failures: { readonly first: string | null }
  readonly cpu: {
    readonly serverSecs: number | null
    readonly clientSecs: number | null
    readonly machineBusySecs: number | null
    readonly machineStealSecs: number | null
  }
}

/** Path of a program of the bench/loadgen crate; `npm run bench` builds it there. */
export function loadgenProgram(
  name: 'loadgen' | 'raw-mio-echo' | 'raw-tokio-echo' | 'raw-tokio-rustls-echo' | 'raw-accept',
): string {
  return join(ROOT, 'target', 'release', name)
}

/** One run of the load generator on `cpu`, or with null on any. Rejects when a byte was wrong, a connection failed, or it does not end. */
export async function runLoad(cpu: number | null, args: readonly string[]): Promise<LoadResult> {
  const command = [loadgenProgram('loadgen'), ...args, '--json']
  const [program, ...rest] = cpu === null ? command : pinned(cpu, command)
  const child = spawn(program as string, rest, { stdio: ['ignore', 'pipe', 'pipe'] })
  const guard = setTimeout(() => child.kill('SIGKILL'), GRACE_MS)
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (...ended) => resolve(ended))
  })
  clearTimeout(guard)
  if (code === 0) return JSON.parse(stdout) as LoadResult
  const failure = stdout === '' ? null : (JSON.parse(stdout) as LoadResult).failures.first
  throw new Error(`loadgen ${args.join(' ')}: ${failure ?? (stderr.trim() || `ended by ${signal ?? code}`)}`)
}
