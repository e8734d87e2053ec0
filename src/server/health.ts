import { STALL_AFTER_DEFAULT_MS } from '../limits.js'
import type { ServerHealth, ShardInfo } from './server.js'

/**
 * Sums up what shards do.
 * @param stallAfterMs from when on a shard counts as stuck; 0 is the default
 */
export function healthOf(
  shards: readonly ShardInfo[],
  stallAfterMs: number,
  phase: 'serving' | 'draining' | 'closed',
): ServerHealth {
  const bound = stallAfterMs > 0 ? stallAfterMs : STALL_AFTER_DEFAULT_MS
  const ids = (which: (shard: ShardInfo) => boolean): number[] => shards.filter(which).map(({ id }) => id)
  const serving = ids(({ state, stalledMs }) => state === 'ready' && stalledMs < bound)
  return {
    status:
      phase !== 'serving'
        ? phase
        : serving.length === shards.length
          ? 'ok'
          : serving.length > 0
            ? 'degraded'
            : 'down',
    serving,
    stalled: ids(({ state, stalledMs }) => state !== 'failed' && state !== 'stopped' && stalledMs >= bound),
    starting: ids(({ state }) => state === 'starting'),
    failed: ids(({ state }) => state === 'failed'),
  }
}
