//! Connections and listeners that come from other shards, and those that a dying shard leaves to them.
#![forbid(unsafe_code)]

use super::{Flags, Server, Shard, Socket, System};
use crate::abi;
use crate::connection::{Connection, Handle};
use crate::inbox::{Delivery, Unserved};
use crate::limits::ACCEPT_RETRY_MS;
use crate::net::addresses::Peer;
use crate::system::Left;
use std::mem;
use std::time::Duration;

impl<S: System> Shard<S> {
    /// Takes what other threads handed over.
    pub(super) fn take_deliveries(&mut self) {
        while let Some(delivery) = self.system.delivery() {
            match delivery {
                Delivery::Connection(Unserved { server, fd, peer, tls }) => {
                    if let Some(server) = self.local_number(server) {
                        self.metrics.add(abi::METRIC_TAKEN_OVER, 1);
                        log::debug!(peer:% = peer; "the shard takes a connection over");
                        let socket = self.system.adopt(fd);
                        self.open(socket, peer, server, tls);
                    } else {
                        debug_assert!(false, "a connection was handed over for a server that is not served");
                    }
                }
                Delivery::Adopt { server, listener } => self.adopt(server, listener),
                Delivery::Release(listener) => self.release(&listener),
            }
        }
    }

    fn adopt(&mut self, number: u32, listener: S::Listener) {
        let Some(server) = self.local_number(number) else { return };
        log::debug!(server = number; "the shard adopts a listener");
        if let Err(error) = self.listen(server, listener.clone()) {
            log::warn!(server = number, "retryMs" = ACCEPT_RETRY_MS; "an adopted listener cannot be watched: {error}");
            // Out of watches or memory. Nobody else accepts from it, so it is tried again.
            self.adoptions.push((number, listener));
            self.accept_retry_at = Some(self.now + Duration::from_millis(ACCEPT_RETRY_MS));
        }
    }

    /// Tries again to watch listeners that could not be watched.
    pub(super) fn retry_adoptions(&mut self) {
        for (server, listener) in mem::take(&mut self.adoptions) {
            self.adopt(server, listener);
        }
    }

    fn release(&mut self, listener: &S::Listener) {
        log::debug!("the shard releases a listener that it had adopted");
        self.adoptions.retain(|(_, adopted)| adopted != listener);
        self.let_go(|listening, _| listening.listener == *listener);
    }

    fn local_number(&self, number: u32) -> Option<u16> {
        self.servers.iter().find(|(_, server)| server.number == number).map(|(&id, _)| id)
    }

    /// Gives a new connection to a shard that has far fewer; gives it back when there is none.
    pub(super) fn relieve(&mut self, socket: S::Socket, peer: Peer, server: u16) -> Option<S::Socket> {
        let Some(server) = self.servers.get(&server) else { return Some(socket) };
        match self.system.relieve(server.number, socket, peer) {
            Ok(()) => None,
            Err((socket, ask_again_in)) => {
                self.relief_in = ask_again_in;
                Some(socket)
            }
        }
    }

    /// JavaScript ends, so what is new is for other shards: listeners, and connections that it has not seen. Should it go on
    /// for a moment, nothing of them is announced to it; `withdraw` is called with those that were, which it may not have
    /// come by yet.
    pub fn retire(&mut self, mut withdraw: impl FnMut(Handle)) -> Left<S> {
        self.adoptions.clear();
        self.let_go(|listening, servers| servers.get(&listening.server).is_some_and(Server::is_shared));
        self.take_unserved(|handle, _, announced| {
            if announced {
                withdraw(handle);
            }
            true
        })
    }

    /// The shard dies with its connections. Those that JavaScript has not seen yet can be served by another; the others end
    /// by a reset, so that their peers can tell it from an orderly end.
    pub fn abandon(&mut self) -> Left<S> {
        let unserved = self.take_unserved(|_, _, _| true);
        let mut resets = 0;
        for connection in self.connections.iter_mut() {
            let Some(socket) = connection.socket.take() else { continue };
            if connection.flags.has(Flags::CONNECTING) {
                continue; // nobody's connection yet
            }
            resets += 1;
            self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, 1);
            self.metrics.add(abi::METRIC_RESETS_SHARD_DEATH, 1);
            socket.reset_on_close();
        }
        log::debug!(connections = resets; "the shard ends: its connections are reset");
        unserved
    }

    /// Takes out what JavaScript has not seen yet, of which nothing was read but by its TLS, as if it had never been here: those for which
    /// `may` says so, by handle, the server's number in the process, and whether it was announced. Never connections of a
    /// server that is this thread's own affair.
    pub fn take_unserved(&mut self, mut may: impl FnMut(Handle, u32, bool) -> bool) -> Left<S> {
        let mut taken: Vec<Handle> = Vec::new();
        for (handle, connection) in self.connections.iter() {
            let shared = self.servers.get(&connection.server).filter(|server| server.is_shared());
            if connection.socket.is_some()
                && !connection.flags.has(Flags::STARTED)
                && shared.is_some_and(|server| {
                    may(handle, server.number, !connection.flags.has(Flags::UNANNOUNCED))
                })
            {
                taken.push(handle);
            }
        }
        let mut unserved = Vec::with_capacity(taken.len());
        for handle in taken {
            let Some(Connection { socket: Some(socket), peer, server, tls, flags, .. }) =
                self.connections.remove(handle)
            else {
                continue;
            };
            let Some(server) = self.servers.get_mut(&server) else { continue };
            server.handshakes = server.handshakes.saturating_sub(usize::from(flags.has(Flags::HANDSHAKING)));
            server.accepted -= 1; // neither announced nor to be announced any more
            unserved.push(Unserved { server: server.number, fd: self.system.release(socket), peer, tls });
        }
        self.metrics.add(abi::METRIC_CONNECTIONS_HANDED_OVER, unserved.len() as u64);
        if !unserved.is_empty() {
            log::debug!(connections = unserved.len(); "connections that JavaScript has not seen are left to other shards");
        }
        unserved
    }
}
