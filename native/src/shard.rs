//! What all engines share: connections, their write queues, watermarks, timeouts, listeners and lists of pending work.
//!
//! It runs on the thread that does the I/O and holds nothing of JavaScript's. An engine tells it what is ready and
//! passes commands in; events and bytes leave by a [`Sink`].
#![forbid(unsafe_code)]

mod accepting;
mod ending;
mod handover;
mod idle;
mod writing;

use crate::abi;
use crate::connection::{Connection, ConnectionTable, Flags, Handle, NO_RECORD};
use crate::error::errno;
use crate::limits::{ACCEPTS_PER_BATCH, READS_PER_BATCH, RELIEF_MIN, TIMER_TICK_MS};
use crate::link::ShardLink;
use crate::metrics::Metrics;
use crate::net::listen::Listener;
use crate::net::tcp;
use crate::timer::{Tick, TimerWheel};
use crate::write_queue::{Pin, PinnedMemory};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most signals (events without bytes) that one connection has to deliver at once.
const SIGNALS_MAX: usize = 6;

/// One record for JavaScript; see `abi` for its fields.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// EVENT_ kind, with a slab index above it.
    pub kind: i32,
    /// The connection.
    pub handle: i32,
    /// First detail.
    pub a: i32,
    /// Second detail.
    pub b: i32,
}

/// Where events and bytes go.
pub trait Sink {
    /// How many events it still takes.
    fn room(&self) -> usize;
    /// Takes an event; there must be room.
    fn event(&mut self, event: Event);
    /// Memory to receive into, in a slab; more than `hint` bytes if it can be. `None` when there is none in this batch.
    fn read_buffer(&mut self, borrows: bool, hint: usize) -> Option<(usize, &mut [MaybeUninit<u8>])>;
    /// The first `length` bytes of the last read buffer are a connection's data; there must be room for the event.
    fn received(&mut self, handle: i32, slab: usize, length: usize);
}

/// What a poll watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A connection.
    Connection(Handle),
    /// A listener, by its place in the shard.
    Listener(u32),
    /// A closed connection whose last bytes are on their way.
    Lingering(u32),
    /// What other threads hand over.
    Inbox,
}

/// What a poll reported.
#[derive(Debug, Clone, Copy)]
pub struct Readiness {
    /// There is something to read, an end or an error included.
    pub readable: bool,
    /// The peer's end, or an error, is among it.
    pub read_closed: bool,
    /// There is room to write, or writing fails at once.
    pub writable: bool,
    /// The socket has failed.
    pub failed: bool,
}

