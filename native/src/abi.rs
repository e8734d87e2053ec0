//! The layout that native code and JavaScript share: record kinds, operations, control words, metric indexes.
//!
//! The single source: `src/native/abi.ts` is generated from [`ALL`], and a test fails when it drifts
//! (`SHARDLOOP_WRITE_ABI=1 cargo test -p shardloop-native abi` writes it anew).
#![forbid(unsafe_code)]

use crate::limits;

/// One shared constant.
#[derive(Debug)]
pub struct Constant {
    /// Its name, the same in both languages.
    pub name: &'static str,
    /// Its value.
    pub value: i64,
    /// What it means.
    pub doc: &'static str,
}

macro_rules! abi {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:expr;)*) => {
        $($(#[doc = $doc])+ pub const $name: i32 = $value;)*
        /// Every constant, in the order of the file.
        pub const ALL: &[Constant] = &[$(Constant { name: stringify!($name), value: $name as i64, doc: concat!($($doc),+) }),*];
    };
}

abi! {
    /// Layout version; JavaScript refuses an addon of another.
    ABI_VERSION = 8;

    /// Words (int32) of a record in either ring: `[kind or operation, connection handle, a, b]`.
    RECORD_WORDS = 4;
    /// Records of the events ring.
    EVENT_RING_RECORDS = limits::EVENT_RING_RECORDS as i32;
    /// Records of the commands ring.
    COMMAND_RING_RECORDS = limits::COMMAND_RING_RECORDS as i32;
    /// Bytes of the write slab.
    WRITE_SLAB_BYTES = limits::WRITE_SLAB_BYTES as i32;
    /// From this size on a write is a native call.
    DIRECT_WRITE_BYTES = limits::DIRECT_WRITE_BYTES as i32;
    /// Number of chunk slabs; they have the indexes 1 to this. Index 0 is the borrowed slab.
    CHUNK_SLABS = limits::CHUNK_SLABS as i32;
    /// Bytes of a chunk slab.
    CHUNK_SLAB_BYTES = limits::CHUNK_SLAB_BYTES as i32;
    /// Bytes of the borrowed slab.
    BORROWED_SLAB_BYTES = limits::BORROWED_SLAB_BYTES as i32;
    /// Resolution of idle timeouts.
    TIMER_TICK_MS = limits::TIMER_TICK_MS as i32;

    /// Low bits of a handle: the slot.
    HANDLE_SLOT_MASK = (1 << 20) - 1;
    /// High bits of a handle: the slot's generation.
    HANDLE_GENERATION_SHIFT = 20;

    /// Low bits of the first word: kind of event, or operation.
    KIND_MASK = 0xff;
    /// Above it in the first word: index of the slab that `a` (offset) and `b` (length) refer to.
    SLAB_SHIFT = 8;

    /// A connection was accepted; a: server, b: 1 when the peer is a Unix socket with a name.
    EVENT_OPEN = 1;
    /// Bytes arrived; a: offset, b: length, in the slab of the first word.
    EVENT_DATA = 2;
    /// The peer sends no more.
    EVENT_EOF = 3;
    /// The connection is gone, its descriptor closed; a: errno, 0 or a CLOSE_ reason.
    EVENT_CLOSED = 4;
    /// The write queue is above the high watermark.
    EVENT_PAUSE_WRITING = 5;
    /// The write queue is at or below the low watermark again.
    EVENT_RESUME_WRITING = 6;
    /// Owned writes were flushed, in order; a: how many.
    EVENT_OWNED_FLUSHED = 7;
    /// No byte moved for the idle timeout.
    EVENT_IDLE = 8;
    /// Accepting failed; handle: server, a: errno, b: 1 when accepting pauses, to be tried again.
    EVENT_ACCEPT_ERROR = 9;
    /// A finishing connection has written since it last received, and nothing is left to read.
    EVENT_ANSWERED = 10;
    /// What was asked for is connected; a: request, b: 1 when the peer is a Unix socket with a name.
    EVENT_CONNECTED = 11;
    /// ... or could not be; handle: request, a: errno (ECANCELED when it was called off), b: the CALL_ that failed.
    EVENT_CONNECT_FAILED = 12;
    /// A file was sent, or failed; a and b: bytes sent, low and high half, or b: the negative errno.
    EVENT_FILE_SENT = 13;
    /// A connection that is to get TLS by `startTls` receives nothing as plain text any more.
    EVENT_TLS_READY = 14;
    /// ... and has shaken hands.
    EVENT_TLS_ESTABLISHED = 15;
    /// The handshake of a connection that was accepted and never announced failed; a: errno or a TLS_ reason, b: server.
    EVENT_HANDSHAKE_FAILED = 16;

    /// A datagram arrived at an endpoint; a: offset of its source's address (see DATAGRAM_), which its payload follows, b: the
    /// payload's length, in the slab of the first word.
    EVENT_DATAGRAM = 20;
    /// Datagrams of an endpoint failed; a: errno, or a DATAGRAM_ reason, b: how many; above the kind: 1 when they were sent.
    EVENT_DATAGRAM_FAILED = 21;
    /// An endpoint's queue is above the high watermark.
    EVENT_DATAGRAM_PAUSE = 22;
    /// It is at or below the low watermark again.
    EVENT_DATAGRAM_RESUME = 23;
    /// The endpoint is gone; a: errno, or 0.
    EVENT_DATAGRAM_CLOSED = 24;

    /// Reason: more than the endpoint's limit was to be queued.
    DATAGRAM_OVERFLOW = -1;
    /// Reason: a datagram was longer than there was room for.
    DATAGRAM_TRUNCATED = -2;

    /// Of an address, in words (int32): in the first one the kind in the low byte, port or length of the name in the upper
    /// half. This kind has no more: no address.
    ADDRESS_NONE = 0;
    /// A Unix socket: its name follows, in whole words.
    ADDRESS_UNIX = 1;
    /// IPv4: four bytes follow.
    ADDRESS_IPV4 = 4;
    /// IPv6: sixteen bytes and the scope's number follow.
    ADDRESS_IPV6 = 6;
    /// Where port or length begin in the first word.
    ADDRESS_PORT_SHIFT = 16;
    /// Longest datagram, address apart.
    DATAGRAM_MAX_BYTES = limits::DATAGRAM_MAX_BYTES as i32;

    /// Of a connection's start: the system call connect...
    CALL_CONNECT = 0;
    /// ... socket...
    CALL_SOCKET = 1;
    /// ... bind...
    CALL_BIND = 2;
    /// ... one that sets an option...
    CALL_OPTION = 3;
    /// ... or the one by which the engine watches it.
    CALL_WATCH = 4;
    /// ... or TLS's handshake; then it says a TLS_ reason or, above 0, errno.
    CALL_TLS = 5;

    /// More than the connection's limit was to be queued.
    CLOSE_WRITE_OVERFLOW = -1;
    /// Memory that a write referred to was detached.
    CLOSE_DETACHED = -2;
    /// The program aborted it, or a callback failed.
    CLOSE_PROGRAM = -3;
    /// Its server was aborted, or its drain came to the deadline.
    CLOSE_SERVER = -4;
    /// No byte moved for the idle timeout, and its protocol does not handle that.
    CLOSE_IDLE = -5;

    /// Reason: a handshake took longer than it may.
    TLS_TIMEOUT = -101;
    /// Reason: the connection ended without close_notify.
    TLS_TRUNCATED = -102;
    /// Reason: the connection ended during the handshake.
    TLS_ABANDONED = -103;
    /// Reason: what came first was no TLS.
    TLS_NOT_TLS = -104;
    /// Reason: a record or message that cannot be.
    TLS_MALFORMED = -105;
    /// Reason: no version, cipher suite, group or signature that both have.
    TLS_INCOMPATIBLE = -106;
    /// Reason: no application protocol that both have.
    TLS_NO_ALPN = -107;
    /// Reason: the peer's certificate has expired.
    TLS_CERT_EXPIRED = -108;
    /// Reason: ... is not valid yet.
    TLS_CERT_NOT_YET_VALID = -109;
    /// Reason: ... is of nobody who is trusted.
    TLS_CERT_UNTRUSTED = -110;
    /// Reason: ... is for another name.
    TLS_CERT_NAME = -111;
    /// Reason: ... is revoked.
    TLS_CERT_REVOKED = -112;
    /// Reason: ... was not given.
    TLS_CERT_MISSING = -113;
    /// Reason: ... is wrong in another way.
    TLS_CERT_INVALID = -114;
    /// Reason: ... has none of the pinned keys.
    TLS_CERT_PIN = -115;
    /// Reason: there is no certificate that fits what the client asked for.
    TLS_NO_CERTIFICATE = -116;
    /// Reason: a failure of our own.
    TLS_INTERNAL = -117;
    /// Reason: -1000 - n: the peer's alert n (RFC 8446 section 6).
    TLS_ALERT = -1000;

    /// Bytes of the write slab; a: offset, b: length.
    COMMAND_WRITE = 1;
    /// Bytes of the read slab in the first word; a: offset, b: length.
    COMMAND_WRITE_SLAB = 2;
    /// The protocol is there: reading may begin; a: 1 when it takes borrowed bytes.
    COMMAND_START = 3;
    /// Stop reading.
    COMMAND_PAUSE = 4;
    /// Go on reading.
    COMMAND_RESUME = 5;
    /// Close after what is queued.
    COMMAND_CLOSE = 6;
    /// Close at once, by reset; a: the CLOSE_ reason.
    COMMAND_ABORT = 7;
    /// Close the writing half after what is queued.
    COMMAND_WRITE_EOF = 8;
    /// Watermarks; a: high, b: low.
    COMMAND_WRITE_LIMITS = 9;
    /// Idle timeout; a: milliseconds, 0 for none.
    COMMAND_IDLE_TIMEOUT = 10;
    /// Another protocol; a: 1 when it takes borrowed bytes.
    COMMAND_MODE = 11;
    /// Tell by EVENT_ANSWERED when nothing is owed to the peer; at once when that is so. It may be asked again. a: 1 when all
    /// that was delivered is dealt with, though it was not written to since.
    COMMAND_FINISH = 12;
    /// An answer is owed, as if something were just received: JavaScript delivers bytes that it held back, or has delivered
    /// some behind the writes that come before this.
    COMMAND_UNANSWERED = 13;

    /// A datagram from the write slab; a: offset of its destination's address, which the payload follows, b: length of both.
    COMMAND_DATAGRAM = 20;
    /// The endpoint's protocol is there: receiving may begin.
    COMMAND_DATAGRAM_START = 21;
    /// Receive no more.
    COMMAND_DATAGRAM_PAUSE = 22;
    /// Go on receiving.
    COMMAND_DATAGRAM_RESUME = 23;
    /// Close an endpoint after what is queued.
    COMMAND_DATAGRAM_CLOSE = 24;
    /// Close an endpoint at once.
    COMMAND_DATAGRAM_ABORT = 25;
    /// Watermarks of an endpoint; a: high, b: low.
    COMMAND_DATAGRAM_LIMITS = 26;

    /// Control word: words used in the events ring.
    CONTROL_EVENTS = 0;
    /// Control word: the next event to handle; stored before each callback.
    CONTROL_CURSOR = 1;
    /// Control word: words used in the commands ring.
    CONTROL_COMMANDS = 2;
    /// Control word: bytes used in the write slab.
    CONTROL_WRITE_BYTES = 3;
    /// Control word: bit set of slabs to be replaced at the end of the batch.
    CONTROL_RETIRED = 4;
    /// Control word: 1 while chunks are to be read into the borrowed slab, to be copied (retention limit).
    CONTROL_COPY_CHUNKS = 5;
    /// Control words.
    CONTROL_WORDS = 32;

    /// Word (float64) of an alarm: when JavaScript is to be woken, in seconds of the monotonic clock; Infinity for never.
    ALARM_DEADLINE = 0;
    /// Word of an alarm: 1 while it keeps the thread's loop alive.
    ALARM_REFERENCED = 1;
    /// Words of an alarm.
    ALARM_WORDS = 2;

    /// Place of a thread that nobody sends to by its place.
    PLACE_NONE = -2;
    /// Place of the main thread. Other places are shards' numbers.
    PLACE_SUPERVISOR = -1;

    /// Word of a message: what it is (MAIL_ constant), encoding of the payload above MAIL_PAYLOAD_SHIFT.
    MAIL_KIND = 0;
    /// Word of a message: the sender's address.
    MAIL_FROM = 1;
    /// Word of a message: the sender's place.
    MAIL_FROM_PLACE = 2;
    /// Word of a message: number of the function's name.
    MAIL_NAME = 3;
    /// Word of a message: number of the call, among those of the caller.
    MAIL_CALL_NUMBER = 4;
    /// Word of a message: bytes of the payload behind the words, which is filled up to whole words; of PAYLOAD_INTEGER its value.
    MAIL_LENGTH = 5;
    /// Words of a message in front of its payload.
    MAIL_HEADER_WORDS = 6;
    /// In the first word: the encoding of the payload.
    MAIL_PAYLOAD_SHIFT = 8;
    /// In the first word: set when the payload is not here, but to be taken by a native call.
    MAIL_LARGE = 1 << 16;

    /// A function is to be called; nobody waits for it.
    MAIL_MESSAGE = 1;
    /// A function is to be called, and its result sent back.
    MAIL_CALL = 2;
    /// What it returned.
    MAIL_RESULT = 3;
    /// What it threw.
    MAIL_FAILURE = 4;
    /// No function of that name is exposed.
    MAIL_UNKNOWN = 5;
    /// The caller waits no more.
    MAIL_CANCEL = 6;
    /// The sender's mailbox is closed.
    MAIL_GONE = 7;

    /// A payload: undefined.
    PAYLOAD_UNDEFINED = 0;
    /// ... null.
    PAYLOAD_NULL = 1;
    /// ... true.
    PAYLOAD_TRUE = 2;
    /// ... false.
    PAYLOAD_FALSE = 3;
    /// ... a number that is an int32, in the word of the length.
    PAYLOAD_INTEGER = 4;
    /// ... another number, 8 bytes.
    PAYLOAD_NUMBER = 5;
    /// ... a string of Latin-1, a byte for each character.
    PAYLOAD_LATIN1 = 6;
    /// ... any other string, in UTF-16.
    PAYLOAD_UTF16 = 7;
    /// ... bytes.
    PAYLOAD_BYTES = 8;
    /// ... anything else, as V8 serialises it.
    PAYLOAD_CLONE = 9;
    /// ... plain objects and what else `value-format.ts` has a form for.
    PAYLOAD_VALUES = 10;

    /// Control word of an inbox: bytes in it.
    MAIL_CONTROL_END = 0;
    /// Control words of an inbox.
    MAIL_CONTROL_WORDS = 2;
    /// Bytes that wait in one thread's mailbox.
    MAILBOX_MAX_BYTES = limits::MAILBOX_MAX_BYTES as i32;
    /// What a message without a payload counts for there.
    MAIL_MESSAGE_BYTES = limits::MAIL_MESSAGE_BYTES as i32;
    /// Largest payload that goes among other messages.
    MAIL_INLINE_MAX_BYTES = limits::MAIL_INLINE_MAX_BYTES as i32;
    /// Bytes for one other thread that are sent at once.
    MAIL_OUTBOX_BYTES = limits::MAIL_OUTBOX_BYTES as i32;
    /// Bytes of an inbox.
    MAIL_INBOX_BYTES = limits::MAIL_INBOX_BYTES as i32;
    /// Names of exposed functions in a process, ever.
    NAMES_MAX = limits::NAMES_MAX as i32;
    /// Bytes of such a name.
    NAME_MAX_BYTES = limits::NAME_MAX_BYTES as i32;

    /// Bytes of broadcasts that one shard has not sent yet.
    AUDIENCE_MAX_BYTES = limits::AUDIENCE_MAX_BYTES as i32;
    /// What an empty broadcast counts for there.
    BROADCAST_COST_BYTES = limits::BROADCAST_COST_BYTES as i32;
    /// Bytes of a topic's name.
    TOPIC_MAX_BYTES = limits::TOPIC_MAX_BYTES as i32;
    /// Topics of one connection.
    TOPICS_PER_CONNECTION_MAX = limits::TOPICS_PER_CONNECTION_MAX as i32;

    /// Of a watched descriptor: it can be read from...
    WATCH_READABLE = 1;
    /// ... or written to...
    WATCH_WRITABLE = 2;
    /// ... or it was closed, and what it referred to is watched no more.
    WATCH_GONE = 4;
    /// Words (int32) of a record of a watcher: descriptor, name of the watch, WATCH_ bits.
    WATCH_RECORD_WORDS = 3;
    /// Words of a watcher: how many records there are, then the records.
    WATCH_WORDS = 1 + WATCH_RECORD_WORDS * limits::WATCH_RECORDS as i32;

    /// Connections accepted.
    METRIC_CONNECTIONS_ACCEPTED = 0;
    /// Connections closed.
    METRIC_CONNECTIONS_CLOSED = 1;
    /// Bytes received.
    METRIC_BYTES_READ = 2;
    /// Bytes handed to the kernel.
    METRIC_BYTES_WRITTEN = 3;
    /// Calls into JavaScript with a batch of events.
    METRIC_BATCHES = 4;
    /// Events delivered by them.
    METRIC_EVENTS = 5;
    /// Failed accepts, those that are retried included.
    METRIC_ACCEPT_ERRORS = 6;
    /// Turns of the thread's libuv loop.
    METRIC_LOOP_TURNS = 7;
    /// Sum over turns of the time between leaving the poll and entering it again.
    METRIC_LOOP_BUSY_NS = 8;
    /// The longest of them.
    METRIC_LOOP_LAG_MAX_NS = 9;
    /// The latest of them.
    METRIC_LOOP_LAG_LAST_NS = 10;
    /// recv system calls.
    METRIC_READS = 11;
    /// send and sendmsg system calls.
    METRIC_WRITES = 12;
    /// Polls of the engine.
    METRIC_POLLS = 13;
    /// Calls from JavaScript into native code on the path of bytes and connections.
    METRIC_NATIVE_CALLS = 14;
    /// Connections aborted because more was queued than their limit.
    METRIC_WRITE_OVERFLOWS = 15;
    /// Connections that the peer reset.
    METRIC_RESETS_PEER = 16;
    /// Connections that the system gave up, for the peer was silent.
    METRIC_RESETS_TIMED_OUT = 17;
    /// Connections aborted by their idle timeout.
    METRIC_RESETS_IDLE_TIMEOUT = 18;
    /// Connections aborted because memory that a write referred to was detached.
    METRIC_RESETS_DETACHED = 19;
    /// Connections aborted by the program, or because a callback failed.
    METRIC_RESETS_PROGRAM = 20;
    /// Connections aborted with their server, or at the deadline of its drain.
    METRIC_RESETS_SERVER = 21;
    /// Connections that were open when their shard died, and reset.
    METRIC_RESETS_SHARD_DEATH = 22;
    /// Connections that ended by any other error of the system.
    METRIC_RESETS_OTHER = 23;
    /// Failed accepts for want of descriptors.
    METRIC_ACCEPT_ERRORS_DESCRIPTORS = 24;
    /// Failed accepts for want of memory.
    METRIC_ACCEPT_ERRORS_MEMORY = 25;
    /// Failed accepts of a connection that was broken already.
    METRIC_ACCEPT_ERRORS_ABORTED = 26;
    /// Failed accepts by any other cause.
    METRIC_ACCEPT_ERRORS_OTHER = 27;
    /// Connections received from another shard's queue.
    METRIC_TAKEN_OVER = 28;
    /// Connections that a dying shard had accepted and not yet shown to JavaScript, left to other shards.
    METRIC_CONNECTIONS_HANDED_OVER = 29;
    /// Connections made to others.
    METRIC_CONNECTIONS_CONNECTED = 30;
    /// Attempts to make one that failed, or were called off.
    METRIC_CONNECTS_FAILED = 31;
    /// Time spent looking for the next event instead of sleeping.
    METRIC_BUSY_POLL_NS = 32;
    /// Datagrams received.
    METRIC_DATAGRAMS_RECEIVED = 33;
    /// Datagrams handed to the kernel.
    METRIC_DATAGRAMS_SENT = 34;
    /// Datagrams that were to be sent and were dropped: beyond the queue's limit, refused by the kernel, or left by an abort.
    METRIC_DATAGRAMS_DROPPED = 35;
    /// Datagrams that were longer than there was room for, and dropped.
    METRIC_DATAGRAMS_TRUNCATED = 36;
    /// Time rested between two batches, so that the second is larger.
    METRIC_MODERATION_NS = 37;
    /// TLS handshakes that were done.
    METRIC_TLS_HANDSHAKES = 38;
    /// Of them, those that went on with an earlier session.
    METRIC_TLS_RESUMED = 39;
    /// Handshakes that failed at a certificate of the peer.
    METRIC_TLS_FAILED_CERTIFICATE = 40;
    /// ... by an alert of the peer.
    METRIC_TLS_FAILED_ALERT = 41;
    /// ... at what is no TLS, or wrong.
    METRIC_TLS_FAILED_PROTOCOL = 42;
    /// ... for want of what both have.
    METRIC_TLS_FAILED_INCOMPATIBLE = 43;
    /// ... by taking too long.
    METRIC_TLS_FAILED_TIMEOUT = 44;
    /// ... as the connection ended.
    METRIC_TLS_FAILED_ABANDONED = 45;
    /// Connections that ended without close_notify.
    METRIC_TLS_TRUNCATED = 46;
    /// The first of LOOP_LAG_BUCKETS counters of turns, by their time between leaving the poll and entering it again.
    METRIC_LOOP_LAG_FIRST_BUCKET = 47;
    /// Number of metrics.
    METRIC_COUNT = METRIC_LOOP_LAG_FIRST_BUCKET + LOOP_LAG_BUCKETS;

    /// Buckets of the loop lag. Each goes to twice the time of the one before; the last has no end.
    LOOP_LAG_BUCKETS = limits::LOOP_LAG_BUCKETS as i32;
    /// Where the first bucket ends, in nanoseconds.
    LOOP_LAG_FIRST_NS = limits::LOOP_LAG_FIRST_NS as i32;
}

/// The TypeScript module that declares the same constants.
pub fn typescript() -> String {
    let mut text = String::from(
        "// Generated from native/src/abi.rs by `npm run build`. Do not edit: a test fails when it drifts.\n",
    );
    for constant in ALL {
        text.push_str(&format!(
            "/** {} */\nexport const {} = {} as const\n",
            constant.doc.trim(),
            constant.name,
            constant.value
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typescript_constants_do_not_drift() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/native/abi.ts");
        if std::env::var_os("SHARDLOOP_WRITE_ABI").is_some() {
            std::fs::write(path, typescript()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(found == typescript(), "src/native/abi.ts drifted from abi.rs: run `npm run build`");
    }

    #[test]
    fn event_kinds_commands_and_metrics_are_distinct_within_their_family() {
        for family in [
            "EVENT_", "COMMAND_", "CLOSE_", "CALL_", "CONTROL_", "ALARM_", "PLACE_", "PAYLOAD_", "WATCH_",
            "METRIC_", "TLS_",
        ] {
            let mut values: Vec<i64> = ALL
                .iter()
                .filter(|c| {
                    c.name.starts_with(family) && !c.name.contains("RING") && !c.name.ends_with("WORDS")
                })
                .map(|c| c.value)
                .collect();
            let count = values.len();
            values.sort_unstable();
            values.dedup();
            assert_eq!(values.len(), count, "{family}* has two constants of one value");
        }
    }
}
