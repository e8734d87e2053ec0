/**
 * Callbacks and timers of a loop beside setImmediate and setTimeout: bench/handles.ts, a program of its own, which prints what
 * it found as text. It runs on the server's CPU and ends by itself; an exit code other than 0 is a failure.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './load.js'
import { measuredCpus, pinned } from './machine.js'

const PROGRAM = join(ROOT, 'dist', 'bench', 'handles.js')
const TIMEOUT_MS = 10 * 60_000

/** Whether there is such a program. */
export function handlesArePresent(): boolean {
  return existsSync(PROGRAM)
}

/** What it is told in a quick run. */
const QUICK = ['--processes', '2', '--rounds', '20']

/** Runs it, and resolves with its text. */
export async function measureHandles(quick: boolean, program: string = PROGRAM): Promise<string> {
  const [serverCpu] = measuredCpus()
  const command = pinned(serverCpu, [process.execPath, program, ...(quick ? QUICK : [])])
  const child = spawn(command[0] as string, command.slice(1), {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: TIMEOUT_MS,
  })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (more: string) => {
    text += more
  })
  const ended = await new Promise<string | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve(code === 0 ? null : `ended with ${signal ?? code}`))
  })
  if (ended !== null) throw new Error(`${ended}: ${text.trim()}`)
  return text.trimEnd()
}
