//! A shard as other threads see it.
#![forbid(unsafe_code)]

use crate::abi;
use crate::inbox::{Delivery, Inbox, Unserved};
use crate::limits::{RELIEF_LOOK_MAX, RELIEF_MIN, RELIEF_SHARE, RELIEF_STALL_MS, STALL_MS};
use crate::metrics::Metrics;
use crate::net::addresses::Peer;
use crate::pulse::Pulse;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

static LIVES: AtomicU32 = AtomicU32::new(1);

/// See the module.
#[derive(Debug)]
pub struct ShardLink {
    /// The shard's metrics token, which is its name here; a replacement has the same.
    pub token: u32,
    /// The shard's number, for the log; the token where no supervisor gave it one.
    pub shard: u32,
    /// Which of all shards in this process's life it is.
    pub life: u32,
    /// What it is handed.
    pub inbox: Inbox,
    /// Whether it turns.
    pub pulse: Pulse,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// Shards that serve the same servers, by the servers' numbers. The guardian writes it.
    neighbours: Mutex<HashMap<u32, Vec<Weak<ShardLink>>>>,
}

impl ShardLink {
    /// Of the shard of the calling thread, with this metrics token.
    pub fn new(token: u32, metrics: Arc<Metrics>) -> Self {
        Self {
            token,
            shard: crate::log::shard().unwrap_or(token),
            life: LIVES.fetch_add(1, Ordering::Relaxed),
            inbox: Inbox::default(),
            pulse: Pulse::default(),
            metrics,
            neighbours: Mutex::default(),
        }
    }

    /// Whether it turns, as far as new connections are concerned.
    pub fn is_live(&self) -> bool {
        self.turns_within(STALL_MS)
    }

    fn turns_within(&self, ms: u64) -> bool {
        self.pulse.running_for().is_none_or(|running| running < Duration::from_millis(ms))
    }

    /// Connections that it has or is about to have.
    pub fn load(&self) -> u64 {
        let gone = self.metrics.read(abi::METRIC_CONNECTIONS_CLOSED)
            + self.metrics.read(abi::METRIC_CONNECTIONS_HANDED_OVER);
        let made = self.metrics.read(abi::METRIC_CONNECTIONS_ACCEPTED)
            + self.metrics.read(abi::METRIC_CONNECTIONS_CONNECTED);
        made.saturating_sub(gone) + self.inbox.len() as u64
    }

    /// Who else serves a server from now on.
    pub fn set_neighbours(&self, server: u32, others: Vec<Weak<ShardLink>>) {
        let mut neighbours = self.neighbours.lock();
        if others.is_empty() {
            neighbours.remove(&server);
        } else {
            neighbours.insert(server, others);
        }
    }

    /// Hands a connection to a neighbour when this shard has far more than the one with the fewest: the kernel spreads
    /// connections by a hash of their addresses, which is even only on average. Gives it back when that is not so,
    /// with the number of accepted connections after which to ask again.
    pub fn relieve(&self, connection: Unserved) -> Result<(), (Unserved, u64)> {
        let own = self.load();
        // Held to the end: once the guardian has told us that a neighbour serves no more, it is handed nothing more.
        let neighbours = self.neighbours.lock();
        let others = || {
            let links = neighbours.get(&connection.server).into_iter().flatten().filter_map(Weak::upgrade);
            links.map(|link| (link.load(), link))
        };
        let Some(fewest) = others().map(|(load, _)| load).min() else {
            return Err((connection, RELIEF_LOOK_MAX));
        };
        let far_fewer = others().filter(|&(load, _)| relief_bound(load) <= own);
        let able = far_fewer.filter(|(_, link)| link.turns_within(RELIEF_STALL_MS));
        let Some((_, neighbour)) = able.min_by_key(|&(load, _)| load) else {
            let missing = relief_bound(fewest).saturating_sub(own);
            return Err((connection, missing.clamp(1, RELIEF_LOOK_MAX)));
        };
        match neighbour.inbox.push(Delivery::Connection(connection)) {
            Err(Delivery::Connection(connection)) => Err((connection, 1)),
            _ => {
                log::debug!("aboutShard" = neighbour.shard; "a new connection is given to a shard that has far fewer");
                Ok(())
            }
        }
    }
}

/// As [`ShardLink::relieve`], for a shard that may have no link.
pub fn relieve<K: Into<OwnedFd> + From<OwnedFd>>(
    link: Option<&ShardLink>,
    server: u32,
    socket: K,
    peer: Peer,
) -> Result<(), (K, u64)> {
    let Some(link) = link else { return Err((socket, RELIEF_LOOK_MAX)) };
    let relieved = link.relieve(Unserved { server, fd: socket.into(), peer, tls: None });
    relieved.map_err(|(Unserved { fd, .. }, ask_again_in)| (fd.into(), ask_again_in))
}

/// How many connections a shard has at least to give some away to one that has `fewest`.
fn relief_bound(fewest: u64) -> u64 {
    fewest + RELIEF_MIN + fewest / RELIEF_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stream;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    const SERVER: u32 = 7;

    fn link(token: u32, open: u64) -> Arc<ShardLink> {
        let link = Arc::new(ShardLink::new(token, Arc::default()));
        link.metrics.add(abi::METRIC_CONNECTIONS_ACCEPTED, open);
        link
    }

    fn connection() -> Unserved {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (fd, peer) = stream::accept(listener.as_fd()).unwrap();
        Unserved { server: SERVER, fd, peer, tls: None }
    }

    #[test]
    fn a_shard_gives_connections_away_only_when_another_has_far_fewer() {
        let (many, few) = (link(1, 600), link(2, 500));
        many.set_neighbours(SERVER, vec![Arc::downgrade(&few)]);
        few.set_neighbours(SERVER, vec![Arc::downgrade(&many)]);
        let (_, ask_again_in) = few.relieve(connection()).unwrap_err();
        assert_eq!(ask_again_in, RELIEF_LOOK_MAX);
        let mut given = 0;
        while many.relieve(connection()).is_ok() {
            given += 1;
        }
        let bound = RELIEF_MIN + (500 + given) / RELIEF_SHARE;
        assert_eq!(500 + given, 600 - bound + 1, "until what they have differs by less than the bound");
        assert_eq!(few.load(), 500 + given);
    }

    #[test]
    fn nothing_is_given_to_a_shard_that_is_gone() {
        let (many, few) = (link(1, 600), link(2, 0));
        many.set_neighbours(SERVER, vec![Arc::downgrade(&few)]);
        few.inbox.close();
        assert_eq!(many.relieve(connection()).unwrap_err().1, 1);
        drop(few);
        assert!(many.relieve(connection()).is_err());
    }
}
