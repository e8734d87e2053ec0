//! The engine contract, driven without JavaScript: shared memory is plain vectors, peers are std sockets.
//! Every test runs on every engine. Small enough to run under valgrind: `cargo test -p shardloop-native --test engines`.

#![allow(clippy::unwrap_used, reason = "tests")]

use shardloop_native::abi;
use shardloop_native::connection::Handle;
use shardloop_native::engine::{SocketEngine, Start, mio::MioEngine, tokio::TokioEngine};
use shardloop_native::limits;
use shardloop_native::metrics::Metrics;
use shardloop_native::net::addresses::{Address, Peer};
use shardloop_native::net::connect::{self, Target};
use shardloop_native::net::listen::{ListenOptions, Listener, bind};
use shardloop_native::net::stream;
use shardloop_native::ring::{Attached, Region, SLABS, SharedMemory};
use shardloop_native::shard::{Event, ServerLimits, Sink};
use shardloop_native::write_queue::{FileRange, Pin, PinnedMemory};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Attachments;

impl Attached for Attachments {
    fn is_attached(&self, _index: usize) -> bool {
        true
    }
}

impl PinnedMemory for Attachments {
    fn bytes(&self, _pin: Pin, start: usize, end: usize) -> Option<&[u8]> {
        static MEMORY: [u8; 1 << 20] = [7; 1 << 20];
        MEMORY.get(start..end)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Open(i32),
    Data(i32, Vec<u8>),
    Other(i32, i32, i32),
}

/// An engine with what JavaScript would give it.
struct Bench {
    engine: Box<dyn SocketEngine>,
    memory: SharedMemory,
    events: Vec<i32>,
    commands: Vec<i32>,
    write_slab: Vec<u8>,
    slabs: Vec<Vec<u8>>,
    _control: Vec<i32>,
    metrics: Arc<Metrics>,
    written: usize,
    queued: usize,
}

const WORDS: usize = abi::RECORD_WORDS as usize;

impl Bench {
    fn new(open: Open, limits: ServerLimits, slab_bytes: usize) -> (Self, SocketAddr) {
        fn region<T>(memory: &mut [T]) -> Region<T> {
            // SAFETY: the vectors are never resized and live beside the shared memory, on one thread.
            unsafe { Region::new(memory.as_mut_ptr(), memory.len()) }
        }
        let metrics = Arc::<Metrics>::default();
        let mut engine = open(metrics.clone());
        let mut control = vec![0; abi::CONTROL_WORDS as usize];
        let mut events = vec![0; abi::EVENT_RING_RECORDS as usize * WORDS];
        let mut commands = vec![0; abi::COMMAND_RING_RECORDS as usize * WORDS];
        let mut write_slab = vec![0; limits::WRITE_SLAB_BYTES];
        let mut slabs: Vec<Vec<u8>> = (0..SLABS).map(|_| vec![0; slab_bytes]).collect();
        let mut regions = slabs.iter_mut().map(|slab| region(slab));
        let slab_regions = std::array::from_fn(|_| regions.next().unwrap());
        let memory = SharedMemory::new(
            region(&mut control),
            region(&mut events),
            region(&mut commands),
            region(&mut write_slab),
            slab_regions,
        );
        engine.add_server(0, 0, limits);
        let listener = listener();
        let address = listener.address().ip().unwrap();
        engine.listen(0, Arc::new(listener)).unwrap();
        let bench = Self {
            engine,
            memory,
            events,
            commands,
            write_slab,
            slabs,
            _control: control,
            metrics,
            written: 0,
            queued: 0,
        };
        (bench, address)
    }

