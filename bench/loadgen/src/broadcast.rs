//! What a server that broadcasts sends to every listener, and what it is asked by. Pure.

/// Bytes of a message's number, little endian, with which it begins.
pub const NUMBER_BYTES: usize = 4;

/// Asks how many listeners the server has accepted; the answer is that number and a newline.
pub const COUNT_REQUEST: &str = "count\n";

/// Asks for `messages` broadcasts of `size` bytes, the first of which has the number `first`. There is no answer but those.
pub fn broadcast_request(messages: u32, size: usize, first: u32) -> String {
    format!("broadcast {messages} {size} {first}\n")
}

/// A listener's stream, byte by byte: messages of one size with numbers that follow each other. Behind the number each byte
/// of a message is its place, modulo 251: neither a lost nor a doubled piece goes unseen.
#[derive(Clone, Debug)]
pub struct Script {
    size: usize,
    message: Vec<u8>,
}

/// A prime near the number of values that a byte has.
const PLACES: usize = 251;

impl Script {
    /// Messages of `size` bytes, at least [`NUMBER_BYTES`].
    pub fn new(size: usize) -> Self {
        Self { size, message: (0..size).map(|place| (place % PLACES) as u8).collect() }
    }

    /// Message `number`.
    pub fn message(&mut self, number: u32) -> &[u8] {
        self.message[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
        &self.message
    }

    /// The first place in `found` that differs from what belongs at `position` of the stream, and what belongs there.
    pub fn mismatch(&mut self, position: u64, found: &[u8]) -> Option<(usize, u8)> {
        let size = self.size as u64;
        let mut checked = 0;
        while checked < found.len() {
            let at = position + checked as u64;
            let start = (at % size) as usize;
            let length = (self.size - start).min(found.len() - checked);
            let message = self.message((at / size) as u32);
            let (expected, piece) = (&message[start..start + length], &found[checked..checked + length]);
            if expected != piece {
                let place = expected.iter().zip(piece).position(|(one, other)| one != other)?;
                return Some((checked + place, expected[place]));
            }
            checked += length;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_in_any_pieces_is_right() {
        let mut script = Script::new(10);
        let stream: Vec<u8> = (0..50).flat_map(|number| script.message(number).to_vec()).collect();
        for step in [1, 3, 10, 37, 500] {
            for (index, piece) in stream.chunks(step).enumerate() {
                assert_eq!(script.mismatch((index * step) as u64, piece), None);
            }
        }
    }

    #[test]
    fn lost_doubled_and_changed_bytes_are_seen_where_they_are() {
        let mut script = Script::new(10);
        let stream: Vec<u8> = (0..9).flat_map(|number| script.message(number).to_vec()).collect();
        assert_eq!(script.mismatch(0, &stream[10..]), Some((0, 0)));
        assert_eq!(script.mismatch(20, &[&stream[20..30], &stream[20..30]].concat()), Some((10, 3)));
        let mut changed = stream.clone();
        changed[57] ^= 1;
        assert_eq!(script.mismatch(3, &changed[3..]), Some((54, 7)));
    }
}
