//! The memory that JavaScript shares with an engine: rings, slabs and pinned buffers, which it may detach.

use crate::draw::Draw;
use crate::planted::Planted;
use crate::violation::ensure;
use shardloop_native::abi;
use shardloop_native::limits;
use shardloop_native::ring::{Attached, Batch, Region, SLABS, SharedMemory};
use shardloop_native::shard::{Event, Sink};
use shardloop_native::write_queue::{Pin, PinnedMemory};
use std::cell::Cell;
use std::mem::MaybeUninit;

const WORDS: usize = abi::RECORD_WORDS as usize;

/// Which slabs are still there.
#[derive(Debug)]
pub struct Attachments(pub [Cell<bool>; SLABS]);

impl Attached for Attachments {
    fn is_attached(&self, index: usize) -> bool {
        self.0[index].get()
    }
}

/// The rings and slabs.
pub struct Memory {
    pub shared: SharedMemory,
    pub attached: Attachments,
    events: Vec<i32>,
    commands: Vec<i32>,
    write_slab: Vec<u8>,
    slabs: Vec<Vec<u8>>,
    _control: Vec<i32>,
    queued: usize,
    written: usize,
}

fn region<T>(memory: &mut [T]) -> Region<T> {
    // SAFETY: the vectors are never resized and live beside the shared memory, on one thread.
    unsafe { Region::new(memory.as_mut_ptr(), memory.len()) }
}

impl Memory {
    /// With slabs of this size.
    pub fn new(slab_bytes: usize) -> Self {
        let mut control = vec![0; abi::CONTROL_WORDS as usize];
        let mut events = vec![0; abi::EVENT_RING_RECORDS as usize * WORDS];
        let mut commands = vec![0; abi::COMMAND_RING_RECORDS as usize * WORDS];
        let mut write_slab = vec![0; limits::WRITE_SLAB_BYTES];
        let mut slabs: Vec<Vec<u8>> = (0..SLABS).map(|_| vec![0; slab_bytes]).collect();
        let mut regions = slabs.iter_mut().map(|slab| region(slab));
        let slab_regions = std::array::from_fn(|_| regions.next().expect("as many slabs as regions"));
        let shared = SharedMemory::new(
            region(&mut control),
            region(&mut events),
            region(&mut commands),
            region(&mut write_slab),
            slab_regions,
        );
        Self {
            shared,
            attached: Attachments(std::array::from_fn(|_| Cell::new(true))),
            events,
            commands,
            write_slab,
            slabs,
            _control: control,
            queued: 0,
            written: 0,
        }
    }

    /// An event of the last batch.
    pub fn event(&self, index: usize) -> [i32; 4] {
        let record = &self.events[index * WORDS..][..WORDS];
        [record[0], record[1], record[2], record[3]]
    }

    /// Bytes of a slab.
    pub fn bytes(&self, slab: usize, offset: i32, length: i32) -> &[u8] {
        &self.slabs[slab][offset as usize..][..length as usize]
    }

    /// Whether one more command fits, with so many bytes.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.queued < abi::COMMAND_RING_RECORDS as usize && self.written + bytes <= self.write_slab.len()
    }

    /// Puts a command into the ring; there must be room.
    pub fn command(&mut self, operation: i32, handle: i32, a: i32, b: i32) {
        self.commands[self.queued * WORDS..][..WORDS].copy_from_slice(&[operation, handle, a, b]);
        self.queued += 1;
        self.shared.set_control(abi::CONTROL_COMMANDS, (self.queued * WORDS) as i32);
    }

    /// Puts a write into the ring; there must be room.
    pub fn write(&mut self, handle: i32, bytes: &[u8]) {
        self.write_slab[self.written..][..bytes.len()].copy_from_slice(bytes);
        self.command(abi::COMMAND_WRITE, handle, self.written as i32, bytes.len() as i32);
        self.written += bytes.len();
    }

    /// Whether commands wait.
    pub fn has_commands(&self) -> bool {
        self.queued > 0
    }

    /// Connections with writes that refer to a slab.
    pub fn writes_from(&self, slab: usize) -> impl Iterator<Item = i32> + '_ {
        let operation = abi::COMMAND_WRITE_SLAB | (slab as i32) << abi::SLAB_SHIFT;
        self.commands[..self.queued * WORDS]
            .chunks_exact(WORDS)
            .filter(move |record| record[0] == operation)
            .map(|record| record[1])
    }

    /// A slab is somebody else's: what we find there is not what was there.
    pub fn slab_is_gone(&mut self, slab: usize) {
        self.slabs[slab].fill(0xdd);
    }

    /// The commands were taken.
    pub fn taken(&mut self) {
        (self.queued, self.written) = (0, 0);
    }

    /// New slabs in the place of those that are full or gone.
    pub fn replace_slabs(&mut self) {
        for index in 0..SLABS {
            if self.shared.control(abi::CONTROL_RETIRED) & 1 << index != 0 {
                let slab = &mut self.slabs[index];
                slab.fill(0xee);
                self.shared.replace_slab(index, region(slab));
                self.attached.0[index].set(true);
            }
        }
    }
}

