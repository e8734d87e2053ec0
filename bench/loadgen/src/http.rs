//! HTTP/1.1: N connections that each keep K requests in flight, or make a new connection for each request.
//!
//! Without a rate the next request goes out when a response is in (closed loop). With a rate the requests follow a fixed
//! [`Schedule`], and latency counts from the moment a request was due: what waits behind a stall counts (corrected for
//! coordinated omission). What it would be without that is told beside it.
//!
//! - [`response`]: the reader of responses; [`request`]: URL and request, made once; both pure.
//! - [`figures`]: what is counted.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, event::Event};

use self::{
    figures::{Figures, Sent},
    request::Request,
    response::{AtEnd, Heads, ResponseReader},
};
use crate::{
    cpu::{CpuSample, CpuUse},
    error::{Failure, LoadError},
    in_flight::InFlight,
    limits::{
        CONNECT_TIMEOUT, CONNECTIONS_PER_SOURCE, CONNECTS_PENDING_MAX, DRAIN_TIMEOUT, EVENTS_PER_POLL,
        POLL_MAX, READ_BUFFER_BYTES, RECONNECT_DELAY, reserve_descriptors,
    },
    outcome::Outcome,
    progress::Progress,
    schedule::Schedule,
    stream::Stream,
    target::{Close, Target},
};

pub mod arguments;
pub mod figures;
pub mod request;
pub mod response;

/// What to do; bounds are checked by [`run`].
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The server.
    pub target: Target,
    /// What is asked for.
    pub request: Request,
    /// Connections, at least 1.
    pub connections: usize,
    /// Requests in flight on each connection, at least 1; with a rate the most that may be.
    pub pipeline: u32,
    /// A connection takes one request, which says that it closes.
    pub new_connection: bool,
    /// Requests per second in all, on a fixed schedule; none: as fast as responses come.
    pub rate_per_sec: Option<f64>,
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
    /// A file for all that a plot needs, as JSON.
    pub out: Option<PathBuf>,
}

/// Connects, loads, waits for the last responses and says what was found.
///
/// # Errors
/// [`LoadError`] when the run could not be made. What the server did wrong is in the outcome.
pub fn run(options: HttpOptions) -> Result<Outcome, LoadError> {
    if options.connections == 0 || options.pipeline == 0 {
        return Err(LoadError::Option("--conns and --pipeline are at least 1".to_owned()));
    }
    if options.new_connection && options.pipeline > 1 {
        return Err(LoadError::Option(
            "--new-connection and --pipeline contradict each other: such a connection takes one request"
                .to_owned(),
        ));
    }
    if options.rate_per_sec.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(LoadError::Option("--rate is a number of requests per second above 0".to_owned()));
    }
    if options.window.is_zero() {
        return Err(LoadError::Option("--secs is above 0".to_owned()));
    }
    reserve_descriptors(options.connections)?;
    let mut load = Http::new(options)?;
    load.connect_all()?;
    load.measure()?;
    load.drain()?;
    let outcome = load.figures.outcome(&load.options, &load.used, load.now_ns());
    if let Some(path) = &load.options.out {
        load.figures.write(&outcome, path)?;
    }
    Ok(outcome)
}

/// A connection, or its place: it is opened when there is something to send.
struct Slot {
    stream: Option<Stream>,
    established: bool,
    /// It has failed and is opened again a little later.
    retrying: bool,
    /// With a rate: requests whose time has come, and those of them that were taken up.
    due: u64,
    taken: u64,
    in_flight: InFlight<Sent>,
    /// Of the present connection.
    answered: u64,
    sent: u64,
    reader: ResponseReader,
}

struct Http {
    options: HttpOptions,
    poll: Poll,
    events: Events,
    slots: Vec<Slot>,
    /// Connects under way.
    pending: usize,
    /// Slots to open again, and when.
    retries: VecDeque<(u64, usize)>,
    heads: Heads,
    buffer: Box<[u8]>,
    clock: Instant,
    schedule: Option<Schedule>,
    /// New requests go out.
    sending: bool,
    figures: Figures,
    stopped: bool,
    used: CpuUse,
    progress: Progress,
}

