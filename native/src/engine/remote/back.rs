//! The half that has the shard layer, on the thread that does the I/O.
#![forbid(unsafe_code)]

use super::{COMMAND_CALL, COMMAND_FREE, COMMAND_OWNED, Caller, Shared};
use crate::abi;
use crate::connection::Handle;
use crate::limits::{PIPE_PIECE_BYTES, READ_HINT_MAX_BYTES, READ_MIN_BYTES, STALL_MS};
use crate::net::addresses::Peer;
use crate::pipe::{Reader, Words, Writer, write_copy};
use crate::shard::{Commands, Event, SIGNALS_MAX, Shard, Sink};
use crate::system::{Left, System};
use crate::tls::session::Session;
use crate::write_queue::{FileRange, Pin, PinnedMemory};
use std::cell::Cell;
use std::collections::VecDeque;
use std::mem::{self, MaybeUninit};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const STALL: Duration = Duration::from_millis(STALL_MS);

/// Takes what neighbours shall have, given whether there is somebody else for a server (by its number in the process).
pub type Take<'a, S> = dyn FnMut(&dyn Fn(u32) -> bool) -> Left<S> + 'a;

/// Who may serve connections in this shard's place.
pub trait Neighbours<S: System>: Send {
    /// Gives others what `take` returns.
    fn give(&self, take: &mut Take<'_, S>);
}

/// See the module.
pub struct Back<S: System> {
    shard: Shard<S>,
    shared: Arc<Shared<S>>,
    commands: Reader,
    sink: EventSink<S>,
    neighbours: Option<Box<dyn Neighbours<S>>>,
    caller: Box<dyn Caller>,
    /// When offers are looked at next.
    offers_due: Option<Instant>,
    next_pin: Pin,
    released_pins: Vec<Pin>,
    /// The front was told, or saw by itself, that there are listeners or connections.
    told_alive: bool,
    /// The shard was abandoned: what still comes is for others, who find it where it is.
    is_over: bool,
}

impl<S: System> Back<S> {
    pub(super) fn new(
        shard: Shard<S>,
        shared: Arc<Shared<S>>,
        events: Writer,
        commands: Reader,
        neighbours: Option<Box<dyn Neighbours<S>>>,
        caller: Box<dyn Caller>,
        now: Instant,
    ) -> Self {
        let sink = EventSink {
            writer: events,
            shared: shared.clone(),
            offered: VecDeque::new(),
            offers: 0,
            now,
            taken: 0,
            full: Cell::new(false),
        };
        Self {
            shard,
            shared,
            commands,
            sink,
            neighbours,
            caller,
            offers_due: None,
            next_pin: 0,
            released_pins: Vec::new(),
            told_alive: false,
            is_over: false,
        }
    }

    /// The shard layer.
    pub fn shard(&self) -> &Shard<S> {
        &self.shard
    }

    /// The shard layer, to change it.
    pub fn shard_mut(&mut self) -> &mut Shard<S> {
        &mut self.shard
    }

    /// As [`Shard::send_file`]. Nothing that is queued here is pinned.
    pub(super) fn send_file(&mut self, now: Instant, handle: Handle, file: FileRange) {
        self.shard.send_file(now, handle, file, &NothingPinned);
    }

    /// As [`Shard::start_tls`]. Nothing that is queued here is pinned.
    pub(super) fn start_tls(&mut self, handle: Handle, session: Box<Session>) {
        self.shard.start_tls(handle, session, &NothingPinned);
    }

    /// As [`Shard::retire`]. What was offered is told to nobody any more.
    pub(super) fn retire(&mut self) -> Left<S> {
        let sink = &self.sink;
        self.shard.retire(|handle| _ = sink.withdraw(handle))
    }

    /// As [`Shard::abandon`]. Nothing is accepted or taken in any more until the front ends this half.
    pub(super) fn abandon(&mut self) -> Left<S> {
        self.is_over = true;
        self.shard.abandon()
    }

