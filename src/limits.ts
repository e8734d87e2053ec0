/**
 * Every bound and default of the TypeScript side, with its unit in its name and what happens past it. Those of
 * the native core are in native/src/limits.rs.
 */

/** Most shards in a process. More is refused with ERR_SHARDLOOP_OPTION. */
export const SHARDS_MAX = 256

/** Most hosts that one server may listen on. More is refused with ERR_SHARDLOOP_OPTION. */
export const HOSTS_MAX = 64

/** Longest `name` of a server, in UTF-16 units. Longer is refused with ERR_SHARDLOOP_OPTION. */
export const NAME_MAX_LENGTH = 128

/** Longest time that a Node timer takes (24.8 days). A longer option in milliseconds is refused with ERR_SHARDLOOP_OPTION. */
export const TIME_MAX_MS: number = 2 ** 31 - 1

/** Connections that may wait in a listener's accept queue; the kernel caps it by `net.core.somaxconn`, and drops or refuses what is beyond. */
export const BACKLOG_DEFAULT = 4096

/** Largest backlog that listen(2) takes. More is refused with ERR_SHARDLOOP_OPTION. */
export const BACKLOG_MAX: number = 2 ** 31 - 1

/** Time that a shard has to listen; past it createServer rejects with ERR_SHARDLOOP_START and the shards are ended. */
export const START_TIMEOUT_DEFAULT_MS = 10_000

/** Time for which a shard is stuck until the server is told. */
export const STALL_AFTER_DEFAULT_MS = 1_000

/** Shortest `stallAfterMs` and `killAfterMs`: below it a garbage collection would count. Less is refused with ERR_SHARDLOOP_OPTION. */
export const STALL_AFTER_MIN_MS = 50

/** Time that open connections have to finish what is in flight when a server drains or closes; past it they are aborted. */
export const DRAIN_TIMEOUT_DEFAULT_MS = 10_000

/** Deaths of one shard within the restart window that are answered by a replacement; past it the shard is failed for good. */
export const MAX_RESTARTS_DEFAULT = 10

/** Largest `maxRestarts`: that many deaths are remembered for each shard. More is refused with ERR_SHARDLOOP_OPTION. */
export const MAX_RESTARTS_MAX = 10_000

/** Time within which a shard's deaths are counted together; those before it are forgotten. */
export const RESTART_WINDOW_DEFAULT_MS = 60_000

/** Time before a shard is replaced that died for the second time within the window; it doubles with each death. */
export const RESTART_DELAY_BASE_MS = 100

/** Longest time before a shard is replaced; it does not double past it. */
export const RESTART_DELAY_MAX_MS = 10_000

/** Largest number in `resourceLimits`, in MiB. More is refused with ERR_SHARDLOOP_OPTION. */
export const RESOURCE_LIMIT_MAX_MB: number = 1024 * 1024

/** Bytes waiting for one peer above which its protocol is told to pause. */
export const WRITE_HIGH_DEFAULT_BYTES: number = 64 * 1024

/** Bytes waiting for one peer above which its connection is aborted with ERR_SHARDLOOP_WRITE_OVERFLOW. */
export const WRITE_MAX_DEFAULT_BYTES: number = 64 * 1024 * 1024

/** Largest write watermark or bound: it travels to native code in 31 bits. More is refused with ERR_SHARDLOOP_OPTION. */
export const WRITE_BOUND_MAX_BYTES: number = 2 ** 31 - 1

/** How often a start asks again for a port's start lock while another process binds that port. */
export const START_LOCK_RETRY_MS = 5

/** How long a start waits for another process that binds the same port; past it createServer rejects with ERR_SHARDLOOP_START. */
export const START_LOCK_TIMEOUT_MS = 2_000

/** Ports that the kernel chose and that are tried on all of several hosts; past it createServer rejects with the last EADDRINUSE. */
export const PORT_ZERO_ATTEMPTS_MAX = 16

/** Time that a shard has to answer an abort; past it its thread is terminated, for it is stuck in JavaScript. */
export const ABORT_GRACE_MS = 1_000

/**
 * Time that a shard has to free its loop after its last server: closed connections get 2 seconds there for their last
 * bytes. Past it its thread is terminated.
 */
export const SHARD_RELEASE_TIMEOUT_MS = 4_000

/** Time that a shard has to end by itself once its loop is freed; past it its thread is terminated, as the program's own timers may keep it. */
export const SHARD_STOP_GRACE_MS = 1_000

/**
 * With a terminal, Ctrl-C sends SIGINT to the whole process group, and npm and tsx relay theirs on top. A SIGINT
 * that follows another this soon is that relay, not a second wish.
 */
export const SIGINT_RELAY_WINDOW_MS = 100

/** Links of an error's `cause` chain that are carried from a shard to the supervisor; what is deeper is left out. */
export const ERROR_CAUSES_MAX = 8

/**
 * Servers that are over and whose addresses are kept, for shards that start later and come by their calls again. Of older
 * ones only that they ran: the handles in such shards have no sockets.
 */
export const ENDED_CALLS_MAX = 1_000

