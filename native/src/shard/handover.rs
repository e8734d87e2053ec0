//! Connections and listeners that come from other shards, and those that a dying shard leaves to them.
#![forbid(unsafe_code)]

use super::{Flags, Registrar, Shard};
use crate::abi;
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
        for place in &mut self.listeners {
            if place.as_ref().is_some_and(|listening| Arc::ptr_eq(&listening.listener, listener)) {
                *place = None;
                // It fails only when the descriptor is not under watch, which is what is wanted.
                _ = registrar.deregister(listener.as_fd());
            }
        }
        self.forget_accept_retry();
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

    /// The shard dies with its connections. Those that JavaScript has not seen yet, of which nothing was read, can be
    /// served by another; the others end by a reset, so that their peers can tell it from an orderly end.
    pub fn abandon(&mut self) -> Vec<Unserved> {
        let mut unserved = Vec::new();
        let servers = &self.servers;
        for connection in self.connections.iter_mut() {
            let Some(fd) = connection.fd.take() else { continue };
            let server = servers.get(&connection.server).map(|server| server.number);
            match server {
                // Those of a server that is this thread's own affair are for nobody else.
                Some(server) if server != 0 && !connection.flags.has(Flags::STARTED) => {
                    self.metrics.add(abi::METRIC_CONNECTIONS_HANDED_OVER, 1);
                    unserved.push(Unserved { server, fd, peer: connection.peer });
                }
                _ => {
                    self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, 1);
                    self.metrics.add(abi::METRIC_RESETS_SHARD_DEATH, 1);
                    tcp::reset_on_close(fd.as_fd());
                }
            }
        }
        unserved
    }
}
