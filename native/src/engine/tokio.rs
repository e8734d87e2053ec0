//! A current-thread tokio runtime on a thread of its own does all I/O of a shard; JavaScript's thread makes no system call
//! for a socket. What is said in [`super::remote`] holds; here is how tokio's reactor tells what is ready.
//!
//! A watched socket is an [`AsyncFd`]. Its wakers put the socket's [`Source`] on a list and wake the one future that the
//! runtime runs, which is the shard's turn. So there is no task per connection, and an idle one has no buffer.

mod endpoints;
#[cfg(test)]
mod tests;

use super::bell::Bell;
use super::remote::{Back, Caller, Driver, Front, Neighbours, PipeSizes, Seed, Take, halves};
use super::{Look, SocketEngine, Start};
use crate::abi;
use crate::audience::Seat;
use crate::connection::Handle;
use crate::error::panic_text;
use crate::guardian;
use crate::inbox::Delivery;
use crate::limits::{POLL_EVENTS, TURNS_PER_POLL};
use crate::link::{self, ShardLink};
use crate::malloc;
use crate::metrics::Metrics;
use crate::net::addresses::Peer;
use crate::net::listen::Listener;
use crate::net::stream;
use crate::net::udp::DatagramSocket;
use crate::shard::EndpointLimits;
use crate::slice::ServingSlice;
use crate::system::{Readiness, Ready, Source, System};
use crate::write_queue::{FileRange, PinnedMemory};
use endpoints::Endpoints;
use parking_lot::Mutex;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::Instant;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Sleep;

/// The engine.
pub type TokioEngine = Front<TokioSystem, IoThread>;

impl TokioEngine {
    /// Starts the thread. With a link, others may hand it connections.
    pub fn open(metrics: Arc<Metrics>, link: Option<Arc<ShardLink>>) -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let ready = Arc::<ReadyList>::default();
        let seat_number = Seat::number();
        let driver = IoThread { bell: bell.clone(), ready: ready.clone(), handle: None, seat_number };
        let (mut front, seed) = halves(driver, PipeSizes::default())?;
        let caller = Box::new(ShardThread { bell, thread: thread::current() });
        let (sender, started) = mpsc::channel();
        let log = crate::log::own();
        let run = move || {
            crate::log::follow(log);
            let _serving = ServingSlice::begin();
            malloc::give_back_at_end();
            match Builder::new_current_thread().enable_all().max_io_events_per_tick(POLL_EVENTS).build() {
                Ok(runtime) => {
                    let _context = runtime.enter();
                    let running = Running::new(seed, metrics, link, caller, ready, seat_number);
                    _ = sender.send(Ok(()));
                    running.run(&runtime);
                }
                Err(error) => _ = sender.send(Err(error)),
            }
        };
        let handle = thread::Builder::new().name("shard-io".into()).spawn(run)?;
        front.driver_mut().handle = Some(handle);
        // The sender is gone without a word only when the thread has panicked.
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the I/O thread could not start")))?;
        Ok(front)
    }
}

impl SocketEngine for TokioEngine {
    fn pollable(&self) -> RawFd {
        self.driver().bell.as_raw_fd()
    }

    fn seat_number(&self) -> u32 {
        self.driver().seat_number
    }

    fn with_socket(&mut self, handle: Handle, look: Look) -> bool {
        self.call(move |back| back.shard().socket(handle).map(|socket| look(socket.as_fd())).is_some())
    }

    fn uses(&mut self, fd: RawFd) -> bool {
        self.call(move |back| super::uses(back.shard(), fd))
    }

    fn connect(&mut self, now: Instant, request: u32, server: u16, start: Start) {
        self.request(request, start.peer(), move |back| start.run(back.shard_mut(), now, request, server));
    }

    fn send_file(&mut self, now: Instant, handle: Handle, file: FileRange, _memory: &dyn PinnedMemory) {
        self.post_file(now, handle, file);
    }

    fn cancel_connect(&mut self, request: u32) {
        self.post(move |back| back.shard_mut().cancel_connect(request));
    }

    fn add_endpoint(
        &mut self,
        now: Instant,
        endpoint: u32,
        socket: Arc<DatagramSocket>,
        limits: EndpointLimits,
    ) -> io::Result<()> {
        self.call_for_endpoint(move |back| back.shard_mut().add_endpoint(now, endpoint, socket, limits))
    }