/**
 * Different failures of `createServer` that are kept for the same reason, half of them for those that share class and
 * `code` with an earlier one. Past it a call rejects in shards that start later with such an earlier one, or with
 * ERR_SHARDLOOP_START when there is none.
 */
export const CALL_FAILURES_MAX = 250

/** Characters of a wrong value that an error message shows; the rest is cut. */
export const VALUE_SHOWN_MAX_LENGTH = 80

/**
 * Bytes of slabs that a shard's kept chunks may keep from being freed. Above it chunks are handed out as copies of
 * their exact size until it falls, so that a few kept bytes do not hold whole slabs.
 */
export const RETAINED_SLAB_BYTES: number = 64 * 1024 * 1024

/** Time for which a thread keeps its loop after its last connection, if it has no server: past it the loop is closed. */
export const LOOP_KEEP_MS = 1_000

/** Time until the next of a host's addresses is tried beside those before it (RFC 8305, section 5); past it all go on. */
export const CONNECTION_ATTEMPT_DELAY_MS = 250

/** Pause before a Unix socket is tried again whose queue is full; it doubles each time... */
export const UNIX_RETRY_FIRST_MS = 1

/** ... up to this. */
export const UNIX_RETRY_MAX_MS = 64

/** Descriptors that one thread may watch (`addReader`, `sockRecv`). More is refused with ERR_SHARDLOOP_STATE. */
export const WATCHED_DESCRIPTORS_MAX = 65_536

/** Operations that may wait for one direction of one descriptor. More is refused with ERR_SHARDLOOP_STATE. */
export const SOCKET_OPERATIONS_MAX = 1_024

/** Operations on sockets that complete at once before others have their turn. The next waits until its descriptor is told ready. */
export const OPERATIONS_AT_ONCE_MAX = 64

/** Bytes of memory of a thread's own into which `sockRecv` receives before it copies. The first that asks for more has it grow... */
export const SOCKET_SCRATCH_BYTES: number = 64 * 1024

/** ... to this. What is more comes with the next call. */
export const SOCKET_RECEIVE_MAX_BYTES: number = 1024 * 1024

/** Bytes of a file that are read at once where the kernel cannot send it by itself; the next are read when these are sent. */
export const FILE_READ_BYTES: number = 256 * 1024

/** Time that a native log record waits for its thread until it says so by `waitedMs`: what it tells of is older than its time. */
export const LOG_WAIT_TOLD_MS = 100

/** Callbacks that debug mode names when a loop is closed while they wait; of the others only how many there are. */
export const PENDING_TOLD_MAX = 100

/** Calls of other threads' functions that one thread waits for. Past it `call` rejects with ERR_SHARDLOOP_STATE. */
export const CALLS_PENDING_MAX = 65_536

/**
 * Addresses of peers that a thread knows as objects, so that a datagram of one of them makes none; a power of two. Another one
 * takes the place of one that was not used lately.
 */
export const DATAGRAM_ADDRESSES_KEPT = 4096

/** Pause before a datagram server's endpoint is opened anew that ended right after it was opened. One that lived longer is at once. */
export const DATAGRAM_REOPEN_MS = 100

/** Largest buffer of a socket that can be asked for. More is refused with ERR_SHARDLOOP_OPTION. */
export const SOCKET_BUFFER_MAX_BYTES: number = 2 ** 30

/**
 * Time that killed subprocesses have to be over when their loop is closed; past it they are told of and left alone: one that
 * may not be signalled (EPERM), or that hangs in the kernel. Shorter than SHARD_RELEASE_TIMEOUT_MS, with which a shard goes on.
 */
export const CHILD_KILL_GRACE_MS = 3_000

/** Threads of the executor by default at most; also no more than the processors that the process may use. */
export const EXECUTOR_THREADS_DEFAULT_MAX = 64

/** Largest `executor.maxThreads`. More is refused with ERR_SHARDLOOP_OPTION. */
export const EXECUTOR_THREADS_MAX = 256

/**
 * Tasks that may wait while every thread of the executor is busy; past it `runInExecutor` rejects with
 * ERR_SHARDLOOP_EXECUTOR_FULL.
 */
export const EXECUTOR_QUEUE_DEFAULT = 1_024

/** Largest `executor.maxQueue`. More is refused with ERR_SHARDLOOP_OPTION. */
export const EXECUTOR_QUEUE_MAX = 65_536

/** Time for which a thread of the executor waits for its next task; past it the thread ends. */
export const EXECUTOR_IDLE_DEFAULT_MS = 10_000

/** Time that the executor's threads have to end with the last server; past it they are left to end by themselves, as native code holds them. */
export const EXECUTOR_STOP_GRACE_MS = 4_000

/**
 * Time that a thread has to be done with the import of a module whose task was cancelled meanwhile; past it the thread is ended,
 * and Node leaves the file open that it was reading.
 */
export const EXECUTOR_IMPORT_GRACE_MS = 1_000

/** Names that `executor.tasks` may have in all. More is refused with ERR_SHARDLOOP_OPTION. */
export const EXECUTOR_NAMES_MAX = 1_024

