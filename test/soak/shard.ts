/** What each shard of a soaked server does once: it tells what it holds when asked, and has the fault that was planted. */
import { BroadcastChannel } from 'node:worker_threads'
import { type ExceptionContext, shardId } from 'shardloop'
import { collectGarbage } from '../harness/memory.js'
import { type Fault, plant } from './faults.js'
import { CHANNEL, type Question, type ShardSays, threadMemory } from './holding.js'

const channel = new BroadcastChannel(CHANNEL)
let begun = false

/** Called for every service of the shard; the first call counts. */
export function begin(fault: Fault | null): void {
  if (begun) return
  begun = true
  plant(fault)
  channel.onmessage = (event) => {
    const said = (event as { data: Question | ShardSays }).data
    if ('ask' in said) void answer(said)
  }
  // The channel must not keep a shard that ends.
  channel.unref()
}

/** Tells the supervisor that a callback threw. */
export function tellException({ message, error }: ExceptionContext): void {
  say({ exception: `${message}: ${error instanceof Error ? error.message : String(error)}` })
}

async function answer({ ask, collect }: Question): Promise<void> {
  if (collect) await collectGarbage()
  say({ answer: ask, shard: shardId ?? 0, memory: threadMemory() })
}

function say(what: ShardSays): void {
  channel.postMessage(what)
}
