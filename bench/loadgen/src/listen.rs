//! Listen: N connections that only read, and one that has the server broadcast to them; every byte checked.
//!
//! The server tells on the other connection how many it has accepted: a connect succeeds before that. The next
//! broadcasts are asked for when every listener has had the last, so what is in flight is bounded.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token};

use crate::{
    address::Address,
    broadcast::{COUNT_REQUEST, NUMBER_BYTES, Script, broadcast_request},
    cpu::{CpuSample, CpuUse},
    error::{Failure, LoadError},
    limits::{
        ACCEPT_POLL_INTERVAL, ANSWER_TIMEOUT, CONNECT_TIMEOUT, CONNECTIONS_PER_SOURCE, CONNECTS_PENDING_MAX,
        EVENTS_PER_POLL, POLL_MAX, READ_BUFFER_BYTES, reserve_descriptors,
    },
    outcome::{Failures, Latencies, Outcome, round, show_count, show_micros},
    progress::Progress,
    stream::Stream,
    target::{Close, Target},
};

/// Bytes of a broadcast, at most.
const SIZE_MAX: usize = 1 << 20;
/// Broadcasts at once, at most.
const AT_ONCE_MAX: u32 = 10_000;

/// What to do; bounds are checked by [`Listeners::connect`].
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// The server, over TCP, and the source addresses that are taken in turn.
    pub target: Target,
    /// Connections that listen, at least 1.
    pub connections: usize,
    /// Bytes of a broadcast, at least [`NUMBER_BYTES`].
    pub size: usize,
    /// Broadcasts that are asked for at once, at least 1.
    pub at_once: u32,
    /// Process whose processor time is measured around the windows.
    pub server_pid: Option<u32>,
    /// Write the live line even when stderr is no terminal.
    pub progress: bool,
}

/// Connections that listen, ready to be measured as often as one likes.
pub struct Listeners {
    options: ListenOptions,
    poll: Poll,
    events: Events,
    listeners: Vec<Listener>,
    control: Control,
    script: Script,
    buffer: Box<[u8]>,
    /// Broadcasts that were asked for, in all.
    asked: u32,
    /// Bytes that came, on all connections.
    received: u64,
    failures: Failures,
    progress: Progress,
    clock: Instant,
}

struct Listener {
    stream: Option<Stream>,
    established: bool,
    received: u64,
}

impl Listeners {
    /// Connects, and waits until the server says that it has accepted all.
    ///
    /// # Errors
    /// [`LoadError`] when the options are wrong or the server does not accept all.
    pub fn connect(mut options: ListenOptions) -> Result<Self, LoadError> {
        if options.connections == 0 {
            return Err(LoadError::Option("--conns is at least 1".to_owned()));
        }
        if !(NUMBER_BYTES..=SIZE_MAX).contains(&options.size) {
            return Err(LoadError::Option(format!("--size is {NUMBER_BYTES} to {SIZE_MAX} for listen")));
        }
        if !(1..=AT_ONCE_MAX).contains(&options.at_once) {
            return Err(LoadError::Option(format!("--at-once is 1 to {AT_ONCE_MAX}")));
        }
        let Address::Tcp(addr) = options.target.addr else {
            return Err(LoadError::Option("--addr is HOST:PORT for listen".to_owned()));
        };
        reserve_descriptors(options.connections)?;
        let sources = options.connections.div_ceil(CONNECTIONS_PER_SOURCE) as u32;
        options.target.sources =
            Target::sources_possible(&options.target.addr, options.target.sources.max(sources));
        let mut listeners = Self {
            poll: Poll::new().map_err(LoadError::system("epoll_create1"))?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            listeners: Vec::with_capacity(options.connections),
            // First, so that it is never among those that the server counts.
            control: Control::connect(addr)?,
            script: Script::new(options.size),
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            asked: 0,
            received: 0,
            failures: Failures::default(),
            progress: Progress::new(options.progress),
            clock: Instant::now(),
            options,
        };
        listeners.connect_all()?;
        listeners.wait_until_accepted()?;
        Ok(listeners)
    }

    /// The server.
    pub fn addr(&self) -> &Address {
        &self.options.target.addr
    }

    /// How many listen.
    pub fn count(&self) -> usize {
        self.listeners.len()
    }

