//! Readiness on the shard's own thread, by mio: epoll on Linux, kqueue on macOS. Bytes are read straight into
//! JavaScript's slabs and written straight from them.
#![forbid(unsafe_code)]

use super::Engine;
use crate::abi;
use crate::connection::Handle;
use crate::inbox::Unserved;
use crate::limits::{POLL_EVENTS, UNPOLLED_BATCHES};
use crate::link::ShardLink;
use crate::metrics::Metrics;
use crate::net::listen::Listener;
use crate::ring::Commands;
use crate::shard::{Readiness, Registrar, ServerLimits, Shard, Sink, Source};
use crate::write_queue::{Pin, PinnedMemory};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The engine.
#[derive(Debug)]
pub struct MioEngine {
    poll: Poll,
    events: Events,
    shard: Shard,
    metrics: Arc<Metrics>,
    /// Batches since the last poll.
    unpolled_batches: u32,
}

impl MioEngine {
    /// Opens a poll. With a link, other threads may hand it connections.
    pub fn new(metrics: Arc<Metrics>, link: Option<Arc<ShardLink>>) -> io::Result<Self> {
        let poll = Poll::new()?;
        if let Some(link) = &link {
            let waker = Waker::new(poll.registry(), token(Source::Inbox))?;
            // It cannot fail: a full counter of the eventfd is a wake-up that is pending.
            link.inbox.on_delivery(move || _ = waker.wake());
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(POLL_EVENTS),
            shard: Shard::new(metrics.clone(), link),
            metrics,
            unpolled_batches: 0,
        })
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
    };
    Token((kind << 32 | u64::from(number)) as usize)
}

fn source(token: Token) -> Source {
    let number = token.0 as u64 as u32;
    match token.0 as u64 >> 32 {
        0 => Source::Connection(Handle::from_word(number as i32)),
        1 => Source::Listener(number),
        2 => Source::Lingering(number),
        _ => Source::Inbox,
    }
}

impl Registrar for Registry {
    /// Both interests once and edge-triggered: no system call when a queue fills or drains.
    fn register(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        let interest = match source {
            Source::Connection(_) => Interest::READABLE | Interest::WRITABLE,
            Source::Listener(_) | Source::Lingering(_) | Source::Inbox => Interest::READABLE,
        };
        Registry::register(self, &mut SourceFd(&fd.as_raw_fd()), token(source), interest)
    }

    fn reregister(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        Registry::reregister(self, &mut SourceFd(&fd.as_raw_fd()), token(source), Interest::READABLE)
    }

    fn deregister(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Registry::deregister(self, &mut SourceFd(&fd.as_raw_fd()))
    }
}

impl Engine for MioEngine {
    fn pollable(&self) -> RawFd {
        self.poll.as_raw_fd()
    }

    fn add_server(&mut self, server: u16, number: u32, limits: ServerLimits) {
        self.shard.add_server(server, number, limits);
    }

    fn listen(&mut self, server: u16, listener: Arc<Listener>) -> io::Result<()> {
        self.shard.listen(server, listener, self.poll.registry())
    }

    fn unlisten(&mut self, now: Instant, server: u16) -> u64 {
        self.shard.unlisten(now, server, self.poll.registry())
    }

    fn remove_server(&mut self, server: u16) {
        self.shard.remove_server(server);
    }

    fn retire(&mut self) -> Vec<Unserved> {
        self.shard.retire(self.poll.registry())
    }

    fn abandon(&mut self) -> Vec<Unserved> {
        self.shard.abandon()
    }

    fn collect(&mut self, now: Instant, sink: &mut dyn Sink, memory: &dyn PinnedMemory) {
        self.shard.begin(now, self.poll.registry());
        self.shard.deliver_signals(sink);
        // What is left from the last poll goes first. While the sink cannot take all of it, a poll would only lengthen
        // the list; but ends, room to write and new connections must be learnt in between.
        let served = self.shard.serve_backlog(sink, self.poll.registry());
        self.unpolled_batches += 1;
        if served || self.unpolled_batches > UNPOLLED_BATCHES {
            self.unpolled_batches = 0;
            self.metrics.add(abi::METRIC_POLLS, 1);
            // EINTR: the descriptor stays readable, and libuv calls again. Nothing else can fail here: the
            // descriptor and the buffer are ours.
            if self.poll.poll(&mut self.events, Some(Duration::ZERO)).is_ok() {
                for event in &self.events {
                    let readiness = Readiness {
                        readable: event.is_readable() || event.is_read_closed() || event.is_error(),
                        read_closed: event.is_read_closed() || event.is_error(),
                        writable: event.is_writable() || event.is_write_closed() || event.is_error(),
                        failed: event.is_error(),
                    };
                    self.shard.on_ready(source(event.token()), readiness, sink, memory, self.poll.registry());
                }
            }
        }
        self.shard.finish();
        self.shard.deliver_signals(sink);
    }

    fn end_batch(&mut self) {
        self.shard.end_batch();
    }

    fn submit(&mut self, now: Instant, commands: &Commands<'_>) {
        self.shard.submit(now, commands, self.poll.registry());
    }

    fn write(&mut self, now: Instant, handle: Handle, bytes: &[u8]) {
        self.shard.write(now, handle, bytes, self.poll.registry());
    }

    fn write_pinned(
        &mut self,
        now: Instant,
        handle: Handle,
        pin: Pin,
        length: usize,
        memory: &dyn PinnedMemory,
    ) -> bool {
        self.shard.write_pinned(now, handle, pin, length, memory, self.poll.registry())
    }

    fn take_released_pins(&mut self, released: &mut Vec<Pin>) {
        self.shard.take_released_pins(released);
    }

    fn has_backlog(&self) -> bool {
        self.shard.has_backlog()
    }

    fn next_wake(&self) -> Option<Instant> {
        self.shard.next_wake()
    }

    fn is_alive(&self) -> bool {
        self.shard.is_alive()
    }

    fn queued_bytes(&self, handle: Handle) -> usize {
        self.shard.queued_bytes(handle)
    }

    fn socket(&self, handle: Handle) -> Option<BorrowedFd<'_>> {
        self.shard.socket(handle)
    }

    fn peer(&self, handle: Handle) -> Option<SocketAddr> {
        self.shard.peer(handle)
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
                Source::Inbox,
            ] {
                assert_eq!(source(token(original)), original);
            }
        }
    }
}
