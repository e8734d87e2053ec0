//! loom's versions of what the library's cross-thread parts are built of (`src/sync.rs`), for the models beside this.

#![allow(dead_code, unused_imports, reason = "each model uses parts of it")]

pub use loom::sync::Arc;
pub use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};

use loom::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ops::Range;

#[derive(Debug, Default)]
pub struct Cell<T>(UnsafeCell<T>);

// SAFETY: loom checks every access.
unsafe impl<T: Send> Sync for Cell<T> {}

impl<T: Copy> Cell<T> {
    /// # Safety
    /// As in the library; loom fails the test when it is not so.
    pub unsafe fn get(&self) -> T {
        // SAFETY: loom fails the test when this access races with another.
        self.0.with(|value| unsafe { *value })
    }

    /// # Safety
    /// As `get`.
    pub unsafe fn set(&self, new: T) {
        // SAFETY: as above.
        self.0.with_mut(|value| unsafe { *value = new });
    }
}

/// Bytes, and a cell of loom's for each block of them, which stands for it: slices cannot be followed.
#[derive(Debug)]
pub struct Memory {
    bytes: std::cell::UnsafeCell<Box<[MaybeUninit<u8>]>>,
    blocks: Vec<UnsafeCell<()>>,
}

const BLOCK: usize = 64;

// SAFETY: loom checks every access.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(length: usize) -> std::io::Result<Self> {
        let blocks = (0..length.div_ceil(BLOCK)).map(|_| UnsafeCell::new(())).collect();
        Ok(Self { bytes: std::cell::UnsafeCell::new(Box::new_uninit_slice(length)), blocks })
    }

    pub fn len(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    fn of(&self, range: &Range<usize>) -> &[UnsafeCell<()>] {
        &self.blocks[range.start / BLOCK..range.end.div_ceil(BLOCK).max(range.start / BLOCK)]
    }

    /// # Safety
    /// As `Cell::get`.
    pub unsafe fn read(&self, range: Range<usize>) -> &[u8] {
        self.of(&range).iter().for_each(|block| block.with(|_| ()));
        // SAFETY: as in `Cell::get`.
        unsafe {
            let start = (*self.bytes.get()).as_ptr().add(range.start);
            std::slice::from_raw_parts(start.cast(), range.len())
        }
    }

    /// # Safety
    /// As `Cell::get`.
    #[allow(clippy::mut_from_ref, reason = "as in the library")]
    pub unsafe fn write(&self, range: Range<usize>) -> &mut [MaybeUninit<u8>] {
        self.of(&range).iter().for_each(|block| block.with_mut(|_| ()));
        // SAFETY: as in `Cell::get`.
        unsafe {
            let start = (*self.bytes.get()).as_mut_ptr().add(range.start);
            std::slice::from_raw_parts_mut(start, range.len())
        }
    }
}
