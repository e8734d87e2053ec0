//! What the cross-thread rings are built of. The model checker of the tests (`tests/rings.rs`, `tests/mailboxes.rs`) puts its own versions in the
//! place of this module, which follow every access.

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};

use memmap2::{MmapMut, MmapRaw};
use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;

/// One value that two threads hand to and fro.
#[derive(Debug, Default)]
pub struct Cell<T>(UnsafeCell<T>);

// SAFETY: every access is `unsafe`, with the promise that it races with none.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T: Copy> Cell<T> {
    /// Reads it.
    ///
    /// # Safety
    /// Nobody writes it meanwhile, and whoever wrote it last happened before.
    #[inline]
    pub unsafe fn get(&self) -> T {
        // SAFETY: by the caller.
        unsafe { *self.0.get() }
    }

    /// Writes it.
    ///
    /// # Safety
    /// Nobody reads or writes it meanwhile, and whoever did last happened before.
    #[inline]
    pub unsafe fn set(&self, value: T) {
        // SAFETY: by the caller.
        unsafe { *self.0.get() = value }
    }
}

/// Bytes of which two threads have different ranges at any time. They lie in pages of their own, not in malloc's: a shard's
/// death gives them back to the system, and leaves no holes among what others allocate.
#[derive(Debug)]
pub struct Memory(MmapRaw);

impl Memory {
    /// So many bytes, untouched: the system gives pages to what is used.
    pub fn new(length: usize) -> io::Result<Self> {
        Ok(Self(MmapMut::map_anon(length)?.into()))
    }

    /// How many.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A range to read.
    ///
    /// # Safety
    /// It was written before, by one who happened before, and nobody writes it while the slice lives.
    #[inline]
    pub unsafe fn read(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.0.len(), "a range beyond the memory");
        // SAFETY: in bounds (asserted), initialised and not written (by the caller).
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(range.start), range.len()) }
    }

    /// A range to write.
    ///
    /// # Safety
    /// Nobody else reads or writes it while the slice lives, and whoever did last happened before.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "that it is the only one is the caller's promise")]
    pub unsafe fn write(&self, range: Range<usize>) -> &mut [MaybeUninit<u8>] {
        assert!(range.start <= range.end && range.end <= self.0.len(), "a range beyond the memory");
        // SAFETY: in bounds (asserted) and nobody else's (by the caller).
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().add(range.start).cast(), range.len()) }
    }
}
