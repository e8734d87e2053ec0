// Generated from native/src/abi.rs by `npm run build`. Do not edit: a test fails when it drifts.
/** Layout version; JavaScript refuses an addon of another. */
export const ABI_VERSION = 6 as const
/** Words (int32) of a record in either ring: `[kind or operation, connection handle, a, b]`. */
export const RECORD_WORDS = 4 as const
/** Records of the events ring. */
export const EVENT_RING_RECORDS = 4096 as const
/** Records of the commands ring. */
export const COMMAND_RING_RECORDS = 4096 as const
/** Bytes of the write slab. */
export const WRITE_SLAB_BYTES = 1048576 as const
/** From this size on a write is a native call. */
export const DIRECT_WRITE_BYTES = 32768 as const
/** Number of chunk slabs; they have the indexes 1 to this. Index 0 is the borrowed slab. */
export const CHUNK_SLABS = 2 as const
/** Bytes of a chunk slab. */
export const CHUNK_SLAB_BYTES = 528384 as const
/** Bytes of the borrowed slab. */
export const BORROWED_SLAB_BYTES = 266240 as const
/** Resolution of idle timeouts. */
export const TIMER_TICK_MS = 100 as const
/** Low bits of a handle: the slot. */
export const HANDLE_SLOT_MASK = 1048575 as const
/** High bits of a handle: the slot's generation. */
export const HANDLE_GENERATION_SHIFT = 20 as const
/** Low bits of the first word: kind of event, or operation. */
export const KIND_MASK = 255 as const
/** Above it in the first word: index of the slab that `a` (offset) and `b` (length) refer to. */
export const SLAB_SHIFT = 8 as const
/** A connection was accepted; a: server, b: 1 when the peer is a Unix socket with a name. */
export const EVENT_OPEN = 1 as const
/** Bytes arrived; a: offset, b: length, in the slab of the first word. */
export const EVENT_DATA = 2 as const
/** The peer sends no more. */
export const EVENT_EOF = 3 as const
/** The connection is gone, its descriptor closed; a: errno, 0 or a CLOSE_ reason. */
export const EVENT_CLOSED = 4 as const
/** The write queue is above the high watermark. */
export const EVENT_PAUSE_WRITING = 5 as const
/** The write queue is at or below the low watermark again. */
export const EVENT_RESUME_WRITING = 6 as const
/** Owned writes were flushed, in order; a: how many. */
export const EVENT_OWNED_FLUSHED = 7 as const
/** No byte moved for the idle timeout. */
export const EVENT_IDLE = 8 as const
/** Accepting failed; handle: server, a: errno, b: 1 when accepting pauses, to be tried again. */
export const EVENT_ACCEPT_ERROR = 9 as const
/** A finishing connection has written since it last received, and nothing is left to read. */
export const EVENT_ANSWERED = 10 as const
/** What was asked for is connected; a: request, b: 1 when the peer is a Unix socket with a name. */
export const EVENT_CONNECTED = 11 as const
/** ... or could not be; handle: request, a: errno (ECANCELED when it was called off), b: the CALL_ that failed. */
export const EVENT_CONNECT_FAILED = 12 as const
/** A file was sent, or failed; a and b: bytes sent, low and high half, or b: the negative errno. */
export const EVENT_FILE_SENT = 13 as const
/** Of a connection's start: the system call connect... */
export const CALL_CONNECT = 0 as const
/** ... socket... */
export const CALL_SOCKET = 1 as const
/** ... bind... */
export const CALL_BIND = 2 as const
/** ... one that sets an option... */
export const CALL_OPTION = 3 as const
/** ... or the one by which the engine watches it. */
export const CALL_WATCH = 4 as const
/** More than the connection's limit was to be queued. */
export const CLOSE_WRITE_OVERFLOW = -1 as const
/** Memory that a write referred to was detached. */
export const CLOSE_DETACHED = -2 as const
/** The program aborted it, or a callback failed. */
export const CLOSE_PROGRAM = -3 as const
/** Its server was aborted, or its drain came to the deadline. */
export const CLOSE_SERVER = -4 as const
/** No byte moved for the idle timeout, and its protocol does not handle that. */
export const CLOSE_IDLE = -5 as const
/** Bytes of the write slab; a: offset, b: length. */
export const COMMAND_WRITE = 1 as const
/** Bytes of the read slab in the first word; a: offset, b: length. */
export const COMMAND_WRITE_SLAB = 2 as const
/** The protocol is there: reading may begin; a: 1 when it takes borrowed bytes. */
export const COMMAND_START = 3 as const
/** Stop reading. */
export const COMMAND_PAUSE = 4 as const
/** Go on reading. */
export const COMMAND_RESUME = 5 as const
/** Close after what is queued. */
export const COMMAND_CLOSE = 6 as const
/** Close at once, by reset; a: the CLOSE_ reason. */
export const COMMAND_ABORT = 7 as const
/** Close the writing half after what is queued. */
export const COMMAND_WRITE_EOF = 8 as const
/** Watermarks; a: high, b: low. */
export const COMMAND_WRITE_LIMITS = 9 as const
/** Idle timeout; a: milliseconds, 0 for none. */
export const COMMAND_IDLE_TIMEOUT = 10 as const
/** Another protocol; a: 1 when it takes borrowed bytes. */
export const COMMAND_MODE = 11 as const
/** Tell by EVENT_ANSWERED when nothing is owed to the peer; at once when that is so. It may be asked again. */
export const COMMAND_FINISH = 12 as const
/** An answer is owed, as if something were just received: JavaScript delivers bytes that it held back, or has delivered some behind the writes that come before this. */
export const COMMAND_UNANSWERED = 13 as const
/** Control word: words used in the events ring. */
export const CONTROL_EVENTS = 0 as const
/** Control word: the next event to handle; stored before each callback. */
export const CONTROL_CURSOR = 1 as const
/** Control word: words used in the commands ring. */
export const CONTROL_COMMANDS = 2 as const
/** Control word: bytes used in the write slab. */
export const CONTROL_WRITE_BYTES = 3 as const
/** Control word: bit set of slabs to be replaced at the end of the batch. */
export const CONTROL_RETIRED = 4 as const
/** Control word: 1 while chunks are to be read into the borrowed slab, to be copied (retention limit). */
export const CONTROL_COPY_CHUNKS = 5 as const
/** Control words. */
export const CONTROL_WORDS = 32 as const
/** Word (float64) of an alarm: when JavaScript is to be woken, in seconds of the monotonic clock; Infinity for never. */
export const ALARM_DEADLINE = 0 as const
/** Word of an alarm: 1 while it keeps the thread's loop alive. */
export const ALARM_REFERENCED = 1 as const
/** Words of an alarm. */
export const ALARM_WORDS = 2 as const
/** Connections accepted. */
export const METRIC_CONNECTIONS_ACCEPTED = 0 as const
/** Connections closed. */
export const METRIC_CONNECTIONS_CLOSED = 1 as const
/** Bytes received. */
export const METRIC_BYTES_READ = 2 as const
/** Bytes handed to the kernel. */
export const METRIC_BYTES_WRITTEN = 3 as const
/** Calls into JavaScript with a batch of events. */
export const METRIC_BATCHES = 4 as const
/** Events delivered by them. */
export const METRIC_EVENTS = 5 as const
/** Failed accepts, those that are retried included. */
export const METRIC_ACCEPT_ERRORS = 6 as const
/** Turns of the thread's libuv loop. */
export const METRIC_LOOP_TURNS = 7 as const
/** Sum over turns of the time between leaving the poll and entering it again. */
export const METRIC_LOOP_BUSY_NS = 8 as const
/** The longest of them. */
export const METRIC_LOOP_LAG_MAX_NS = 9 as const
/** The latest of them. */
export const METRIC_LOOP_LAG_LAST_NS = 10 as const
/** recv system calls. */
export const METRIC_READS = 11 as const
/** send and sendmsg system calls. */
export const METRIC_WRITES = 12 as const
/** Polls of the engine. */
export const METRIC_POLLS = 13 as const
/** Calls from JavaScript into native code on the path of bytes and connections. */
export const METRIC_NATIVE_CALLS = 14 as const
/** Connections aborted because more was queued than their limit. */
export const METRIC_WRITE_OVERFLOWS = 15 as const
/** Connections that the peer reset. */
export const METRIC_RESETS_PEER = 16 as const
/** Connections that the system gave up, for the peer was silent. */
export const METRIC_RESETS_TIMED_OUT = 17 as const
/** Connections aborted by their idle timeout. */
export const METRIC_RESETS_IDLE_TIMEOUT = 18 as const
/** Connections aborted because memory that a write referred to was detached. */
export const METRIC_RESETS_DETACHED = 19 as const
/** Connections aborted by the program, or because a callback failed. */
export const METRIC_RESETS_PROGRAM = 20 as const
/** Connections aborted with their server, or at the deadline of its drain. */
export const METRIC_RESETS_SERVER = 21 as const
/** Connections that were open when their shard died, and reset. */
export const METRIC_RESETS_SHARD_DEATH = 22 as const
/** Connections that ended by any other error of the system. */
export const METRIC_RESETS_OTHER = 23 as const
/** Failed accepts for want of descriptors. */
export const METRIC_ACCEPT_ERRORS_DESCRIPTORS = 24 as const
/** Failed accepts for want of memory. */
export const METRIC_ACCEPT_ERRORS_MEMORY = 25 as const
/** Failed accepts of a connection that was broken already. */
export const METRIC_ACCEPT_ERRORS_ABORTED = 26 as const
/** Failed accepts by any other cause. */
export const METRIC_ACCEPT_ERRORS_OTHER = 27 as const
/** Connections received from another shard's queue. */
export const METRIC_TAKEN_OVER = 28 as const
/** Connections that a dying shard had accepted and not yet shown to JavaScript, left to other shards. */
export const METRIC_CONNECTIONS_HANDED_OVER = 29 as const
/** Connections made to others. */
export const METRIC_CONNECTIONS_CONNECTED = 30 as const
/** Attempts to make one that failed, or were called off. */
export const METRIC_CONNECTS_FAILED = 31 as const
/** Time spent looking for the next event instead of sleeping. */
export const METRIC_BUSY_POLL_NS = 32 as const
/** The first of LOOP_LAG_BUCKETS counters of turns, by their time between leaving the poll and entering it again. */
export const METRIC_LOOP_LAG_FIRST_BUCKET = 33 as const
/** Number of metrics. */
export const METRIC_COUNT = 53 as const
/** Buckets of the loop lag. Each goes to twice the time of the one before; the last has no end. */
export const LOOP_LAG_BUCKETS = 20 as const
/** Where the first bucket ends, in nanoseconds. */
export const LOOP_LAG_FIRST_NS = 64000 as const
