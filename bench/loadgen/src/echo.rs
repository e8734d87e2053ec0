//! Echo: N connections, each keeps P messages of B bytes in flight, every byte checked.
//!
//! Without a rate the next message goes out when an answer is in (closed loop). With a rate the messages follow a fixed
//! [`Schedule`], and latency counts from the moment a message was meant to go out.

use std::{
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, event::Event};

use crate::{
    cpu::{CpuSample, CpuUse},
    error::{Failure, LoadError},
    in_flight::InFlight,
    limits::{
        CONNECT_TIMEOUT, CONNECTIONS_PER_SOURCE, CONNECTS_PENDING_MAX, DRAIN_TIMEOUT, EVENTS_PER_POLL,
        POLL_MAX, READ_BUFFER_BYTES, WRITE_BYTES_MAX, reserve_descriptors,
    },
    outcome::{Failures, Latencies, Outcome, show_count, show_micros},
    pattern::Pattern,
    progress::Progress,
    schedule::Schedule,
    stream::Stream,
    target::{Close, Target},
};

/// What to do; bounds are checked by [`run`].
#[derive(Clone, Debug)]
pub struct EchoOptions {
    /// The server.
    pub target: Target,
    /// Connections, at least 1.
    pub connections: usize,
    /// Bytes of a message, at least 1.
    pub size: usize,
    /// Messages in flight on each connection, at least 1.
    pub pipeline: u32,
    /// Length of the measured window.
    pub window: Duration,
    /// Load before the window, not measured.
    pub warmup: Duration,
    /// Messages per second in all, on a fixed schedule; none: as fast as answers come.
    pub rate_per_sec: Option<f64>,
    /// Process whose processor time is measured around the window.
    pub server_pid: Option<u32>,
    /// Go on when connections fail.
    pub tolerate: bool,
    /// Write the live line even when stderr is no terminal.
    pub progress: bool,
}

/// Connects, loads, waits for the last answers and says what was found.
///
/// # Errors
/// [`LoadError`] when the run could not be made. What the server did wrong is in the outcome.
pub fn run(options: EchoOptions) -> Result<Outcome, LoadError> {
    if options.connections == 0 || options.size == 0 || options.pipeline == 0 {
        return Err(LoadError::Option("--conns, --size and --pipeline are at least 1".to_owned()));
    }
    if options.rate_per_sec.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(LoadError::Option("--rate is a number of messages per second above 0".to_owned()));
    }
    if options.window.is_zero() {
        return Err(LoadError::Option("--secs is above 0".to_owned()));
    }
    reserve_descriptors(options.connections)?;
    let mut load = Echo::new(options)?;
    load.connect_all()?;
    load.measure()?;
    load.drain()?;
    Ok(load.outcome())
}

struct Connection {
    stream: Option<Stream>,
    established: bool,
    origin: u64,
    /// Messages allowed to go out so far; their bytes are what `sent` grows towards.
    started: u64,
    /// Messages whose time has come by the schedule; with a rate only.
    due: u64,
    answered: u64,
    sent: u64,
    received: u64,
    in_flight: InFlight,
}

struct Echo {
    options: EchoOptions,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    pattern: Pattern,
    buffer: Box<[u8]>,
    clock: Instant,
    schedule: Option<Schedule>,
    /// New messages go out.
    sending: bool,
    /// The measured window; `window_end_ns` is `u64::MAX` until it has closed.
    window_start_ns: u64,
    window_end_ns: u64,
    requests: u64,
    requests_total: u64,
    unsent: u64,
    latencies: Latencies,
    failures: Failures,
    stopped: bool,
    used: CpuUse,
    progress: Progress,
}