impl Http {
    fn new(mut options: HttpOptions) -> Result<Self, LoadError> {
        let sources = options.connections.div_ceil(CONNECTIONS_PER_SOURCE) as u32;
        if sources > 1 && options.target.sources < sources {
            options.target.sources = Target::sources_possible(&options.target.addr, sources);
        }
        let slot = || Slot {
            stream: None,
            established: false,
            retrying: false,
            due: 0,
            taken: 0,
            in_flight: InFlight::default(),
            answered: 0,
            sent: 0,
            reader: ResponseReader::new(),
        };
        Ok(Self {
            poll: Poll::new().map_err(LoadError::system("epoll_create1"))?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            slots: (0..options.connections).map(|_| slot()).collect(),
            pending: 0,
            retries: VecDeque::new(),
            heads: Heads::new(options.request.is_head),
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            clock: Instant::now(),
            schedule: None,
            sending: false,
            figures: Figures::new(options.rate_per_sec.is_some()),
            stopped: false,
            used: CpuUse::default(),
            progress: Progress::new(options.progress),
            options,
        })
    }

    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Establishes the connections that are kept alive, a bounded number at a time.
    fn connect_all(&mut self) -> Result<(), LoadError> {
        let wanted = if self.options.new_connection { 0 } else { self.slots.len() };
        let (mut next, mut before) = (0, 0);
        let mut progress_at = Instant::now();
        while (next < wanted || self.pending > 0) && !self.stopped {
            while next < wanted && self.pending < CONNECTS_PENDING_MAX {
                self.open(next)?;
                next += 1;
            }
            if self.pending != before {
                (before, progress_at) = (self.pending, Instant::now());
            } else if progress_at.elapsed() > CONNECT_TIMEOUT {
                self.fail_pending_connects();
                break;
            }
            self.turn(POLL_MAX)?;
        }
        Ok(())
    }

