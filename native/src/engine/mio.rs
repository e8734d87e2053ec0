//! Readiness on the shard's own thread, by mio: epoll on Linux, kqueue on macOS.
#![forbid(unsafe_code)]

use super::local::Local;
use super::{Look, SocketEngine, Start};
use crate::audience::Seat;
use crate::connection::Handle;
use crate::inbox::Delivery;
use crate::limits::POLL_EVENTS;
use crate::link::{self, ShardLink};
use crate::metrics::Metrics;
use crate::net::addresses::Peer;
use crate::net::listen::Listener;
use crate::net::stream;
use crate::net::udp::DatagramSocket;
use crate::shard::EndpointLimits;
use crate::system::{Readiness, Ready, Source, System};
use crate::write_queue::{FileRange, PinnedMemory};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The engine.
pub type MioEngine = Local<MioSystem>;

impl MioEngine {
    /// Opens a poll. With a link, other threads may hand it connections.
    pub fn open(metrics: Arc<Metrics>, link: Option<Arc<ShardLink>>) -> io::Result<Self> {
        Ok(Self::new(MioSystem::new(link)?, metrics, Instant::now()))
    }
}

/// The kernel's sockets, watched by a poll.
#[derive(Debug)]
pub struct MioSystem {
    poll: Poll,
    events: Events,
    link: Option<Arc<ShardLink>>,
    /// What wakes it is one for all: a poll has room for no other.
    waker: Option<Arc<Waker>>,
    seat: Option<Seat>,
    seat_number: u32,
}

impl MioSystem {
    fn new(link: Option<Arc<ShardLink>>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let events = Events::with_capacity(POLL_EVENTS);
        let mut system =
            Self { poll, events, link: link.clone(), waker: None, seat: None, seat_number: Seat::number() };
        if let Some(link) = &link {
            link.inbox.on_delivery(system.wake()?);
        }
        Ok(system)
    }

    /// What wakes the shard's thread to look at what others handed it.
    fn wake(&mut self) -> io::Result<impl Fn() + Send + Sync + use<>> {
        if self.waker.is_none() {
            self.waker = Some(Arc::new(Waker::new(self.poll.registry(), token(Source::Inbox))?));
        }
        let waker = self.waker.clone();
        // It cannot fail: a full counter of the eventfd is a wake-up that is pending.
        Ok(move || _ = waker.as_ref().map(|waker| waker.wake()))
    }

    fn deregister(&self, fd: BorrowedFd<'_>) {
        // It fails only when the descriptor is not under watch, which is what is wanted.
        _ = self.poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd()));
    }
}

const _: () = assert!(usize::BITS == 64, "a token holds a kind and a 32-bit number");

/// The kind of source in the upper half of a token, its number in the lower.
fn token(source: Source) -> Token {
    let (kind, number) = match source {
        Source::Connection(handle) => (0u64, handle.word() as u32),
        Source::Listener(index) => (1, index),
        Source::Lingering(id) => (2, id),
        Source::Inbox => (3, 0),
        Source::Endpoint(endpoint) => (4, endpoint),
    };
    Token((kind << 32 | u64::from(number)) as usize)
}

fn source(token: Token) -> Source {
    let number = token.0 as u64 as u32;
    match token.0 as u64 >> 32 {
        0 => Source::Connection(Handle::from_word(number as i32)),
        1 => Source::Listener(number),
        2 => Source::Lingering(number),
        4 => Source::Endpoint(number),
        _ => Source::Inbox,
    }
}

impl System for MioSystem {
    type Socket = OwnedFd;
    type Free = OwnedFd;
    type Listener = Arc<Listener>;

    const POLLS_BUSY_ENDPOINTS: bool = true;

    fn poll(&mut self, ready: &mut Ready) {
        // EINTR: the descriptor stays readable, and libuv calls again. Nothing else can fail here: the descriptor and
        // the buffer are ours.
        if self.poll.poll(&mut self.events, Some(Duration::ZERO)).is_ok() {
            ready.extend(self.events.iter().map(|event| {
                let source = source(event.token());
                // An endpoint's error comes and goes, and is neither something to read nor room.
                let fails = event.is_error() && !matches!(source, Source::Endpoint(_));
                let readiness = Readiness {
                    readable: event.is_readable() || event.is_read_closed() || fails,
                    read_closed: event.is_read_closed() || fails,
                    writable: event.is_writable() || (event.is_write_closed() && !event.is_error()) || fails,
                    failed: event.is_error(),
                };
                (source, readiness)
            }));
        }
    }

