//! The half on the shard's thread: it copies events and bytes into JavaScript's memory, and commands and bytes out of it.
#![forbid(unsafe_code)]

use super::{Back, COMMAND_CALL, COMMAND_FREE, COMMAND_OWNED, Driver, Shared};
use crate::abi;
use crate::connection::Handle;
use crate::engine::{Engine, TlsAnswer, TlsQuestion};
use crate::limits::{BATCH_EVENTS_MIN, BATCH_US, PIPE_PIECE_BYTES, PIPE_RECORDS};
use crate::net::addresses::Peer;
use crate::net::datagram_address;
use crate::pipe::{Reader, Words, Writer, write_copy};
use crate::shard::{Commands, Event, ServerLimits, ServerSecurity, Sink};
use crate::system::{Left, System};
use crate::tls::session::Session;
use crate::write_queue::{FileRange, Pin, PinnedMemory};
use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Instant;

/// See the module.
pub struct Front<S: System, D: Driver> {
    shared: Arc<Shared<S>>,
    events: Reader,
    commands: Writer,
    driver: D,
    /// Bytes of the first event that are handed on already.
    handed_on: usize,
    /// By slot.
    connections: Vec<Known>,
    /// Offers that were come by.
    offers: usize,
    /// Connections that were asked for and whose event was not handed on yet: whereto.
    requests: HashMap<u32, Peer>,
    /// Endpoints whose end was not handed on yet.
    endpoints: usize,
    /// Of this batch: connections whose end is in it.
    ended: Vec<i32>,
    released_pins: Vec<Pin>,
    pace: Pace,
    /// It was found that there is nothing to do, so the back may have rung since.
    slept: Cell<bool>,
    /// The back has a seat: see [`crate::audience`].
    hears_broadcasts: bool,
}

/// How many events a batch has. JavaScript's answers leave when its batch is over: was that all that waits, the back would
/// have nothing to do while JavaScript computes, and JavaScript nothing while the back sends. So a batch has as much as takes
/// JavaScript [`BATCH_US`].
#[derive(Debug)]
struct Pace {
    most: usize,
    events: usize,
    began: Option<Instant>,
}

impl Pace {
    fn new() -> Self {
        Self { most: BATCH_EVENTS_MIN, events: 0, began: None }
    }

    /// A batch of so many goes to JavaScript.
    fn begin(&mut self, now: Instant, events: usize) {
        self.events = events;
        self.began = Some(now);
    }

    /// It was handled. What is hoped for at most doubles and at most halves, for a batch may have met with a pause.
    fn end(&mut self, now: Instant) {
        let Some(began) = self.began.take() else { return };
        if self.events == 0 {
            return; // a slab was replaced, or got the first part of an event
        }
        let took_ns = now.saturating_duration_since(began).as_nanos().max(1) as usize;
        let fits = self.events * (BATCH_US as usize * 1_000) / took_ns;
        let (least, most) = ((self.most / 2).max(BATCH_EVENTS_MIN), (self.most * 2).min(PIPE_RECORDS));
        if self.events == self.most || fits < self.most {
            self.most = fits.clamp(least, most);
        }
    }
}

/// What is known here of a connection.
#[derive(Debug, Clone, Copy)]
struct Known {
    handle: i32,
    /// Bytes were handed on since JavaScript wrote last.
    unanswered: bool,
    peer: Peer,
}

impl<S: System, D: Driver> Front<S, D> {
    pub(super) fn new(shared: Arc<Shared<S>>, events: Reader, commands: Writer, driver: D) -> Self {
        Self {
            shared,
            events,
            commands,
            driver,
            handed_on: 0,
            connections: Vec::new(),
            offers: 0,
            requests: HashMap::new(),
            endpoints: 0,
            ended: Vec::new(),
            released_pins: Vec::new(),
            pace: Pace::new(),
            slept: Cell::new(false),
            hears_broadcasts: false,
        }
    }

