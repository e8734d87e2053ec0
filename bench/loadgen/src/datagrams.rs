//! Datagrams: N sockets that each keep W datagrams of B bytes out, to a server that echoes them; every byte checked.
//!
//! Datagrams may be lost. One that has no answer within [`DATAGRAM_TIMEOUT`] is counted and given up, and another one is
//! sent in its place; an answer that comes later, or a second one, is counted as late.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mio::{Events, Interest, Poll, Token, net::UdpSocket};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    cpu::{CpuSample, CpuUse},
    datagram_batch::DatagramBatch,
    datagram_text::{DATAGRAM_NUMBER_BYTES, DatagramText},
    error::{Failure, LoadError},
    limits::{DATAGRAM_TIMEOUT, DATAGRAMS_OUT_MAX, EVENTS_PER_POLL, reserve_descriptors},
    outcome::{Failures, Latencies, Outcome, round, show_count, show_micros},
    pattern::Pattern,
    progress::Progress,
};

/// Bytes of a datagram, at most: what UDP over IPv4 can carry.
const SIZE_MAX: usize = 65_507;
/// Datagrams that go out, or come in, by one call.
const BATCH_MAX: usize = 64;
/// Lower bits of a datagram's number that count within a run: more than a run sends in days.
const COUNTER_BITS: u32 = 40;
/// How often datagrams are looked for that are out for too long.
const LOSS_INTERVAL: Duration = Duration::from_millis(20);

/// What to do; bounds are checked by [`run`].
#[derive(Clone, Debug)]
pub struct DatagramOptions {
    /// The server.
    pub addr: SocketAddr,
    /// Sockets, each connected to the server, at least 1.
    pub sockets: usize,
    /// Bytes of a datagram, at least [`DATAGRAM_NUMBER_BYTES`].
    pub size: usize,
    /// Datagrams that are out on each socket, 1 to [`DATAGRAMS_OUT_MAX`].
    pub out: usize,
    /// Length of the measured window.
    pub window: Duration,
    /// Load before the window, not measured.
    pub warmup: Duration,
    /// Process whose processor time is measured around the window.
    pub server_pid: Option<u32>,
    /// Write the live line even when stderr is no terminal.
    pub progress: bool,
}

/// Loads the server and says what was found.
///
/// # Errors
/// [`LoadError`] when the run could not be made. What the server did wrong is in the outcome.
pub fn run(options: DatagramOptions) -> Result<Outcome, LoadError> {
    if options.sockets == 0 || !(1..=DATAGRAMS_OUT_MAX).contains(&options.out) {
        return Err(LoadError::Option(format!(
            "--sockets is at least 1, and --window 1 to {DATAGRAMS_OUT_MAX}"
        )));
    }
    if !(DATAGRAM_NUMBER_BYTES..=SIZE_MAX).contains(&options.size) {
        return Err(LoadError::Option(format!(
            "--size is {DATAGRAM_NUMBER_BYTES} to {SIZE_MAX} for datagrams"
        )));
    }
    if options.window.is_zero() {
        return Err(LoadError::Option("--secs is above 0".to_owned()));
    }
    reserve_descriptors(options.sockets)?;
    let mut load = Load::new(options)?;
    load.measure()?;
    load.drain()?;
    Ok(load.outcome())
}

/// One client.
struct Client {
    socket: UdpSocket,
    /// Where its bytes start in the pattern.
    origin: u64,
    /// Number of the next datagram; the first ones of all begin with [`run_number`].
    next: u64,
    /// Numbers and times of those that are out, in the order in which they were sent.
    out: VecDeque<(u64, u64)>,
}

#[derive(Default)]
struct Counts {
    answered: u64,
    answered_total: u64,
    sent: u64,
    lost: u64,
    late: u64,
}

struct Load {
    options: DatagramOptions,
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    /// Number of the first datagram of each client.
    first: u64,
    pattern: Pattern,
    text: DatagramText,
    incoming: DatagramBatch,
    outgoing: DatagramBatch,
    clock: Instant,
    window_start_ns: u64,
    window_end_ns: u64,
    counts: Counts,
    latencies: Latencies,
    failures: Failures,
    /// New datagrams go out.
    sending: bool,
    used: CpuUse,
    progress: Progress,
}

