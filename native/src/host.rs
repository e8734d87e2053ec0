//! A shard's native half, nested in its thread's libuv loop.
//!
//! `uv_poll` watches the engine's descriptor; when it is readable a batch is collected and JavaScript is called once.
//! What was written in between is sent first, and by `uv_prepare` just before libuv blocks. `uv_idle` keeps libuv from blocking while the engine has a
//! backlog, and `uv_timer` wakes it when time alone makes something to do.
//!
//! Everything here runs on the shard's thread. The engine and the shared memory are borrowed for as long as native
//! code works on them and never while JavaScript runs, so a call from within a batch finds them free.

mod handles;

use crate::abi;
use crate::busy_poll::BusyPoll;
use crate::connection::Handle;
use crate::engine::SocketEngine;
use crate::error::panic_text;
use crate::guardian;
use crate::limits::{
    BATCHES_PER_WAKE, BUSY_POLL_EVENTS, MODERATION_REST_US, MODERATION_SIGNS, WAKE_BUDGET_US,
};
use crate::link::ShardLink;
use crate::metrics::Metrics;
use crate::moderation::{Moderation, Sign};
use crate::nested::{Drained, Environment, Nested};
use crate::ring::{Attached, Region, SharedMemory};
use crate::slice::{self, ServingSlice};
use crate::tls::session::Session;
use crate::turn::{self, EndOfTurn};
use crate::uv;
use crate::write_queue::{FileRange, Pin, PinnedMemory};
use handles::{Handles, Turn};
use std::cell::{Cell, RefCell};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Whether a thread that sleeps for some microseconds is woken some tens of them later, not hundreds.
const FINE_TIMERS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// What a host needs of JavaScript.
pub trait JavaScript: Environment + Attached + PinnedMemory {
    /// Calls the function that handles the batch in the events ring.
    fn drain(&self) -> Drained;
    /// Lets go of pinned memory.
    fn unpin(&self, pin: Pin);
}

/// The host.
pub struct Host {
    javascript: Rc<dyn JavaScript>,
    metrics: Arc<Metrics>,
    /// How other threads know this shard, when a supervisor has it.
    link: Option<Arc<ShardLink>>,
    engine: RefCell<Option<Box<dyn SocketEngine>>>,
    memory: RefCell<SharedMemory>,
    released_pins: RefCell<Vec<Pin>>,
    handles: Handles,
    open_handles: Cell<u32>,
    in_batch: Cell<bool>,
    closing: Cell<bool>,
    /// Other threads know of this shard no more.
    left: Cell<bool>,
    close_when_quiet: Cell<bool>,
    turn: Cell<Turn>,
    busy_poll: Cell<BusyPoll>,
    /// Where it rests: on an engine that works on this thread, and on a system whose timers are fine enough.
    moderation: Option<Cell<Moderation>>,
    /// Servers that do not want it to.
    unmoderated: RefCell<Vec<u16>>,
    /// Until it closes.
    serving: Cell<Option<ServingSlice>>,
}

impl Host {
    /// Nests an engine.
    ///
    /// # Safety
    /// `uv_loop` must be the loop of the calling thread, and outlive the host's handles (libuv waits for them).
    pub unsafe fn new(
        uv_loop: NonNull<uv::Loop>,
        engine: Box<dyn SocketEngine>,
        memory: SharedMemory,
        javascript: Rc<dyn JavaScript>,
        metrics: Arc<Metrics>,
        link: Option<Arc<ShardLink>>,
    ) -> Result<Rc<Self>, String> {
        let uv = uv::uv()?;
        // SAFETY: by the caller; the engine, whose the descriptor is, goes after the handles.
        let handles = unsafe { Handles::open(uv, uv_loop, engine.pollable())? };
        let turn = handles.turn();
        let moderation =
            (FINE_TIMERS && engine.may_look()).then(|| Cell::new(Moderation::new(Instant::now())));
        if let Some(link) = &link {
            // SAFETY: the loop is this thread's, and outlives the host's handles; their end closes the pulse.
            unsafe { link.pulse.open(uv, uv_loop) };
        }
        let host = Rc::new(Self {
            javascript,
            metrics,
            link,
            engine: RefCell::new(Some(engine)),
            memory: RefCell::new(memory),
            released_pins: RefCell::default(),
            handles,
            open_handles: Cell::new(0),
            in_batch: Cell::new(false),
            closing: Cell::new(false),
            left: Cell::new(false),
            close_when_quiet: Cell::new(false),
            turn: Cell::new(turn),
            busy_poll: Cell::new(BusyPoll::new(Instant::now())),
            moderation,
            unmoderated: RefCell::default(),
            serving: Cell::new(Some(ServingSlice::begin())),
        });
        // SAFETY: the handles are new.
        unsafe { host.handles.start(&host, host.link.is_some()) };
        turn::register(&host);
        Ok(host)
    }

