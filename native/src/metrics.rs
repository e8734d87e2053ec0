//! Counters of one shard in memory that every thread may read: the supervisor's snapshot asks no shard.
#![forbid(unsafe_code)]

use crate::abi;
use crate::limits::{LOOP_LAG_BUCKETS, LOOP_LAG_FIRST_NS};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// One shard's counters. Written by the shard's I/O thread alone (so a plain load and store suffice, no locked
/// read-modify-write on the hot path), read by any thread; each is exact, together they are not one instant.
#[derive(Debug)]
#[repr(align(128))] // not on a cache line with another shard's
pub struct Metrics {
    words: [AtomicU64; abi::METRIC_COUNT as usize],
}

impl Default for Metrics {
    fn default() -> Self {
        Self { words: [const { AtomicU64::new(0) }; abi::METRIC_COUNT as usize] }
    }
}

impl Metrics {
    /// Adds to a counter. Only the thread that owns the shard may call it.
    #[inline]
    pub fn add(&self, metric: i32, amount: u64) {
        let word = &self.words[metric as usize];
        word.store(word.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
    }

    /// Sets a gauge.
    #[inline]
    pub fn set(&self, metric: i32, value: u64) {
        self.words[metric as usize].store(value, Ordering::Relaxed);
    }

    /// Counts a turn of the loop that took this long.
    #[inline]
    pub fn add_loop_lag(&self, busy_ns: u64) {
        self.add(abi::METRIC_LOOP_LAG_FIRST_BUCKET + loop_lag_bucket(busy_ns) as i32, 1);
    }

    /// Reads one.
    #[inline]
    pub fn read(&self, metric: i32) -> u64 {
        self.words[metric as usize].load(Ordering::Relaxed)
    }

    /// Copies all of them; `out` may be shorter.
    pub fn snapshot(&self, out: &mut [u64]) {
        for (out, word) in out.iter_mut().zip(&self.words) {
            *out = word.load(Ordering::Relaxed);
        }
    }
}

/// The bucket of a time: the first whose end is not before it.
#[inline]
fn loop_lag_bucket(busy_ns: u64) -> usize {
    let doublings = u64::BITS - (busy_ns.saturating_sub(1) / LOOP_LAG_FIRST_NS).leading_zeros();
    (doublings as usize).min(LOOP_LAG_BUCKETS - 1)
}

#[derive(Default)]
struct Registry {
    next: u32,
    entries: HashMap<u32, Arc<Metrics>>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// Makes the counters of a new shard; the token names them in every thread until [`free`].
pub fn allocate() -> u32 {
    let mut registry = REGISTRY.lock();
    registry.next += 1;
    let token = registry.next;
    registry.entries.insert(token, Arc::default());
    token
}

/// The counters of a token.
pub fn find(token: u32) -> Option<Arc<Metrics>> {
    REGISTRY.lock().entries.get(&token).cloned()
}

/// Forgets a token; a shard that still runs keeps its counters.
pub fn free(token: u32) {
    REGISTRY.lock().entries.remove(&token);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_token_from_another_thread() {
        let token = allocate();
        find(token).unwrap().add(abi::METRIC_BYTES_READ, u64::from(u32::MAX) + 1);
        let seen =
            std::thread::spawn(move || find(token).unwrap().read(abi::METRIC_BYTES_READ)).join().unwrap();
        assert_eq!(seen, 1 << 32);
        free(token);
        assert!(find(token).is_none());
    }

    #[test]
    fn a_loop_lag_is_in_the_first_bucket_that_does_not_end_before_it() {
        assert_eq!(loop_lag_bucket(0), 0);
        let mut end_ns = LOOP_LAG_FIRST_NS;
        for bucket in 0..LOOP_LAG_BUCKETS - 1 {
            assert_eq!(loop_lag_bucket(end_ns), bucket);
            assert_eq!(loop_lag_bucket(end_ns + 1), bucket + 1);
            end_ns *= 2;
        }
        assert_eq!(loop_lag_bucket(u64::MAX), LOOP_LAG_BUCKETS - 1);
    }
}
