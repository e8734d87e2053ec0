//! What moves bytes: *commands in, events out*. One trait; [`local`] and [`remote`] are the two ways to run the shard layer
//! ([`crate::shard`]), and one file per engine holds only what differs: how its [`crate::system::System`] learns what is ready.
//!
//! | engine | the shard layer runs | system |
//! |---|---|---|
//! | `mio` | on the shard's own thread ([`local`]) | [`mio`]: epoll, kqueue |
//! | `tokio` | on a thread of its own ([`remote`]) | [`tokio`]: tokio's reactor |
//!
//! What an engine owes to the host, which calls it on the shard's JavaScript thread only:
//! - [`Engine::collect`] never blocks and never calls JavaScript. It delivers what happened, in the order of each
//!   connection, until the sink is full or the batch as long as it should be; what is left over is kept, and
//!   [`Engine::has_backlog`] says so.
//! - [`Engine::submit`] applies commands in order; several writes to one connection become one system call. It never
//!   calls JavaScript: the events that it causes come with a later `collect`.
//! - The bytes behind a command or a direct write are valid during the call only.
//! - A handle that is not (or no longer) a connection's is ignored.
//! - Every connection that was announced by an open event ends with exactly one closed event; its handle is reused only
//!   after [`Engine::end_batch`] of the batch that delivered it.
//! - Listeners are shared by reference and never closed by an engine.
//! - Dropping an engine closes every descriptor of its own, ends its thread if it has one, and leaves nothing behind.
//!
//! `tests/engines.rs` checks this of each engine; `tests/simulation/` of both ways to run the shard layer, under faults.
//!
//! Nothing here hands out a reference into a connection, since that may live on another thread.

pub mod bell;
pub mod local;
pub mod mio;
pub mod remote;
pub mod tokio;

use crate::abi;
use crate::connection::Handle;
use crate::inbox::Unserved;
use crate::net::addresses::Peer;
use crate::net::connect::{self, Connecting, Target};
use crate::net::listen::Listener;
use crate::net::udp::DatagramSocket;
use crate::shard::{Commands, EndpointLimits, ServerLimits, ServerSecurity, Shard, Sink};
use crate::system::System;
use crate::tls::session::{Facts, Session};
use crate::write_queue::{FileRange, Pin, PinnedMemory};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

/// See the module.
pub trait Engine {
    /// What it accepts from.
    type Listener;
    /// A socket that it leaves to others.
    type Free;