    /// Works on the engine, then brings libuv's handles in line. `None` once the shard is closing.
    pub fn with_engine<T>(&self, work: impl FnOnce(&mut dyn SocketEngine) -> T) -> Option<T> {
        if self.closing.get() {
            return None;
        }
        let result = self.guarded(|| self.engine.borrow_mut().as_mut().map(|engine| work(&mut **engine)));
        let result = result.flatten();
        self.settle();
        result
    }

    /// Looks at the engine.
    pub fn inspect<T>(&self, look: impl FnOnce(&dyn SocketEngine) -> T) -> Option<T> {
        self.engine.borrow().as_deref().map(look)
    }

    /// Applies the commands that wait; once the shard is closing they are dropped, for there is no connection any more.
    pub fn flush(&self) {
        if self.closing.get() {
            self.memory.borrow().discard_commands();
        } else {
            self.guarded(|| self.submit());
            self.settle();
        }
    }

    /// Whether the shard may rest between small batches, as far as this server goes.
    pub fn allow_moderation(&self, server: u16, allowed: bool) {
        let mut unmoderated = self.unmoderated.borrow_mut();
        unmoderated.retain(|&other| other != server);
        if !allowed {
            unmoderated.push(server);
        }
    }

    /// JavaScript called on the path of bytes or connections.
    pub fn count_call(&self) {
        self.metrics.add(abi::METRIC_NATIVE_CALLS, 1);
    }

    /// Flushes, then sends large data at once.
    pub fn write(&self, handle: Handle, bytes: &[u8]) {
        if self.closing.get() {
            return;
        }
        self.guarded(|| {
            let memory = self.memory.borrow();
            let commands = memory.commands(&*self.javascript);
            if let Some(engine) = self.engine.borrow_mut().as_mut() {
                engine.write(Instant::now(), handle, bytes, &commands);
            }
        });
        self.settle();
    }

    /// Flushes, then sends pinned memory at once.
    pub fn write_pinned(&self, handle: Handle, pin: Pin, length: usize) -> bool {
        if self.closing.get() {
            self.javascript.unpin(pin);
            return false;
        }
        self.count_call();
        let accepted = self.guarded(|| {
            self.submit();
            let mut engine = self.engine.borrow_mut();
            engine.as_mut().is_some_and(|engine| {
                engine.write_pinned(Instant::now(), handle, pin, length, &*self.javascript)
            })
        });
        self.settle();
        accepted.unwrap_or(false)
    }

    /// Flushes, then sends a range of a file.
    pub fn send_file(&self, handle: Handle, file: FileRange) {
        if self.closing.get() {
            return;
        }
        self.guarded(|| {
            self.submit();
            if let Some(engine) = self.engine.borrow_mut().as_mut() {
                engine.send_file(Instant::now(), handle, file, &*self.javascript);
            }
        });
        self.settle();
    }

    /// Flushes, then gives a connection TLS.
    pub fn start_tls(&self, handle: Handle, session: Box<Session>) {
        if self.closing.get() {
            return;
        }
        self.guarded(|| {
            self.submit();
            if let Some(engine) = self.engine.borrow_mut().as_mut() {
                engine.start_tls(handle, session, &*self.javascript);
            }
        });
        self.settle();
    }

    /// Bytes of a connection that are not sent yet, those of waiting commands included.
    pub fn buffered_bytes(&self, handle: Handle) -> usize {
        let queued = self.with_engine(|engine| engine.queued_bytes(handle)).unwrap_or(0);
        queued + self.memory.borrow().waiting_bytes(handle.word())
    }

    /// As above, of an endpoint's datagrams.
    pub fn buffered_datagram_bytes(&self, endpoint: u32) -> usize {
        let queued = self.with_engine(|engine| engine.endpoint_queued_bytes(endpoint)).unwrap_or(0);
        queued + self.memory.borrow().waiting_datagram_bytes(endpoint as i32)
    }

