//! Whether a shard that is kept busy by many peers, a few events at a time, rests for some microseconds between two batches, so that
//! the next is larger: what network adapters call interrupt moderation.
//!
//! A batch costs some 4 µs of processor time beyond its events: two polls, a turn of libuv's loop, a call into JavaScript. And
//! a peer that has answered and sleeps is woken by every small batch, which costs a shard that sends to it as much again. Where
//! the peers are slower than the shard, batches stay at two or three events however fast it becomes, with hardly any sleep
//! between them. (redis-benchmark with 50 connections, a processor for each: with rests a request took the shard 0.87 times the
//! processor time, there were 1.08 times as many in a second, and half of them had their answer as soon as before.)
//!
//! It has a price where peers send on a schedule of their own: their answers come that much later. Where they wait for them, a rest is
//! about a quarter of the time after which they come again: it is made only where that is [`MODERATION_CYCLE_US`] or more, in a
//! mean in which a peer that comes again soon weighs most. Nor is it made where events are so far apart that it would gain few,
//! where a shard has nothing to do for half of the time, or after a batch that is large as it is. After a rest that was in vain some
//! batches pass without one, more of them each time.
#![forbid(unsafe_code)]

use crate::back_off::BackOff;
use crate::limits::{
    BUSY_POLL_WAKE_US, MODERATION_CYCLE_US, MODERATION_EVENTS, MODERATION_GAIN, MODERATION_INTERVAL_US,
    MODERATION_PAUSE, MODERATION_REST_MAX_US, MODERATION_SIGNS, MODERATION_USUAL_US,
};
use std::mem;
use std::time::{Duration, Instant};

/// An event by which a peer shows that it is there: it has sent something, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    /// Whose.
    pub peer: i32,
    /// It is the last of that peer.
    pub last: bool,
}

/// How often a peer has to come again until its time is known. More than once: among many that come in no order one may come
/// again soon by chance.
const RETURNS: u32 = 4;
/// A longer time than this many cycles says no more than this one.
const CYCLES_MAX: u32 = 2;
/// As near as a peer can be said to be.
const NEARNESS_MAX: f32 = 4.0;
/// A longer time between two batches says no more than this one.
const PERIOD_MAX: Duration = Duration::from_millis(1);

/// See the module. Times are given by the caller, who has read the clock already.
#[derive(Debug, Clone, Copy)]
pub struct Moderation {
    /// When the last batch was done.
    done_at: Instant,
    /// Means of the last batches, in which each weighs a sixteenth: nanoseconds from the end of one to the end of the next,
    /// nanoseconds of work in it, and events.
    period: f32,
    work: f32,
    events: f32,
    /// The peer whose time is taken, since when, and how often it has come since.
    peer: Option<i32>,
    marked_at: Instant,
    returns: u32,
    /// A mean of MODERATION_CYCLE_US by the time after which peers came again, in which each weighs a quarter.
    nearness: f32,
    last_events: usize,
    /// A rest comes before the next batch.
    rested: bool,
    /// Batches that pass without a rest.
    back_off: BackOff,
}

impl Moderation {
    /// Peers are taken to be few until they are known to be many.
    pub fn new(now: Instant) -> Self {
        Self {
            done_at: now,
            period: PERIOD_MAX.as_nanos() as f32,
            work: 0.0,
            events: 0.0,
            peer: None,
            marked_at: now,
            returns: 0,
            nearness: NEARNESS_MAX,
            last_events: 0,
            rested: false,
            back_off: BackOff::new(MODERATION_PAUSE),
        }
    }

