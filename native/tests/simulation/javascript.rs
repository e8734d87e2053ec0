//! What stands for JavaScript: it takes batches, checks each event, and does what comes into a program's head.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::ledger::Account;
use crate::memory::{Memory, Narrow, Pins};
use crate::planted::Planted;
use crate::site::Site;
use crate::stage::Stage;
use crate::tally;
use crate::transport::{Habits, Server, Transport};
use crate::violation::{ensure, note};
use shardloop_native::abi;
use shardloop_native::connection::Handle;
use shardloop_native::engine::Engine;
use shardloop_native::shard::Commands;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// A batch with room for so many events is never full.
const ROOMY: usize = 1000;

/// See the module.
pub struct Js {
    pub habits: Habits,
    /// No batch was ever full.
    roomy: bool,
    pub memory: Memory,
    pub pins: Pins,
    pub transports: BTreeMap<i32, Transport>,
    /// By slot: whose it is.
    slots: BTreeMap<i32, i32>,
    slots_most: usize,
    ended: Vec<i32>,
    pub stale: Vec<i32>,
    pub servers: Vec<Server>,
    batch: u64,
    idle_armed: bool,
    timer_at: Option<Instant>,
}

impl Js {
    /// Knows of nothing yet.
    pub fn new(habits: Habits) -> Self {
        Self {
            memory: Memory::new(habits.slab_bytes),
            roomy: habits.room >= ROOMY,
            habits,
            pins: Pins::default(),
            transports: BTreeMap::new(),
            slots: BTreeMap::new(),
            slots_most: 0,
            ended: Vec::new(),
            stale: Vec::new(),
            servers: Vec::new(),
            batch: 0,
            idle_armed: false,
            timer_at: None,
        }
    }

    /// Its loop turns, if there is a reason to. Whether there was.
    pub fn wake(&mut self, stage: &mut impl Stage, accounts: &mut [Account], draw: &mut Draw) -> bool {
        let due = self.timer_at.is_some_and(|at| at <= stage.site().now());
        if !(self.idle_armed || due || stage.is_called()) {
            return false;
        }
        note(|| format!("  JavaScript wakes: backlog {}, timer {due}", self.idle_armed));
        for _ in 0..draw.size(4) {
            let events = self.collect(stage, accounts, draw);
            let retired = self.memory.shared.control(abi::CONTROL_RETIRED) != 0;
            self.handle(events, stage, accounts, draw);
            if draw.once_in(40) && self.habits.busy > 0 {
                self.detach_slab(accounts, draw);
            }
            if events == 0 && !retired {
                break;
            }
            self.submit(stage, accounts);
            self.end_batch(stage);
            if !stage.engine().has_backlog() {
                break;
            }
        }
        self.settle(stage);
        true
    }

    /// Takes a batch that nobody told of. How many events it has, which are lost.
    pub fn look_for_nothing(&mut self, stage: &mut impl Stage) -> usize {
        let now = stage.site().now();
        let mut batch = self.memory.shared.batch(&self.memory.attached);
        stage.engine().collect(now, &mut batch, &self.pins);
        let (events, _) = batch.finish();
        self.end_batch(stage);
        self.settle(stage);
        events
    }

    fn collect(&mut self, stage: &mut impl Stage, accounts: &mut [Account], draw: &mut Draw) -> usize {
        for transport in self.transports.values_mut() {
            transport.was_barred = transport.barred;
        }
        let now = stage.site().now();
        let most = self.habits.room;
        let room = if most < ROOMY && draw.chance(30) { draw.size(most) } else { most };
        let batch = self.memory.shared.batch(&self.memory.attached);
        let planted = self.habits.planted;
        let mut sink = Narrow { batch, room, planted, draw: draw.clone() };
        stage.engine().collect(now, &mut sink, &self.pins);
        if planted == Some(Planted::FreeEarly) {
            stage.engine().end_batch(now);
            stage.engine().collect(now, &mut sink, &self.pins);
        }
        let (events, _) = sink.batch.finish();
        self.batch += 1;
        if stage.is_immediate() {
            self.check_queues(stage, accounts);
        }
        events
    }

    fn handle(&mut self, events: usize, stage: &mut impl Stage, accounts: &mut [Account], draw: &mut Draw) {
        for index in 0..events {
            let [word, handle, a, b] = self.memory.event(index);
            tally::count("event", word & abi::KIND_MASK);
            match word & abi::KIND_MASK {
                abi::EVENT_OPEN => self.opened(handle, a as usize, stage, accounts),
                abi::EVENT_ACCEPT_ERROR => {
                    ensure!(a > 0, Reasons, "an accept failed with errno {a}");
                    continue;
                }
                kind => {
                    ensure!(
                        self.transports.contains_key(&handle),
                        Ends,
                        "event {kind} of {handle:#x}, which is not open"
                    );
                    let slab = (word >> abi::SLAB_SHIFT) as usize;
                    self.told(kind, handle, [slab as i32, a, b], stage, accounts);
                }
            }
            if self.transports.contains_key(&handle) && draw.chance(self.habits.busy) {
                let data =
                    (word & abi::KIND_MASK == abi::EVENT_DATA).then_some((word >> abi::SLAB_SHIFT, a, b));
                self.act(handle, data, stage, accounts, draw);
            }
        }
    }

