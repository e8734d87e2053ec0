//! What all engines share: connections, their write queues, watermarks, timeouts, listeners and lists of pending work.
//!
//! It runs on the thread that does the I/O and holds nothing of JavaScript's. An engine tells it what is ready and
//! passes commands in; events and bytes leave by a [`Sink`].
#![forbid(unsafe_code)]

use crate::abi;
use crate::connection::{Connection, ConnectionTable, Flags, Handle, NO_RECORD};
use crate::error::errno;
use crate::limits::{
    ACCEPT_RETRY_MS, ACCEPTS_AT_STOP, ACCEPTS_PER_BATCH, LINGER_MS, LINGERING_MAX, READS_PER_BATCH, TIMER_TICK_MS,
    WRITEV_PIECES,
};
use crate::metrics::Metrics;
use crate::net::listen::Listener;
use crate::net::tcp::{self, AcceptFailure};
use crate::ring::Commands;
use crate::timer::{Tick, TimerWheel};
use crate::write_queue::{Detached, Pin, PinnedMemory, WriteQueue};
use arrayvec::ArrayVec;
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
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

#[derive(Debug)]
struct Server {
    limits: ServerLimits,
    /// Connections announced or to be announced.
    accepted: u64,
}

#[derive(Debug)]
struct Listening {
    server: u16,
    listener: Arc<Listener>,
    /// The kernel said that connections wait, and accepting has not yet found the end of them.
    readable: bool,
    /// Out of descriptors.
    paused: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Shard {
    connections: ConnectionTable,
    servers: HashMap<u16, Server>,
    listeners: Vec<Option<Listening>>,
    /// Connections to read from without a further word from the kernel.
    ready: Vec<Handle>,
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
    /// An empty shard.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            connections: ConnectionTable::default(),
            servers: HashMap::new(),
            listeners: Vec::new(),
            ready: Vec::new(),
            signals: VecDeque::new(),
            accept_errors: VecDeque::new(),
            ended: Vec::new(),
            dirty: Vec::new(),
            chain: Vec::new(),
            released_pins: Vec::new(),
            flushed_pins: Vec::new(),
            accept_retry_at: None,
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

    // ---- what an engine asks ----

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
        let timer = self.timers.next().map(|tick| self.began + Duration::from_millis(u64::from(tick) * TIMER_TICK_MS));
        let linger = self.lingering_until.front().map(|&(until, _)| until);
        [timer, linger, self.accept_retry_at].into_iter().flatten().min()
    }

    /// Whether the loop must go on.
    pub fn is_alive(&self) -> bool {
        !self.connections.is_empty() || !self.lingering.is_empty() || self.listeners.iter().any(Option::is_some)
    }