    /// Another slab in the place of a retired one.
    pub fn replace_slab(&self, index: usize, region: Region<u8>) {
        self.memory.borrow_mut().replace_slab(index, region);
    }

    /// Whether the shard is closing or closed.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Closes once there is no listener and no connection any more: every end is delivered, and closed connections' last
    /// bytes have had the time that they need (a bounded one).
    pub fn close_when_quiet(&self) {
        self.flush();
        self.close_when_quiet.set(true);
        self.settle();
    }

    /// Flushes once without waiting, closes all descriptors and libuv handles. Idempotent.
    pub fn close(&self) {
        if self.closing.get() {
            return;
        }
        self.guarded(|| self.submit());
        self.tear_down();
    }

    /// JavaScript of this thread ends (its event `exit`), and the environment will in some milliseconds. Flushes; what is new
    /// is for other shards from now on. The connections that JavaScript knows stay, so that last words of later `exit`
    /// listeners are sent.
    pub fn retire(&self) {
        self.flush();
        let Some(link) = &self.link else { return };
        let Some(unserved) = self.with_engine(|engine| engine.retire()) else { return };
        let lost = guardian::retire(link, unserved);
        self.metrics.add(abi::METRIC_RESETS_SHARD_DEATH, lost as u64);
        self.serving.set(None);
    }

