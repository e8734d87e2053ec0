//! What a scenario needs of a network: a clock, the peers' ends, and what is known of the shard's.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::network::Id;
use shardloop_native::net::addresses::Peer;
use std::io;
use std::time::{Duration, Instant};

/// What the network knows of a connection on the shard's side.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Bytes that it took.
    pub taken: u64,
    /// What calls failed with.
    pub errors: Vec<i32>,
    /// Its last bytes may be lost.
    pub excused: bool,
    /// When a byte moved last, at the latest.
    pub moved_at: Option<Instant>,
    /// Bytes that wait to be read; an error or an end that was not told counts as one.
    pub unread: usize,
    /// Bytes that a close which was not asked to destroy any has destroyed.
    pub lost: usize,
}

/// What the network knows of all connections.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Sockets of the shard, and such as were left to others, that are open...
    pub open: usize,
    /// ... and the most that ever were.
    pub open_most: usize,
    /// Connections that the shard accepted or took over.
    pub accepted: u64,
}

/// A network, its clock, and the peers' ends.
pub trait Site {
    /// What an engine accepts from.
    type Listener;

    /// The time.
    fn now(&self) -> Instant;
    /// Lets it pass.
    fn pass(&mut self, time: Duration);
    /// A step begins, which draws from this.
    fn begin(&mut self, draw: Draw);
    /// Something happens in the network. False when nothing can.
    fn disturb(&mut self, draw: &mut Draw) -> bool;
    /// All that is on its way arrives. Whether anything was.
    fn settle(&mut self) -> bool;
    /// Nothing goes wrong for a moment, or as it did before.
    fn hush(&mut self, hush: bool);
    /// Nothing goes wrong any more.
    fn calm(&mut self);
    /// JavaScript runs without an end, or does so no more.
    fn set_away(&mut self, away: bool);

    /// A new place to connect to.
    fn open_port(&mut self) -> u32;
    /// Nobody accepts from it any more. How many connections its queue has that should have been accepted.
    fn close_port(&mut self, port: u32) -> usize;
    /// To accept from.
    fn listener(&self, port: u32) -> Self::Listener;

    /// Connects a peer.
    fn connect(&mut self, port: u32, draw: &mut Draw) -> Option<Id>;
    /// Sends from one.
    fn send(&mut self, id: Id, bytes: &[u8]) -> io::Result<usize>;
    /// Receives at one.
    fn receive(&mut self, id: Id, into: &mut [u8]) -> io::Result<usize>;
    /// Ends what it sends.
    fn finish(&mut self, id: Id);
    /// Has heard the end.
    fn close(&mut self, id: Id);
    /// Resets.
    fn reset(&mut self, id: Id);
    /// Who has this address.
    fn id(&self, peer: Peer) -> Id;

    /// What is known of it; `None` where nobody can say.
    fn facts(&self, id: Id) -> Option<Facts>;
    /// What is known of all; `None` where nobody can say.
    fn counts(&self) -> Option<Counts>;
    /// Closed connections that linger and have input to be discarded.
    fn lingering_unread(&self) -> usize;
    /// Connections that are in no queue, and were left to other shards, or lost before anybody heard of them.
    fn is_elsewhere(&self, id: Id) -> bool;
    /// Whether every connection was taken from its queue.
    fn queues_are_empty(&self) -> bool;

    /// Other shards begin or cease to serve a server that this one serves, by its number.
    fn serve_elsewhere(&mut self, number: u32, serve: bool);
    /// They do something. False when they have nothing.
    fn stir_elsewhere(&mut self, draw: &mut Draw) -> bool;
    /// They have a listener of theirs served here for a while, or do so no more; by the server's number.
    fn lend_listener(&mut self, number: u32);
    /// This shard is dead: what they had handed over is theirs.
    fn close_inbox(&mut self);
    /// The listeners that they had served here.
    fn lent_ports(&mut self) -> &mut Vec<u32>;
}
