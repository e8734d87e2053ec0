//! The connections of a shard in a table of slots, named by handles that a reused slot does not answer to.
#![forbid(unsafe_code)]

use crate::abi::{HANDLE_GENERATION_SHIFT, HANDLE_SLOT_MASK};
use crate::limits::CONNECTIONS_MAX;
use crate::net::addresses::Peer;
use crate::timer::Tick;
use crate::tls::session::Session;
use crate::write_queue::WriteQueue;

/// Slot (20 bits) and generation (12 bits) of a connection. A command travels at most one batch, and a slot is freed
/// only once JavaScript has seen its end, so 4,096 generations are far more than can be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(u32);

impl Handle {
    fn new(slot: usize, generation: u16) -> Self {
        Self(slot as u32 | u32::from(generation) << HANDLE_GENERATION_SHIFT)
    }

    /// From a record.
    pub fn from_word(word: i32) -> Self {
        Self(word as u32)
    }

    /// For a record.
    pub fn word(self) -> i32 {
        self.0 as i32
    }

    fn slot(self) -> usize {
        (self.0 & HANDLE_SLOT_MASK as u32) as usize
    }

    fn generation(self) -> u16 {
        (self.0 >> HANDLE_GENERATION_SHIFT) as u16
    }
}

/// A set of switches of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[doc = $doc:literal])+ $name:ident = $bit:expr;)*) => {
        impl Flags { $($(#[doc = $doc])+ pub const $name: Self = Self(1 << $bit);)* }
    };
}

flags! {
    /// JavaScript has made the protocol; reading may begin.
    STARTED = 0;
    /// The protocol takes borrowed bytes.
    BORROWS = 1;
    /// The kernel said that there is something to read, and a read has not yet found the end of it.
    READABLE = 2;
    /// ... and that the peer's end is among it, so that a short read is not the last.
    READ_CLOSED = 3;
    /// The peer's end was read.
    EOF = 4;
    /// Reading is paused.
    PAUSED = 5;
    /// On the ready list.
    LISTED_READY = 6;
    /// On the list of connections with signals to deliver.
    LISTED_SIGNAL = 7;
    /// Close once the queue is empty.
    CLOSING = 8;
    /// End the writing half once the queue is empty.
    WRITE_EOF = 9;
    /// Gone: the descriptor is closed, JavaScript is to be told.
    LOST = 10;
    /// JavaScript was told that writing is paused.
    TOLD_PAUSED = 11;
    /// Writing should be paused.
    WRITE_PAUSED = 12;
    /// The idle timeout passed and is to be told.
    IDLE = 13;
    /// JavaScript has not been told of this connection yet.
    UNANNOUNCED = 14;
    /// The writing half is shut down.
    WRITE_CLOSED = 15;
    /// Bytes were received since it last wrote.
    UNANSWERED = 16;
    /// To be told when it owes its peer nothing.
    FINISHING = 17;
    /// It may owe nothing: to be looked at, and told.
    ANSWERED = 18;
    /// Not connected yet: nobody knows of it but who asked for it.
    CONNECTING = 19;
    /// On the list of connections with more of a file to send.
    LISTED_SENDING = 20;
    /// Has subscribed to topics, or had.
    SUBSCRIBED = 24;
    /// A pipe that is only read; its peer is the writer.
    READ_PIPE = 21;
    /// A pipe that is only written; its peer is the reader.
    WRITE_PIPE = 22;
    /// TLS's handshake is not done.
    HANDSHAKING = 25;
    /// To get TLS, as soon as JavaScript has given back what it received of it.
    UPGRADING = 26;
    /// JavaScript is to be told that nothing is received as plain text any more.
    TELL_TLS_READY = 27;
    /// JavaScript is to be told that the handshake is done.
    TELL_TLS_ESTABLISHED = 28;
    /// Its handshake failed, and nobody was told of it before.
    HANDSHAKE_FAILED = 29;
}

impl Flags {
    /// Whether any of them is on.
    #[inline]
    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Switches on.
    #[inline]
    pub fn set(&mut self, flag: Self) {
        self.0 |= flag.0;
    }

    /// Switches off.
    #[inline]
    pub fn clear(&mut self, flag: Self) {
        self.0 &= !flag.0;
    }

    /// Several at once.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Index into the commands of a flush; the end of a chain.
pub const NO_RECORD: u32 = u32::MAX;

/// One connection. Kept small: an idle one has no buffer and no queue.
#[derive(Debug)]
pub struct Connection<K> {
    /// The socket, closed once, by being dropped.
    pub socket: Option<K>,
    /// Switches.
    pub flags: Flags,
    /// The server that accepted it.
    pub server: u16,
    /// errno or CLOSE_ reason to be told.
    pub reason: i32,
    /// What the kernel did not take yet; with TLS, what was not encrypted yet.
    pub queue: Option<Box<WriteQueue>>,
    /// Its TLS, if it has one.
    pub tls: Option<Box<Session>>,
    /// Owned writes flushed and not yet told.
    pub owned_flushed: u32,
    /// Bytes of the last read, a guess at the next.
    pub read_hint: u32,
    /// Chain of this flush's write records: the first...
    pub chain_first: u32,
    /// ... and the last.
    pub chain_last: u32,
    /// High watermark in bytes.
    pub write_high: u32,
    /// Low watermark in bytes.
    pub write_low: u32,
    /// Ticks without activity until idle; 0 for never.
    pub idle_ticks: Tick,
    /// When a byte moved last.
    pub active_at: Tick,
    /// The timer entry that counts; others are stale.
    pub timer_at: Tick,
    /// The number by which it was asked for; 0 for one that was accepted.
    pub request: u32,
    /// The other end.
    pub peer: Peer,
}

impl<K> Connection<K> {
    /// When it counts as idle. One tick more than asked: the present one has run in part, and none may come early.
    pub fn idle_at(&self) -> Tick {
        self.active_at + self.idle_ticks + 1
    }

    /// Bytes queued.
    #[inline]
    pub fn queued(&self) -> usize {
        let records = self.tls.as_ref().filter(|session| !session.is_late());
        let records = records.map_or(0, |session| session.outgoing().len());
        self.queue.as_ref().map_or(0, |queue| queue.len()) + records
    }

    /// Whether something waits to be sent.
    #[inline]
    pub fn waits_to_send(&self) -> bool {
        let has_records = |session: &Session| !session.outgoing().is_empty() && !session.is_late();
        self.queue.is_some() || self.tls.as_deref().is_some_and(has_records)
    }

    /// Whether its peer has said its last word by TLS, and nothing was written behind it or waits to be sent: then it is of no meaning any more how the
    /// connection below ends. (Who goes without having read a server's tickets resets it.)
    pub fn has_parted(&self) -> bool {
        !self.waits_to_send() && self.tls.as_deref().is_some_and(Session::has_peer_parted)
    }

    /// Whether there is something to read, as far as is known.
    #[inline]
    pub fn has_input(&self) -> bool {
        self.flags.has(Flags::READABLE) || self.tls.as_ref().is_some_and(|session| session.has_input())
    }
}

#[derive(Debug)]
struct Slot<K> {
    generation: u16,
    connection: Option<Connection<K>>,
}

/// The table.
#[derive(Debug)]
pub struct ConnectionTable<K> {
    slots: Vec<Slot<K>>,
    free: Vec<u32>,
    count: usize,
}

impl<K> Default for ConnectionTable<K> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), count: 0 }
    }
}

