//! Idle: N connections held open, doing nothing, until the time is up or stdin closes.

use std::{
    io::{self, IsTerminal, Read, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker};

use crate::{
    error::{Failure, LoadError},
    limits::{
        CONNECT_TIMEOUT, CONNECTIONS_PER_SOURCE, CONNECTS_PENDING_MAX, EVENTS_PER_POLL, POLL_MAX,
        WRITE_BYTES_MAX, reserve_descriptors,
    },
    outcome::{Failures, Outcome, show_count},
    pattern::Pattern,
    progress::Progress,
    stream::Stream,
    target::{Close, Target},
};

/// Token of the waker that fires when stdin closes; connections have the tokens below.
const STDIN_CLOSED: Token = Token(usize::MAX);

/// What to do; bounds are checked by [`run`].
#[derive(Clone, Debug)]
pub struct IdleOptions {
    /// The server, and the source addresses that are taken in turn.
    pub target: Target,
    /// Connections, at least 1.
    pub connections: usize,
    /// Bytes echoed once on each connection before it idles; 0 sends nothing at all.
    pub size: usize,
    /// How long to hold them; none: until stdin closes.
    pub hold: Option<Duration>,
    /// Go on when connections fail.
    pub tolerate: bool,
    /// Write the live line even when stderr is no terminal.
    pub progress: bool,
    /// stdout is for the JSON line: `holding N` goes to stderr.
    pub json: bool,
}

/// Connects, says `holding N`, holds, and says what was found.
///
/// # Errors
/// [`LoadError`] when the run could not be made. What the server did wrong is in the outcome.
pub fn run(mut options: IdleOptions) -> Result<Outcome, LoadError> {
    if options.connections == 0 {
        return Err(LoadError::Option("--conns is at least 1".to_owned()));
    }
    if options.size > WRITE_BYTES_MAX {
        return Err(LoadError::Option(format!("--size is 0 to {WRITE_BYTES_MAX} for idle")));
    }
    if options.hold.is_none() && io::stdin().is_terminal() {
        return Err(LoadError::Option("idle needs --secs when stdin is a terminal".to_owned()));
    }
    reserve_descriptors(options.connections)?;
    let sources = options.connections.div_ceil(CONNECTIONS_PER_SOURCE) as u32;
    options.target.sources =
        Target::sources_possible(&options.target.addr, options.target.sources.max(sources));
    let mut load = Idle::new(options)?;
    let started = Instant::now();
    load.establish_all()?;
    let establish_secs = started.elapsed().as_secs_f64();
    load.hold()?;
    Ok(load.outcome(establish_secs))
}

struct Connection {
    stream: Stream,
    established: bool,
    received: usize,
}

struct Idle {
    options: IdleOptions,
    poll: Poll,
    events: Events,
    connections: Vec<Option<Connection>>,
    pattern: Pattern,
    buffer: Box<[u8]>,
    /// Established, and echoed once when a size was given.
    settled: usize,
    failures: Failures,
    stopped: bool,
    stdin_closed: bool,
    /// Kept until the end: an eventfd that closes takes its wake-up with it.
    waker: Option<Arc<Waker>>,
    held: Duration,
    progress: Progress,
    clock: Instant,
}

impl Idle {
    fn new(options: IdleOptions) -> Result<Self, LoadError> {
        Ok(Self {
            poll: Poll::new().map_err(LoadError::system("epoll_create1"))?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            connections: Vec::with_capacity(options.connections),
            pattern: Pattern::new(),
            buffer: vec![0; WRITE_BYTES_MAX].into_boxed_slice(),
            settled: 0,
            failures: Failures::default(),
            stopped: false,
            stdin_closed: false,
            waker: None,
            held: Duration::ZERO,
            progress: Progress::new(options.progress),
            options,
            clock: Instant::now(),
        })
    }

    fn establish_all(&mut self) -> Result<(), LoadError> {
        let mut settled_at = Instant::now();
        while !self.stopped && self.settled + (self.failures.count() as usize) < self.options.connections {
            let pending =
                |idle: &Self| idle.connections.len() - idle.settled - idle.failures.count() as usize;
            while self.connections.len() < self.options.connections && pending(self) < CONNECTS_PENDING_MAX {
                self.open()?;
            }
            let before = self.settled;
            self.turn(POLL_MAX)?;
            if self.settled > before {
                settled_at = Instant::now();
            } else if settled_at.elapsed() > CONNECT_TIMEOUT {
                self.fail_unsettled();
            }
            let (settled, wanted) = (self.settled, self.options.connections);
            let now_ns = self.clock.elapsed().as_nanos() as u64;
            self.progress.tick(now_ns, settled as u64, |per_sec| {
                format!(
                    "idle {} of {} connections, {}/s",
                    show_count(settled as f64),
                    show_count(wanted as f64),
                    show_count(per_sec)
                )
            });
        }
        Ok(())
    }

    fn hold(&mut self) -> Result<(), LoadError> {
        if self.stopped {
            return Ok(());
        }
        let line = format!("holding {}", self.connections.iter().flatten().count());
        if self.options.json {
            eprintln!("{line}")
        } else {
            println!("{line}")
        }
        io::stdout().flush().map_err(LoadError::system("write"))?;
        let started = Instant::now();
        if self.options.hold.is_none() {
            self.watch_stdin()?;
        }
        while !self.stopped && !self.stdin_closed {
            let left = match self.options.hold {
                Some(hold) => hold.saturating_sub(started.elapsed()),
                None => POLL_MAX,
            };
            if left.is_zero() {
                break;
            }
            self.turn(left.min(POLL_MAX))?;
        }
        self.held = started.elapsed();
        Ok(())
    }

    /// A thread of its own, for a blocking read is the only wait that works on files, pipes and terminals alike.
    fn watch_stdin(&mut self) -> Result<(), LoadError> {
        let waker =
            Arc::new(Waker::new(self.poll.registry(), STDIN_CLOSED).map_err(LoadError::system("eventfd"))?);
        self.waker = Some(Arc::clone(&waker));
        std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while matches!(io::stdin().read(&mut bytes), Ok(length) if length > 0) {}
            // The loop also ends by itself when the process does; a waker that fails has nobody left to wake.
            let _ = waker.wake();
        });
        Ok(())
    }

    fn open(&mut self) -> Result<(), LoadError> {
        let number = self.connections.len();
        self.connections.push(None);
        // Blocks of connections per source, so that each address stays well below its ports.
        let source = (number / CONNECTIONS_PER_SOURCE) as u64;
        match self.options.target.connect(source, Close::Fin) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(LoadError::PortsExhausted { addr: self.options.target.addr.clone() });
            }
            Err(source) => self.fail(number, &Failure::Connect { connection: number as u64, source }),
            Ok(mut stream) => {
                self.poll
                    .registry()
                    .register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)
                    .map_err(LoadError::system("epoll_ctl"))?;
                self.connections[number] = Some(Connection { stream, established: false, received: 0 });
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
            if event.token() == STDIN_CLOSED {
                self.stdin_closed = true;
                continue;
            }
            let number = event.token().0;
            if let Err(failure) = self.advance(number) {
                self.fail(number, &failure);
            }
        }
        self.events = events;
        Ok(())
    }

    fn advance(&mut self, number: usize) -> Result<(), Failure> {
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        let size = self.options.size;
        let origin = Pattern::origin(number as u64);
        if !connection.established {
            let failed = |source| Failure::Connect { connection: number as u64, source };
            if let Some(error) = connection.stream.take_error().map_err(failed)? {
                return Err(failed(error));
            }
            if !connection.stream.establish().map_err(failed)? {
                return Ok(());
            }
            connection.established = true;
            if size > 0 {
                // The socket is fresh: its send buffer takes a message of any allowed size, or the echo fails below.
                let written = connection.stream.write(self.pattern.slice(origin, size));
                written.map_err(|source| Failure::Broken {
                    connection: number as u64,
                    received: 0,
                    sent: 0,
                    source,
                })?;
            } else {
                self.settled += 1;
            }
        }
        let broken = |received, source| Failure::Broken {
            connection: number as u64,
            received,
            sent: size as u64,
            source,
        };
        connection.stream.flush().map_err(|source| broken(connection.received as u64, source))?;
        loop {
            let (received, sent) = (connection.received as u64, size as u64);
            match connection.stream.read(&mut self.buffer) {
                Ok(0) => return Err(Failure::Closed { connection: number as u64, received, sent }),
                Ok(length) => {
                    if connection.received + length > size {
                        let received = received + length as u64;
                        return Err(Failure::Surplus { connection: number as u64, received, sent });
                    }
                    if let Some(at) = self.pattern.mismatch(origin + received, &self.buffer[..length]) {
                        let position = received + at as u64;
                        let expected = self.pattern.slice(origin + position, 1)[0];
                        let found = self.buffer[at];
                        return Err(Failure::WrongByte {
                            connection: number as u64,
                            position,
                            expected,
                            found,
                        });
                    }
                    connection.received += length;
                    if connection.received == size {
                        self.settled += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(broken(received, source)),
            }
        }
    }

    fn fail(&mut self, number: usize, failure: &Failure) {
        self.failures.note(failure);
        if let Some(connection) = self.connections[number].take() {
            let was_settled = connection.established && connection.received == self.options.size;
            self.settled -= usize::from(was_settled);
        }
        self.stopped |= !self.options.tolerate || failure.is_corruption();
    }

    fn fail_unsettled(&mut self) {
        for number in 0..self.connections.len() {
            let Some(connection) = &self.connections[number] else { continue };
            let missing = (self.options.size - connection.received) as u64;
            let failure = match connection.established {
                true if missing == 0 => continue,
                true => Failure::Unanswered {
                    connection: number as u64,
                    missing,
                    waited_secs: CONNECT_TIMEOUT.as_secs(),
                },
                false => {
                    let source = io::Error::from(io::ErrorKind::TimedOut);
                    Failure::Connect { connection: number as u64, source }
                }
            };
            self.fail(number, &failure);
        }
    }

    fn outcome(&self, establish_secs: f64) -> Outcome {
        let held = self.connections.iter().flatten().count();
        let mut outcome =
            Outcome::new("idle", &self.options.target.addr, &self.failures, self.options.tolerate);
        if let Some(tls) = &self.options.target.tls {
            tls.tell(&mut outcome, tls.handshakes());
        }
        outcome
            .field("connections", held)
            .field("wanted", self.options.connections)
            .field("establishSecs", crate::outcome::round(establish_secs))
            .field("heldSecs", crate::outcome::round(self.held.as_secs_f64()))
            .row(
                "connections",
                format!("{} held at the end, established in {establish_secs:.2} s", show_count(held as f64)),
            )
            .row("held", format!("{:.1} s", self.held.as_secs_f64()));
        outcome
    }
}