/// Puts descriptors under watch. Closing a descriptor ends its watch.
pub trait Registrar {
    /// Begins to watch.
    fn register(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()>;
    /// Watches a registered descriptor under another name.
    fn reregister(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()>;
    /// Ends the watch of a descriptor that stays open.
    fn deregister(&self, fd: BorrowedFd<'_>) -> io::Result<()>;
}

/// How a server's connections start.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// High watermark in bytes.
    pub write_high_bytes: u32,
    /// Low watermark in bytes.
    pub write_low_bytes: u32,
    /// Bytes that one connection may queue; past it, it is aborted.
    pub write_max_bytes: usize,
    /// Milliseconds without activity; 0 for no limit.
    pub idle_timeout_ms: u32,
}

/// By their numbers in this thread.
type Servers = HashMap<u16, Server>;

#[derive(Debug)]
struct Server {
    /// Its number in the process; 0 for one that is this thread's own affair.
    number: u32,
    limits: ServerLimits,
    /// Connections announced or to be announced.
    accepted: u64,
}

impl Server {
    /// Whether other shards serve it, too, or may.
    fn is_shared(&self) -> bool {
        self.number != 0
    }
}

#[derive(Debug)]
struct Listening {
    server: u16,
    listener: Arc<Listener>,
    /// The kernel said that connections wait, and accepting has not yet found the end of them.
    readable: bool,
    /// Out of descriptors: tried again at `accept_retry_at`.
    paused: bool,
    /// JavaScript knows of it; once per exhaustion, however often it is tried in vain.
    told: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Shard {
    connections: ConnectionTable,
    servers: Servers,
    listeners: Vec<Option<Listening>>,
    /// Connections to read from without a further word from the kernel.
    ready: Vec<Handle>,
    /// Of this batch: connections that used up their reads. They go behind those that had none.
    exhausted: Vec<Handle>,
    /// Where the next look at the listeners begins, so that none always gets the one free descriptor.
    accept_from: usize,
    /// Connections that have events without bytes to deliver.
    signals: VecDeque<Handle>,
    /// Failed accepts to be told: server, errno, whether accepting pauses.
    accept_errors: VecDeque<(u16, i32, bool)>,
    /// Connections whose closed event is in this batch.
    ended: Vec<Handle>,
    /// Of this flush: connections with something to do, and each record's successor in its connection's chain.
    dirty: Vec<Handle>,
    chain: Vec<u32>,
    released_pins: Vec<Pin>,
    flushed_pins: Vec<Pin>,
    accept_retry_at: Option<Instant>,
    /// How other threads know this shard, and it them.
    link: Option<Arc<ShardLink>>,
    /// Connections to accept until it sees whether another shard has far fewer.
    relief_in: u64,
    /// Listeners to accept from that could not be watched yet, with the number of their server.
    adoptions: Vec<(u32, Arc<Listener>)>,
    descriptor_freed: bool,
    lingering: HashMap<u32, OwnedFd>,
    lingering_until: VecDeque<(Instant, u32)>,
    lingering_next: u32,
    /// Those with input left to discard, which the kernel will not announce again.
    lingering_ready: Vec<u32>,
    timers: TimerWheel<Handle>,
    due: Vec<(Handle, Tick)>,
    began: Instant,
    tick: Tick,
    metrics: Arc<Metrics>,
}

impl Shard {
    /// An empty shard. With a link, it may be handed connections by others, and hand them some.
    pub fn new(metrics: Arc<Metrics>, link: Option<Arc<ShardLink>>) -> Self {
        Self {
            connections: ConnectionTable::default(),
            servers: HashMap::new(),
            listeners: Vec::new(),
            ready: Vec::new(),
            exhausted: Vec::new(),
            accept_from: 0,
            signals: VecDeque::new(),
            accept_errors: VecDeque::new(),
            ended: Vec::new(),
            dirty: Vec::new(),
            chain: Vec::new(),
            released_pins: Vec::new(),
            flushed_pins: Vec::new(),
            accept_retry_at: None,
            link,
            relief_in: RELIEF_MIN,
            adoptions: Vec::new(),
            descriptor_freed: false,
            lingering: HashMap::new(),
            lingering_until: VecDeque::new(),
            lingering_next: 0,
            lingering_ready: Vec::new(),
            timers: TimerWheel::default(),
            due: Vec::new(),
            began: Instant::now(),
            tick: 0,
            metrics,
        }
    }

    /// Whether work waits that the kernel will not announce again.
    pub fn has_backlog(&self) -> bool {
        !self.ready.is_empty()
            || !self.lingering_ready.is_empty()
            || !self.signals.is_empty()
            || !self.accept_errors.is_empty()
            || (self.descriptor_freed && self.accept_retry_at.is_some())
            || self.listeners.iter().flatten().any(|l| l.readable && !l.paused)
    }

    /// When time alone makes something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        let timer = self
            .timers
            .next()
            .map(|tick| self.began + Duration::from_millis(u64::from(tick) * TIMER_TICK_MS));
        let linger = self.lingering_until.front().map(|&(until, _)| until);
        [timer, linger, self.accept_retry_at].into_iter().flatten().min()
    }

    /// Whether the loop must go on.
    pub fn is_alive(&self) -> bool {
        !self.connections.is_empty()
            || !self.lingering.is_empty()
            || self.listeners.iter().any(Option::is_some)
    }

    /// Bytes in a connection's queue.
    pub fn queued_bytes(&self, handle: Handle) -> usize {
        self.connections.get(handle).map_or(0, Connection::queued)
    }

    /// A connection's socket.
    pub fn socket(&self, handle: Handle) -> Option<BorrowedFd<'_>> {
        Some(self.connections.get(handle)?.fd.as_ref()?.as_fd())
    }

    /// A connection's peer.
    pub fn peer(&self, handle: Handle) -> Option<SocketAddr> {
        Some(self.connections.get(handle)?.peer)
    }

    /// Pins that may be let go.
    pub fn take_released_pins(&mut self, released: &mut Vec<Pin>) {
        released.append(&mut self.released_pins);
    }

    /// Time passes: timeouts, lingering ends, another try at accepting.
    pub fn begin(&mut self, now: Instant, registrar: &dyn Registrar) {
        self.set_time(now);
        let mut due = mem::take(&mut self.due);
        self.timers.advance(self.tick, &mut due);
        for (handle, deadline) in due.drain(..) {
            self.timer_due(handle, deadline);
        }
        self.due = due;
        while self.lingering_until.front().is_some_and(|&(until, _)| until <= now) {
            if let Some((_, id)) = self.lingering_until.pop_front() {
                self.end_lingering(id);
            }
        }
        if self.accept_retry_at.is_some_and(|at| at <= now || self.descriptor_freed) {
            self.accept_retry_at = None;
            for listening in self.listeners.iter_mut().flatten().filter(|l| l.paused) {
                listening.readable = true;
            }
            self.retry_adoptions(registrar);
        }
        self.descriptor_freed = false;
    }

    fn set_time(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began).as_millis() as u64;
        self.tick = (elapsed / TIMER_TICK_MS) as Tick;
    }

