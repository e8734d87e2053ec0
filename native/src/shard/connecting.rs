//! Connections to others: what was asked for by a number, and ends with one event, connected or failed.
#![forbid(unsafe_code)]

use super::{Flags, Handle, Shard, Socket, Source, System};
use crate::abi;
use crate::error::errno;
use crate::net::addresses::Peer;
use crate::system::Readiness;
use std::time::Instant;

impl<S: System> Shard<S> {
    /// Takes a socket that connects, or is connected (`done`), on behalf of a server of this thread's own, under the number
    /// by which it was asked for. One event follows: that it is connected, or why not.
    pub fn connect(
        &mut self,
        now: Instant,
        request: u32,
        server: u16,
        socket: S::Free,
        peer: Peer,
        done: bool,
    ) {
        self.set_time(now);
        let Some(limits) = self.servers.get(&server).map(|server| server.limits) else {
            debug_assert!(false, "a connection was asked for on behalf of a server that is not known");
            return;
        };
        let flags = Flags::UNANNOUNCED.and(Flags::CONNECTING).and(match peer {
            Peer::Writer => Flags::READ_PIPE,
            Peer::Reader => Flags::WRITE_PIPE,
            _ => Flags::default(),
        });
        let Some(handle) = self.enter(flags, server, limits, request, peer) else {
            self.connect_failed(request, libc::ENFILE, abi::CALL_SOCKET);
            return;
        };
        self.requests.insert(request, handle);
        let session = self.session_of_request(request);
        if let Some(connection) = self.connections.get_mut(handle) {
            connection.tls = session;
        }
        let socket = self.system.adopt(socket);
        match self.system.watch(socket, Source::Connection(handle)) {
            Ok(socket) => {
                // That the reader of a pipe is gone is told as room is.
                if !done || peer == Peer::Reader {
                    self.system.await_room(&socket);
                }
                if let Some(connection) = self.connections.get_mut(handle) {
                    connection.socket = Some(socket);
                }
                if done {
                    self.is_connected(handle);
                }
            }
            Err(error) => self.give_up(handle, errno(&error), abi::CALL_WATCH),
        }
    }

    /// An attempt did not come as far as a socket that connects.
    pub fn connect_failed(&mut self, request: u32, errno: i32, call: i32) {
        self.metrics.add(abi::METRIC_CONNECTS_FAILED, 1);
        _ = self.session_of_request(request);
        self.connect_failures.push_back((request, errno, call));
    }

    /// Calls a request off: it ends with ECANCELED, unless it has ended already.
    pub fn cancel_connect(&mut self, request: u32) {
        _ = self.session_of_request(request); // of one that never began
        if let Some(&handle) = self.requests.get(&request)
            && let Some(connection) = self.connections.get(handle)
        {
            if connection.flags.has(Flags::CONNECTING) {
                self.give_up(handle, libc::ECANCELED, abi::CALL_CONNECT);
            } else if connection.flags.has(Flags::HANDSHAKING) {
                self.reset(handle, libc::ECANCELED); // it is not counted as one
            }
        }
    }

    /// The kernel has something to say of a socket that connects.
    pub(super) fn on_connecting(&mut self, handle: Handle, readiness: Readiness) {
        if !(readiness.writable || readiness.failed || readiness.read_closed) {
            return;
        }
        // Writable without more is connected; only what may have failed is asked.
        let failure = if readiness.failed || readiness.read_closed {
            let socket = self.connections.get(handle).and_then(|connection| connection.socket.as_ref());
            socket.and_then(Socket::take_error)
        } else {
            None
        };
        match failure {
            Some(error) => self.give_up(handle, errno(&error), abi::CALL_CONNECT),
            None => self.is_connected(handle),
        }
    }

    fn is_connected(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.flags.clear(Flags::CONNECTING);
        self.metrics.add(abi::METRIC_CONNECTIONS_CONNECTED, 1);
        let server = connection.server;
        if connection.tls.is_some() {
            return self.begin_handshake(handle);
        }
        self.signal(handle);
        if let Some(limits) = self.servers.get(&server).map(|server| server.limits) {
            self.set_idle_timeout(handle, limits.idle_timeout_ms);
        }
    }

    fn give_up(&mut self, handle: Handle, errno: i32, call: i32) {
        let Some(connection) = self.connections.remove(handle) else { return };
        self.descriptor_freed = true;
        self.requests.remove(&connection.request);
        self.connect_failed(connection.request, errno, call);
    }
}
