//! The network that is made up: its connections and queues, what changes there, and word of it.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::planted::Planted;
use crate::tally;
use crate::violation::note;
use crate::wire::{Place, ResetCause, Wire};
use shardloop_native::limits::{LINGER_MS, STALL_MS};
use shardloop_native::net::addresses::Peer;
use shardloop_native::system::{Readiness, Ready, Source};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How a system tells what is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// By the poll, as epoll does.
    Told,
    /// By a look, after the poll has said where; room to write only to who awaits it. As tokio does.
    Looked,
}

/// How often things go wrong, in percent of the calls or steps in which they could.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A call takes or gives less than it could.
    pub short: u32,
    /// A call would block though there is something; the word of it comes behind.
    pub late: u32,
    /// A call fails, for good or (of memory) for once: one in so many.
    pub fail: usize,
    /// An accept fails.
    pub accept: u32,
    /// A watch fails.
    pub watch: u32,
    /// A poll keeps word for the next one.
    pub delay: u32,
    /// A poll tells of what has not changed.
    pub spurious: u32,
    /// A new connection is given to another shard.
    pub relieve: u32,
}

/// A listener's queue.
#[derive(Debug, Default)]
pub struct Port {
    pub queue: VecDeque<u32>,
    /// Watched, in this place of the shard.
    pub place: Option<u32>,
    pub edge: bool,
}

/// What is asked of every network by the peers; they name a connection by its number.
pub type Id = u32;

/// See the module.
#[derive(Debug)]
pub struct Net {
    pub now: Instant,
    pub style: Style,
    pub faults: Faults,
    pub draw: Draw,
    pub planted: Option<Planted>,
    pub wires: Vec<Wire>,
    /// Those at which something can still happen.
    pub live: Vec<Id>,
    pub ports: Vec<Port>,
    /// With word to be told.
    ready: VecDeque<Id>,
    /// Names that are nobody's any more.
    stale: Vec<Source>,
    pub inbox_edge: bool,
    /// The thread that polls was woken for what the next poll tells: it is not woken for it again.
    pub word_heard: bool,
    /// Sockets of shards, the most that there were, and how many there may be.
    pub open: usize,
    pub open_most: usize,
    pub open_max: usize,
    /// JavaScript has been running since.
    pub away_since: Option<Instant>,
    /// Accepted by the shard.
    pub accepted: u64,
}

impl Net {
    /// Nothing yet.
    pub fn new(now: Instant, style: Style, faults: Faults, planted: Option<Planted>) -> Self {
        Self {
            now,
            style,
            faults,
            draw: Draw::new(0),
            planted,
            wires: Vec::new(),
            live: Vec::new(),
            ports: Vec::new(),
            ready: VecDeque::new(),
            stale: Vec::new(),
            inbox_edge: false,
            word_heard: false,
            open: 0,
            open_most: 0,
            open_max: usize::MAX,
            away_since: None,
            accepted: 0,
        }
    }

    pub fn wire(&mut self, id: Id) -> &mut Wire {
        &mut self.wires[id as usize]
    }

    /// Whether JavaScript is stuck.
    pub fn is_away(&self) -> bool {
        self.away_since.is_some_and(|since| self.now - since >= Duration::from_millis(STALL_MS))
    }

    /// Whether a planted bug strikes.
    pub fn strikes(&mut self, planted: Planted, one_in: usize) -> bool {
        self.planted == Some(planted) && self.draw.once_in(one_in)
    }

    // Word of what is ready.

    /// Something has changed here.
    pub fn edge(&mut self, id: Id) {
        let wire = &mut self.wires[id as usize];
        if wire.source.is_none() {
            return;
        }
        wire.edge = true;
        if !wire.listed {
            wire.listed = true;
            self.ready.push_back(id);
        }
    }

    /// Tells of room, if it is owed.
    pub fn tell_room(&mut self, id: Id) {
        let style = self.style;
        let wire = self.wire(id);
        let asked = style == Style::Told || wire.awaits_room;
        if wire.wants_room && asked && wire.readiness().writable {
            wire.wants_room = false;
            self.edge(id);
        }
    }

    /// Whether a poll would tell of something.
    pub fn has_word(&self) -> bool {
        !self.ready.is_empty()
            || self.inbox_edge
            || self.ports.iter().any(|port| port.edge && port.place.is_some())
    }