    /// What runs the back.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// What runs the back, to change it.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Has the back do something, after all commands before it, and waits for what it answers.
    pub fn call<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Back<S>) -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.shared.calls.lock().push_back(Box::new(move |back| {
            let result = work(back);
            // Whoever is told the result may ask whether the loop must go on.
            back.tell_alive();
            _ = sender.send(result);
        }));
        self.put([COMMAND_CALL, 0, 0, 0], &[]);
        let mut answer = None;
        self.wait(|_| {
            answer = answer.take().or_else(|| receiver.try_recv().ok());
            answer.is_some()
        });
        answer.expect("it was waited for")
    }

    /// Has the back do something, after all commands before it, without waiting for it.
    pub fn post(&mut self, work: impl FnOnce(&mut Back<S>) + Send + 'static) {
        self.shared.calls.lock().push_back(Box::new(move |back| {
            work(back);
            back.tell_alive();
        }));
        self.put([COMMAND_CALL, 0, 0, 0], &[]);
        self.send();
    }

    /// Has the back send a range of a file behind what was written before.
    pub fn post_file(&mut self, now: Instant, handle: Handle, file: FileRange) {
        self.set_unanswered(handle.word(), false);
        self.post(move |back| back.send_file(now, handle, file));
    }

    /// Has the back begin a connection to this peer; its event is to come.
    pub fn request(&mut self, request: u32, peer: Peer, work: impl FnOnce(&mut Back<S>) + Send + 'static) {
        self.requests.insert(request, peer);
        self.post(work);
    }

    /// Has the back take an endpoint; the event of its end is to come, unless the back refuses.
    pub fn call_for_endpoint(
        &mut self,
        work: impl FnOnce(&mut Back<S>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.endpoints += 1;
        let taken = self.call(work);
        if taken.is_err() {
            self.endpoints -= 1;
        }
        taken
    }

    /// Lets the back work until something is done.
    fn wait(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        let shared = self.shared.clone();
        loop {
            self.send();
            let mut done = false;
            let waits = shared.front_waits.fall_asleep(|| {
                done = is_done(self);
                done || shared.failure.get().is_some()
            });
            if done {
                return;
            }
            self.panic_if_failed();
            if waits {
                self.driver.wait();
                shared.front_waits.wake_up();
            }
        }
    }

    fn panic_if_failed(&self) {
        if let Some(failure) = self.shared.failure.get() {
            panic!("{failure}");
        }
    }

    /// Shows the back what was put into the pipe.
    fn send(&mut self) {
        self.commands.publish();
        if self.shared.back.needs_waking() {
            self.driver.wake();
        }
    }

    /// Puts a command into the pipe. A full one is emptied by the back first.
    fn put(&mut self, words: Words, bytes: &[u8]) {
        if !self.commands.write(words, bytes) {
            self.wait(|front| front.commands.write(words, bytes));
        }
    }

    fn put_commands(&mut self, commands: &dyn Commands) {
        for index in 0..commands.len() {
            let [operation, handle, a, b] = commands.record(index);
            match operation & abi::KIND_MASK {
                abi::COMMAND_WRITE | abi::COMMAND_WRITE_SLAB => match commands.bytes(index) {
                    Some(bytes) => self.put_write(handle, bytes),
                    None => self.put_detached(handle),
                },
                abi::COMMAND_DATAGRAM => {
                    if let Some(bytes) = commands.bytes(index) {
                        self.put([operation, handle, 0, 0], bytes);
                    }
                }
                kind => {
                    match kind {
                        abi::COMMAND_UNANSWERED => self.set_unanswered(handle, true),
                        abi::COMMAND_WRITE_EOF => self.set_unanswered(handle, false),
                        abi::COMMAND_FINISH if a != 0 => self.set_unanswered(handle, false),
                        _ => {}
                    }
                    self.put([operation, handle, a, b], &[]);
                }
            }
        }
    }

    fn put_write(&mut self, handle: i32, bytes: &[u8]) {
        self.set_unanswered(handle, false);
        for piece in bytes.chunks(PIPE_PIECE_BYTES) {
            self.put([abi::COMMAND_WRITE, handle, 0, 0], piece);
        }
    }

    fn put_detached(&mut self, handle: i32) {
        self.put([abi::COMMAND_ABORT, handle, abi::CLOSE_DETACHED, 0], &[]);
    }

    fn known(&self, handle: i32) -> Option<&Known> {
        self.connections.get(slot(handle)).filter(|known| known.handle == handle)
    }

    fn set_unanswered(&mut self, handle: i32, unanswered: bool) {
        if let Some(known) = self.connections.get_mut(slot(handle)).filter(|known| known.handle == handle) {
            known.unanswered = unanswered;
        }
    }

    /// Hands the first event on. False when the sink cannot take (all of) it now.
    fn hand_on(&mut self, sink: &mut dyn Sink) -> bool {
        let ([word, handle, a, b], bytes) = self.events.get(0);
        match word & abi::KIND_MASK {
            abi::EVENT_DATA => {
                let borrows = word >> abi::SLAB_SHIFT != 0;
                while self.handed_on < bytes.len() {
                    let rest = &bytes[self.handed_on..];
                    if sink.room() == 0 {
                        return false;
                    }
                    // One byte more than the hint is asked for.
                    let Some((slab, buffer)) = sink.read_buffer(borrows, rest.len() - 1) else {
                        return false;
                    };
                    let count = rest.len().min(buffer.len());
                    write_copy(&mut buffer[..count], &rest[..count]);
                    sink.received(handle, slab, count);
                    self.handed_on += count;
                }
                self.handed_on = 0;
                self.set_unanswered(handle, true);
            }
            abi::EVENT_DATAGRAM => {
                let (source, payload) =
                    datagram_address::split(bytes).expect("the back puts an address in front of a datagram");
                return sink.room() > 0 && sink.datagram(handle, source, payload);
            }
            abi::EVENT_DATAGRAM_CLOSED => {
                self.endpoints -= 1;
                sink.event(Event { kind: word, handle, a, b });
            }
            abi::EVENT_DATAGRAM_FAILED..=abi::EVENT_DATAGRAM_RESUME => {
                sink.event(Event { kind: word, handle, a, b });
            }
            abi::EVENT_OPEN => {
                let peer = self.shared.offers.take(self.offers);
                self.offers += 1;
                if let Some(peer) = peer {
                    self.know(Known { handle, unanswered: false, peer });
                    sink.opened(handle, a as u16, peer);
                }
            }
            abi::EVENT_CONNECTED => {
                let request = a as u32;
                let peer =
                    self.requests.remove(&request).expect("a connection has an event for each request");
                self.know(Known { handle, unanswered: false, peer });
                sink.connected(handle, request, peer);
            }
            abi::EVENT_CONNECT_FAILED => {
                self.requests.remove(&(handle as u32));
                sink.event(Event { kind: word, handle, a, b });
            }
            // What was received behind the last answer is answered first; that is looked at again with the answer.
            abi::EVENT_ANSWERED if self.known(handle).is_some_and(|known| known.unanswered) => {}
            abi::EVENT_HANDSHAKE_FAILED => {
                self.ended.push(handle);
                sink.event(Event { kind: word, handle, a, b });
            }
            // The handle of this one is a server. Any other may be of a connection that was taken back since: its timeout
            // passed while it was offered.
            kind if kind != abi::EVENT_ACCEPT_ERROR && self.known(handle).is_none() => {}
            kind => {
                if kind == abi::EVENT_CLOSED {
                    self.ended.push(handle);
                }
                sink.event(Event { kind: word, handle, a, b });
            }
        }
        true
    }

    fn know(&mut self, known: Known) {
        let slot = slot(known.handle);
        if slot >= self.connections.len() {
            self.connections.resize(slot + 1, known);
        }
        self.connections[slot] = known;
    }
}

