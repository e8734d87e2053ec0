/**
 * What a build of the project may not have yet. A program of ours that needs it says so by its exit code, and the rows go on
 * without ours: node:net and the others are measured all the same.
 */
import { takesPart } from './comparisons.js'
import { isOurs, PEERS, type PeerId } from './peers.js'
import { rowCommand } from './programs.js'
import type { Row, Work } from './rows.js'
import { ProgramFailure, startServer } from './servers.js'
import { UNAVAILABLE_EXIT_CODE } from './unavailable-exit.js'

/** Rows with programs of ours that a build may not run. */
const PERHAPS: readonly Work[] = ['unix', 'connect']

/**
 * Starts and ends ours on each engine, for each kind of row that a build may not run. Returns why ours take no part in a
 * kind, where they do not. Rejects by name when one fails in another way, so that the run fails before anything is measured.
 */
export async function findUnavailable(
  rows: readonly Row[],
  peers: readonly PeerId[],
  progress: (text: string) => void,
  command: (row: Row, peer: PeerId) => readonly string[] | null = rowCommand,
): Promise<ReadonlyMap<Work, string>> {
  const reasons = new Map<Work, string>()
  for (const work of PERHAPS) {
    const row = rows.find((one) => one.work === work)
    if (row === undefined) continue
    for (const peer of peers.filter((one) => isOurs(one) && takesPart(row, one))) {
      progress(`${row.id}: starting and ending ${peer}`)
      try {
        const server = await startServer(null, command(row, peer) ?? [])
        await server.stop()
      } catch (error) {
        const { message, exitCode } = error as ProgramFailure
        if (!(error instanceof ProgramFailure) || exitCode !== UNAVAILABLE_EXIT_CODE)
          throw new Error(`${PEERS[peer].title} does not run in ${row.id}: ${message.trim()}`, {
            cause: error,
          })
        reasons.set(work, message.trim().split('\n').at(-1) ?? message)
        break
      }
    }
  }
  return reasons
}
