//! The memory that native code shares with JavaScript: the two rings, the write slab and the read slabs.
//!
//! All of it belongs to JavaScript (ArrayBuffers that `bind` keeps referenced) and is touched only on the shard's own
//! thread, while JavaScript does not run.

use crate::abi;
use crate::limits::{
    BORROWED_READ_MAX_BYTES, CHUNK_SLABS, READ_HINT_MAX_BYTES, READ_MAX_BYTES, READ_MIN_BYTES,
};
use crate::shard::{Commands, Event, Sink};
use std::mem::MaybeUninit;

/// Number of read slabs: the borrowed one, then those for chunks.
pub const SLABS: usize = CHUNK_SLABS + 1;
const WORDS: usize = abi::RECORD_WORDS as usize;

/// A range of JavaScript's memory.
#[derive(Debug, Clone, Copy)]
pub struct Region<T> {
    base: *mut T,
    length: usize,
}

impl<T> Region<T> {
    /// # Safety
    /// `base` must be valid for reads and writes of `length` elements, on this thread, until the region is replaced
    /// or dropped, or its detachment is reported by [`Attached`].
    pub unsafe fn new(base: *mut T, length: usize) -> Self {
        Self { base, length }
    }

    /// Elements.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl<T: Copy> Region<T> {
    /// An element.
    pub fn read(&self, index: usize) -> T {
        assert!(index < self.length, "the region is shorter");
        // SAFETY: in bounds; the region is valid by `Region::new`.
        unsafe { *self.base.add(index) }
    }

    /// Sets an element.
    pub fn write(&self, index: usize, value: T) {
        assert!(index < self.length, "the region is shorter");
        // SAFETY: as in `read`.
        unsafe { *self.base.add(index) = value }
    }
}

impl Region<u8> {
    /// Copies bytes to a place.
    pub fn copy_from(&self, at: usize, bytes: &[u8]) {
        let end = at.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.length), "the region is shorter");
        // SAFETY: in bounds; the region is valid by `Region::new`, and it is JavaScript's memory, in which no slice of
        // ours lies.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
    }
}

/// Says whether a slab's memory is still there: JavaScript can detach it (`ArrayBuffer.prototype.transfer`).
pub trait Attached {
    /// Whether slab `index` may be touched.
    fn is_attached(&self, index: usize) -> bool;
}

#[derive(Debug)]
struct Slab {
    memory: Region<u8>,
    used: usize,
    retired: bool,
    /// Checked in this batch; JavaScript has not run since.
    checked: bool,
}

/// The shared memory of one shard.
#[derive(Debug)]
pub struct SharedMemory {
    control: Region<i32>,
    events: Region<i32>,
    commands: Region<i32>,
    write_slab: Region<u8>,
    slabs: [Slab; SLABS],
    /// Bytes that the last batch put into slabs of chunks.
    chunk_bytes: usize,
}

/// Where they are longer, some are asked for twice.
const CACHE_LINE_BYTES: usize = 64;

/// Fetches a cache line. Any address will do: one that is not mapped is not fetched. Nothing on other
/// processors.
#[inline]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction changes nothing but caches, and does not fault (AMD64 manual, "PREFETCHlevel").
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above (Arm ARM, "PRFM"). It reads no memory that Rust knows of.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

impl SharedMemory {
    /// Takes the regions; their sizes are those of `abi`.
    pub fn new(
        control: Region<i32>,
        events: Region<i32>,
        commands: Region<i32>,
        write_slab: Region<u8>,
        slabs: [Region<u8>; SLABS],
    ) -> Self {
        assert!(control.length >= abi::CONTROL_WORDS as usize, "control words are short");
        assert!(events.length >= abi::EVENT_RING_RECORDS as usize * WORDS, "the events ring is short");
        assert!(commands.length >= abi::COMMAND_RING_RECORDS as usize * WORDS, "the commands ring is short");
        let slab = |memory| Slab { memory, used: 0, retired: false, checked: false };
        Self { control, events, commands, write_slab, slabs: slabs.map(slab), chunk_bytes: 0 }
    }