/** Characters of an error's message, and of its stack, that a call is answered with when its thread's mailbox is full. */
export const CALL_ERROR_TEXT_MAX = 2048

/**
 * Time for which a stream of `fromDuplex` that was closed, and has sent everything, goes on until its peer has ended, too. Past it it is
 * destroyed, which resets a peer that still sends.
 */
export const STREAM_LINGER_MS = 2_000

/** Largest `highWaterMark` of a connection as a stream. More is refused with ERR_SHARDLOOP_ARGUMENT. */
export const DUPLEX_HIGH_WATER_MAX_BYTES: number = 2 ** 30

/**
 * Bytes that a connection as a stream takes in one turn before it asks native code whether the kernel took them; if not, `write`
 * returns false and its callback waits.
 */
export const DUPLEX_UNCONFIRMED_BYTES: number = 64 * 1024

/** Bytes of one write that a connection as a stream gives to native code at once; the next follow when the kernel has taken them. */
export const DUPLEX_PIECE_BYTES: number = 1024 * 1024

/** Such pieces that are sent in one turn. The next wait for the next batch. */
export const DUPLEX_PIECES_AT_ONCE = 16

/** Time for which a connection without a request may still send one when an HTTP server drains; past it the connection ends. */
export const HTTP_IDLE_GRACE_DEFAULT_MS = 250

/** `limit` of a stream: see STREAM_LIMIT_MAX_BYTES. As asyncio's. */
export const STREAM_LIMIT_DEFAULT_BYTES: number = 64 * 1024

/**
 * Largest `limit` of a stream. More is refused with ERR_SHARDLOOP_OPTION. A line longer than the limit is an error
 * (ERR_SHARDLOOP_LIMIT_OVERRUN); when twice the limit is received and not read, receiving is paused.
 */
export const STREAM_LIMIT_MAX_BYTES: number = 2 ** 30

/** What `read` of a stream takes until its end; past it it rejects with ERR_SHARDLOOP_LIMIT_OVERRUN, unless `maxBytes` says otherwise. */
export const READ_TO_END_DEFAULT_BYTES: number = 64 * 1024 * 1024

/** Most bytes that one read of a stream can ask for. More is refused with ERR_SHARDLOOP_ARGUMENT. */
export const READ_MAX_BYTES: number = 2 ** 31 - 1

/** Bytes that a stream may write in one turn of the loop; past it `write` and `drain` wait for the next, to learn what was sent. */
export const STREAM_TURN_BYTES: number = 64 * 1024

/** Chunks that wait to be read as they came. Those on top of that, if they are small, are copied into blocks... */
export const CHUNKS_UNGATHERED_MAX = 64

/** ... of this size, small being less than a quarter of it: a peer that sends byte by byte takes no object for each. */
export const GATHERED_BLOCK_BYTES: number = 4 * 1024

/** `maxFrameBytes` where it is not given; a longer frame throws ERR_SHARDLOOP_LIMIT_OVERRUN. */
export const FRAME_MAX_DEFAULT_BYTES: number = 64 * 1024

/** Largest certificate, key, CA bundle or list of revoked certificates. More is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_MATERIAL_MAX_BYTES: number = 64 * 1024 * 1024

/** Names that `tls.sni` may have. More is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_NAMES_MAX = 65_536

/** Application protocols that `tls.alpn` may have; each has 1 to 255 bytes. More is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_ALPN_MAX = 64

/** Longest name of a TLS server: of a host in the DNS. Longer is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_NAME_MAX_LENGTH = 253

/** Time that a TLS handshake may take; past it the connection ends with ERR_SHARDLOOP_TLS_TIMEOUT. */
export const TLS_HANDSHAKE_TIMEOUT_DEFAULT_MS = 10_000

/** TLS handshakes of a server that may be under way in each shard; past it new connections wait to be accepted. */
export const TLS_HANDSHAKES_DEFAULT = 1_024

/** Largest `tls.maxHandshakes`. More is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_HANDSHAKES_MAX = 1_048_576

/** Sessions that a TLS server or client remembers; past it the oldest is forgotten, and its peer shakes hands in full. */
export const TLS_SESSIONS_DEFAULT = 20_480

/** Largest `tls.sessionCacheSize`. More is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_SESSIONS_MAX = 16_777_216

/** Sessions that a TLS client remembers; past it the oldest is forgotten. */
export const TLS_CLIENT_SESSIONS = 1_024

/** Largest `tls.earlyDataBytes`. More is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_EARLY_DATA_MAX_BYTES: number = 16 * 1024

/** Time between two looks at the files of a TLS server's certificates... */
export const TLS_RELOAD_DEFAULT_MS = 10_000

/** ... at least. Less is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_RELOAD_MIN_MS = 50

/** Failed handshakes of a server that one shard tells by 'tlsClientError' in each second. Those on top of that are only counted. */
export const TLS_CLIENT_ERRORS_PER_SECOND = 16

/** Public keys that a TLS client may pin. More is refused with ERR_SHARDLOOP_OPTION. */
export const TLS_PINS_MAX = 64