    /// Tells.
    pub fn poll(&mut self, ready: &mut Ready) {
        self.word_heard = false;
        if self.ready.len() > 1 && self.draw.chance(50) {
            let by = self.draw.below(self.ready.len());
            self.ready.rotate_left(by);
        }
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            if self.draw.chance(self.faults.delay) {
                self.ready.push_back(id);
                continue;
            }
            let lost = self.strikes(Planted::LoseEdge, 50);
            let style = self.style;
            let wire = self.wire(id);
            wire.listed = false;
            let Some(source) = wire.source else { continue };
            if lost {
                wire.edge = false;
                continue;
            }
            match style {
                Style::Told => {
                    wire.edge = false;
                    ready.push((source, told(source, wire.readiness())));
                }
                Style::Looked => ready.push((source, READABLE)),
            }
        }
        for port in &mut self.ports {
            if let (true, Some(place)) = (port.edge, port.place) {
                port.edge = false;
                ready.push((Source::Listener(place), READABLE));
            }
        }
        if std::mem::take(&mut self.inbox_edge) {
            ready.push((Source::Inbox, READABLE));
        }
        if self.draw.chance(self.faults.spurious) {
            self.tell_for_nothing(ready);
        }
    }

    fn tell_for_nothing(&mut self, ready: &mut Ready) {
        if self.style == Style::Looked && !self.stale.is_empty() {
            ready.push((self.draw.pick(&self.stale), READABLE));
        }
        if !self.live.is_empty() {
            let id = self.draw.pick(&self.live);
            let claims = self.draw.chance(50);
            let style = self.style;
            let wire = self.wire(id);
            if let Some(source) = wire.source {
                let mut readiness = told(source, wire.readiness());
                readiness.readable |= claims;
                ready.push((source, if style == Style::Told { readiness } else { READABLE }));
            }
        }
        ready.push((Source::Inbox, READABLE));
    }

    /// A closer look at what was told of.
    pub fn look(&mut self, id: Id, told: Readiness) -> Readiness {
        let style = self.style;
        let wire = self.wire(id);
        if style == Style::Told {
            return told;
        }
        if !std::mem::take(&mut wire.edge) {
            return Readiness::default();
        }
        let mut readiness = wire.readiness();
        if !wire.awaits_room && !readiness.read_closed {
            (readiness.writable, readiness.failed) = (false, false);
        }
        if readiness.writable {
            wire.awaits_room = false;
        }
        readiness
    }

    /// A connection has this name from now on.
    pub fn name(&mut self, id: Id, source: Source) {
        let now = self.now;
        let wire = self.wire(id);
        if let Source::Lingering(_) = source {
            wire.lingers_since = Some(now);
            tally::count("lingered", 0);
        }
        let old = wire.source.replace(source);
        let readiness = wire.readiness();
        self.stale.extend(old);
        if self.stale.len() > 8 {
            self.stale.remove(0);
        }
        if readiness.readable || readiness.writable {
            self.edge(id);
        }
    }

    // The shard's end.

    /// The shard's end is closed.
    pub fn close(&mut self, id: Id) {
        let now = self.now;
        let wire = self.wire(id);
        assert_eq!(wire.place, Place::Open, "a socket is closed twice");
        (wire.place, wire.edge) = (Place::Gone, false);
        let old = wire.source.take();
        if wire.lingers_since.is_some_and(|since| now - since >= Duration::from_millis(LINGER_MS)) {
            wire.excused = true;
        }
        if wire.dead {
            // The peer knows, or will not learn from us.
        } else if wire.reset_on_close {
            wire.reset_peer(|_| ResetCause::Asked);
            wire.dead = true;
        } else if wire.inbound.unread() > 0 {
            wire.reset_peer(|lost| ResetCause::Closed { lost });
            wire.dead = true;
        } else {
            wire.outbound.ended = true;
        }
        self.stale.extend(old);
        self.open -= 1;
        note(|| format!("    socket {id} closed"));
    }

    // What happens on the way.

    /// Bytes (and an end behind the last one) come to the shard.
    pub fn deliver_inbound(&mut self, id: Id, most: usize) -> bool {
        let wire = self.wire(id);
        if wire.place == Place::Gone && !wire.dead && wire.inbound.in_flight() > 0 {
            // Nobody is there to take it.
            wire.inbound.lose_in_flight();
            wire.reset_peer(|lost| ResetCause::Closed { lost });
            wire.dead = true;
            return true;
        }
        let news = wire.inbound.deliver(most);
        if news {
            self.edge(id);
        }
        news
    }

    /// ... or to the peer.
    pub fn deliver_outbound(&mut self, id: Id, most: usize) -> bool {
        self.wire(id).outbound.deliver(most)
    }

    /// Word of what has come to the peer comes to the shard.
    pub fn acknowledge(&mut self, id: Id, most: usize) -> bool {
        let news = self.wire(id).outbound.acknowledge(most);
        self.wire(id).inbound.acknowledge(most);
        self.tell_room(id);
        news
    }

    /// A peer's reset comes to the shard. What is unread may go with it, as on some systems.
    pub fn deliver_reset(&mut self, id: Id) -> bool {
        let loses_unread = self.draw.chance(30);
        let wire = self.wire(id);
        if !std::mem::take(&mut wire.reset_to_shard) || wire.dead {
            return false;
        }
        let errno = if wire.inbound.end_arrived { libc::EPIPE } else { libc::ECONNRESET };
        wire.break_down(errno);
        if loses_unread {
            wire.inbound.lose_unread();
        }
        self.edge(id);
        true
    }

    /// The network fails a connection.
    pub fn fail(&mut self, id: Id, errno: i32) {
        let wire = self.wire(id);
        if wire.dead || wire.place != Place::Open {
            return;
        }
        wire.break_down(errno);
        wire.excused = true;
        wire.reset_peer(|_| ResetCause::Network);
        self.edge(id);
    }

    /// All that is on its way arrives. Whether anything was.
    pub fn settle(&mut self) -> bool {
        let mut news = false;
        self.live.retain(|&id| !self.wires[id as usize].is_over());
        for index in 0..self.live.len() {
            let id = self.live[index];
            news |= self.deliver_inbound(id, usize::MAX);
            news |= self.deliver_outbound(id, usize::MAX);
            news |= self.acknowledge(id, usize::MAX);
            news |= self.deliver_reset(id);
        }
        news
    }
}

/// What is told when it is said elsewhere what exactly.
const READABLE: Readiness = Readiness { readable: true, read_closed: false, writable: false, failed: false };

/// One that lingers is watched for input only.
fn told(source: Source, readiness: Readiness) -> Readiness {
    match source {
        Source::Lingering(_) => Readiness { writable: false, ..readiness },
        _ => readiness,
    }
}

/// The address of a peer says who it is.
pub fn address(id: Id) -> Peer {
    let [_, a, b, c] = id.to_be_bytes();
    Peer::Ip(([10, a, b, c], 40_000).into())
}