    /// A control word.
    #[inline]
    pub fn control(&self, word: i32) -> i32 {
        debug_assert!((word as usize) < self.control.length, "no such control word");
        // SAFETY: in bounds (asserted in `new` for all words of `abi`); the region is valid by `Region::new`.
        unsafe { *self.control.base.add(word as usize) }
    }

    /// Kind and connection of the events of the last batch.
    pub fn events(&self) -> impl ExactSizeIterator<Item = (i32, i32)> {
        let records = self.control(abi::CONTROL_EVENTS) as usize / WORDS;
        (0..records.min(abi::EVENT_RING_RECORDS as usize)).map(|index| {
            // SAFETY: the region is valid by `Region::new`, and has room for so many records (asserted in `new`).
            unsafe { (*self.events.base.add(index * WORDS), *self.events.base.add(index * WORDS + 1)) }
        })
    }

    /// Sets a control word.
    #[inline]
    pub fn set_control(&self, word: i32, value: i32) {
        debug_assert!((word as usize) < self.control.length, "no such control word");
        // SAFETY: as in `control`.
        unsafe { *self.control.base.add(word as usize) = value }
    }

    /// Puts another slab in the place of a retired one.
    pub fn replace_slab(&mut self, index: usize, memory: Region<u8>) {
        self.slabs[index] = Slab { memory, used: 0, retired: false, checked: false };
        self.set_control(abi::CONTROL_RETIRED, self.control(abi::CONTROL_RETIRED) & !(1 << index));
    }

    /// Begins a batch: the borrowed slab starts over, for the last batch's commands are flushed.
    pub fn batch<'a>(&'a mut self, attached: &'a dyn Attached) -> Batch<'a> {
        for slab in &mut self.slabs {
            slab.checked = false;
        }
        self.slabs[0].used = 0;
        self.chunk_bytes = 0;
        let copy_chunks = self.control(abi::CONTROL_COPY_CHUNKS) != 0;
        Batch { memory: self, attached, records: 0, copy_chunks }
    }

    /// Fetches the memory of the next chunks into the cache, as much as the last batch had. V8 frees slabs 30 MiB at a time,
    /// so the memory of chunks is in no cache when its turn comes; what the kernel would wait for while it copies is fetched
    /// in the time until then. An echo of 32 KiB became 7 % faster; one of 100 KiB, which comes in pieces, hardly at all.
    pub fn prefetch_chunks(&self) {
        let Some(slab) = self.slabs[1..].iter().find(|slab| !slab.retired) else { return };
        let end = (slab.used + self.chunk_bytes).min(slab.memory.length);
        for at in (slab.used..end).step_by(CACHE_LINE_BYTES) {
            prefetch(slab.memory.base.wrapping_add(at));
        }
    }

