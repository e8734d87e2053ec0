/** The load generator's `listen`, beside a server: it keeps its connections from one measurement to the next. */
import { readFileSync } from 'node:fs'
import { type LoadResult, loadgenProgram } from '../load.js'
import type { Measurable } from '../paired/benchmark.js'
import { type RunningServer, startServer, within } from '../servers.js'

/** A measurement that takes this much longer than it should is ended: the server hangs. */
const GRACE_MS = 60_000
/** Descriptors of a server that are no connections, and some to spare. */
const DESCRIPTORS_RESERVED = 200

/** What the listeners of a server get. */
export interface Listening {
  readonly connections: number
  /** Bytes of a broadcast. */
  readonly size: number
  /** Broadcasts that are asked for at once. */
  readonly atOnce: number
}

/** Starts a server and its listeners, all of which it has accepted; on a CPU each, or with null on any. */
export async function startListening(
  command: readonly string[],
  { connections, size, atOnce }: Listening,
  [serverCpu, clientCpu]: readonly [number | null, number | null],
): Promise<Measurable> {
  const server = await startServer(serverCpu, command)
  let listeners: RunningServer
  try {
    listeners = await startServer(clientCpu, [
      ...[loadgenProgram('loadgen'), 'listen', '--addr', server.addr, '--server-pid', String(server.pid)],
      ...['--conns', String(connections), '--size', String(size), '--at-once', String(atOnce)],
    ])
  } catch (error) {
    server.child.kill('SIGKILL')
    throw error
  }
  return {
    measure: (warmupSecs, windowSecs) => measureListeners(listeners, warmupSecs, windowSecs),
    async stop() {
      await listeners.stop()
      await server.stop()
    },
    kill() {
      listeners.child.kill('SIGKILL')
      server.child.kill('SIGKILL')
    },
  }
}

/** Throws when a process may not have so many connections. `limits` is its /proc/PID/limits. */
export function checkDescriptors(
  connections: number,
  limits: string = readFileSync('/proc/self/limits', 'utf8'),
): void {
  const hard = /^Max open files +\S+ +(\S+)/m.exec(limits)?.[1]
  const available = hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard)
  const needed = connections + DESCRIPTORS_RESERVED
  if (available >= needed) return
  throw new Error(
    `broadcasts to ${connections} connections need ${needed} descriptors in a process, and the hard limit is ${hard}; ` +
      'raise it (ulimit -Hn as root, or LimitNOFILE), or leave them out: --rows messages,calls',
  )
}

/** One measurement by a program that answers a line `WARMUP-SECS SECS` by a line of JSON. Rejects when it does not. */
export async function measureListeners(
  program: Pick<RunningServer, 'child' | 'lines' | 'addr'>,
  warmupSecs: number,
  windowSecs: number,
): Promise<LoadResult> {
  program.child.stdin?.write(`${warmupSecs} ${windowSecs}\n`)
  const answer = await within((warmupSecs + windowSecs) * 1000 + GRACE_MS, program.lines.next())
  if (answer === null || answer.done === true) throw new Error(`no answer from the load of ${program.addr}`)
  const result = JSON.parse(answer.value) as LoadResult
  if (!result.ok) throw new Error(`the load of ${program.addr}: ${result.failures.first}`)
  return result
}
