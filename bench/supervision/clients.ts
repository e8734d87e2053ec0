/** Connections of the benchmark's own process, and those of the load generator. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runLoad } from '../load.js'

/** No answer takes so long; who has none by then has lost. */
const ANSWER_TIMEOUT_MS = 15_000

/** Connections of the load generator at once, at most: those of a stall of half a second. */
const TRACED_AT_ONCE = 256
/** What is echoed on each. */
const TRACED_BYTES = 16

/** What became of a connection. */
export interface Answer {
  /** On the epoch's clock, in milliseconds. */
  readonly openedAtMs: number
  /** From `connect` to the first byte; null when the connection broke or got none. */
  readonly firstByteMs: number | null
  /** Who answered. */
  readonly id: string
  readonly socket: Socket
}

/** Milliseconds of the epoch, with fractions. */
export function epochMs(): number {
  return performance.timeOrigin + performance.now()
}

/** Connects, sends a line and waits for the answer. The connection stays open. */
export function ask(port: number, line: string): Promise<Answer> {
  const openedAtMs = epochMs()
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  socket.write(`${line}\n`)
  return new Promise((resolve) => {
    const settle = (firstByteMs: number | null, id: string): void => {
      clearTimeout(timer)
      resolve({ openedAtMs, firstByteMs, id, socket })
    }
    const timer = setTimeout(() => {
      socket.destroy()
      settle(null, '')
    }, ANSWER_TIMEOUT_MS)
    socket.once('data', (chunk: Buffer) => settle(epochMs() - openedAtMs, chunk.toString().trim()))
    socket.on('error', () => settle(null, ''))
    socket.once('close', () => settle(null, ''))
  })
}

/** The same, and closes. */
export async function askAndClose(port: number, line: string): Promise<Answer> {
  const answer = await ask(port, line)
  answer.socket.destroy()
  return answer
}

/** Opens connections at a constant rate, whatever becomes of those before, until `over` says so. */
export async function stream(port: number, perSec: number, over: () => boolean): Promise<Answer[]> {
  const answers: Promise<Answer>[] = []
  const began = performance.now()
  while (!over()) {
    while (answers.length < ((performance.now() - began) / 1000) * perSec)
      answers.push(askAndClose(port, 'who'))
    await pause(1)
  }
  return await Promise.all(answers)
}

/** A connection as the load generator's trace tells of it. */
export interface TracedConnection {
  /** When it was meant to be opened, on the epoch's clock, in milliseconds. */
  readonly openedAtMs: number
  /** From then to its echo; null when it broke. */
  readonly echoedInMs: number | null
}

/** What {@link traceLoad} saw. */
export interface TracedLoad {
  /** In the order in which they were opened. */
  readonly connections: readonly TracedConnection[]
  /** The share of one CPU that the hypervisor took meanwhile. */
  readonly steal: number
}

/**
 * New connections at a constant rate by the load generator, on its CPU: its latencies have no garbage collections of a
 * client in them.
 */
export async function traceLoad(
  cpu: number,
  port: number,
  perSec: number,
  secs: number,
): Promise<TracedLoad> {
  const directory = mkdtempSync(join(tmpdir(), 'shardloop-bench-'))
  const file = join(directory, 'trace.csv')
  const rate = ['--rate', String(perSec), '--conns', String(TRACED_AT_ONCE), '--size', String(TRACED_BYTES)]
  try {
    const window = ['--secs', String(secs), '--warmup', '0']
    const { cpu: used, secs: measured } = await runLoad(cpu, [
      'churn',
      '--addr',
      `127.0.0.1:${port}`,
      ...rate,
      ...window,
      '--tolerate',
      '--trace',
      file,
    ])
    const [, ...lines] = readFileSync(file, 'utf8').trimEnd().split('\n')
    const connections = lines.map((line) => {
      const [openedUs, echoedUs] = line.split(',')
      return {
        openedAtMs: Number(openedUs) / 1000,
        echoedInMs: echoedUs === '' ? null : Number(echoedUs) / 1000,
      }
    })
    connections.sort((one, other) => one.openedAtMs - other.openedAtMs)
    if (used.machineStealSecs === null) throw new Error('the load generator could not read /proc/stat')
    return { connections, steal: used.machineStealSecs / measured }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** Resolves after `ms`. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
