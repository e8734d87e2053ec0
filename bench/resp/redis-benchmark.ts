/** redis-benchmark as a client: how it is called, what it prints, and what it and the server used of the processors meanwhile. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { output, pinned } from '../machine.js'
import type { PairedLoad } from '../paired/benchmark.js'
import type { RunningServer } from '../servers.js'

/** What it sends. */
export interface RedisLoad {
  readonly command: 'get' | 'set'
  /** Requests that are out on a connection. */
  readonly pipeline: number
  readonly connections: number
}

/** It is told how many requests to send, not for how long: so many at first, to learn how fast they are answered. */
const FIRST_REQUESTS = 20_000
const LEAST_REQUESTS = 1_000
const TICKS_PER_SEC = 100
/** A run that takes longer is ended: the server hangs. */
const TIMEOUT_MS = 60_000
/** Runs a command and says behind its output what processor time it has used: the second line is that of the command. */
const TIMED = '"$@" && times'

/** Why it cannot be run; null when it can. */
export function redisBenchmarkAbsent(): string | null {
  return output('redis-benchmark', ['--version']) === null
    ? 'redis-benchmark is not installed (package redis-tools)'
    : null
}

/** Loads a server again and again, each time for about as long as it is told. */
export class RedisBenchmark {
  readonly #load: RedisLoad
  readonly #server: Pick<RunningServer, 'addr' | 'pid'>
  readonly #cpu: number
  #perSec: number | null = null

  constructor(load: RedisLoad, server: Pick<RunningServer, 'addr' | 'pid'>, cpu: number) {
    this.#load = load
    this.#server = server
    this.#cpu = cpu
  }

  async measure(warmupSecs: number, windowSecs: number): Promise<PairedLoad> {
    if (this.#perSec === null) await this.#run(FIRST_REQUESTS)
    await this.#run(this.#requestsIn(warmupSecs))
    return await this.#run(this.#requestsIn(windowSecs))
  }

  #requestsIn(secs: number): number {
    return Math.max(LEAST_REQUESTS, Math.round((this.#perSec ?? 0) * secs))
  }

  async #run(requests: number): Promise<PairedLoad> {
    const { pid } = this.#server
    const before = { server: processSecs(pid), machine: machineSecs(), at: performance.now() }
    const stdout = await run(this.#cpu, this.#command(requests))
    const secs = (performance.now() - before.at) / 1000
    const machine = machineSecs()
    const { perSec, p50, p99, clientSecs } = readOutput(stdout)
    this.#perSec = perSec
    return {
      secs,
      requests,
      requestsPerSec: perSec,
      latencyUs: { p50, p99 },
      cpu: {
        serverSecs: processSecs(pid) - before.server,
        clientSecs,
        machineBusySecs: machine.busy - before.machine.busy,
        machineStealSecs: machine.steal - before.machine.steal,
      },
    }
  }

  #command(requests: number): string[] {
    const { command, pipeline, connections } = this.#load
    const [host, port] = this.#server.addr.split(':') as [string, string]
    const how = ['-t', command, '-P', String(pipeline), '-c', String(connections), '-n', String(requests)]
    return ['redis-benchmark', '-h', host, '-p', port, ...how, '--csv']
  }
}

function run(cpu: number, command: readonly string[]): Promise<string> {
  const [program, ...args] = pinned(cpu, ['sh', '-c', TIMED, 'sh', ...command]) as [string, ...string[]]
  return new Promise((resolve, reject) => {
    execFile(program, args, { timeout: TIMEOUT_MS }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(`${command.join(' ')}: ${stderr.trim() || error.message}`))
    })
  })
}

/** Of its CSV and of what `times` says. Throws when it has another form. */
export function readOutput(stdout: string): {
  readonly perSec: number
  readonly p50: number
  readonly p99: number
  readonly clientSecs: number
} {
  const lines = stdout.trim().split('\n')
  const [head, figures] = lines.slice(-4, -2).map((line) => line.replaceAll('"', '').split(','))
  const figure = (name: string): number => Number(figures?.[head?.indexOf(name) ?? -1])
  const times = /^(\d+)m([\d.]+)s (\d+)m([\d.]+)s$/.exec(lines.at(-1) ?? '')
  const found = {
    perSec: figure('rps'),
    p50: figure('p50_latency_ms') * 1000,
    p99: figure('p99_latency_ms') * 1000,
    clientSecs: (Number(times?.[1]) + Number(times?.[3])) * 60 + Number(times?.[2]) + Number(times?.[4]),
  }
  if (Object.values(found).some(Number.isNaN))
    throw new Error(`redis-benchmark printed something else: ${stdout}`)
  return found
}

/** Processor time of a process, ended threads included. */
function processSecs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SEC
}

/** Of all processes, and taken by the hypervisor. */
function machineSecs(): { readonly busy: number; readonly steal: number } {
  const [, ...ticks] = (readFileSync('/proc/stat', 'utf8').split('\n', 1)[0] ?? '').split(/\s+/)
  const [user, nice, system, , , irq, softirq, steal] = ticks.map((text) => Number(text) / TICKS_PER_SEC) as [
    ...[number, number, number, number, number, number, number, number],
  ]
  return { busy: user + nice + system + irq + softirq, steal }
}
