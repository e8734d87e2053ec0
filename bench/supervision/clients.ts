/** Connections of the benchmark's own process. */
import { connect, type Socket } from 'node:net'

/** No answer takes so long; who has none by then has lost. */
const ANSWER_TIMEOUT_MS = 15_000

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

/** Resolves after `ms`. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
