// Generated from native/src/abi.rs by `npm run build`. Do not edit: a test fails when it drifts.
/** Layout version; JavaScript refuses an addon of another. */
export const ABI_VERSION = 8 as const
/** Words (int32) of a record in either ring: `[kind or operation, connection handle, a, b]`. */
export const RECORD_WORDS = 4 as const
/** Records of the events ring. */
export const EVENT_RING_RECORDS = 4096 as const
/** Records of the commands ring. */
export const COMMAND_RING_RECORDS = 4096 as const
/** Bytes of the write slab. */
export const WRITE_SLAB_BYTES = 1048576 as const
/** From this size on a write is a native call. */
export const DIRECT_WRITE_BYTES = 16384 as const
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
/** A connection that is to get TLS by `startTls` receives nothing as plain text any more. */
export const EVENT_TLS_READY = 14 as const
/** ... and has shaken hands. */
export const EVENT_TLS_ESTABLISHED = 15 as const
/** The handshake of a connection that was accepted and never announced failed; a: errno or a TLS_ reason, b: server. */
export const EVENT_HANDSHAKE_FAILED = 16 as const
/** A datagram arrived at an endpoint; a: offset of its source's address (see DATAGRAM_), which its payload follows, b: the payload's length, in the slab of the first word. */
export const EVENT_DATAGRAM = 20 as const
/** Datagrams of an endpoint failed; a: errno, or a DATAGRAM_ reason, b: how many; above the kind: 1 when they were sent. */
export const EVENT_DATAGRAM_FAILED = 21 as const
/** An endpoint's queue is above the high watermark. */
export const EVENT_DATAGRAM_PAUSE = 22 as const
/** It is at or below the low watermark again. */
export const EVENT_DATAGRAM_RESUME = 23 as const
/** The endpoint is gone; a: errno, or 0. */
export const EVENT_DATAGRAM_CLOSED = 24 as const
/** Reason: more than the endpoint's limit was to be queued. */
export const DATAGRAM_OVERFLOW = -1 as const
/** Reason: a datagram was longer than there was room for. */
export const DATAGRAM_TRUNCATED = -2 as const
/** Of an address, in words (int32): in the first one the kind in the low byte, port or length of the name in the upper half. This kind has no more: no address. */
export const ADDRESS_NONE = 0 as const
/** A Unix socket: its name follows, in whole words. */
export const ADDRESS_UNIX = 1 as const
/** IPv4: four bytes follow. */
export const ADDRESS_IPV4 = 4 as const
/** IPv6: sixteen bytes and the scope's number follow. */
export const ADDRESS_IPV6 = 6 as const
/** Where port or length begin in the first word. */
export const ADDRESS_PORT_SHIFT = 16 as const
/** Longest datagram, address apart. */
export const DATAGRAM_MAX_BYTES = 65507 as const
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
/** ... or TLS's handshake; then it says a TLS_ reason or, above 0, errno. */
export const CALL_TLS = 5 as const
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
/** Reason: a handshake took longer than it may. */
export const TLS_TIMEOUT = -101 as const
/** Reason: the connection ended without close_notify. */
export const TLS_TRUNCATED = -102 as const
/** Reason: the connection ended during the handshake. */
export const TLS_ABANDONED = -103 as const
/** Reason: what came first was no TLS. */
export const TLS_NOT_TLS = -104 as const
/** Reason: a record or message that cannot be. */
export const TLS_MALFORMED = -105 as const
/** Reason: no version, cipher suite, group or signature that both have. */
export const TLS_INCOMPATIBLE = -106 as const
/** Reason: no application protocol that both have. */
export const TLS_NO_ALPN = -107 as const
/** Reason: the peer's certificate has expired. */
export const TLS_CERT_EXPIRED = -108 as const
/** Reason: ... is not valid yet. */
export const TLS_CERT_NOT_YET_VALID = -109 as const
/** Reason: ... is of nobody who is trusted. */
export const TLS_CERT_UNTRUSTED = -110 as const
/** Reason: ... is for another name. */
export const TLS_CERT_NAME = -111 as const
/** Reason: ... is revoked. */
export const TLS_CERT_REVOKED = -112 as const
/** Reason: ... was not given. */
export const TLS_CERT_MISSING = -113 as const
/** Reason: ... is wrong in another way. */
export const TLS_CERT_INVALID = -114 as const
/** Reason: ... has none of the pinned keys. */
export const TLS_CERT_PIN = -115 as const
/** Reason: there is no certificate that fits what the client asked for. */
export const TLS_NO_CERTIFICATE = -116 as const
/** Reason: a failure of our own. */
export const TLS_INTERNAL = -117 as const
/** Reason: -1000 - n: the peer's alert n (RFC 8446 section 6). */
export const TLS_ALERT = -1000 as const
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
/** Tell by EVENT_ANSWERED when nothing is owed to the peer; at once when that is so. It may be asked again. a: 1 when all that was delivered is dealt with, though it was not written to since. */
export const COMMAND_FINISH = 12 as const
/** An answer is owed, as if something were just received: JavaScript delivers bytes that it held back, or has delivered some behind the writes that come before this. */
export const COMMAND_UNANSWERED = 13 as const
/** A datagram from the write slab; a: offset of its destination's address, which the payload follows, b: length of both. */
export const COMMAND_DATAGRAM = 20 as const
/** The endpoint's protocol is there: receiving may begin. */
export const COMMAND_DATAGRAM_START = 21 as const
/** Receive no more. */
export const COMMAND_DATAGRAM_PAUSE = 22 as const
/** Go on receiving. */
export const COMMAND_DATAGRAM_RESUME = 23 as const
/** Close an endpoint after what is queued. */
export const COMMAND_DATAGRAM_CLOSE = 24 as const
/** Close an endpoint at once. */
export const COMMAND_DATAGRAM_ABORT = 25 as const
/** Watermarks of an endpoint; a: high, b: low. */
export const COMMAND_DATAGRAM_LIMITS = 26 as const
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
/** Place of a thread that nobody sends to by its place. */
export const PLACE_NONE = -2 as const
/** Place of the main thread. Other places are shards' numbers. */
export const PLACE_SUPERVISOR = -1 as const
/** Word of a message: what it is (MAIL_ constant), encoding of the payload above MAIL_PAYLOAD_SHIFT. */
export const MAIL_KIND = 0 as const
/** Word of a message: the sender's address. */
export const MAIL_FROM = 1 as const
/** Word of a message: the sender's place. */
export const MAIL_FROM_PLACE = 2 as const
/** Word of a message: number of the function's name. */
export const MAIL_NAME = 3 as const
/** Word of a message: number of the call, among those of the caller. */
export const MAIL_CALL_NUMBER = 4 as const
/** Word of a message: bytes of the payload behind the words, which is filled up to whole words; of PAYLOAD_INTEGER its value. */
export const MAIL_LENGTH = 5 as const
/** Words of a message in front of its payload. */
export const MAIL_HEADER_WORDS = 6 as const
/** In the first word: the encoding of the payload. */
export const MAIL_PAYLOAD_SHIFT = 8 as const
/** In the first word: set when the payload is not here, but to be taken by a native call. */
export const MAIL_LARGE = 65536 as const
/** A function is to be called; nobody waits for it. */
export const MAIL_MESSAGE = 1 as const
/** A function is to be called, and its result sent back. */
export const MAIL_CALL = 2 as const
/** What it returned. */
export const MAIL_RESULT = 3 as const
/** What it threw. */
export const MAIL_FAILURE = 4 as const
/** No function of that name is exposed. */
export const MAIL_UNKNOWN = 5 as const
/** The caller waits no more. */
export const MAIL_CANCEL = 6 as const
/** The sender's mailbox is closed. */
export const MAIL_GONE = 7 as const
/** A payload: undefined. */
export const PAYLOAD_UNDEFINED = 0 as const
/** ... null. */
export const PAYLOAD_NULL = 1 as const
/** ... true. */
export const PAYLOAD_TRUE = 2 as const
/** ... false. */
export const PAYLOAD_FALSE = 3 as const
/** ... a number that is an int32, in the word of the length. */
export const PAYLOAD_INTEGER = 4 as const
/** ... another number, 8 bytes. */
export const PAYLOAD_NUMBER = 5 as const
/** ... a string of Latin-1, a byte for each character. */
export const PAYLOAD_LATIN1 = 6 as const
/** ... any other string, in UTF-16. */
export const PAYLOAD_UTF16 = 7 as const
/** ... bytes. */
export const PAYLOAD_BYTES = 8 as const
/** ... anything else, as V8 serialises it. */
export const PAYLOAD_CLONE = 9 as const
/** ... plain objects and what else `value-format.ts` has a form for. */
export const PAYLOAD_VALUES = 10 as const
/** Control word of an inbox: bytes in it. */
export const MAIL_CONTROL_END = 0 as const
/** Control words of an inbox. */
export const MAIL_CONTROL_WORDS = 2 as const
/** Bytes that wait in one thread's mailbox. */
export const MAILBOX_MAX_BYTES = 67108864 as const
/** What a message without a payload counts for there. */
export const MAIL_MESSAGE_BYTES = 64 as const
/** Largest payload that goes among other messages. */
export const MAIL_INLINE_MAX_BYTES = 16384 as const
/** Bytes for one other thread that are sent at once. */
export const MAIL_OUTBOX_BYTES = 65536 as const
/** Bytes of an inbox. */
export const MAIL_INBOX_BYTES = 262144 as const
/** Names of exposed functions in a process, ever. */
export const NAMES_MAX = 65536 as const
/** Bytes of such a name. */
export const NAME_MAX_BYTES = 256 as const
/** Bytes of broadcasts that one shard has not sent yet. */
export const AUDIENCE_MAX_BYTES = 16777216 as const
/** What an empty broadcast counts for there. */
export const BROADCAST_COST_BYTES = 64 as const
/** Bytes of a topic's name. */
export const TOPIC_MAX_BYTES = 256 as const
/** Topics of one connection. */
export const TOPICS_PER_CONNECTION_MAX = 1024 as const
/** Of a watched descriptor: it can be read from... */
export const WATCH_READABLE = 1 as const
/** ... or written to... */
export const WATCH_WRITABLE = 2 as const
/** ... or it was closed, and what it referred to is watched no more. */
export const WATCH_GONE = 4 as const
/** Words (int32) of a record of a watcher: descriptor, name of the watch, WATCH_ bits. */
export const WATCH_RECORD_WORDS = 3 as const
/** Words of a watcher: how many records there are, then the records. */
export const WATCH_WORDS = 6145 as const
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
/** Datagrams received. */
export const METRIC_DATAGRAMS_RECEIVED = 33 as const
/** Datagrams handed to the kernel. */
export const METRIC_DATAGRAMS_SENT = 34 as const
/** Datagrams that were to be sent and were dropped: beyond the queue's limit, refused by the kernel, or left by an abort. */
export const METRIC_DATAGRAMS_DROPPED = 35 as const
/** Datagrams that were longer than there was room for, and dropped. */
export const METRIC_DATAGRAMS_TRUNCATED = 36 as const
/** Time rested between two batches, so that the second is larger. */
export const METRIC_MODERATION_NS = 37 as const
/** TLS handshakes that were done. */
export const METRIC_TLS_HANDSHAKES = 38 as const
/** Of them, those that went on with an earlier session. */
export const METRIC_TLS_RESUMED = 39 as const
/** Handshakes that failed at a certificate of the peer. */
export const METRIC_TLS_FAILED_CERTIFICATE = 40 as const
/** ... by an alert of the peer. */
export const METRIC_TLS_FAILED_ALERT = 41 as const
/** ... at what is no TLS, or wrong. */
export const METRIC_TLS_FAILED_PROTOCOL = 42 as const
/** ... for want of what both have. */
export const METRIC_TLS_FAILED_INCOMPATIBLE = 43 as const
/** ... by taking too long. */
export const METRIC_TLS_FAILED_TIMEOUT = 44 as const
/** ... as the connection ended. */
export const METRIC_TLS_FAILED_ABANDONED = 45 as const
/** Connections that ended without close_notify. */
export const METRIC_TLS_TRUNCATED = 46 as const
/** The first of LOOP_LAG_BUCKETS counters of turns, by their time between leaving the poll and entering it again. */
export const METRIC_LOOP_LAG_FIRST_BUCKET = 47 as const
/** Number of metrics. */
export const METRIC_COUNT = 67 as const
/** Buckets of the loop lag. Each goes to twice the time of the one before; the last has no end. */
export const LOOP_LAG_BUCKETS = 20 as const
/** Where the first bucket ends, in nanoseconds. */
export const LOOP_LAG_FIRST_NS = 64000 as const
