//! Pipes on every engine: read and written by the shard layer as connections are, by the calls that fit.

#![allow(clippy::unwrap_used, reason = "tests")]

use shardloop_native::abi;
use shardloop_native::engine::{SocketEngine, Start, mio::MioEngine, tokio::TokioEngine};
use shardloop_native::metrics::Metrics;
use shardloop_native::net::addresses::Peer;
use shardloop_native::net::pipes::{self, Direction};
use shardloop_native::shard::{Commands, Event, ServerLimits, Sink};
use shardloop_native::write_queue::{Pin, PinnedMemory};
use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Open = fn(Arc<Metrics>) -> Box<dyn SocketEngine>;

macro_rules! on_every_engine {
    ($($test:ident),* $(,)?) => {
        mod mio { $(#[test] fn $test() { super::$test(|metrics| Box::new(super::MioEngine::open(metrics, None).unwrap())); })* }
        mod tokio { $(#[test] fn $test() { super::$test(|metrics| Box::new(super::TokioEngine::open(metrics, None).unwrap())); })* }
    };
}

on_every_engine! {
    what_is_written_into_a_pipe_is_read_to_its_end,
    what_a_full_pipe_does_not_take_is_written_when_there_is_room_and_before_it_closes,
    a_reader_that_goes_is_noticed_at_once_and_is_an_error_only_for_what_waits,
    a_terminal_gives_line_after_line_and_nothing_is_left_in_it,
    a_descriptor_closes_with_its_pipe,
}

/// What JavaScript would see.
#[derive(Default)]
struct Seen {
    events: Vec<(i32, i32, i32)>,
    received: Vec<u8>,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Sink for Seen {
    fn room(&self) -> usize {
        1000
    }
    fn event(&mut self, event: Event) {
        self.events.push((event.kind & abi::KIND_MASK, event.handle, event.a));
    }
    fn read_buffer(&mut self, _: bool, _: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        self.buffer.resize(4096, MaybeUninit::uninit());
        Some((0, &mut self.buffer))
    }
    fn received(&mut self, _: i32, _: usize, length: usize) {
        // SAFETY: so much of it was just written.
        self.received.extend(self.buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }));
    }
}

struct NothingPinned;

impl PinnedMemory for NothingPinned {
    fn bytes(&self, _: Pin, _: usize, _: usize) -> Option<&[u8]> {
        None
    }
}

struct Given<'a>(&'a [([i32; 4], &'a [u8])]);

impl Commands for Given<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn record(&self, index: usize) -> [i32; 4] {
        self.0[index].0
    }
    fn bytes(&self, index: usize) -> Option<&[u8]> {
        Some(self.0[index].1)
    }
}

struct Bench {
    engine: Box<dyn SocketEngine>,
    seen: Seen,
}

impl Bench {
    fn new(open: Open) -> Self {
        let mut engine = open(Arc::default());
        let limits = ServerLimits {
            write_high_bytes: 64 << 10,
            write_low_bytes: 16 << 10,
            write_max_bytes: 8 << 20,
            idle_timeout_ms: 0,
        };
        engine.add_server(0, 0, limits);
        Self { engine, seen: Seen::default() }
    }

    fn until(&mut self, done: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.engine.collect(Instant::now(), &mut self.seen, &NothingPinned);
            self.engine.end_batch(Instant::now());
            if done(&self.seen) {
                return;
            }
            assert!(Instant::now() < deadline, "it did not come: {:?}", self.seen.events);
            let mut poll = libc::pollfd { fd: self.engine.pollable(), events: libc::POLLIN, revents: 0 };
            let timeout = if self.engine.has_backlog() { 0 } else { 100 };
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&mut poll, 1, timeout) };
        }
    }

    fn submit(&mut self, commands: &[([i32; 4], &[u8])]) {
        self.engine.submit(Instant::now(), &Given(commands));
    }

    /// Takes an end of a pipe in.
    fn take(&mut self, fd: impl Into<OwnedFd>, direction: Direction) -> i32 {
        let fd = fd.into();
        pipes::inspect(fd.as_fd(), direction).unwrap();
        let peer = if direction == Direction::Read { Peer::Writer } else { Peer::Reader };
        self.engine.connect(Instant::now(), 1, 0, Start::With(fd, peer));
        self.until(|seen| seen.events.iter().any(|event| event.0 == abi::EVENT_CONNECTED));
        let handle = self.seen.events.drain(..).next_back().unwrap().1;
        self.submit(&[([abi::COMMAND_START, handle, 0, 0], &[])]);
        handle
    }

    /// How it ended.
    fn closed(&mut self) -> i32 {
        let closed = |event: &&(i32, i32, i32)| event.0 == abi::EVENT_CLOSED;
        self.until(|seen| seen.events.iter().any(|event| closed(&event)));
        self.seen.events.iter().find(closed).unwrap().2
    }
}

fn write(handle: i32, bytes: &[u8]) -> ([i32; 4], &[u8]) {
    ([abi::COMMAND_WRITE, handle, 0, bytes.len() as i32], bytes)
}

fn close(handle: i32) -> ([i32; 4], &'static [u8]) {
    ([abi::COMMAND_CLOSE, handle, 0, 0], &[])
}

fn what_is_written_into_a_pipe_is_read_to_its_end(open: Open) {
    let (reader, writer) = pipes::open().unwrap();
    let mut bench = Bench::new(open);
    let handle = bench.take(reader, Direction::Read);
    let content: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let sent = content.clone();
    let thread = std::thread::spawn(move || File::from(writer).write_all(&sent).unwrap());
    bench.until(|seen| seen.events.iter().any(|event| event.0 == abi::EVENT_EOF));
    thread.join().unwrap();
    assert!(bench.seen.received == content);
    bench.submit(&[close(handle)]);
    assert_eq!(bench.closed(), 0);
}

fn what_a_full_pipe_does_not_take_is_written_when_there_is_room_and_before_it_closes(open: Open) {
    let (reader, writer) = pipes::open().unwrap();
    let mut bench = Bench::new(open);
    let handle = bench.take(writer, Direction::Write);
    let content: Vec<u8> = (0..1_000_000u32).map(|i| (i % 241) as u8).collect();
    let (first, second) = content.split_at(300_000);
    bench.submit(&[write(handle, first), write(handle, second), close(handle)]);
    bench.until(|seen| seen.events.contains(&(abi::EVENT_PAUSE_WRITING, handle, 0)));
    let thread = std::thread::spawn(move || {
        let mut all = Vec::new();
        File::from(reader).read_to_end(&mut all).unwrap();
        all
    });
    assert_eq!(bench.closed(), 0);
    assert!(thread.join().unwrap() == content);
}

fn a_reader_that_goes_is_noticed_at_once_and_is_an_error_only_for_what_waits(open: Open) {
    for (waiting, reason) in [(0, 0), (1_000_000, libc::EPIPE)] {
        let (reader, writer) = pipes::open().unwrap();
        let mut bench = Bench::new(open);
        let handle = bench.take(writer, Direction::Write);
        bench.submit(&[write(handle, &vec![1; waiting])]);
        drop(reader);
        assert_eq!(bench.closed(), reason, "{waiting} bytes");
    }
    // What is written behind it says so, too.
    let (reader, writer) = pipes::open().unwrap();
    let mut bench = Bench::new(open);
    let handle = bench.take(writer, Direction::Write);
    drop(reader);
    bench.submit(&[write(handle, b"late")]);
    assert!([0, libc::EPIPE].contains(&bench.closed()), "whichever comes first");
}

fn a_terminal_gives_line_after_line_and_nothing_is_left_in_it(open: Open) {
    let (mut master, mut terminal) = (-1, -1);
    // SAFETY: both are valid for writes, and nothing else is asked for.
    let opened = unsafe { libc::openpty(&mut master, &mut terminal, null_mut(), null_mut(), null_mut()) };
    assert_eq!(opened, 0);
    // SAFETY: both are new, and ours alone.
    let [mut master, terminal] = [master, terminal].map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    master.write_all(b"one\ntwo\nthree\n").unwrap();
    let mut bench = Bench::new(open);
    bench.take(terminal, Direction::Read);
    bench.until(|seen| seen.received == b"one\ntwo\nthree\n");
}

fn a_descriptor_closes_with_its_pipe(open: Open) {
    let (reader, writer) = pipes::open().unwrap();
    let fd = reader.as_raw_fd();
    let mut bench = Bench::new(open);
    let handle = bench.take(reader, Direction::Read);
    bench.submit(&[([abi::COMMAND_ABORT, handle, abi::CLOSE_PROGRAM, 0], &[])]);
    assert_eq!(bench.closed(), abi::CLOSE_PROGRAM);
    assert!(pipes::is_broken(writer.as_fd()), "descriptor {fd} is open still");
    let (reader, writer) = pipes::open().unwrap();
    bench.seen = Seen::default();
    bench.take(reader, Direction::Read);
    drop(bench);
    assert!(pipes::is_broken(writer.as_fd()), "an engine that is dropped closes it, too");
}
