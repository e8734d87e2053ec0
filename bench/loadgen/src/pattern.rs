//! The bytes that are sent: cheap to make, cheap to check, different by connection and by position.

use crate::limits::{READ_BUFFER_BYTES, WRITE_BYTES_MAX};

/// Length after which the pattern repeats. A prime, so that neither a lost nor a doubled message, read buffer or slab of
/// any usual size is a whole number of periods; small, so that it stays in the first-level cache with small messages.
const PERIOD_BYTES: usize = 8191;
/// Distance between the starting points of two neighbouring connections; with a prime period the first
/// [`PERIOD_BYTES`] connections all start at different points.
const STRIDE_BYTES: u64 = 3571;
/// Seed of the byte generator; fixed, so that a failure can be looked at again.
const SEED: u64 = 0x5eed_0f5a_4d10_0900;

/// One period of pseudo-random bytes, continued far enough that any stretch up to a read or write buffer is one slice.
pub struct Pattern {
    bytes: Box<[u8]>,
}

impl Pattern {
    /// Makes the pattern; the same on every run.
    pub fn new() -> Self {
        let mut state = SEED;
        let mut bytes: Vec<u8> = (0..PERIOD_BYTES)
            .map(|_| {
                // xorshift64*: good enough that no two stretches of some bytes are alike.
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
            })
            .collect();
        let stretch = READ_BUFFER_BYTES.max(WRITE_BYTES_MAX);
        for index in 0..stretch {
            bytes.push(bytes[index]);
        }
        Self { bytes: bytes.into_boxed_slice() }
    }

    /// Where a connection's stream starts within the pattern. Add the position in the stream to it.
    pub fn origin(connection: u64) -> u64 {
        connection.wrapping_mul(STRIDE_BYTES) % PERIOD_BYTES as u64
    }

    /// The bytes from `place` (origin + position) on; `length` is at most a read or write buffer.
    pub fn slice(&self, place: u64, length: usize) -> &[u8] {
        let start = (place % PERIOD_BYTES as u64) as usize;
        &self.bytes[start..start + length]
    }

    /// The first position in `found` that differs from what belongs at `place`.
    pub fn mismatch(&self, place: u64, found: &[u8]) -> Option<usize> {
        let expected = self.slice(place, found.len());
        if expected == found {
            return None;
        }
        expected.iter().zip(found).position(|(one, other)| one != other)
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_across_the_period_continues() {
        let pattern = Pattern::new();
        let whole = pattern.slice(PERIOD_BYTES as u64 - 10, 20).to_vec();
        assert_eq!(&whole[..10], pattern.slice(PERIOD_BYTES as u64 - 10, 10));
        assert_eq!(&whole[10..], pattern.slice(0, 10));
    }

    #[test]
    fn the_longest_read_is_one_slice_from_every_place() {
        let pattern = Pattern::new();
        assert_eq!(pattern.slice(PERIOD_BYTES as u64 - 1, READ_BUFFER_BYTES).len(), READ_BUFFER_BYTES);
    }

    #[test]
    fn lost_doubled_and_reordered_messages_are_seen() {
        let pattern = Pattern::new();
        for size in [1_usize, 7, 64, 1024, 4096, 16384] {
            for place in [0_u64, 1, 8000, 1 << 40] {
                let sent = pattern.slice(place, size * 3).to_vec();
                let lost = &sent[size..];
                let doubled = [&sent[..size], &sent[..size]].concat();
                let swapped = [&sent[size..2 * size], &sent[..size]].concat();
                // One byte has one chance in 256 to be alike; longer messages none.
                if size > 1 {
                    assert!(pattern.mismatch(place, lost).is_some(), "lost {size} at {place}");
                    assert!(pattern.mismatch(place, &doubled).is_some(), "doubled {size} at {place}");
                    assert!(pattern.mismatch(place, &swapped).is_some(), "swapped {size} at {place}");
                }
                assert_eq!(pattern.mismatch(place, &sent), None);
            }
        }
    }

    #[test]
    fn a_mismatch_is_named_by_its_position() {
        let pattern = Pattern::new();
        let mut bytes = pattern.slice(100, 1000).to_vec();
        bytes[617] ^= 1;
        assert_eq!(pattern.mismatch(100, &bytes), Some(617));
    }

    #[test]
    fn connections_start_at_different_places() {
        let mut origins: Vec<u64> = (0..PERIOD_BYTES as u64).map(Pattern::origin).collect();
        origins.sort_unstable();
        origins.dedup();
        assert_eq!(origins.len(), PERIOD_BYTES);
    }
}
