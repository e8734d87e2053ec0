//! What the kernel did not take yet of one connection's writes. Pure: bytes in, slices out.
#![forbid(unsafe_code)]

use crate::limits::WRITE_JOIN_BYTES;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Names memory of JavaScript's that is referred to until it is flushed (`writeOwned`).
pub type Pin = u32;

/// Where pinned memory is now.
pub trait PinnedMemory {
    /// The bytes of a pin; `None` when JavaScript detached or shrank them below `end`.
    fn bytes(&self, pin: Pin, start: usize, end: usize) -> Option<&[u8]>;
}

/// A range of a file, which the kernel reads as it sends it.
#[derive(Debug)]
pub struct FileRange {
    /// Ours.
    pub fd: OwnedFd,
    /// Where the rest begins.
    pub offset: u64,
    /// Where it ends at the latest; it ends with the file.
    pub end: u64,
    /// Bytes that are sent.
    pub sent: u64,
}

#[derive(Debug)]
enum Piece {
    Copied(Vec<u8>),
    Shared(Arc<[u8]>),
    Pinned { pin: Pin, end: usize },
    File(Box<FileRange>),
}

/// Pieces in order, the first of them possibly sent in part.
#[derive(Debug, Default)]
pub struct WriteQueue {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are sent; for a pinned one the offset where the rest begins.
    sent: usize,
    length: usize,
}

/// A pin's memory is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Detached;