    /// Delivers events without bytes.
    pub fn deliver_signals(&mut self, sink: &mut dyn Sink) {
        while sink.room() > SIGNALS_MAX {
            let Some((server, errno, pauses)) = self.accept_errors.pop_front() else { break };
            let event =
                Event { kind: abi::EVENT_ACCEPT_ERROR, handle: server.into(), a: errno, b: pauses.into() };
            sink.event(event);
        }
        while sink.room() > SIGNALS_MAX {
            let Some(handle) = self.signals.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(handle) else { continue };
            let flags = &mut connection.flags;
            flags.clear(Flags::LISTED_SIGNAL);
            let mut event = |kind, a| sink.event(Event { kind, handle: handle.word(), a, b: 0 });
            if flags.has(Flags::UNANNOUNCED) {
                flags.clear(Flags::UNANNOUNCED);
                event(abi::EVENT_OPEN, connection.server.into());
            }
            if connection.owned_flushed > 0 {
                event(abi::EVENT_OWNED_FLUSHED, mem::take(&mut connection.owned_flushed) as i32);
            }
            if flags.has(Flags::LOST) {
                event(abi::EVENT_CLOSED, connection.reason);
                self.ended.push(handle);
                continue;
            }
            match (flags.has(Flags::WRITE_PAUSED), flags.has(Flags::TOLD_PAUSED)) {
                (true, false) => {
                    flags.set(Flags::TOLD_PAUSED);
                    event(abi::EVENT_PAUSE_WRITING, 0);
                }
                (false, true) => {
                    flags.clear(Flags::TOLD_PAUSED);
                    event(abi::EVENT_RESUME_WRITING, 0);
                }
                _ => {}
            }
            if flags.has(Flags::IDLE) {
                flags.clear(Flags::IDLE);
                event(abi::EVENT_IDLE, 0);
            }
            if flags.has(Flags::ANSWERED) {
                flags.clear(Flags::ANSWERED);
                // What came in the meantime is read first (once reading is not paused), and answered.
                let unread = connection.fd.as_ref().is_some_and(|fd| tcp::unread_bytes(fd.as_fd()) > 0);
                if !flags.has(Flags::UNANSWERED) && !unread {
                    event(abi::EVENT_ANSWERED, 0);
                }
            }
        }
    }

    /// The batch is handled: its ended connections make room.
    pub fn end_batch(&mut self) {
        for handle in self.ended.drain(..) {
            self.connections.remove(handle);
        }
    }

    /// Serves what was left over. False when something still is.
    pub fn serve_backlog(&mut self, sink: &mut dyn Sink, registrar: &dyn Registrar) -> bool {
        self.accept_from = self.accept_from.wrapping_add(1);
        for turn in 0..self.listeners.len() {
            let index = (self.accept_from + turn) % self.listeners.len();
            let Some(listening) = &self.listeners[index] else { continue };
            if listening.readable && (!listening.paused || self.accept_retry_at.is_none()) {
                self.accept(index, ACCEPTS_PER_BATCH, registrar);
            }
        }
        for id in mem::take(&mut self.lingering_ready) {
            self.drain_lingering(id);
        }
        let mut waiting = mem::take(&mut self.ready);
        let mut full = false;
        for handle in waiting.drain(..) {
            let Some(connection) = self.connections.get_mut(handle) else { continue };
            connection.flags.clear(Flags::LISTED_READY);
            if full {
                self.list_ready(handle);
            } else {
                full = !self.read(handle, sink);
            }
        }
        // The list keeps its memory, whichever of the two vectors has more.
        if self.ready.is_empty() {
            self.ready = waiting;
        }
        !full
    }

    /// The batch is collected: who used up their reads in it come after who waited.
    pub fn finish(&mut self) {
        self.ready.append(&mut self.exhausted);
        debug_assert!(
            !self
                .listeners
                .iter()
                .flatten()
                .any(|l| l.paused && self.accept_retry_at.is_none() && !l.readable),
            "a listener is paused and nothing will try it again"
        );
    }

