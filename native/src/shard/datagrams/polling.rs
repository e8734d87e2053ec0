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
    /// Calls that have received something: before it is on those in a row, then those since.
    received: u32,
    /// Since it is on, calls that found nothing.
    in_vain: u32,
    /// In a row, until it is on.
    needed: u32,
    received_at: Option<Instant>,
    /// While it is on: since when there has been nothing.
    idle_since: Option<Instant>,
}

impl Default for Polling {
    fn default() -> Self {
        Self {
            is_on: false,
            received: 0,
            in_vain: 0,
            needed: DATAGRAM_POLLING_AFTER,
            received_at: None,
            idle_since: None,
        }
    }
}

impl Polling {
    /// It is not watched: nobody tells when there is something.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Something was received; whether that is so often that it need not be watched.
    fn received(&mut self, now: Instant) -> bool {
        self.idle_since = None;
        let last = self.received_at.replace(now);
        let passed = last.map(|last| now.saturating_duration_since(last));
        let is_soon = passed.is_some_and(|passed| passed < Duration::from_micros(DATAGRAM_POLLING_GAP_US));
        self.received = if is_soon || self.is_on { self.received.saturating_add(1) } else { 0 };
        self.received >= self.needed
    }

    fn begin(&mut self) {
        (self.is_on, self.received, self.in_vain) = (true, 0, 0);
    }

    /// There was nothing; whether it goes on all the same. A call in vain costs a turn of libuv's loop, which is a third of what it
    /// costs to sleep and be woken: so it goes on for as long as there is something every other time.
    fn goes_on(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        self.in_vain = self.in_vain.saturating_add(1);
        self.is_on
            && now.saturating_duration_since(since) < Duration::from_micros(DATAGRAM_POLLING_US)
            && self.in_vain <= self.received.saturating_add(DATAGRAM_POLLING_AFTER)
    }

    /// It is watched again. Where nothing came and it was hardly worth it, it takes more until the next time.
    fn end(&mut self) {
        if self.idle_since.is_some() {
            let was_worth = self.received >= self.in_vain.max(DATAGRAM_POLLING_AFTER);
            let more = (2 * self.needed).min(DATAGRAM_POLLING_AFTER_MAX);
            self.needed = if was_worth { DATAGRAM_POLLING_AFTER } else { more };
        }
        (self.is_on, self.received, self.idle_since) = (false, 0, None);
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

    /// There was nothing. Whether there may be soon, of which nobody tells.
    pub(super) fn note_nothing(&mut self, endpoint: u32) -> bool {
        let now = self.now;
        let goes_on = self.datagrams.get(endpoint).is_some_and(|found| found.polling.goes_on(now));
        if !goes_on {
            self.watch_again(endpoint);
        }
        goes_on
    }

    /// It has nothing, is not to be received from, or waits for room: the kernel tells of it from now on. Where that has no memory for
    /// it, both are tried again later. False when it is not watched.
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