    /// Makes a server known; its connections start with these limits. `number` is its number in the process, by which
    /// other threads hand over connections of it; 0 for none.
    fn add_server(&mut self, server: u16, number: u32, limits: ServerLimits);
    /// Accepts from a listener on behalf of a server.
    fn listen(&mut self, server: u16, listener: Self::Listener) -> io::Result<()>;
    /// Accepts what waits in the server's queues, then lets go of its listeners. How many connections the server had in
    /// all; each of them is or will be announced.
    fn unlisten(&mut self, now: Instant, server: u16) -> u64;
    /// Forgets a server that has neither listeners nor connections; its number may be used again.
    fn remove_server(&mut self, server: u16);
    /// JavaScript ends: lets go of the listeners of servers that other shards serve, too, and of the connections of
    /// those that JavaScript has not seen and never will, and takes none any more. The other connections stay until [`Engine::abandon`].
    fn retire(&mut self) -> Vec<Unserved<Self::Free>>;
    /// The shard dies: closes every connection by a reset, but for those that JavaScript has not seen yet.
    fn abandon(&mut self) -> Vec<Unserved<Self::Free>>;
    /// Delivers events.
    fn collect(&mut self, now: Instant, sink: &mut dyn Sink, memory: &dyn PinnedMemory);
    /// The batch is handled: handles whose closed event was in it are free.
    fn end_batch(&mut self, now: Instant);
    /// Applies commands.
    fn submit(&mut self, now: Instant, commands: &dyn Commands);
    /// Applies commands, then sends bytes, together with what they write to that connection, and queues a copy of what the
    /// kernel does not take.
    fn write(&mut self, now: Instant, handle: Handle, bytes: &[u8], commands: &dyn Commands);
    /// Sends at once and queues a reference to the rest, or a copy. False when there is no such connection (any more);
    /// the pin is released either way by [`Engine::take_released_pins`] once it is not needed.
    fn write_pinned(
        &mut self,
        now: Instant,
        handle: Handle,
        pin: Pin,
        length: usize,
        memory: &dyn PinnedMemory,
    ) -> bool;
    /// A connection gets what is broadcast to a topic from now on. Fails for want of what wakes it.
    fn subscribe(&mut self, handle: Handle, topic: Box<str>) -> io::Result<()>;
    /// It does not any more.
    fn unsubscribe(&mut self, handle: Handle, topic: Box<str>);
    /// The server's connections get TLS from now on.
    fn secure_server(&mut self, server: u16, security: ServerSecurity);
    /// The connection that is asked for next under this number gets TLS.
    fn secure_request(&mut self, request: u32, session: Box<Session>);
    /// As [`Shard::abort_handshakes`].
    fn abort_handshakes(&mut self, server: u16);
    /// As [`Shard::start_tls`].
    fn start_tls(&mut self, handle: Handle, session: Box<Session>, memory: &dyn PinnedMemory);
    /// As [`Shard::feed_tls`].
    fn feed_tls(&mut self, now: Instant, handle: Handle, bytes: Vec<u8>);
    /// Looks at a connection's TLS. Rare: it may wait for another thread.
    fn inspect_tls(&mut self, what: TlsQuestion) -> TlsAnswer;
    /// Pins that are not referred to any more.
    fn take_released_pins(&mut self, released: &mut Vec<Pin>);
    /// Whether events wait that no readiness of [`SocketEngine::pollable`] will announce. After a "no" the next event
    /// announces itself: so it is asked last, before the loop waits.
    fn has_backlog(&self) -> bool;
    /// Whether [`Self::look`] has an answer: not where to ask would keep another thread from its work.
    fn may_look(&self) -> bool {
        false
    }
    /// Whether something has become ready since the last `collect`, which delivers it. To be asked again and again after a
    /// batch without a backlog.
    fn look(&mut self) -> bool {
        false
    }
    /// When `collect` must be called though nothing became ready.
    fn next_wake(&self) -> Option<Instant>;
    /// Whether there are listeners or connections, those included that are closed towards JavaScript while their last
    /// bytes are on their way: the loop must not end.
    fn is_alive(&self) -> bool;
    /// Bytes in a connection's write queue.
    fn queued_bytes(&mut self, handle: Handle) -> usize;
    /// A connection's peer, also after it is lost, until its slot is freed.
    fn peer(&self, handle: Handle) -> Option<Peer>;
}

/// What can be asked of TLS.
#[derive(Debug, Clone, Copy)]
pub enum TlsQuestion {
    /// What a connection's session is.
    Facts(Handle),
    /// Why it failed.
    Detail(Handle),
    /// Why that of a request failed; asked once.
    RequestDetail(u32),
    /// Whose a connection was that nobody was told of.
    Peer(Handle),
}

/// The answer.
#[derive(Debug)]
pub enum TlsAnswer {
    /// What a session is.
    Facts(Box<Facts>),
    /// Words.
    Text(String),
    /// An end of a connection.
    Peer(Peer),
    /// There is none (any more).
    None,
}

impl TlsQuestion {
    /// On the thread that does the I/O.
    fn ask<S: System>(self, shard: &mut Shard<S>) -> TlsAnswer {
        let text = match self {
            Self::Facts(handle) => {
                return shard
                    .tls_facts(handle)
                    .map_or(TlsAnswer::None, |facts| TlsAnswer::Facts(facts.into()));
            }
            Self::Detail(handle) => shard.tls_detail(handle),
            Self::RequestDetail(request) => shard.request_detail(request),
            Self::Peer(handle) => return shard.peer(handle).map_or(TlsAnswer::None, TlsAnswer::Peer),
        };
        text.map_or(TlsAnswer::None, TlsAnswer::Text)
    }
}

