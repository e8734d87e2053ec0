/** Bounds of the Redis server, all of them. Where Redis has one of its own, it stands beside ours. */

const KiB = 1024
const MiB = 1024 * KiB

/** One argument; a longer one is Redis' "invalid bulk length" (512 MiB there). */
export const BULK_MAX_BYTES: number = 16 * MiB
/** Arguments of a request; more are "invalid multibulk length" (as Redis). */
export const ARGUMENTS_MAX: number = 1024 * 1024
/** A whole request, and so what a connection keeps of one that has not come to its end (1 GiB). */
export const REQUEST_MAX_BYTES: number = 32 * MiB
/** A line without a length in front, as a person types it (as Redis). */
export const INLINE_MAX_BYTES: number = 64 * KiB
/** A value up to here is kept as a string of V8's heap, which takes an object less; a longer one is a Buffer. */
export const TEXT_VALUE_MAX_BYTES = 256

/** Keys and values of one shard; past it there is Redis' error OOM. */
export const KEYSPACE_MAX_BYTES: number = 512 * MiB
/** What an entry takes beside its key and value, roughly. */
export const ENTRY_BYTES = 96
/** How often expired keys are looked for that nobody asks for, and how many are looked at then. */
export const SWEEP_INTERVAL_MS = 100
export const SWEEP_MAX_KEYS = 1_000

/** A connection that has made so much to send in one turn of the loop goes on in the next one. */
export const TURN_REPLY_BYTES: number = 256 * KiB
/**
 * Replies of other shards that a connection may wait for; past it nothing more is read from it. It begins with few, as nobody
 * knows how long they will be: twice as many each time that all have come, and no more than fit into REPLIES_EXPECTED_BYTES.
 */
export const REPLIES_WAITING_MAX = 1_024
export const REPLIES_WAITING_FIRST = 16
export const REPLIES_EXPECTED_BYTES: number = 1 * MiB
/** Bytes of replies that wait for one before them. A connection with more is closed. */
export const REPLIES_WAITING_MAX_BYTES: number = 64 * MiB
/**
 * Replies to one message of another shard: what comes behind is not done, and answered by an error. With values up to 1 MiB only an
 * MGET comes to that, which is bounded by it on its own shard, too.
 */
export const BATCH_REPLY_MAX_BYTES: number = 16 * MiB
/** Memory for replies that is kept for the next ones. */
export const REPLY_MEMORY_KEPT_BYTES: number = 1 * MiB
/** Memory for a request in pieces that is kept for the next one. */
export const REQUEST_MEMORY_KEPT_BYTES: number = 64 * KiB
