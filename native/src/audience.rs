//! Broadcasts on their way to the shards: each shard with subscribers has an *audience*, into which any thread puts what is
//! for all. The thread that does the shard's I/O takes it out and sends it; JavaScript of that shard is not called.
//!
//! Lock-free, as [`crate::mailbox`] is. The bytes are there once for all shards and connections.
#![forbid(unsafe_code)]

use crate::connection::Handle;
use crate::limits::{AUDIENCE_MAX_BYTES, BROADCAST_COST_BYTES};
use crate::stack::{Stack, Taken};
use papaya::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};

static AUDIENCES: LazyLock<HashMap<u32, Arc<Audience>>> = LazyLock::new(HashMap::new);
static LAST: AtomicU32 = AtomicU32::new(0);

/// Bytes for all subscribers of a topic.
#[derive(Debug)]
pub struct Broadcast {
    /// The topic.
    pub topic: Box<str>,
    /// What they get.
    pub bytes: Arc<[u8]>,
    /// Who does not, though it may have subscribed.
    pub except: Option<Except>,
}

/// A connection: the number of its shard's seat, and its handle there.
pub type Except = (u32, Handle);

impl Broadcast {
    fn cost(&self) -> usize {
        BROADCAST_COST_BYTES + self.bytes.len()
    }
}

type Wake = dyn Fn() + Send + Sync;

/// One shard's.
struct Audience {
    waiting: Stack<Arc<Broadcast>>,
    /// What waits, or is being sent.
    bytes: AtomicUsize,
    /// Wakes the thread that takes it out. Its seat holds it, and frees what it has with the seat: the map may keep an audience
    /// for a while that is taken out of it.
    wake: Weak<Wake>,
}

impl Audience {
    /// Whether there was room.
    fn put(&self, broadcast: Arc<Broadcast>) -> bool {
        let cost = broadcast.cost();
        let more = |bytes: usize| (bytes + cost <= AUDIENCE_MAX_BYTES).then_some(bytes + cost);
        if self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return false;
        }
        // One that has just closed hears nothing any more.
        if matches!(self.waiting.push(broadcast), Ok(true))
            && let Some(wake) = self.wake.upgrade()
        {
            wake();
        }
        true
    }
}

/// What came of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Shards that have subscribers of anything.
    pub shards: usize,
    /// Of them, those that had no room for it.
    pub refused: usize,
}

/// Gives bytes to every shard's subscribers of a topic. From any thread; those of one thread arrive in its order.
pub fn broadcast(topic: &str, bytes: &[u8], except: Option<Except>) -> Outcome {
    let mut outcome = Outcome { shards: 0, refused: 0 };
    let mut broadcast = None;
    for audience in AUDIENCES.pin().values() {
        let broadcast = broadcast
            .get_or_insert_with(|| Arc::new(Broadcast { topic: topic.into(), bytes: bytes.into(), except }))
            .clone();
        outcome.shards += 1;
        outcome.refused += usize::from(!audience.put(broadcast));
    }
    outcome
}

/// A shard's place in the audience, held by the thread that does its I/O. Closed by being dropped.
pub struct Seat {
    number: u32,
    audience: Arc<Audience>,
    /// See [`Audience::wake`].
    _wake: Arc<Wake>,
}

impl fmt::Debug for Seat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Seat").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Seat {
    /// A number for a seat, and for no other.
    pub fn number() -> u32 {
        LAST.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on broadcasts come here; `wake` is called, from any thread, when the first of several waits.
    pub fn take(number: u32, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let wake: Arc<Wake> = Arc::new(wake);
        let audience = Arc::new(Audience {
            waiting: Stack::default(),
            bytes: AtomicUsize::new(0),
            wake: Arc::downgrade(&wake),
        });
        AUDIENCES.pin().insert(number, audience.clone());
        Self { number, audience, _wake: wake }
    }

    /// Whether something waits.
    pub fn has_waiting(&self) -> bool {
        !self.audience.waiting.is_empty()
    }

    /// What waits.
    pub fn waiting(&self) -> Taken<Arc<Broadcast>> {
        self.audience.waiting.take()
    }

    /// Whether a connection here shall have it.
    #[inline]
    pub fn is_for(&self, broadcast: &Broadcast, handle: Handle) -> bool {
        broadcast.except != Some((self.number, handle))
    }

    /// One was sent to whom it is for.
    pub fn done(&self, broadcast: &Broadcast) {
        self.audience.bytes.fetch_sub(broadcast.cost(), Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        AUDIENCES.pin().remove(&self.number);
        drop(self.audience.waiting.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasts_come_in_order_wake_once_and_are_refused_past_the_bound() {
        let wakes = Arc::new(AtomicU32::new(0));
        let its = wakes.clone();
        let seat = Seat::take(Seat::number(), move || _ = its.fetch_add(1, Ordering::Relaxed));
        for byte in 0..3u8 {
            assert_eq!(broadcast("topic", &[byte], None).refused, 0);
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        let seen: Vec<Arc<Broadcast>> = seat.waiting().collect();
        assert_eq!(seen.iter().map(|broadcast| broadcast.bytes[0]).collect::<Vec<_>>(), [0, 1, 2]);

        let large = vec![0; AUDIENCE_MAX_BYTES - 4 * BROADCAST_COST_BYTES];
        assert_eq!(broadcast("topic", &large, None).refused, 1, "what is being sent counts");
        seen.iter().for_each(|broadcast| seat.done(broadcast));
        assert_eq!(broadcast("topic", &large, None).refused, 0);
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
        drop(seat);
        assert!(!AUDIENCES.pin().values().any(|audience| audience.bytes.load(Ordering::Relaxed) > 0));
    }
}
