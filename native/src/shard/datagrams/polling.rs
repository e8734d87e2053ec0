//! An endpoint that has something again and again is not watched any more: it is received from in every turn, until it has had
//! nothing for some microseconds. Network drivers do so with interrupts (NAPI of Linux).
//!
//! The kernel tells of each datagram that comes, and looks whom to tell of each that has left, whether or not anybody waits for
//! it; through two polls, as the engine's is in libuv's. To an echo of small datagrams in C that is 7 % of its processor time, and
//! to wait by the two polls another 5 %.

use super::{Again, Shard, System};
use crate::error::errno;
use crate::limits::{
    DATAGRAM_POLLING_AFTER, DATAGRAM_POLLING_AFTER_MAX, DATAGRAM_POLLING_GAP_US, DATAGRAM_POLLING_US,
};
use std::time::{Duration, Instant};

/// Whether an endpoint is watched, and whether it should be.
#[derive(Debug)]
pub(super) struct Polling {
    /// It is not watched.
    is_on: bool,
    /// Calls that have received something, one soon after the other: before it is on in a row, and since.
    count: u32,
    /// How many it takes.
    needed: u32,
    received_at: Option<Instant>,
    /// While it is on: since when there has been nothing.
    idle_since: Option<Instant>,
}

impl Default for Polling {
    fn default() -> Self {
        Self { is_on: false, count: 0, needed: DATAGRAM_POLLING_AFTER, received_at: None, idle_since: None }
    }
}

impl Polling {
    /// It is not watched: nobody tells when there is something.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// There was nothing; whether it goes on all the same.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        self.is_on && now.saturating_duration_since(since) < Duration::from_micros(DATAGRAM_POLLING_US)
    }

    /// Something was received; whether that is so often that it need not be watched.
    fn received(&mut self, now: Instant) -> bool {
        self.idle_since = None;
        let last = self.received_at.replace(now);
        let passed = last.map(|last| now.saturating_duration_since(last));
        let is_soon = passed.is_some_and(|passed| passed < Duration::from_micros(DATAGRAM_POLLING_GAP_US));
        self.count = if is_soon || self.is_on { self.count.saturating_add(1) } else { 0 };
        self.count >= self.needed
    }

    fn begin(&mut self) {
        (self.is_on, self.count) = (true, 0);
    }

    /// It is watched again. Where that was hardly worth it, it takes more until the next time.
    fn end(&mut self) {
        let was_worth = self.count >= DATAGRAM_POLLING_AFTER;
        let more = (2 * self.needed).min(DATAGRAM_POLLING_AFTER_MAX);
        self.needed = if was_worth { DATAGRAM_POLLING_AFTER } else { more };
        (self.is_on, self.count) = (false, 0);
    }
}

impl<S: System> Shard<S> {
    /// A call has received something. Whether there may be more of which nobody tells.
    pub(super) fn note_received(&mut self, endpoint: u32) -> bool {
        let now = self.now;
        let Some(found) = self.datagrams.get(endpoint) else { return false };
        let is_busy = S::POLLS_BUSY_ENDPOINTS && found.polling.received(now) && !found.polling.is_on;
        if is_busy
            && !found.awaits_room
            && found.receives()
            && let Some(socket) = &found.socket
        {
            found.polling.begin();
            self.system.unwatch_endpoint(socket, endpoint);
        }
        found.polling.is_on
    }

    /// It has nothing, or is not to be received from: whoever sends something is told of from now on. Where the system has no memory
    /// for that, both are tried again later. False when it is not watched.
    pub(super) fn watch_again(&mut self, endpoint: u32) -> bool {
        let Some(found) = self.datagrams.get(endpoint) else { return false };
        let Some(socket) = found.socket.as_ref().filter(|_| found.polling.is_on) else { return true };
        // What has come meanwhile is told at once.
        let Err(error) = self.system.watch_endpoint(socket, endpoint) else {
            found.polling.end();
            return true;
        };
        if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOSPC)) {
            log::debug!("an endpoint cannot be watched, which is tried again: {error}");
            self.retry_endpoint_later(endpoint, Again::Watch);
            self.retry_endpoint_later(endpoint, Again::Receive);
        } else {
            self.lose_endpoint(endpoint, errno(&error)); // another one has it by now
        }
        false
    }
}
