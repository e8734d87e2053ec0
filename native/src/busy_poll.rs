//! Whether a thread that has handled a batch (a shard events of sockets, any thread messages of others) looks for the next one
//! for some microseconds, instead of going to sleep.
//!
//! To sleep and be woken costs two more system calls, a turn of libuv's loop and two switches of the thread: some 8 µs of
//! processor time, some 30 µs on a virtual machine, and more until it runs again on a processor that has gone idle. One who talks
//! to a peer nearby and waits for its answer has that answer sooner. So looking on costs no more than sleeping where events are
//! that close, and at most a few times as much where they are not much further apart; where they are (any network but the fastest),
//! it is not done. How far a peer seems includes what it takes to wake this thread, and the peer that sleeps meanwhile: two that
//! are 10 µs apart and both sleep seem to be 40 or 50 on such a machine. (One to four connections of the load generator had
//! 1.9 to 2.5 times as many answers in a second with a limit of 60 µs as with one of 30, and 1.3 to 1.4 times as many by
//! processor time.)
//!
//! Looking starts only if the last gaps between a batch and the next event were short, after small batches, and while the same few
//! peers come again: many connections keep a shard busy without it, and larger batches cost less each event. (50 connections
//! that come one by one, as redis-benchmark's do on a processor of its own: with looks a request took the shard 1.12 times the
//! processor time, and there were no more of them in a second.) A look in vain is not repeated before some
//! batches have passed, more of them each time: who only seems close (he runs on the same processor, or on this very
//! thread) costs next to nothing. libuv has its turn at least once in [`BUSY_POLL_WAKE_US`], and at once when it has
//! something to do itself.
#![forbid(unsafe_code)]

use crate::back_off::BackOff;
use crate::limits::{
    BUSY_POLL_EVENTS, BUSY_POLL_GAP_US, BUSY_POLL_PEERS, BUSY_POLL_REST, BUSY_POLL_THREADS_GAP_US,
    BUSY_POLL_TRIAL_US, BUSY_POLL_US, BUSY_POLL_WAKE_US,
};
use std::time::{Duration, Instant};

/// A longer gap says no more than this one, so that a pause of a second is forgotten as soon as one of a millisecond.
const GAP_MAX: Duration = Duration::from_micros(8 * BUSY_POLL_GAP_US);

/// See the module. Times are given by the caller, who has read the clock already.
#[derive(Debug, Clone, Copy)]
pub struct BusyPoll {
    /// When the last batch was done.
    done_at: Instant,
    /// A mean of the last gaps, in which each weighs a quarter.
    gap: Duration,
    /// Mean gap up to which a look is tried.
    tried_up_to: Duration,
    /// Batches that pass without a look.
    back_off: BackOff,
    /// Whose the last events were, and who makes room for the next stranger.
    peers: [i32; BUSY_POLL_PEERS],
    oldest: u8,
    /// A mean of how many batches are of strangers, in which each weighs an eighth: of 256.
    strangers: u16,
}

/// Nobody.
const NO_PEER: i32 = -1;
/// Mean of strangers above which there are many peers.
const MANY: u16 = 128;

impl BusyPoll {
    /// Events are taken to be far apart until they are known to be close.
    pub fn new(now: Instant) -> Self {
        let tried_up_to = Duration::from_micros(BUSY_POLL_GAP_US);
        let peers = [NO_PEER; BUSY_POLL_PEERS];
        let back_off = BackOff::new(BUSY_POLL_REST);
        Self { done_at: now, gap: GAP_MAX, tried_up_to, back_off, peers, oldest: 0, strangers: 0 }
    }

    /// The same for a thread that waits for another of this process. It may only seem far because both go to sleep and have to be
    /// woken: a short look is tried up to this mean gap.
    pub fn of_threads(now: Instant) -> Self {
        Self { tried_up_to: Duration::from_micros(BUSY_POLL_THREADS_GAP_US), ..Self::new(now) }
    }