    /// The commands that wait, and resets the ring: JavaScript writes the next from its start once native returns.
    pub fn commands<'a>(&'a self, attached: &dyn Attached) -> SlabCommands<'a> {
        let words =
            usize::try_from(self.control(abi::CONTROL_COMMANDS)).unwrap_or(0).min(self.commands.length);
        self.discard_commands();
        // SAFETY: `words` is within the region; JavaScript, its only other user, does not run while this borrow lives.
        let records = unsafe { std::slice::from_raw_parts(self.commands.base, words) };
        // SAFETY: as above; the write slab is not reachable by users, so it cannot be detached.
        let write_slab = unsafe { std::slice::from_raw_parts(self.write_slab.base, self.write_slab.length) };
        let mut slabs: [&[u8]; SLABS] = [&[]; SLABS];
        let mut checked = [false; SLABS];
        for record in records.chunks_exact(WORDS) {
            let index = (record[0] >> abi::SLAB_SHIFT) as usize;
            if record[0] & abi::KIND_MASK == abi::COMMAND_WRITE_SLAB && index < SLABS && !checked[index] {
                checked[index] = true;
                if attached.is_attached(index) {
                    let memory = self.slabs[index].memory;
                    // SAFETY: attached, so valid by `Region::new`, and JavaScript does not run meanwhile.
                    slabs[index] = unsafe { std::slice::from_raw_parts(memory.base, memory.length) };
                }
            }
        }
        SlabCommands { records, write_slab, slabs }
    }

    /// Empties the commands ring unread.
    pub fn discard_commands(&self) {
        self.set_control(abi::CONTROL_COMMANDS, 0);
        self.set_control(abi::CONTROL_WRITE_BYTES, 0);
    }

    /// Bytes of waiting write commands of one connection.
    pub fn waiting_bytes(&self, handle: i32) -> usize {
        self.waiting_bytes_of(handle, |op| op == abi::COMMAND_WRITE || op == abi::COMMAND_WRITE_SLAB)
    }

    /// Bytes of datagrams that wait in commands of one endpoint, addresses included.
    pub fn waiting_datagram_bytes(&self, endpoint: i32) -> usize {
        self.waiting_bytes_of(endpoint, |op| op == abi::COMMAND_DATAGRAM)
    }

    fn waiting_bytes_of(&self, handle: i32, is_write: impl Fn(i32) -> bool) -> usize {
        let words =
            usize::try_from(self.control(abi::CONTROL_COMMANDS)).unwrap_or(0).min(self.commands.length);
        // SAFETY: as in `commands`.
        let records = unsafe { std::slice::from_raw_parts(self.commands.base, words) };
        let of_handle = |r: &&[i32]| r[1] == handle && is_write(r[0] & abi::KIND_MASK);
        records.chunks_exact(WORDS).filter(of_handle).map(|r| r[3] as usize).sum()
    }
}

/// Commands in order, with the bytes that they refer to. Offsets and lengths come from our own JavaScript, and are
/// checked all the same: a defect there must not read beyond a slab.
#[derive(Debug)]
pub struct SlabCommands<'a> {
    records: &'a [i32],
    write_slab: &'a [u8],
    slabs: [&'a [u8]; SLABS],
}

impl Commands for SlabCommands<'_> {
    fn len(&self) -> usize {
        self.records.len() / WORDS
    }

    #[inline]
    fn record(&self, index: usize) -> [i32; 4] {
        let at = index * WORDS;
        [self.records[at], self.records[at + 1], self.records[at + 2], self.records[at + 3]]
    }

    #[inline]
    fn bytes(&self, index: usize) -> Option<&[u8]> {
        let [operation, _, offset, length] = self.record(index);
        let source = match operation & abi::KIND_MASK {
            abi::COMMAND_WRITE | abi::COMMAND_DATAGRAM => self.write_slab,
            _ => self.slabs.get((operation >> abi::SLAB_SHIFT) as usize)?,
        };
        source.get(offset as usize..offset as usize + length as usize)
    }
}

/// One batch of events while it is collected.
pub struct Batch<'a> {
    memory: &'a mut SharedMemory,
    attached: &'a dyn Attached,
    records: usize,
    copy_chunks: bool,
}

impl Batch<'_> {
    /// Hands the batch over: how many events, and whether slabs are to be replaced.
    pub fn finish(self) -> (usize, bool) {
        let words = self.records * WORDS;
        self.memory.set_control(abi::CONTROL_EVENTS, words as i32);
        self.memory.set_control(abi::CONTROL_CURSOR, 0);
        (self.records, self.memory.control(abi::CONTROL_RETIRED) != 0)
    }

    fn retire(&mut self, index: usize) {
        self.memory.slabs[index].retired = true;
        let retired = self.memory.control(abi::CONTROL_RETIRED) | 1 << index;
        self.memory.set_control(abi::CONTROL_RETIRED, retired);
    }

    /// Whether slab `index` can take `needed` bytes; a chunk slab that cannot is retired, as is a detached one.
    fn has_room(&mut self, index: usize, needed: usize) -> bool {
        let slab = &mut self.memory.slabs[index];
        if slab.retired {
            return false;
        }
        if !slab.checked {
            slab.checked = true;
            if !self.attached.is_attached(index) {
                self.retire(index);
                return false;
            }
        }
        // An empty slab is as good as any other, whatever was hoped for.
        let enough = slab.used == 0 || slab.memory.length - slab.used >= needed;
        if !enough && index != 0 {
            self.retire(index);
        }
        enough
    }
}

