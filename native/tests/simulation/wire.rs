//! One connection of the network that is made up: bytes, ends and resets on their way in either direction.
#![forbid(unsafe_code)]

use shardloop_native::system::{Readiness, Source};
use std::time::Instant;

/// One direction.
#[derive(Debug)]
pub struct Half {
    /// What was sent and is not read yet, from `start`.
    bytes: Vec<u8>,
    start: usize,
    /// Bytes that its sender was rid of, ever.
    pub taken: u64,
    /// As positions: the end of what was sent...
    sent: u64,
    /// ... of what has arrived...
    arrived: u64,
    /// ... of that, what the sender knows to have arrived...
    acknowledged: u64,
    /// ... and what was read.
    pub read: u64,
    send_capacity: usize,
    window: usize,
    /// The sender has ended it...
    pub ended: bool,
    /// ... and the receiver knows.
    pub end_arrived: bool,
}

impl Half {
    /// Empty.
    pub fn new(send_capacity: usize, window: usize) -> Self {
        let (bytes, start) = (Vec::new(), 0);
        let [taken, sent, arrived, acknowledged, read] = [0; 5];
        Self {
            bytes,
            start,
            taken,
            sent,
            arrived,
            acknowledged,
            read,
            send_capacity,
            window,
            ended: false,
            end_arrived: false,
        }
    }

    /// Bytes that it takes now.
    pub fn room(&self) -> usize {
        self.send_capacity.saturating_sub(self.unacknowledged())
    }

    /// Bytes that the sender does not know to have arrived.
    pub fn unacknowledged(&self) -> usize {
        (self.sent - self.acknowledged) as usize
    }

    /// Bytes to be read.
    pub fn unread(&self) -> usize {
        (self.arrived - self.read) as usize
    }

    /// Bytes on their way.
    pub fn in_flight(&self) -> usize {
        (self.sent - self.arrived) as usize
    }

    /// Takes bytes; there must be room.
    pub fn send(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.sent += bytes.len() as u64;
        self.taken += bytes.len() as u64;
    }

    /// The next bytes to be read.
    pub fn next(&self, length: usize) -> &[u8] {
        &self.bytes[self.start..][..length]
    }

    /// They are read.
    pub fn advance(&mut self, length: usize) {
        self.start += length;
        self.read += length as u64;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > 1 << 16 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Lets bytes arrive, and the end behind the last one. Whether anything did.
    pub fn deliver(&mut self, most: usize) -> bool {
        let count = most.min(self.in_flight()).min(self.window.saturating_sub(self.unread()));
        self.arrived += count as u64;
        let ends = self.ended && !self.end_arrived && self.in_flight() == 0;
        self.end_arrived |= ends;
        count > 0 || ends
    }

    /// Lets the sender know of what has arrived. Whether that is news.
    pub fn acknowledge(&mut self, most: usize) -> bool {
        let count = (self.arrived - self.acknowledged).min(most as u64);
        self.acknowledged += count;
        count > 0
    }

    /// What is on its way is lost, an end included. How many bytes that is.
    pub fn lose_in_flight(&mut self) -> usize {
        let lost = self.in_flight();
        self.ended = self.end_arrived;
        self.bytes.truncate(self.bytes.len() - lost);
        self.sent = self.arrived;
        lost
    }

    /// What has arrived is lost, too.
    pub fn lose_unread(&mut self) {
        self.lose_in_flight();
        self.advance(self.unread());
    }
}

/// Why a peer was sent a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// The shard asked for it.
    Asked,
    /// It closed a socket with unread input, or more came later: so many bytes of its own were lost.
    Closed {
        /// How many.
        lost: usize,
    },
    /// The network failed.
    Network,
}

/// Where the shard's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a listener's queue.
    Queue,
    /// Somebody's socket.
    Open,
    /// Closed.
    Gone,
}

/// One connection.
#[derive(Debug)]
pub struct Wire {
    /// From the peer to the shard.
    pub inbound: Half,
    /// From the shard to the peer.
    pub outbound: Half,
    /// Where the shard's end is.
    pub place: Place,
    /// The name under which it is watched.
    pub source: Option<Source>,
    /// Something has changed that was not told.
    pub edge: bool,
    /// It is on the list of what is to be told.
    pub listed: bool,
    /// A send fell short: to be told when there is room...
    pub wants_room: bool,
    /// ... and the shard has asked for it.
    pub awaits_room: bool,
    /// To be told by the next call.
    pub error: Option<i32>,
    /// All that calls have failed with.
    pub errors: Vec<i32>,
    /// Reset, or failed: nothing comes or goes.
    pub dead: bool,
    /// The shard's close is a reset.
    pub reset_on_close: bool,
    /// When a byte moved last on the shard's side.
    pub moved_at: Instant,
    /// It lingers since.
    pub lingers_since: Option<Instant>,
    /// Its close had to be a hard one: it lingered to the end, or could not.
    pub excused: bool,
    /// A reset is on its way to the shard.
    pub reset_to_shard: bool,
    /// ... or to the peer, or has come there.
    pub reset_to_peer: Option<ResetCause>,
    /// The peer's end is closed.
    pub peer_gone: bool,
}

impl Wire {
    /// A new one.
    pub fn new(now: Instant, inbound: Half, outbound: Half) -> Self {
        Self {
            inbound,
            outbound,
            place: Place::Queue,
            source: None,
            edge: false,
            listed: false,
            wants_room: false,
            awaits_room: false,
            error: None,
            errors: Vec::new(),
            dead: false,
            reset_on_close: false,
            moved_at: now,
            lingers_since: None,
            excused: false,
            reset_to_shard: false,
            reset_to_peer: None,
            peer_gone: false,
        }
    }

    /// What the shard's end is ready for.
    pub fn readiness(&self) -> Readiness {
        let failed = self.error.is_some();
        let read_closed = self.inbound.end_arrived || self.dead || failed;
        Readiness {
            readable: self.inbound.unread() > 0 || read_closed,
            read_closed,
            writable: self.outbound.room() > 0 || self.dead || failed,
            failed,
        }
    }

    /// The shard's end fails.
    pub fn break_down(&mut self, errno: i32) {
        self.error = Some(errno);
        self.dead = true;
        self.outbound.lose_in_flight();
        self.inbound.lose_in_flight();
    }

    /// The peer is reset, as far as it is still there.
    pub fn reset_peer(&mut self, cause: impl FnOnce(usize) -> ResetCause) {
        let lost = self.outbound.lose_in_flight();
        if self.reset_to_peer.is_none() && !self.peer_gone {
            self.reset_to_peer = Some(cause(lost));
        }
    }

    /// Nothing can happen here any more.
    pub fn is_over(&self) -> bool {
        self.place == Place::Gone && self.peer_gone
    }
}
