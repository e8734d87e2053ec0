//! What all engines share: connections, their write queues, watermarks, timeouts, listeners and lists of pending work.
//!
//! It runs on the thread that does the I/O and holds nothing of JavaScript's. Its [`System`] does the I/O and tells it
//! what is ready; commands come in by [`Commands`], events and bytes leave by a [`Sink`]. A turn ([`Shard::turn`]) is the
//! same on every engine.
#![forbid(unsafe_code)]

mod accepting;
mod broadcasting;
mod connecting;
mod datagrams;
mod ending;
mod handover;
mod idle;
mod piping;
mod reading;
mod securing;
mod telling;
mod writing;

pub use datagrams::EndpointLimits;
pub use securing::ServerSecurity;

use crate::abi;
use crate::connection::{Connection, ConnectionTable, Flags, Handle, NO_RECORD};
use crate::error::errno;
use crate::limits::{RELIEF_MIN, TIMER_TICK_MS, UNPOLLED_BATCHES};
use crate::metrics::Metrics;
use crate::net::addresses::Peer;
use crate::net::udp::DatagramSocket;
use crate::system::{Readiness, Ready, Socket, Source, System};
use crate::timer::{Tick, TimerWheel};
use crate::topics::Topics;
use crate::write_queue::{Pin, PinnedMemory};
use datagrams::Datagrams;
use std::collections::{HashMap, VecDeque};
use std::mem::{self, MaybeUninit};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most signals (events without bytes) that one connection has to deliver at once: those of `startTls` come one by one, and never with
/// the first.
pub const SIGNALS_MAX: usize = 6;

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
    /// Takes a datagram of an endpoint, with its source's address in front of it ([`crate::net::datagram_address`]). False when
    /// there is no room for it in this batch.
    fn datagram(&mut self, _endpoint: i32, _source: &[u8], _payload: &[u8]) -> bool {
        false
    }
    /// Takes the event of a new connection; there must be room.
    fn opened(&mut self, handle: i32, server: u16, peer: Peer) {
        let named = (peer == Peer::NamedUnix).into();
        self.event(Event { kind: abi::EVENT_OPEN, handle, a: server.into(), b: named });
    }
    /// Takes the event of a connection that was asked for; there must be room.
    fn connected(&mut self, handle: i32, request: u32, peer: Peer) {
        let named = (peer == Peer::NamedUnix).into();
        self.event(Event { kind: abi::EVENT_CONNECTED, handle, a: request as i32, b: named });
    }
}

/// What JavaScript wants done, in order. The bytes are valid for the length of a call.
pub trait Commands {
    /// How many.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Operation, handle, a and b of one.
    fn record(&self, index: usize) -> [i32; 4];
    /// The bytes of a write; `None` when the memory that they were in is gone.
    fn bytes(&self, index: usize) -> Option<&[u8]>;
}

/// None.
impl Commands for () {
    fn len(&self) -> usize {
        0
    }

    fn record(&self, _index: usize) -> [i32; 4] {
        unreachable!("there is none")
    }

    fn bytes(&self, _index: usize) -> Option<&[u8]> {
        None
    }
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
    /// How they get TLS.
    security: Option<ServerSecurity>,
    /// Connections that shake hands.
    handshakes: usize,
}

impl Server {
    /// Whether other shards serve it, too, or may.
    fn is_shared(&self) -> bool {
        self.number != 0
    }
}

#[derive(Debug)]
struct Listening<L> {
    server: u16,
    listener: L,
    /// The kernel said that connections wait, and accepting has not yet found the end of them.
    readable: bool,
    /// Out of descriptors: tried again at `accept_retry_at`.
    paused: bool,
    /// JavaScript knows of it; once per exhaustion, however often it is tried in vain.
    told: bool,
}

