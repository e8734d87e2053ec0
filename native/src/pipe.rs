//! A one-way street between two threads: entries of four words in order, each with bytes if it has any. Lock-free, one
//! writer and one reader; its memory is allocated once, and what does not fit waits at the writer's.
//!
//! The writer publishes entries with one store for as many as it likes, and the reader gives them back in the same way.
//! Bytes lie in a ring of their own, in the order of their entries; so the oldest entry that the reader still has says
//! which bytes are taken. Once the reader has none, the writer begins at the start again: little traffic stays in little
//! memory, which stays in the cache.

use super::sync::{Arc, AtomicBool, AtomicUsize, Cell, Memory, Ordering, fence};
use std::cell;
use std::io;
use std::mem::MaybeUninit;

/// Bytes of an entry begin on a cache line.
const ALIGNMENT: usize = 64;
/// The writer asks the reader how far it is when it knows of no more room than this.
const ROOM_KNOWN: usize = 64;

/// Four words.
pub type Words = [i32; 4];

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    words: Words,
    /// Where its bytes begin, or would.
    at: u32,
    length: u32,
}

/// Apart from what the other side writes: a cache line that both write would travel with each entry.
#[derive(Debug)]
#[repr(align(128))]
struct Position(AtomicUsize);

#[derive(Debug)]
struct Shared {
    entries: Box<[Cell<Entry>]>,
    bytes: Memory,
    /// Entries published.
    tail: Position,
    /// Entries given back.
    head: Position,
}

impl Shared {
    #[inline]
    fn entry(&self, index: usize) -> &Cell<Entry> {
        &self.entries[index & (self.entries.len() - 1)]
    }
}

/// A pipe for this many entries (a power of two), and bytes.
pub fn pipe(entries: usize, bytes: usize) -> io::Result<(Writer, Reader)> {
    assert!(entries.is_power_of_two(), "the number of entries is no power of two");
    assert!(bytes.is_multiple_of(ALIGNMENT) && bytes <= u32::MAX as usize, "an odd number of bytes");
    let shared = Arc::new(Shared {
        entries: (0..entries).map(|_| Cell::default()).collect(),
        bytes: Memory::new(bytes)?,
        tail: Position(AtomicUsize::new(0)),
        head: Position(AtomicUsize::new(0)),
    });
    let writer =
        Writer { shared: shared.clone(), tail: 0, published: 0, head: cell::Cell::new(0), position: 0 };
    Ok((writer, Reader { shared, head: 0, released: 0, tail: cell::Cell::new(0) }))
}

/// The end that entries go in by.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    /// Entries written...
    tail: usize,
    /// ... and of them, published.
    published: usize,
    /// Entries given back, as far as we know.
    head: cell::Cell<usize>,
    /// Where the next bytes go.
    position: usize,
}

impl Writer {
    /// How many entries it surely takes.
    #[inline]
    pub fn room(&self) -> usize {
        let capacity = self.shared.entries.len();
        let known = capacity - (self.tail - self.head.get());
        if known > ROOM_KNOWN {
            return known;
        }
        capacity - (self.tail - self.released())
    }

    /// Whether the reader has given everything back.
    pub fn is_drained(&self) -> bool {
        self.released() == self.tail
    }

    /// Entries that the reader has given back, ever.
    pub fn released(&self) -> usize {
        // What the reader did with the entries (and bytes) that it gives back happened before.
        let head = self.shared.head.0.load(Ordering::Acquire);
        self.head.set(head);
        head
    }

    /// Memory for the bytes of the next entry: as much as there is in one piece, up to `most`; `None` when that is less
    /// than `least`.
    pub fn space(&mut self, least: usize, most: usize) -> Option<&mut [MaybeUninit<u8>]> {
        if !self.has_space(least) {
            self.released();
            if !self.has_space(least) {
                return None;
            }
        }
        let (start, end) = self.free();
        self.position = start;
        let end = end.min(start + most);
        // SAFETY: `free` says that no entry which the reader has, or was not given yet, has bytes there; the reader's last
        // use of them happened before it gave them back. The borrow of `self` keeps others off.
        Some(unsafe { self.shared.bytes.write(start..end) })
    }

    fn has_space(&mut self, least: usize) -> bool {
        let (start, end) = self.free();
        if end - start >= least {
            return true;
        }
        // Over the end of the ring, if there is more at its start.
        match self.oldest() {
            Some(oldest) if oldest <= self.position && oldest >= least + ALIGNMENT => {
                self.position = 0;
                true
            }
            _ => false,
        }
    }

    /// The free piece that the next bytes may go into.
    fn free(&self) -> (usize, usize) {
        match self.oldest() {
            None => (0, self.shared.bytes.len()),
            Some(oldest) if oldest <= self.position => (self.position, self.shared.bytes.len()),
            // The oldest byte is never reached: a full ring must not look like an empty one.
            Some(oldest) => (self.position, oldest - ALIGNMENT),
        }
    }

    /// Where the bytes begin that are taken; `None` when none is.
    fn oldest(&self) -> Option<usize> {
        let head = self.head.get();
        if head == self.tail {
            return None;
        }
        // SAFETY: we wrote it, and write it again only once it is given back; the reader only reads it.
        Some(unsafe { self.shared.entry(head).get() }.at as usize)
    }

