//! What JavaScript does with its connections: writes, switches, ends, and what it should not do.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::javascript::Js;
use crate::ledger::Account;
use crate::site::Site;
use crate::stage::Stage;
use crate::violation::{ensure, note};
use shardloop_native::abi;
use shardloop_native::connection::Handle;
use shardloop_native::engine::Engine;
use shardloop_native::ring::SLABS;

/// A range of a slab: its index, offset and length.
type Range = (i32, i32, i32);

impl Js {
    /// Does something with a connection; `data` is what it has just received.
    pub fn act(
        &mut self,
        handle: i32,
        data: Option<Range>,
        stage: &mut impl Stage,
        accounts: &mut [Account],
        draw: &mut Draw,
    ) {
        let Some(transport) = self.transports.get(&handle) else { return };
        let borrows = transport.borrows;
        if !transport.started && draw.chance(80) {
            return self.start(handle, stage, accounts, draw);
        }
        let what = draw.below(1000);
        match what {
            0..=699 => self.write_something(handle, data, stage, accounts, draw),
            700..=789 => self.pause_or_resume(handle, stage, accounts),
            790..=794 => self.end_writing(handle, stage, accounts),
            795..=804 => self.close(handle, stage, accounts),
            805..=807 => {
                let reason = draw.pick(&[abi::CLOSE_PROGRAM, abi::CLOSE_SERVER, abi::CLOSE_IDLE]);
                self.abort(handle, reason, stage, accounts);
            }
            808..=847 => {
                let high = draw.size(self.habits.limits.write_max_bytes);
                let low = draw.below(high);
                if let Some(transport) = self.transports.get_mut(&handle) {
                    transport.low = low as u32;
                }
                self.command(abi::COMMAND_WRITE_LIMITS, handle, high as i32, low as i32, stage, accounts);
            }
            848..=877 => {
                let timeout_ms = if draw.chance(30) { 0 } else { draw.size(20_000) };
                self.command(abi::COMMAND_IDLE_TIMEOUT, handle, timeout_ms as i32, 0, stage, accounts);
                let now = stage.site().now();
                self.set_timeout(handle, timeout_ms as u32, now);
            }
            878..=907 => {
                let borrows = draw.chance(50);
                if let Some(transport) = self.transports.get_mut(&handle) {
                    transport.borrows = borrows;
                }
                self.command(abi::COMMAND_MODE, handle, borrows.into(), 0, stage, accounts);
            }
            908..=937 => {
                if let Some(transport) = self.transports.get_mut(&handle) {
                    transport.finishing = true;
                }
                let dealt_with = what < 923;
                if dealt_with {
                    self.owe(handle, false);
                }
                self.command(abi::COMMAND_FINISH, handle, dealt_with.into(), 0, stage, accounts);
            }
            938..=947 => {
                self.owe(handle, true);
                self.command(abi::COMMAND_UNANSWERED, handle, 0, 0, stage, accounts);
            }
            948..=977 => self.late_command(stage, accounts, draw),
            978..=984 => self.detach_pin(accounts, draw),
            985 => {
                // As many as the rings and pipes have room for, and more.
                let count = draw.size(6_000);
                note(|| format!("  {count} commands to {handle:#x}"));
                for _ in 0..count {
                    if !self.memory.has_room(0) {
                        self.submit(stage, accounts);
                    }
                    self.memory.command(abi::COMMAND_MODE, handle, borrows.into(), 0);
                }
            }
            986..=990 => {
                let queued = stage.engine().queued_bytes(Handle::from_word(handle));
                ensure!(
                    queued <= self.habits.limits.write_max_bytes,
                    Memory,
                    "{handle:#x} queues {queued} bytes"
                );
            }
            _ => self.submit(stage, accounts),
        }
    }

    /// Makes the protocol.
    pub fn start(&mut self, handle: i32, stage: &mut impl Stage, accounts: &mut [Account], draw: &mut Draw) {
        let borrows = draw.chance(50);
        if let Some(transport) = self.transports.get_mut(&handle) {
            (transport.started, transport.borrows) = (true, borrows);
        }
        self.command(abi::COMMAND_START, handle, borrows.into(), 0, stage, accounts);
    }

