//! Churn: connect, one echo, close; again and again from C slots at once.
//!
//! Without a rate the next connection follows the end of the last one (closed loop). With a rate the connections follow a
//! fixed schedule, and their latencies count from the moment at which they were meant to be opened.
//!
//! A closed connection's port stays in TIME_WAIT on the side that closed first, which is ours: about 28,000 connections
//! from one address would use them all up. So the source address goes round 127.0.0.2, 127.0.0.3 and on (`--sources`),
//! or the connection ends by reset (`--close rst`), which leaves no TIME_WAIT but is not what clients do.
//!
//! With TLS each connection makes a handshake, whose tickets are read with the echo or before it. Where sessions are resumed,
//! full handshakes for a while longer than warm-up and window come first, to collect tickets: node:tls gives two for a full
//! handshake and none for a resumed one, and rustls uses a ticket once.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, event::Event};

use crate::{
    address::Address,
    cpu::{CpuSample, CpuUse},
    error::{Failure, LoadError},
    limits::{
        CONNECT_TIMEOUT, EVENTS_PER_POLL, POLL_MAX, READ_BUFFER_BYTES, WRITE_BYTES_MAX, reserve_descriptors,
    },
    outcome::{Failures, Latencies, Outcome, round, show_count, show_micros},
    pattern::Pattern,
    progress::Progress,
    schedule::Schedule,
    stream::Stream,
    target::{Close, Target},
    tls::{Handshakes, TlsClient},
    trace::Trace,
};

/// What to do; bounds are checked by [`run`].
#[derive(Clone, Debug)]
pub struct ChurnOptions {
    /// The server, and the source addresses that are taken in turn.
    pub target: Target,
    /// Connections under way at once, at least 1.
    pub concurrency: usize,
    /// Bytes echoed once on each connection, 1 to [`WRITE_BYTES_MAX`].
    pub size: usize,
    /// How a connection ends.
    pub close: Close,
    /// Connections per second, on a fixed schedule; none: as fast as they end.
    pub rate_per_sec: Option<f64>,
    /// A file that tells of every connection; see [`crate::trace`].
    pub trace: Option<PathBuf>,
    /// Length of the measured window.
    pub window: Duration,
    /// Load before the window, not measured.
    pub warmup: Duration,
    /// Process whose processor time is measured around the window.
    pub server_pid: Option<u32>,
    /// Go on when connections fail.
    pub tolerate: bool,
    /// Write the live line even when stderr is no terminal.
    pub progress: bool,
}

/// Loads and says what was found.
///
/// # Errors
/// [`LoadError`] when the run could not be made. What the server did wrong is in the outcome.
pub fn run(options: ChurnOptions) -> Result<Outcome, LoadError> {
    if options.concurrency == 0 {
        return Err(LoadError::Option("--conns is at least 1".to_owned()));
    }
    if options.size == 0 || options.size > WRITE_BYTES_MAX {
        return Err(LoadError::Option(format!("--size is 1 to {WRITE_BYTES_MAX} for churn")));
    }
    if options.window.is_zero() {
        return Err(LoadError::Option("--secs is above 0".to_owned()));
    }
    if options.rate_per_sec.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(LoadError::Option("--rate is a number of connections per second above 0".to_owned()));
    }
    if options.close == Close::Rst && matches!(options.target.addr, Address::Unix(_)) {
        return Err(LoadError::Option("--close rst is for TCP: a Unix socket knows no reset".to_owned()));
    }
    reserve_descriptors(options.concurrency)?;
    let mut load = Churn::new(options)?;
    load.measure()?;
    Ok(load.outcome())
}

struct Slot {
    stream: Option<Stream>,
    number: u64,
    started_ns: u64,
    established: bool,
    sent: usize,
    received: usize,
}

struct Churn {
    options: ChurnOptions,
    poll: Poll,
    events: Events,
    slots: Vec<Slot>,
    /// Those without a connection.
    free: VecDeque<usize>,
    schedule: Option<Schedule>,
    trace: Option<Trace>,
    pattern: Pattern,
    buffer: Box<[u8]>,
    clock: Instant,
    next_number: u64,
    /// New connections are made.
    opening: bool,
    window_start_ns: u64,
    window_end_ns: u64,
    /// Connections that were due by the end of the window and found no slot; with a rate only.
    unopened: u64,
    finished: u64,
    finished_total: u64,
    last_finished_ns: u64,
    connect_latencies: Latencies,
    latencies: Latencies,
    failures: Failures,
    stopped: bool,
    /// Handshakes before the window until it closes, then those in it; with TLS only.
    handshakes: Handshakes,
    used: CpuUse,
    progress: Progress,
}

