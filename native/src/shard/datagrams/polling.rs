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

    /// There was nothing; whether it goes on all the same: for a moment, and as long as there is something every other time, for a
    /// call in vain costs a turn of libuv's loop.
    fn goes_on(&mut self, now: Instant) -> bool {
        if !self.is_on {
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        self.in_vain = self.in_vain.saturating_add(1);
        now.saturating_duration_since(since) < Duration::from_micros(DATAGRAM_POLLING_US)
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

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// Something comes each `gap`, and it is asked each `look` while it is not watched; how many calls, and how many of them in vain,
    /// until it is watched again, or after a thousand that were not.
    fn period(polling: &mut Polling, now: &mut Instant, gap: Duration, look: Duration) -> (u32, u32) {
        while !polling.received(*now) {
            *now += gap;
        }
        polling.begin();
        let (mut received, mut in_vain, mut due) = (0, 0, *now + gap);
        while received < 1000 {
            *now += look;
            if *now >= due {
                polling.received(*now);
                (received, due) = (received + 1, *now + gap);
            } else {
                in_vain += 1;
                if !polling.goes_on(*now) {
                    polling.end();
                    return (received, in_vain);
                }
            }
        }
        (received, in_vain)
    }

    #[test]
    fn it_goes_on_where_there_is_something_every_other_time_and_not_where_it_is_asked_in_vain() {
        let mut now = Instant::now();
        let mut polling = Polling::default();
        assert_eq!(period(&mut polling, &mut now, 8 * US, 4 * US), (1000, 1000));
        polling = Polling::default();
        let (received, in_vain) = period(&mut polling, &mut now, 20 * US, 4 * US);
        assert!(received < 10 && in_vain < 40, "{in_vain} calls in vain, {received} others");
        assert_eq!(polling.needed, 2 * DATAGRAM_POLLING_AFTER);
    }

    #[test]
    fn it_ends_after_a_moment_without_anything_and_takes_more_each_time_until_it_is_worth_it() {
        let mut now = Instant::now();
        let mut polling = Polling::default();
        for doubled in 1..20 {
            let (received, in_vain) = period(&mut polling, &mut now, 100 * US, 4 * US);
            assert_eq!((received, in_vain), (0, 9));
            let expected = DATAGRAM_POLLING_AFTER << doubled.min(8);
            assert_eq!(polling.needed, expected.min(DATAGRAM_POLLING_AFTER_MAX));
        }
        period(&mut polling, &mut now, US, US);
        for _ in 0..9 {
            now += 4 * US;
            polling.goes_on(now);
        }
        polling.end();
        assert_eq!(polling.needed, DATAGRAM_POLLING_AFTER);
    }

    #[test]
    fn who_ends_it_while_there_is_something_makes_it_take_no_more() {
        let mut polling = Polling::default();
        polling.begin();
        polling.received(Instant::now());
        polling.end();
        assert_eq!((polling.needed, polling.is_on()), (DATAGRAM_POLLING_AFTER, false));
    }

    #[test]
    fn what_comes_seldom_is_never_in_a_row() {
        let (mut polling, now) = (Polling::default(), Instant::now());
        let gap = Duration::from_micros(DATAGRAM_POLLING_GAP_US);
        assert!((0..1000).all(|number| !polling.received(now + number * gap)));
    }
}