impl Echo {
    fn new(options: EchoOptions) -> Result<Self, LoadError> {
        let connections = (0..options.connections)
            .map(|number| Connection {
                stream: None,
                established: false,
                origin: Pattern::origin(number as u64),
                started: 0,
                due: 0,
                answered: 0,
                sent: 0,
                received: 0,
                in_flight: InFlight::default(),
            })
            .collect();
        Ok(Self {
            poll: Poll::new().map_err(LoadError::system("epoll_create1"))?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            connections,
            pattern: Pattern::new(),
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            clock: Instant::now(),
            schedule: None,
            sending: false,
            window_start_ns: u64::MAX,
            window_end_ns: u64::MAX,
            requests: 0,
            requests_total: 0,
            unsent: 0,
            latencies: Latencies::new(),
            failures: Failures::default(),
            stopped: false,
            used: CpuUse::default(),
            progress: Progress::new(options.progress),
            options,
        })
    }

    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Establishes every connection, a bounded number at a time.
    fn connect_all(&mut self) -> Result<(), LoadError> {
        let mut target = self.options.target.clone();
        let sources = self.connections.len().div_ceil(CONNECTIONS_PER_SOURCE) as u32;
        if sources > 1 {
            target.sources = Target::sources_possible(&target.addr, sources);
        }
        let (mut next, mut pending) = (0, 0);
        let mut progress_at = Instant::now();
        while (next < self.connections.len() || pending > 0) && !self.stopped {
            while next < self.connections.len() && pending < CONNECTS_PENDING_MAX {
                match self.connect_one(next, &target)? {
                    Ok(()) => pending += 1,
                    Err(failure) => self.fail(next, &failure),
                }
                next += 1;
            }
            self.wait(POLL_MAX)?;
            let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            for event in &events {
                let number = event.token().0;
                if self.connections[number].established || self.connections[number].stream.is_none() {
                    continue;
                }
                match self.establish(number) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(failure) => self.fail(number, &failure),
                }
                pending -= 1;
                progress_at = Instant::now();
            }
            self.events = events;
            if pending > 0 && progress_at.elapsed() > CONNECT_TIMEOUT {
                self.fail_pending_connects();
                pending = 0;
            }
        }
        Ok(())
    }

    fn connect_one(&mut self, number: usize, target: &Target) -> Result<Result<(), Failure>, LoadError> {
        match target.connect(number as u64, Close::Fin) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                Err(LoadError::PortsExhausted { addr: target.addr.clone() })
            }
            Err(source) => Ok(Err(Failure::Connect { connection: number as u64, source })),
            Ok(mut stream) => {
                self.poll
                    .registry()
                    .register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)
                    .map_err(LoadError::system("epoll_ctl"))?;
                self.connections[number].stream = Some(stream);
                Ok(Ok(()))
            }
        }
    }

    /// True when the connect has completed, and the handshake, false when they are still under way.
    fn establish(&mut self, number: usize) -> Result<bool, Failure> {
        let connection = &mut self.connections[number];
        let Some(stream) = &mut connection.stream else { return Ok(false) };
        let failed = |source| Failure::Connect { connection: number as u64, source };
        if let Some(error) = stream.take_error().map_err(failed)? {
            return Err(failed(error));
        }
        connection.established = stream.establish().map_err(failed)?;
        Ok(connection.established)
    }

    fn fail_pending_connects(&mut self) {
        for number in 0..self.connections.len() {
            if self.connections[number].stream.is_some() && !self.connections[number].established {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                self.fail(number, &Failure::Connect { connection: number as u64, source });
            }
        }
    }

    /// Warm-up and measured window.
    fn measure(&mut self) -> Result<(), LoadError> {
        if self.stopped {
            return Ok(());
        }
        self.sending = true;
        let start_ns = self.now_ns();
        match self.options.rate_per_sec {
            Some(rate) => self.schedule = Some(Schedule::new(rate, start_ns)),
            None => {
                for number in 0..self.connections.len() {
                    self.start_messages(number, self.options.pipeline, start_ns);
                    self.flush(number);
                }
            }
        }
        let opens_ns = start_ns + self.options.warmup.as_nanos() as u64;
        let mut closes_ns = u64::MAX;
        let mut opened = CpuSample::default();
        while !self.stopped {
            let now_ns = self.now_ns();
            if closes_ns == u64::MAX && now_ns >= opens_ns {
                opened = CpuSample::take(self.options.server_pid)?;
                self.window_start_ns = self.now_ns();
                closes_ns = self.window_start_ns + self.options.window.as_nanos() as u64;
            }
            // At the window's end too: a message that fell due while this process had to wait is late, not left out.
            self.send_due(now_ns);
            if now_ns >= closes_ns {
                self.window_end_ns = now_ns;
                self.used = opened.until(&CpuSample::take(self.options.server_pid)?);
                break;
            }
            let edge_ns = if closes_ns == u64::MAX { opens_ns } else { closes_ns };
            let until_edge = Duration::from_nanos(edge_ns.saturating_sub(now_ns)).min(POLL_MAX);
            let timeout = match &self.schedule {
                Some(schedule) => schedule.poll_timeout(now_ns, until_edge),
                None => until_edge,
            };
            self.turn(timeout)?;
            self.show_progress(start_ns);
        }
        self.sending = false;
        Ok(())
    }

    /// Waits for the answers that are out, so that a lost byte at the end is seen too.
    fn drain(&mut self) -> Result<(), LoadError> {
        // Due messages that a full pipeline held back have waited at least until now.
        if self.schedule.is_some() && !self.stopped {
            self.record_held_back();
        }
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while !self.stopped
            && self.connections.iter().any(|one| one.stream.is_some() && one.answered < one.started)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.fail_unanswered();
                break;
            }
            self.turn(left.min(POLL_MAX))?;
        }
        Ok(())
    }

    fn record_held_back(&mut self) {
        let Some(schedule) = &self.schedule else { return };
        let count = self.connections.len() as u64;
        for (number, connection) in self.connections.iter().enumerate() {
            for message in connection.started..connection.due {
                let at_ns = schedule.at_ns(message * count + number as u64);
                self.unsent += 1;
                if at_ns >= self.window_start_ns && at_ns < self.window_end_ns {
                    self.latencies.record(self.window_end_ns - at_ns, 1);
                }
            }
        }
    }

    fn fail_unanswered(&mut self) {
        for number in 0..self.connections.len() {
            let connection = &self.connections[number];
            let missing = connection.started * self.options.size as u64 - connection.received;
            if connection.stream.is_some() && missing > 0 {
                let waited_secs = DRAIN_TIMEOUT.as_secs();
                self.fail(number, &Failure::Unanswered { connection: number as u64, missing, waited_secs });
            }
        }
    }

    fn show_progress(&mut self, start_ns: u64) {
        let now_ns = self.now_ns();
        let (latencies, failures, options) = (&self.latencies, &self.failures, &self.options);
        let total_secs = (options.warmup + options.window).as_secs_f64();
        self.progress.tick(now_ns, self.requests_total, |per_sec| {
            format!(
                "echo {:.0}/{total_secs:.0} s  {} req/s  p50 {}  p99 {}  failures {}",
                (now_ns - start_ns) as f64 / 1e9,
                show_count(per_sec),
                show_micros(latencies.micros(0.5)),
                show_micros(latencies.micros(0.99)),
                failures.count()
            )
        });
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LoadError> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(LoadError::system("epoll_wait")(error))
            }
            _ => Ok(()),
        }
    }

    /// One poll and what follows from it.
    fn turn(&mut self, timeout: Duration) -> Result<(), LoadError> {
        self.wait(timeout)?;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            if let Err(failure) = self.ready(event) {
                self.fail(event.token().0, &failure);
            }
            if self.stopped {
                break;
            }
        }
        self.events = events;
        Ok(())
    }

    fn ready(&mut self, event: &Event) -> Result<(), Failure> {
        let number = event.token().0;
        let hung_up = event.is_read_closed() || event.is_error();
        if event.is_readable() || hung_up {
            self.read(number, hung_up)?;
        }
        // Also after a read: what the answers make room for goes out in one write.
        self.write(number)
    }

    /// Reads until the socket is empty; a short read says so, but a hang-up is only seen by reading on.
    fn read(&mut self, number: usize, hung_up: bool) -> Result<(), Failure> {
        loop {
            let connection = &mut self.connections[number];
            let Some(stream) = &mut connection.stream else { return Ok(()) };
            match stream.read(&mut self.buffer) {
                Ok(0) => {
                    let (received, sent) = (connection.received, connection.sent);
                    return Err(Failure::Closed { connection: number as u64, received, sent });
                }
                Ok(length) => {
                    let emptied = stream.is_emptied_by(length, self.buffer.len());
                    self.take(number, length)?;
                    if emptied && !hung_up {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.broken(number, source)),
            }
        }
    }

    /// Checks the bytes that came and counts the messages that they complete.
    fn take(&mut self, number: usize, length: usize) -> Result<(), Failure> {
        let now_ns = self.now_ns();
        let connection = &mut self.connections[number];
        let found = &self.buffer[..length];
        if let Some(index) = self.pattern.mismatch(connection.origin + connection.received, found) {
            let position = connection.received + index as u64;
            let expected = self.pattern.slice(connection.origin + position, 1)[0];
            let found = found[index];
            return Err(Failure::WrongByte { connection: number as u64, position, expected, found });
        }
        connection.received += length as u64;
        if connection.received > connection.sent {
            let (received, sent) = (connection.received, connection.sent);
            return Err(Failure::Surplus { connection: number as u64, received, sent });
        }
        let complete = connection.received / self.options.size as u64 - connection.answered;
        if complete == 0 {
            return Ok(());
        }
        connection.answered += complete;
        self.requests_total += complete;
        let (opens_ns, closes_ns) = (self.window_start_ns, self.window_end_ns);
        if now_ns >= opens_ns && now_ns < closes_ns {
            self.requests += complete;
        }
        // By schedule, a message belongs to the window in which it was meant to go out, however late its answer.
        let by_schedule = self.schedule.is_some();
        let latencies = &mut self.latencies;
        connection.in_flight.complete(complete as u32, |at_ns, count| {
            let instant = if by_schedule { at_ns } else { now_ns };
            if instant >= opens_ns && instant < closes_ns {
                latencies.record(now_ns - at_ns, u64::from(count));
            }
        });
        if by_schedule {
            self.start_due(number);
        } else if self.sending {
            self.start_messages(number, complete as u32, now_ns);
        }
        Ok(())
    }

    fn send_due(&mut self, now_ns: u64) {
        let count = self.connections.len() as u64;
        while let Some(message) = self.schedule.as_mut().and_then(|schedule| schedule.take_due(now_ns)) {
            let number = (message % count) as usize;
            self.connections[number].due += 1;
            self.start_due(number);
            self.flush(number);
        }
    }

    /// Starts the messages whose time has come, as far as the pipeline has room.
    fn start_due(&mut self, number: usize) {
        let Some(schedule) = &self.schedule else { return };
        let count = self.connections.len() as u64;
        let connection = &mut self.connections[number];
        // Held back at the end of the window, they are accounted for already.
        while self.sending
            && connection.started < connection.due
            && connection.in_flight.len() < self.options.pipeline
        {
            connection.in_flight.push(schedule.at_ns(connection.started * count + number as u64), 1);
            connection.started += 1;
        }
    }

    fn start_messages(&mut self, number: usize, count: u32, now_ns: u64) {
        let connection = &mut self.connections[number];
        if connection.stream.is_some() {
            connection.in_flight.push(now_ns, count);
            connection.started += u64::from(count);
        }
    }

    fn flush(&mut self, number: usize) {
        if let Err(failure) = self.write(number) {
            self.fail(number, &failure);
        }
    }

    fn write(&mut self, number: usize) -> Result<(), Failure> {
        let connection = &mut self.connections[number];
        let Some(stream) = &mut connection.stream else { return Ok(()) };
        let target = connection.started * self.options.size as u64;
        while connection.sent < target {
            let length = (target - connection.sent).min(WRITE_BYTES_MAX as u64) as usize;
            match stream.write(self.pattern.slice(connection.origin + connection.sent, length)) {
                Ok(written) => connection.sent += written as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.broken(number, source)),
            }
        }
        match stream.flush() {
            Ok(()) => Ok(()),
            Err(source) => Err(self.broken(number, source)),
        }
    }

    fn broken(&self, number: usize, source: io::Error) -> Failure {
        let connection = &self.connections[number];
        Failure::Broken {
            connection: number as u64,
            received: connection.received,
            sent: connection.sent,
            source,
        }
    }

    /// Ends a connection, and the run too unless failures are tolerated.
    fn fail(&mut self, number: usize, failure: &Failure) {
        self.failures.note(failure);
        self.connections[number].stream = None;
        let none_left = self.connections.iter().all(|one| one.stream.is_none());
        self.stopped |= !self.options.tolerate || failure.is_corruption() || none_left && self.sending;
    }

    fn outcome(&self) -> Outcome {
        let options = &self.options;
        let end_ns = if self.window_end_ns == u64::MAX { self.now_ns() } else { self.window_end_ns };
        let secs = end_ns.saturating_sub(self.window_start_ns) as f64 / 1e9;
        let per_sec = if secs > 0.0 { self.requests as f64 / secs } else { 0.0 };
        let mut outcome = Outcome::new("echo", &options.target.addr, &self.failures, options.tolerate);
        outcome
            .field("connections", options.connections)
            .field("size", options.size)
            .field("pipeline", options.pipeline)
            .field("ratePerSec", options.rate_per_sec)
            .field("secs", secs)
            .field("requests", self.requests)
            .field("requestsTotal", self.requests_total)
            .field("requestsPerSec", crate::outcome::round(per_sec))
            .field("bytesPerSec", (per_sec * options.size as f64).round())
            .field("unsent", self.unsent);
        outcome
            .row(
                "load",
                format!(
                    "{} connections x {} B, {} in flight",
                    options.connections, options.size, options.pipeline
                ),
            )
            .row("window", format!("{secs:.2} s"))
            .row(
                "requests",
                format!(
                    "{} ({}/s, {:.1} MB/s)",
                    show_count(self.requests as f64),
                    show_count(per_sec),
                    per_sec * options.size as f64 / 1e6
                ),
            );
        if let Some(rate) = options.rate_per_sec {
            outcome.row(
                "schedule",
                format!("{}/s; {} messages were due and found no room", show_count(rate), self.unsent),
            );
        }
        if let Some(tls) = &options.target.tls {
            tls.tell(&mut outcome, tls.handshakes());
        }
        outcome.cpu(&self.used, secs).latencies("latencyUs", "latency", &self.latencies);
        outcome
    }
}