    fn endpoint_queued_bytes(&mut self, endpoint: u32) -> usize {
        self.call(move |back| back.shard().endpoint_queued_bytes(endpoint))
    }
}

/// The thread, as the shard's own thread has it. Ends when it is dropped, and is waited for.
#[derive(Debug)]
pub struct IoThread {
    bell: Arc<Bell>,
    ready: Arc<ReadyList>,
    handle: Option<JoinHandle<()>>,
    seat_number: u32,
}

impl Driver for IoThread {
    fn wake(&self) {
        self.ready.wake();
    }

    fn wait(&mut self) {
        thread::park();
    }

    fn silence(&self) {
        self.bell.silence();
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.ready.ends.store(true, Ordering::Release);
        self.ready.wake();
        if let Some(handle) = self.handle.take() {
            _ = handle.join(); // its panics are caught, and were told
        }
    }
}

/// The shard's thread, as the I/O thread has it.
struct ShardThread {
    bell: Arc<Bell>,
    thread: Thread,
}

impl Caller for ShardThread {
    fn ring(&self) {
        self.bell.ring();
    }

    fn resume(&self) {
        self.thread.unpark();
    }
}

/// What was woken, and how the future that sees to it is.
#[derive(Debug, Default)]
struct ReadyList {
    sources: Mutex<Vec<Source>>,
    /// Of the runtime's one future, while it runs. It keeps the reactor's descriptors open.
    waker: Mutex<Option<Waker>>,
    ends: AtomicBool,
}

impl ReadyList {
    fn push(&self, source: Source) {
        let mut sources = self.sources.lock();
        sources.push(source);
        let first = sources.len() == 1;
        drop(sources);
        if first {
            self.wake();
        }
    }

    /// On the runtime's own thread this is a mark; from another it is a system call.
    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

/// A source's waker.
struct SourceWaker {
    source: Source,
    ready: Arc<ReadyList>,
}

impl Wake for SourceWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.source);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.push(self.source);
    }
}

/// The future that the runtime runs.
struct Running {
    back: Back<TokioSystem>,
    ready: Arc<ReadyList>,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Instant>,
    /// It was not polled yet.
    is_new: bool,
}

impl Running {
    fn new(
        seed: Seed<TokioSystem>,
        metrics: Arc<Metrics>,
        link: Option<Arc<ShardLink>>,
        caller: Box<dyn Caller>,
        ready: Arc<ReadyList>,
        seat_number: u32,
    ) -> Self {
        if let Some(link) = &link {
            let ready = ready.clone();
            link.inbox.on_delivery(move || ready.push(Source::Inbox));
        }
        let neighbours = link.clone().map(|link| Box::new(link) as Box<dyn Neighbours<TokioSystem>>);
        let system = TokioSystem {
            ready: ready.clone(),
            woken: Vec::new(),
            listeners: Vec::new(),
            endpoints: Endpoints::default(),
            link,
            seat: None,
            seat_number,
        };
        let now = Instant::now();
        let back = seed.grow(system, metrics, neighbours, caller, now);
        Self {
            back,
            ready,
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            timer_at: None,
            is_new: true,
        }
    }

    /// Until the engine is dropped. A panic ends the shard, not the process.
    fn run(mut self, runtime: &Runtime) {
        // Tokio's budget is for tasks that share a runtime; here it would make sockets look as if they were not ready.
        let until_end = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(tokio::task::unconstrained(&mut self));
        }));
        *self.ready.waker.lock() = None;
        if let Err(panic) = until_end {
            log::error!("caught a panic of the I/O thread, which ends its shard: {}", panic_text(&*panic));
            self.back.failed(panic_text(&*panic));
        }
    }

    fn sleep_until_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let at = self.back.next_wake();
        if at != self.timer_at {
            self.timer_at = at;
            if let Some(at) = at {
                self.timer.as_mut().reset(at.into());
            }
        }
        if at.is_none() { Poll::Pending } else { self.timer.as_mut().poll(context) }
    }
}

impl Future for Running {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if mem::take(&mut this.is_new) {
            *this.ready.waker.lock() = Some(context.waker().clone());
        }
        this.back.wake_up();
        for _ in 0..TURNS_PER_POLL {
            if this.ready.ends.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            this.back.turn(Instant::now());
            if this.back.fall_asleep() {
                if this.sleep_until_due(context).is_pending() {
                    return Poll::Pending;
                }
                this.timer_at = None;
                this.back.wake_up();
            }
        }
        // There is more to do, but descriptors are looked at first.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Neighbours<TokioSystem> for Arc<ShardLink> {
    fn give(&self, take: &mut Take<'_, TokioSystem>) {
        let lost = guardian::take_back(self, |has_others| take(has_others));
        self.metrics.add(abi::METRIC_RESETS_OTHER, lost as u64);
    }
}