impl Churn {
    fn new(options: ChurnOptions) -> Result<Self, LoadError> {
        let empty =
            || Slot { stream: None, number: 0, started_ns: 0, established: false, sent: 0, received: 0 };
        let clock = Instant::now();
        Ok(Self {
            schedule: options.rate_per_sec.map(|rate| Schedule::new(rate, 0)),
            trace: options.trace.as_deref().map(Trace::create).transpose()?,
            free: (0..options.concurrency).collect(),
            poll: Poll::new().map_err(LoadError::system("epoll_create1"))?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            slots: (0..options.concurrency).map(|_| empty()).collect(),
            pattern: Pattern::new(),
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            clock,
            next_number: 0,
            opening: true,
            window_start_ns: u64::MAX,
            window_end_ns: u64::MAX,
            unopened: 0,
            finished: 0,
            finished_total: 0,
            last_finished_ns: 0,
            connect_latencies: Latencies::new(),
            latencies: Latencies::new(),
            failures: Failures::default(),
            stopped: false,
            handshakes: Handshakes::default(),
            used: CpuUse::default(),
            progress: Progress::new(options.progress),
            options,
        })
    }

    /// How long sessions are collected before the warm-up.
    fn collecting(&self) -> Duration {
        let resumes = self.options.target.tls.as_ref().is_some_and(TlsClient::resumes);
        if resumes { (self.options.warmup + self.options.window) * 5 / 4 } else { Duration::ZERO }
    }

    fn handshakes_since(&self, earlier: Handshakes) -> Handshakes {
        self.options
            .target
            .tls
            .as_ref()
            .map_or_else(Handshakes::default, |tls| tls.handshakes().since(earlier))
    }

    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    fn measure(&mut self) -> Result<(), LoadError> {
        self.collect_sessions()?;
        let opens_ns = self.now_ns() + self.options.warmup.as_nanos() as u64;
        let mut closes_ns = u64::MAX;
        let mut opened = CpuSample::default();
        while !self.stopped && (self.opening || self.is_any_open()) {
            self.fill()?;
            let now_ns = self.now_ns();
            if closes_ns == u64::MAX && now_ns >= opens_ns {
                opened = CpuSample::take(self.options.server_pid)?;
                self.handshakes = self.handshakes_since(Handshakes::default());
                self.window_start_ns = self.now_ns();
                closes_ns = self.window_start_ns + self.options.window.as_nanos() as u64;
            }
            if self.opening && now_ns >= closes_ns {
                self.window_end_ns = now_ns;
                self.used = opened.until(&CpuSample::take(self.options.server_pid)?);
                self.opening = false;
                self.handshakes = self.handshakes_since(self.handshakes);
                while self.schedule.as_mut().and_then(|schedule| schedule.take_due(now_ns)).is_some() {
                    self.unopened += 1;
                }
            }
            if self.is_stuck(now_ns) {
                self.fail_stuck();
                self.stopped = true;
            }
            let edge_ns = if closes_ns == u64::MAX { opens_ns } else { closes_ns };
            let until_edge = Duration::from_nanos(edge_ns.saturating_sub(now_ns))
                .clamp(Duration::from_millis(1), POLL_MAX);
            let timeout = match &self.schedule {
                Some(schedule) if self.opening && !self.free.is_empty() => {
                    schedule.poll_timeout(now_ns, until_edge)
                }
                _ => until_edge,
            };
            self.turn(timeout)?;
            self.show_progress();
        }
        match self.trace.take() {
            Some(trace) => trace.finish(),
            None => Ok(()),
        }
    }

    /// Before the warm-up, where sessions are resumed: makes full handshakes, and ends when the last of them has ended.
    fn collect_sessions(&mut self) -> Result<(), LoadError> {
        let Some(tls) = self.options.target.tls.clone().filter(TlsClient::resumes) else { return Ok(()) };
        tls.only_collect_sessions(true);
        let until_ns = self.collecting().as_nanos() as u64;
        while !self.stopped && (self.opening || self.is_any_open()) {
            self.fill()?;
            let now_ns = self.now_ns();
            self.opening = now_ns < until_ns;
            if self.is_stuck(now_ns) {
                self.fail_stuck();
                self.stopped = true;
            }
            self.turn(Duration::from_millis(1))?;
            self.show_progress();
        }
        tls.only_collect_sessions(false);
        self.opening = true;
        let now_ns = self.now_ns();
        self.schedule = self.options.rate_per_sec.map(|rate| Schedule::new(rate, now_ns));
        Ok(())
    }