    /// Both interests once and edge-triggered: no system call when a queue fills or drains.
    fn watch(&mut self, socket: OwnedFd, source: Source) -> io::Result<OwnedFd> {
        let registry = self.poll.registry();
        let fd = socket.as_raw_fd();
        match source {
            Source::Lingering(_) => {
                registry.reregister(&mut SourceFd(&fd), token(source), Interest::READABLE)?
            }
            _ => registry.register(
                &mut SourceFd(&fd),
                token(source),
                Interest::READABLE | Interest::WRITABLE,
            )?,
        }
        Ok(socket)
    }

    /// The next edge tells.
    #[inline]
    fn await_room(&mut self, _socket: &OwnedFd) {}

    fn watch_listener(&mut self, listener: &Arc<Listener>, place: u32) -> io::Result<()> {
        let fd = listener.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), token(Source::Listener(place)), Interest::READABLE)
    }

    fn unwatch_listener(&mut self, listener: &Arc<Listener>, _place: u32) {
        self.deregister(listener.as_fd());
    }

    fn watch_endpoint(&mut self, socket: &Arc<DatagramSocket>, endpoint: u32) -> io::Result<()> {
        let fd = socket.as_fd().as_raw_fd();
        let token = token(Source::Endpoint(endpoint));
        self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// The kernel says "writable" with each datagram that has left: it is asked only while there is no room.
    fn rewatch_endpoint(
        &mut self,
        socket: &Arc<DatagramSocket>,
        endpoint: u32,
        awaits_room: bool,
    ) -> io::Result<()> {
        let fd = socket.as_fd().as_raw_fd();
        let token = token(Source::Endpoint(endpoint));
        let interest = if awaits_room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().reregister(&mut SourceFd(&fd), token, interest)
    }

    fn unwatch_endpoint(&mut self, socket: &Arc<DatagramSocket>, _endpoint: u32) {
        self.deregister(socket.as_fd());
    }

    fn accept(&mut self, listener: &Arc<Listener>) -> io::Result<(OwnedFd, Peer)> {
        stream::accept(listener.as_fd())
    }

    fn release(&mut self, socket: OwnedFd) -> OwnedFd {
        self.deregister(socket.as_fd());
        socket
    }

    fn delivery(&mut self) -> Option<Delivery> {
        self.link.as_ref()?.inbox.pop()
    }

    fn relieve(&mut self, server: u32, socket: OwnedFd, peer: Peer) -> Result<(), (OwnedFd, u64)> {
        link::relieve(self.link.as_deref(), server, socket, peer)
    }

    fn sit_down(&mut self) -> io::Result<()> {
        if self.seat.is_none() {
            self.seat = Some(Seat::take(self.seat_number, self.wake()?));
        }
        Ok(())
    }

    #[inline]
    fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    fn adopt(&mut self, socket: OwnedFd) -> OwnedFd {
        socket
    }
}

impl SocketEngine for MioEngine {
    fn pollable(&self) -> RawFd {
        self.shard().system().poll.as_raw_fd()
    }

    fn seat_number(&self) -> u32 {
        self.shard().system().seat_number
    }

    fn with_socket(&mut self, handle: Handle, look: Look) -> bool {
        self.shard().socket(handle).map(|socket| look(socket.as_fd())).is_some()
    }

    fn uses(&mut self, fd: RawFd) -> bool {
        super::uses(self.shard(), fd)
    }

    fn connect(&mut self, now: Instant, request: u32, server: u16, start: Start) {
        start.run(self.shard_mut(), now, request, server);
    }

    fn send_file(&mut self, now: Instant, handle: Handle, file: FileRange, memory: &dyn PinnedMemory) {
        self.shard_mut().send_file(now, handle, file, memory);
    }

    fn cancel_connect(&mut self, request: u32) {
        self.shard_mut().cancel_connect(request);
    }

    fn add_endpoint(
        &mut self,
        now: Instant,
        endpoint: u32,
        socket: Arc<DatagramSocket>,
        limits: EndpointLimits,
    ) -> io::Result<()> {
        self.shard_mut().add_endpoint(now, endpoint, socket, limits)
    }

    fn endpoint_queued_bytes(&mut self, endpoint: u32) -> usize {
        self.shard().endpoint_queued_bytes(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_trip_through_a_token() {
        for number in [0, 1, u32::MAX] {
            for original in [
                Source::Connection(Handle::from_word(number as i32)),
                Source::Listener(number),
                Source::Lingering(number),
                Source::Endpoint(number),
                Source::Inbox,
            ] {
                assert_eq!(source(token(original)), original);
            }
        }
    }
}
