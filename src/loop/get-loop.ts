import { threadSingleton } from '../workers/thread-singleton.js'
import { EventLoop } from './event-loop.js'
import type { Loop } from './loop.js'

/** The loop that the thread has now, if it has one. */
interface LoopSlot {
  loop: EventLoop | null
}

/**
 * The loop of the calling thread, made at the first call: on the main thread, in shards and in worker threads of the
 * program's own. After one was closed, another.
 */
export function getLoop(): Loop {
  const slot = threadSingleton<LoopSlot>('loop', () => ({ loop: null }))
  slot.loop ??= new EventLoop(() => {
    slot.loop = null
  })
  return slot.loop
}