fn slot(handle: i32) -> usize {
    (handle & abi::HANDLE_SLOT_MASK) as usize
}

impl<S: System, D: Driver> Engine for Front<S, D> {
    type Listener = S::Listener;
    type Free = S::Free;

    fn add_server(&mut self, server: u16, number: u32, limits: ServerLimits) {
        self.call(move |back| back.shard_mut().add_server(server, number, limits));
    }

    fn listen(&mut self, server: u16, listener: S::Listener) -> io::Result<()> {
        self.call(move |back| back.shard_mut().listen(server, listener))
    }

    fn unlisten(&mut self, now: Instant, server: u16) -> u64 {
        self.call(move |back| back.shard_mut().unlisten(now, server))
    }

    fn remove_server(&mut self, server: u16) {
        self.call(move |back| back.shard_mut().remove_server(server));
    }

    fn retire(&mut self) -> Left<S> {
        self.call(|back| back.retire())
    }

    fn abandon(&mut self) -> Left<S> {
        if self.shared.failure.get().is_some() {
            return mem::take(&mut *self.shared.left.lock());
        }
        self.call(|back| back.abandon())
    }

    fn collect(&mut self, now: Instant, sink: &mut dyn Sink, _memory: &dyn PinnedMemory) {
        if self.slept.replace(false) {
            self.driver.silence();
            self.shared.front.wake_up();
        }
        let waiting = self.events.len();
        let mut handed_on = 0;
        while handed_on < waiting.min(self.pace.most) && sink.room() > 0 && self.hand_on(sink) {
            self.events.advance(1);
            handed_on += 1;
        }
        self.pace.begin(now, handed_on);
        let released = self.events.release();
        if self.shared.accepting_rests.load(Ordering::Relaxed) {
            self.shared.accepting_rests.store(false, Ordering::Relaxed);
            self.send();
        } else if released && self.shared.room.is_said() {
            self.send();
        }
        if waiting == 0 {
            self.panic_if_failed();
        }
    }

