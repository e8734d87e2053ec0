/** The shard that is called. It serves no connection; its server is what a shard needs to be there. */
import { getLoop, type Protocol, shardId } from '../../src/index.js'
import { Receiver } from './channel.js'
import { ownThread } from './own-thread.js'

if (shardId !== undefined && shardId !== null) {
  const loop = getLoop()
  const receiver = new Receiver((count) => loop.callSoonThreadsafe('supervisor', 'acknowledged', count))
  loop.expose('message', () => receiver.received())
  loop.expose('echo', (payload: unknown) => payload)
  loop.expose('thread', ownThread)
}

export default (): Protocol => ({})