    /// Waits until the engine has something, and takes one batch.
    fn batch(&mut self) -> Vec<Seen> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut batch = self.memory.batch(&Attachments);
            self.engine.collect(Instant::now(), &mut batch, &Attachments);
            let (records, _) = batch.finish();
            let mut seen = Vec::new();
            for record in self.events[..records * WORDS].chunks_exact(WORDS) {
                let [word, handle, a, b] = [record[0], record[1], record[2], record[3]];
                seen.push(match word & abi::KIND_MASK {
                    abi::EVENT_OPEN => Seen::Open(handle),
                    abi::EVENT_DATA => {
                        let slab = &self.slabs[(word >> abi::SLAB_SHIFT) as usize];
                        Seen::Data(handle, slab[a as usize..(a + b) as usize].to_vec())
                    }
                    kind => Seen::Other(kind, handle, a),
                });
            }
            self.replace_slabs();
            if !seen.is_empty() {
                return seen;
            }
            assert!(Instant::now() < deadline, "nothing happened for 10 seconds");
            let mut poll = libc::pollfd { fd: self.engine.pollable(), events: libc::POLLIN, revents: 0 };
            let timeout = if self.engine.has_backlog() { 0 } else { 100 };
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&mut poll, 1, timeout) };
        }
    }

    fn replace_slabs(&mut self) {
        for index in 0..SLABS {
            if self.memory.control(abi::CONTROL_RETIRED) & 1 << index != 0 {
                let slab = &mut self.slabs[index];
                // SAFETY: as in `new`.
                let region = unsafe { Region::new(slab.as_mut_ptr(), slab.len()) };
                self.memory.replace_slab(index, region);
            }
        }
    }

    fn until(&mut self, mut done: impl FnMut(&Seen) -> bool) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            let seen = self.batch();
            self.flush();
            self.engine.end_batch(Instant::now());
            let stop = seen.iter().any(&mut done);
            all.extend(seen);
            if stop {
                return all;
            }
        }
    }

    fn command(&mut self, operation: i32, handle: i32, a: i32, b: i32) {
        self.commands[self.queued * WORDS..][..WORDS].copy_from_slice(&[operation, handle, a, b]);
        self.queued += 1;
    }

    fn write(&mut self, handle: i32, bytes: &[u8]) {
        self.write_slab[self.written..][..bytes.len()].copy_from_slice(bytes);
        self.command(abi::COMMAND_WRITE, handle, self.written as i32, bytes.len() as i32);
        self.written += bytes.len();
    }

    fn write_at_once(&mut self, handle: i32, bytes: &[u8]) {
        self.memory.set_control(abi::CONTROL_COMMANDS, (self.queued * WORDS) as i32);
        let commands = self.memory.commands(&Attachments);
        self.engine.write(Instant::now(), Handle::from_word(handle), bytes, &commands);
        (self.queued, self.written) = (0, 0);
    }

    fn flush(&mut self) {
        self.memory.set_control(abi::CONTROL_COMMANDS, (self.queued * WORDS) as i32);
        let commands = self.memory.commands(&Attachments);
        self.engine.submit(Instant::now(), &commands);
        (self.queued, self.written) = (0, 0);
    }

    /// Until what was commanded is done, and told.
    fn catch_up(&mut self) {
        for _ in 0..2 {
            self.is_open(-1); // an engine with a thread of its own answers in a turn, and tells at its end
        }
    }

    fn is_open(&mut self, handle: i32) -> bool {
        self.engine.with_socket(Handle::from_word(handle), Box::new(|_| {}))
    }

    fn accept(&mut self) -> i32 {
        let Seen::Open(handle) = self.batch()[0] else { panic!("the first event is not an open") };
        self.command(abi::COMMAND_START, handle, 0, 0);
        self.flush();
        self.engine.end_batch(Instant::now());
        handle
    }
}

