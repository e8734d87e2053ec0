import { threadLog } from '../workers/thread-log.js'
import type { AfterDeath, ShardDeath } from './shard-control.js'

/** Why a shard's thread ended, in one line. */
export function reasonOf({ error, exitCode }: ShardDeath): string {
  return error === undefined ? `its thread ended with exit code ${exitCode}` : messageOf(error)
}

/** What anything that may be thrown says. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/**
 * Logs a death that nobody else is told of: what died, what becomes of it, and why with the stack.
 * @param isWanted whether a server wants a replacement
 */
export function printDeath(death: ShardDeath, after: AfterDeath, isWanted: boolean): void {
  const { shard, error, exitCode, connectionsLost } = death
  const what =
    'firstDeath' in after
      ? 'died and is not replaced any more'
      : !isWanted
        ? 'died'
        : after.restartInMs === 0
          ? 'died and is replaced'
          : `died and is replaced in ${after.restartInMs} ms`
  const level = 'firstDeath' in after ? 'fatal' : 'error'
  threadLog().write(level, `shard ${shard} ${what}: ${reasonOf(death)}`, {
    aboutShard: shard,
    exitCode,
    connectionsLost,
    ...(error !== undefined && { err: error }),
  })
}
