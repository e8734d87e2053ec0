//! New connections that the front has not handed on yet. Either side may have the last word on one: the front takes it, or
//! the back takes it back.

use crate::limits::OFFERS_MAX;
use crate::net::addresses::Peer;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU8, Ordering};

/// Nobody's: the back may use the place.
const FREE: u8 = 0;
const OFFERED: u8 = 1;
/// Taken back. The place is free once the front has come by it.
const WITHDRAWN: u8 = 2;

#[derive(Debug)]
struct Offer {
    state: AtomicU8,
    /// Written by the back while the place is free, read by the front while it is not.
    peer: UnsafeCell<Peer>,
}

// SAFETY: who may touch `peer` follows from `state`, which is set by release and read by acquire.
unsafe impl Sync for Offer {}

/// Places for offers, used one after the other.
#[derive(Debug)]
pub(super) struct Offers(Box<[Offer]>);

impl Default for Offers {
    fn default() -> Self {
        let free = || Offer { state: AtomicU8::new(FREE), peer: UnsafeCell::new(Peer::Unix) };
        Self((0..OFFERS_MAX).map(|_| free()).collect())
    }
}

impl Offers {
    fn place(&self, number: usize) -> &Offer {
        &self.0[number % OFFERS_MAX]
    }

    /// Whether an offer of this number may be made. Asked by the back, which counts its offers.
    pub(super) fn has_room(&self, number: usize) -> bool {
        self.place(number).state.load(Ordering::Acquire) == FREE
    }

    /// Offers a connection; there must be room. Called by the back.
    pub(super) fn offer(&self, number: usize, peer: Peer) {
        assert!(self.has_room(number), "a connection was offered without asking for room");
        let place = self.place(number);
        // SAFETY: the place is free, so the front does not touch it; what it did there happened before.
        unsafe { *place.peer.get() = peer };
        place.state.store(OFFERED, Ordering::Release);
    }

    /// Takes an offer; `None` when it was taken back. Called by the front, once for each.
    pub(super) fn take(&self, number: usize) -> Option<Peer> {
        let place = self.place(number);
        // SAFETY: it was offered, and the back writes it again only once it is free, which is below.
        let peer = unsafe { *place.peer.get() };
        // FREE in either case: taken by us, or ours to free.
        (place.state.swap(FREE, Ordering::AcqRel) == OFFERED).then_some(peer)
    }

    /// Takes an offer back; false when the front was quicker. Called by the back.
    pub(super) fn withdraw(&self, number: usize) -> bool {
        let state = &self.place(number).state;
        state.compare_exchange(OFFERED, WITHDRAWN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether an offer waits. Called by the back.
    pub(super) fn waits(&self, number: usize) -> bool {
        self.place(number).state.load(Ordering::Relaxed) == OFFERED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> Peer {
        Peer::Ip(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn one_side_has_the_last_word_and_a_place_is_used_again_only_after_the_front_came_by() {
        let offers = Offers::default();
        offers.offer(0, peer(1));
        offers.offer(1, peer(2));
        assert!(offers.withdraw(1) && !offers.withdraw(1));
        assert_eq!(offers.take(0), Some(peer(1)));
        assert!(!offers.withdraw(0));
        assert!(offers.has_room(OFFERS_MAX) && !offers.has_room(OFFERS_MAX + 1));
        assert_eq!(offers.take(1), None);
        assert!(offers.has_room(OFFERS_MAX + 1));
    }
}
