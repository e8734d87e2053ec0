//! What lies outside of a shard: sockets, word of what is ready, and other shards. The shard layer asks nothing else of
//! the world, so a network that is made up fits in its place: `tests/simulation/` is one, and its drawn runs hold the shard
//! layer to what is said here.
//!
//! Two things differ between systems: how they learn what is ready ([`System::poll`]), and what a watched socket is. The
//! calls on sockets are those of [`crate::net::stream`] for everything that has a descriptor. A system that is told of
//! completions (io_uring) says "readable" when the kernel has filled one of its buffers, and [`Socket::receive`] takes
//! from that; what it is given to send it takes into buffers of its own, and says "writable" when there is room again.
#![forbid(unsafe_code)]

use crate::audience::Seat;
use crate::connection::Handle;
use crate::inbox::{Delivery, Unserved};
use crate::net::addresses::Peer;
use crate::net::udp::DatagramSocket;
use crate::net::{pipes, stream};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What a system tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A connection.
    Connection(Handle),
    /// A listener, by its place in the shard.
    Listener(u32),
    /// A closed connection whose last bytes are on their way.
    Lingering(u32),
    /// An endpoint of datagrams, by its number.
    Endpoint(u32),
    /// What other threads hand over.
    Inbox,
}

/// What it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// There is something to read, an end or an error included.
    pub readable: bool,
    /// The peer's end, or an error, is among it.
    pub read_closed: bool,
    /// There is room to write, or writing fails at once.
    pub writable: bool,
    /// The socket may have failed.
    pub failed: bool,
}

/// Edges of one poll: said once, and again only when something has changed since.
pub type Ready = Vec<(Source, Readiness)>;

/// A connection's end of a network. No call waits.
pub trait Socket {
    /// Receives into `buffer`; 0 is the peer's end.
    fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize>;
    /// Sends what the system takes of the pieces.
    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;
    /// As [`Socket::send`] of one piece, behind which the sending half ends at once: so it may wait for that.
    fn send_more(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(&[IoSlice::new(bytes)])
    }
    /// Sends bytes of a file; 0 is its end. A system that has no such call says so, and the file is read and written.
    fn send_file(&self, _file: BorrowedFd<'_>, _offset: u64, _length: usize) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
    /// As [`Socket::receive`], of a pipe that is only read: whatever has a descriptor, a socket or not.
    fn read(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        self.receive(buffer)
    }
    /// As [`Socket::send`], of a pipe that is only written.
    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send(pieces)
    }
    /// Whether nobody can read any more what is written to this pipe.
    fn is_broken(&self) -> bool {
        false
    }
    /// Ends our sending half.
    fn shutdown_write(&self) -> io::Result<()>;
    /// Makes the close a reset.
    fn reset_on_close(&self);
    /// Whether a close now could destroy sent bytes that the peer has not acknowledged.
    fn close_may_lose_bytes(&self) -> bool;
    /// Whether something was received that nobody has read yet.
    fn has_unread(&self) -> bool;
    /// The error that it has run into, which is cleared by asking.
    fn take_error(&self) -> Option<io::Error>;
}

impl<T: AsFd> Socket for T {
    #[inline]
    fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        stream::receive(self.as_fd(), buffer)
    }

    #[inline]
    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        stream::send(self.as_fd(), pieces)
    }

    fn send_more(&self, bytes: &[u8]) -> io::Result<usize> {
        stream::send_more(self.as_fd(), bytes)
    }

    fn send_file(&self, file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<usize> {
        stream::send_file(self.as_fd(), file, offset, length)
    }

    #[inline]
    fn read(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        pipes::read(self.as_fd(), buffer)
    }

    #[inline]
    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        pipes::write(self.as_fd(), pieces)
    }

    fn is_broken(&self) -> bool {
        pipes::is_broken(self.as_fd())
    }

    fn shutdown_write(&self) -> io::Result<()> {
        stream::shutdown_write(self.as_fd())
    }

    fn reset_on_close(&self) {
        stream::reset_on_close(self.as_fd());
    }

    fn close_may_lose_bytes(&self) -> bool {
        stream::close_may_lose_bytes(self.as_fd())
    }

    fn has_unread(&self) -> bool {
        stream::unread_bytes(self.as_fd()) > 0
    }

    fn take_error(&self) -> Option<io::Error> {
        stream::take_error(self.as_fd())
    }
}