    /// A batch of so many events that was found at `found_at` is done at `now`. `signs` are those of its first events that are signs.
    pub fn done(
        &mut self,
        now: Instant,
        found_at: Instant,
        events: usize,
        signs: impl Iterator<Item = Sign>,
    ) {
        let period = now.saturating_duration_since(self.done_at).min(PERIOD_MAX);
        let work = now.saturating_duration_since(found_at).min(period);
        let apart = found_at.saturating_duration_since(self.done_at);
        self.done_at = now;
        self.last_events = events;
        let mean = |mean: &mut f32, value: f32| *mean += (value - *mean) / 16.0;
        mean(&mut self.period, period.as_nanos() as f32);
        mean(&mut self.work, work.as_nanos() as f32);
        mean(&mut self.events, events as f32);
        if mem::take(&mut self.rested) {
            let overslept = apart > Duration::from_micros(MODERATION_REST_MAX_US);
            if overslept || events < MODERATION_GAIN { self.missed() } else { self.back_off.succeeded() }
        }
        if events > MODERATION_SIGNS {
            self.peer = None; // it may be among those that are not looked at
        } else {
            self.note(found_at, signs);
        }
    }

    /// Whether to rest before the next batch, in a wake-up that began at `woken_at`: nothing is left of the last.
    pub fn rests(&mut self, now: Instant, woken_at: Instant) -> bool {
        let gains = self.last_events <= MODERATION_EVENTS
            && self.period <= self.events * (MODERATION_INTERVAL_US * 1000) as f32
            && self.work >= self.period / 2.0;
        // A rest of the usual length ends before libuv must have its turn.
        let latest = woken_at + Duration::from_micros(BUSY_POLL_WAKE_US - MODERATION_USUAL_US);
        gains && self.nearness <= 1.0 && now <= latest && !self.back_off.passes()
    }

    /// A rest is over, and something came meanwhile.
    pub fn rested(&mut self) {
        self.rested = true;
    }

    /// A rest was in vain.
    pub fn missed(&mut self) {
        self.back_off.failed();
    }

