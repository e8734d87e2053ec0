//! Records on their way to the socket.
#![forbid(unsafe_code)]

/// Bytes to be sent, in memory that is used again and again.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    used: usize,
}

impl Outbox {
    /// What is in it.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// It is with the kernel, or kept elsewhere.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Puts bytes behind what is in it.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    /// So many bytes were written into its room.
    pub(super) fn wrote(&mut self, count: usize) {
        self.used += count;
    }

    /// At least so many bytes behind what is in it.
    pub(super) fn room(&mut self, least: usize) -> &mut [u8] {
        if self.bytes.len() < self.used + least {
            self.bytes.resize(self.used + least, 0);
        }
        &mut self.bytes[self.used..]
    }
}
