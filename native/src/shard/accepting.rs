//! Listeners, and connections coming in by them.
#![forbid(unsafe_code)]

use super::{
    Connection, Flags, Handle, Listening, NO_RECORD, Server, ServerLimits, Servers, Shard, Source, System,
};
use crate::abi;
use crate::error::errno;
use crate::limits::{ACCEPT_RETRY_MS, ACCEPTS_AT_STOP, ACCEPTS_PER_BATCH};
use crate::net::addresses::Peer;
use crate::net::stream::{self, AcceptFailure};
use crate::tls::session::Session;
use std::io;
use std::mem;
use std::time::{Duration, Instant};

impl<S: System> Shard<S> {
    /// Makes a server known; `number` is its number in the process, 0 for one that is this thread's own affair.
    pub fn add_server(&mut self, server: u16, number: u32, limits: ServerLimits) {
        self.servers.insert(server, Server { number, limits, accepted: 0, security: None, handshakes: 0 });
    }

    /// Forgets a server that has neither listeners nor connections (any more), so that its number may be used again.
    pub fn remove_server(&mut self, server: u16) {
        debug_assert!(
            !self.listeners.iter().flatten().any(|l| l.server == server),
            "the server still listens"
        );
        self.servers.remove(&server);
        self.accept_errors.retain(|&(of, ..)| of != server);
    }

    /// Accepts from a listener.
    pub fn listen(&mut self, server: u16, listener: S::Listener) -> io::Result<()> {
        let index = self.listeners.iter().position(Option::is_none).unwrap_or(self.listeners.len());
        self.system.watch_listener(&listener, index as u32)?;
        // What was queued before we watched is announced by an edge on epoll, but need not be elsewhere: look.
        log::debug!(place = index; "the shard accepts from a listener");
        let entry = Some(Listening { server, listener, readable: true, paused: false, told: false });
        match self.listeners.get_mut(index) {
            Some(place) => *place = entry,
            None => self.listeners.push(entry),
        }
        Ok(())
    }

    /// Takes what waits in a server's queues, then lets go of its listeners. How many connections the server had in all:
    /// each of them is or will be announced.
    pub fn unlisten(&mut self, now: Instant, server: u16) -> u64 {
        self.set_time(now);
        self.take_deliveries();
        if let Some(number) = self.servers.get(&server).map(|server| server.number) {
            self.adoptions.retain(|&(of, _)| of != number);
        }
        for index in 0..self.listeners.len() {
            if self.listeners[index].as_ref().is_some_and(|l| l.server == server) {
                self.accept(index, ACCEPTS_AT_STOP);
            }
        }
        self.let_go(|listening, _| listening.server == server);
        self.servers.get(&server).map_or(0, |server| server.accepted)
    }

    /// Accepts no more from the listeners that are meant.
    pub(super) fn let_go(&mut self, is_meant: impl Fn(&Listening<S::Listener>, &Servers) -> bool) {
        for (index, place) in self.listeners.iter_mut().enumerate() {
            if let Some(listening) = place.take_if(|listening| is_meant(listening, &self.servers)) {
                self.system.unwatch_listener(&listening.listener, index as u32);
                log::debug!(place = index; "the shard accepts from a listener no more");
            }
        }
        // Nothing is to be tried again any more, unless something is.
        if self.adoptions.is_empty() && !self.listeners.iter().flatten().any(|l| l.paused) {
            self.accept_retry_at = None;
        }
    }

    pub(super) fn accept_unless_away(&mut self, index: usize) {
        self.accepting_rests = self.accepting_rests || self.system.is_away();
        if !self.accepting_rests {
            self.accept(index, ACCEPTS_PER_BATCH);
        }
    }

    fn accept(&mut self, index: usize, limit: usize) {
        for _ in 0..limit {
            let Some(server) = self.listeners[index].as_ref().map(|listening| listening.server) else {
                return;
            };
            if limit != ACCEPTS_AT_STOP && self.shakes_enough(server) {
                return; // they wait in the queue until others are done
            }
            let Some(listening) = &mut self.listeners[index] else { return };
            let error = match self.system.accept(&listening.listener) {
                Ok((socket, peer)) => {
                    listening.paused = false;
                    self.relief_in = self.relief_in.saturating_sub(1);
                    let kept =
                        if self.relief_in == 0 { self.relieve(socket, peer, server) } else { Some(socket) };
                    if let Some(socket) = kept {
                        self.open(socket, peer, server, None);
                    }
                    continue;
                }
                Err(error) => error,
            };
            match stream::accept_failure(&error) {
                AcceptFailure::Empty => {
                    // Nothing waits, so nothing is left to be tried again: the next connection is a new edge.
                    listening.readable = false;
                    listening.paused = false;
                    if mem::take(&mut listening.told) {
                        log::info!("accepting goes on, and nobody waits any more");
                    }
                    return;
                }
                AcceptFailure::Connection => self.count_accept_error(errno(&error)),
                AcceptFailure::Exhausted | AcceptFailure::Other => {
                    // The queue keeps what waits. Descriptors may be freed anywhere in the process, which nobody
                    // tells us: so besides one of our own, time is a reason to try again.
                    listening.paused = true;
                    let told = mem::replace(&mut listening.told, true);
                    self.count_accept_error(errno(&error));
                    if !told {
                        log::warn!(errno = errno(&error), "retryMs" = ACCEPT_RETRY_MS; "accepting pauses: {error}");
                        self.accept_errors.push_back((server, errno(&error), true));
                    }
                    self.accept_retry_at = Some(self.now + Duration::from_millis(ACCEPT_RETRY_MS));
                    return;
                }
            }
        }
    }