    /// Takes the time after which a peer comes again.
    fn note(&mut self, found_at: Instant, mut signs: impl Iterator<Item = Sign>) {
        let Some(peer) = self.peer else {
            self.peer = signs.find(|sign| !sign.last).map(|sign| sign.peer);
            (self.marked_at, self.returns) = (found_at, 0);
            // It may end in the same batch.
            self.peer = self.peer.filter(|&peer| !signs.any(|sign| sign.last && sign.peer == peer));
            return;
        };
        let passed = found_at.saturating_duration_since(self.marked_at);
        let cycle = Duration::from_micros(MODERATION_CYCLE_US);
        let (came, ended) = signs
            .filter(|sign| sign.peer == peer)
            .fold((false, false), |(_, ended), sign| (true, ended || sign.last));
        self.returns += u32::from(came);
        let nearness = if ended {
            NEARNESS_MAX // who ends may come again as another
        } else if came && self.returns == RETURNS {
            let cycles = passed.as_secs_f32() / cycle.as_secs_f32();
            (RETURNS as f32 / cycles).min(NEARNESS_MAX)
        } else if passed >= cycle * CYCLES_MAX * RETURNS {
            1.0 / CYCLES_MAX as f32
        } else {
            return;
        };
        self.nearness += (nearness - self.nearness) / 4.0;
        self.peer = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const US: Duration = Duration::from_micros(1);
    /// What a batch takes beyond its events, what a sleeping shard takes until it runs, and a rest with all that the kernel adds.
    const BATCH: Duration = Duration::from_micros(3);
    const WAKE: Duration = Duration::from_micros(20);
    const REST: Duration = Duration::from_micros(70);

    /// A shard, and peers that each have one request out, on one machine that makes them one by one as replies come.
    struct World {
        policy: Moderation,
        /// What an event takes the shard, and the machine.
        event: Duration,
        request: Duration,
        /// Who sends the next request, and when it arrives.
        requests: VecDeque<(Duration, i32)>,
        machine_free: Duration,
        began: Instant,
        now: Duration,
        events: u32,
        batches: u32,
        rests: u32,
    }

    impl World {
        fn new(peers: i32, event: Duration, request: Duration) -> Self {
            let began = Instant::now();
            let requests = (0..peers).map(|peer| (request * peer as u32, peer)).collect();
            let policy = Moderation::new(began);
            let machine_free = request * peers as u32;
            let (now, events, batches, rests) = (Duration::ZERO, 0, 0, 0);
            Self { policy, event, request, requests, machine_free, began, now, events, batches, rests }
        }

        /// The next batch.
        fn batch(&mut self, moderated: bool) {
            let first = self.requests.front().expect("a peer").0;
            if first > self.now {
                self.now = first + WAKE;
            }
            let woken_at = self.now;
            loop {
                let found_at = self.now;
                let batch: Vec<i32> = {
                    let ready = self.requests.iter().take_while(|(at, _)| *at <= found_at).count();
                    self.requests.drain(..ready).map(|(_, peer)| peer).collect()
                };
                self.batches += 1;
                self.events += batch.len() as u32;
                self.now += BATCH;
                for &peer in &batch {
                    self.now += self.event;
                    self.machine_free = self.machine_free.max(self.now) + self.request;
                    self.requests.push_back((self.machine_free, peer));
                }
                let at = |now| self.began + now;
                let signs = batch.iter().map(|&peer| Sign { peer, last: false });
                self.policy.done(at(self.now), at(found_at), batch.len(), signs);
                let rests = self.policy.rests(at(self.now), at(woken_at));
                if !rests || !moderated {
                    break;
                }
                self.rests += 1;
                self.now += REST;
                if self.requests[0].0 > self.now {
                    self.policy.missed();
                    break;
                }
                self.policy.rested();
            }
        }

        /// Events in a second.
        fn run(mut self, moderated: bool) -> (f64, Self) {
            while self.events < 20_000 {
                self.batch(moderated);
            }
            (f64::from(self.events) / self.now.as_secs_f64(), self)
        }
    }

    #[test]
    fn many_peers_slower_than_the_shard_have_larger_batches_and_wait_no_longer() {
        for peers in [64, 256, 1024] {
            let world = || World::new(peers, 5 * US, 7 * US);
            let ((without, small), (with, large)) = (world().run(false), world().run(true));
            assert!(large.batches < small.batches / 2, "{peers}: {} of {}", large.batches, small.batches);
            assert!(with > 0.99 * without, "{peers} peers: {with} events a second instead of {without}");
        }
    }

    #[test]
    fn no_peers_wait_noticeably_longer() {
        for peers in [1, 2, 4, 8, 16, 32, 64, 128, 512] {
            for event in [1, 2, 3, 5, 8, 12] {
                for request in [1, 2, 3, 5, 8, 12] {
                    let world = || World::new(peers, event * US, request * US);
                    let ((without, _), (with, world)) = (world().run(false), world().run(true));
                    assert!(
                        with > 0.97 * without,
                        "{peers} peers, {event} and {request} us: {with} a second instead of {without}, {} rests",
                        world.rests
                    );
                }
            }
        }
    }

    #[test]
    fn few_peers_have_no_rest() {
        for peers in [1, 2, 4, 8, 16, 32] {
            let (_, world) = World::new(peers, 5 * US, 7 * US).run(true);
            assert_eq!(world.rests, 0, "{peers} peers");
        }
    }

    #[test]
    fn events_that_are_far_apart_have_no_rest() {
        let (_, world) = World::new(1000, 5 * US, 20 * US).run(true);
        assert_eq!(world.rests, 0);
    }

    /// The next so many of peers that come in turn.
    fn of(count: usize, peers: i32, batch: i32) -> impl ExactSizeIterator<Item = Sign> {
        (0..count as i32).map(move |index| Sign { peer: (batch * count as i32 + index) % peers, last: false })
    }

    /// A batch that is found so long after the one before, with so much work; whether a rest follows.
    fn batch(
        policy: &mut Moderation,
        apart: Duration,
        work: Duration,
        signs: impl ExactSizeIterator<Item = Sign>,
    ) -> bool {
        let found_at = policy.done_at + apart;
        policy.done(found_at + work, found_at, signs.len(), signs);
        policy.rests(found_at + work, found_at)
    }

    /// As many such batches, of so many events and peers; how many rests there would have been.
    fn batches(policy: &mut Moderation, count: usize, peers: i32, apart: Duration, work: Duration) -> usize {
        (0..10_000).filter(|&number| batch(policy, apart, work, of(count, peers, number))).count()
    }

    #[test]
    fn a_shard_that_has_little_to_do_does_not_rest() {
        let mut policy = Moderation::new(Instant::now());
        assert_eq!(batches(&mut policy, 3, 1000, 20 * US, 15 * US), 0);
        assert!(batches(&mut policy, 3, 1000, 10 * US, 15 * US) > 5_000);
    }

    #[test]
    fn large_batches_have_no_rest() {
        let mut policy = Moderation::new(Instant::now());
        assert_eq!(batches(&mut policy, MODERATION_EVENTS + 1, 1000, 2 * US, 40 * US), 0);
        assert!(batches(&mut policy, MODERATION_EVENTS, 1000, 2 * US, 40 * US) > 5_000);
    }

    #[test]
    fn one_peer_that_comes_again_soon_is_not_kept_waiting_for_the_many_that_do_not() {
        let mut policy = Moderation::new(Instant::now());
        let rests = (0..10_000).filter(|number| {
            let peers = [0, 1 + number % 1000, 1 + (number + 500) % 1000];
            batch(&mut policy, 5 * US, 15 * US, peers.map(|peer| Sign { peer, last: false }).into_iter())
        });
        assert!(rests.count() < 100);
    }

    #[test]
    fn peers_that_end_may_come_again_as_others() {
        // In whatever order the end of one, and the next one, are told; one that ends at once.
        let orders = [[(0, false), (-1, true)], [(-1, true), (0, false)], [(0, false), (0, true)]];
        for order in orders {
            let mut policy = Moderation::new(Instant::now());
            for number in 0..10_000 {
                let signs = order.map(|(offset, last)| Sign { peer: number + offset, last });
                assert!(!batch(&mut policy, 5 * US, 15 * US, signs.into_iter()), "{order:?}");
            }
        }
    }

    #[test]
    fn batches_that_follow_at_once_neither_count_as_idle_nor_judge_a_rest() {
        let mut policy = Moderation::new(Instant::now());
        let mut rests = 0;
        for number in 0..10_000 {
            batch(&mut policy, 5 * US, 12 * US, of(3, 1000, number));
            // What comes of it: some end, or are told of room.
            if batch(&mut policy, Duration::ZERO, 3 * US, [Sign { peer: 5000, last: true }].into_iter()) {
                rests += 1;
                policy.rested();
            }
        }
        assert!(rests > 5_000, "{rests} rests");
    }

    #[test]
    fn a_peer_that_comes_again_soon_is_seen_in_larger_batches() {
        let mut policy = Moderation::new(Instant::now());
        batches(&mut policy, 3, 1000, 5 * US, 15 * US);
        assert!(policy.nearness < 1.0);
        // From now on all are of the same twenty, some of them in each batch.
        batches(&mut policy, 12, 20, 5 * US, 60 * US);
        assert!(policy.nearness > 1.0);
    }

    #[test]
    fn rests_in_vain_become_rare() {
        // Nothing came; hardly anything came; the thread did not get its processor back.
        for (count, rest, found) in
            [(3, 5 * US, false), (MODERATION_GAIN - 1, 5 * US, true), (3, 1000 * US, true)]
        {
            let mut policy = Moderation::new(Instant::now());
            let mut apart = 5 * US;
            let rests = (0..10_000).filter(|&number| {
                let rests = batch(&mut policy, apart, 15 * US, of(count, 1000, number));
                apart = if rests { rest } else { 5 * US };
                if rests {
                    if found { policy.rested() } else { policy.missed() }
                }
                rests
            });
            let rests = rests.count();
            assert!((1..10_000 / 100).contains(&rests), "{rests} rests");
        }
    }

    #[test]
    fn libuv_has_its_turn() {
        let mut policy = Moderation::new(Instant::now());
        batches(&mut policy, 3, 1000, 5 * US, 15 * US);
        let done_at = policy.done_at;
        let rests = |woken_before| policy.rests(done_at, done_at - Duration::from_micros(woken_before));
        let latest = BUSY_POLL_WAKE_US - MODERATION_USUAL_US;
        assert_eq!([0, latest, latest + 1].map(rests), [true, true, false]);
    }
}
