//! What was sent, written, received and told of each connection, and whether that agrees.
#![forbid(unsafe_code)]

use crate::draw::{CONTENT_MAX, content};
use crate::network::Id;
use crate::violation::ensure;
use shardloop_native::limits::LINGER_MS;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How a connection ended for its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    /// By an end.
    Ended,
    /// By a reset.
    Reset,
}

/// A part of what JavaScript wrote.
#[derive(Debug)]
struct Part {
    stream: u64,
    position: u64,
    length: usize,
}

/// What JavaScript wrote and the peer has not seen yet.
#[derive(Debug, Default)]
struct Script {
    parts: VecDeque<Part>,
}

/// One connection.
#[derive(Debug, Default)]
pub struct Account {
    pub id: Id,
    /// Bytes that the peer sent...
    pub sent: u64,
    /// ... and JavaScript received.
    pub received: u64,
    /// The peer has ended what it sends, or reset the connection...
    pub finished: bool,
    pub peer_reset: bool,
    /// ... and JavaScript has heard the end.
    pub heard_end: bool,
    script: Script,
    /// Bytes that JavaScript wrote, those included that it sent back...
    pub written: u64,
    own: u64,
    /// ... and the peer received.
    pub delivered: u64,
    /// JavaScript has ended what it writes.
    pub write_ended: bool,
    pub closing: bool,
    pub aborted: Option<i32>,
    /// Memory that a write referred to was detached.
    pub detached: bool,
    pub opened: bool,
    pub closed: Option<i32>,
    pub closed_at: Option<Instant>,
    /// Sending told the peer of a reset.
    pub heard_reset: bool,
    /// Of the peer.
    pub end: Option<PeerEnd>,
    pub ended_at: Option<Instant>,
    /// Another shard has it, or nobody.
    pub elsewhere: bool,
}

impl Account {
    /// Of a connection of which nothing is known yet.
    pub fn new(id: Id) -> Self {
        Self { id, ..Self::default() }
    }

    /// What the peer sends next.
    pub fn next_sent(&self, length: usize) -> &'static [u8] {
        content(u64::from(self.id) * 2, self.sent, length.min(CONTENT_MAX))
    }

    /// What JavaScript writes next.
    pub fn write(&mut self, length: usize) -> &'static [u8] {
        let (stream, position) = (u64::from(self.id) * 2 + 1, self.own);
        self.own += length as u64;
        self.note(Part { stream, position, length });
        content(stream, position, length)
    }

    /// JavaScript writes what it received last.
    pub fn send_back(&mut self, length: usize) {
        self.note(Part { stream: u64::from(self.id) * 2, position: self.received - length as u64, length });
    }

    fn note(&mut self, part: Part) {
        self.written += part.length as u64;
        self.script.parts.push_back(part);
    }

    /// JavaScript received bytes.
    pub fn received(&mut self, bytes: &[u8]) {
        let Self { id, sent, received, .. } = *self;
        ensure!(!self.heard_end, Inbound, "connection {id} received behind its peer's end");
        ensure!(!bytes.is_empty(), Inbound, "connection {id} received nothing");
        let end = received + bytes.len() as u64;
        ensure!(end <= sent, Inbound, "connection {id} received {end} bytes of {sent}");
        for (index, piece) in bytes.chunks(CONTENT_MAX).enumerate() {
            let position = received + (index * CONTENT_MAX) as u64;
            let holds = piece == content(u64::from(id) * 2, position, piece.len());
            ensure!(holds, Inbound, "connection {id} received other bytes than were sent, behind {position}");
        }
        self.received = end;
    }

    /// JavaScript heard the peer's end.
    pub fn heard_end(&mut self) {
        let Self { id, sent, received, .. } = *self;
        ensure!(!self.heard_end, Ends, "connection {id} heard two ends");
        ensure!(self.finished, Inbound, "connection {id} heard an end that its peer did not make");
        ensure!(sent == received, Inbound, "connection {id} heard the end behind {received} bytes of {sent}");
        self.heard_end = true;
    }

    /// The peer received bytes.
    pub fn delivered(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Self { id, delivered, .. } = *self;
            let Some(part) = self.script.parts.front_mut() else {
                let more = bytes.len();
                ensure!(
                    false,
                    Outbound,
                    "the peer of {id} received {more} bytes that nobody wrote, behind {delivered}"
                );
                return;
            };
            let count = bytes.len().min(part.length);
            let holds = bytes[..count] == *content(part.stream, part.position, count);
            ensure!(
                holds,
                Outbound,
                "the peer of {id} received other bytes than were written, behind {delivered}"
            );
            part.position += count as u64;
            part.length -= count;
            if part.length == 0 {
                self.script.parts.pop_front();
            }
            self.delivered += count as u64;
            bytes = &bytes[count..];
        }
    }

    /// The peer heard an end.
    pub fn peer_heard_end(&mut self) {
        let Self { id, delivered, written, .. } = *self;
        self.end = Some(PeerEnd::Ended);
        if self.opened && !self.elsewhere {
            ensure!(self.write_ended, Outbound, "the peer of {id} heard an end that JavaScript did not make");
            let whole = delivered == written;
            ensure!(whole, Outbound, "the peer of {id} heard the end behind {delivered} bytes of {written}");
        }
    }

    /// Whether its peer heard the end so late that the last bytes may not have been waited for.
    pub fn came_late(&self) -> bool {
        let (Some(closed), Some(ended)) = (self.closed_at, self.ended_at) else { return false };
        ended.saturating_duration_since(closed) > Duration::from_millis(LINGER_MS * 3 / 4)
    }

    /// Nothing is to come any more, of what JavaScript asked and the peer was there for. `excused` when the last bytes
    /// may be lost.
    pub fn settle(&self, excused: bool) {
        let Self { id, delivered, written, closed, .. } = *self;
        if closed == Some(0) && !self.peer_reset && !excused {
            let whole = delivered == written;
            ensure!(
                whole,
                Outbound,
                "{id} was closed in order, and its peer got {delivered} bytes of {written}"
            );
        }
    }
}