/// The kernel's sockets, watched by tokio's reactor. Made and used inside the runtime.
pub struct TokioSystem {
    ready: Arc<ReadyList>,
    /// Taken from the list; kept for its memory.
    woken: Vec<Source>,
    /// By their places in the shard.
    listeners: Vec<Option<Watched<ListenerRef>>>,
    endpoints: Endpoints,
    link: Option<Arc<ShardLink>>,
    seat: Option<Seat>,
    seat_number: u32,
}

/// A descriptor that tokio watches.
struct Watched<F: AsRawFd> {
    io: AsyncFd<F>,
    waker: Waker,
    /// It is to be told when there is room to write.
    awaits_room: Cell<bool>,
}

impl<F: AsRawFd> Watched<F> {
    /// A descriptor that cannot be watched is dropped.
    fn new(fd: F, source: Source, ready: &Arc<ReadyList>) -> io::Result<Self> {
        // SAFETY: `fd` owns its descriptor or refers to its owner, and the AsyncFd has it until it is dropped: the
        // descriptor is open all the while.
        let io = unsafe { AsyncFd::register(fd) }.map_err(|failed| failed.into_parts().1)?;
        let mut watched = Self { io, waker: Waker::noop().clone(), awaits_room: Cell::new(false) };
        watched.rename(source, ready);
        Ok(watched)
    }

    /// Under this name from now on.
    fn rename(&mut self, source: Source, ready: &Arc<ReadyList>) {
        self.waker = Arc::new(SourceWaker { source, ready: ready.clone() }).into();
        // What the reactor has been told already is for the first look.
        if self.io.poll_read_ready(&mut Context::from_waker(&self.waker)).is_ready() {
            self.waker.wake_by_ref();
        }
    }

    /// Takes what the reactor has been told, and sees to it that the waker hears of what comes next.
    fn look(&self) -> Readiness {
        let mut readiness = Readiness::default();
        let mut context = Context::from_waker(&self.waker);
        // Not ready only once it is said to be awaited; ends are final, and stay.
        while let Poll::Ready(Ok(mut guard)) = self.io.poll_read_ready(&mut context) {
            readiness.readable = true;
            readiness.read_closed |= guard.ready().is_read_closed();
            guard.clear_ready();
            if readiness.read_closed {
                break;
            }
        }
        // Behind the peer's end nothing is to be read that would tell of its reset.
        if self.awaits_room.get() || readiness.read_closed {
            while let Poll::Ready(Ok(mut guard)) = self.io.poll_write_ready(&mut context) {
                readiness.writable = true;
                readiness.failed |= guard.ready().is_write_closed();
                guard.clear_ready();
                if readiness.failed {
                    break;
                }
            }
            if readiness.writable {
                self.awaits_room.set(false);
            }
        }
        readiness
    }

    fn await_room(&self) {
        if self.awaits_room.replace(true) {
            return;
        }
        let mut context = Context::from_waker(&self.waker);
        while let Poll::Ready(Ok(mut guard)) = self.io.poll_write_ready(&mut context) {
            let failed = guard.ready().is_write_closed();
            guard.clear_ready();
            if failed {
                self.waker.wake_by_ref(); // the next try says how
                return;
            }
        }
    }
}

/// A connection's end.
pub struct TokioSocket(State);

enum State {
    /// Not yet watched.
    Bare(OwnedFd),
    Watched(Watched<OwnedFd>),
}

impl AsFd for TokioSocket {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            State::Bare(fd) => fd.as_fd(),
            State::Watched(watched) => watched.io.get_ref().as_fd(),
        }
    }
}

impl From<OwnedFd> for TokioSocket {
    fn from(fd: OwnedFd) -> Self {
        Self(State::Bare(fd))
    }
}

impl From<TokioSocket> for OwnedFd {
    fn from(socket: TokioSocket) -> Self {
        match socket.0 {
            State::Bare(fd) => fd,
            State::Watched(watched) => watched.io.into_inner(),
        }
    }
}