impl<K> ConnectionTable<K> {
    /// Enters a connection; gives it back when the table is full.
    #[allow(clippy::result_large_err, reason = "the connection goes back to the caller, who closes it")]
    pub fn insert(&mut self, connection: Connection<K>) -> Result<Handle, Connection<K>> {
        let slot = match self.free.pop() {
            Some(slot) => slot as usize,
            None if self.slots.len() >= CONNECTIONS_MAX => return Err(connection),
            None => {
                self.slots.push(Slot { generation: 0, connection: None });
                self.slots.len() - 1
            }
        };
        let entry = &mut self.slots[slot];
        debug_assert!(entry.connection.is_none(), "a free slot holds a connection");
        entry.connection = Some(connection);
        self.count += 1;
        Ok(Handle::new(slot, entry.generation))
    }

    /// The connection of a handle; `None` when it is gone, whoever has its slot now.
    #[inline]
    pub fn get(&self, handle: Handle) -> Option<&Connection<K>> {
        let slot = self.slots.get(handle.slot())?;
        if slot.generation == handle.generation() { slot.connection.as_ref() } else { None }
    }

    /// As [`Self::get`], to change it.
    #[inline]
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut Connection<K>> {
        let slot = self.slots.get_mut(handle.slot())?;
        if slot.generation == handle.generation() { slot.connection.as_mut() } else { None }
    }

