//! Every bound of the native core, with its unit in its name and what happens past it.
#![forbid(unsafe_code)]

/// Records of the events ring. Full: collecting stops and what is ready stays on the ready list.
pub const EVENT_RING_RECORDS: usize = 4096;
/// Entries of each pipe between a shard's thread and its I/O thread (`tokio`). Events: full, the I/O thread reads no more
/// until JavaScript has taken some. Commands: full, the shard's thread waits until the I/O thread has taken them.
pub const PIPE_RECORDS: usize = 4096;
/// Bytes that the I/O thread has received and JavaScript has not taken yet. Past it, as with entries.
pub const PIPE_EVENT_BYTES: usize = 512 * 1024;
/// Time for which JavaScript has work in one batch from an I/O thread, as the last ones went. Past it the I/O thread gets its
/// answers and JavaScript the next batch.
pub const BATCH_US: u64 = 300;
/// Events of such a batch at least, however long they take.
pub const BATCH_EVENTS_MIN: usize = 4;
/// New connections that the I/O thread has accepted and JavaScript has not taken yet. Past it, as with entries.
pub const OFFERS_MAX: usize = 1024;
/// Turns of the I/O thread until tokio looks at its descriptors again.
pub const TURNS_PER_POLL: usize = 4;
/// Records of the commands ring. Full: JavaScript flushes by a native call.
pub const COMMAND_RING_RECORDS: usize = 4096;
/// Bytes of copied writes between two flushes. Full: JavaScript flushes by a native call.
pub const WRITE_SLAB_BYTES: usize = 1024 * 1024;
/// A write of this size or more is one native call that sends at once; a smaller one is copied into the write slab, and leaves with
/// the others of its batch. For small ones the copy costs less than a call between two callbacks, which also drives their code out
/// of the cache. With this limit at 16 KiB instead of 32 KiB an echo of chunks of 16 KiB became 1.18 times as fast, over TLS 1.09
/// times; below that a system call for each of several writes costs more than their copies.
pub const DIRECT_WRITE_BYTES: usize = 16 * 1024;
/// Slabs that chunks (`dataReceived`) are read into, replaced once full. All full: the batch ends.
pub const CHUNK_SLABS: usize = 2;
/// Size of one of them: to replace one costs some microseconds. The page more is for reads of 16 or 64 KiB, which want a
/// byte more than they expect: without it they would waste the slab's tail.
pub const CHUNK_SLAB_BYTES: usize = 512 * 1024 + 4096;
/// The slab that borrowed bytes are read into, reused from its start by every batch so that it stays in a core's own
/// cache: with one as large as that cache (512 KiB) a read of 16 KiB took 8 µs longer.
pub const BORROWED_SLAB_BYTES: usize = 256 * 1024 + 4096;
/// Smallest room worth a read.
pub const READ_MIN_BYTES: usize = 2048;
/// Most bytes of one read into a chunk.
pub const READ_MAX_BYTES: usize = 64 * 1024;
/// Most bytes of one read into the borrowed slab, half of it. Twice as many as above made an echo of 100 KiB a sixth faster; of
/// chunks, whose memory is in no cache, it made it slower.
pub const BORROWED_READ_MAX_BYTES: usize = 128 * 1024;
/// Most bytes of one read into a pipe, or of one piece of a write in it.
pub const PIPE_PIECE_BYTES: usize = 64 * 1024;
/// A guess at the next read that is larger does not make a slab or a pipe count as full.
pub const READ_HINT_MAX_BYTES: usize = 16 * 1024;
/// Reads of one connection in one batch. Past it the connection waits on the ready list.
pub const READS_PER_BATCH: usize = 4;
/// Connections accepted from one listener in one batch. Past it the listener waits on the ready list.
pub const ACCEPTS_PER_BATCH: usize = 256;
/// Connections accepted from one listener when it stops: its queue, served to the end.
pub const ACCEPTS_AT_STOP: usize = 65_536;
/// Events taken from the kernel by one poll.
pub const POLL_EVENTS: usize = 1024;
/// Batches of one wake-up while the ready list is not empty. Past it libuv has its turn.
pub const BATCHES_PER_WAKE: usize = 16;
/// Batches in a row that only serve what is left of an earlier poll.
pub const UNPOLLED_BATCHES: u32 = 3;
/// Time after which a wake-up starts no further batch.
pub const WAKE_BUDGET_US: u64 = 500;
/// Time for which a shard looks for the next event before it sleeps, when events are close ([`crate::busy_poll`]).
pub const BUSY_POLL_US: u64 = 80;
/// Mean time between a batch and the next event above which it does not.
pub const BUSY_POLL_GAP_US: u64 = 60;
/// The same for messages between threads, up to which it is tried, for BUSY_POLL_TRIAL_US.
pub const BUSY_POLL_THREADS_GAP_US: u64 = 100;
/// Time for which it looks where events are not close and may be so.
pub const BUSY_POLL_TRIAL_US: u64 = 30;
/// Events of a batch above which it does not.
pub const BUSY_POLL_EVENTS: usize = 4;
/// Peers whose events come in turn above which it does not.
pub const BUSY_POLL_PEERS: usize = 4;
/// Time after which a wake-up does not any more.
pub const BUSY_POLL_WAKE_US: u64 = 250;
/// Batches that pass at most until it does again after it did in vain.
pub const BUSY_POLL_REST: u32 = 255;
/// Time for which a shard rests between two small batches when many peers keep it busy ([`crate::moderation`]). The kernel adds the
/// slack of its timers, 50 µs unless the process has another (PR_SET_TIMERSLACK).
pub const MODERATION_REST_US: u64 = 10;
/// What that makes on most machines.
pub const MODERATION_USUAL_US: u64 = 70;
/// A rest that took longer was in vain.
pub const MODERATION_REST_MAX_US: u64 = 150;
/// Events of a batch that are looked at for a peer that comes again.
pub const MODERATION_SIGNS: usize = 64;
/// Events of a batch above which it does not.
pub const MODERATION_EVENTS: usize = 8;
/// Mean time between two events above which it does not.
pub const MODERATION_INTERVAL_US: u64 = 15;
/// Mean time after which peers come again below which it does not.
pub const MODERATION_CYCLE_US: u64 = 300;
/// Events after a rest below which it was in vain.
pub const MODERATION_GAIN: usize = 3;
/// Batches that pass at most until it does again after it did in vain.
pub const MODERATION_PAUSE: u32 = 1023;
/// Pause between two attempts to accept when the process or the system is out of descriptors.
pub const ACCEPT_RETRY_MS: u64 = 100;
/// Resolution of idle timeouts.
pub const TIMER_TICK_MS: u64 = 100;
/// Slots of the timer wheel. A longer timeout is looked at once a turn, so that no entry outlives its connection by
/// more than that.
pub const TIMER_SLOTS: usize = 512;
/// Bytes of a file that the kernel is asked to send at once.
pub const SEND_FILE_BYTES: usize = 256 * 1024;
/// Bytes of files that one connection sends in one turn. Past it the connection waits on a list while others have theirs.
pub const SEND_FILE_BYTES_PER_TURN: usize = 1024 * 1024;
/// Pieces handed to the kernel by one vectored write.
pub const WRITEV_PIECES: usize = 64;
/// Small queued pieces are joined up to this size.
pub const WRITE_JOIN_BYTES: usize = 64 * 1024;
/// Bytes that are received by one call for a connection with TLS, into memory that its shard's connections share.
pub const TLS_RECEIVE_BYTES: usize = 64 * 1024;
/// Bytes that such a connection may have kept of a message in part: rustls takes messages of a handshake of up to 64 KiB, in
/// records. Past it the connection ends.
pub const TLS_INCOMING_MAX_BYTES: usize = 96 * 1024;
/// Bytes of records after which they are sent before more plaintext is encrypted: what waits as records is less than twice as much.
pub const TLS_ENCRYPT_BYTES: usize = 64 * 1024;
/// Records that wait to be sent, above which a connection is not read from: a peer may ask for answers of TLS itself.
pub const TLS_OUTGOING_HIGH_BYTES: usize = 128 * 1024;
/// Plaintext of a small record: with it a record fits into one packet of most paths, and is decrypted when that has come.
pub const TLS_RECORD_SMALL_BYTES: usize = 1_369;
/// Bytes that go in small records: at a connection's beginning, and when it has sent nothing for TLS_QUIET_MS.
pub const TLS_RECORDS_SMALL_BYTES: usize = 16 * 1024;
/// See there.
pub const TLS_QUIET_MS: u64 = 1_000;
/// Steps of handshakes that have an outcome, in one turn: a full one has a dear step, its key exchange and signature (100 µs with P-256,
/// six times that with RSA of 2,048 bits), and a cheap one. Past it the others wait for the next turn, behind what established connections
/// have received, and JavaScript has its own first.
pub const TLS_HANDSHAKE_STEPS_PER_TURN: u64 = 4;
/// One step more for so much time since the last turn: where JavaScript has much to do turns are few, and handshakes must not starve.
pub const TLS_HANDSHAKE_STEP_US: u64 = 250;
/// And so many at most.
pub const TLS_HANDSHAKE_STEPS_MAX: u64 = 64;
/// Small writes are gathered into records up to this size.
pub const TLS_GATHER_BYTES: usize = 16 * 1024;
/// How long a closed connection with bytes still on their way waits for the peer's end before its descriptor
/// closes (a close with unread input would reset it and destroy them).
pub const LINGER_MS: u64 = 2_000;
/// Connections that may linger at once. Past it they close without.
pub const LINGERING_MAX: usize = 1024;
/// Connections of one shard: the slot bits of a handle. The table keeps the size of its fullest hour (at most 120
/// bytes a slot). Past it a new connection is closed at once and counted.
pub const CONNECTIONS_MAX: usize = 1 << 20;
/// A shard that has been running for this long without a look at its poll is stuck, as far as new connections are
/// concerned: its queue is served by others.
pub const STALL_MS: u64 = 10;
/// What was handed to a shard that has been running for this long is taken back, and nothing more is handed to it to
/// even out numbers. More than [`STALL_MS`]: a thread that waits for a processor, or whose code is still cold, is away
/// for as long as that without being stuck.
pub const RELIEF_STALL_MS: u64 = 75;
/// How often the guardian looks at shards that turn as they should.
pub const GUARDIAN_WATCH_MS: u64 = 250;
/// How often it looks while a shard that died is being replaced. A look is a moment at which the scheduler chooses anew
/// who runs; otherwise it does so once a tick (4 ms with 250 a second), and a thread that serves, woken while the
/// replacement starts, may wait for so long.
pub const GUARDIAN_BRISK_MS: u64 = 1;
/// For how long after the death. Past it the guardian looks as always: the replacement takes long, or never comes.
pub const GUARDIAN_BRISK_FOR_MS: u64 = 250;
/// Time without a turn of any shard after which the guardian sleeps until the kernel wakes it.
pub const GUARDIAN_QUIET_MS: u64 = 1_000;
/// Connections that the guardian accepts from one queue in one look.
pub const GUARDIAN_ACCEPTS: usize = 256;
/// A shard gives a new connection to another when it has this many more than that one...
pub const RELIEF_MIN: u64 = 16;
/// ... and this part of them: one in so many.
pub const RELIEF_SHARE: u64 = 32;
/// Connections that a shard accepts at most before it compares itself with the others again.
pub const RELIEF_LOOK_MAX: u64 = 64;
/// Connections that wait in one shard's inbox. Past it they stay in the kernel's queue, or are handed to another shard.
pub const INBOX_MAX: usize = 1024;
/// Connections of dead shards that wait for one to serve them. Past it they are reset.
pub const UNSERVED_MAX: usize = 65_536;
/// Buckets of the histogram of loop lags, each to twice the time of the one before: 16.8 s is the last bound.
pub const LOOP_LAG_BUCKETS: usize = 20;
/// Where the first of them ends. A turn of a loaded shard takes some 100 µs.
pub const LOOP_LAG_FIRST_NS: u64 = 64_000;
/// Bytes of an address in text, or of a Unix socket's name; no kernel takes more. What is longer is cut, and refused as it
/// is then.
pub const ADDRESS_MAX_BYTES: usize = 256;
/// Records that JavaScript is told by a watcher of descriptors in one call, at most half of them of descriptors that are ready.
/// Past it, those stay ready for the next turn.
pub const WATCH_RECORDS: usize = 2048;
/// Child processes of this process, those included that are about to be started. Past it none is started.
pub const CHILDREN_MAX: usize = 4096;
/// Log records that wait for one thread's JavaScript. Past it they are dropped, and how many were is logged.
pub const LOG_RECORDS_MAX: usize = 1024;
/// Bytes of a log record's message, and of each of its texts. What is longer is cut.
pub const LOG_TEXT_MAX_BYTES: usize = 2048;
/// Bytes that wait in one thread's mailbox, [`MAIL_MESSAGE_BYTES`] for each message and its payload. Past it whoever sends is
/// refused.
pub const MAILBOX_MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a message without a payload counts for.
pub const MAIL_MESSAGE_BYTES: usize = 64;
/// Room in a mailbox that a sender is granted at least, and keeps for its next messages.
pub const MAIL_CREDIT_BYTES: usize = 16 * 1024;
/// Largest payload that goes among other messages, which is copied once more on its way. A larger one goes by itself.
pub const MAIL_INLINE_MAX_BYTES: usize = 16 * 1024;
/// Bytes that a thread has to say to one other until they are sent at once, in the middle of a callback.
pub const MAIL_OUTBOX_BYTES: usize = 64 * 1024;
/// Bytes of messages that are handed to JavaScript at once.
pub const MAIL_INBOX_BYTES: usize = 256 * 1024;
/// Names of exposed functions in a process, ever. Past it no other name can be exposed.
pub const NAMES_MAX: usize = 65_536;
/// Bytes of such a name in UTF-8. A longer one is refused.
pub const NAME_MAX_BYTES: usize = 256;
/// Bytes of broadcasts that one shard has not sent yet, [`BROADCAST_COST_BYTES`] for each of them and what it says. Past it a
/// broadcast is refused for that shard.
pub const AUDIENCE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// What an empty broadcast counts for.
pub const BROADCAST_COST_BYTES: usize = 64;
/// Connections that broadcasts are sent to in one turn. Past it they go on with the next one: a send takes some microseconds.
pub const BROADCAST_SENDS_PER_TURN: usize = 256;
/// Bytes of a topic's name in UTF-8. A longer one is refused.
pub const TOPIC_MAX_BYTES: usize = 256;
/// Topics that one connection may subscribe to. Past it the next is refused.
pub const TOPICS_PER_CONNECTION_MAX: usize = 1024;
/// Datagrams that one system call receives or sends at most. Those that are left wait for the next one.
pub const DATAGRAM_BATCH: usize = 64;
/// Calls by which one endpoint receives in one batch. Past it the endpoint waits on the ready list.
pub const DATAGRAM_READS_PER_BATCH: usize = 4;
/// Calls in a row that have received something, each soon after another, after which an endpoint is not watched any more
pub const DATAGRAM_POLLING_AFTER: u32 = 16;
/// until it has had nothing for so long, or in vain was asked more often than not.
pub const DATAGRAM_POLLING_US: u64 = 30;
/// How many such calls it takes at most: it doubles when not to watch it was hardly worth it.
pub const DATAGRAM_POLLING_AFTER_MAX: u32 = 4096;
/// Time from one such call to the next, that to handle a batch included, below which it is soon.
pub const DATAGRAM_POLLING_GAP_US: u64 = 2_000;
/// Largest datagram that is sent: what an IPv4 packet holds. A longer one is refused.
pub const DATAGRAM_MAX_BYTES: usize = 65_507;
/// Largest datagram that is received, address apart, as this is the memory for each of a call. A longer one (only Unix sockets
/// have such) is dropped, counted and told. With GRO the kernel puts several into it, up to the length of an IP packet.
pub const DATAGRAM_SLOT_BYTES: usize = 64 * 1024;
/// Segments that the kernel is given at most as one (UDP_MAX_SEGMENTS of Linux before 6.9).
pub const GSO_SEGMENTS_MAX: usize = 64;
/// Largest segment: what an Ethernet frame holds of an IPv6 packet's payload. The kernel refuses those beyond the path's MTU.
pub const GSO_SEGMENT_MAX_BYTES: usize = 1_452;
/// Until is tried again what nothing announces: room in the queue of one of the peers of a Unix socket that is not connected,
/// and buffers that the kernel had none of.
pub const DATAGRAM_RETRY_MS: u64 = 2;
/// The longest such pause: it doubles each time that nothing has come of it.
pub const DATAGRAM_RETRY_MAX_MS: u64 = 64;
/// Time for which an endpoint that was closed waits for room without anything being sent. Past it what is left is dropped, and
/// the endpoint's end says ETIMEDOUT.
pub const DATAGRAM_CLOSE_MS: u64 = 5_000;
/// Different failures of one endpoint that wait to be told. Past it they count as the last of them.
pub const DATAGRAM_FAILURES_MAX: usize = 16;
/// What a queued datagram counts for beside its bytes, so that empty ones are bounded, too.
pub const DATAGRAM_OVERHEAD_BYTES: usize = 64;
/// Endpoints of one shard. Past it another is refused (EMFILE).
pub const ENDPOINTS_MAX: usize = 1 << 20;