impl WriteQueue {
    /// Bytes in memory that wait; those of files are not among them.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Copies bytes to the end.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.length += bytes.len();
        if let Some(Piece::Copied(last)) = self.pieces.back_mut()
            && last.len() + bytes.len() <= WRITE_JOIN_BYTES
        {
            last.extend_from_slice(bytes);
            return;
        }
        self.pieces.push_back(Piece::Copied(bytes.to_vec()));
    }

    /// Refers to bytes from `start` on that many connections are sent.
    pub fn push_shared(&mut self, bytes: Arc<[u8]>, start: usize) {
        debug_assert!(start < bytes.len(), "nothing is left of it");
        if self.pieces.is_empty() {
            self.sent = start;
        } else {
            debug_assert!(start == 0, "only a first piece may be sent in part");
        }
        self.length += bytes.len() - start;
        self.pieces.push_back(Piece::Shared(bytes));
    }

    /// Refers to `start..end` of pinned memory. An empty one is allowed: it completes in its turn.
    pub fn push_pinned(&mut self, pin: Pin, start: usize, end: usize) {
        debug_assert!(start <= end, "a pinned range ends before it starts");
        if self.pieces.is_empty() {
            self.sent = start;
        } else {
            debug_assert!(start == 0, "only a first piece may be sent in part");
        }
        self.length += end - start;
        self.pieces.push_back(Piece::Pinned { pin, end });
    }

    /// A range of a file goes behind what waits.
    pub fn push_file(&mut self, file: FileRange) {
        if self.pieces.is_empty() {
            self.sent = 0;
        }
        self.pieces.push_back(Piece::File(Box::new(file)));
    }

    /// The file that is next.
    pub fn first_file(&mut self) -> Option<&mut FileRange> {
        match self.pieces.front_mut() {
            Some(Piece::File(file)) => Some(file),
            _ => None,
        }
    }

    /// That file is done with: how many bytes of it were sent.
    pub fn end_file(&mut self) -> u64 {
        match self.pieces.pop_front() {
            Some(Piece::File(file)) => file.sent,
            _ => unreachable!("a file that was not next was ended"),
        }
    }

    /// Collects what to send next, in order and up to a file, into `slices`.
    pub fn slices<'a>(
        &'a self,
        memory: &'a dyn PinnedMemory,
        slices: &mut arrayvec::ArrayVec<IoSlice<'a>, { crate::limits::WRITEV_PIECES }>,
    ) -> Result<(), Detached> {
        let mut start = self.sent;
        for piece in &self.pieces {
            if slices.is_full() {
                break;
            }
            slices.push(IoSlice::new(match piece {
                Piece::Copied(bytes) => &bytes[start..],
                Piece::Shared(bytes) => &bytes[start..],
                Piece::Pinned { pin, end } => memory.bytes(*pin, start, *end).ok_or(Detached)?,
                Piece::File(_) => break,
            }));
            start = 0;
        }
        Ok(())
    }

    /// Notes that the kernel took `count` more bytes; pins whose end was reached go to `flushed`.
    pub fn advance(&mut self, mut count: usize, flushed: &mut Vec<Pin>) {
        debug_assert!(count <= self.length, "more was sent than queued");
        self.length -= count;
        while let Some(piece) = self.pieces.front() {
            let end = match piece {
                Piece::Copied(bytes) => bytes.len(),
                Piece::Shared(bytes) => bytes.len(),
                Piece::Pinned { end, .. } => *end,
                Piece::File(_) => return,
            };
            if count < end - self.sent {
                self.sent += count;
                return;
            }
            count -= end - self.sent;
            self.sent = 0;
            if let Some(Piece::Pinned { pin, .. }) = self.pieces.pop_front() {
                flushed.push(pin);
            }
        }
    }

    /// Drops everything; pins that were still referred to go to `released`.
    pub fn clear(&mut self, released: &mut Vec<Pin>) {
        for piece in self.pieces.drain(..) {
            if let Piece::Pinned { pin, .. } = piece {
                released.push(pin);
            }
        }
        self.sent = 0;
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<Option<Vec<u8>>>);
    impl PinnedMemory for Fixed {
        fn bytes(&self, pin: Pin, start: usize, end: usize) -> Option<&[u8]> {
            self.0[pin as usize].as_ref()?.get(start..end)
        }
    }

    fn pending(queue: &WriteQueue, memory: &Fixed) -> Result<Vec<u8>, Detached> {
        let mut slices = arrayvec::ArrayVec::new();
        queue.slices(memory, &mut slices)?;
        Ok(slices.iter().flat_map(|s| s.to_vec()).collect())
    }

    #[test]
    fn copied_and_pinned_pieces_leave_in_order_whatever_the_kernel_takes() {
        let memory = Fixed(vec![Some(b"XXpinned".to_vec()), Some(b"second".to_vec())]);
        for step in 1..20 {
            let mut queue = WriteQueue::default();
            let mut flushed = Vec::new();
            queue.push_pinned(0, 2, 8);
            queue.push(b"copied");
            queue.push(b"-joined");
            queue.push_pinned(1, 0, 6);
            let mut sent = Vec::new();
            while !queue.is_empty() {
                let bytes = pending(&queue, &memory).unwrap();
                assert_eq!(bytes.len(), queue.len());
                let count = step.min(bytes.len());
                sent.extend_from_slice(&bytes[..count]);
                queue.advance(count, &mut flushed);
            }
            assert_eq!(sent, b"pinnedcopied-joinedsecond");
            assert_eq!(flushed, [0, 1]);
        }
    }

    #[test]
    fn a_detached_pin_is_reported_and_a_cleared_queue_releases_its_pins() {
        let memory = Fixed(vec![None]);
        let mut queue = WriteQueue::default();
        queue.push(b"a");
        queue.push_pinned(0, 0, 3);
        assert_eq!(pending(&queue, &memory), Err(Detached));
        let mut released = Vec::new();
        queue.clear(&mut released);
        assert_eq!((released, queue.len(), queue.is_empty()), (vec![0], 0, true));
    }

    #[test]
    fn an_empty_pin_completes_in_its_turn() {
        let mut queue = WriteQueue::default();
        let mut flushed = Vec::new();
        queue.push(b"ab");
        queue.push_pinned(7, 0, 0);
        queue.advance(1, &mut flushed);
        assert!(flushed.is_empty());
        queue.advance(1, &mut flushed);
        assert_eq!(flushed, [7]);
        assert!(queue.is_empty());
    }
}
