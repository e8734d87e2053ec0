//! What JavaScript knows of its connections and servers, and how it is.
#![forbid(unsafe_code)]

use crate::network::Id;
use crate::planted::Planted;
use shardloop_native::shard::ServerLimits;
use std::collections::VecDeque;
use std::time::Instant;

/// What JavaScript knows of a connection.
#[derive(Debug)]
pub struct Transport {
    pub id: Id,
    pub started: bool,
    pub borrows: bool,
    pub reading_paused: bool,
    /// The engine knows that nothing is to be read...
    pub barred: bool,
    /// ... and did so when this batch was collected.
    pub was_barred: bool,
    /// Writing is paused.
    pub paused: bool,
    pub low: u32,
    pub finishing: bool,
    /// It owes an answer since this batch.
    pub unanswered: Option<u64>,
    /// The batch in which it wrote last.
    pub wrote_in: u64,
    /// Owned writes that were not told as flushed: what was written until then.
    pub owned: VecDeque<u64>,
    pub timeout_ms: u32,
    pub timeout_since: Instant,
}

impl Transport {
    /// Whether the engine is to read from it.
    pub fn is_read(&self) -> bool {
        !self.barred
    }
}

/// A server.
#[derive(Debug)]
pub struct Server {
    pub number: u32,
    pub ports: Vec<u32>,
    pub listens: bool,
    /// Connections that were announced, and how many were promised when listening ended.
    pub opened: u64,
    pub promised: Option<u64>,
}

/// How JavaScript is.
#[derive(Debug, Clone)]
pub struct Habits {
    pub limits: ServerLimits,
    pub slab_bytes: usize,
    /// Most events of a batch.
    pub room: usize,
    pub write_most: usize,
    /// In percent of events: it does something about it.
    pub busy: u32,
    pub planted: Option<Planted>,
}