impl Bench {
    /// Has the engine accept until it has so many connections, and no room to announce them.
    fn accept_without_room(&mut self, accepted: u64) {
        struct NoRoom;
        impl Sink for NoRoom {
            fn room(&self) -> usize {
                0
            }
            fn event(&mut self, event: Event) {
                panic!("{event:?} was told though there was no room");
            }
            fn read_buffer(&mut self, _: bool, _: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
                None
            }
            fn received(&mut self, _: i32, _: usize, _: usize) {}
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.metrics.read(abi::METRIC_CONNECTIONS_ACCEPTED) < accepted {
            assert!(Instant::now() < deadline, "nothing was accepted for 10 seconds");
            self.engine.collect(Instant::now(), &mut NoRoom, &Attachments);
        }
    }
}

fn listener() -> Listener {
    bind(&ListenOptions {
        host: [127, 0, 0, 1].into(),
        port: 0,
        backlog: 512,
        reuse_port: false,
        ipv6_only: false,
        no_delay: true,
        exclusive: false,
    })
    .unwrap()
}

fn server_limits() -> ServerLimits {
    ServerLimits {
        write_high_bytes: 64 << 10,
        write_low_bytes: 16 << 10,
        write_max_bytes: 1 << 20,
        idle_timeout_ms: 0,
    }
}

fn read_exactly(peer: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

const CLOSED: i32 = abi::EVENT_CLOSED;

/// Opens an engine.
type Open = fn(Arc<Metrics>) -> Box<dyn SocketEngine>;

macro_rules! on_every_engine {
    ($($test:ident),* $(,)?) => {
        mod mio { $(#[test] fn $test() { super::$test(|metrics| Box::new(super::MioEngine::open(metrics, None).unwrap())); })* }
        mod tokio { $(#[test] fn $test() { super::$test(|metrics| Box::new(super::TokioEngine::open(metrics, None).unwrap())); })* }
    };
}

on_every_engine! {
    bytes_come_in_and_go_out_and_every_connection_ends_once,
    a_late_command_does_not_reach_the_slots_next_connection,
    a_peer_that_does_not_read_pauses_writing_then_overflows_by_name,
    pinned_memory_is_released_when_flushed_and_when_the_connection_ends,
    nothing_is_lost_when_slabs_and_batches_are_too_small_for_what_is_ready,
    who_fills_the_slab_comes_behind_those_that_had_nothing_of_it,
    what_waits_in_the_queue_when_listening_stops_is_announced,
    a_closed_connection_lingers_until_its_last_bytes_are_received,
    what_is_new_when_javascript_ends_is_given_away_and_what_it_has_begun_ends_by_a_reset,
    what_is_a_threads_own_affair_is_given_to_nobody,
    dropping_an_engine_closes_no_listener,
    a_connection_that_is_asked_for_is_told_once_and_goes_on_as_any_other,
    what_cannot_be_connected_is_told_with_errno_and_call_and_leaves_nothing,
    a_request_that_is_called_off_ends_and_the_peer_hears_of_it,
    a_connected_socket_is_taken_in,
    a_file_is_sent_in_its_turn_between_writes,
    a_file_that_the_kernel_cannot_send_is_told_and_the_connection_goes_on,
}

fn to(address: Address) -> Start {
    Start::To(Box::new(Target { address, local: None, no_delay: true, keep_alive: false }))
}

fn a_connection_that_is_asked_for_is_told_once_and_goes_on_as_any_other(open: Open) {
    let path = std::env::temp_dir().join(format!("shardloop-engines-{:?}", std::thread::current().id()));
    _ = std::fs::remove_file(&path);
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut bench, _) = Bench::new(open, server_limits(), 32 << 10);
    for round in 1..=2 {
        bench.engine.connect(
            Instant::now(),
            round,
            0,
            to(match round {
                1 => Address::Ip(tcp.local_addr().unwrap()),
                _ => Address::Unix(path.as_os_str().as_encoded_bytes().to_vec()),
            }),
        );
        assert!(bench.engine.is_alive(), "the loop must not end while it connects");
        let [Seen::Other(abi::EVENT_CONNECTED, handle, number)] = bench.batch()[..] else {
            panic!("connected")
        };
        assert_eq!(number, round as i32);
        bench.engine.end_batch(Instant::now());
        let named = bench.engine.peer(Handle::from_word(handle)).unwrap();
        assert_eq!(named.ip(), (round == 1).then(|| tcp.local_addr().unwrap()));
        let mut peer: Box<dyn ReadWrite> =
            if round == 1 { Box::new(tcp.accept().unwrap().0) } else { Box::new(unix.accept().unwrap().0) };
        bench.command(abi::COMMAND_START, handle, 0, 0);
        bench.write(handle, b"question");
        bench.flush();
        let mut bytes = [0; 8];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"question");
        peer.write_all(b"answer").unwrap();
        assert_eq!(bench.batch(), [Seen::Data(handle, b"answer".to_vec())]);
        bench.command(abi::COMMAND_CLOSE, handle, 0, 0);
        bench.flush();
        assert_eq!(bench.batch(), [Seen::Other(CLOSED, handle, 0)]);
        bench.engine.end_batch(Instant::now());
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    }
    assert_eq!(bench.metrics.read(abi::METRIC_CONNECTIONS_CONNECTED), 2);
    assert_eq!(bench.metrics.read(abi::METRIC_CONNECTIONS_CLOSED), 2);
    std::fs::remove_file(&path).unwrap();
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn what_cannot_be_connected_is_told_with_errno_and_call_and_leaves_nothing(open: Open) {
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed by now
    let (mut bench, _) = Bench::new(open, server_limits(), 32 << 10);
    let foreign = Target {
        address: Address::Ip(refused),
        local: Some(Address::Ip("192.0.2.1:0".parse().unwrap())), // RFC 5737: nobody's
        no_delay: true,
        keep_alive: false,
    };
    for (request, start, errno, call) in [
        (7, to(Address::Ip(refused)), libc::ECONNREFUSED, abi::CALL_CONNECT),
        (8, to(Address::Unix(b"/nowhere/at/all".to_vec())), libc::ENOENT, abi::CALL_CONNECT),
        (9, Start::To(Box::new(foreign)), libc::EADDRNOTAVAIL, abi::CALL_BIND),
    ] {
        bench.engine.connect(Instant::now(), request, 0, start);
        assert_eq!(bench.batch(), [Seen::Other(abi::EVENT_CONNECT_FAILED, request as i32, errno)]);
        assert_eq!(bench.events[3], call);
        bench.engine.end_batch(Instant::now());
    }
    assert_eq!(bench.metrics.read(abi::METRIC_CONNECTS_FAILED), 3);
    assert_eq!(bench.metrics.read(abi::METRIC_CONNECTIONS_CLOSED), 0, "none was a connection");
}

fn a_request_that_is_called_off_ends_and_the_peer_hears_of_it(open: Open) {
    // A listener whose queue is full answers no SYN, so that a connection is on its way until we say otherwise.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let (mut bench, _) = Bench::new(open, server_limits(), 32 << 10);
    let requests = 1..=8;
    for request in requests.clone() {
        bench.engine.connect(Instant::now(), request, 0, to(Address::Ip(address)));
    }
    bench.catch_up();
    for request in requests.clone() {
        bench.engine.cancel_connect(request);
        bench.engine.cancel_connect(request); // again is nothing
    }
    let (mut told, mut called_off) = (0, 0);
    while told < requests.clone().count() {
        for seen in bench.batch() {
            told += 1;
            match seen {
                Seen::Other(abi::EVENT_CONNECT_FAILED, _, libc::ECANCELED) => called_off += 1,
                Seen::Other(abi::EVENT_CONNECTED, handle, _) => {
                    bench.command(abi::COMMAND_ABORT, handle, abi::CLOSE_PROGRAM, 0);
                }
                other => panic!("{other:?}"),
            }
        }
        bench.engine.end_batch(Instant::now());
    }
    assert!(called_off >= 1, "a full queue lets no more than some connect");
    bench.flush();
    if told > called_off {
        bench.until(|seen| matches!(seen, Seen::Other(CLOSED, ..)));
    }
}

fn a_connected_socket_is_taken_in(open: Open) {
    let (mut bench, _) = Bench::new(open, server_limits(), 32 << 10);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"before").unwrap();
    let fd = std::os::fd::OwnedFd::from(ours);
    let peer = Peer::from(&connect::inspect(&fd).unwrap());
    bench.engine.connect(Instant::now(), 3, 0, Start::With(fd, peer));
    let [Seen::Other(abi::EVENT_CONNECTED, handle, 3)] = bench.batch()[..] else { panic!("connected") };
    bench.command(abi::COMMAND_START, handle, 0, 0);
    bench.write(handle, b"after");
    bench.flush();
    bench.engine.end_batch(Instant::now());
    assert_eq!(bench.batch(), [Seen::Data(handle, b"before".to_vec())], "what waited in it is read");
    let mut bytes = [0; 5];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"after");
}

/// A file that has no name any more.
fn file(bytes: &[u8]) -> std::fs::File {
    let path = std::env::temp_dir().join(format!("shardloop-file-{:?}", std::thread::current().id()));
    std::fs::write(&path, bytes).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

fn a_file_is_sent_in_its_turn_between_writes(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let mut peer = TcpStream::connect(address).unwrap();
    let handle = bench.accept();
    // More than the sockets hold, and than one connection may send in a turn.
    let content: Vec<u8> = (0..12_000_000u32).map(|i| (i % 251) as u8).collect();
    bench.write(handle, b"before");
    bench.flush();
    let range = FileRange { fd: file(&content).into(), offset: 10, end: u64::MAX, sent: 0 };
    bench.engine.send_file(Instant::now(), Handle::from_word(handle), range, &Attachments);
    bench.write(handle, b"after");
    bench.command(abi::COMMAND_CLOSE, handle, 0, 0);
    bench.flush();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all
    });
    let sent = content.len() - 10;
    let seen = bench.until(|seen| matches!(seen, Seen::Other(CLOSED, ..)));
    assert!(seen.contains(&Seen::Other(abi::EVENT_FILE_SENT, handle, sent as i32)), "{seen:?}");
    let all = reader.join().unwrap();
    assert_eq!(all.len(), 6 + sent + 5);
    assert!(all.starts_with(b"before") && all.ends_with(b"after") && all[6..6 + sent] == content[10..]);
}

fn a_file_that_the_kernel_cannot_send_is_told_and_the_connection_goes_on(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let mut peer = TcpStream::connect(address).unwrap();
    let handle = bench.accept();
    let directory = std::fs::File::open(std::env::temp_dir()).unwrap();
    let range = FileRange { fd: directory.into(), offset: 0, end: u64::MAX, sent: 0 };
    bench.engine.send_file(Instant::now(), Handle::from_word(handle), range, &Attachments);
    let seen = bench.batch();
    assert_eq!(seen, [Seen::Other(abi::EVENT_FILE_SENT, handle, 0)]);
    assert!(bench.events[3] < 0, "errno {}", bench.events[3]);
    bench.engine.end_batch(Instant::now());
    bench.write(handle, b"still here");
    bench.flush();
    assert_eq!(read_exactly(&mut peer, 10), b"still here");
}

fn bytes_come_in_and_go_out_and_every_connection_ends_once(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let mut peer = TcpStream::connect(address).unwrap();
    let handle = bench.accept();
    peer.write_all(b"question").unwrap();
    assert_eq!(bench.batch(), [Seen::Data(handle, b"question".to_vec())]);
    bench.write(handle, b"ans");
    bench.write(handle, b"wer");
    let before = bench.metrics.read(abi::METRIC_WRITES);
    bench.flush();
    assert_eq!(read_exactly(&mut peer, 6), b"answer");
    bench.catch_up();
    assert_eq!(bench.metrics.read(abi::METRIC_WRITES), before + 1, "two writes, one system call");
    bench.write(handle, b"head ");
    bench.write_at_once(handle, b"and body");
    assert_eq!(read_exactly(&mut peer, 13), b"head and body");
    bench.catch_up();
    assert_eq!(
        bench.metrics.read(abi::METRIC_WRITES),
        before + 2,
        "what is sent at once, with what was before it"
    );
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(bench.batch(), [Seen::Other(abi::EVENT_EOF, handle, 0)]);
    bench.command(abi::COMMAND_CLOSE, handle, 0, 0);
    bench.flush();
    assert_eq!(bench.batch(), [Seen::Other(CLOSED, handle, 0)]);
    bench.engine.end_batch(Instant::now());
    assert!(!bench.is_open(handle));
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
}

fn a_late_command_does_not_reach_the_slots_next_connection(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let first_peer = TcpStream::connect(address).unwrap();
    let first = bench.accept();
    drop(first_peer);
    bench.until(|seen| matches!(seen, Seen::Other(abi::EVENT_EOF, ..)));
    bench.command(abi::COMMAND_ABORT, first, 0, 0);
    bench.flush();
    bench.until(|seen| matches!(seen, Seen::Other(CLOSED, ..)));
    let mut second_peer = TcpStream::connect(address).unwrap();
    let second = bench.accept();
    assert_ne!(first, second);
    assert_eq!(first & abi::HANDLE_SLOT_MASK, second & abi::HANDLE_SLOT_MASK, "the slot is used again");
    bench.write(first, b"not yours");
    bench.command(abi::COMMAND_CLOSE, first, 0, 0);
    bench.command(abi::COMMAND_ABORT, first, 0, 0);
    bench.write(second, b"yours");
    bench.flush();
    assert_eq!(read_exactly(&mut second_peer, 5), b"yours");
    assert!(bench.is_open(second));
}

fn a_peer_that_does_not_read_pauses_writing_then_overflows_by_name(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let peer = TcpStream::connect(address).unwrap();
    let handle = bench.accept();
    let piece = vec![1; 200 << 10];
    let mut paused = false;
    for _ in 0..200 {
        bench.engine.write(Instant::now(), Handle::from_word(handle), &piece, &());
        bench.catch_up();
        if bench.engine.has_backlog() {
            match bench.batch()[..] {
                [Seen::Other(abi::EVENT_PAUSE_WRITING, ..)] => paused = true,
                [Seen::Other(CLOSED, _, reason)] => {
                    assert!(paused, "it was told to pause first");
                    assert_eq!(reason, abi::CLOSE_WRITE_OVERFLOW);
                    assert_eq!(bench.engine.queued_bytes(Handle::from_word(handle)), 0);
                    drop(peer);
                    return;
                }
                ref other => panic!("unexpected {other:?}"),
            }
        }
    }
    panic!("40 MB were queued");
}

fn pinned_memory_is_released_when_flushed_and_when_the_connection_ends(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let mut peer = TcpStream::connect(address).unwrap();
    let handle = Handle::from_word(bench.accept());
    for pin in 0..8 {
        assert!(bench.engine.write_pinned(Instant::now(), handle, pin, 120 << 10, &Attachments));
    }
    let reader = std::thread::spawn(move || {
        let bytes = read_exactly(&mut peer, 8 * (120 << 10));
        assert!(bytes.iter().all(|&byte| byte == 7));
        peer
    });
    let mut released = Vec::new();
    let mut flushed = 0;
    while flushed < 8 {
        for seen in bench.batch() {
            if let Seen::Other(abi::EVENT_OWNED_FLUSHED, _, count) = seen {
                flushed += count;
            }
        }
        bench.engine.end_batch(Instant::now());
        bench.engine.take_released_pins(&mut released);
    }
    assert_eq!(released, [0, 1, 2, 3, 4, 5, 6, 7]);
    let peer = reader.join().unwrap();
    let mut pins = 8;
    while bench.engine.queued_bytes(handle) == 0 {
        assert!(bench.engine.write_pinned(Instant::now(), handle, pins, 120 << 10, &Attachments));
        pins += 1;
    }
    bench.command(abi::COMMAND_ABORT, handle.word(), 0, 0);
    bench.flush();
    bench.until(|seen| matches!(seen, Seen::Other(CLOSED, ..)));
    bench.engine.write_pinned(Instant::now(), handle, pins, 10, &Attachments); // of a connection that is gone
    bench.engine.take_released_pins(&mut released);
    assert_eq!(released, (0..=pins).collect::<Vec<_>>(), "each once");
    drop(peer);
}

fn nothing_is_lost_when_slabs_and_batches_are_too_small_for_what_is_ready(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 8 << 10);
    let mut peers: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut handles = Vec::new();
    while handles.len() < peers.len() {
        for seen in bench.batch() {
            let Seen::Open(handle) = seen else { panic!("unexpected {seen:?}") };
            handles.push(handle);
        }
        bench.engine.end_batch(Instant::now());
    }
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&vec![index as u8; 30_000]).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for (index, &handle) in handles.iter().enumerate() {
        bench.command(abi::COMMAND_START, handle, (index % 2) as i32, 0);
    }
    bench.flush();
    let mut received = std::collections::HashMap::<i32, Vec<u8>>::new();
    let mut ends = 0;
    while ends < peers.len() {
        for seen in bench.batch() {
            match seen {
                Seen::Data(handle, bytes) => received.entry(handle).or_default().extend(bytes),
                Seen::Other(abi::EVENT_EOF, ..) => ends += 1,
                other => panic!("unexpected {other:?}"),
            }
        }
        bench.engine.end_batch(Instant::now());
    }
    let mut totals: Vec<_> = received.values().map(|bytes| (bytes[0], bytes.len())).collect();
    totals.sort_unstable();
    assert_eq!(totals, (0..40).map(|index| (index, 30_000)).collect::<Vec<_>>());
    assert!(received.values().all(|bytes| bytes.iter().all(|&byte| byte == bytes[0])));
}

