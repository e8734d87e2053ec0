//! What nothing tells of is tried again after a pause, which doubles as long as nothing comes of it.

use super::{Datagrams, Shard, System};
use crate::error::errno;
use crate::limits::{DATAGRAM_RETRY_MAX_MS, DATAGRAM_RETRY_MS};
use std::mem;
use std::time::{Duration, Instant};

/// What is to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// To receive.
    Receive,
    /// To send what is queued.
    Send,
    /// To be told of failures, or of anything.
    Watch,
}

/// An endpoint's.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    /// The pause before that; 0: there was none yet.
    pause_ms: u64,
    receives: bool,
    sends: bool,
    watches: bool,
    /// To receive has failed, and not succeeded since.
    receiving_failed: bool,
}

impl Retry {
    /// Something was done: the next pause is a short one.
    pub(super) fn succeeded(&mut self) {
        self.pause_ms = 0;
    }

    /// Something was received.
    pub(super) fn received(&mut self) {
        if mem::take(&mut self.receiving_failed) {
            self.succeeded();
        }
    }

    fn later(&mut self, now: Instant, again: Again) -> Instant {
        match again {
            Again::Receive => (self.receives, self.receiving_failed) = (true, true),
            Again::Send => self.sends = true,
            Again::Watch => self.watches = true,
        }
        *self.at.get_or_insert_with(|| {
            self.pause_ms = (self.pause_ms * 2).clamp(DATAGRAM_RETRY_MS, DATAGRAM_RETRY_MAX_MS);
            now + Duration::from_millis(self.pause_ms)
        })
    }
}

impl Datagrams {
    /// Time alone makes something to do then.
    pub(super) fn list_timed(&mut self, endpoint: u32, at: Instant) {
        let Some(found) = self.get(endpoint) else { return };
        if !mem::replace(&mut found.listed_timed, true) {
            self.timed.push(endpoint);
        }
        self.due_at = Some(self.due_at.map_or(at, |due_at| due_at.min(at)));
    }
}

impl<S: System> Shard<S> {
    pub(super) fn retry_endpoint_later(&mut self, endpoint: u32, again: Again) {
        let now = self.now;
        if let Some(at) = self.datagrams.get(endpoint).map(|found| found.retry.later(now, again)) {
            self.datagrams.list_timed(endpoint, at);
        }
    }

    /// Time has passed: tries again what nothing tells of.
    pub(in super::super) fn retry_endpoints(&mut self, now: Instant) {
        if self.datagrams.due_at.is_none_or(|at| at > now) {
            return;
        }
        self.datagrams.due_at = None;
        for endpoint in mem::take(&mut self.datagrams.timed) {
            let Some(found) = self.datagrams.get(endpoint) else { continue };
            found.listed_timed = false;
            if found.retry.at.is_some_and(|at| at <= now) {
                found.retry.at = None;
                let watches = mem::take(&mut found.retry.watches);
                let sends = mem::take(&mut found.retry.sends);
                let receives = mem::take(&mut found.retry.receives);
                found.readable |= receives;
                if watches {
                    self.rewatch_endpoint(endpoint);
                }
                if receives {
                    self.resume_endpoint(endpoint);
                }
                if sends {
                    self.send_queued_datagrams(endpoint);
                }
                // Of the others the outcome is yet to come.
                if sends
                    && !watches
                    && !receives
                    && let Some(found) = self.datagrams.get(endpoint)
                    && found.retry.at.is_none()
                {
                    found.retry.succeeded();
                }
            }
            let Some(found) = self.datagrams.get(endpoint) else { continue };
            if found.closes_at.is_some_and(|at| at <= now) {
                self.lose_endpoint(endpoint, libc::ETIMEDOUT);
            } else if let Some(at) = found.retry.at.into_iter().chain(found.closes_at).min() {
                self.datagrams.list_timed(endpoint, at);
            }
        }
    }

    /// Watches it anew, or loses it.
    pub(super) fn rewatch_endpoint(&mut self, endpoint: u32) {
        if !self.watch_again(endpoint) {
            return; // as it is, until that is tried again
        }
        let Some(found) = self.datagrams.get(endpoint) else { return };
        let Some(socket) = &found.socket else { return };
        if let Err(error) = self.system.rewatch_endpoint(socket, endpoint, found.awaits_room) {
            self.lose_endpoint(endpoint, errno(&error));
        }
    }
}