    fn opened(&mut self, handle: i32, server: usize, stage: &mut impl Stage, accounts: &mut [Account]) {
        let peer = stage.engine().peer(Handle::from_word(handle));
        let Some(peer) = peer else { return ensure!(false, Ends, "{handle:#x} opens without a peer") };
        let id = stage.site().id(peer);
        note(|| format!("  {id} opens as {handle:#x}"));
        let Some(account) = accounts.get_mut(id as usize) else {
            return ensure!(false, Ends, "{handle:#x} opens with the peer {peer:?}, which there is not");
        };
        ensure!(!account.opened, Ends, "{id} opens twice");
        account.opened = true;
        let slot = handle & abi::HANDLE_SLOT_MASK;
        let before = self.slots.insert(slot, handle);
        ensure!(
            before.is_none(),
            Slots,
            "{handle:#x} opens in the slot of {before:x?}, whose end is not handled"
        );
        ensure!(!self.stale.contains(&handle), Slots, "{handle:#x} is used again at once");
        self.slots_most = self.slots_most.max(self.slots.len());
        if let Some(counts) = stage.site().counts() {
            let bound = counts.open_most + self.slots_most;
            ensure!((slot as usize) < bound, Memory, "slot {slot} for at most {bound} connections");
        }
        let Some(server) = self.servers.get_mut(server) else {
            return ensure!(false, Ends, "{id} opens at server {server}, which there is not");
        };
        server.opened += 1;
        let more = server.promised.is_some_and(|promised| server.opened > promised);
        ensure!(!more, Ends, "a server that listens no more has more connections than it said: {server:?}");
        let transport = Transport {
            id,
            started: false,
            borrows: false,
            reading_paused: false,
            barred: true,
            was_barred: true,
            paused: false,
            low: self.habits.limits.write_low_bytes,
            finishing: false,
            unanswered: None,
            wrote_in: 0,
            owned: VecDeque::new(),
            timeout_ms: self.habits.limits.idle_timeout_ms,
            timeout_since: stage.site().now(),
        };
        self.transports.insert(handle, transport);
    }

    fn told(
        &mut self,
        kind: i32,
        handle: i32,
        [slab, a, b]: [i32; 3],
        stage: &mut impl Stage,
        accounts: &mut [Account],
    ) {
        let (batch, immediate) = (self.batch, stage.is_immediate());
        let Some(transport) = self.transports.get_mut(&handle) else { return };
        let id = transport.id;
        let account = &mut accounts[id as usize];
        note(|| format!("  {id}: event {kind} ({a}, {b})"));
        match kind {
            abi::EVENT_DATA => {
                ensure!(
                    !(immediate && transport.was_barred),
                    Inbound,
                    "{id} received though it reads nothing"
                );
                account.received(self.memory.bytes(slab as usize, a, b));
                transport.unanswered = Some(batch);
                if transport.wrote_in == batch {
                    // What it has written in this batch was no answer to these bytes.
                    self.command(abi::COMMAND_UNANSWERED, handle, 0, 0, stage, accounts);
                }
            }
            abi::EVENT_EOF => account.heard_end(),
            abi::EVENT_PAUSE_WRITING => {
                ensure!(!transport.paused, Alternation, "{id} is paused twice");
                transport.paused = true;
            }
            abi::EVENT_RESUME_WRITING => {
                ensure!(transport.paused, Alternation, "{id} is resumed twice");
                transport.paused = false;
            }
            abi::EVENT_OWNED_FLUSHED => {
                let count = a as usize;
                ensure!(
                    count > 0 && count <= transport.owned.len(),
                    Pins,
                    "{id} flushed {count} of {:?}",
                    transport.owned
                );
                let until = transport.owned.drain(..count).next_back().unwrap_or(0);
                if let Some(facts) = stage.site().facts(id) {
                    ensure!(
                        facts.taken >= until,
                        Pins,
                        "{id} flushed {until} bytes, but sent {}",
                        facts.taken
                    );
                }
            }
            abi::EVENT_IDLE => {
                let moved_at = stage.site().facts(id).and_then(|facts| facts.moved_at);
                let since = moved_at.map_or(transport.timeout_since, |at| at.max(transport.timeout_since));
                let passed = stage.site().now() - since;
                let early = passed.as_millis() > 0 && passed.as_millis() < transport.timeout_ms.into();
                let roomy = self.roomy; // else it may be told late
                ensure!(!(immediate && roomy && early), Timeouts, "{id} is idle after {passed:?}");
            }
            abi::EVENT_ANSWERED => {
                ensure!(transport.finishing, Ends, "{id} is told that it may finish, which nobody asked");
                let owes = transport.unanswered.is_some_and(|since| since < batch);
                ensure!(!owes, Ends, "{id} is told that it owes nothing");
            }
            abi::EVENT_CLOSED => {
                account.closed = Some(a);
                account.closed_at = Some(stage.site().now());
                self.closed(handle, a, stage, accounts);
            }
            kind => ensure!(false, Ends, "{id} is told of {kind}"),
        }
    }