    /// Whether closed connections still wait for their peers' end.
    pub fn is_lingering(&self) -> bool {
        !self.lingering.is_empty()
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

    // ---- listeners ----

    /// Makes a server known.
    pub fn add_server(&mut self, server: u16, limits: ServerLimits) {
        self.servers.insert(server, Server { limits, accepted: 0 });
    }

    /// Accepts from a listener.
    pub fn listen(&mut self, server: u16, listener: Arc<Listener>, registrar: &dyn Registrar) -> io::Result<()> {
        let index = self.listeners.iter().position(Option::is_none).unwrap_or(self.listeners.len());
        registrar.register(listener.as_fd(), Source::Listener(index as u32))?;
        // What was queued before we watched is announced by an edge on epoll, but need not be elsewhere: look.
        let entry = Some(Listening { server, listener, readable: true, paused: false });
        match self.listeners.get_mut(index) {
            Some(place) => *place = entry,
            None => self.listeners.push(entry),
        }
        Ok(())
    }

    /// Takes what waits in a server's queues, then lets go of its listeners. How many connections the server had in all:
    /// each of them is or will be announced.
    pub fn unlisten(&mut self, server: u16, registrar: &dyn Registrar) -> u64 {
        for index in 0..self.listeners.len() {
            if self.listeners[index].as_ref().is_some_and(|l| l.server == server) {
                self.accept(index, ACCEPTS_AT_STOP, registrar);
                if let Some(listening) = self.listeners[index].take() {
                    // It fails only when the descriptor is not under watch, which is what is wanted.
                    _ = registrar.deregister(listening.listener.as_fd());
                }
            }
        }
        if !self.listeners.iter().flatten().any(|l| l.paused) {
            self.accept_retry_at = None;
        }
        self.servers.get(&server).map_or(0, |server| server.accepted)
    }

    fn accept(&mut self, index: usize, limit: usize, registrar: &dyn Registrar) {
        for _ in 0..limit {
            let Some(listening) = &mut self.listeners[index] else { return };
            let server = listening.server;
            let error = match tcp::accept(listening.listener.as_fd()) {
                Ok((fd, peer)) => {
                    listening.paused = false;
                    self.open(fd, peer, server, registrar);
                    continue;
                }
                Err(error) => error,
            };
            match tcp::accept_failure(&error) {
                AcceptFailure::Empty => {
                    listening.readable = false;
                    return;
                }
                AcceptFailure::Connection => self.metrics.add(abi::METRIC_ACCEPT_ERRORS, 1),
                AcceptFailure::Exhausted | AcceptFailure::Other => {
                    // The queue keeps what waits. Descriptors may be freed anywhere in the process, which nobody
                    // tells us: so besides one of our own, time is a reason to try again.
                    let told = mem::replace(&mut listening.paused, true);
                    self.metrics.add(abi::METRIC_ACCEPT_ERRORS, 1);
                    if !told {
                        self.accept_errors.push_back((server, errno(&error), true));
                    }
                    self.accept_retry_at = Some(Instant::now() + Duration::from_millis(ACCEPT_RETRY_MS));
                    return;
                }
            }
        }
    }

    fn open(&mut self, fd: OwnedFd, peer: SocketAddr, server: u16, registrar: &dyn Registrar) {
        let Some(limits) = self.servers.get(&server).map(|server| server.limits) else {
            debug_assert!(false, "a listener's server is not known");
            return;
        };
        self.metrics.add(abi::METRIC_CONNECTIONS_ACCEPTED, 1);
        let inserted = self.connections.insert(Connection {
            fd: Some(fd),
            flags: Flags::UNANNOUNCED,
            server,
            reason: 0,
            queue: None,
            owned_flushed: 0,
            read_hint: 0,
            chain_first: NO_RECORD,
            chain_last: NO_RECORD,
            write_high: limits.write_high_bytes,
            write_low: limits.write_low_bytes,
            idle_ticks: 0,
            active_at: self.tick,
            timer_at: 0,
            peer,
        });
        let Ok(handle) = inserted else {
            self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, 1);
            self.accept_errors.push_back((server, libc::ENFILE, false));
            return;
        };
        let result = match &self.connections.get(handle).and_then(|c| c.fd.as_ref()) {
            Some(fd) => registrar.register(fd.as_fd(), Source::Connection(handle)),
            None => Ok(()),
        };
        if let Err(error) = result {
            // Out of watches or memory: the connection ends before anybody heard of it.
            self.connections.remove(handle);
            self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, 1);
            self.accept_errors.push_back((server, errno(&error), false));
            return;
        }
        if let Some(server) = self.servers.get_mut(&server) {
            server.accepted += 1;
        }
        self.signal(handle);
        self.set_idle_timeout(handle, limits.idle_timeout_ms);
    }

    // ---- events out ----

    /// Time passes: timeouts, lingering ends, another try at accepting.
    pub fn begin(&mut self, now: Instant) {
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
            let event = Event { kind: abi::EVENT_ACCEPT_ERROR, handle: server.into(), a: errno, b: pauses.into() };
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
        for index in 0..self.listeners.len() {
            if self.listeners[index].as_ref().is_some_and(|l| l.readable && (!l.paused || self.accept_retry_at.is_none())) {
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
                self.read(handle, sink);
            }
            Source::Listener(index) => {
                let Some(Some(listening)) = self.listeners.get_mut(index as usize) else { return };
                listening.readable = true;
                if !listening.paused {
                    self.accept(index as usize, ACCEPTS_PER_BATCH, registrar);
                }
            }
            Source::Lingering(id) => self.drain_lingering(id),
        }
    }

    fn signal(&mut self, handle: Handle) {
        if let Some(connection) = self.connections.get_mut(handle) {
            if !connection.flags.has(Flags::LISTED_SIGNAL) {
                connection.flags.set(Flags::LISTED_SIGNAL);
                self.signals.push_back(handle);
            }
        }
    }

    fn list_ready(&mut self, handle: Handle) {
        if let Some(connection) = self.connections.get_mut(handle) {
            if !connection.flags.has(Flags::LISTED_READY) {
                connection.flags.set(Flags::LISTED_READY);
                self.ready.push(handle);
            }
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
            let Some((slab, buffer)) = sink.read_buffer(flags.has(Flags::BORROWS), connection.read_hint as usize)
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
        self.list_ready(handle);
        true
    }

    // ---- commands in ----

    /// Applies commands; writes to one connection leave together.
    pub fn submit(&mut self, now: Instant, commands: &Commands<'_>, registrar: &dyn Registrar) {
        self.set_time(now);
        self.chain.clear();
        self.chain.resize(commands.len(), NO_RECORD);
        for index in 0..commands.len() {
            let [operation, handle, a, b] = commands.record(index);
            let handle = Handle::from_word(handle);
            // A command to a connection that is gone, or to a slot that is another's by now, does nothing.
            let Some(connection) = self.connections.get_mut(handle) else { continue };
            if connection.flags.has(Flags::LOST) {
                continue;
            }
            match operation & abi::KIND_MASK {
                abi::COMMAND_WRITE | abi::COMMAND_WRITE_SLAB => {
                    let index = index as u32;
                    if connection.chain_last == NO_RECORD {
                        connection.chain_first = index;
                        self.dirty.push(handle);
                    } else {
                        self.chain[connection.chain_last as usize] = index;
                    }
                    connection.chain_last = index;
                }
                abi::COMMAND_START => {
                    connection.flags.set(Flags::STARTED);
                    self.set_mode(handle, a != 0);
                    self.resume(handle);
                }
                abi::COMMAND_MODE => self.set_mode(handle, a != 0),
                abi::COMMAND_PAUSE => connection.flags.set(Flags::PAUSED),
                abi::COMMAND_RESUME => {
                    connection.flags.clear(Flags::PAUSED);
                    self.resume(handle);
                }
                abi::COMMAND_CLOSE => {
                    connection.flags.set(Flags::CLOSING);
                    self.dirty.push(handle);
                }
                abi::COMMAND_WRITE_EOF => {
                    connection.flags.set(Flags::WRITE_EOF);
                    self.dirty.push(handle);
                }
                abi::COMMAND_ABORT => {
                    self.reset(handle, a);
                }
                abi::COMMAND_WRITE_LIMITS => {
                    connection.write_high = a as u32;
                    connection.write_low = b as u32;
                    self.update_watermarks(handle);
                }
                abi::COMMAND_IDLE_TIMEOUT => self.set_idle_timeout(handle, a as u32),
                other => debug_assert!(false, "unknown command {other}"),
            }
        }
        let mut dirty = mem::take(&mut self.dirty);
        for handle in dirty.drain(..) {
            self.send_chain(handle, commands, registrar);
        }
        self.dirty = dirty;
    }

    fn set_mode(&mut self, handle: Handle, borrows: bool) {
        if let Some(connection) = self.connections.get_mut(handle) {
            if borrows {
                connection.flags.set(Flags::BORROWS);
            } else {
                connection.flags.clear(Flags::BORROWS);
            }
        }
    }

    fn resume(&mut self, handle: Handle) {
        if self.connections.get(handle).is_some_and(|c| c.flags.has(Flags::READABLE)) {
            self.list_ready(handle);
        }
    }

    /// Sends this flush's writes of a connection, then does what waited for them.
    fn send_chain(&mut self, handle: Handle, commands: &Commands<'_>, registrar: &dyn Registrar) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let mut next = mem::replace(&mut connection.chain_first, NO_RECORD);
        connection.chain_last = NO_RECORD;
        while next != NO_RECORD {
            let mut pieces: ArrayVec<IoSlice<'_>, WRITEV_PIECES> = ArrayVec::new();
            while next != NO_RECORD && !pieces.is_full() {
                let Some(bytes) = commands.bytes(next as usize) else {
                    self.reset(handle, abi::CLOSE_DETACHED);
                    return;
                };
                pieces.push(IoSlice::new(bytes));
                next = self.chain[next as usize];
            }
            self.send_or_queue(handle, &mut pieces);
        }
        self.after_write(handle, registrar);
    }

    /// Sends at once.
    pub fn write(&mut self, handle: Handle, bytes: &[u8], registrar: &dyn Registrar) {
        self.send_or_queue(handle, &mut [IoSlice::new(bytes)]);
        self.after_write(handle, registrar);
    }

    /// Sends at once; the rest stays where it is.
    pub fn write_pinned(
        &mut self,
        handle: Handle,
        pin: Pin,
        length: usize,
        memory: &dyn PinnedMemory,
        registrar: &dyn Registrar,
    ) -> bool {
        let write_max = self.write_max(handle);
        let open = self.connections.get_mut(handle).filter(|c| !c.flags.has(Flags::LOST));
        let Some(connection) = open else {
            self.released_pins.push(pin);
            return false;
        };
        let queue = connection.queue.get_or_insert_default();
        let idle = queue.is_empty();
        queue.push_pinned(pin, 0, length);
        if idle {
            self.send_queue(handle, memory, registrar);
        }
        if self.queued_bytes(handle) > write_max {
            self.metrics.add(abi::METRIC_WRITE_OVERFLOWS, 1);
            self.reset(handle, abi::CLOSE_WRITE_OVERFLOW);
        }
        self.update_watermarks(handle);
        true
    }

    fn write_max(&self, handle: Handle) -> usize {
        let server = self.connections.get(handle).map(|connection| connection.server);
        server.and_then(|server| self.servers.get(&server)).map_or(0, |server| server.limits.write_max_bytes)
    }

    /// Sends pieces if nothing waits before them; queues a copy of what the kernel does not take.
    fn send_or_queue(&mut self, handle: Handle, pieces: &mut [IoSlice<'_>]) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.flags.has(Flags::LOST) {
            return;
        }
        let Some(fd) = connection.fd.as_ref() else { return };
        let mut rest = pieces;
        if connection.queue.is_none() {
            self.metrics.add(abi::METRIC_WRITES, 1);
            match tcp::send(fd.as_fd(), rest) {
                Ok(sent) => {
                    connection.active_at = self.tick;
                    self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
                    IoSlice::advance_slices(&mut rest, sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.lose(handle, errno(&error));
                    return;
                }
            }
        }
        let length: usize = rest.iter().map(|piece| piece.len()).sum();
        if length == 0 {
            return;
        }
        if connection.queued() + length > self.write_max(handle) {
            self.metrics.add(abi::METRIC_WRITE_OVERFLOWS, 1);
            self.reset(handle, abi::CLOSE_WRITE_OVERFLOW);
            return;
        }
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let queue = connection.queue.get_or_insert_with(|| Box::new(WriteQueue::default()));
        for piece in rest.iter() {
            queue.push(piece);
        }
    }

    /// Sends what is queued until the kernel takes no more.
    fn send_queue(&mut self, handle: Handle, memory: &dyn PinnedMemory, registrar: &dyn Registrar) {
        loop {
            let Some(connection) = self.connections.get_mut(handle) else { return };
            let (Some(fd), Some(queue)) = (connection.fd.as_ref(), connection.queue.as_mut()) else { return };
            let (length, result) = match send_first(fd.as_fd(), queue, memory) {
                Ok(outcome) => outcome,
                Err(Detached) => {
                    self.reset(handle, abi::CLOSE_DETACHED);
                    return;
                }
            };
            self.metrics.add(abi::METRIC_WRITES, u64::from(length > 0));
            let sent = match result {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.lose(handle, errno(&error));
                    return;
                }
            };
            connection.active_at = self.tick;
            self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
            queue.advance(sent, &mut self.flushed_pins);
            if !self.flushed_pins.is_empty() {
                connection.owned_flushed += self.flushed_pins.len() as u32;
                self.released_pins.append(&mut self.flushed_pins);
                self.signal(handle);
            }
            let Some(connection) = self.connections.get_mut(handle) else { return };
            if connection.queue.as_ref().is_none_or(|queue| queue.is_empty()) {
                connection.queue = None; // an idle connection holds no buffer
                break;
            }
            if sent < length {
                break;
            }
        }
        self.after_write(handle, registrar);
    }

    fn after_write(&mut self, handle: Handle, registrar: &dyn Registrar) {
        self.update_watermarks(handle);
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.queue.is_some() || connection.flags.has(Flags::LOST) {
            return;
        }
        if connection.flags.has(Flags::CLOSING) {
            self.close(handle, registrar);
        } else if connection.flags.has(Flags::WRITE_EOF) && !connection.flags.has(Flags::WRITE_CLOSED) {
            connection.flags.set(Flags::WRITE_CLOSED);
            let result = connection.fd.as_ref().map_or(Ok(()), |fd| tcp::shutdown_write(fd.as_fd()));
            if let Err(error) = result {
                self.lose(handle, errno(&error));
            }
        }
    }

    fn update_watermarks(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let queued = connection.queued();
        if connection.flags.has(Flags::WRITE_PAUSED) {
            if queued <= connection.write_low as usize {
                connection.flags.clear(Flags::WRITE_PAUSED);
                self.signal(handle);
            }
        } else if queued > connection.write_high as usize {
            connection.flags.set(Flags::WRITE_PAUSED);
            self.signal(handle);
        }
    }

    // ---- ends ----

    /// The connection is gone for this reason; its descriptor closes now.
    fn lose(&mut self, handle: Handle, reason: i32) {
        self.take_descriptor(handle, reason);
    }

    /// Ends a connection by a reset.
    fn reset(&mut self, handle: Handle, reason: i32) {
        if let Some(fd) = self.connections.get(handle).and_then(|connection| connection.fd.as_ref()) {
            tcp::reset_on_close(fd.as_fd());
        }
        self.take_descriptor(handle, reason);
    }

    /// Ends a connection after its queue is empty, without destroying what the peer has not received yet.
    fn close(&mut self, handle: Handle, registrar: &dyn Registrar) {
        let heard_end = self.connections.get(handle).is_some_and(|connection| connection.flags.has(Flags::EOF));
        let Some(fd) = self.take_descriptor(handle, 0) else { return };
        if heard_end || self.lingering.len() >= LINGERING_MAX || !tcp::close_may_lose_bytes(fd.as_fd()) {
            return;
        }
        let id = self.lingering_next;
        if tcp::shutdown_write(fd.as_fd()).is_ok() && registrar.reregister(fd.as_fd(), Source::Lingering(id)).is_ok() {
            self.lingering_next = self.lingering_next.wrapping_add(1);
            self.lingering.insert(id, fd);
            self.lingering_until.push_back((Instant::now() + Duration::from_millis(LINGER_MS), id));
            self.drain_lingering(id);
        }
    }

    fn take_descriptor(&mut self, handle: Handle, reason: i32) -> Option<OwnedFd> {
        let connection = self.connections.get_mut(handle)?;
        let fd = connection.fd.take()?;
        connection.flags.set(Flags::LOST);
        connection.reason = reason;
        if let Some(mut queue) = connection.queue.take() {
            queue.clear(&mut self.released_pins);
        }
        self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, 1);
        self.descriptor_freed = true;
        self.signal(handle);
        Some(fd)
    }

    /// Discards what a closed connection still receives, until its end.
    fn drain_lingering(&mut self, id: u32) {
        let Some(fd) = self.lingering.get(&id) else { return };
        let mut discarded = [MaybeUninit::uninit(); 16 * 1024];
        for _ in 0..READS_PER_BATCH {
            match tcp::receive(fd.as_fd(), &mut discarded) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => {
                    self.end_lingering(id);
                    return;
                }
            }
        }
        self.lingering_ready.push(id);
    }

    fn end_lingering(&mut self, id: u32) {
        if self.lingering.remove(&id).is_some() {
            self.descriptor_freed = true;
            self.lingering_until.retain(|&(_, other)| other != id);
        }
    }

    // ---- idle timeouts ----

    fn set_idle_timeout(&mut self, handle: Handle, milliseconds: u32) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.idle_ticks = u64::from(milliseconds).div_ceil(TIMER_TICK_MS) as Tick;
        connection.active_at = self.tick;
        // An entry that falls due earlier serves: it is put in again then. So a timeout that is set with every message
        // does not fill the wheel.
        if connection.idle_ticks > 0 && (connection.timer_at == 0 || connection.timer_at > connection.idle_at()) {
            connection.timer_at = connection.idle_at();
            self.timers.insert(handle, connection.timer_at);
        }
    }

    fn timer_due(&mut self, handle: Handle, deadline: Tick) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.timer_at != deadline {
            return; // another entry counts
        }
        connection.timer_at = 0;
        if connection.idle_ticks == 0 || connection.flags.has(Flags::LOST) {
            return;
        }
        let is_idle = connection.idle_at() <= self.tick;
        if is_idle {
            connection.active_at = self.tick;
            connection.flags.set(Flags::IDLE);
        }
        connection.timer_at = connection.idle_at();
        self.timers.insert(handle, connection.timer_at);
        if is_idle {
            self.signal(handle);
        }
    }
}

/// Offers the kernel the first pieces of a queue: how many bytes, and how many of them it took.
fn send_first(
    fd: BorrowedFd<'_>,
    queue: &WriteQueue,
    memory: &dyn PinnedMemory,
) -> Result<(usize, io::Result<usize>), Detached> {
    let mut pieces: ArrayVec<IoSlice<'_>, WRITEV_PIECES> = ArrayVec::new();
    queue.slices(memory, &mut pieces)?;
    let length = pieces.iter().map(|piece| piece.len()).sum();
    Ok((length, if length == 0 { Ok(0) } else { tcp::send(fd, &pieces) }))
}