    /// Has the server broadcast for a warm-up and a window, both of whole broadcasts: they last a little longer than asked for.
    ///
    /// # Errors
    /// [`LoadError`] when the run could not be made. What the server did wrong is in the outcome.
    pub fn measure(&mut self, warmup: Duration, window: Duration) -> Result<Outcome, LoadError> {
        if window.is_zero() {
            return Err(LoadError::Option("--secs is above 0".to_owned()));
        }
        let mut latencies = Latencies::new();
        let mut broadcasts = 0;
        let asked_before = self.asked;
        let warm_at = Instant::now() + warmup;
        while self.failures.count() == 0 && Instant::now() < warm_at {
            self.broadcast()?;
        }
        let opened = CpuSample::take(self.options.server_pid)?;
        let opened_at = Instant::now();
        while self.failures.count() == 0 && (broadcasts == 0 || opened_at.elapsed() < window) {
            let asked_at = Instant::now();
            self.broadcast()?;
            if self.failures.count() == 0 {
                broadcasts += u64::from(self.options.at_once);
                latencies.record(asked_at.elapsed().as_nanos() as u64, 1);
            }
        }
        let secs = opened_at.elapsed().as_secs_f64();
        let used = opened.until(&CpuSample::take(self.options.server_pid)?);
        if self.failures.count() == 0 {
            // Nobody was lost, nor gained; and the connection that asks gets answers and no broadcasts.
            self.check_count()?;
        }
        Ok(self.outcome(secs, broadcasts, self.asked - asked_before, &used, &latencies))
    }

    fn connect_all(&mut self) -> Result<(), LoadError> {
        let wanted = self.options.connections;
        let mut established = 0;
        let mut progress_at = Instant::now();
        while established < wanted {
            while self.listeners.len() < wanted && self.listeners.len() - established < CONNECTS_PENDING_MAX {
                self.open()?;
            }
            let before = established;
            self.wait(POLL_MAX)?;
            let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            for event in &events {
                established += usize::from(self.establish(event.token().0)?);
            }
            self.events = events;
            if established > before {
                progress_at = Instant::now();
            } else if progress_at.elapsed() > CONNECT_TIMEOUT {
                return Err(LoadError::NotAccepted { accepted: established, wanted });
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), LoadError> {
        let number = self.listeners.len();
        let source = (number / CONNECTIONS_PER_SOURCE) as u64;
        let mut stream =
            self.options.target.connect(source, Close::Fin).map_err(|error| match error.kind() {
                io::ErrorKind::AddrNotAvailable => {
                    LoadError::PortsExhausted { addr: self.options.target.addr.clone() }
                }
                _ => LoadError::system("connect")(error),
            })?;
        self.poll
            .registry()
            .register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)
            .map_err(LoadError::system("epoll_ctl"))?;
        self.listeners.push(Listener { stream: Some(stream), established: false, received: 0 });
        Ok(())
    }

    /// True the first time that a connection is found to be established.
    fn establish(&mut self, number: usize) -> Result<bool, LoadError> {
        let listener = &mut self.listeners[number];
        let Some(stream) = &mut listener.stream else { return Ok(false) };
        if listener.established {
            return Ok(false);
        }
        if let Some(error) = stream.take_error().map_err(LoadError::system("connect"))? {
            return Err(LoadError::system("connect")(error));
        }
        if !stream.establish().map_err(LoadError::system("connect"))? {
            return Ok(false);
        }
        listener.established = true;
        // Nothing is ever written: room to do so must wake nobody while broadcasts come.
        self.poll
            .registry()
            .reregister(stream, Token(number), Interest::READABLE)
            .map_err(LoadError::system("epoll_ctl"))?;
        Ok(true)
    }

    fn wait_until_accepted(&mut self) -> Result<(), LoadError> {
        let wanted = self.options.connections;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        loop {
            let accepted = self.control.count()?;
            if accepted == wanted {
                return Ok(());
            }
            if accepted > wanted || Instant::now() > deadline {
                return Err(LoadError::NotAccepted { accepted, wanted });
            }
            // The server has no event for this that we could wait for.
            std::thread::sleep(ACCEPT_POLL_INTERVAL);
        }
    }

    fn check_count(&mut self) -> Result<(), LoadError> {
        let (accepted, wanted) = (self.control.count()?, self.options.connections);
        if accepted == wanted { Ok(()) } else { Err(LoadError::NotAccepted { accepted, wanted }) }
    }

    /// Has the server broadcast, and reads until every listener has everything.
    fn broadcast(&mut self) -> Result<(), LoadError> {
        let at_once = self.options.at_once;
        self.control.broadcast(at_once, self.options.size, self.asked)?;
        self.asked = self.asked.checked_add(at_once).ok_or_else(|| {
            LoadError::Option("more than 4,294,967,295 broadcasts: begin anew with fewer seconds".to_owned())
        })?;
        let expected = u64::from(self.asked) * self.options.size as u64;
        let expected_all = expected * self.listeners.len() as u64;
        let mut progress_at = Instant::now();
        while self.failures.count() == 0 && self.received < expected_all {
            let before = self.received;
            self.wait(POLL_MAX)?;
            let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            for event in &events {
                let ended = event.is_read_closed() || event.is_error();
                if let Err(failure) = self.read(event.token().0, ended, expected) {
                    self.failures.note(&failure);
                }
            }
            self.events = events;
            if self.received > before {
                progress_at = Instant::now();
            } else if progress_at.elapsed() > ANSWER_TIMEOUT {
                self.fail_unanswered(expected);
            }
        }
        let now_ns = self.clock.elapsed().as_nanos() as u64;
        let deliveries = u64::from(self.asked) * self.listeners.len() as u64;
        self.progress
            .tick(now_ns, deliveries, |per_sec| format!("listen {} deliveries/s", show_count(per_sec)));
        Ok(())
    }

    /// Reads until the socket is empty; a short read says so, but the end is only seen by reading on.
    fn read(&mut self, number: usize, ended: bool, expected: u64) -> Result<(), Failure> {
        let listener = &mut self.listeners[number];
        let connection = number as u64;
        while let Some(stream) = &mut listener.stream {
            match stream.read(&mut self.buffer) {
                Ok(0) => {
                    listener.stream = None;
                    return Err(Failure::Closed { connection, received: listener.received, sent: expected });
                }
                Ok(length) => {
                    let found = &self.buffer[..length];
                    if let Some((place, byte)) = self.script.mismatch(listener.received, found) {
                        return Err(Failure::WrongByte {
                            connection,
                            position: listener.received + place as u64,
                            expected: byte,
                            found: found[place],
                        });
                    }
                    listener.received += length as u64;
                    self.received += length as u64;
                    if listener.received > expected {
                        return Err(Failure::Surplus {
                            connection,
                            received: listener.received,
                            sent: expected,
                        });
                    }
                    if length < self.buffer.len() && !ended {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    listener.stream = None;
                    let received = listener.received;
                    return Err(Failure::Broken { connection, received, sent: expected, source });
                }
            }
        }
        Ok(())
    }

    fn fail_unanswered(&mut self, expected: u64) {
        for (number, listener) in self.listeners.iter().enumerate() {
            if listener.received < expected {
                self.failures.note(&Failure::Unanswered {
                    connection: number as u64,
                    missing: expected - listener.received,
                    waited_secs: ANSWER_TIMEOUT.as_secs(),
                });
            }
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), LoadError> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(LoadError::system("epoll_wait")(error))
            }
            _ => Ok(()),
        }
    }

