import { isMainThread } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { currentShard } from './shard.js'
import { type HandledSignal, type SignalListener, SignalListeners } from './signal-listeners.js'
import { threadSingleton } from './thread-singleton.js'

/**
 * Calls `listener` on this thread for each `signal` that the process gets, until the function that it returns is called.
 *
 * In a shard the supervisor hands the signal on, as long as a server with `signals: true` runs; for SIGINT and SIGTERM
 * it does so before it drains, and a second one ends the process without another call. On the main thread the listener
 * is one of `process.on`, whatever servers there are. Wherever it is, a listener keeps the signal's default action (for
 * SIGHUP and SIGUSR2, the end of the process) from being taken; that comes back with the removal of the last.
 *
 * Listeners are called in the order in which they were added. What one throws, or rejects with, is logged, and
 * the others are called all the same. A shard that is busy hears of a signal when it is done.
 *
 * @returns removes the listener
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for any other signal, with the reason where there is one;
 * ERR_SHARDLOOP_STATE in a worker thread of the program's own, where Node delivers no signals
 */
export function onSignal(signal: HandledSignal, listener: SignalListener): () => void {
  const listeners = currentShard()?.signals ?? mainThreadListeners()
  if (listeners !== null) return listeners.add(signal, listener)
  throw new ShardloopError(
    'ERR_SHARDLOOP_STATE',
    'onSignal works on the main thread and in shards; Node delivers no signals to a worker thread of your own',
  )
}

function mainThreadListeners(): SignalListeners | null {
  if (!isMainThread) return null
  return threadSingleton('signal-listeners', () => {
    const deliver = (signal: NodeJS.Signals): void => listeners.deliver(signal as HandledSignal)
    const listeners: SignalListeners = new SignalListeners({
      subscribe: (signal) => void process.on(signal, deliver),
      unsubscribe: (signal) => void process.off(signal, deliver),
    })
    return listeners
  })
}
