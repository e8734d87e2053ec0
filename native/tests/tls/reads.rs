//! Records in the reads of a shard, on `mio`: what one read has in part the next one ends, in the same turn.

use crate::made::{Made, Received, deliver, pair, take_outgoing};
use crate::shards::{NothingPinned, limits};
use shardloop_native::abi;
use shardloop_native::engine::{Engine, SocketEngine, Start, mio::MioEngine};
use shardloop_native::limits::TLS_RECEIVE_BYTES;
use shardloop_native::metrics::Metrics;
use shardloop_native::net::addresses::Peer;
use shardloop_native::net::connect;
use shardloop_native::shard::{Commands, Event, Sink};
use shardloop_native::tls::session::{Outbox, Session};
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What JavaScript would see.
pub struct Seen {
    events: Vec<(i32, i32)>,
    received: Vec<u8>,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Seen {
    pub fn new() -> Self {
        Self { events: Vec::new(), received: Vec::new(), buffer: vec![MaybeUninit::uninit(); 32 << 10] }
    }
}

impl Sink for Seen {
    fn room(&self) -> usize {
        1_000
    }
    fn event(&mut self, event: Event) {
        self.events.push((event.kind & abi::KIND_MASK, event.handle));
    }
    fn read_buffer(&mut self, _: bool, _: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        Some((0, &mut self.buffer))
    }
    fn received(&mut self, _: i32, _: usize, length: usize) {
        // SAFETY: so much of it was just written.
        self.received.extend(self.buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }));
    }
}

struct Single([i32; 4]);

impl Commands for Single {
    fn len(&self) -> usize {
        1
    }
    fn record(&self, _: usize) -> [i32; 4] {
        self.0
    }
    fn bytes(&self, _: usize) -> Option<&[u8]> {
        None
    }
}

/// One with a server, number 0.
pub fn engine() -> (MioEngine, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    let mut engine = MioEngine::open(metrics.clone(), None).unwrap();
    engine.add_server(0, 0, limits());
    (engine, metrics)
}

/// A client's session, and the server's in an engine.
struct Bench {
    engine: MioEngine,
    seen: Seen,
    metrics: Arc<Metrics>,
    client: Session,
    socket: UnixStream,
}

impl Bench {
    fn new() -> Self {
        let (mut engine, metrics) = engine();
        let (client, server) = pair(&Made::new(|_| {}));
        let (ours, socket) = UnixStream::pair().unwrap();
        let fd = OwnedFd::from(ours);
        let peer = Peer::from(&connect::inspect(&fd).unwrap());
        engine.secure_request(1, Box::new(server));
        engine.connect(Instant::now(), 1, 0, Start::With(fd, peer));
        socket.set_nonblocking(true).unwrap();
        let mut bench = Self { engine, seen: Seen::new(), metrics, client, socket };
        bench.client.begin().unwrap();
        bench.until(|seen| seen.events.iter().any(|event| event.0 == abi::EVENT_CONNECTED));
        let handle = bench.seen.events[0].1;
        bench.engine.submit(Instant::now(), &Single([abi::COMMAND_START, handle, 0, 0]));
        bench
    }

    /// Both go on until the engine has told something.
    fn until(&mut self, done: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(&self.seen) {
            assert!(Instant::now() < deadline, "it did not come: {:?}", self.seen.events);
            self.socket.write_all(&take_outgoing(&mut self.client)).unwrap();
            self.engine.collect(Instant::now(), &mut self.seen, &NothingPinned);
            self.engine.end_batch(Instant::now());
            let mut answer = vec![0; 64 << 10];
            match self.socket.read(&mut answer) {
                Ok(length) => {
                    deliver(&answer[..length], &mut self.client, usize::MAX, &mut Received::default())
                        .unwrap();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }

    /// Records with so many bytes each, which the engine receives in two reads of one turn. How many bytes of the records the first read has.
    fn receive(&mut self, sizes: impl Iterator<Item = usize>) {
        let mut outbox = Outbox::default();
        let mut sent = Vec::new();
        for size in sizes {
            let text: Vec<u8> = (sent.len()..sent.len() + size).map(|at| (at % 251) as u8).collect();
            let count = self.client.encrypt(&text, &mut outbox).unwrap();
            assert_eq!(count, size, "one record");
            sent.extend_from_slice(&text);
            if outbox.filled().len() > TLS_RECEIVE_BYTES {
                break;
            }
        }
        assert!(outbox.filled().len() > TLS_RECEIVE_BYTES);
        self.socket.write_all(outbox.filled()).unwrap();
        self.seen.received.clear();
        let reads = self.metrics.read(abi::METRIC_READS);
        self.until(|seen| !seen.received.is_empty());
        assert_eq!(self.metrics.read(abi::METRIC_READS), reads + 2, "reads of one turn");
        assert!(self.seen.received == sent, "in one turn comes what was sent");
    }
}

/// What a record has beside its plaintext.
const OVERHEAD_BYTES: usize = 5 + 1 + 16;

#[test]
fn a_record_that_two_reads_share_is_whole_wherever_it_is_split() {
    let mut bench = Bench::new();
    let small = 100;
    for first in 1..=small + OVERHEAD_BYTES {
        bench.receive(std::iter::once(first).chain(std::iter::repeat(small)));
    }
    // The fourth of such begins at the end of the first read, or some bytes before or behind.
    let large = 16 << 10;
    let beginning = TLS_RECEIVE_BYTES - 3 * (large + OVERHEAD_BYTES) - OVERHEAD_BYTES;
    for first in (1..50).chain(beginning - 30..=beginning) {
        bench.receive(std::iter::once(first).chain(std::iter::repeat(large)));
    }
}
