//! Memory that the connections of a shard share, one after the other.

use std::io;
use std::mem::MaybeUninit;

/// Bytes, all of them initialised.
#[derive(Debug)]
pub struct Scratch {
    bytes: Box<[u8]>,
}

impl Scratch {
    /// So many. The pages are the system's until they are written to.
    pub fn new(length: usize) -> Self {
        Self { bytes: vec![0; length].into_boxed_slice() }
    }

    /// All of them.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Has `receive` fill up to `most` bytes from `at` on: how many it did.
    pub fn receive(
        &mut self,
        at: usize,
        most: usize,
        receive: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let end = self.bytes.len().min(at + most);
        let space: *mut [u8] = &raw mut self.bytes[at..end];
        // SAFETY: the bytes are ours, borrowed for the length of the call. Seen as such that may be uninitialised they could be
        // made so, but `receive` is a system call (or stands for one), which writes bytes, on the thread that calls this.
        receive(unsafe { &mut *(space as *mut [MaybeUninit<u8>]) })
    }
}
