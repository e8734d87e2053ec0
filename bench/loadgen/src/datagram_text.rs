//! The datagrams that are sent: each tells its number, and its bytes follow from that. Pure.

use crate::pattern::Pattern;

/// A datagram: its number on its socket, little endian, and bytes that follow from that.
#[derive(Clone, Debug)]
pub struct DatagramText {
    size: usize,
}

/// Bytes of a datagram's number.
pub const DATAGRAM_NUMBER_BYTES: usize = 8;

impl DatagramText {
    /// Datagrams of `size` bytes, at least [`DATAGRAM_NUMBER_BYTES`].
    pub fn new(size: usize) -> Self {
        Self { size }
    }

    /// Writes datagram `number` of a socket whose pattern starts at `origin`.
    pub fn write(&self, pattern: &Pattern, origin: u64, number: u64, into: &mut [u8]) {
        into[..DATAGRAM_NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
        into[DATAGRAM_NUMBER_BYTES..self.size]
            .copy_from_slice(pattern.slice(origin.wrapping_add(number), self.size - DATAGRAM_NUMBER_BYTES));
    }

    /// The number of a datagram that is as it was sent; none when a byte or the length is wrong.
    pub fn read(&self, pattern: &Pattern, origin: u64, found: &[u8]) -> Option<u64> {
        let (number, rest) = found.split_first_chunk::<DATAGRAM_NUMBER_BYTES>()?;
        let number = u64::from_le_bytes(*number);
        let place = origin.wrapping_add(number);
        (found.len() == self.size && pattern.mismatch(place, rest).is_none()).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        let (pattern, text) = (Pattern::new(), DatagramText::new(64));
        let mut bytes = [0; 64];
        text.write(&pattern, 17, 1 << 40, &mut bytes);
        assert_eq!(text.read(&pattern, 17, &bytes), Some(1 << 40));
        assert_eq!(text.read(&pattern, 17, &bytes[..63]), None);
        assert_eq!(text.read(&pattern, 18, &bytes), None);
        bytes[40] ^= 1;
        assert_eq!(text.read(&pattern, 17, &bytes), None);
        assert_eq!(text.read(&pattern, 17, &[]), None);
        assert_eq!(text.read(&pattern, 17, &[0xff; 64]), None);
    }
}