fn who_fills_the_slab_comes_behind_those_that_had_nothing_of_it(open: Open) {
    // One for each hog, and one more where the kernel announces the other last; an I/O thread has received some before.
    let batches_max = |bench: &mut Bench| match bench.engine.may_look() {
        true => 4,
        false => 4 + limits::PIPE_EVENT_BYTES / limits::READ_MIN_BYTES,
    };
    for borrows in [0, 1] {
        let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
        // One before and one behind the other, in whatever order the kernel announces them.
        let mut peers = [(); 3].map(|()| {
            let peer = TcpStream::connect(address).unwrap();
            let Seen::Open(handle) = bench.batch()[0] else { panic!("the first event is not an open") };
            (peer, handle)
        });
        let handles = [peers[0].1, peers[1].1, peers[2].1];
        let from_other = handles[1];
        let [(first, _), (other, _), (last, _)] = &mut peers;
        // Whatever is read of them, they have more.
        let mut fill = || {
            for hog in [&mut *first, &mut *last] {
                hog.set_nonblocking(true).unwrap();
                while hog.write(&[1; 256 << 10]).is_ok() {}
            }
        };
        fill();
        other.write_all(b"one").unwrap();
        for handle in handles {
            bench.command(abi::COMMAND_START, handle, borrows, 0);
        }
        bench.flush();
        let most = batches_max(&mut bench);
        let came = (0..most).any(|_| {
            let seen = bench.batch();
            bench.engine.end_batch(Instant::now());
            fill();
            seen.contains(&Seen::Data(from_other, b"one".to_vec()))
        });
        assert!(came, "nothing of it in {most} batches");
    }
}

