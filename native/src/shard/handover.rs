//! Connections and listeners that come from other shards, and those that a dying shard leaves to them.
#![forbid(unsafe_code)]

use super::{Flags, Registrar, Server, Shard};
use crate::abi;
use crate::connection::{Connection, Handle};
use crate::inbox::{Delivery, Unserved};
use crate::limits::ACCEPT_RETRY_MS;
use crate::net::listen::Listener;
use crate::net::tcp;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Shard {
    /// Takes what other threads handed over.
    pub(super) fn take_deliveries(&mut self, registrar: &dyn Registrar) {
        let Some(link) = self.link.clone() else { return };
        while let Some(delivery) = link.inbox.pop() {
            match delivery {
                Delivery::Connection(Unserved { server, fd, peer }) => {
                    if let Some(server) = self.local_number(server) {
                        self.metrics.add(abi::METRIC_TAKEN_OVER, 1);
                        self.open(fd, peer, server, registrar);
                    } else {
                        debug_assert!(false, "a connection was handed over for a server that is not served");
                    }
                }
                Delivery::Adopt { server, listener } => self.adopt(server, listener, registrar),
                Delivery::Release(listener) => self.release(&listener, registrar),
            }
        }
    }

    fn adopt(&mut self, number: u32, listener: Arc<Listener>, registrar: &dyn Registrar) {
        let Some(server) = self.local_number(number) else { return };
        if self.listen(server, listener.clone(), registrar).is_err() {
            // Out of watches or memory. Nobody else accepts from it, so it is tried again.
            self.adoptions.push((number, listener));
            self.accept_retry_at = Some(Instant::now() + Duration::from_millis(ACCEPT_RETRY_MS));
        }
    }

    /// Tries again to watch listeners that could not be watched.
    pub(super) fn retry_adoptions(&mut self, registrar: &dyn Registrar) {
        for (server, listener) in mem::take(&mut self.adoptions) {
            self.adopt(server, listener, registrar);
        }
    }

    fn release(&mut self, listener: &Arc<Listener>, registrar: &dyn Registrar) {
        self.adoptions.retain(|(_, adopted)| !Arc::ptr_eq(adopted, listener));
        self.let_go(registrar, |listening, _| Arc::ptr_eq(&listening.listener, listener));
    }

    fn local_number(&self, number: u32) -> Option<u16> {
        self.servers.iter().find(|(_, server)| server.number == number).map(|(&id, _)| id)
    }

    /// Gives a new connection to a shard that has far fewer; gives it back when there is none.
    pub(super) fn relieve(&mut self, fd: OwnedFd, peer: SocketAddr, server: u16) -> Option<OwnedFd> {
        let (Some(link), Some(server)) = (&self.link, self.servers.get(&server)) else { return Some(fd) };
        match link.relieve(Unserved { server: server.number, fd, peer }) {
            Ok(()) => None,
            Err((Unserved { fd, .. }, ask_again_in)) => {
                self.relief_in = ask_again_in;
                Some(fd)
            }
        }
    }

    /// JavaScript ends, so what is new is for other shards: listeners, and connections that it has not seen. Should it go on
    /// for a moment, nothing of them is announced to it.
    pub fn retire(&mut self, registrar: &dyn Registrar) -> Vec<Unserved> {
        self.adoptions.clear();
        self.let_go(registrar, |listening, servers| {
            servers.get(&listening.server).is_some_and(Server::is_shared)
        });
        let unserved = self.take_unserved();
        for connection in &unserved {
            // It fails only when the descriptor is not under watch, which is what is wanted.
            _ = registrar.deregister(connection.fd.as_fd());
        }
        unserved
    }

    /// The shard dies with its connections. Those that JavaScript has not seen yet can be served by another; the others end
    /// by a reset, so that their peers can tell it from an orderly end.
    pub fn abandon(&mut self) -> Vec<Unserved> {
        let unserved = self.take_unserved();
        for fd in self.connections.iter_mut().filter_map(|connection| connection.fd.take()) {
            self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, 1);
            self.metrics.add(abi::METRIC_RESETS_SHARD_DEATH, 1);
            tcp::reset_on_close(fd.as_fd());
        }
        unserved
    }

    /// Takes out what JavaScript has not seen yet, of which nothing was read, as if it had never been here; but for
    /// connections of a server that is this thread's own affair.
    fn take_unserved(&mut self) -> Vec<Unserved> {
        let is_unserved = |connection: &Connection| {
            connection.fd.is_some()
                && !connection.flags.has(Flags::STARTED)
                && self.servers.get(&connection.server).is_some_and(Server::is_shared)
        };
        let taken: Vec<Handle> = self
            .connections
            .iter()
            .filter(|(_, connection)| is_unserved(connection))
            .map(|(handle, _)| handle)
            .collect();
        let mut unserved = Vec::with_capacity(taken.len());
        for handle in taken {
            let Some(Connection { fd: Some(fd), peer, server, .. }) = self.connections.remove(handle) else {
                continue;
            };
            let Some(server) = self.servers.get_mut(&server) else { continue };
            server.accepted -= 1; // neither announced nor to be announced any more
            unserved.push(Unserved { server: server.number, fd, peer });
        }
        self.metrics.add(abi::METRIC_CONNECTIONS_HANDED_OVER, unserved.len() as u64);
        unserved
    }
}
