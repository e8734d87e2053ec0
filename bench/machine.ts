/** What the figures were measured on, and how programs are pinned to a CPU. Linux only: it reads /proc. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, release, totalmem } from 'node:os'

/** Commit, machine and versions, as they go into every result file. */
export interface Machine {
  readonly commit: string
  /** Files differ from the commit. */
  readonly modified: boolean
  readonly date: string
  readonly cpu: string
  readonly cpus: number
  readonly memoryGiB: number
  readonly kernel: string
  readonly virtual: boolean
  readonly node: string
  readonly rust: string
}

/** The same for a benchmark, which has a CPU for the server and one for the client. */
export interface Environment extends Machine {
  readonly bun: string | null
  /** Python and its event loops, for example `Python 3.11.7, rloop 0.5.0, uvloop 0.23.0`. */
  readonly python: string | null
  readonly serverCpu: number
  readonly clientCpu: number
}

/** What Python is asked for its versions. */
const PYTHON_VERSIONS =
  'import platform, rloop, uvloop; print(f"Python {platform.python_version()}, rloop {rloop.__version__}, uvloop {uvloop.__version__}")'

/** Looks at the machine, for a benchmark. `bun` and `python` are the programs' paths, when there are any. */
export function describeMachine(
  root: string,
  bun: string | null = null,
  python: string | null = null,
): Environment {
  const [serverCpu, clientCpu] = measuredCpus()
  return {
    ...machine(root),
    bun: bun === null ? null : output(bun, ['--version']),
    python: python === null ? null : output(python, ['-c', PYTHON_VERSIONS]),
    serverCpu,
    clientCpu,
  }
}

/** Looks at the machine. */
export function machine(root: string): Machine {
  return {
    commit: output('git', ['-C', root, 'rev-parse', 'HEAD']) ?? 'unknown',
    modified: output('git', ['-C', root, 'status', '--porcelain']) !== '',
    date: new Date().toISOString(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cpus: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: `Linux ${release()}`,
    virtual: / hypervisor /.test(readFileSync('/proc/cpuinfo', 'utf8')),
    node: process.version,
    rust: output('rustc', ['--version']) ?? 'unknown',
  }
}

/** What the name of a result file begins with: the time and the commit. */
export function resultName({ date, commit }: Machine): string {
  return `${date.slice(0, 19).replaceAll(':', '-')}-${commit.slice(0, 7)}`
}

/** The first two CPUs that this process may use: the server's and the client's. Throws by name with fewer. */
export function measuredCpus(): [server: number, client: number] {
  const list = allowedCpus()
  const allowed = list.split(',').flatMap((range) => {
    const [first, last] = range.split('-').map(Number)
    return Array.from(
      { length: (last ?? (first as number)) - (first as number) + 1 },
      (_, i) => (first as number) + i,
    )
  })
  const [server, client] = allowed
  if (server === undefined || client === undefined) {
    throw new Error(
      `the benchmark needs two CPUs, one for the server and one for the client; allowed here: ${list}`,
    )
  }
  return [server, client]
}

/** CPUs that this process may use, as Linux and taskset write it: `0-3,7`. */
function allowedCpus(): string {
  return /^Cpus_allowed_list:\s*(.+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? ''
}

/** One CPU, or several. */
export type Cpus = number | readonly number[]

/** The command line that runs `command` with all its threads on `cpus`. */
export function pinned(cpus: Cpus, command: readonly string[]): string[] {
  return ['taskset', '-c', String(cpus), ...command]
}

/** Runs `use` with all threads of this process on one CPU, and those that it starts meanwhile. */
export async function onCpu<Found>(cpu: number, use: () => Promise<Found>): Promise<Found> {
  const pin = (list: string): unknown =>
    execFileSync('taskset', ['-a', '-c', '-p', list, String(process.pid)], { stdio: 'ignore' })
  const before = allowedCpus()
  pin(String(cpu))
  try {
    return await use()
  } finally {
    pin(before)
  }
}

/** First line of a program's output, null when it is not there or fails. */
export function output(program: string, args: readonly string[]): string | null {
  try {
    const text = execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    return text.split('\n')[0] ?? ''
  } catch {
    return null
  }
}

/** Throws by name where benchmarks do not run. */
export function checkMachine(): void {
  if (process.platform !== 'linux') {
    throw new Error(
      'the benchmark needs Linux: it pins processes with taskset and reads processor times from /proc',
    )
  }
  if (output('taskset', ['--version']) === null)
    throw new Error('the benchmark needs taskset (package util-linux)')
}