/// A listener, for as long as it is watched.
struct ListenerRef(Arc<Listener>);

impl AsRawFd for ListenerRef {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl System for TokioSystem {
    type Socket = TokioSocket;
    type Free = OwnedFd;
    type Listener = Arc<Listener>;
    const FAILURE_STAYS: bool = true;

    fn poll(&mut self, ready: &mut Ready) {
        mem::swap(&mut *self.ready.sources.lock(), &mut self.woken);
        for source in self.woken.drain(..) {
            let told = Readiness { readable: true, ..Readiness::default() };
            match source {
                Source::Listener(place) => {
                    let listener = self.listeners.get(place as usize).and_then(Option::as_ref);
                    if listener.is_some_and(|listener| listener.look().readable) {
                        ready.push((source, told));
                    }
                }
                // Looked at when the shard has found them.
                Source::Connection(_) | Source::Lingering(_) | Source::Endpoint(_) | Source::Inbox => {
                    ready.push((source, told))
                }
            }
        }
    }

    #[inline]
    fn look(&mut self, socket: &TokioSocket, _told: Readiness) -> Readiness {
        match &socket.0 {
            State::Watched(watched) => watched.look(),
            State::Bare(_) => Readiness::default(),
        }
    }

    fn watch(&mut self, socket: TokioSocket, source: Source) -> io::Result<TokioSocket> {
        let watched = match socket.0 {
            State::Bare(fd) => Watched::new(fd, source, &self.ready)?,
            State::Watched(mut watched) => {
                watched.rename(source, &self.ready);
                watched
            }
        };
        Ok(TokioSocket(State::Watched(watched)))
    }

    fn await_room(&mut self, socket: &TokioSocket) {
        if let State::Watched(watched) = &socket.0 {
            watched.await_room();
        }
    }

    fn watch_listener(&mut self, listener: &Arc<Listener>, place: u32) -> io::Result<()> {
        let reference = ListenerRef(listener.clone());
        let watched = Watched::new(reference, Source::Listener(place), &self.ready)?;
        let place = place as usize;
        if place >= self.listeners.len() {
            self.listeners.resize_with(place + 1, || None);
        }
        self.listeners[place] = Some(watched);
        Ok(())
    }

    fn unwatch_listener(&mut self, _listener: &Arc<Listener>, place: u32) {
        if let Some(listener) = self.listeners.get_mut(place as usize) {
            *listener = None;
        }
    }

    fn watch_endpoint(&mut self, socket: &Arc<DatagramSocket>, endpoint: u32) -> io::Result<()> {
        self.endpoints.watch(socket, endpoint, &self.ready)
    }

    fn unwatch_endpoint(&mut self, _socket: &Arc<DatagramSocket>, endpoint: u32) {
        self.endpoints.unwatch(endpoint);
    }

    fn look_at_endpoint(
        &mut self,
        _socket: &Arc<DatagramSocket>,
        endpoint: u32,
        _told: Readiness,
    ) -> Readiness {
        self.endpoints.look(endpoint)
    }

    fn rewatch_endpoint(
        &mut self,
        _socket: &Arc<DatagramSocket>,
        endpoint: u32,
        awaits_room: bool,
    ) -> io::Result<()> {
        self.endpoints.rewatch(endpoint, awaits_room)
    }

    fn accept(&mut self, listener: &Arc<Listener>) -> io::Result<(TokioSocket, Peer)> {
        stream::accept(listener.as_fd()).map(|(fd, peer)| (fd.into(), peer))
    }

    fn is_away(&self) -> bool {
        self.link.as_ref().is_some_and(|link| !link.is_live())
    }

    fn release(&mut self, socket: TokioSocket) -> OwnedFd {
        socket.into()
    }

    fn delivery(&mut self) -> Option<Delivery> {
        self.link.as_ref()?.inbox.pop()
    }

    fn relieve(&mut self, server: u32, socket: TokioSocket, peer: Peer) -> Result<(), (TokioSocket, u64)> {
        link::relieve(self.link.as_deref(), server, socket, peer)
    }

    fn sit_down(&mut self) -> io::Result<()> {
        if self.seat.is_none() {
            let ready = self.ready.clone();
            self.seat = Some(Seat::take(self.seat_number, move || ready.push(Source::Inbox)));
        }
        Ok(())
    }

    #[inline]
    fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    fn adopt(&mut self, socket: OwnedFd) -> TokioSocket {
        socket.into()
    }
}