    fn end_batch(&mut self, now: Instant) {
        self.pace.end(now);
        if self.ended.is_empty() {
            return;
        }
        let mut ended = mem::take(&mut self.ended);
        for handle in ended.drain(..) {
            self.put([COMMAND_FREE, handle, 0, 0], &[]);
        }
        self.ended = ended; // for the memory that it has
        self.send();
    }

    fn submit(&mut self, _now: Instant, commands: &dyn Commands) {
        self.put_commands(commands);
        self.send();
    }

    fn write(&mut self, _now: Instant, handle: Handle, bytes: &[u8], commands: &dyn Commands) {
        self.put_commands(commands);
        self.put_write(handle.word(), bytes);
        self.send();
    }

    /// The connection may be gone without this half knowing; then its end will say what became of the bytes.
    fn write_pinned(
        &mut self,
        _now: Instant,
        handle: Handle,
        pin: Pin,
        length: usize,
        memory: &dyn PinnedMemory,
    ) -> bool {
        self.released_pins.push(pin);
        match memory.bytes(pin, 0, length) {
            Some(bytes) => {
                self.put_write(handle.word(), bytes);
                self.put([COMMAND_OWNED, handle.word(), 0, 0], &[]);
            }
            None => self.put_detached(handle.word()),
        }
        self.send();
        self.known(handle.word()).is_some()
    }

    fn subscribe(&mut self, handle: Handle, topic: Box<str>) -> io::Result<()> {
        if self.hears_broadcasts {
            // Broadcasts wait there from now on, and what is put into the pipe before them is applied before them.
            self.post(move |back| _ = back.shard_mut().subscribe(handle, &topic));
            return Ok(());
        }
        let subscribed = self.call(move |back| back.shard_mut().subscribe(handle, &topic));
        self.hears_broadcasts = subscribed.as_ref().is_ok_and(|&hears| hears);
        subscribed.map(|_| ())
    }