    /// A request is a delivery: one broadcast at one listener.
    fn outcome(
        &self,
        secs: f64,
        broadcasts: u64,
        asked: u32,
        used: &CpuUse,
        latencies: &Latencies,
    ) -> Outcome {
        let (options, count) = (&self.options, self.listeners.len() as u64);
        let deliveries = broadcasts * count;
        let per_sec = deliveries as f64 / secs;
        let mut outcome = Outcome::new("listen", &options.target.addr, &self.failures, false);
        outcome
            .field("connections", count)
            .field("size", options.size)
            .field("atOnce", options.at_once)
            .field("secs", secs)
            .field("broadcasts", broadcasts)
            .field("requests", deliveries)
            .field("requestsTotal", u64::from(asked) * count)
            .field("requestsPerSec", round(per_sec))
            .row(
                "load",
                format!(
                    "{} listeners x {} B, {} at once",
                    show_count(count as f64),
                    options.size,
                    options.at_once
                ),
            )
            .row("window", format!("{secs:.2} s, {} broadcasts", show_count(broadcasts as f64)))
            .row("deliveries", format!("{} ({}/s)", show_count(deliveries as f64), show_count(per_sec)))
            .row("until all have it", format!("p50 {}", show_micros(latencies.micros(0.5))));
        outcome.cpu(used, secs).latencies("latencyUs", "latency", latencies);
        outcome
    }
}

/// The connection on which the server is told what to do. It blocks: nothing else is to be done meanwhile.
struct Control {
    stream: BufReader<TcpStream>,
}

impl Control {
    /// Connected, and known to the server as the one that does not listen.
    fn connect(addr: SocketAddr) -> Result<Self, LoadError> {
        let stream =
            TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT).map_err(LoadError::system("connect"))?;
        stream.set_nodelay(true).map_err(LoadError::system("setsockopt"))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(LoadError::system("setsockopt"))?;
        let mut control = Self { stream: BufReader::new(stream) };
        let others = control.count()?;
        if others == 0 { Ok(control) } else { Err(LoadError::NotAccepted { accepted: others, wanted: 0 }) }
    }

    /// How many listeners the server has accepted.
    fn count(&mut self) -> Result<usize, LoadError> {
        self.tell(COUNT_REQUEST)?;
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(LoadError::system("read"))?;
        line.trim().parse().map_err(|_| {
            LoadError::Option(format!(
                "--addr: the server answers {line:?} to {COUNT_REQUEST:?}, not a number"
            ))
        })
    }

    fn broadcast(&mut self, messages: u32, size: usize, first: u32) -> Result<(), LoadError> {
        self.tell(&broadcast_request(messages, size, first))
    }

    fn tell(&mut self, request: &str) -> Result<(), LoadError> {
        self.stream.get_mut().write_all(request.as_bytes()).map_err(LoadError::system("write"))
    }
}