fn what_waits_in_the_queue_when_listening_stops_is_announced(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let peers: Vec<_> = (0..30).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_eq!(bench.engine.unlisten(Instant::now(), 0), 30);
    let mut opens = 0;
    while opens < peers.len() {
        opens += bench.batch().iter().filter(|seen| matches!(seen, Seen::Open(_))).count();
        bench.engine.end_batch(Instant::now());
    }
    assert!(TcpStream::connect(address).is_err(), "the listener is closed");
    for peer in &peers {
        assert!(peer.peer_addr().is_ok());
    }
}

fn a_closed_connection_lingers_until_its_last_bytes_are_received(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let mut peer = TcpStream::connect(address).unwrap();
    let handle = bench.accept();
    // The answer is larger than what the peer's kernel takes, and input is left unread: a plain close would reset.
    bench.command(abi::COMMAND_PAUSE, handle, 0, 0);
    bench.flush();
    peer.write_all(&[9; 5_000]).unwrap();
    let answer = vec![3; 900 << 10];
    bench.engine.write(Instant::now(), Handle::from_word(handle), &answer, &());
    bench.command(abi::COMMAND_CLOSE, handle, 0, 0);
    bench.flush();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).map(|_| all)
    });
    bench.until(|seen| *seen == Seen::Other(CLOSED, handle, 0));
    bench.engine.unlisten(Instant::now(), 0);
    assert_eq!(reader.join().unwrap().unwrap().len(), answer.len());
    let fd_was_released = Instant::now() + Duration::from_secs(5);
    while bench.engine.is_alive() && Instant::now() < fd_was_released {
        let mut batch = bench.memory.batch(&Attachments);
        bench.engine.collect(Instant::now(), &mut batch, &Attachments);
        batch.finish();
        std::thread::yield_now();
    }
    assert!(!bench.engine.is_alive());
}

