/** Ours: from the main thread to a shard. */
import { createServer, getLoop } from '../../src/index.js'
import type { Channel } from './channel.js'

/** Starts the shard. */
export async function shardloopChannel(engine: string): Promise<Channel> {
  const loop = getLoop()
  let listener: (count: number) => void = () => {}
  loop.expose('acknowledged', (count: number) => listener(count))
  const server = await createServer(new URL('./shard-module.js', import.meta.url), {
    host: '127.0.0.1',
    shards: 1,
    signals: false,
    // What is no engine is refused by name there.
    engine: engine as 'mio',
  })
  return {
    thread: String(await loop.call(0, 'thread')),
    engine: server.engine,
    send: (payload) => loop.callSoonThreadsafe(0, 'message', payload),
    call: (payload) => loop.call(0, 'echo', payload),
    onAcknowledged(told) {
      listener = told
    },
  }
}