    fn closed(&mut self, handle: i32, reason: i32, stage: &mut impl Stage, accounts: &mut [Account]) {
        let Some(transport) = self.transports.remove(&handle) else { return };
        let account = &accounts[transport.id as usize];
        let facts = stage.site().facts(transport.id);
        let there_was = match reason {
            0 => account.closing,
            abi::CLOSE_DETACHED => account.detached,
            abi::CLOSE_WRITE_OVERFLOW => {
                let most = self.habits.limits.write_max_bytes as u64;
                facts.is_none_or(|facts| account.written - facts.taken > most)
            }
            reason if reason < 0 => account.aborted == Some(reason),
            errno => facts.is_none_or(|facts| facts.errors.contains(&errno)),
        };
        ensure!(there_was, Reasons, "{} closed for {reason}, but {account:?}", transport.id);
        if reason == 0 {
            ensure!(
                transport.owned.is_empty(),
                Pins,
                "{} closed with owned writes: {transport:?}",
                transport.id
            );
        }
        tally::count("closed", reason);
        self.ended.push(handle);
    }

    /// Hands commands over.
    pub fn submit(&mut self, stage: &mut impl Stage, accounts: &[Account]) {
        if self.memory.has_commands() {
            self.submit_and(stage, accounts, |engine, now, commands| engine.submit(now, commands));
        }
    }

    /// The same by a call of the engine's that takes the commands.
    pub fn submit_and<T: Stage>(
        &mut self,
        stage: &mut T,
        accounts: &[Account],
        call: impl FnOnce(&mut T::Engine, Instant, &dyn Commands),
    ) {
        let now = stage.site().now();
        let commands = self.memory.shared.commands(&self.memory.attached);
        call(stage.engine(), now, &commands);
        self.memory.taken();
        for transport in self.transports.values_mut() {
            transport.barred =
                !transport.started || transport.reading_paused || accounts[transport.id as usize].closing;
        }
        if stage.is_immediate() {
            self.check_queues(stage, accounts);
        }
    }

    /// The batch is handled: slots may be used again.
    fn end_batch(&mut self, stage: &mut impl Stage) {
        self.memory.replace_slabs();
        let now = stage.site().now();
        stage.engine().end_batch(now);
        for handle in self.ended.drain(..) {
            self.slots.remove(&(handle & abi::HANDLE_SLOT_MASK));
            self.stale.push(handle);
        }
        if self.stale.len() > 64 {
            self.stale.drain(..32);
        }
    }

    /// Before the loop waits.
    pub fn settle(&mut self, stage: &mut impl Stage) {
        let mut released = Vec::new();
        stage.engine().take_released_pins(&mut released);
        self.pins.release(&released);
        if self.habits.planted == Some(Planted::ReleaseTwice) {
            self.pins.release(&released);
        }
        self.idle_armed = stage.engine().has_backlog();
        self.timer_at = stage.engine().next_wake();
    }

    /// When its loop turns though nothing happened.
    pub fn next_wake(&self) -> Option<Instant> {
        self.timer_at
    }

    /// The queues are within their bounds.
    fn check_queues(&mut self, stage: &mut impl Stage, accounts: &[Account]) {
        for (&handle, transport) in &self.transports {
            let queued = stage.engine().queued_bytes(Handle::from_word(handle));
            let most = self.habits.limits.write_max_bytes;
            ensure!(
                queued <= most,
                Memory,
                "{} queues {queued} bytes: {:?}",
                transport.id,
                accounts[transport.id as usize]
            );
        }
    }

    pub fn owe(&mut self, handle: i32, owes: bool) {
        let batch = self.batch;
        if let Some(transport) = self.transports.get_mut(&handle) {
            transport.unanswered = owes.then_some(batch);
            if !owes {
                transport.wrote_in = batch;
            }
        }
    }

    pub fn set_timeout(&mut self, handle: i32, timeout_ms: u32, now: Instant) {
        if let Some(transport) = self.transports.get_mut(&handle) {
            (transport.timeout_ms, transport.timeout_since) = (timeout_ms, now);
        }
    }
}
