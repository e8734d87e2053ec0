/**
 * Server programs that measure themselves from inside (bench/latency/): commands go to their stdin, one word a line, and
 * each is answered by one JSON line on stdout. `reset` forgets the latencies so far, `report` tells them, `heap` collects
 * garbage and tells the bytes of JS heap in use. SIGTERM reports once more and ends the program.
 */
import { join } from 'node:path'
import { ROOT } from './load.js'
import { isOurs, type PeerId } from './peers.js'
import { ourFlags } from './programs.js'
import { type RunningServer, within } from './servers.js'

const ANSWER_TIMEOUT_MS = 20_000

/** A word that such a program understands. */
export type InsideRequest = 'reset' | 'report' | 'heap'

/** The program for `peer` that measures itself, null when there is none. */
export function insideCommand(peer: PeerId): string[] | null {
  const program = (name: string, ...args: string[]): string[] => [
    process.execPath,
    join(ROOT, 'dist', 'bench', 'latency', `${name}.js`),
    ...args,
  ]
  if (isOurs(peer)) return program('shardloop-server', ...ourFlags(peer))
  return peer === 'node-net' ? program('node-net-server') : null
}

/** Sends a request and waits for its answer. Rejects when the program ends or stays silent. */
export async function ask(server: RunningServer, request: InsideRequest): Promise<Record<string, unknown>> {
  server.child.stdin?.write(`${request}\n`)
  const answer = await within(ANSWER_TIMEOUT_MS, server.lines.next())
  if (answer === null || answer.done === true)
    throw new Error(`no answer to ${request} from process ${server.pid}`)
  return JSON.parse(answer.value) as Record<string, unknown>
}
