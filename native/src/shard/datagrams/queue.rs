//! What one endpoint could not send yet. It knows nothing of sockets.

use crate::limits::DATAGRAM_OVERHEAD_BYTES;
use crate::net::datagrams::Outgoing;
use std::collections::{HashMap, VecDeque};
use std::mem;

/// Datagrams that wait one behind the other, destination in front of each.
pub(super) type Waiting = VecDeque<Box<[u8]>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    /// Room is each destination's own, so that those to one do not wait for those to another.
    by_destination: bool,
    /// By destination; or all of them under none. None of them is empty.
    waiting: HashMap<Box<[u8]>, Waiting>,
    bytes: usize,
}

impl Queue {
    pub(super) fn new(by_destination: bool) -> Self {
        Self { by_destination, waiting: HashMap::new(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What they count for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one to there must wait, too, as others do.
    pub(super) fn holds(&self, destination: &[u8]) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(self.key(destination))
    }

    /// False when it would count for more than `max_bytes`.
    pub(super) fn push(&mut self, outgoing: &Outgoing<'_>, max_bytes: usize) -> bool {
        let cost = cost_of(outgoing.destination.len() + outgoing.payload.len());
        if self.bytes + cost > max_bytes {
            return false;
        }
        self.bytes += cost;
        let bytes: Box<[u8]> = [outgoing.destination, outgoing.payload].concat().into();
        let key = self.key(outgoing.destination);
        match self.waiting.get_mut(key) {
            Some(waiting) => waiting.push_back(bytes),
            None => _ = self.waiting.insert(key.into(), VecDeque::from([bytes])),
        }
        true
    }

    /// Takes what waits, which counts until it is put back.
    pub(super) fn take(&mut self) -> HashMap<Box<[u8]>, Waiting> {
        mem::take(&mut self.waiting)
    }

    /// Puts back what is left of it; what is not counted for so many.
    pub(super) fn put_back(&mut self, waiting: HashMap<Box<[u8]>, Waiting>, freed_bytes: usize) {
        debug_assert!(self.waiting.is_empty(), "something was queued while what waits was taken out");
        self.waiting = waiting;
        self.bytes -= freed_bytes;
    }

    /// Empties it. How many there were.
    pub(super) fn clear(&mut self) -> usize {
        self.bytes = 0;
        mem::take(&mut self.waiting).values().map(Waiting::len).sum()
    }

    fn key<'a>(&self, destination: &'a [u8]) -> &'a [u8] {
        if self.by_destination { destination } else { &[] }
    }
}

/// What one counts for that has this length with its destination.
pub(super) fn cost_of(length: usize) -> usize {
    length + DATAGRAM_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(destination: &'static [u8]) -> Outgoing<'static> {
        Outgoing { destination, payload: b"four" }
    }

    #[test]
    fn a_destination_waits_for_itself_alone_where_each_has_its_own_room() {
        for by_destination in [true, false] {
            let mut queue = Queue::new(by_destination);
            assert!(!queue.holds(b"a") && queue.is_empty());
            assert!(queue.push(&to(b"a"), 1000));
            assert_eq!((queue.holds(b"a"), queue.holds(b"b")), (true, !by_destination));
        }
    }

    #[test]
    fn what_waits_counts_until_it_is_put_back_without_it_and_is_bounded() {
        let mut queue = Queue::new(true);
        let one = cost_of(5);
        assert!(queue.push(&to(b"a"), 2 * one) && queue.push(&to(b"b"), 2 * one));
        assert!(!queue.push(&to(b"c"), 2 * one) && !queue.holds(b"c"));
        let mut waiting = queue.take();
        assert_eq!(queue.bytes(), 2 * one);
        waiting.remove(&b"a"[..]);
        queue.put_back(waiting, one);
        assert_eq!((queue.bytes(), queue.clear(), queue.bytes()), (one, 1, 0));
    }
}