    fn tear_down(&self) {
        if self.closing.replace(true) {
            return;
        }
        self.serving.set(None);
        // SAFETY: the handles are open, and closed here only, once (`closing`).
        unsafe { self.handles.close() };
        // The engine goes after the handle that polls its descriptor.
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            // A panic while dropping must not keep the handles open; what it leaks is the descriptors it held.
            let engine = engine.take();
            contained(|| self.leave(engine));
        }
        self.leave(None);
    }

    /// The others know this shard no more. It dies with its connections; those that can still be served are theirs.
    fn leave(&self, engine: Option<Box<dyn SocketEngine>>) {
        let Some(link) = &self.link else { return };
        let unserved = engine.map_or_else(Vec::new, |mut engine| engine.abandon());
        if !self.left.replace(true) {
            let lost = guardian::leave(link, unserved);
            self.metrics.add(abi::METRIC_RESETS_SHARD_DEATH, lost as u64);
        }
    }

    /// Runs native work; a panic ends this shard, not the process.
    pub fn guarded<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => Some(result),
            Err(panic) => {
                self.panicked(panic_text(&*panic));
                None
            }
        }
    }

    fn submit(&self) {
        let memory = self.memory.borrow();
        if memory.control(abi::CONTROL_COMMANDS) == 0 {
            return;
        }
        let commands = memory.commands(&*self.javascript);
        if let Some(engine) = self.engine.borrow_mut().as_mut() {
            engine.submit(Instant::now(), &commands);
        }
    }

    /// Collects and delivers batches: one, and more only while there is a backlog, or the next event is close, and little
    /// time has passed.
    fn wake(&self) {
        if self.closing.get() || self.in_batch.replace(true) {
            return; // a nested run of the loop (Atomics.wait cannot, but a debugger may)
        }
        // What another callback of this turn has written comes before what is received now: it is no answer to it.
        self.guarded(|| self.submit());
        let began = Instant::now();
        let mut now = began;
        // Set while what a look has found is collected.
        let mut looks_until = None;
        for _ in 0..BATCHES_PER_WAKE {
            let Some(Some((events, slabs_retired))) = self.guarded(|| self.collect(now)) else { break };
            if events == 0 && !slabs_retired {
                // It need not be an event: a Unix socket's peer has read what it was sent. Then it looks on.
                let done = |_: &Instant| self.inspect(|engine| !engine.has_backlog()) == Some(true);
                let Some(until) = looks_until.filter(done) else { break };
                now = Instant::now();
                if now >= until {
                    update(&self.busy_poll, BusyPoll::missed);
                    break;
                }
                let Some(found_at) = self.look_ahead(now, until) else { break };
                now = found_at;
                continue;
            }
            if looks_until.take().is_some() {
                update(&self.busy_poll, |policy| policy.hit(now));
            } else if now == began && events > 0 {
                update(&self.busy_poll, |policy| policy.found(began));
            }
            self.metrics.add(abi::METRIC_BATCHES, 1);
            self.metrics.add(abi::METRIC_EVENTS, events as u64);
            if !self.call_javascript() || self.closing.get() {
                break;
            }
            let ended = self.guarded(|| {
                self.submit();
                if events <= BUSY_POLL_EVENTS {
                    self.memory.borrow().prefetch_chunks();
                }
                let now = Instant::now();
                let backlog = self.engine.borrow_mut().as_mut().is_some_and(|engine| {
                    engine.end_batch(now);
                    engine.has_backlog()
                });
                (now, backlog)
            });
            let Some((at, backlog)) = ended else { break };
            let found_at = mem::replace(&mut now, at);
            self.note_batch(now, found_at, events);
            if backlog {
                update(&self.busy_poll, |policy| policy.goes_on(now));
                if now.duration_since(began) >= Duration::from_micros(WAKE_BUDGET_US) {
                    break;
                }
                continue;
            }
            let peer = self.memory.borrow().events().next().map_or(0, |(_, handle)| handle);
            looks_until = update(&self.busy_poll, |policy| policy.until(now, began, events, peer));
            let next = match looks_until {
                Some(until) => self.look_ahead(now, until),
                None if self.rests(now, began) => self.rest(now),
                None => None,
            };
            let Some(found_at) = next else { break };
            now = found_at;
        }
        self.in_batch.set(false);
        self.settle();
    }

    /// Looks from `now` until `until` for something that became ready, as long as libuv has nothing to do at once. When it was.
    fn look_ahead(&self, now: Instant, until: Instant) -> Option<Instant> {
        if !self.handles.libuv_waits() {
            return None;
        }
        let (found, at) = self.guarded(|| {
            let mut engine = self.engine.borrow_mut();
            let engine = engine.as_mut().filter(|engine| engine.may_look())?;
            loop {
                let found = engine.look();
                let at = Instant::now();
                if found || at >= until {
                    return Some((found, at));
                }
            }
        })??;
        self.metrics.add(abi::METRIC_BUSY_POLL_NS, at.duration_since(now).as_nanos() as u64);
        if !found {
            update(&self.busy_poll, BusyPoll::missed);
        }
        found.then_some(at)
    }

    /// Tells the policy of rests of a batch that is done, if there may be any.
    fn note_batch(&self, now: Instant, found_at: Instant, events: usize) {
        let Some(policy) = &self.moderation else { return };
        let memory = self.memory.borrow();
        let signs =
            memory.events().take(MODERATION_SIGNS).filter_map(|(kind, peer)| match kind & abi::KIND_MASK {
                abi::EVENT_DATA => Some(Sign { peer, last: false }),
                abi::EVENT_CLOSED => Some(Sign { peer, last: true }),
                _ => None,
            });
        update(policy, |policy| policy.done(now, found_at, events, signs));
    }

    /// Whether to rest now that a batch is done, and nothing is left.
    fn rests(&self, now: Instant, woken_at: Instant) -> bool {
        let Some(policy) = &self.moderation else { return false };
        self.unmoderated.borrow().is_empty() && update(policy, |policy| policy.rests(now, woken_at))
    }

    /// Rests, unless libuv has something to do at once. When the rest was over, if something has become ready meanwhile.
    fn rest(&self, now: Instant) -> Option<Instant> {
        if !self.handles.libuv_waits() {
            return None;
        }
        thread::sleep(Duration::from_micros(MODERATION_REST_US));
        let found = self.guarded(|| self.engine.borrow_mut().as_mut().is_some_and(|engine| engine.look()));
        let at = Instant::now();
        self.metrics.add(abi::METRIC_MODERATION_NS, at.duration_since(now).as_nanos() as u64);
        let found = found == Some(true);
        if let Some(policy) = &self.moderation {
            update(policy, |policy| if found { policy.rested() } else { policy.missed() });
        }
        found.then_some(at)
    }

    fn collect(&self, now: Instant) -> Option<(usize, bool)> {
        let mut engine = self.engine.borrow_mut();
        let mut memory = self.memory.borrow_mut();
        let mut batch = memory.batch(&*self.javascript);
        engine.as_mut()?.collect(now, &mut batch, &*self.javascript);
        Some(batch.finish())
    }

    /// False when JavaScript cannot run. Our function catches what protocols throw; should it throw itself, the rest
    /// of the batch is delivered by calling again, from the record after the one that threw.
    fn call_javascript(&self) -> bool {
        loop {
            let before = self.memory.borrow().control(abi::CONTROL_CURSOR);
            match self.javascript.drain() {
                Drained::All => return true,
                Drained::Unable => return false,
                Drained::Threw => {
                    let memory = self.memory.borrow();
                    let cursor = memory.control(abi::CONTROL_CURSOR);
                    if cursor >= memory.control(abi::CONTROL_EVENTS) {
                        return true;
                    }
                    if cursor <= before {
                        return false;
                    }
                }
            }
        }
    }

    /// Brings libuv's handles in line with what the engine waits for, and lets go of pins.
    fn settle(&self) {
        if self.closing.get() || self.in_batch.get() {
            return;
        }
        let Ok(mut engine) = self.engine.try_borrow_mut() else { return };
        let Some(engine) = engine.as_mut() else { return };
        let mut released = self.released_pins.take();
        engine.take_released_pins(&mut released);
        released.drain(..).for_each(|pin| self.javascript.unpin(pin));
        self.released_pins.replace(released);
        let (backlog, alive, next_wake) = (engine.has_backlog(), engine.is_alive(), engine.next_wake());
        if self.close_when_quiet.get() && !alive {
            self.tear_down_later();
            return;
        }
        // SAFETY: the handles are open (not `closing`).
        unsafe { self.handles.align(backlog, alive, next_wake) };
    }

    /// The engine is borrowed by the caller; it goes in the closing turn.
    fn tear_down_later(&self) {
        if self.closing.replace(true) {
            return;
        }
        self.serving.set(None);
        self.leave(None);
        // SAFETY: as in `tear_down`. The engine is dropped with the host, after the last handle is closed.
        unsafe { self.handles.close() };
    }

    /// Once per turn of libuv's loop, just before it waits.
    fn prepare(&self) {
        if self.closing.get() {
            return;
        }
        self.end_of_turn();
        let turn = self.handles.turn();
        let last = self.turn.replace(turn);
        let Turn { prepared_at_ns, idle_ns } = turn;
        if let Some(link) = &self.link {
            link.pulse.turned(prepared_at_ns, idle_ns);
        }
        // Since the last turn the thread either waited in the poll, which libuv counts, or ran.
        let passed = prepared_at_ns.saturating_sub(last.prepared_at_ns);
        let busy = passed.saturating_sub(idle_ns.saturating_sub(last.idle_ns));
        self.metrics.add(abi::METRIC_LOOP_TURNS, 1);
        self.metrics.add(abi::METRIC_LOOP_BUSY_NS, busy);
        self.metrics.add_loop_lag(busy);
        self.metrics.set(abi::METRIC_LOOP_LAG_LAST_NS, busy);
        if busy > self.metrics.read(abi::METRIC_LOOP_LAG_MAX_NS) {
            self.metrics.set(abi::METRIC_LOOP_LAG_MAX_NS, busy);
        }
    }
}

