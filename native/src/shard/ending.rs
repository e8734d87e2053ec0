//! Ends of connections: lost, reset, or closed without destroying what is on its way.
#![forbid(unsafe_code)]

use super::{Flags, Handle, Shard, Socket, Source, System};
use crate::abi;
use crate::limits::{LINGER_MS, LINGERING_MAX, READS_PER_BATCH};
use crate::tls::failure::is_of_tls;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

impl<S: System> Shard<S> {
    /// A call has failed, so the connection is given up. By a reset: an error need not be the connection's own (ENOMEM,
    /// ENOBUFS), and the peer must not take what came until then for all there was.
    pub(super) fn lose(&mut self, handle: Handle, errno: i32) {
        self.reset(handle, errno);
    }

    /// Ends a connection by a reset.
    pub(super) fn reset(&mut self, handle: Handle, reason: i32) {
        const PIPE: Flags = Flags::READ_PIPE.and(Flags::WRITE_PIPE);
        if let Some(connection) = self.connections.get(handle)
            && let Some(socket) = connection.socket.as_ref()
        {
            // A socket that is used as a pipe may be shared with others.
            if !connection.flags.has(PIPE) {
                socket.reset_on_close();
            }
            log::debug!(connection = handle.word(), reason:% = Reason(reason); "a connection is reset");
        }
        self.take_socket(handle, reason);
    }

    /// Ends a connection after its queue is empty, without destroying what the peer has not received yet.
    pub(super) fn close(&mut self, handle: Handle) {
        self.close_for(handle, 0);
    }

    /// Likewise, for a reason.
    pub(super) fn close_for(&mut self, handle: Handle, reason: i32) {
        let Some(connection) = self.connections.get(handle) else { return };
        // Who closes a pipe that is only read wants no more, and sends nothing. One that is written is with the kernel, and may be
        // shared with others (standard output): it is not shut down.
        let mut heard_end = connection.flags.has(Flags::EOF.and(Flags::READ_PIPE).and(Flags::WRITE_PIPE));
        if connection.tls.is_some() {
            // The end that was heard is TLS's, and more may come behind it; unless the kernel has the other end, too.
            let unread = connection.socket.as_ref().is_none_or(Socket::has_unread);
            heard_end = heard_end && connection.flags.has(Flags::READ_CLOSED) && !unread;
        }
        let is_unix = connection.peer.is_unix();
        let Some(socket) = self.take_socket(handle, reason) else { return };
        // What is sent over a Unix socket is with the peer; unread input makes its end a reset all the same.
        let may_lose = || if is_unix { socket.has_unread() } else { socket.close_may_lose_bytes() };
        if heard_end || self.lingering.len() >= LINGERING_MAX || !may_lose() {
            return;
        }
        let id = self.lingering_next;
        // A pipe that is no socket cannot be shut down: its bytes are with the kernel, and stay there.
        if socket.shutdown_write().is_ok()
            && let Ok(socket) = self.system.watch(socket, Source::Lingering(id))
        {
            log::debug!(connection = handle.word(), linger = id; "a closed connection lingers until its peer has all");
            self.lingering_next = self.lingering_next.wrapping_add(1);
            self.lingering.insert(id, socket);
            self.lingering_until.push_back((self.now + Duration::from_millis(LINGER_MS), id));
            self.drain_lingering(id);
        }
    }

    pub(super) fn take_socket(&mut self, handle: Handle, reason: i32) -> Option<S::Socket> {
        let socket = self.connections.get_mut(handle)?.socket.take()?;
        self.without_socket(handle, reason);
        Some(socket)
    }

    /// The connection is over: its socket is taken out.
    pub(super) fn without_socket(&mut self, handle: Handle, reason: i32) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.flags.set(Flags::LOST);
        let reason = if connection.flags.has(Flags::HANDSHAKING) {
            self.handshake_is_over(handle, reason)
        } else {
            reason
        };
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.reason = reason;
        if let Some(mut queue) = connection.queue.take() {
            queue.clear(&mut self.released_pins);
        }
        if connection.flags.has(Flags::SUBSCRIBED) {
            self.topics.leave(handle);
        }
        self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, 1);
        if let Some(metric) = reset_metric(reason) {
            self.metrics.add(metric, 1);
        }
        self.descriptor_freed = true;
        self.signal(handle);
    }

    /// Discards what a closed connection still receives, until its end.
    pub(super) fn drain_lingering(&mut self, id: u32) {
        let Some(socket) = self.lingering.get(&id) else { return };
        let mut discarded = [MaybeUninit::uninit(); 16 * 1024];
        for _ in 0..READS_PER_BATCH {
            match socket.receive(&mut discarded) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => {
                    self.end_lingering(id);
                    return;
                }
            }
        }
        if !self.lingering_ready.contains(&id) {
            self.lingering_ready.push(id);
        }
    }

    pub(super) fn end_lingering(&mut self, id: u32) {
        if self.lingering.remove(&id).is_some() {
            self.descriptor_freed = true;
            self.lingering_until.retain(|&(_, other)| other != id);
        }
    }
}

/// A reason (errno or CLOSE_) for people.
struct Reason(i32);

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            abi::CLOSE_WRITE_OVERFLOW => formatter.write_str("more was written than it may queue"),
            abi::CLOSE_DETACHED => formatter.write_str("memory that was to be sent is gone"),
            abi::CLOSE_PROGRAM => formatter.write_str("the program aborted it"),
            abi::CLOSE_SERVER => formatter.write_str("its server is stopped by force"),
            abi::CLOSE_IDLE => formatter.write_str("it was idle"),
            reason if is_of_tls(reason) => write!(formatter, "TLS failed ({reason})"),
            errno => io::Error::from_raw_os_error(errno).fmt(formatter),
        }
    }
}

/// What counts connections that end for this reason (errno or CLOSE_); `None` for an orderly end.
fn reset_metric(reason: i32) -> Option<i32> {
    match reason {
        0 | libc::ECANCELED => None,
        // It has counters of its own.
        reason if is_of_tls(reason) => None,
        abi::CLOSE_WRITE_OVERFLOW => Some(abi::METRIC_WRITE_OVERFLOWS),
        abi::CLOSE_DETACHED => Some(abi::METRIC_RESETS_DETACHED),
        abi::CLOSE_PROGRAM => Some(abi::METRIC_RESETS_PROGRAM),
        abi::CLOSE_SERVER => Some(abi::METRIC_RESETS_SERVER),
        abi::CLOSE_IDLE => Some(abi::METRIC_RESETS_IDLE_TIMEOUT),
        libc::ECONNRESET | libc::EPIPE => Some(abi::METRIC_RESETS_PEER),
        libc::ETIMEDOUT => Some(abi::METRIC_RESETS_TIMED_OUT),
        _ => Some(abi::METRIC_RESETS_OTHER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_counted_by_its_cause_but_an_orderly_one() {
        assert_eq!(reset_metric(0), None);
        assert_eq!(reset_metric(libc::EPIPE), Some(abi::METRIC_RESETS_PEER));
        assert_eq!(reset_metric(libc::ECONNRESET), Some(abi::METRIC_RESETS_PEER));
        assert_eq!(reset_metric(libc::ETIMEDOUT), Some(abi::METRIC_RESETS_TIMED_OUT));
        assert_eq!(reset_metric(libc::EHOSTUNREACH), Some(abi::METRIC_RESETS_OTHER));
    }
}
