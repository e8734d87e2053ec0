//! Sockets of datagrams, as tokio's reactor watches them. They differ from connections in two ways:
//!
//! - The kernel says "writable" with each datagram that has left (udp(7) sockets free their buffers one by one), so that is
//!   asked for only while there is no room.
//! - An error, such as ICMP's, is told without anything to read. The reactor takes that for the end of the writing half, which
//!   stays: so that the next error is told, too, the socket is watched anew once the shard has taken this one.

use super::{ReadyList, SourceWaker};
use crate::net::udp::DatagramSocket;
use crate::system::{Readiness, Source};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

/// A socket of datagrams, for as long as it is watched.
struct EndpointRef(Arc<DatagramSocket>);

impl AsRawFd for EndpointRef {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

struct Watched {
    io: AsyncFd<EndpointRef>,
    waker: Waker,
}

impl Watched {
    fn new(socket: Arc<DatagramSocket>, waker: Waker, awaits_room: bool) -> io::Result<Self> {
        let interest = if awaits_room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // SAFETY: the reference keeps the socket's descriptor open, and the AsyncFd has it until it is dropped or gives it back.
        let registered = unsafe { AsyncFd::register_with_interest(EndpointRef(socket), interest) };
        let io = registered.map_err(|failed| failed.into_parts().1)?;
        // What the reactor has been told already is for the first look: nothing is taken here.
        let mut context = Context::from_waker(&waker);
        let (reads, writes) = (io.poll_read_ready(&mut context), io.poll_write_ready(&mut context));
        if reads.is_ready() || writes.is_ready() {
            waker.wake_by_ref();
        }
        Ok(Self { io, waker })
    }

    /// Takes what the reactor has been told, and sees to it that the waker hears of what comes next; unless the socket has
    /// failed, of which only watching it anew would tell more.
    fn look(&self) -> Readiness {
        let mut readiness = Readiness::default();
        let mut context = Context::from_waker(&self.waker);
        while let Poll::Ready(Ok(mut guard)) = self.io.poll_read_ready(&mut context) {
            readiness.readable = true;
            readiness.failed = guard.ready().is_read_closed();
            guard.clear_ready();
            if readiness.failed {
                return readiness;
            }
        }
        while let Poll::Ready(Ok(mut guard)) = self.io.poll_write_ready(&mut context) {
            // An error alone is no room.
            readiness.writable |= guard.ready() & Ready::WRITABLE != Ready::EMPTY;
            readiness.failed = guard.ready().is_write_closed();
            guard.clear_ready();
            if readiness.failed {
                break;
            }
        }
        readiness
    }
}

/// Those of a shard, by their numbers.
#[derive(Default)]
pub(super) struct Endpoints {
    watched: Vec<Option<Watched>>,
}

impl Endpoints {
    pub(super) fn watch(
        &mut self,
        socket: &Arc<DatagramSocket>,
        endpoint: u32,
        ready: &Arc<ReadyList>,
    ) -> io::Result<()> {
        let waker = SourceWaker { source: Source::Endpoint(endpoint), ready: ready.clone() };
        let watched = Watched::new(socket.clone(), Arc::new(waker).into(), false)?;
        let place = endpoint as usize;
        if place >= self.watched.len() {
            self.watched.resize_with(place + 1, || None);
        }
        self.watched[place] = Some(watched);
        Ok(())
    }

    pub(super) fn unwatch(&mut self, endpoint: u32) {
        if let Some(watched) = self.watched.get_mut(endpoint as usize) {
            *watched = None;
        }
    }

    pub(super) fn look(&self, endpoint: u32) -> Readiness {
        let watched = self.watched.get(endpoint as usize).and_then(Option::as_ref);
        watched.map_or_else(Readiness::default, Watched::look)
    }

    /// Anew. When that fails it is not watched any more: its place in the kernel was given back.
    pub(super) fn rewatch(&mut self, endpoint: u32, awaits_room: bool) -> io::Result<()> {
        let Some(place) = self.watched.get_mut(endpoint as usize) else { return Ok(()) };
        let Some(Watched { io, waker }) = place.take() else { return Ok(()) };
        let EndpointRef(socket) = io.into_inner();
        *place = Some(Watched::new(socket, waker, awaits_room)?);
        Ok(())
    }
}