    /// Does what is to be done, once. Never waits.
    pub fn turn(&mut self, now: Instant) {
        self.sink.begin(now);
        self.apply(now);
        self.resume_front();
        if self.is_over {
            return;
        }
        if !self.shared.accepting_rests.load(Ordering::Relaxed) {
            self.shard.accept_again();
        }
        self.shard.turn(now, &mut self.sink, &NothingPinned);
        if self.shard.hear_broadcasts() {
            // A subscription that was made before a broadcast counts for it. Whoever waits for one of these commands, or for room,
            // found this thread awake and will not wake it.
            self.apply(now);
            self.resume_front();
            if self.is_over {
                return;
            }
        }
        self.shard.send_broadcasts(now);
        self.shard.forget_ended();
        self.released_pins.clear();
        self.shard.take_released_pins(&mut self.released_pins);
        self.look_at_offers(now);
        let news = self.sink.writer.publish();
        self.tell_alive();
        let alive = self.shard.is_alive();
        let ended = mem::replace(&mut self.told_alive, alive) && !alive;
        let rests = self.rest_if_away();
        if news || ended || rests {
            self.ring_front();
        }
    }

    /// Whether it may sleep until it is woken, its system has something, or [`Back::next_wake`] has come.
    pub fn fall_asleep(&mut self) -> bool {
        let backlog = !self.is_over && self.shard.has_backlog();
        // Room to write and ends must be learnt, however full the pipe is: what told of them will not do so again.
        if backlog && (!self.sink.is_stuck() || self.shard.is_unpolled() || self.shard.is_broadcasting()) {
            return false;
        }
        self.shared.room.say(backlog);
        // The front may have come back since the turn began.
        let rests = !self.is_over && self.shard.accepting_rests();
        let accepts_again = || rests && !self.shared.accepting_rests.load(Ordering::Relaxed);
        self.shared.back.fall_asleep(|| {
            !self.commands.is_empty() || (backlog && !self.sink.is_stuck()) || accepts_again()
        })
    }

    /// It is awake, for whatever reason.
    pub fn wake_up(&self) {
        self.shared.back.wake_up();
    }

    /// When time alone makes something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        if self.is_over {
            return None;
        }
        [self.shard.next_wake(), self.offers_due].into_iter().flatten().min()
    }

    /// Whoever runs it has caught a panic: it is not run again.
    pub fn failed(&mut self, message: &str) {
        let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.shard.abandon()));
        *self.shared.left.lock() = left.unwrap_or_default();
        _ = self.shared.failure.set(message.to_owned());
        self.caller.ring();
        self.caller.resume();
    }

    /// Says whether the front's loop must go on.
    pub(super) fn tell_alive(&self) {
        self.shared.alive.store(self.shard.is_alive(), Ordering::Release);
    }

    /// The shard accepts nothing while JavaScript is away; the front has to say when it is back. True when it is to be told.
    fn rest_if_away(&self) -> bool {
        let rests = self.shard.accepting_rests();
        rests && !self.shared.accepting_rests.swap(true, Ordering::Relaxed)
    }

    fn ring_front(&self) {
        if self.shared.front.needs_waking() {
            self.caller.ring();
        }
    }

    fn resume_front(&self) {
        if self.shared.front_waits.needs_waking() {
            self.caller.resume();
        }
    }

    /// Applies the commands that wait.
    fn apply(&mut self, now: Instant) {
        let count = self.commands.len();
        let mut from = 0;
        // Writes to one connection leave together, up to a command that the shard layer does not know.
        for index in 0..count {
            let ([operation, handle, ..], _) = self.commands.get(index);
            let handle = Handle::from_word(handle);
            if !matches!(operation, COMMAND_FREE | COMMAND_OWNED | COMMAND_CALL) {
                continue;
            }
            self.shard.submit(now, &PipeCommands { commands: &self.commands, range: from..index });
            from = index + 1;
            match operation {
                COMMAND_FREE => self.shard.free(handle),
                COMMAND_OWNED => {
                    // An empty pin completes in its turn.
                    self.next_pin = self.next_pin.wrapping_add(1);
                    self.shard.write_pinned(now, handle, self.next_pin, 0, &NothingPinned);
                }
                _ => {
                    let call = self.shared.calls.lock().pop_front();
                    call.expect("a call was put there before its command")(self);
                }
            }
        }
        self.shard.submit(now, &PipeCommands { commands: &self.commands, range: from..count });
        self.commands.advance(count);
        self.commands.release();
    }

    /// Takes back what JavaScript does not take in time.
    fn look_at_offers(&mut self, now: Instant) {
        self.sink.forget_taken();
        let Some(oldest) = self.sink.offered.front() else {
            self.offers_due = None;
            return;
        };
        let due = *self.offers_due.get_or_insert(oldest.at + STALL);
        if due > now {
            return;
        }
        self.offers_due = Some(now + STALL);
        let Some(neighbours) = self.neighbours.as_ref().filter(|_| self.shard.system().is_away()) else {
            return;
        };
        let (shard, sink) = (&mut self.shard, &mut self.sink);
        neighbours.give(&mut |has_others| {
            shard.take_unserved(|handle, server, announced| {
                has_others(server) && (!announced || sink.withdraw(handle))
            })
        });
        self.sink.forget_taken();
    }
}

