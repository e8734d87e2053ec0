//! The shard layer on another thread than JavaScript's. Two halves, joined by two pipes ([`crate::pipe`]):
//!
//! ```text
//! shard's thread: Front (an Engine)                         I/O thread: Back (has the Shard)
//!   submit  ── commands, bytes to write ──────────────────►   Shard::submit
//!   collect ◄───────────── events, bytes that were read ───   Shard::turn
//!   call    ── what is rare and needs an answer ──────────►   in its turn among the commands
//! ```
//!
//! - Neither side touches the other's memory, and JavaScript's only the front does: bytes are copied into its slabs and out
//!   of them. What `writeOwned` refers to is copied, too, and told as flushed when it is.
//! - Each side sleeps when it has nothing to do and is woken once for all that then comes ([`crate::pipe::Sleep`]); while it
//!   is awake nobody wakes it.
//! - The back waits for nobody. A full pipe stops it from reading, as full slabs would; commands are applied all the same.
//!   So the front may wait for it: when the commands' pipe is full, and for an answer.
//! - A slot is free once the front has handed on the end of its connection and JavaScript has handled that batch: the
//!   front says so by a command.
//! - A new connection is *offered* until the front hands it on. When JavaScript is stuck the back takes offers back, for
//!   other shards, and leaves further connections in their queues.
//! - A panic of the back is caught by whoever runs it ([`Back::failed`]) and becomes a panic of the front's next call.
//!
//! Both halves are plain structs, run by whatever has them: `tokio` runs the back on a thread; one thread could run them in
//! turns.

mod back;
mod front;
mod offers;

pub use back::{Back, Neighbours, Take};
pub use front::Front;

use crate::limits::{PIPE_EVENT_BYTES, PIPE_RECORDS, WRITE_SLAB_BYTES};
use crate::metrics::Metrics;
use crate::pipe::{Sleep, Wish, pipe};
use crate::shard::Shard;
use crate::system::{Left, System};
use offers::Offers;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Command between the halves: the end of this connection is handled. Beyond the operations of `abi`.
const COMMAND_FREE: i32 = 0x80;
/// Command between the halves: the next of the calls that wait.
const COMMAND_CALL: i32 = 0x82;
/// Command between the halves: what was written to this connection before is an owned write, to be told when flushed.
const COMMAND_OWNED: i32 = 0x81;

/// How the front reaches whatever runs the back. Dropping it ends the back.
pub trait Driver {
    /// The back sleeps, and there is work. From the front's thread.
    fn wake(&self);
    /// Waits until [`Caller::resume`] was called since this was called last. It may return early.
    fn wait(&mut self);
    /// The front is awake: what [`Caller::ring`] did is undone.
    fn silence(&self);
}

/// How the back reaches the front.
pub trait Caller {
    /// The front sleeps in its loop, and there are events.
    fn ring(&self);
    /// The front waits in [`Driver::wait`], and may go on.
    fn resume(&self);
}

type Call<S> = Box<dyn FnOnce(&mut Back<S>) + Send>;

/// What both halves see, beside the pipes.
struct Shared<S: System> {
    /// Of the front, in its loop.
    front: Sleep,
    /// Of the front, in the middle of a call.
    front_waits: Sleep,
    back: Sleep,
    /// Of the back, which cannot deliver all that is ready until the front has taken something.
    room: Wish,
    /// JavaScript was stuck: the back accepts nothing until the front is back.
    accepting_rests: AtomicBool,
    /// There are listeners or connections.
    alive: AtomicBool,
    offers: Offers,
    /// One for each [`COMMAND_CALL`] in the pipe, which says when its turn is.
    calls: Mutex<VecDeque<Call<S>>>,
    /// Why the back is no more.
    failure: OnceLock<String>,
    /// What it left to other shards.
    left: Mutex<Left<S>>,
}

/// How much the pipes hold.
#[derive(Debug, Clone, Copy)]
pub struct PipeSizes {
    /// Entries of either; a power of two.
    pub entries: usize,
    /// Bytes that were received.
    pub event_bytes: usize,
    /// Bytes to write; two pieces of [`crate::limits::PIPE_PIECE_BYTES`] at least.
    pub command_bytes: usize,
}

impl Default for PipeSizes {
    fn default() -> Self {
        Self { entries: PIPE_RECORDS, event_bytes: PIPE_EVENT_BYTES, command_bytes: WRITE_SLAB_BYTES }
    }
}

/// Joins two halves. `back` is to be made where it will run, since a system may belong to its thread.
pub fn halves<S: System, D: Driver>(driver: D, sizes: PipeSizes) -> io::Result<(Front<S, D>, Seed<S>)> {
    let shared = Arc::new(Shared {
        front: Sleep::default(),
        front_waits: Sleep::default(),
        back: Sleep::default(),
        room: Wish::default(),
        accepting_rests: AtomicBool::new(false),
        alive: AtomicBool::new(false),
        offers: Offers::default(),
        calls: Mutex::default(),
        failure: OnceLock::new(),
        left: Mutex::new(Vec::new()),
    });
    let (event_writer, event_reader) = pipe(sizes.entries, sizes.event_bytes)?;
    let (command_writer, command_reader) = pipe(sizes.entries, sizes.command_bytes)?;
    let front = Front::new(shared.clone(), event_reader, command_writer, driver);
    Ok((front, Seed { shared, events: event_writer, commands: command_reader }))
}

/// A back before it has a system.
pub struct Seed<S: System> {
    shared: Arc<Shared<S>>,
    events: crate::pipe::Writer,
    commands: crate::pipe::Reader,
}

impl<S: System> Seed<S> {
    /// The back, on this system. `neighbours` get what JavaScript does not take in time.
    pub fn grow(
        self,
        system: S,
        metrics: Arc<Metrics>,
        neighbours: Option<Box<dyn Neighbours<S>>>,
        caller: Box<dyn Caller>,
        now: Instant,
    ) -> Back<S> {
        let shard = Shard::new(system, metrics, now);
        Back::new(shard, self.shared, self.events, self.commands, neighbours, caller, now)
    }
}