impl Sink for Batch<'_> {
    #[inline]
    fn room(&self) -> usize {
        abi::EVENT_RING_RECORDS as usize - self.records
    }

    #[inline]
    fn event(&mut self, event: Event) {
        assert!(self.room() > 0, "an event was delivered without asking for room");
        let words = [event.kind, event.handle, event.a, event.b];
        // SAFETY: there is room for the record (asserted), and the region is valid by `Region::new`.
        unsafe {
            self.memory.events.base.add(self.records * WORDS).cast::<[i32; 4]>().write_unaligned(words)
        };
        self.records += 1;
    }

    #[inline]
    fn read_buffer(&mut self, borrows: bool, hint: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        // One byte more than expected: a read that fills its buffer says nothing about what is left.
        let needed = (hint.min(READ_HINT_MAX_BYTES) + 1).max(READ_MIN_BYTES);
        let index = if borrows || self.copy_chunks {
            self.has_room(0, needed).then_some(0)?
        } else {
            (1..SLABS).find(|&index| self.has_room(index, needed))?
        };
        let slab = &self.memory.slabs[index];
        let most = if index == 0 { BORROWED_READ_MAX_BYTES } else { READ_MAX_BYTES };
        let room = (slab.memory.length - slab.used).min(most);
        // SAFETY: attached (checked in this batch, during which JavaScript does not run) and within the slab.
        let buffer = unsafe { std::slice::from_raw_parts_mut(slab.memory.base.add(slab.used).cast(), room) };
        Some((index, buffer))
    }

    #[inline]
    fn received(&mut self, handle: i32, slab: usize, length: usize) {
        let entry = &mut self.memory.slabs[slab];
        let offset = entry.used;
        if slab > 0 {
            self.memory.chunk_bytes += length;
        }
        entry.used = ((offset + length + 7) & !7).min(entry.memory.length);
        self.event(Event {
            kind: abi::EVENT_DATA | (slab as i32) << abi::SLAB_SHIFT,
            handle,
            a: offset as i32,
            b: length as i32,
        });
    }

    /// Both are copied: what a call receives has a slot for the longest datagram, and a slab is not to be full of holes.
    #[inline]
    fn datagram(&mut self, endpoint: i32, source: &[u8], payload: &[u8]) -> bool {
        let length = source.len() + payload.len();
        let index = if self.copy_chunks {
            self.has_room(0, length).then_some(0)
        } else {
            (1..SLABS).find(|&index| self.has_room(index, length))
        };
        let Some(index) = index else { return false };
        let slab = &mut self.memory.slabs[index];
        let offset = slab.used;
        assert!(offset + length <= slab.memory.length, "a slab has no room for a datagram");
        // SAFETY: attached (checked in this batch, during which JavaScript does not run) and within the slab (asserted); what
        // is copied is not JavaScript's memory.
        unsafe {
            let into = slab.memory.base.add(offset);
            std::ptr::copy_nonoverlapping(source.as_ptr(), into, source.len());
            std::ptr::copy_nonoverlapping(payload.as_ptr(), into.add(source.len()), payload.len());
        }
        slab.used = ((offset + length + 7) & !7).min(slab.memory.length);
        self.event(Event {
            kind: abi::EVENT_DATAGRAM | (index as i32) << abi::SLAB_SHIFT,
            handle: endpoint,
            a: offset as i32,
            b: payload.len() as i32,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Switch(Cell<bool>);
    impl Attached for Switch {
        fn is_attached(&self, _: usize) -> bool {
            self.0.get()
        }
    }

    struct Owned {
        control: Vec<i32>,
        events: Vec<i32>,
        commands: Vec<i32>,
        write_slab: Vec<u8>,
        slabs: Vec<Vec<u8>>,
    }

    impl Owned {
        fn new() -> Self {
            Self {
                control: vec![0; abi::CONTROL_WORDS as usize],
                events: vec![0; abi::EVENT_RING_RECORDS as usize * WORDS],
                commands: vec![0; abi::COMMAND_RING_RECORDS as usize * WORDS],
                write_slab: vec![0; 1024],
                slabs: vec![vec![0; 8192]; SLABS],
            }
        }

        fn share(&mut self) -> SharedMemory {
            fn region<T>(memory: &mut [T]) -> Region<T> {
                // SAFETY: the vectors outlive the shared memory in every test and are not touched meanwhile.
                unsafe { Region::new(memory.as_mut_ptr(), memory.len()) }
            }
            let mut slabs = self.slabs.iter_mut().map(|slab| region(slab));
            SharedMemory::new(
                region(&mut self.control),
                region(&mut self.events),
                region(&mut self.commands),
                region(&mut self.write_slab),
                std::array::from_fn(|_| slabs.next().unwrap()),
            )
        }
    }

    #[test]
    fn chunk_slabs_retire_when_full_and_come_back_replaced_while_the_borrowed_one_starts_over() {
        let mut owned = Owned::new();
        let mut spare = vec![0u8; 8192];
        let mut memory = owned.share();
        let attached = Switch(Cell::new(true));
        let mut batch = memory.batch(&attached);
        let mut reads = 0;
        while let Some((slab, buffer)) = batch.read_buffer(false, 4000) {
            assert!(buffer.len() > 4000);
            batch.received(1, slab, 4000);
            reads += 1;
        }
        assert_eq!(reads, 2 * CHUNK_SLABS);
        assert!(batch.read_buffer(true, 4000).is_some(), "borrowed reads do not depend on chunk slabs");
        batch.received(2, 0, 8192);
        assert!(batch.read_buffer(true, 0).is_none());
        assert_eq!(batch.finish(), (reads + 1, true));
        assert_eq!(memory.control(abi::CONTROL_RETIRED), (1 << SLABS) - 2);
        // SAFETY: as in `share`.
        memory.replace_slab(2, unsafe { Region::new(spare.as_mut_ptr(), spare.len()) });
        let mut batch = memory.batch(&attached);
        assert_eq!(batch.read_buffer(false, 0).unwrap().0, 2);
        assert!(batch.read_buffer(true, 4000).is_some());
    }

    #[test]
    fn a_detached_slab_is_never_touched() {
        let mut owned = Owned::new();
        let mut memory = owned.share();
        let attached = Switch(Cell::new(false));
        let mut batch = memory.batch(&attached);
        assert!(batch.read_buffer(true, 0).is_none());
        assert!(batch.read_buffer(false, 0).is_none());
        assert_eq!(batch.finish(), (0, true));
        memory.set_control(abi::CONTROL_COMMANDS, 4);
        let record = [abi::COMMAND_WRITE_SLAB | 1 << abi::SLAB_SHIFT, 9, 0, 8];
        owned.commands[..4].copy_from_slice(&record);
        assert_eq!(memory.waiting_bytes(9), 8);
        let commands = memory.commands(&attached);
        assert_eq!((commands.len(), commands.bytes(0)), (1, None));
    }

    #[test]
    fn a_range_beyond_its_slab_is_refused() {
        let mut owned = Owned::new();
        owned.commands[..4].copy_from_slice(&[abi::COMMAND_WRITE, 9, 1020, 8]);
        let memory = owned.share();
        memory.set_control(abi::CONTROL_COMMANDS, 4);
        assert_eq!(memory.commands(&Switch(Cell::new(true))).bytes(0), None);
    }
}
