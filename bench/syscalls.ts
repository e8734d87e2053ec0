/**
 * System calls per request, counted by `strace -c -f` in short runs of their own: tracing slows a server down so much
 * that nothing is timed here.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type LoadResult, runLoad } from './load.js'
import { measuredCpus, output } from './machine.js'
import type { PeerId } from './peers.js'
import { serverCommand } from './programs.js'
import type { Row } from './rows.js'
import { type RunningServer, startServer, within } from './servers.js'

const ATTACH_TIMEOUT_MS = 10_000

/** Calls of one server on one row. */
export interface SyscallResult extends CallsPerRequest {
  readonly row: string
  readonly peer: PeerId
}

/** What a server does for a request. */
export interface CallsPerRequest {
  readonly requests: number
  readonly perRequest: number
  /** The same by name, most frequent first. */
  readonly byName: Readonly<Record<string, number>>
}

/** Whether strace is there. */
export function straceIsPresent(): boolean {
  return output('strace', ['-V']) !== null
}

/** Load before the first count. */
const WARMUP_SECS = 0.3
/** The longer of the two counts takes this many times the time of the shorter. */
const LONGER = 4
/** How often both are counted when the longer one saw no more requests. */
const COUNT_TRIES = 3

/** What a server did in one count. */
interface Count {
  readonly requests: number
  readonly calls: Readonly<Record<string, number>>
}

/**
 * Counts the calls of `peer` on `row`, as the slope between a short and a long run under strace: what connecting costs
 * is the same in both, and must not count as a request's (strace slows a server so much that it would weigh).
 */
export async function countSyscalls(row: Row, peer: PeerId, secs: number): Promise<SyscallResult> {
  const [serverCpu, clientCpu] = measuredCpus()
  const command = serverCommand(peer)
  if (command === null) throw new Error(`${peer} is not installed`)
  const server = await startServer(serverCpu, command)
  const load = [
    row.mode,
    '--addr',
    server.addr,
    '--conns',
    String(row.connections),
    '--size',
    String(row.size),
  ]
  if (row.mode === 'echo') load.push('--pipeline', String(row.pipeline))
  load.push('--warmup', '0', '--secs')
  try {
    const counted = await countPerRequest(
      peer,
      server,
      (length) => runLoad(clientCpu, [...load, String(length)]),
      secs,
    )
    return { row: row.id, peer, ...counted }
  } finally {
    await server.stop()
  }
}

/** Counts the calls of a server that `run` loads for a number of seconds; `name` is for errors. */
export async function countPerRequest(
  name: string,
  { pid }: RunningServer,
  run: (secs: number) => Promise<LoadResult>,
  secs: number,
): Promise<CallsPerRequest> {
  // Warm first: a server that still compiles its code makes other calls.
  await run(WARMUP_SECS)
  const counts = async (): Promise<{ short: Count; long: Count; requests: number }> => {
    const short = await countWhile(pid, () => run(secs / LONGER))
    const long = await countWhile(pid, () => run(secs))
    return { short, long, requests: long.requests - short.requests }
  }
  let { short, long, requests } = await counts()
  // A machine that does much else may leave next to nothing of one of the two.
  for (let tries = 1; requests <= 0 && tries < COUNT_TRIES; tries++)
    ({ short, long, requests } = await counts())
  if (requests <= 0) throw new Error(`${name} did no more in ${secs} s than in ${secs / LONGER} s`)
  const names = new Set([...Object.keys(long.calls), ...Object.keys(short.calls)])
  const slope = (call: string): number => ((long.calls[call] ?? 0) - (short.calls[call] ?? 0)) / requests
  const byName = Object.fromEntries(
    [...names].map((call): [string, number] => [call, slope(call)]).sort(([, one], [, other]) => other - one),
  )
  const perRequest = Object.values(byName).reduce((sum, count) => sum + count, 0)
  return { requests, perRequest, byName }
}

async function countWhile(pid: number, run: () => Promise<LoadResult>): Promise<Count> {
  const directory = mkdtempSync(join(tmpdir(), 'shardloop-bench-'))
  const table = join(directory, 'calls')
  try {
    const strace = spawn('strace', ['-c', '-f', '-o', table, '-p', String(pid)], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    const ended = new Promise<void>((resolve) => strace.once('exit', () => resolve()))
    const attached = new Promise<boolean>((resolve) => {
      strace.stderr.setEncoding('utf8').on('data', (text: string) => {
        if (text.includes('attached')) resolve(true)
      })
      void ended.then(() => resolve(false))
    })
    if ((await within(ATTACH_TIMEOUT_MS, attached)) !== true) {
      strace.kill('SIGKILL')
      throw new Error(`strace cannot attach to process ${pid}; it needs the right to trace (CAP_SYS_PTRACE)`)
    }
    const { requestsTotal } = await run()
    strace.kill('SIGINT')
    await ended
    return { requests: requestsTotal, calls: parseTable(readFileSync(table, 'utf8')) }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** strace's summary: `% time  seconds  usecs/call  calls  [errors]  syscall`. */
export function parseTable(text: string): Record<string, number> {
  const calls: Record<string, number> = {}
  for (const line of text.split('\n')) {
    const fields = line.trim().split(/\s+/)
    const name = fields.at(-1) ?? ''
    if (!/^[\d.]+$/.test(fields[0] ?? '') || name === 'total') continue
    calls[name] = Number(fields[3])
  }
  return calls
}