    fn count_accept_error(&self, errno: i32) {
        self.metrics.add(abi::METRIC_ACCEPT_ERRORS, 1);
        self.metrics.add(accept_error_metric(errno), 1);
    }

    /// Takes a connection, with its TLS if that has begun elsewhere.
    pub(super) fn open(&mut self, socket: S::Socket, peer: Peer, server: u16, tls: Option<Box<Session>>) {
        let Some(limits) = self.servers.get(&server).map(|server| server.limits) else {
            debug_assert!(false, "a listener's server is not known");
            return;
        };
        self.metrics.add(abi::METRIC_CONNECTIONS_ACCEPTED, 1);
        let session = match tls {
            Some(session) => Some(session),
            None => match self.server_session(server) {
                Some(Ok(session)) => Some(session),
                Some(Err(failure)) => {
                    log::error!(peer:% = peer; "a new connection is closed, as it cannot have TLS: {failure}");
                    self.refused(server, libc::EPROTO);
                    return;
                }
                None => None,
            },
        };
        let inserted = self.enter(Flags::UNANNOUNCED, server, limits, 0, peer);
        let Some(handle) = inserted else {
            log::warn!(peer:% = peer; "a new connection is closed: the shard has as many as it can have");
            self.refused(server, libc::ENFILE);
            return;
        };
        match self.system.watch(socket, Source::Connection(handle)) {
            Ok(socket) => {
                if let Some(connection) = self.connections.get_mut(handle) {
                    connection.socket = Some(socket);
                    connection.tls = session;
                }
            }
            Err(error) => {
                // Out of watches or memory: the connection ends before anybody heard of it.
                log::warn!(connection = handle.word(), peer:% = peer; "a new connection is closed, as it cannot be watched: {error}");
                self.connections.remove(handle);
                self.refused(server, errno(&error));
                return;
            }
        }
        if let Some(server) = self.servers.get_mut(&server) {
            server.accepted += 1;
        }
        let shakes = |connection: &Connection<S::Socket>| {
            connection.tls.as_ref().is_some_and(|session| !session.is_established())
        };
        if self.connections.get(handle).is_some_and(shakes) {
            self.begin_handshake(handle);
            return self.send_left_records(handle);
        }
        self.send_left_records(handle);
        self.signal(handle);
        self.set_idle_timeout(handle, limits.idle_timeout_ms);
    }

    /// Enters a connection that has no socket yet; `None` when the table is full. `request` is the number by which it was asked
    /// for, 0 for one that was accepted.
    pub(super) fn enter(
        &mut self,
        flags: Flags,
        server: u16,
        limits: ServerLimits,
        request: u32,
        peer: Peer,
    ) -> Option<Handle> {
        let entered = self.connections.insert(Connection {
            socket: None,
            flags,
            server,
            reason: 0,
            queue: None,
            tls: None,
            owned_flushed: 0,
            read_hint: 0,
            chain_first: NO_RECORD,
            chain_last: NO_RECORD,
            write_high: limits.write_high_bytes,
            write_low: limits.write_low_bytes,
            idle_ticks: 0,
            active_at: self.tick,
            timer_at: 0,
            request,
            peer,
        });
        entered.ok()
    }

    /// An accepted connection could not be kept.
    fn refused(&mut self, server: u16, errno: i32) {
        self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, 1);
        self.count_accept_error(errno);
        self.accept_errors.push_back((server, errno, false));
    }
}

/// What counts failed accepts of this kind.
fn accept_error_metric(errno: i32) -> i32 {
    match errno {
        libc::EMFILE | libc::ENFILE => abi::METRIC_ACCEPT_ERRORS_DESCRIPTORS,
        libc::ENOBUFS | libc::ENOMEM => abi::METRIC_ACCEPT_ERRORS_MEMORY,
        _ => match stream::accept_failure(&io::Error::from_raw_os_error(errno)) {
            AcceptFailure::Connection => abi::METRIC_ACCEPT_ERRORS_ABORTED,
            _ => abi::METRIC_ACCEPT_ERRORS_OTHER,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_accepts_are_counted_by_kind() {
        for (errno, metric) in [
            (libc::EMFILE, abi::METRIC_ACCEPT_ERRORS_DESCRIPTORS),
            (libc::ENFILE, abi::METRIC_ACCEPT_ERRORS_DESCRIPTORS),
            (libc::ENOMEM, abi::METRIC_ACCEPT_ERRORS_MEMORY),
            (libc::ENOBUFS, abi::METRIC_ACCEPT_ERRORS_MEMORY),
            (libc::ECONNABORTED, abi::METRIC_ACCEPT_ERRORS_ABORTED),
            (libc::EPROTO, abi::METRIC_ACCEPT_ERRORS_ABORTED),
            (libc::EBADF, abi::METRIC_ACCEPT_ERRORS_OTHER),
        ] {
            assert_eq!(accept_error_metric(errno), metric, "errno {errno}");
        }
    }
}
