/**
 * System calls per request, counted by `strace -c -f` in short runs of their own: tracing slows a server down so much
 * that nothing is timed here. Connecting and closing belong to the count; the run is long enough for them to be small.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runLoad } from './load.js'
import { measuredCpus, output } from './machine.js'
import type { PeerId, Row } from './rows.js'
import { serverCommand, startServer, within } from './servers.js'

const ATTACH_TIMEOUT_MS = 10_000

/** Calls of one server on one row. */
export interface SyscallResult {
  readonly row: string
  readonly peer: PeerId
  readonly requests: number
  readonly perRequest: number
  /** The same by name, most frequent first. */
  readonly byName: Readonly<Record<string, number>>
}

/** Whether strace is there. */
export function straceIsPresent(): boolean {
  return output('strace', ['-V']) !== null
}

/** Counts the calls of `peer` on `row` during `secs` of load. */
export async function countSyscalls(row: Row, peer: PeerId, secs: number): Promise<SyscallResult> {
  const [serverCpu, clientCpu] = measuredCpus()
  const command = serverCommand(peer)
  if (command === null) throw new Error(`${peer} is not installed`)
  const server = await startServer(serverCpu, command)
  const directory = mkdtempSync(join(tmpdir(), 'shardloop-bench-'))
  const table = join(directory, 'calls')
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
    // Warm first: a server that still compiles its code makes other calls.
    await runLoad(clientCpu, [...load, '0.3'])
    const strace = spawn('strace', ['-c', '-f', '-o', table, '-p', String(server.pid)], {
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
      throw new Error(
        `strace cannot attach to process ${server.pid}; it needs the right to trace (CAP_SYS_PTRACE)`,
      )
    }
    const result = await runLoad(clientCpu, [...load, String(secs)])
    strace.kill('SIGINT')
    await ended
    const calls = parseTable(readFileSync(table, 'utf8'))
    const total = Object.values(calls).reduce((sum, count) => sum + count, 0)
    const byName = Object.fromEntries(
      Object.entries(calls)
        .sort(([, one], [, other]) => other - one)
        .map(([name, count]) => [name, count / result.requestsTotal]),
    )
    return {
      row: row.id,
      peer,
      requests: result.requestsTotal,
      perRequest: total / result.requestsTotal,
      byName,
    }
  } finally {
    rmSync(directory, { recursive: true })
    await server.stop()
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
