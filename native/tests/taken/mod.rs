//! JavaScript's side of an engine, for tests that look at events and receive no bytes.

use shardloop_native::shard::{Event, Sink};
use shardloop_native::write_queue::{Pin, PinnedMemory};
use std::mem::MaybeUninit;

/// What JavaScript has taken.
#[derive(Default)]
pub struct Taken(pub Vec<Event>);

impl Sink for Taken {
    fn room(&self) -> usize {
        1000
    }
    fn event(&mut self, event: Event) {
        self.0.push(event);
    }
    fn read_buffer(&mut self, _: bool, _: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        None
    }
    fn received(&mut self, _: i32, _: usize, _: usize) {}
}

/// Nothing is sent from where it lies.
pub struct NothingPinned;

impl PinnedMemory for NothingPinned {
    fn bytes(&self, _: Pin, _: usize, _: usize) -> Option<&[u8]> {
        None
    }
}