fn what_is_new_when_javascript_ends_is_given_away_and_what_it_has_begun_ends_by_a_reset(open: Open) {
    let (mut bench, _) = Bench::new(open, server_limits(), 32 << 10);
    // Of a server that others serve, too.
    let shared = Arc::new(listener());
    bench.engine.add_server(1, 7, server_limits());
    bench.engine.listen(1, shared.clone()).unwrap();
    let mut begun = TcpStream::connect(shared.address().ip().unwrap()).unwrap();
    let handle = bench.accept();
    // Some are announced, and one is accepted only.
    let mut unseen: Vec<_> =
        (0..2).map(|_| TcpStream::connect(shared.address().ip().unwrap()).unwrap()).collect();
    while bench.metrics.read(abi::METRIC_CONNECTIONS_ACCEPTED) < 3 {
        bench.batch();
    }
    unseen.push(TcpStream::connect(shared.address().ip().unwrap()).unwrap());
    bench.accept_without_room(4);
    let unserved = bench.engine.retire();
    let peers: Vec<_> = unserved.iter().map(|connection| connection.peer).collect();
    assert!(unserved.iter().all(|connection| connection.server == 7));
    assert_eq!(peers, unseen.iter().map(|peer| Peer::Ip(peer.local_addr().unwrap())).collect::<Vec<_>>());
    for (peer, connection) in unseen.iter_mut().zip(unserved) {
        peer.write_all(b"for another").unwrap();
        let mut other = TcpStream::from(connection.fd);
        other.set_nonblocking(false).unwrap();
        assert_eq!(read_exactly(&mut other, 11), b"for another");
    }
    // Others accept from the listener now; what has begun goes on to the end.
    let late = TcpStream::connect(shared.address().ip().unwrap()).unwrap();
    begun.write_all(b"still here").unwrap();
    let seen = bench.until(|seen| matches!(seen, Seen::Data(..)));
    assert_eq!(seen, [Seen::Data(handle, b"still here".to_vec())]);
    let (_, peer) = stream::accept(shared.as_fd()).unwrap();
    assert_eq!(peer, Peer::Ip(late.local_addr().unwrap()));
    assert_eq!(
        bench.engine.unlisten(Instant::now(), 1),
        1,
        "what was given away is announced by nobody here"
    );
    bench.write(handle, b"last words");
    bench.flush();
    assert!(bench.engine.abandon().is_empty());
    assert_eq!(read_exactly(&mut begun, 10), b"last words");
    assert_eq!(begun.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let count = |metric| bench.metrics.read(metric);
    assert_eq!(count(abi::METRIC_CONNECTIONS_HANDED_OVER), 3);
    assert_eq!(count(abi::METRIC_CONNECTIONS_CLOSED), 1);
    assert_eq!(count(abi::METRIC_RESETS_SHARD_DEATH), 1);
}

fn what_is_a_threads_own_affair_is_given_to_nobody(open: Open) {
    let (mut bench, address) = Bench::new(open, server_limits(), 32 << 10);
    let mut peer = TcpStream::connect(address).unwrap();
    bench.batch();
    assert!(bench.engine.retire().is_empty());
    let mut later = TcpStream::connect(address).unwrap();
    bench.engine.end_batch(Instant::now());
    assert!(matches!(bench.batch()[..], [Seen::Open(_)]), "it still accepts");
    assert!(bench.engine.abandon().is_empty());
    for peer in [&mut peer, &mut later] {
        assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}

fn dropping_an_engine_closes_no_listener(open: Open) {
    let listener = Arc::new(listener());
    let address = listener.address().ip().unwrap();
    let mut engine = open(Arc::default());
    engine.add_server(0, 0, server_limits());
    engine.listen(0, listener.clone()).unwrap();
    drop(engine);
    TcpStream::connect(address).unwrap();
}

/// What an engine with a thread of its own is for. On `mio` that takes JavaScript's thread.
#[test]
fn what_is_queued_is_sent_while_javascript_takes_nothing_of_what_comes_in() {
    const ANSWER_BYTES: usize = 64 << 20;
    let limits = ServerLimits { write_max_bytes: 2 * ANSWER_BYTES, ..server_limits() };
    let open: Open = |metrics| Box::new(TokioEngine::open(metrics, None).unwrap());
    let (mut bench, address) = Bench::new(open, limits, 32 << 10);
    let mut reader = TcpStream::connect(address).unwrap();
    let answered = bench.accept();
    let mut sender = TcpStream::connect(address).unwrap();
    bench.accept();
    bench.engine.write(Instant::now(), Handle::from_word(answered), &vec![5; ANSWER_BYTES], &());
    assert!(bench.engine.queued_bytes(Handle::from_word(answered)) > 0);
    // Until the pipe and the sockets are full.
    sender.set_nonblocking(true).unwrap();
    let full = Instant::now() + Duration::from_secs(10);
    while bench.metrics.read(abi::METRIC_BYTES_READ) < limits::PIPE_EVENT_BYTES as u64 / 2 {
        assert!(Instant::now() < full);
        _ = sender.write(&[1; 64 << 10]);
    }
    while sender.write(&[1; 64 << 10]).is_ok() {}
    reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(read_exactly(&mut reader, ANSWER_BYTES), vec![5; ANSWER_BYTES]);
}