    /// Something became ready.
    pub fn on_ready(
        &mut self,
        source: Source,
        readiness: Readiness,
        sink: &mut dyn Sink,
        memory: &dyn PinnedMemory,
        registrar: &dyn Registrar,
    ) {
        match source {
            Source::Connection(handle) => {
                let Some(connection) = self.connections.get_mut(handle) else { return };
                if readiness.writable && connection.queue.is_some() {
                    self.send_queue(handle, memory, registrar);
                }
                if !readiness.readable {
                    return;
                }
                let Some(connection) = self.connections.get_mut(handle) else { return };
                if readiness.failed && connection.flags.has(Flags::EOF) {
                    // Nothing is left to read that would tell of it: the peer's reset came behind its end.
                    let failure = connection.fd.as_ref().and_then(|fd| tcp::take_error(fd.as_fd()));
                    if let Some(error) = failure {
                        self.lose(handle, errno(&error));
                    }
                    return;
                }
                connection.flags.set(Flags::READABLE);
                if readiness.read_closed {
                    connection.flags.set(Flags::READ_CLOSED);
                }
                // One on the list has its turn there, not a second one in this batch.
                if !connection.flags.has(Flags::LISTED_READY) {
                    self.read(handle, sink);
                }
            }
            Source::Listener(index) => {
                let Some(Some(listening)) = self.listeners.get_mut(index as usize) else { return };
                listening.readable = true;
                if !listening.paused {
                    self.accept(index as usize, ACCEPTS_PER_BATCH, registrar);
                }
            }
            Source::Lingering(id) => self.drain_lingering(id),
            Source::Inbox => self.take_deliveries(registrar),
        }
    }

    fn signal(&mut self, handle: Handle) {
        if let Some(connection) = self.connections.get_mut(handle)
            && !connection.flags.has(Flags::LISTED_SIGNAL)
        {
            connection.flags.set(Flags::LISTED_SIGNAL);
            self.signals.push_back(handle);
        }
    }

    fn list_ready(&mut self, handle: Handle) {
        if let Some(connection) = self.connections.get_mut(handle)
            && !connection.flags.has(Flags::LISTED_READY)
        {
            connection.flags.set(Flags::LISTED_READY);
            self.ready.push(handle);
        }
    }

    /// Reads from a connection, as far as it may and the sink can take it. False when the sink is full.
    fn read(&mut self, handle: Handle, sink: &mut dyn Sink) -> bool {
        let Some(connection) = self.connections.get_mut(handle) else { return true };
        const BARRED: Flags = Flags::PAUSED.and(Flags::CLOSING).and(Flags::LOST).and(Flags::EOF);
        let flags = connection.flags;
        if !flags.has(Flags::READABLE) || !flags.has(Flags::STARTED) || flags.has(BARRED) {
            return true;
        }
        let Some(fd) = connection.fd.as_ref() else { return true };
        for _ in 0..READS_PER_BATCH {
            if sink.room() <= SIGNALS_MAX {
                self.list_ready(handle);
                return false;
            }
            let Some((slab, buffer)) =
                sink.read_buffer(flags.has(Flags::BORROWS), connection.read_hint as usize)
            else {
                self.list_ready(handle);
                return false;
            };
            let room = buffer.len();
            self.metrics.add(abi::METRIC_READS, 1);
            match tcp::receive(fd.as_fd(), buffer) {
                Ok(0) => {
                    connection.flags.clear(Flags::READABLE);
                    connection.flags.set(Flags::EOF);
                    sink.event(Event { kind: abi::EVENT_EOF, handle: handle.word(), a: 0, b: 0 });
                    return true;
                }
                Ok(length) => {
                    connection.read_hint = length as u32;
                    connection.flags.set(Flags::UNANSWERED);
                    connection.active_at = self.tick;
                    self.metrics.add(abi::METRIC_BYTES_READ, length as u64);
                    sink.received(handle.word(), slab, length);
                    // A short read found the end of what there is, and more would be a new edge; but an end of
                    // stream that came with it has had its edge.
                    if length < room && !connection.flags.has(Flags::READ_CLOSED) {
                        connection.flags.clear(Flags::READABLE);
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.flags.clear(Flags::READABLE);
                    return true;
                }
                Err(error) => {
                    self.lose(handle, errno(&error));
                    return true;
                }
            }
        }
        connection.flags.set(Flags::LISTED_READY);
        self.exhausted.push(handle);
        true
    }
}

impl Drop for Shard {
    /// A shard that ends takes its connections along: the counters outlive it, and say so.
    fn drop(&mut self) {
        let open = self.connections.open_count();
        self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, open as u64);
    }
}
