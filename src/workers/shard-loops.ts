import type { ShardLoop } from './shard-loop.js'
import { threadSingletonGetter } from './thread-singleton.js'

/** The loops of this thread (one, but for the moment in which one closes and the next is there already). */
const threadLoops: () => Set<ShardLoop> = threadSingletonGetter('shard-loops', () => new Set())

/** A loop begins: it is told when JavaScript ends. */
export function addShardLoop(loop: ShardLoop): void {
  threadLoops().add(loop)
  if (threadLoops().size === 1) process.on('exit', retireAll)
}

/** A loop is closed. */
export function removeShardLoop(loop: ShardLoop): void {
  threadLoops().delete(loop)
  if (threadLoops().size === 0) process.removeListener('exit', retireAll)
}

/** Has native code take what this thread has written: something that other threads can see comes behind it. */
export function flushCommands(): void {
  for (const loop of threadLoops()) if (loop.commands.isWaiting) loop.calls.flush()
}

/** What `bytesReceived` lends at the moment. */
export interface LentBytes {
  readonly memory: Buffer
  readonly start: number
  readonly end: number
}

/** What a connection of this thread lends. */
export function lentByLoops(): LentBytes | undefined {
  for (const { borrow, slabs } of threadLoops()) {
    if (borrow.end < 0) continue
    const memory = borrow.slab < 0 ? borrow.memory : slabs.buffers[borrow.slab]
    return { memory: memory as Buffer, start: borrow.start, end: borrow.end }
  }
  return undefined
}

/** Calls with memory lent that is not of a loop, so that its connections can be given it. */
export function withLent(lent: LentBytes, call: () => void): void {
  const before = [...threadLoops()].map(({ borrow }) => ({ borrow, was: { ...borrow } }))
  for (const { borrow } of before) Object.assign(borrow, { slab: -1, ...lent })
  try {
    call()
  } finally {
    for (const { borrow, was } of before) Object.assign(borrow, was)
  }
}

/** Whether memory is that which a loop's next batch overwrites. */
export function isOverwritten(memory: ArrayBufferLike): boolean {
  for (const { slabs } of threadLoops()) if (slabs.isBorrowed(memory)) return true
  return false
}

/**
 * JavaScript ends. On the main thread no clean-up of the environment follows, in which native code would flush; in a shard
 * one does, but Node takes some milliseconds until then, in which others can serve what comes.
 */
function retireAll(): void {
  // Node says so before it emits 'exit', which a program may do, too; nothing ends then.
  const ends = (process as { readonly _exiting?: boolean })._exiting !== false
  for (const loop of threadLoops()) {
    if (ends) loop.warnOfUnclosed()
    if (ends) loop.retire()
    else loop.calls.flush()
  }
}
