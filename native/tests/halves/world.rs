//! What lies around the two halves.

use shardloop_native::audience::Seat;
use shardloop_native::inbox::Delivery;
use shardloop_native::net::addresses::Peer;
use shardloop_native::net::udp::DatagramSocket;
use shardloop_native::shard::Commands;
use shardloop_native::system::{Readiness, Ready, Source, System};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

/// What is watched, and of what something has changed since it was told of last.
#[derive(Default)]
pub struct Watched {
    pub endpoints: BTreeMap<u32, (Arc<DatagramSocket>, bool)>,
    pub changed: BTreeSet<u32>,
}

/// The kernel's sockets of datagrams, of which it is told when the test says that something has changed; and nothing else.
#[derive(Default)]
pub struct Edges {
    pub watched: Rc<RefCell<Watched>>,
    pub seat: Option<Seat>,
    /// In the middle of each turn.
    pub between: Option<Box<dyn FnMut()>>,
}

fn is_ready(fd: BorrowedFd<'_>, events: i16) -> i16 {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid pollfd; it does not wait.
    unsafe { libc::poll(&mut poll, 1, 0) };
    poll.revents & events
}

impl System for Edges {
    type Socket = OwnedFd;
    type Free = OwnedFd;
    type Listener = ();

    fn poll(&mut self, ready: &mut Ready) {
        if let Some(between) = &mut self.between {
            between();
        }
        let mut watched = self.watched.borrow_mut();
        for endpoint in mem::take(&mut watched.changed) {
            let Some((socket, awaits_room)) = watched.endpoints.get(&endpoint) else { continue };
            let told = is_ready(socket.as_fd(), libc::POLLIN | if *awaits_room { libc::POLLOUT } else { 0 });
            let readiness = Readiness {
                readable: told & libc::POLLIN != 0,
                writable: told & libc::POLLOUT != 0,
                ..Readiness::default()
            };
            if told != 0 {
                ready.push((Source::Endpoint(endpoint), readiness));
            }
        }
    }

    fn watch(&mut self, socket: OwnedFd, _: Source) -> io::Result<OwnedFd> {
        Ok(socket)
    }

    fn await_room(&mut self, _: &OwnedFd) {}

    fn watch_listener(&mut self, (): &(), _: u32) -> io::Result<()> {
        Ok(())
    }

    fn unwatch_listener(&mut self, (): &(), _: u32) {}

    fn watch_endpoint(&mut self, socket: &Arc<DatagramSocket>, endpoint: u32) -> io::Result<()> {
        let mut watched = self.watched.borrow_mut();
        let before = watched.endpoints.insert(endpoint, (socket.clone(), false));
        assert!(before.is_none(), "{endpoint} is watched twice");
        watched.changed.insert(endpoint);
        Ok(())
    }

    fn rewatch_endpoint(
        &mut self,
        _: &Arc<DatagramSocket>,
        endpoint: u32,
        awaits_room: bool,
    ) -> io::Result<()> {
        let mut watched = self.watched.borrow_mut();
        watched.endpoints.get_mut(&endpoint).expect("it is watched").1 = awaits_room;
        watched.changed.insert(endpoint);
        Ok(())
    }

    fn unwatch_endpoint(&mut self, _: &Arc<DatagramSocket>, endpoint: u32) {
        self.watched.borrow_mut().endpoints.remove(&endpoint).expect("it is watched");
    }

    fn accept(&mut self, (): &()) -> io::Result<(OwnedFd, Peer)> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn release(&mut self, socket: OwnedFd) -> OwnedFd {
        socket
    }

    fn delivery(&mut self) -> Option<Delivery<OwnedFd, ()>> {
        None
    }

    fn relieve(&mut self, _: u32, socket: OwnedFd, _: Peer) -> Result<(), (OwnedFd, u64)> {
        Err((socket, 1000))
    }

    fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    fn adopt(&mut self, socket: OwnedFd) -> OwnedFd {
        socket
    }
}

pub struct Given(pub Vec<([i32; 4], Vec<u8>)>);

impl Commands for Given {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn record(&self, index: usize) -> [i32; 4] {
        self.0[index].0
    }
    fn bytes(&self, index: usize) -> Option<&[u8]> {
        Some(&self.0[index].1)
    }
}