/// A batch that takes less than the ring has room for, and where bugs may be planted.
pub struct Narrow<'a> {
    pub batch: Batch<'a>,
    pub room: usize,
    pub planted: Option<Planted>,
    pub draw: Draw,
}

impl Sink for Narrow<'_> {
    fn room(&self) -> usize {
        self.batch.room().min(self.room)
    }

    fn event(&mut self, event: Event) {
        ensure!(self.room > 0, Memory, "an event without room: {event:?}");
        self.room -= 1;
        let kind = event.kind & abi::KIND_MASK;
        match self.planted {
            Some(Planted::SwallowClosed) if kind == abi::EVENT_CLOSED && self.draw.once_in(10) => return,
            Some(Planted::SwallowResume) if kind == abi::EVENT_RESUME_WRITING => return,
            Some(Planted::RepeatClosed) if kind == abi::EVENT_CLOSED && self.draw.once_in(10) => {
                self.batch.event(event);
            }
            _ => {}
        }
        self.batch.event(event);
    }

    fn read_buffer(&mut self, borrows: bool, hint: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        self.batch.read_buffer(borrows, hint)
    }

    fn received(&mut self, handle: i32, slab: usize, length: usize) {
        ensure!(self.room > 0, Memory, "bytes without room for their event");
        self.room -= 1;
        self.batch.received(handle, slab, length);
    }
}

/// Memory that is referred to until it is flushed.
#[derive(Debug, Default)]
pub struct Pins {
    /// `None` when it was detached.
    memory: Vec<Option<&'static [u8]>>,
    released: Vec<bool>,
}

impl PinnedMemory for Pins {
    fn bytes(&self, pin: Pin, start: usize, end: usize) -> Option<&[u8]> {
        ensure!(!self.released[pin as usize], Pins, "pin {pin} is referred to after it was let go");
        self.memory[pin as usize]?.get(start..end)
    }
}

impl Pins {
    /// Pins memory.
    pub fn pin(&mut self, bytes: &'static [u8]) -> Pin {
        self.memory.push(Some(bytes));
        self.released.push(false);
        (self.memory.len() - 1) as Pin
    }

    /// Detaches what is pinned.
    pub fn detach(&mut self, pin: Pin) {
        self.memory[pin as usize] = None;
    }

    /// Pins were let go.
    pub fn release(&mut self, pins: &[Pin]) {
        for &pin in pins {
            let was = std::mem::replace(&mut self.released[pin as usize], true);
            ensure!(!was, Pins, "pin {pin} was let go twice");
        }
    }

    /// One that is not let go.
    pub fn any_held(&self, draw: &mut Draw) -> Option<Pin> {
        let held: Vec<usize> =
            (0..self.released.len()).rev().filter(|&pin| !self.released[pin]).take(8).collect();
        (!held.is_empty()).then(|| draw.pick(&held) as Pin)
    }

    /// How many are not let go.
    pub fn held(&self) -> usize {
        self.released.iter().filter(|&&released| !released).count()
    }
}