/// See the module. Called by the thread that does the I/O.
pub trait System {
    /// An end of a connection; closed by being dropped, which ends its watch, too.
    type Socket: Socket;
    /// A socket that belongs to no shard, on its way to one.
    type Free: Send + 'static;
    /// A listener, held by reference: dropping it does not close it.
    type Listener: Clone + PartialEq + Send + 'static;
    /// Whether a failure that was told of is told of ever again, until what has failed is watched anew.
    const FAILURE_STAYS: bool = false;
    /// An endpoint that has something again and again need not be watched: to begin and end that costs little.
    const POLLS_BUSY_ENDPOINTS: bool = false;

    /// Appends what has become ready. Never waits.
    fn poll(&mut self, ready: &mut Ready);

    /// What a socket is ready for, when [`System::poll`] told of it: takes what it told, or looks closer.
    #[inline]
    fn look(&mut self, _socket: &Self::Socket, told: Readiness) -> Readiness {
        told
    }
    /// Begins to watch a connection under this name, or goes on under another one. One that cannot be watched is closed.
    fn watch(&mut self, socket: Self::Socket, source: Source) -> io::Result<Self::Socket>;
    /// The system took less than it was offered: to be told when there is room. Asked after every such call.
    fn await_room(&mut self, socket: &Self::Socket);
    /// Begins to watch a listener.
    fn watch_listener(&mut self, listener: &Self::Listener, place: u32) -> io::Result<()>;
    /// Ends that.
    fn unwatch_listener(&mut self, listener: &Self::Listener, place: u32);
    /// Accepts a connection, which is not watched yet.
    fn accept(&mut self, listener: &Self::Listener) -> io::Result<(Self::Socket, Peer)>;

    /// Begins to watch a socket of datagrams, which others may hold, too. A system that has none refuses.
    fn watch_endpoint(&mut self, _socket: &Arc<DatagramSocket>, _endpoint: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Ends that.
    fn unwatch_endpoint(&mut self, _socket: &Arc<DatagramSocket>, _endpoint: u32) {}
    /// What an endpoint is ready for, when [`System::poll`] told of it.
    #[inline]
    fn look_at_endpoint(
        &mut self,
        _socket: &Arc<DatagramSocket>,
        _endpoint: u32,
        told: Readiness,
    ) -> Readiness {
        told
    }
    /// Watches an endpoint anew: to be told of room or not to be told any more, or since it has failed. Its error must have been
    /// taken before, as it would be told at once again. Fails for want of memory; then it is not watched any more.
    fn rewatch_endpoint(
        &mut self,
        _socket: &Arc<DatagramSocket>,
        _endpoint: u32,
        _awaits_room: bool,
    ) -> io::Result<()> {
        Ok(())
    }

    /// Whether JavaScript has been running for so long that new connections are better left to others. Never when it has
    /// just been seen: on its own thread.
    #[inline]
    fn is_away(&self) -> bool {
        false
    }
    /// Ends the watch of a socket, which is for another shard.
    fn release(&mut self, socket: Self::Socket) -> Self::Free;
    /// The next item that others hand over to this shard.
    fn delivery(&mut self) -> Option<Delivery<Self::Free, Self::Listener>>;
    /// A new connection for this shard, by the server's number in the process. Comes back when it is to be served here,
    /// with the number of accepted connections after which to ask again.
    fn relieve(&mut self, server: u32, socket: Self::Socket, peer: Peer) -> Result<(), (Self::Socket, u64)>;
    /// Hears of broadcasts from now on.
    fn sit_down(&mut self) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
    /// Where it hears of them.
    #[inline]
    fn seat(&self) -> Option<&Seat> {
        None
    }
    /// Serves a socket that came from elsewhere.
    fn adopt(&mut self, socket: Self::Free) -> Self::Socket;
}

/// Connections that a shard leaves to others.
pub type Left<S> = Vec<Unserved<<S as System>::Free>>;