/// See the module.
pub struct Shard<S: System> {
    system: S,
    connections: ConnectionTable<S::Socket>,
    servers: Servers,
    listeners: Vec<Option<Listening<S::Listener>>>,
    /// JavaScript was away when a connection came: until it is back they stay in their queues, where others find them.
    accepting_rests: bool,
    /// Connections to read from without a further word from the kernel.
    ready: Vec<Handle>,
    /// Of this batch: connections that used up their reads. They go behind those that had none.
    exhausted: Vec<Handle>,
    /// Where the next look at the listeners begins, so that none always gets the one free descriptor.
    accept_from: usize,
    /// Connections with (more of) a file to send, without a further word from the kernel.
    sending: Vec<Handle>,
    /// Files that were sent, or failed, to be told.
    files_sent: VecDeque<(Handle, Result<u64, i32>)>,
    /// Connections that have events without bytes to deliver.
    signals: VecDeque<Handle>,
    /// Failed accepts to be told: server, errno, whether accepting pauses.
    accept_errors: VecDeque<(u16, i32, bool)>,
    /// Connections that were asked for and not told of yet, by the request's number.
    requests: HashMap<u32, Handle>,
    /// Requests that failed, to be told: the number, errno, the CALL_ that failed.
    connect_failures: VecDeque<(u32, i32, i32)>,
    /// Connections whose closed event is in this batch.
    ended: Vec<Handle>,
    /// Of this flush: connections with something to do, and each record's successor in its connection's chain.
    dirty: Vec<Handle>,
    chain: Vec<u32>,
    released_pins: Vec<Pin>,
    flushed_pins: Vec<Pin>,
    accept_retry_at: Option<Instant>,
    /// Connections to accept until it sees whether another shard has far fewer.
    relief_in: u64,
    /// Listeners to accept from that could not be watched yet, with the number of their server.
    adoptions: Vec<(u32, S::Listener)>,
    descriptor_freed: bool,
    lingering: HashMap<u32, S::Socket>,
    lingering_until: VecDeque<(Instant, u32)>,
    lingering_next: u32,
    /// Those with input left to discard, which the kernel will not announce again.
    lingering_ready: Vec<u32>,
    securing: securing::Securing,
    topics: Topics,
    broadcasts: broadcasting::Broadcasts,
    datagrams: Datagrams,
    timers: TimerWheel<Handle>,
    due: Vec<(Handle, Tick)>,
    began: Instant,
    now: Instant,
    tick: Tick,
    /// What the last poll told and no turn has served yet.
    polled: Ready,
    /// Turns since the last poll.
    unpolled_turns: u32,
    metrics: Arc<Metrics>,
}

impl<S: System> Shard<S> {
    /// An empty shard.
    pub fn new(system: S, metrics: Arc<Metrics>, now: Instant) -> Self {
        Self {
            system,
            accepting_rests: false,
            connections: ConnectionTable::default(),
            servers: HashMap::new(),
            listeners: Vec::new(),
            ready: Vec::new(),
            exhausted: Vec::new(),
            accept_from: 0,
            sending: Vec::new(),
            files_sent: VecDeque::new(),
            signals: VecDeque::new(),
            accept_errors: VecDeque::new(),
            requests: HashMap::new(),
            connect_failures: VecDeque::new(),
            ended: Vec::new(),
            dirty: Vec::new(),
            chain: Vec::new(),
            released_pins: Vec::new(),
            flushed_pins: Vec::new(),
            accept_retry_at: None,
            relief_in: RELIEF_MIN,
            adoptions: Vec::new(),
            descriptor_freed: false,
            lingering: HashMap::new(),
            lingering_until: VecDeque::new(),
            lingering_next: 0,
            lingering_ready: Vec::new(),
            securing: securing::Securing::default(),
            topics: Topics::default(),
            broadcasts: broadcasting::Broadcasts::default(),
            datagrams: Datagrams::default(),
            timers: TimerWheel::default(),
            due: Vec::new(),
            began: now,
            now,
            tick: 0,
            polled: Vec::new(),
            unpolled_turns: 0,
            metrics,
        }
    }

    /// Whether work waits that the kernel will not announce again.
    pub fn has_backlog(&self) -> bool {
        !self.ready.is_empty()
            || !self.lingering_ready.is_empty()
            || !self.sending.is_empty()
            || !self.files_sent.is_empty()
            || !self.signals.is_empty()
            || !self.accept_errors.is_empty()
            || !self.connect_failures.is_empty()
            || !self.polled.is_empty()
            || self.is_broadcasting()
            || self.datagrams.has_backlog()
            || self.has_late()
            || (self.descriptor_freed && self.accept_retry_at.is_some())
            || (!self.accepting_rests && self.listeners.iter().flatten().any(|l| self.may_accept(l)))
    }

