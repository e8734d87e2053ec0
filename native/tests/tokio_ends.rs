//! How the engine with a thread of its own ends: whatever it was doing, nothing of it is left. One test, in a process of its
//! own, for it counts descriptors and threads.

#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(target_os = "linux")]

use shardloop_native::abi;
use shardloop_native::connection::Handle;
use shardloop_native::engine::{Engine, SocketEngine, tokio::TokioEngine};
use shardloop_native::net::addresses::Peer;
use shardloop_native::net::listen::{ListenOptions, Listener, bind};
use shardloop_native::shard::{Event, ServerLimits, Sink};
use shardloop_native::write_queue::{Pin, PinnedMemory};
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Takes what comes and keeps the records.
#[derive(Default)]
struct Kept(Vec<Event>, Vec<MaybeUninit<u8>>);

impl Sink for Kept {
    fn room(&self) -> usize {
        100
    }

    fn event(&mut self, event: Event) {
        self.0.push(event);
    }

    fn read_buffer(&mut self, _: bool, _: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        self.1.resize(1 << 16, MaybeUninit::uninit());
        Some((0, &mut self.1))
    }

    fn received(&mut self, handle: i32, _: usize, length: usize) {
        self.0.push(Event { kind: abi::EVENT_DATA, handle, a: 0, b: length as i32 });
    }
}

struct NoPins;

impl PinnedMemory for NoPins {
    fn bytes(&self, _: Pin, _: usize, _: usize) -> Option<&[u8]> {
        None
    }
}

fn listener() -> Arc<Listener> {
    let options = ListenOptions {
        host: [127, 0, 0, 1].into(),
        port: 0,
        backlog: 16,
        reuse_port: false,
        ipv6_only: false,
        no_delay: true,
        exclusive: false,
    };
    Arc::new(bind(&options).unwrap())
}

/// An engine that serves a listener as server 1 of the thread and 7 of the process, and a client that it has announced.
fn serving(listener: &Arc<Listener>) -> (TokioEngine, TcpStream, Handle) {
    let mut engine = TokioEngine::open(Arc::default(), None).unwrap();
    let limits = ServerLimits {
        write_high_bytes: 1 << 16,
        write_low_bytes: 1 << 14,
        write_max_bytes: 1 << 20,
        idle_timeout_ms: 1_000,
    };
    engine.add_server(1, 7, limits);
    engine.listen(1, listener.clone()).unwrap();
    let client = TcpStream::connect(listener.address().ip().unwrap()).unwrap();
    let opened = wait_for(&mut engine, abi::EVENT_OPEN);
    (engine, client, Handle::from_word(opened.handle))
}

fn wait_for(engine: &mut TokioEngine, kind: i32) -> Event {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut kept = Kept::default();
        engine.collect(Instant::now(), &mut kept, &NoPins);
        if let Some(event) = kept.0.iter().find(|event| event.kind == kind) {
            return *event;
        }
        assert!(Instant::now() < deadline, "no event {kind} for 10 seconds");
        if !engine.has_backlog() {
            let mut poll = libc::pollfd { fd: engine.pollable(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&mut poll, 1, 1_000) };
        }
    }
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn nothing_is_left_of_it_whenever_it_ends_and_a_panic_on_its_thread_is_told_and_leaves_what_was_unseen() {
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    for round in 0..200 {
        let listener = listener();
        let (mut engine, mut client, handle) = serving(&listener);
        match round % 5 {
            // In the middle of writes that nobody reads, with connections in every state.
            0 => engine.write(Instant::now(), handle, &vec![1; 900_000], &()),
            1 => drop(engine.retire()),
            2 => drop(engine.abandon()),
            // With a connection on its way.
            3 => drop(TcpStream::connect(listener.address().ip().unwrap()).unwrap()),
            _ => {
                let waiting = TcpStream::connect(listener.address().ip().unwrap()).unwrap();
                wait_for(&mut engine, abi::EVENT_OPEN);
                let look = Box::new(|_: std::os::fd::BorrowedFd<'_>| panic!("a test asked for it"));
                let told = catch_unwind(AssertUnwindSafe(|| engine.with_socket(handle, look))).unwrap_err();
                assert_eq!(told.downcast_ref::<String>().unwrap(), "a test asked for it");
                let told = catch_unwind(AssertUnwindSafe(|| wait_for(&mut engine, abi::EVENT_DATA)));
                assert!(told.is_err(), "every later batch says so, too");
                let left = engine.abandon();
                assert_eq!(left.len(), 2, "JavaScript has begun neither");
                assert!(left.iter().any(|left| left.peer == Peer::Ip(waiting.local_addr().unwrap())));
            }
        }
        drop(engine);
        _ = client.read_to_end(&mut Vec::new()); // it would wait for ever were the other end not closed
        TcpStream::connect(listener.address().ip().unwrap()).expect("the listener is open");
    }
    // The kernel lists a thread for a moment after it was joined.
    let left = || (count("/proc/self/fd"), count("/proc/self/task"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while left() != before && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(left(), before);
}
