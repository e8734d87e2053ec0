//! What other threads hand to a shard: connections that it shall serve, and listeners to accept from for a while.
#![forbid(unsafe_code)]

use crate::limits::INBOX_MAX;
use crate::net::addresses::Peer;
use crate::net::listen::Listener;
use crate::tls::session::Session;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

/// A connection that nobody serves yet.
#[derive(Debug)]
pub struct Unserved<F = OwnedFd> {
    /// The server that it came to, by its number in the process.
    pub server: u32,
    /// Non-blocking; nothing was read from it or written to it, but by its TLS.
    pub fd: F,
    /// The other end.
    pub peer: Peer,
    /// Its TLS, if that has begun: then it was read from and written to.
    pub tls: Option<Box<Session>>,
}

/// One item.
#[derive(Debug)]
pub enum Delivery<F = OwnedFd, L = Arc<Listener>> {
    /// Serve this connection.
    Connection(Unserved<F>),
    /// Accept from this listener, too.
    Adopt {
        /// The server's number in the process.
        server: u32,
        /// Its listener.
        listener: L,
    },
    /// Accept from it no more: its own shard does.
    Release(L),
}

/// One shard's. A lock rather than a lock-free queue: it is touched when a shard is in trouble, never on the path of
/// bytes, and closing it must be atomic with the last push.
#[derive(Debug, Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    wake: OnceLock<Wake>,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Delivery>,
    closed: bool,
}

struct Wake(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Wake {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Wake")
    }
}

impl Inbox {
    /// How the owner's engine is woken; set once, by the engine.
    pub fn on_delivery(&self, wake: impl Fn() + Send + Sync + 'static) {
        _ = self.wake.set(Wake(Box::new(wake)));
    }

    /// Hands something over; gives it back when the shard is gone, or, a connection, when as many as it may hold wait.
    pub fn push(&self, item: Delivery) -> Result<(), Delivery> {
        let mut queue = self.queue.lock();
        let full = matches!(item, Delivery::Connection(_)) && queue.items.len() >= INBOX_MAX;
        if queue.closed || full {
            return Err(item);
        }
        queue.items.push_back(item);
        let first = queue.items.len() == 1;
        drop(queue);
        if first && let Some(wake) = self.wake.get() {
            wake.0();
        }
        Ok(())
    }

    /// The next item. Called by the owner.
    pub fn pop(&self) -> Option<Delivery> {
        self.queue.lock().items.pop_front()
    }

    /// Takes the connections of these servers back out.
    pub fn reclaim(&self, of: impl Fn(u32) -> bool) -> Vec<Unserved> {
        let mut queue = self.queue.lock();
        let (mut connections, mut rest) = (Vec::new(), VecDeque::new());
        for item in queue.items.drain(..) {
            match item {
                Delivery::Connection(connection) if of(connection.server) => connections.push(connection),
                other => rest.push_back(other),
            }
        }
        queue.items = rest;
        connections
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.lock().items.len()
    }

    /// Whether it takes no more connections for now.
    pub fn is_full(&self) -> bool {
        self.len() >= INBOX_MAX
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes nothing any more; what was not taken out is for somebody else.
    pub fn close(&self) -> VecDeque<Delivery> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        std::mem::take(&mut queue.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stream;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn connection(server: u32) -> Delivery {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (fd, peer) = stream::accept(listener.as_fd()).unwrap();
        Delivery::Connection(Unserved { server, fd, peer, tls: None })
    }

    fn listener() -> Arc<Listener> {
        let options = crate::net::listen::ListenOptions {
            host: [127, 0, 0, 1].into(),
            port: 0,
            backlog: 1,
            reuse_port: false,
            ipv6_only: false,
            no_delay: true,
            exclusive: false,
        };
        Arc::new(crate::net::listen::bind(&options).unwrap())
    }

    #[test]
    fn connections_can_be_taken_back_and_the_rest_stays() {
        let inbox = Inbox::default();
        for item in [connection(1), connection(2), Delivery::Release(listener()), connection(1)] {
            inbox.push(item).unwrap();
        }
        assert_eq!(inbox.reclaim(|server| server == 1).len(), 2);
        assert!(matches!(inbox.pop(), Some(Delivery::Connection(Unserved { server: 2, .. }))));
        assert!(matches!(inbox.pop(), Some(Delivery::Release(_))));
        assert!(inbox.pop().is_none());
    }

    #[test]
    fn it_takes_no_more_connections_than_its_bound_and_nothing_once_closed() {
        let (inbox, listener) = (Inbox::default(), listener());
        let release = || Delivery::Release(listener.clone());
        for _ in 0..INBOX_MAX {
            inbox.push(release()).unwrap();
        }
        assert!(inbox.push(connection(1)).is_err());
        inbox.push(release()).unwrap();
        assert_eq!(inbox.close().len(), INBOX_MAX + 1);
        assert!(inbox.push(release()).is_err());
    }
}