impl EndOfTurn for Host {
    fn end_of_turn(&self) {
        if !self.closing.get() && self.memory.borrow().control(abi::CONTROL_COMMANDS) > 0 {
            self.flush();
        }
    }
}

impl Nested for Host {
    const NAME: &'static str = "shard";

    fn environment(&self) -> &dyn Environment {
        &*self.javascript
    }

    fn open_handles(&self) -> &Cell<u32> {
        &self.open_handles
    }

    fn close(&self) {
        Self::close(self);
    }

    fn environment_ends(&self) {
        self.close();
        self.javascript.environment_ends();
        slice::ending();
    }

    fn panicked(&self, text: &str) {
        log::error!("caught a panic, which ends the shard: {text}");
        self.tear_down();
        self.javascript.fatal(&format!("the native shard panicked: {text}"));
    }

    fn all_closed(&self) {
        // `close_when_quiet` left the engine until now.
        contained(|| drop(self.engine.take()));
        log::debug!("the engine is closed");
        contained(|| self.javascript.closed());
    }
}

fn update<P: Copy, T>(policy: &Cell<P>, change: impl FnOnce(&mut P) -> T) -> T {
    let mut changed = policy.get();
    let result = change(&mut changed);
    policy.set(changed);
    result
}

/// Runs the work of an end; a panic is logged, for there is no shard to end any more.
fn contained(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        log::error!("caught a panic while a shard closes: {}", panic_text(&*panic));
    }
}