/// Commands in the pipe.
struct PipeCommands<'a> {
    commands: &'a Reader,
    range: Range<usize>,
}

impl Commands for PipeCommands<'_> {
    fn len(&self) -> usize {
        self.range.len()
    }

    #[inline]
    fn record(&self, index: usize) -> Words {
        self.commands.get(self.range.start + index).0
    }

    #[inline]
    fn bytes(&self, index: usize) -> Option<&[u8]> {
        Some(self.commands.get(self.range.start + index).1)
    }
}

/// Only empty pins come here: see [`COMMAND_OWNED`].
struct NothingPinned;

impl PinnedMemory for NothingPinned {
    fn bytes(&self, _pin: Pin, start: usize, end: usize) -> Option<&[u8]> {
        (start == end).then_some(&[])
    }
}

/// Events into the pipe.
struct EventSink<S: System> {
    writer: Writer,
    shared: Arc<Shared<S>>,
    /// What was offered and may wait still, oldest first.
    offered: VecDeque<Offered>,
    /// Offers made.
    offers: usize,
    now: Instant,
    /// Entries that the front had given back when the turn began.
    taken: usize,
    /// Not all that is ready could go in.
    full: Cell<bool>,
}

struct Offered {
    number: usize,
    handle: i32,
    at: Instant,
}

impl<S: System> EventSink<S> {
    /// The turn begins.
    fn begin(&mut self, now: Instant) {
        self.now = now;
        self.taken = self.writer.released();
        self.full.set(false);
        self.forget_taken();
    }

    /// Whether this turn had to leave something because the front has not taken enough, and it has taken nothing since.
    fn is_stuck(&self) -> bool {
        self.full.get() && self.writer.released() == self.taken
    }

    fn forget_taken(&mut self) {
        while self.offered.front().is_some_and(|offered| !self.shared.offers.waits(offered.number)) {
            self.offered.pop_front();
        }
    }

    fn withdraw(&self, handle: Handle) -> bool {
        let offered = self.offered.iter().find(|offered| offered.handle == handle.word());
        offered.is_some_and(|offered| self.shared.offers.withdraw(offered.number))
    }
}

impl<S: System> Sink for EventSink<S> {
    #[inline]
    fn room(&self) -> usize {
        let room = if self.shared.offers.has_room(self.offers) { self.writer.room() } else { 0 };
        if room <= SIGNALS_MAX {
            self.full.set(true);
        }
        room
    }

    #[inline]
    fn event(&mut self, event: Event) {
        self.writer.push([event.kind, event.handle, event.a, event.b], 0);
    }

    #[inline]
    fn read_buffer(&mut self, borrows: bool, hint: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        // As in JavaScript's slabs.
        let least = (hint.min(READ_HINT_MAX_BYTES) + 1).max(READ_MIN_BYTES);
        let space = self.writer.space(least, PIPE_PIECE_BYTES);
        if space.is_none() {
            self.full.set(true);
        }
        // In the place of a slab's index: whether it is to be the borrowed one.
        space.map(|space| (usize::from(borrows), space))
    }

    #[inline]
    fn received(&mut self, handle: i32, borrows: usize, length: usize) {
        self.writer.push([abi::EVENT_DATA | (borrows as i32) << abi::SLAB_SHIFT, handle, 0, 0], length);
    }

    fn datagram(&mut self, endpoint: i32, source: &[u8], payload: &[u8]) -> bool {
        let length = source.len() + payload.len();
        let Some(space) = self.writer.space(length, length) else {
            self.full.set(true);
            return false;
        };
        let (first, rest) = space.split_at_mut(source.len());
        write_copy(first, source);
        write_copy(rest, payload);
        self.writer.push([abi::EVENT_DATAGRAM, endpoint, 0, 0], length);
        true
    }

    fn opened(&mut self, handle: i32, server: u16, peer: Peer) {
        let number = self.offers;
        self.offers += 1;
        self.shared.offers.offer(number, peer);
        self.offered.push_back(Offered { number, handle, at: self.now });
        self.event(Event { kind: abi::EVENT_OPEN, handle, a: server.into(), b: 0 });
    }
}