    fn may_accept(&self, listening: &Listening<S::Listener>) -> bool {
        let paused = listening.paused && self.accept_retry_at.is_some();
        listening.readable && !paused && !self.shakes_enough(listening.server)
    }

    /// Whether the last turn only served what was left of an earlier poll.
    pub fn is_unpolled(&self) -> bool {
        self.unpolled_turns > 0
    }

    /// When time alone makes something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        let timer = self
            .timers
            .next()
            .map(|tick| self.began + Duration::from_millis(u64::from(tick) * TIMER_TICK_MS));
        let linger = self.lingering_until.front().map(|&(until, _)| until);
        [timer, linger, self.accept_retry_at, self.datagrams.next_wake()].into_iter().flatten().min()
    }

    /// Whether the loop must go on.
    pub fn is_alive(&self) -> bool {
        !self.connections.is_empty()
            || !self.connect_failures.is_empty()
            || !self.lingering.is_empty()
            || !self.datagrams.is_empty()
            || self.listeners.iter().any(Option::is_some)
    }

    /// Bytes in a connection's queue.
    pub fn queued_bytes(&self, handle: Handle) -> usize {
        self.connections.get(handle).map_or(0, Connection::queued)
    }

    /// A connection's socket.
    pub fn socket(&self, handle: Handle) -> Option<&S::Socket> {
        self.connections.get(handle)?.socket.as_ref()
    }

    /// Whether one of its sockets, those that linger included, one of its listeners or one of its endpoints is so.
    pub fn any(
        &self,
        socket: impl Fn(&S::Socket) -> bool,
        listener: impl Fn(&S::Listener) -> bool,
        endpoint: impl Fn(&DatagramSocket) -> bool,
    ) -> bool {
        let mut open = self.connections.iter().filter_map(|(_, connection)| connection.socket.as_ref());
        open.any(&socket)
            || self.lingering.values().any(&socket)
            || self.listeners.iter().flatten().any(|listening| listener(&listening.listener))
            || self.datagrams.sockets().any(endpoint)
    }

    /// The system.
    pub fn system(&self) -> &S {
        &self.system
    }

    /// One turn: what is left of the last one, then what has become ready. What the sink cannot take is kept.
    pub fn turn(&mut self, now: Instant, sink: &mut dyn Sink, memory: &dyn PinnedMemory) {
        self.begin(now);
        self.deliver_signals(sink);
        // What is left from the last poll goes first. While the sink cannot take all of it, a poll would only lengthen
        // the list; but ends, room to write and new connections must be learnt in between.
        for handle in mem::take(&mut self.sending) {
            if let Some(connection) = self.connections.get_mut(handle) {
                connection.flags.clear(Flags::LISTED_SENDING);
            }
            self.send_queue(handle, memory);
        }
        let served = self.serve_backlog(sink);
        self.unpolled_turns += 1;
        if served || self.unpolled_turns > UNPOLLED_BATCHES {
            self.unpolled_turns = 0;
            if self.polled.is_empty() {
                self.poll();
            }
            let mut polled = mem::take(&mut self.polled);
            for (source, readiness) in polled.drain(..) {
                self.on_ready(source, readiness, sink, memory);
            }
            self.polled = polled;
        }
        self.finish();
        self.deliver_signals(sink);
        self.deliver_endpoint_signals(sink);
    }

    /// Whether something has become ready; the next turn serves it.
    pub fn look(&mut self) -> bool {
        self.poll();
        !self.polled.is_empty()
    }

    fn poll(&mut self) {
        self.metrics.add(abi::METRIC_POLLS, 1);
        self.system.poll(&mut self.polled);
    }

    /// Whether new connections are left in their queues, because JavaScript was away when they came.
    pub fn accepting_rests(&self) -> bool {
        self.accepting_rests
    }

    /// JavaScript is back: takes new connections again.
    pub fn accept_again(&mut self) {
        self.accepting_rests = false;
    }

    /// A connection's peer.
    pub fn peer(&self, handle: Handle) -> Option<Peer> {
        Some(self.connections.get(handle)?.peer)
    }

    /// Pins that may be let go.
    pub fn take_released_pins(&mut self, released: &mut Vec<Pin>) {
        released.append(&mut self.released_pins);
    }

    /// Time passes: timeouts, lingering ends, another try at accepting.
    fn begin(&mut self, now: Instant) {
        self.set_time(now);
        let mut due = mem::take(&mut self.due);
        self.timers.advance(self.tick, &mut due);
        for (handle, deadline) in due.drain(..) {
            self.timer_due(handle, deadline);
        }
        self.due = due;
        while self.lingering_until.front().is_some_and(|&(until, _)| until <= now) {
            if let Some((_, id)) = self.lingering_until.pop_front() {
                log::debug!(linger = id; "a closed connection's peer has not taken all in time: lingering is given up");
                self.end_lingering(id);
            }
        }
        if self.accept_retry_at.is_some_and(|at| at <= now || self.descriptor_freed) {
            self.accept_retry_at = None;
            for listening in self.listeners.iter_mut().flatten().filter(|l| l.paused) {
                listening.readable = true;
            }
            self.retry_adoptions();
        }
        self.descriptor_freed = false;
        self.begin_securing();
        self.retry_endpoints(now);
    }

    fn set_time(&mut self, now: Instant) {
        self.now = now;
        let elapsed = now.saturating_duration_since(self.began).as_millis() as u64;
        self.tick = (elapsed / TIMER_TICK_MS) as Tick;
    }

    /// Serves what was left over. False when something still is.
    fn serve_backlog(&mut self, sink: &mut dyn Sink) -> bool {
        self.accept_from = self.accept_from.wrapping_add(1);
        for turn in 0..self.listeners.len() {
            let index = (self.accept_from + turn) % self.listeners.len();
            let Some(listening) = &self.listeners[index] else { continue };
            if listening.readable && (!listening.paused || self.accept_retry_at.is_none()) {
                self.accept_unless_away(index);
            }
        }
        for id in mem::take(&mut self.lingering_ready) {
            self.drain_lingering(id);
        }
        // Now these are first, now those.
        let endpoints_first = self.accept_from.is_multiple_of(2);
        let mut full = endpoints_first && !self.serve_endpoints(sink);
        let mut waiting = mem::take(&mut self.ready);
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
        !full && (endpoints_first || self.serve_endpoints(sink))
    }

    /// The batch is collected: who used up their reads in it come after who waited.
    fn finish(&mut self) {
        self.ready.append(&mut self.exhausted);
        self.datagrams.finish();
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
    fn on_ready(
        &mut self,
        source: Source,
        readiness: Readiness,
        sink: &mut dyn Sink,
        memory: &dyn PinnedMemory,
    ) {
        match source {
            Source::Connection(handle) => {
                let Some(connection) = self.connections.get_mut(handle) else { return };
                let Some(socket) = connection.socket.as_ref() else { return };
                let readiness = self.system.look(socket, readiness);
                if connection.flags.has(Flags::WRITE_PIPE) {
                    self.on_write_pipe(handle, readiness, memory);
                    return;
                }
                if connection.flags.has(Flags::CONNECTING) {
                    self.on_connecting(handle, readiness); // nothing is queued for one of these
                } else if readiness.writable && connection.waits_to_send() {
                    self.send_queue(handle, memory);
                }
                if !readiness.readable {
                    return;
                }
                let Some(connection) = self.connections.get_mut(handle) else { return };
                if readiness.failed && connection.flags.has(Flags::EOF) {
                    if connection.flags.has(Flags::READ_PIPE) {
                        return; // nobody resets a pipe, and its writer's end was told
                    }
                    // Nothing is left to read that would tell of it: the peer's reset came behind its end.
                    let failure = connection.socket.as_ref().and_then(Socket::take_error);
                    if let Some(error) = failure {
                        if connection.has_parted() {
                            self.take_socket(handle, 0);
                        } else {
                            self.lose(handle, errno(&error));
                        }
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
                    self.accept_unless_away(index as usize);
                }
            }
            Source::Lingering(id) => {
                if let Some(socket) = self.lingering.get(&id) {
                    self.system.look(socket, readiness);
                    self.drain_lingering(id);
                }
            }
            Source::Endpoint(endpoint) => self.on_endpoint_ready(endpoint, readiness, sink),
            Source::Inbox => self.take_deliveries(),
        }
    }
}

impl<S: System> Drop for Shard<S> {
    /// A shard that ends takes its connections along: the counters outlive it, and say so.
    fn drop(&mut self) {
        let open = self.connections.open_count();
        self.metrics.add(abi::METRIC_CONNECTIONS_CLOSED, open as u64);
    }
}