    fn unsubscribe(&mut self, handle: Handle, topic: Box<str>) {
        self.post(move |back| back.shard_mut().unsubscribe(handle, &topic));
    }

    fn secure_server(&mut self, server: u16, security: ServerSecurity) {
        self.call(move |back| back.shard_mut().secure_server(server, security));
    }

    fn secure_request(&mut self, request: u32, session: Box<Session>) {
        self.post(move |back| back.shard_mut().secure_request(request, session));
    }

    fn abort_handshakes(&mut self, server: u16) {
        self.post(move |back| back.shard_mut().abort_handshakes(server));
    }

    fn start_tls(&mut self, handle: Handle, session: Box<Session>, _memory: &dyn PinnedMemory) {
        self.post(move |back| back.start_tls(handle, session));
    }

    fn feed_tls(&mut self, now: Instant, handle: Handle, bytes: Vec<u8>) {
        self.post(move |back| back.shard_mut().feed_tls(now, handle, &bytes));
    }

    fn inspect_tls(&mut self, what: TlsQuestion) -> TlsAnswer {
        self.call(move |back| what.ask(back.shard_mut()))
    }

    fn take_released_pins(&mut self, released: &mut Vec<Pin>) {
        released.append(&mut self.released_pins);
    }

    fn has_backlog(&self) -> bool {
        let sleeps = self.shared.front.fall_asleep(|| {
            !self.events.is_empty()
                || self.shared.accepting_rests.load(Ordering::Relaxed)
                || self.shared.failure.get().is_some()
        });
        if sleeps {
            self.slept.set(true);
        }
        !sleeps
    }

    /// The back has the clock.
    fn next_wake(&self) -> Option<Instant> {
        None
    }

    fn is_alive(&self) -> bool {
        // A connection is alive until we have said that its end is handled, and only a call makes a listener: no command
        // or event on its way can change what was told. But a connection that was asked for may not have begun there.
        !self.requests.is_empty() || self.endpoints > 0 || self.shared.alive.load(Ordering::Acquire)
    }

    fn queued_bytes(&mut self, handle: Handle) -> usize {
        self.call(move |back| back.shard_mut().queued_bytes(handle))
    }

    fn peer(&self, handle: Handle) -> Option<Peer> {
        self.known(handle.word()).map(|known| known.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Batches of all that there is, each event of which takes JavaScript so long. How many events the next may have.
    fn after(pace: &mut Pace, batches: usize, waiting: usize, event: Duration) -> usize {
        let now = Instant::now();
        for _ in 0..batches {
            let events = waiting.min(pace.most);
            pace.begin(now, events);
            pace.end(now + event * events as u32);
        }
        pace.most
    }

    #[test]
    fn a_batch_is_as_long_as_takes_javascript_its_time() {
        let mut pace = Pace::new();
        assert_eq!(after(&mut pace, 20, PIPE_RECORDS, Duration::from_micros(20)), BATCH_US as usize / 20);
        assert_eq!(after(&mut pace, 20, PIPE_RECORDS, Duration::from_nanos(1)), PIPE_RECORDS);
        assert_eq!(after(&mut pace, 1, PIPE_RECORDS, Duration::from_millis(9)), PIPE_RECORDS / 2, "a pause");
        assert_eq!(after(&mut pace, 20, PIPE_RECORDS, Duration::from_millis(9)), BATCH_EVENTS_MIN);
    }

    #[test]
    fn batches_that_were_short_of_events_say_nothing_of_longer_ones() {
        let mut pace = Pace::new();
        after(&mut pace, 20, PIPE_RECORDS, Duration::from_micros(1));
        let most = pace.most;
        assert_eq!(after(&mut pace, 20, 1, Duration::from_nanos(1)), most);
        assert_eq!(after(&mut pace, 20, 0, Duration::ZERO), most, "without an event");
        pace.end(Instant::now());
        assert_eq!(pace.most, most, "without a batch");
    }
}
