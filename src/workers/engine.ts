import { ShardloopError } from '../errors.js'

/**
 * What does the I/O of a thread's servers. `mio`: the thread itself, told by its own loop what is ready. `tokio`: a native
 * thread beside it.
 */
export type EngineName = 'mio' | 'tokio'

/** All of them. The native addon refuses one that it was built without. */
export const ENGINES: readonly EngineName[] = ['mio', 'tokio']

/** The engine for `'auto'` where none runs yet; ARCHITECTURE.md, "Which to pick", has the measurements. */
export function automaticEngine(): EngineName {
  return 'mio'
}

/**
 * The engine that a server gets. Servers that share their threads share the engine.
 * @param wanted null for `'auto'`
 * @param running what those run on that it shares with; null when there are none
 * @param sharing why there is one engine for them, for the message
 * @throws ShardloopError ERR_SHARDLOOP_OPTION when another one is wanted than runs
 */
export function chooseEngine(
  wanted: EngineName | null,
  running: EngineName | null,
  sharing: string,
): EngineName {
  if (running === null) return wanted ?? automaticEngine()
  if (wanted === null || wanted === running) return running
  throw new ShardloopError(
    'ERR_SHARDLOOP_OPTION',
    `option engine: expected '${running}', which runs already, or 'auto', as ${sharing}; close those that run on ` +
      `'${running}' to use another, given '${wanted}'`,
  )
}
