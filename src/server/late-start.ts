import { ShardloopError } from '../errors.js'
import { programEntry } from './program-entry.js'

/** The call of `createServer` that is late. */
export interface LateCall {
  readonly key: string
  /** URL of the module with the factory, or null. */
  readonly module: string | null
  readonly startTimeoutMs: number
}

/** A shard that it waits for. */
export interface LateShard {
  readonly id: number
  readonly hasRunEntry: boolean
  /** Whether it has no thread at the moment. */
  readonly isDown: boolean
}

/** Why a server does not start, or a replacement does not come up, within `startTimeoutMs`: by name, with advice. */
export function lateStart({ key, module, startTimeoutMs }: LateCall, waiting: readonly LateShard[]): Error {
  const ids = waiting.map(({ id }) => id).join(', ')
  const who = waiting.length === 0 ? 'the server' : `shard${waiting.length === 1 ? '' : 's'} ${ids}`
  const late = `${who} did not listen within startTimeoutMs (${startTimeoutMs})`
  if (waiting.length > 0 && waiting.every(({ isDown }) => isDown))
    return new ShardloopError('ERR_SHARDLOOP_START', `${late}: dead, and not replaced yet`)
  if (module !== null)
    return new ShardloopError('ERR_SHARDLOOP_START', `${late}: ${module} was still being imported`)
  const hasRun = waiting.length > 0 && waiting.every((shard) => shard.hasRunEntry)
  const why = hasRun
    ? `the program ${programEntry()} ran there without making this call of createServer (${key})`
    : `the program ${programEntry()} has not come to this call of createServer (${key}) there`
  return new ShardloopError(
    'ERR_SHARDLOOP_START',
    `${late}: ${why}. Make the call on every thread alike, or give createServer the URL of a module whose default ` +
      'export is the factory',
  )
}