    /// Takes a connection out; its handle is dead from now on.
    pub fn remove(&mut self, handle: Handle) -> Option<Connection<K>> {
        let slot = self.slots.get_mut(handle.slot())?;
        if slot.generation != handle.generation() {
            return None;
        }
        let connection = slot.connection.take()?;
        slot.generation = (slot.generation + 1) & ((1 << (32 - HANDLE_GENERATION_SHIFT)) - 1);
        self.free.push(handle.slot() as u32);
        self.count -= 1;
        Some(connection)
    }

    /// All of them, with their handles.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &Connection<K>)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            slot.connection.as_ref().map(|connection| (Handle::new(index, slot.generation), connection))
        })
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection<K>> {
        self.slots.iter_mut().filter_map(|slot| slot.connection.as_mut())
    }

    /// Connections whose socket is open and connected.
    pub fn open_count(&self) -> usize {
        let is_open = |connection: &&Connection<K>| {
            connection.socket.is_some() && !connection.flags.has(Flags::CONNECTING)
        };
        self.slots.iter().filter_map(|slot| slot.connection.as_ref()).filter(is_open).count()
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    pub fn connection() -> Connection<OwnedFd> {
        Connection {
            socket: None,
            flags: Flags::default(),
            server: 0,
            reason: 0,
            queue: None,
            tls: None,
            owned_flushed: 0,
            read_hint: 0,
            chain_first: NO_RECORD,
            chain_last: NO_RECORD,
            write_high: 0,
            write_low: 0,
            idle_ticks: 0,
            active_at: 0,
            timer_at: 0,
            request: 0,
            peer: Peer::Unix,
        }
    }

    #[test]
    fn a_handle_does_not_reach_its_slots_next_connection() {
        let mut table = ConnectionTable::default();
        let first = table.insert(connection()).unwrap();
        assert!(table.get(first).is_some());
        assert!(table.remove(first).is_some());
        assert!(table.remove(first).is_none());
        let mut last = first;
        for _ in 0..4_095 {
            last = table.insert(connection()).unwrap();
            assert_eq!(last.slot(), first.slot());
            assert!(table.get(first).is_none());
            assert!(table.get_mut(first).is_none());
            table.remove(last);
        }
        assert_ne!(last, first);
        assert!(table.is_empty());
    }

    #[test]
    fn handles_survive_the_trip_through_a_record() {
        let handle = Handle::new(HANDLE_SLOT_MASK as usize, 0xfff);
        assert_eq!(Handle::from_word(handle.word()), handle);
        assert_eq!((handle.slot(), handle.generation()), (HANDLE_SLOT_MASK as usize, 0xfff));
    }

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Slot<OwnedFd>>() <= 120, "{} bytes", size_of::<Slot<OwnedFd>>());
    }
}