    fn open(&mut self, number: usize) -> Result<(), LoadError> {
        match self.options.target.connect(self.figures.opened, Close::Fin) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(LoadError::PortsExhausted { addr: self.options.target.addr.clone() });
            }
            Err(source) => self.fail(number, &Failure::Connect { connection: number as u64, source }),
            Ok(mut stream) => {
                self.poll
                    .registry()
                    .register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)
                    .map_err(LoadError::system("epoll_ctl"))?;
                let slot = &mut self.slots[number];
                (slot.answered, slot.sent, slot.established) = (0, 0, false);
                slot.reader.reset();
                slot.stream = Some(stream);
                self.pending += 1;
                self.figures.opened += 1;
            }
        }
        Ok(())
    }

    /// True when the connect has completed, false when it is still under way.
    fn establish(&mut self, number: usize) -> Result<bool, Failure> {
        let slot = &mut self.slots[number];
        let Some(stream) = &mut slot.stream else { return Ok(false) };
        let failed = |source| Failure::Connect { connection: number as u64, source };
        if let Some(error) = stream.take_error().map_err(failed)? {
            return Err(failed(error));
        }
        slot.established = stream.establish().map_err(failed)?;
        self.pending -= usize::from(slot.established);
        Ok(slot.established)
    }

    fn fail_pending_connects(&mut self) {
        for number in 0..self.slots.len() {
            if self.slots[number].stream.is_some() && !self.slots[number].established {
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
        self.schedule = self.options.rate_per_sec.map(|rate| Schedule::new(rate, start_ns));
        for number in 0..self.slots.len() {
            self.pump(number)?;
        }
        let opens_ns = start_ns + self.options.warmup.as_nanos() as u64;
        let mut closes_ns = u64::MAX;
        let mut opened = CpuSample::default();
        while !self.stopped {
            let now_ns = self.now_ns();
            if closes_ns == u64::MAX && now_ns >= opens_ns {
                opened = CpuSample::take(self.options.server_pid)?;
                let window_start_ns = self.now_ns();
                self.figures.open_window(window_start_ns);
                closes_ns = window_start_ns + self.options.window.as_nanos() as u64;
            }
            // At the window's end too: a request that fell due while this process had to wait is late, not left out.
            self.send_due(now_ns)?;
            self.figures.turn_second(now_ns);
            if now_ns >= closes_ns {
                self.figures.close_window(now_ns);
                self.used = opened.until(&CpuSample::take(self.options.server_pid)?);
                break;
            }
            self.retry(now_ns)?;
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

    /// Waits for the responses that are out, so that one that is lost or cut short at the end is seen too.
    fn drain(&mut self) -> Result<(), LoadError> {
        if let (Some(schedule), false) = (&self.schedule, self.stopped) {
            // What had no room has waited at least until now.
            let count = self.slots.len() as u64;
            for (number, slot) in self.slots.iter().enumerate() {
                for request in slot.taken..slot.due {
                    self.figures.held_back(schedule.at_ns(request * count + number as u64));
                }
            }
        }
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while !self.stopped && self.slots.iter().any(|slot| !slot.in_flight.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.fail_unanswered();
                break;
            }
            self.turn(left.min(POLL_MAX))?;
        }
        Ok(())
    }

    fn fail_unanswered(&mut self) {
        for number in 0..self.slots.len() {
            let requests = self.slots[number].in_flight.len();
            if requests > 0 {
                let (connection, waited_secs) = (number as u64, DRAIN_TIMEOUT.as_secs());
                self.fail(number, &Failure::NoResponse { connection, requests, waited_secs });
            }
        }
    }

    fn show_progress(&mut self, start_ns: u64) {
        let now_ns = self.now_ns();
        let total_secs = (self.options.warmup + self.options.window).as_secs_f64();
        let figures = &self.figures;
        self.progress.tick(now_ns, figures.requests_total, |per_sec| {
            figures.progress((now_ns - start_ns) as f64 / 1e9, total_secs, per_sec)
        });
    }

    /// One poll and what follows from it.
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
            if let Err(failure) = self.ready(event) {
                self.fail(number, &failure);
            }
            if self.stopped {
                break;
            }
            // What the responses make room for goes out in one write.
            self.pump(number)?;
        }
        self.events = events;
        Ok(())
    }

    fn ready(&mut self, event: &Event) -> Result<(), Failure> {
        let number = event.token().0;
        if !self.slots[number].established && !self.establish(number)? {
            return Ok(());
        }
        let hung_up = event.is_read_closed() || event.is_error();
        if event.is_readable() || hung_up {
            self.read(number, hung_up)?;
        }
        Ok(())
    }

    /// Reads until the socket is empty; a short read says so, but a hang-up is only seen by reading on.
    fn read(&mut self, number: usize, hung_up: bool) -> Result<(), Failure> {
        loop {
            let Some(stream) = &mut self.slots[number].stream else { return Ok(()) };
            match stream.read(&mut self.buffer) {
                Ok(0) => return self.ended(number, None),
                Ok(length) => {
                    let emptied = stream.is_emptied_by(length, self.buffer.len());
                    self.take(number, length)?;
                    if emptied && !hung_up {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return self.ended(number, Some(source)),
            }
        }
    }

    /// Reads the responses in what came.
    fn take(&mut self, number: usize, length: usize) -> Result<(), Failure> {
        let now_ns = self.now_ns();
        self.figures.received(now_ns, length);
        let connection = number as u64;
        let slot = &mut self.slots[number];
        let (mut at, mut complete) = (0, 0);
        let mut closes = false;
        while at < length {
            let waiting = slot.in_flight.len() - complete;
            // A server that answers a request before it has all of it is right; before it has any of it, it is not.
            let begun = (slot.answered + u64::from(complete)) * self.options.request.length();
            if waiting == 0 || slot.sent <= begun {
                return Err(Failure::Unrequested { connection });
            }
            let read = slot.reader.read(&self.buffer[at..length], &mut self.heads);
            let (taken, response) = read.map_err(|reason| Failure::Malformed { connection, reason })?;
            at += taken;
            let Some(response) = response else { break };
            complete += 1;
            self.figures.response(response.status, &self.options.request.line);
            closes = response.closes;
            if closes && at < length {
                return Err(Failure::Unrequested { connection });
            }
        }
        let figures = &mut self.figures;
        slot.answered += u64::from(complete);
        slot.in_flight.complete(complete, |sent, count| figures.answered(now_ns, sent, count));
        if closes {
            self.figures.closed_by_response += 1;
            self.close(number);
        } else if self.options.new_connection && complete > 0 {
            // The server was told; it need not tell us.
            self.close(number);
        }
        Ok(())
    }

    /// The server has closed the connection, or it broke.
    fn ended(&mut self, number: usize, source: Option<io::Error>) -> Result<(), Failure> {
        let connection = number as u64;
        let slot = &mut self.slots[number];
        match slot.reader.at_end() {
            AtEnd::CutShort(received) => return Err(Failure::CutShort { connection, received, source }),
            AtEnd::Completes(_) if source.is_some() => {
                return Err(Failure::CutShort { connection, received: slot.reader.received(), source });
            }
            AtEnd::Completes(response) => {
                let (now_ns, figures) = (self.clock.elapsed().as_nanos() as u64, &mut self.figures);
                slot.in_flight.complete(1, |sent, count| figures.answered(now_ns, sent, count));
                figures.response(response.status, &self.options.request.line);
                figures.closed_by_response += 1;
            }
            AtEnd::Between if !slot.in_flight.is_empty() => {
                let requests = slot.in_flight.len();
                return Err(Failure::ClosedInFlight { connection, requests, source });
            }
            AtEnd::Between => self.figures.closed_idle += 1,
        }
        self.close(number);
        Ok(())
    }

    /// Ends the connection in good order. Requests behind the last response have not been looked at, by the protocol, and go out
    /// again on the next one.
    fn close(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        slot.stream = None;
        self.figures.resent += u64::from(slot.in_flight.len());
    }

    fn send_due(&mut self, now_ns: u64) -> Result<(), LoadError> {
        let count = self.slots.len() as u64;
        while let Some(request) = self.schedule.as_mut().and_then(|schedule| schedule.take_due(now_ns)) {
            let number = (request % count) as usize;
            self.slots[number].due += 1;
            self.pump(number)?;
        }
        Ok(())
    }

    /// Slots whose connections failed some time ago.
    fn retry(&mut self, now_ns: u64) -> Result<(), LoadError> {
        while let Some(&(_, number)) = self.retries.front().filter(|(at_ns, _)| *at_ns <= now_ns) {
            self.retries.pop_front();
            self.slots[number].retrying = false;
            self.pump(number)?;
        }
        Ok(())
    }

    /// Takes up the requests that there is room for, and sends what is not sent yet, on a new connection if need be.
    fn pump(&mut self, number: usize) -> Result<(), LoadError> {
        if self.stopped || self.slots[number].retrying {
            return Ok(());
        }
        if self.sending {
            self.take_up(number);
        }
        let slot = &self.slots[number];
        if slot.in_flight.is_empty() {
            return Ok(());
        }
        if slot.stream.is_none() {
            return self.open(number);
        }
        match self.write(number) {
            Err(failure) => self.fail(number, &failure),
            // It was found to have ended.
            Ok(()) if self.slots[number].stream.is_none() => return self.pump(number),
            Ok(()) => {}
        }
        Ok(())
    }

    fn take_up(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        let room = self.options.pipeline - slot.in_flight.len();
        if room == 0 {
            return;
        }
        let at_ns = self.clock.elapsed().as_nanos() as u64;
        let Some(schedule) = &self.schedule else {
            slot.in_flight.push(Sent { due_ns: at_ns, at_ns }, room);
            return;
        };
        let count = self.options.connections as u64;
        for _ in 0..u64::from(room).min(slot.due - slot.taken) {
            let due_ns = schedule.at_ns(slot.taken * count + number as u64);
            slot.in_flight.push(Sent { due_ns, at_ns }, 1);
            slot.taken += 1;
        }
    }

    fn write(&mut self, number: usize) -> Result<(), Failure> {
        let slot = &mut self.slots[number];
        let (Some(stream), true) = (&mut slot.stream, slot.established) else { return Ok(()) };
        let request = &self.options.request;
        let target = (slot.answered + u64::from(slot.in_flight.len())) * request.length();
        let source = loop {
            let written = if slot.sent < target {
                stream.write(request.after(slot.sent, target - slot.sent))
            } else {
                match stream.flush() {
                    Ok(()) => return Ok(()),
                    Err(error) => Err(error),
                }
            };
            match written {
                Ok(written) => slot.sent += written as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => break source,
            }
        };
        // A response that says why may have come before.
        self.read(number, true)?;
        match self.slots[number].stream {
            Some(_) => self.ended(number, Some(source)),
            None => Ok(()),
        }
    }

    /// Ends a connection, and the run too unless failures are tolerated.
    fn fail(&mut self, number: usize, failure: &Failure) {
        let retry_ns = self.now_ns() + RECONNECT_DELAY.as_nanos() as u64;
        let slot = &mut self.slots[number];
        if slot.stream.take().is_some() && !slot.established {
            self.pending -= 1;
        }
        self.figures.failed(failure, slot.in_flight.clear());
        if !slot.retrying {
            slot.retrying = true;
            self.retries.push_back((retry_ns, number));
        }
        self.stopped |= !self.options.tolerate || failure.is_corruption();
    }
}