impl Load {
    fn new(options: DatagramOptions) -> Result<Self, LoadError> {
        let poll = Poll::new().map_err(LoadError::system("epoll_create1"))?;
        let first = run_number();
        let clients = (0..options.sockets)
            .map(|number| {
                let mut socket = connected(options.addr).map_err(LoadError::system("connect"))?;
                poll.registry()
                    .register(&mut socket, Token(number), Interest::READABLE)
                    .map_err(LoadError::system("epoll_ctl"))?;
                let origin = Pattern::origin(number as u64);
                Ok(Client { socket, origin, next: first, out: VecDeque::with_capacity(options.out) })
            })
            .collect::<Result<_, LoadError>>()?;
        let slots = options.out.min(BATCH_MAX);
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_PER_POLL),
            clients,
            first,
            pattern: Pattern::new(),
            text: DatagramText::new(options.size),
            // A byte more than answers have, so that one that is too long is seen.
            incoming: DatagramBatch::new(slots, options.size + 1),
            outgoing: DatagramBatch::new(slots, options.size),
            clock: Instant::now(),
            window_start_ns: u64::MAX,
            window_end_ns: u64::MAX,
            counts: Counts::default(),
            latencies: Latencies::new(),
            failures: Failures::default(),
            sending: true,
            used: CpuUse::default(),
            progress: Progress::new(options.progress),
            options,
        })
    }

    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Warm-up and measured window. What is out at the end counts neither as answered nor as lost.
    fn measure(&mut self) -> Result<(), LoadError> {
        let start_ns = self.now_ns();
        for number in 0..self.clients.len() {
            self.top_up_or_fail(number, start_ns);
        }
        let opens_ns = start_ns + self.options.warmup.as_nanos() as u64;
        let mut closes_ns = u64::MAX;
        let mut opened = CpuSample::default();
        let mut losses_at_ns = start_ns;
        while self.failures.count() == 0 {
            let now_ns = self.now_ns();
            if closes_ns == u64::MAX && now_ns >= opens_ns {
                opened = CpuSample::take(self.options.server_pid)?;
                self.counts = Counts { answered_total: self.counts.answered_total, ..Counts::default() };
                self.window_start_ns = self.now_ns();
                closes_ns = self.window_start_ns + self.options.window.as_nanos() as u64;
            }
            if now_ns >= closes_ns {
                self.window_end_ns = now_ns;
                self.used = opened.until(&CpuSample::take(self.options.server_pid)?);
                break;
            }
            if now_ns >= losses_at_ns {
                self.give_up_lost(now_ns);
                losses_at_ns = now_ns + LOSS_INTERVAL.as_nanos() as u64;
            }
            let edge_ns = if closes_ns == u64::MAX { opens_ns } else { closes_ns };
            self.turn(Duration::from_nanos(edge_ns.saturating_sub(now_ns)).min(LOSS_INTERVAL))?;
            let counts = &self.counts;
            let lost = counts.lost;
            self.progress.tick(now_ns, counts.answered_total, |per_sec| {
                format!("datagrams {}/s  lost {}", show_count(per_sec), show_count(lost as f64))
            });
        }
        Ok(())
    }

    /// Waits for what is out, until nothing has come for a while: the server must not be at it still when the next run begins.
    fn drain(&mut self) -> Result<(), LoadError> {
        self.sending = false;
        let (mut answered, mut answered_at) = (self.counts.answered_total, Instant::now());
        while self.failures.count() == 0
            && self.clients.iter().any(|client| !client.out.is_empty())
            && answered_at.elapsed() < DATAGRAM_TIMEOUT
        {
            self.turn(LOSS_INTERVAL)?;
            if self.counts.answered_total > answered {
                (answered, answered_at) = (self.counts.answered_total, Instant::now());
            }
        }
        Ok(())
    }

    fn turn(&mut self, timeout: Duration) -> Result<(), LoadError> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(LoadError::system("epoll_wait")(error));
            }
            _ => {}
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let number = event.token().0;
            if let Err(failure) = self.receive(number) {
                self.failures.note(&failure);
                break;
            }
        }
        self.events = events;
        Ok(())
    }

    /// Takes the answers that are there, and sends as many datagrams again. Once all that was out is answered it does not look
    /// for more, as there is no more; one that comes twice waits for the next event.
    fn receive(&mut self, number: usize) -> Result<(), Failure> {
        loop {
            let client = &mut self.clients[number];
            let out = client.out.len();
            let most = out.clamp(1, self.incoming.slots());
            let received = match self.incoming.receive(&client.socket, most) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(broken(number, client, source)),
            };
            let now_ns = self.now_ns();
            for index in 0..received {
                self.take(number, index, now_ns)?;
            }
            let is_answered = out > 0 && self.clients[number].out.is_empty();
            self.top_up(number, now_ns)?;
            if received < most || is_answered {
                return Ok(());
            }
        }
    }

    fn take(&mut self, number: usize, index: usize, now_ns: u64) -> Result<(), Failure> {
        let client = &mut self.clients[number];
        let found = self.incoming.received(index);
        let answered = self.text.read(&self.pattern, client.origin, found);
        let ours = self.first..client.next;
        let Some(answered) = answered.filter(|answered| ours.contains(answered)) else {
            if self.is_of_another_run(index) {
                self.counts.late += 1;
                return Ok(());
            }
            return Err(Failure::WrongDatagram {
                socket: number as u64,
                length: self.incoming.received(index).len(),
            });
        };
        // Answers come in order as a rule: the first one is it.
        let Some(place) = client.out.iter().position(|(datagram, _)| *datagram == answered) else {
            self.counts.late += 1;
            return Ok(());
        };
        let Some((_, sent_ns)) = client.out.remove(place) else { return Ok(()) };
        self.counts.answered_total += 1;
        if now_ns >= self.window_start_ns && now_ns < self.window_end_ns {
            self.counts.answered += 1;
            self.latencies.record(now_ns - sent_ns, 1);
        }
        Ok(())
    }

    /// Whether a datagram is one that an earlier run has sent, unchanged: the server may answer it when its port is ours.
    fn is_of_another_run(&self, index: usize) -> bool {
        let found = self.incoming.received(index);
        self.clients.iter().any(|client| {
            let number = self.text.read(&self.pattern, client.origin, found);
            number.is_some_and(|number| number >> COUNTER_BITS != self.first >> COUNTER_BITS)
        })
    }

    /// Sends until the window is full, or the kernel has no room: then the next answer, or the next look for losses, goes on.
    fn top_up(&mut self, number: usize, now_ns: u64) -> Result<(), Failure> {
        let client = &mut self.clients[number];
        while self.sending {
            let count = (self.options.out - client.out.len()).min(self.outgoing.slots());
            if count == 0 {
                return Ok(());
            }
            for index in 0..count {
                let slot = self.outgoing.slot(index);
                self.text.write(&self.pattern, client.origin, client.next + index as u64, slot);
            }
            let sent = match self.outgoing.send(&client.socket, count) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(broken(number, client, source)),
            };
            for _ in 0..sent {
                client.out.push_back((client.next, now_ns));
                client.next += 1;
            }
            self.counts.sent += sent as u64;
            if sent < count {
                return Ok(());
            }
        }
        Ok(())
    }

    fn top_up_or_fail(&mut self, number: usize, now_ns: u64) {
        if let Err(failure) = self.top_up(number, now_ns) {
            self.failures.note(&failure);
        }
    }

    fn give_up_lost(&mut self, now_ns: u64) {
        let since_ns = now_ns.saturating_sub(DATAGRAM_TIMEOUT.as_nanos() as u64);
        for number in 0..self.clients.len() {
            let out = &mut self.clients[number].out;
            while out.front().is_some_and(|(_, sent_ns)| *sent_ns < since_ns) {
                out.pop_front();
                self.counts.lost += 1;
            }
            self.top_up_or_fail(number, now_ns);
        }
    }

    fn outcome(&self) -> Outcome {
        let (options, counts) = (&self.options, &self.counts);
        let end_ns = if self.window_end_ns == u64::MAX { self.now_ns() } else { self.window_end_ns };
        let secs = end_ns.saturating_sub(self.window_start_ns) as f64 / 1e9;
        let per_sec = if secs > 0.0 { counts.answered as f64 / secs } else { 0.0 };
        let mut outcome = Outcome::new("datagrams", options.addr, &self.failures, false);
        outcome
            .field("sockets", options.sockets)
            .field("size", options.size)
            .field("window", options.out)
            .field("secs", secs)
            .field("requests", counts.answered)
            .field("requestsTotal", counts.answered_total)
            .field("requestsPerSec", round(per_sec))
            .field("sent", counts.sent)
            .field("lost", counts.lost)
            .field("late", counts.late)
            .row(
                "load",
                format!("{} sockets x {} B, {} out on each", options.sockets, options.size, options.out),
            )
            .row("window", format!("{secs:.2} s"))
            .row("echoed", format!("{} ({}/s)", show_count(counts.answered as f64), show_count(per_sec)))
            .row(
                "lost",
                format!(
                    "{} of {} without an answer in {}; {} answers late or twice",
                    show_count(counts.lost as f64),
                    show_count(counts.sent as f64),
                    show_micros(DATAGRAM_TIMEOUT.as_micros() as f64),
                    show_count(counts.late as f64)
                ),
            );
        outcome.cpu(&self.used, secs).latencies("latencyUs", "latency", &self.latencies);
        outcome
    }
}

/// The first number of a run: its upper bits are those of no other run that this server has lately seen.
fn run_number() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64 ^ u64::from(std::process::id())) << COUNTER_BITS
}

fn connected(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.connect(&addr.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// What the system says of a socket, usually that nobody has the server's port.
fn broken(number: usize, client: &Client, source: io::Error) -> Failure {
    Failure::DatagramsRefused { socket: number as u64, sent: client.next % (1 << COUNTER_BITS), source }
}