    /// Events were found at `now`, by a look or because the kernel woke the thread.
    pub fn found(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.done_at).min(GAP_MAX);
        self.gap = (3 * self.gap + gap) / 4;
    }

    /// A batch is done at `now`, and the next follows at once.
    pub fn goes_on(&mut self, now: Instant) {
        self.done_at = now;
    }

    /// A batch of so many events, of which the first was that peer's, is done at `now`, in a wake-up that began at `woken_at`: until
    /// when to look for the next one, if at all.
    pub fn until(&mut self, now: Instant, woken_at: Instant, events: usize, peer: i32) -> Option<Instant> {
        self.done_at = now;
        self.met(peer);
        let many = events > BUSY_POLL_EVENTS || self.strangers > MANY;
        if many || self.gap > self.tried_up_to || self.back_off.passes() {
            return None;
        }
        let is_close = self.gap <= Duration::from_micros(BUSY_POLL_GAP_US);
        let until = now + Duration::from_micros(if is_close { BUSY_POLL_US } else { BUSY_POLL_TRIAL_US });
        (until <= woken_at + Duration::from_micros(BUSY_POLL_WAKE_US)).then_some(until)
    }

    fn met(&mut self, peer: i32) {
        let is_stranger = !self.peers.contains(&peer);
        if is_stranger {
            self.peers[usize::from(self.oldest)] = peer;
            self.oldest = (self.oldest + 1) % BUSY_POLL_PEERS as u8;
        }
        self.strangers = (7 * self.strangers + if is_stranger { 256 } else { 0 }) / 8;
    }

    /// A look has found something.
    pub fn hit(&mut self, now: Instant) {
        self.back_off.succeeded();
        self.found(now);
    }

    /// A look was in vain.
    pub fn missed(&mut self) {
        self.back_off.failed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// A shard that handles one event at a time, each in 10 µs, and what it does meanwhile.
    struct World {
        policy: BusyPoll,
        /// How many there are, who come in turn.
        peers: u32,
        batches: u32,
        now: Instant,
        looks: u32,
        looked: Duration,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            let policy = BusyPoll::new(now);
            Self { policy, peers: 1, batches: 0, now, looks: 0, looked: Duration::ZERO }
        }

        /// A batch, and then the next event after `gap`; `seen` says whether a look can find it.
        fn batch(&mut self, events: usize, gap: Duration, seen: bool) -> bool {
            let woken_at = self.now;
            self.now += 10 * US;
            let event_at = self.now + gap;
            let peer = self.batches % self.peers;
            self.batches += 1;
            let until = self.policy.until(self.now, woken_at, events, peer as i32);
            if let Some(until) = until {
                self.looks += 1;
                let end = if seen { until.min(event_at) } else { until };
                self.looked += end - self.now;
                if seen && event_at <= until {
                    self.policy.hit(event_at);
                } else {
                    self.policy.missed();
                    self.policy.found(event_at.max(until));
                }
            } else {
                self.policy.found(event_at);
            }
            self.now = event_at.max(self.now);
            until.is_some()
        }
    }

    #[test]
    fn a_peer_nearby_is_looked_for_after_some_batches() {
        let mut world = World::new();
        let sleeps = (0..100).filter(|_| !world.batch(1, 15 * US, true)).count();
        assert!((5..20).contains(&sleeps), "{sleeps} of the first hundred batches ended in sleep");
    }

    #[test]
    fn a_distant_peer_is_never_looked_for() {
        let mut world = World::new();
        assert!((0..1000).all(|_| !world.batch(1, 100 * US, true)));
    }

    #[test]
    fn a_thread_that_seems_far_is_looked_for_shortly_and_given_up_when_it_is() {
        let mut world = World::new();
        world.policy = BusyPoll::of_threads(world.now);
        // It is close, and is far only while this thread sleeps.
        let mut sleeps = 0;
        for _ in 0..100 {
            let looked = world.looked;
            let is_seen = world.batch(1, if sleeps > 10 { 5 * US } else { 70 * US }, sleeps > 10);
            sleeps += u32::from(!is_seen || world.looked - looked > 10 * US);
        }
        assert!((11..40).contains(&sleeps), "{sleeps} of the first hundred batches ended in sleep");
        world = World::new();
        world.policy = BusyPoll::of_threads(world.now);
        for _ in 0..10_000 {
            world.batch(1, 70 * US, true);
        }
        assert!((1..10_000 / 100).contains(&world.looks), "{} looks", world.looks);
        assert!(world.looked <= world.looks * Duration::from_micros(BUSY_POLL_GAP_US));
    }

    #[test]
    fn large_batches_are_not_followed_by_a_look() {
        let mut world = World::new();
        assert!((0..1000).all(|_| !world.batch(BUSY_POLL_EVENTS + 1, 5 * US, true)));
        assert!(world.batch(BUSY_POLL_EVENTS, 5 * US, true));
    }

    #[test]
    fn many_peers_that_come_one_by_one_are_not_looked_for_and_a_few_are() {
        let mut world = World::new();
        world.peers = BUSY_POLL_PEERS as u32 + 1;
        for _ in 0..100 {
            world.batch(1, 15 * US, true);
        }
        assert!((0..100).all(|_| !world.batch(1, 15 * US, true)));
        world.peers = BUSY_POLL_PEERS as u32;
        let sleeps = (0..100).filter(|_| !world.batch(1, 15 * US, true)).count();
        assert!(sleeps < 30, "{sleeps} of a hundred batches ended in sleep");
    }

    #[test]
    fn looks_in_vain_become_rare() {
        let mut world = World::new();
        // The events are close, but those that cause them get no processor while this thread looks.
        for _ in 0..10_000 {
            world.batch(1, 15 * US, false);
        }
        assert!(world.looks < 10_000 / 100, "{} looks", world.looks);
    }

    #[test]
    fn a_single_pause_does_not_end_it_and_a_long_one_costs_one_look() {
        let mut world = World::new();
        for _ in 0..100 {
            world.batch(1, 15 * US, true);
        }
        let before = world.looked;
        assert!(world.batch(1, Duration::from_secs(1), true));
        assert_eq!(world.looked - before, Duration::from_micros(BUSY_POLL_US));
        let sleeps = (0..100).filter(|_| !world.batch(1, 15 * US, true)).count();
        assert!(sleeps < 20, "{sleeps} batches ended in sleep after the pause");
    }

    #[test]
    fn mixed_gaps_cost_little() {
        let mut world = World::new();
        for round in 0..10_000 {
            let gap = if round % 8 == 0 { 200 * US } else { 15 * US };
            world.batch(1, gap, true);
        }
        // A miss takes the full time; there may be one in so many batches at most.
        assert!(world.looked < 10_000 * 15 * US, "{:?} looked", world.looked);
    }

    #[test]
    fn batches_that_follow_at_once_are_no_gap() {
        let now = Instant::now();
        let mut policy = BusyPoll::new(now);
        policy.gap = 10 * US;
        let done_at = now + 1000 * US;
        policy.goes_on(done_at);
        policy.found(done_at + 10 * US);
        assert_eq!(policy.gap, 10 * US);
    }

    #[test]
    fn libuv_has_its_turn() {
        let now = Instant::now();
        let mut policy = BusyPoll::new(now);
        policy.gap = 10 * US;
        let woken_at = now - Duration::from_micros(BUSY_POLL_WAKE_US);
        assert_eq!(policy.until(now, woken_at, 1, 0), None);
        assert!(policy.until(now, now, 1, 0).is_some());
    }
}
