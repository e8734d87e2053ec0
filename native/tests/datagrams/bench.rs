//! An engine with endpoints, and JavaScript that takes no more datagrams than it is told to.

use shardloop_native::abi;
use shardloop_native::engine::{SocketEngine, mio::MioEngine, tokio::TokioEngine};
use shardloop_native::metrics::Metrics;
use shardloop_native::net::addresses::Address;
use shardloop_native::net::datagram_address::AddressForm;
use shardloop_native::net::udp::{DatagramSocket, OpenOptions};
use shardloop_native::shard::{Commands, EndpointLimits, Event, Sink};
use shardloop_native::write_queue::{Pin, PinnedMemory};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A sink with room for a few datagrams in each batch.
pub struct Narrow {
    /// Datagrams that it still takes.
    pub takes: usize,
    /// For events of any kind.
    pub room: usize,
    pub events: Vec<Event>,
    pub came: Vec<(i32, Vec<u8>, Vec<u8>)>,
}

impl Sink for Narrow {
    fn room(&self) -> usize {
        self.room
    }

    fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    fn read_buffer(&mut self, _: bool, _: usize) -> Option<(usize, &mut [MaybeUninit<u8>])> {
        None
    }

    fn received(&mut self, _: i32, _: usize, _: usize) {}

    fn datagram(&mut self, endpoint: i32, source: &[u8], payload: &[u8]) -> bool {
        if self.takes == 0 {
            return false;
        }
        self.takes -= 1;
        self.came.push((endpoint, source.to_vec(), payload.to_vec()));
        true
    }
}

pub struct NoPins;

impl PinnedMemory for NoPins {
    fn bytes(&self, _: Pin, _: usize, _: usize) -> Option<&[u8]> {
        None
    }
}

#[derive(Default)]
pub struct Given(pub Vec<([i32; 4], Vec<u8>)>);

impl Commands for Given {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn record(&self, index: usize) -> [i32; 4] {
        self.0[index].0
    }

    fn bytes(&self, index: usize) -> Option<&[u8]> {
        Some(&self.0[index].1)
    }
}

pub struct Bench {
    pub engine: Box<dyn SocketEngine>,
    pub metrics: Arc<Metrics>,
    pub commands: Given,
    pub seen: Narrow,
    /// Datagrams that a batch takes.
    pub room: usize,
}

impl Bench {
    pub fn on_mio() -> Self {
        on(|metrics| Box::new(MioEngine::open(metrics, None).unwrap()))
    }

    pub fn command(&mut self, operation: i32, endpoint: u32) {
        self.commands.0.push(([operation, endpoint as i32, 0, 0], Vec::new()));
    }

    pub fn send(&mut self, endpoint: u32, to: &AddressForm, payload: &[u8]) {
        let bytes = [to.as_bytes(), payload].concat();
        let record = [abi::COMMAND_DATAGRAM, endpoint as i32, 0, bytes.len() as i32];
        self.commands.0.push((record, bytes));
    }

    pub fn flush(&mut self) {
        self.engine.submit(Instant::now(), &std::mem::take(&mut self.commands));
    }

    pub fn add(&mut self, endpoint: u32, socket: DatagramSocket, write_max_bytes: usize) {
        let limits = EndpointLimits { write_high_bytes: 2_000, write_low_bytes: 500, write_max_bytes };
        self.engine.add_endpoint(Instant::now(), endpoint, Arc::new(socket), limits).unwrap();
        self.command(abi::COMMAND_DATAGRAM_START, endpoint);
        self.flush();
    }

    pub fn until(&mut self, done: impl Fn(&Narrow) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(&self.seen) {
            assert!(Instant::now() < deadline, "it did not happen in 10 seconds");
            self.seen.takes = self.room;
            self.engine.collect(Instant::now(), &mut self.seen, &NoPins);
            self.engine.end_batch(Instant::now());
            if done(&self.seen) {
                return;
            }
            let mut poll = libc::pollfd { fd: self.engine.pollable(), events: libc::POLLIN, revents: 0 };
            let wait = if self.engine.has_backlog() { 0 } else { 5 };
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&mut poll, 1, wait) };
        }
    }

    /// How often the engine asks the kernel in this time.
    pub fn polls_during(&mut self, time: Duration) -> u64 {
        let (before, end) = (self.metrics.read(abi::METRIC_POLLS), Instant::now() + time);
        self.until(|_| Instant::now() >= end);
        self.metrics.read(abi::METRIC_POLLS) - before
    }

    pub fn events(&self, kind: i32) -> Vec<&Event> {
        self.seen.events.iter().filter(|event| event.kind & abi::KIND_MASK == kind).collect()
    }

    pub fn close(mut self, endpoint: u32) -> Self {
        self.command(abi::COMMAND_DATAGRAM_CLOSE, endpoint);
        self.command(abi::COMMAND_DATAGRAM_CLOSE, endpoint);
        self.flush();
        self.until(|seen| seen.events.iter().any(|event| event.kind == abi::EVENT_DATAGRAM_CLOSED));
        assert_eq!(self.events(abi::EVENT_DATAGRAM_CLOSED).len(), 1);
        self
    }
}

fn on(open: fn(Arc<Metrics>) -> Box<dyn SocketEngine>) -> Bench {
    let metrics = Arc::<Metrics>::default();
    let seen = Narrow { takes: 0, room: 100, events: Vec::new(), came: Vec::new() };
    let engine = open(metrics.clone());
    Bench { engine, metrics, commands: Given::default(), seen, room: 50 }
}

pub fn on_every_engine(test: impl Fn(Bench)) {
    test(Bench::on_mio());
    test(on(|metrics| Box::new(TokioEngine::open(metrics, None).unwrap())));
}

pub fn bound() -> (DatagramSocket, SocketAddr) {
    let local = Some(Address::Ip("127.0.0.1:0".parse().unwrap()));
    let options =
        OpenOptions { local, offload: true, receive_buffer_bytes: Some(1 << 20), ..OpenOptions::default() };
    let socket = DatagramSocket::open(&options).unwrap();
    let address = socket.local_address().unwrap().ip().unwrap();
    (socket, address)
}

/// From now on a system call with this value in one of its arguments fails on this thread. False where that is not allowed.
#[cfg(target_os = "linux")]
pub fn refuse(call: libc::c_long, argument: usize, value: u32, errno: i32) -> bool {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
    let step = |code: u32, k: u32, not: u8| sock_filter { code: code as u16, jt: 0, jf: not, k };
    let load = |offset: usize| step(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0);
    let unless = |value: u32, skip: u8| step(BPF_JMP | BPF_JEQ | BPF_K, value, skip);
    let place = std::mem::offset_of!(libc::seccomp_data, args)
        + argument * 8
        + if cfg!(target_endian = "big") { 4 } else { 0 };
    let mut steps = [
        load(std::mem::offset_of!(libc::seccomp_data, nr)),
        unless(call as u32, 3),
        load(place),
        unless(value, 1),
        step(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0),
        step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the calls concern this thread alone, and read a program of that many steps.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}