/// What is to be done with a connection's socket.
pub type Look = Box<dyn FnOnce(BorrowedFd<'_>) + Send>;

/// An engine on the kernel's sockets.
pub trait SocketEngine: Engine<Listener = Arc<Listener>, Free = OwnedFd> {
    /// Becomes readable when `collect` has something to deliver that `has_backlog` did not announce.
    fn pollable(&self) -> RawFd;
    /// By which broadcasts know its connections; see [`crate::audience`].
    fn seat_number(&self) -> u32;
    /// Inspects or tunes a connection's socket, on the thread that owns it, before this returns. False once it is closed.
    fn with_socket(&mut self, handle: Handle, look: Look) -> bool;
    /// Whether a descriptor is that of one of its connections, listeners or endpoints.
    fn uses(&mut self, fd: RawFd) -> bool;
    /// Begins a connection on behalf of a server of this thread's own, as [`Shard::connect`] has it: one event with the
    /// request's number follows. `request` is above 0, and of no request whose event is still to come.
    fn connect(&mut self, now: Instant, request: u32, server: u16, start: Start);
    /// Sends a range of a file behind what waits; an event tells of its end. Nothing is told when the connection ends first.
    fn send_file(&mut self, now: Instant, handle: Handle, file: FileRange, memory: &dyn PinnedMemory);
    /// Calls that off; its event says ECANCELED, unless it is on its way already.
    fn cancel_connect(&mut self, request: u32);
    /// Sends and receives by a socket of datagrams, which others may hold, too, under a number of no endpoint whose closed
    /// event is still to come. Exactly one follows, also when the socket cannot be watched. EEXIST for a number that is in use,
    /// EMFILE for one from [`ENDPOINTS_MAX`](crate::limits::ENDPOINTS_MAX) on; then nothing follows.
    fn add_endpoint(
        &mut self,
        now: Instant,
        endpoint: u32,
        socket: Arc<DatagramSocket>,
        limits: EndpointLimits,
    ) -> io::Result<()>;
    /// Bytes in an endpoint's queue.
    fn endpoint_queued_bytes(&mut self, endpoint: u32) -> usize;
}

/// Whether it is that descriptor.
fn is(fd: RawFd) -> impl Fn(BorrowedFd<'_>) -> bool {
    move |other| other.as_raw_fd() == fd
}

/// Whether it is that of one of the shard's sockets.
fn uses<S: System<Socket: AsFd, Listener = Arc<Listener>>>(shard: &Shard<S>, fd: RawFd) -> bool {
    let is = is(fd);
    shard.any(|socket| is(socket.as_fd()), |listener| is(listener.as_fd()), |socket| is(socket.as_fd()))
}

/// How a connection begins.
#[derive(Debug)]
pub enum Start {
    /// By connecting.
    To(Box<Target>),
    /// With a socket that is connected, to this peer.
    With(OwnedFd, Peer),
}

impl Start {
    fn peer(&self) -> Peer {
        match self {
            Self::To(target) => (&target.address).into(),
            Self::With(_, peer) => *peer,
        }
    }

    /// On the thread that does the I/O.
    fn run<S: System<Free = OwnedFd>>(self, shard: &mut Shard<S>, now: Instant, request: u32, server: u16) {
        let peer = self.peer();
        let begun = match self {
            Self::To(target) => connect::start(&target),
            Self::With(fd, _) => Ok(Connecting { fd, done: true }),
        };
        match begun {
            Ok(Connecting { fd, done }) => shard.connect(now, request, server, fd, peer, done),
            Err(error) => {
                let call = match error.syscall {
                    "socket" => abi::CALL_SOCKET,
                    "bind" => abi::CALL_BIND,
                    "setsockopt" => abi::CALL_OPTION,
                    _ => abi::CALL_CONNECT,
                };
                shard.connect_failed(request, error.errno(), call);
            }
        }
    }
}
