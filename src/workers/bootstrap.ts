// The first file that a shard's thread runs.
import { shardIdentity } from './identity.js'
import { startShard } from './shard.js'

const identity = shardIdentity()
if (identity === null) throw new Error('shardloop: bootstrap.js is started by the supervisor only')
startShard(identity)
