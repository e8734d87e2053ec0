//! Named bounds of the load generator, and the descriptor limit.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::LoadError;

/// Bytes read from a socket at once. All connections share the one buffer.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes given to one `write` at most; more messages in flight take several writes.
pub const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Readiness events taken from the kernel at once.
pub const EVENTS_PER_POLL: usize = 1024;
/// Connects in progress at once: below every usual accept queue, so that no SYN is dropped (a retry takes 1 s).
pub const CONNECTS_PENDING_MAX: usize = 128;
/// The run fails when no connect completes for this long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After a connection over HTTP has failed, and that is tolerated, the next one takes its place after this long: a server that
/// restarts is not beset meanwhile.
pub const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// How long the end of a run waits for answers that are still out.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long listeners wait for a broadcast, and the benchmark for an answer of the server.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the server is asked how many listeners it has accepted.
pub const ACCEPT_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// A datagram that has no answer after this long is lost: another one takes its place.
pub const DATAGRAM_TIMEOUT: Duration = Duration::from_millis(100);
/// Datagrams that are out on one socket, at most.
pub const DATAGRAMS_OUT_MAX: usize = 1024;
/// Connections per source address; an address has about 28,000 ephemeral ports towards one server.
pub const CONNECTIONS_PER_SOURCE: usize = 10_000;
/// Longest poll, so that the clock is looked at even when nothing happens.
pub const POLL_MAX: Duration = Duration::from_millis(100);
/// Latencies above this many nanoseconds are recorded as this (one hour).
pub const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// Descriptors that are no connections: standard streams, epoll, waker, `/proc` files.
const DESCRIPTORS_RESERVED: u64 = 32;

/// Raises the soft descriptor limit to the hard one and checks that `connections` fit.
///
/// # Errors
/// [`LoadError::Descriptors`] names both figures and what to do.
pub fn reserve_descriptors(connections: usize) -> Result<(), LoadError> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // A refusal shows in the check below, which reads the limit that is in force.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let available = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = connections as u64 + DESCRIPTORS_RESERVED;
    if needed > available { Err(LoadError::Descriptors { needed, available }) } else { Ok(()) }
}