    /// Writes an entry, with the first `length` bytes of the space that was asked for last. There must be room.
    #[inline]
    pub fn push(&mut self, words: Words, length: usize) {
        assert!(self.room() > 0, "an entry was written without asking for room");
        let entry = Entry { words, at: self.position as u32, length: length as u32 };
        // SAFETY: there is room: the reader has given this place back, and its last use of it happened before.
        unsafe { self.shared.entry(self.tail).set(entry) };
        self.tail += 1;
        let end = (self.position + length).next_multiple_of(ALIGNMENT);
        debug_assert!(end <= self.shared.bytes.len(), "an entry has more bytes than there was space");
        self.position = end;
    }

    /// Writes an entry with a copy of these bytes; false when there is no room for it now.
    #[inline]
    pub fn write(&mut self, words: Words, bytes: &[u8]) -> bool {
        if self.room() == 0 {
            return false;
        }
        if !bytes.is_empty() {
            let Some(space) = self.space(bytes.len(), bytes.len()) else { return false };
            write_copy(space, bytes);
        }
        self.push(words, bytes.len());
        true
    }

    /// Shows the reader what was written. False when that is nothing new.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.published = self.tail;
        self.shared.tail.0.store(self.tail, Ordering::Release);
        true
    }
}

/// The end that they come out of.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// Entries read...
    head: usize,
    /// ... and of them, given back.
    released: usize,
    /// Entries published, as far as we know.
    tail: cell::Cell<usize>,
}

impl Reader {
    /// How many entries wait.
    #[inline]
    pub fn len(&self) -> usize {
        // What the writer did with these entries and their bytes happened before.
        self.tail.set(self.shared.tail.0.load(Ordering::Acquire));
        self.tail.get() - self.head
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of those that waited when `len` was asked last, and its bytes.
    #[inline]
    pub fn get(&self, index: usize) -> (Words, &[u8]) {
        let at = self.head + index;
        assert!(at < self.tail.get(), "an entry was read that was not published");
        // SAFETY: it is published, which happened before; neither it nor its bytes are written until they are given
        // back, for which this borrow must have ended.
        unsafe {
            let Entry { words, at, length } = self.shared.entry(at).get();
            (words, self.shared.bytes.read(at as usize..(at + length) as usize))
        }
    }

    /// The first entries are read.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        debug_assert!(self.head + count <= self.tail.get(), "more was read than waited");
        self.head += count;
    }

    /// Gives what was read back to the writer. False when that is nothing new.
    #[inline]
    pub fn release(&mut self) -> bool {
        if self.released == self.head {
            return false;
        }
        self.released = self.head;
        self.shared.head.0.store(self.head, Ordering::Release);
        true
    }
}

/// Copies bytes into memory that may hold none yet, of the same length.
#[inline]
pub fn write_copy(into: &mut [MaybeUninit<u8>], bytes: &[u8]) {
    assert_eq!(into.len(), bytes.len(), "a copy of another length than its place");
    // SAFETY: both are valid for this length, and a mutable borrow overlaps with no other.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), into.as_mut_ptr().cast(), bytes.len()) };
}

/// Whether one side sleeps until the other wakes it. Whoever makes work and then finds the sleeper awake may be sure that
/// it will look once more before it sleeps.
#[derive(Debug)]
pub struct Sleep(AtomicBool);

impl Default for Sleep {
    fn default() -> Self {
        Self(AtomicBool::new(false)) // the model checker's has no default
    }
}

impl Sleep {
    /// The sleeper has nothing to do. False when `has_work` finds that it has; else it is to be woken.
    #[inline]
    pub fn fall_asleep(&self, has_work: impl FnOnce() -> bool) -> bool {
        self.0.store(true, Ordering::Relaxed);
        // The store comes before the look, as the waker's work comes before its look: one of the two sees the other's.
        fence(Ordering::SeqCst);
        let sleeps = !has_work();
        if !sleeps {
            self.0.store(false, Ordering::Relaxed);
        }
        sleeps
    }

    /// The sleeper is up, for whatever reason.
    #[inline]
    pub fn wake_up(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// There is work. Whether the sleeper has to be woken, which is the caller's to do; said to one of many only.
    #[inline]
    pub fn needs_waking(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// That a writer which may sleep wants room. It stays said until the writer unsays it: a reader that unsaid it would do so to
/// a wish that is made just then.
#[derive(Debug)]
pub struct Wish(AtomicBool);

impl Default for Wish {
    fn default() -> Self {
        Self(AtomicBool::new(false)) // as above
    }
}

impl Wish {
    /// The writer says so, or that it wants none, before it falls asleep by [`Sleep::fall_asleep`] with a look whether
    /// something was given back.
    #[inline]
    pub fn say(&self, wishes: bool) {
        self.0.store(wishes, Ordering::Relaxed);
    }

    /// The reader has given something back. Whether the writer wants to know; then the reader asks its [`Sleep`].
    #[inline]
    pub fn is_said(&self) -> bool {
        // What was given back comes before the look, as the wish comes before the writer's: one sees the other's.
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}