    fn is_any_open(&self) -> bool {
        self.slots.iter().any(|slot| slot.stream.is_some())
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
            if self.stopped {
                break;
            }
            let index = event.token().0;
            let result = self.advance(index, event);
            if let Err(failure) = &result {
                self.fail(index, failure);
            }
            // A slot whose connection ended, well or badly, takes the next one at once.
            if self.slots[index].stream.is_none() {
                self.fill()?;
            }
        }
        self.events = events;
        Ok(())
    }

    /// Opens a connection on every free slot, as far as the schedule asks for them. One that fails at once leaves its slot
    /// to the next call.
    fn fill(&mut self) -> Result<(), LoadError> {
        for _ in 0..self.free.len() {
            if !self.opening || self.stopped {
                return Ok(());
            }
            let now_ns = self.now_ns();
            let started_ns = match &mut self.schedule {
                None => now_ns,
                Some(schedule) => match schedule.take_due(now_ns) {
                    Some(due) => schedule.at_ns(due),
                    None => return Ok(()),
                },
            };
            // A slot whose connect fails goes to the end, and does not keep the others from being tried.
            let Some(index) = self.free.pop_front() else { return Ok(()) };
            self.open(index, started_ns)?;
        }
        Ok(())
    }

    /// Whether a connection waits for longer than it may, and no other one gets on either.
    fn is_stuck(&self, now_ns: u64) -> bool {
        let is_long_ago = |then_ns: u64| now_ns.saturating_sub(then_ns) > CONNECT_TIMEOUT.as_nanos() as u64;
        is_long_ago(self.last_finished_ns)
            && self.slots.iter().any(|slot| slot.stream.is_some() && is_long_ago(slot.started_ns))
    }

    fn open(&mut self, index: usize, started_ns: u64) -> Result<(), LoadError> {
        let number = self.next_number;
        self.next_number += 1;
        self.slots[index] =
            Slot { stream: None, number, started_ns, established: false, sent: 0, received: 0 };
        match self.options.target.connect(number, self.options.close) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(LoadError::PortsExhausted { addr: self.options.target.addr.clone() });
            }
            Err(source) => self.fail(index, &Failure::Connect { connection: number, source }),
            Ok(mut stream) => {
                self.poll
                    .registry()
                    .register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)
                    .map_err(LoadError::system("epoll_ctl"))?;
                self.slots[index].stream = Some(stream);
            }
        }
        Ok(())
    }

    fn advance(&mut self, index: usize, event: &Event) -> Result<(), Failure> {
        if !self.slots[index].established && !self.establish(index, event)? {
            return Ok(());
        }
        self.write(index)?;
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(index)?;
        }
        Ok(())
    }

    /// True once the connect has completed.
    fn establish(&mut self, index: usize, event: &Event) -> Result<bool, Failure> {
        let now_ns = self.now_ns();
        let slot = &mut self.slots[index];
        let Some(stream) = &slot.stream else { return Ok(false) };
        if event.is_error() {
            let failed = |source| Failure::Connect { connection: slot.number, source };
            if let Some(error) = stream.take_error().map_err(failed)? {
                return Err(failed(error));
            }
        }
        slot.established = event.is_writable();
        let instant_ns = if self.schedule.is_some() { slot.started_ns } else { now_ns };
        if slot.established && instant_ns >= self.window_start_ns && instant_ns < self.window_end_ns {
            self.connect_latencies.record(now_ns - slot.started_ns, 1);
        }
        Ok(slot.established)
    }

    fn write(&mut self, index: usize) -> Result<(), Failure> {
        let slot = &mut self.slots[index];
        let Some(stream) = &mut slot.stream else { return Ok(()) };
        let origin = Pattern::origin(slot.number);
        while slot.sent < self.options.size {
            match stream.write(self.pattern.slice(origin + slot.sent as u64, self.options.size - slot.sent)) {
                Ok(written) => slot.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(broken(slot, source)),
            }
        }
        stream.flush().map_err(|source| broken(slot, source))
    }

    fn read(&mut self, index: usize) -> Result<(), Failure> {
        loop {
            let slot = &mut self.slots[index];
            let Some(stream) = &mut slot.stream else { return Ok(()) };
            let length = match stream.read(&mut self.buffer) {
                Ok(0) => {
                    let (received, sent) = (slot.received as u64, slot.sent as u64);
                    return Err(Failure::Closed { connection: slot.number, received, sent });
                }
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(broken(slot, source)),
            };
            let origin = Pattern::origin(slot.number);
            if let Some(at) = self.pattern.mismatch(origin + slot.received as u64, &self.buffer[..length]) {
                let position = (slot.received + at) as u64;
                let expected = self.pattern.slice(origin + position, 1)[0];
                return Err(Failure::WrongByte {
                    connection: slot.number,
                    position,
                    expected,
                    found: self.buffer[at],
                });
            }
            slot.received += length;
            if slot.received > slot.sent {
                let (received, sent) = (slot.received as u64, slot.sent as u64);
                return Err(Failure::Surplus { connection: slot.number, received, sent });
            }
            if slot.received == self.options.size {
                self.finish(index);
                return Ok(());
            }
        }
    }

    fn finish(&mut self, index: usize) {
        let now_ns = self.now_ns();
        let slot = &mut self.slots[index];
        let (started_ns, latency_ns) = (slot.started_ns, now_ns - slot.started_ns);
        slot.stream = None;
        self.free.push_back(index);
        self.finished_total += 1;
        self.last_finished_ns = now_ns;
        if let Some(trace) = &mut self.trace {
            trace.connection(self.clock, started_ns, Some(latency_ns));
        }
        // By schedule, a connection belongs to the window in which it was meant to be opened, however late its answer.
        let instant_ns = if self.schedule.is_some() { started_ns } else { now_ns };
        if instant_ns >= self.window_start_ns && instant_ns < self.window_end_ns {
            self.finished += 1;
            self.latencies.record(latency_ns, 1);
        }
    }

    fn fail(&mut self, index: usize, failure: &Failure) {
        self.failures.note(failure);
        self.slots[index].stream = None;
        self.free.push_back(index);
        if let Some(trace) = &mut self.trace {
            trace.connection(self.clock, self.slots[index].started_ns, None);
        }
        self.stopped |= !self.options.tolerate || failure.is_corruption();
    }

    fn fail_stuck(&mut self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.stream.is_none() {
                continue;
            }
            let failure = if slot.established {
                let missing = (self.options.size - slot.received) as u64;
                Failure::Unanswered {
                    connection: slot.number,
                    missing,
                    waited_secs: CONNECT_TIMEOUT.as_secs(),
                }
            } else {
                Failure::Connect { connection: slot.number, source: io::Error::from(io::ErrorKind::TimedOut) }
            };
            self.fail(index, &failure);
        }
    }

    fn show_progress(&mut self) {
        let now_ns = self.now_ns();
        let (latencies, failures) = (&self.latencies, &self.failures);
        let total_secs = (self.collecting() + self.options.warmup + self.options.window).as_secs_f64();
        self.progress.tick(now_ns, self.finished_total, |per_sec| {
            format!(
                "churn {:.0}/{total_secs:.0} s  {} connections/s  p50 {}  p99 {}  failures {}",
                now_ns as f64 / 1e9,
                show_count(per_sec),
                show_micros(latencies.micros(0.5)),
                show_micros(latencies.micros(0.99)),
                failures.count()
            )
        });
    }

    fn outcome(&self) -> Outcome {
        let options = &self.options;
        let end_ns = if self.window_end_ns == u64::MAX { self.now_ns() } else { self.window_end_ns };
        let secs = end_ns.saturating_sub(self.window_start_ns) as f64 / 1e9;
        let per_sec = if secs > 0.0 { self.finished as f64 / secs } else { 0.0 };
        let mut outcome = Outcome::new("churn", &options.target.addr, &self.failures, options.tolerate);
        outcome
            .field("connections", options.concurrency)
            .field("size", options.size)
            .field("ratePerSec", options.rate_per_sec)
            .field("unopened", self.unopened)
            .field("secs", secs)
            .field("requests", self.finished)
            .field("requestsTotal", self.finished_total)
            .field("requestsPerSec", round(per_sec))
            .row(
                "load",
                format!("{} connections at once, {} B echoed on each", options.concurrency, options.size),
            )
            .row("window", format!("{secs:.2} s"))
            .row("connections", format!("{} ({}/s)", show_count(self.finished as f64), show_count(per_sec)));
        if let Some(rate) = options.rate_per_sec {
            let late =
                format!("{}/s; {} connections were due and found no slot", show_count(rate), self.unopened);
            outcome.row("schedule", late);
        }
        if let Some(tls) = &options.target.tls {
            tls.tell(&mut outcome, self.handshakes);
        }
        outcome
            .cpu(&self.used, secs)
            .latencies("connectUs", "until connected", &self.connect_latencies)
            .latencies("latencyUs", "until echoed", &self.latencies);
        outcome
    }
}

fn broken(slot: &Slot, source: io::Error) -> Failure {
    Failure::Broken {
        connection: slot.number,
        received: slot.received as u64,
        sent: slot.sent as u64,
        source,
    }
}
