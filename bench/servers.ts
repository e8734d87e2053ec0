/** Starts and stops the programs that are measured, servers as a rule, each pinned to the server's CPU as a rule. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { type Cpus, pinned } from './machine.js'

const START_TIMEOUT_MS = 20_000
const STOP_TIMEOUT_MS = 20_000
/** Name of an I/O thread of ours. */
const IO_THREAD = 'shard-io'

/** A server that is ready. */
export interface RunningServer {
  readonly pid: number
  /** HOST:PORT, tls://HOST:PORT, unix:PATH or thread:ID; a client's is what it connects to. */
  readonly addr: string
  readonly child: ChildProcess
  /** Lines that it prints on stdout after the ready line. */
  readonly lines: AsyncIterator<string>
  /** SIGTERM, and resolves when it has ended. Rejects when it does not, or ended with an error before. */
  stop(): Promise<void>
}

/** Servers that run now; none may outlive the benchmark, however it ends. */
const running = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** A program that was not ready, or did not stay so. */
export class ProgramFailure extends Error {
  /** What it ended with before it was ready, if it did. */
  readonly exitCode: number | null

  constructor(message: string, exitCode: number | null = null) {
    super(message)
    this.exitCode = exitCode
  }
}

/**
 * Starts a command on `cpus`, or with null on any, and waits for its line `listening on ADDRESS (shards N, engine E)`, where
 * the address is tcp://HOST:PORT, udp://HOST:PORT, tls://HOST:PORT or unix:PATH; a client says `connecting to` instead, to thread:ID when that is a
 * thread of its own. Rejects with {@link ProgramFailure} when it ends before, and when it was told an engine by `--engine` and runs another: its figures would go by
 * the wrong name.
 */
export async function startServer(cpus: Cpus | null, command: readonly string[]): Promise<RunningServer> {
  const [program, ...args] = cpus === null ? command : pinned(cpus, command)
  const child = spawn(program as string, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  running.add(child)
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-4000)
  })
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`))
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const fail = (reason: string, exitCode: number | null = null): Error =>
    new ProgramFailure(`${command.join(' ')}: ${reason}\n${stderr}`, exitCode)

  const ready = await within(START_TIMEOUT_MS, Promise.race([lines.next(), ended]))
  const line = typeof ready === 'object' && ready !== null && ready.done !== true ? ready.value : null
  const addr = /^(?:listening on|connecting to) (?:(?:tcp|udp):\/\/(\S+)|((?:tls|unix|thread):\S+))/
    .exec(line ?? '')
    ?.slice(1)
    .find((found) => found !== undefined)
  if (addr === undefined || child.pid === undefined) {
    child.kill('SIGKILL')
    const silent = ready === null ? `not ready within ${START_TIMEOUT_MS} ms` : `ended with ${await ended}`
    throw fail(line ?? silent, child.exitCode)
  }
  const told = command.includes('--engine') ? command[command.indexOf('--engine') + 1] : null
  const engine = /engine (\S+)\)$/.exec(line ?? '')?.[1]
  if (told !== null && told !== engine) {
    child.kill('SIGKILL')
    throw fail(`runs on engine ${engine} and was told ${told}`)
  }

  let endedEarly: string | null = null
  let stopping = false
  void ended.then((how) => {
    running.delete(child)
    if (!stopping) endedEarly = how
  })
  const stop = async (): Promise<void> => {
    stopping = true
    if (endedEarly !== null) throw fail(`ended by itself with ${endedEarly}`)
    child.kill('SIGTERM')
    if ((await within(STOP_TIMEOUT_MS, ended)) === null) {
      child.kill('SIGKILL')
      throw fail(`still running ${STOP_TIMEOUT_MS} ms after SIGTERM`)
    }
  }
  return { pid: child.pid, addr, child, lines, stop }
}

/**
 * Gives the thread with a server's JavaScript, which must be the process's main thread, one CPU, and its I/O thread, if it
 * has one, another; V8's helpers may use both. With two CPUs, which the client uses too, the scheduler puts the I/O thread
 * now here, now there, for seconds, and what is compared would be its luck.
 */
export function placeThreads({ pid }: RunningServer, javascriptCpu: number, ioCpu: number): void {
  const threads = readdirSync(`/proc/${pid}/task`)
  const isIo = (thread: string): boolean =>
    readFileSync(`/proc/${pid}/task/${thread}/comm`, 'utf8') === `${IO_THREAD}\n`
  for (const thread of [String(pid), ...threads.filter(isIo)])
    placeThread(thread, thread === String(pid) ? javascriptCpu : ioCpu)
}

/** Gives a thread, by its number, one CPU. */
export function placeThread(thread: string, cpu: number): void {
  const { status, stderr } = spawnSync('taskset', ['-p', '-c', String(cpu), thread], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`thread ${thread} cannot be moved to CPU ${cpu}: ${stderr}`)
}

/** The promise's value, or null after `ms`. */
export async function within<T>(ms: number, promise: Promise<T>): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, ms, null)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