    /// Puts a command into the ring.
    pub fn command(
        &mut self,
        operation: i32,
        handle: i32,
        a: i32,
        b: i32,
        stage: &mut impl Stage,
        accounts: &[Account],
    ) {
        if !self.memory.has_room(0) {
            self.submit(stage, accounts);
        }
        note(|| format!("  command {operation} to {handle:#x} ({a}, {b})"));
        self.memory.command(operation, handle, a, b);
    }

    /// Whether it may still write.
    fn account<'a>(&self, handle: i32, accounts: &'a mut [Account]) -> Option<&'a mut Account> {
        let account = accounts.get_mut(self.transports.get(&handle)?.id as usize)?;
        (!account.write_ended && account.aborted.is_none()).then_some(account)
    }

    fn write_something(
        &mut self,
        handle: i32,
        data: Option<Range>,
        stage: &mut impl Stage,
        accounts: &mut [Account],
        draw: &mut Draw,
    ) {
        let length = draw.size(self.habits.write_most);
        let paused = self.transports.get(&handle).is_some_and(|transport| transport.paused);
        if paused && draw.chance(90) {
            return;
        }
        let Some(account) = self.account(handle, accounts) else { return };
        self.owe(handle, false);
        match (draw.below(10), data) {
            (0..=4, Some((slab, offset, length))) => {
                account.send_back(length as usize);
                note(|| format!("  {} sends {length} bytes back", account.id));
                self.command(
                    abi::COMMAND_WRITE_SLAB | slab << abi::SLAB_SHIFT,
                    handle,
                    offset,
                    length,
                    stage,
                    accounts,
                );
            }
            (0..=5, _) => {
                let bytes = account.write(length);
                note(|| format!("  {} writes {length} bytes", account.id));
                if !self.memory.has_room(length) {
                    self.submit(stage, accounts);
                }
                self.memory.write(handle, bytes);
            }
            (6..=7, _) => {
                let bytes = account.write(length);
                note(|| format!("  {} writes {length} bytes at once", account.id));
                self.submit_and(stage, accounts, |engine, now, commands| {
                    engine.write(now, Handle::from_word(handle), bytes, commands);
                });
            }
            _ => {
                let bytes = account.write(length);
                let until = account.written;
                note(|| format!("  {} writes {length} bytes of its own", account.id));
                self.submit(stage, accounts);
                let pin = self.pins.pin(bytes);
                let now = stage.site().now();
                if draw.once_in(60) {
                    self.pins.detach(pin);
                    self.detached(handle, accounts);
                }
                if stage.engine().write_pinned(now, Handle::from_word(handle), pin, length, &self.pins)
                    && let Some(transport) = self.transports.get_mut(&handle)
                {
                    transport.owned.push_back(until);
                }
            }
        }
    }

    fn detached(&self, handle: i32, accounts: &mut [Account]) {
        if let Some(transport) = self.transports.get(&handle) {
            accounts[transport.id as usize].detached = true;
        }
    }

    fn pause_or_resume(&mut self, handle: i32, stage: &mut impl Stage, accounts: &mut [Account]) {
        let Some(transport) = self.transports.get_mut(&handle) else { return };
        transport.reading_paused = !transport.reading_paused;
        let operation = if transport.reading_paused { abi::COMMAND_PAUSE } else { abi::COMMAND_RESUME };
        self.command(operation, handle, 0, 0, stage, accounts);
    }

    /// Starts and resumes.
    pub fn read_on(
        &mut self,
        handle: i32,
        stage: &mut impl Stage,
        accounts: &mut [Account],
        draw: &mut Draw,
    ) {
        if self.transports.get(&handle).is_some_and(|transport| !transport.started) {
            self.start(handle, stage, accounts, draw);
        }
        if self.transports.get(&handle).is_some_and(|transport| transport.reading_paused) {
            self.pause_or_resume(handle, stage, accounts);
        }
    }

    fn end_writing(&mut self, handle: i32, stage: &mut impl Stage, accounts: &mut [Account]) {
        let Some(account) = self.account(handle, accounts) else { return };
        account.write_ended = true;
        self.owe(handle, false);
        self.command(abi::COMMAND_WRITE_EOF, handle, 0, 0, stage, accounts);
    }

    /// Closes in order.
    pub fn close(&mut self, handle: i32, stage: &mut impl Stage, accounts: &mut [Account]) {
        let Some(transport) = self.transports.get(&handle) else { return };
        let account = &mut accounts[transport.id as usize];
        if account.aborted.is_some() || account.closing {
            return;
        }
        (account.closing, account.write_ended) = (true, true);
        self.command(abi::COMMAND_CLOSE, handle, 0, 0, stage, accounts);
    }

    fn abort(&mut self, handle: i32, reason: i32, stage: &mut impl Stage, accounts: &mut [Account]) {
        let Some(transport) = self.transports.get(&handle) else { return };
        let account = &mut accounts[transport.id as usize];
        if account.aborted.is_none() {
            account.aborted = Some(reason);
            self.command(abi::COMMAND_ABORT, handle, reason, 0, stage, accounts);
        }
    }

    /// To a connection that is no more, or never was.
    fn late_command(&mut self, stage: &mut impl Stage, accounts: &mut [Account], draw: &mut Draw) {
        let mut handle = draw.word() as i32;
        if !self.stale.is_empty() && draw.chance(90) {
            handle = draw.pick(&self.stale);
        }
        if self.transports.contains_key(&handle) {
            return;
        }
        match draw.below(4) {
            0 => {
                self.submit(stage, accounts);
                let now = stage.site().now();
                stage.engine().write(now, Handle::from_word(handle), b"nobody's", &());
            }
            1 => {
                self.submit(stage, accounts);
                let now = stage.site().now();
                let pin = self.pins.pin(b"nobody's");
                let handle = Handle::from_word(handle);
                let taken = stage.engine().write_pinned(now, handle, pin, 8, &self.pins);
                ensure!(!(taken && stage.is_immediate()), Ends, "an owned write to nobody was taken");
            }
            2 if self.memory.has_room(8) => self.memory.write(handle, b"nobody's"),
            _ => {
                let operation = draw.pick(&[
                    abi::COMMAND_ABORT,
                    abi::COMMAND_CLOSE,
                    abi::COMMAND_START,
                    abi::COMMAND_WRITE_EOF,
                    abi::COMMAND_RESUME,
                    abi::COMMAND_IDLE_TIMEOUT,
                ]);
                self.command(operation, handle, abi::CLOSE_PROGRAM, 0, stage, accounts);
            }
        }
    }

    /// Gives a slab away while writes may refer to it.
    pub fn detach_slab(&mut self, accounts: &mut [Account], draw: &mut Draw) {
        let slab = draw.below(SLABS);
        let handles: Vec<i32> = self.memory.writes_from(slab).collect();
        for handle in handles {
            self.detached(handle, accounts);
        }
        self.memory.attached.0[slab].set(false);
        self.memory.slab_is_gone(slab);
    }

    /// Gives away what a write still refers to.
    fn detach_pin(&mut self, accounts: &mut [Account], draw: &mut Draw) {
        let Some(pin) = self.pins.any_held(draw) else { return };
        self.pins.detach(pin);
        for transport in self.transports.values().filter(|transport| !transport.owned.is_empty()) {
            accounts[transport.id as usize].detached = true;
        }
    }

    /// Does something though nothing has happened, as timers and promises do.
    /// False when there is nothing that it could do it to.
    pub fn stir(&mut self, stage: &mut impl Stage, accounts: &mut [Account], draw: &mut Draw) -> bool {
        if self.transports.is_empty() {
            return false;
        }
        for _ in 0..draw.size(4) {
            let index = draw.below(self.transports.len());
            let Some(&handle) = self.transports.keys().nth(index) else { break };
            self.act(handle, None, stage, accounts, draw);
        }
        self.submit(stage, accounts);
        self.settle(stage);
        true
    }
}
