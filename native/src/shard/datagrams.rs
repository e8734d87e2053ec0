//! Endpoints: sockets of datagrams, many of which a system call receives or sends at once.
//!
//! What a call has received is out of the kernel, so what the sink cannot take of it stays here, and nothing more is received
//! until it has. What the kernel does not take to be sent waits in the endpoint's queue, in the order of each destination.
#![forbid(unsafe_code)]

mod polling;
mod queue;
mod retrying;
mod sending;

use super::{Commands, Event, SIGNALS_MAX, Shard, Sink, System};
use crate::abi;
use crate::error::errno;
use crate::limits::{DATAGRAM_BATCH, DATAGRAM_FAILURES_MAX, DATAGRAM_READS_PER_BATCH, ENDPOINTS_MAX};
use crate::metrics::Metrics;
use crate::net::datagrams::Received;
use crate::net::udp::{self, DatagramSocket, Failure};
use crate::system::Readiness;
use polling::Polling;
use queue::Queue;
use retrying::{Again, Retry};
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

/// How an endpoint starts.
#[derive(Debug, Clone, Copy)]
pub struct EndpointLimits {
    /// High watermark in bytes.
    pub write_high_bytes: usize,
    /// Low watermark in bytes.
    pub write_low_bytes: usize,
    /// Bytes that may be queued; a datagram that comes on top of more is dropped.
    pub write_max_bytes: usize,
}

#[derive(Debug)]
struct Endpoint {
    /// None once the endpoint is lost.
    socket: Option<Arc<DatagramSocket>>,
    limits: EndpointLimits,
    queue: Queue,
    /// The kernel said that datagrams wait, and receiving has not yet found the end of them; or nobody tells.
    readable: bool,
    /// JavaScript has its protocol.
    started: bool,
    paused: bool,
    /// It closes when the queue is empty,
    closing: bool,
    /// or when nothing was sent until then.
    closes_at: Option<Instant>,
    listed_ready: bool,
    listed_signal: bool,
    /// The kernel had no room, and is to tell when it has.
    awaits_room: bool,
    polling: Polling,
    retry: Retry,
    listed_timed: bool,
    write_paused: bool,
    told_paused: bool,
    failures: VecDeque<Failures>,
    /// Why it is lost: errno, or 0.
    reason: i32,
}

/// Datagrams that failed for the same reason, one behind the other.
#[derive(Debug, Clone, Copy)]
struct Failures {
    reason: i32,
    sent: bool,
    count: u32,
}

impl Endpoint {
    fn fail(&mut self, reason: i32, sent: bool) {
        let is_full = self.failures.len() == DATAGRAM_FAILURES_MAX;
        match self.failures.back_mut() {
            Some(last) if is_full || (last.reason, last.sent) == (reason, sent) => {
                last.count = last.count.saturating_add(1);
            }
            _ => self.failures.push_back(Failures { reason, sent, count: 1 }),
        }
    }

    fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    fn may_receive(&self) -> bool {
        self.readable && self.receives()
    }

    /// Whether it is received from as soon as there is something.
    fn receives(&self) -> bool {
        self.started && !self.paused && !self.closing && self.is_open()
    }
}

/// A shard's endpoints.
#[derive(Default)]
pub(super) struct Datagrams {
    /// By number.
    endpoints: Vec<Option<Endpoint>>,
    count: usize,
    /// Made for the first datagram.
    received: Option<Box<Received>>,
    /// Whose what is left in `received` is.
    left: Option<u32>,
    /// Endpoints to receive from without a further word from the kernel.
    ready: Vec<u32>,
    /// Of this batch: endpoints that have had their turn, and go behind those that had none.
    exhausted: Vec<u32>,
    /// Endpoints with events other than datagrams to deliver.
    signals: VecDeque<u32>,
    /// Endpoints for which time alone makes something to do.
    timed: Vec<u32>,
    /// When the first of them is due.
    due_at: Option<Instant>,
}

impl Datagrams {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether work waits that the kernel will not announce again.
    pub(super) fn has_backlog(&self) -> bool {
        self.left.is_some() || !self.ready.is_empty() || !self.signals.is_empty()
    }

    /// When time alone makes something to do.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.due_at
    }

    /// The batch is collected.
    pub(super) fn finish(&mut self) {
        self.ready.append(&mut self.exhausted);
    }

    /// Those of endpoints that are open.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &DatagramSocket> {
        self.endpoints.iter().flatten().filter_map(|endpoint| endpoint.socket.as_deref())
    }

    fn get(&mut self, endpoint: u32) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(endpoint as usize)?.as_mut()
    }

    fn list_ready(&mut self, endpoint: u32) {
        let Some(found) = self.get(endpoint).filter(|found| found.is_open()) else { return };
        if !mem::replace(&mut found.listed_ready, true) {
            self.ready.push(endpoint);
        }
    }

    /// It has had its turn in this batch, and has the next one behind those that had none.
    fn list_exhausted(&mut self, endpoint: u32) {
        let Some(found) = self.get(endpoint).filter(|found| found.is_open()) else { return };
        if !mem::replace(&mut found.listed_ready, true) {
            self.exhausted.push(endpoint);
        }
    }

    /// The sink was full, of its datagrams or of others'.
    fn list_unserved(&mut self, endpoint: u32) {
        match self.left == Some(endpoint) {
            true => self.list_exhausted(endpoint),
            false => self.list_ready(endpoint),
        }
    }

    fn signal(&mut self, endpoint: u32) {
        let Some(found) = self.get(endpoint) else { return };
        if !mem::replace(&mut found.listed_signal, true) {
            self.signals.push_back(endpoint);
        }
    }

    /// Hands on what was received, as far as the sink takes it. False when something is left.
    fn hand_on(&mut self, metrics: &Metrics, sink: &mut dyn Sink) -> bool {
        let Some(endpoint) = self.left else { return true };
        let Some(received) = &mut self.received else { return true };
        let found = self.endpoints.get_mut(endpoint as usize).and_then(Option::as_mut);
        let Some(found) = found.filter(|found| found.is_open() && !found.closing) else {
            received.clear();
            self.left = None;
            return true;
        };
        let (mut count, mut bytes, mut truncated) = (0, 0, 0);
        let is_done = loop {
            let Some(datagram) = received.peek() else { break true };
            if datagram.is_truncated {
                truncated += 1;
                found.fail(abi::DATAGRAM_TRUNCATED, false);
            } else if sink.room() > SIGNALS_MAX
                && sink.datagram(endpoint as i32, datagram.source, datagram.payload)
            {
                count += 1;
                bytes += datagram.payload.len() as u64;
            } else {
                break false;
            }
            received.advance();
        };
        metrics.add(abi::METRIC_DATAGRAMS_RECEIVED, count);
        metrics.add(abi::METRIC_BYTES_READ, bytes);
        if truncated > 0 {
            metrics.add(abi::METRIC_DATAGRAMS_TRUNCATED, truncated);
            self.signal(endpoint);
        }
        if is_done {
            self.left = None;
        }
        is_done
    }
}

impl<S: System> Shard<S> {
    /// Sends and receives by a socket, under a number that is free. Its closed event follows, once. EEXIST for a number that is in
    /// use, EMFILE for one that is beyond the limit; then nothing follows.
    pub fn add_endpoint(
        &mut self,
        now: Instant,
        endpoint: u32,
        socket: Arc<DatagramSocket>,
        limits: EndpointLimits,
    ) -> io::Result<()> {
        self.set_time(now);
        let place = endpoint as usize;
        if place >= ENDPOINTS_MAX {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        if place >= self.datagrams.endpoints.len() {
            self.datagrams.endpoints.resize_with(place + 1, || None);
        }
        if self.datagrams.endpoints[place].is_some() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        let queue = Queue::new(socket.fills_by_peer());
        let watched = self.system.watch_endpoint(&socket, endpoint);
        // One that is not watched is lost at once, and is not to be unwatched: its descriptor may be another endpoint's, too.
        let reason = watched.as_ref().map_or_else(errno, |()| 0);
        self.datagrams.endpoints[place] = Some(Endpoint {
            socket: watched.is_ok().then_some(socket),
            limits,
            queue,
            readable: true, // what came before it was watched need not be announced
            started: false,
            paused: false,
            closing: false,
            closes_at: None,
            listed_ready: false,
            listed_signal: false,
            awaits_room: false,
            polling: Polling::default(),
            retry: Retry::default(),
            listed_timed: false,
            write_paused: false,
            told_paused: false,
            failures: VecDeque::new(),
            reason,
        });
        self.datagrams.count += 1;
        if watched.is_err() {
            self.datagrams.signal(endpoint);
        }
        Ok(())
    }

    /// Bytes in an endpoint's queue.
    pub fn endpoint_queued_bytes(&self, endpoint: u32) -> usize {
        let found = self.datagrams.endpoints.get(endpoint as usize).and_then(Option::as_ref);
        found.map_or(0, |endpoint| endpoint.queue.bytes())
    }

    /// The endpoint is over; what waits is dropped, and counted.
    fn lose_endpoint(&mut self, endpoint: u32, reason: i32) {
        let Some(found) = self.datagrams.get(endpoint) else { return };
        let Some(socket) = found.socket.take() else { return };
        found.reason = reason;
        let dropped = found.queue.clear();
        found.retry = Retry::default();
        found.closes_at = None;
        let is_watched = !found.polling.is_on();
        let (is_timed, is_ready) = (mem::take(&mut found.listed_timed), mem::take(&mut found.listed_ready));
        // Its number may be another's when the lists are come by.
        if is_timed {
            self.datagrams.timed.retain(|&listed| listed != endpoint);
        }
        if is_ready {
            self.datagrams.ready.retain(|&listed| listed != endpoint);
            self.datagrams.exhausted.retain(|&listed| listed != endpoint);
        }
        self.metrics.add(abi::METRIC_DATAGRAMS_DROPPED, dropped as u64);
        if self.datagrams.left == Some(endpoint) {
            self.datagrams.left = None; // as above
        }
        if is_watched {
            self.system.unwatch_endpoint(&socket, endpoint);
        }
        self.datagrams.signal(endpoint);
    }

    pub(super) fn on_endpoint_ready(&mut self, endpoint: u32, told: Readiness, sink: &mut dyn Sink) {
        let Some(found) = self.datagrams.get(endpoint) else { return };
        let Some(socket) = found.socket.clone() else { return };
        let readiness = self.system.look_at_endpoint(&socket, endpoint, told);
        let has_room = readiness.writable && mem::take(&mut found.awaits_room);
        // An error stands, and is told with whatever happens, until somebody takes it: by receiving, or here.
        let asks = readiness.failed || (readiness.readable && !found.receives());
        let error = if asks { socket.take_error() } else { None };
        let is_taken = error.is_some();
        if let Some(error) = error {
            found.retry.succeeded();
            self.datagram_failed(endpoint, errno(&error), false);
        }
        let stays = readiness.failed && S::FAILURE_STAYS;
        if has_room || (stays && is_taken) {
            self.rewatch_endpoint(endpoint);
        } else if stays {
            // A call has taken it before; or it is of a kind that stands (IP_RECVERR), and would be told at once again.
            self.retry_endpoint_later(endpoint, Again::Watch);
        }
        if has_room {
            self.send_queued_datagrams(endpoint);
        }
        let Some(found) = self.datagrams.get(endpoint).filter(|_| readiness.readable) else { return };
        found.readable = true;
        // One on the list has its turn there, not a second one in this batch.
        if !found.listed_ready && !self.receive_datagrams(endpoint, sink) {
            self.datagrams.list_unserved(endpoint);
        }
    }

    /// Serves what was left over. False when something still is.
    pub(super) fn serve_endpoints(&mut self, sink: &mut dyn Sink) -> bool {
        let mut done = self.datagrams.hand_on(&self.metrics, sink);
        let mut waiting = mem::take(&mut self.datagrams.ready);
        for endpoint in waiting.drain(..) {
            let Some(found) = self.datagrams.get(endpoint) else { continue };
            found.listed_ready = false;
            if !done || !self.receive_datagrams(endpoint, sink) {
                done = false;
                self.datagrams.list_unserved(endpoint);
            }
        }
        // The list keeps its memory.
        if self.datagrams.ready.is_empty() {
            self.datagrams.ready = waiting;
        }
        done
    }

    /// Receives from an endpoint, as far as it may and the sink can take it. False when the sink is full.
    fn receive_datagrams(&mut self, endpoint: u32, sink: &mut dyn Sink) -> bool {
        for _ in 0..DATAGRAM_READS_PER_BATCH {
            if self.datagrams.left.is_some() {
                return false;
            }
            let Some(found) = self.datagrams.get(endpoint).filter(|found| found.may_receive()) else {
                return true;
            };
            let Some(socket) = found.socket.clone() else { return true };
            let most = sink.room().saturating_sub(SIGNALS_MAX).min(DATAGRAM_BATCH);
            if most == 0 {
                return false;
            }
            self.metrics.add(abi::METRIC_READS, 1);
            match socket.receive(self.datagrams.received.get_or_insert_default(), most) {
                Ok(count) => {
                    let is_polled = self.note_received(endpoint);
                    if let Some(found) = self.datagrams.get(endpoint) {
                        found.retry.received();
                        // A short one found the end of what there is, and more is a new edge.
                        found.readable = count == most || is_polled;
                    }
                    self.datagrams.left = Some(endpoint);
                    if !self.datagrams.hand_on(&self.metrics, sink) {
                        return false;
                    }
                    if count < most {
                        break;
                    }
                }
                Err(error) => match udp::failure(&error, true) {
                    Failure::Later => {
                        let is_polled = self.note_nothing(endpoint);
                        if let Some(found) = self.datagrams.get(endpoint) {
                            found.readable = is_polled;
                        }
                        break;
                    }
                    Failure::One => self.datagram_failed(endpoint, errno(&error), false),
                    Failure::Again => {
                        if let Some(found) = self.datagrams.get(endpoint) {
                            found.readable = false;
                        }
                        self.datagram_failed(endpoint, errno(&error), false);
                        self.retry_endpoint_later(endpoint, Again::Receive);
                        return true;
                    }
                    Failure::Socket => {
                        self.lose_endpoint(endpoint, errno(&error));
                        return true;
                    }
                },
            }
        }
        // Used up, or to be asked for more though nobody tells of it.
        if self.datagrams.get(endpoint).is_some_and(|found| found.may_receive()) {
            self.datagrams.list_exhausted(endpoint);
        }
        true
    }

    fn datagram_failed(&mut self, endpoint: u32, reason: i32, sent: bool) {
        if let Some(found) = self.datagrams.get(endpoint) {
            found.fail(reason, sent);
            self.datagrams.signal(endpoint);
        }
    }

    /// Applies a command to an endpoint; with a datagram those of the same endpoint that follow, which are applied again for
    /// nothing by whoever comes to them.
    pub(super) fn submit_datagrams(&mut self, index: usize, commands: &dyn Commands) {
        let [operation, word, a, b] = commands.record(index);
        let endpoint = word as u32;
        let Some(found) = self.datagrams.get(endpoint).filter(|found| found.is_open()) else { return };
        match operation {
            abi::COMMAND_DATAGRAM => {
                // The first of several sends them all.
                let is_first = index == 0 || commands.record(index - 1)[..2] != [operation, word];
                if is_first {
                    self.send_datagrams(endpoint, index, commands);
                }
            }
            abi::COMMAND_DATAGRAM_START => {
                found.started = true;
                self.resume_endpoint(endpoint);
            }
            abi::COMMAND_DATAGRAM_PAUSE => {
                found.paused = true;
                self.watch_again(endpoint);
            }
            abi::COMMAND_DATAGRAM_RESUME => {
                found.paused = false;
                self.resume_endpoint(endpoint);
            }
            abi::COMMAND_DATAGRAM_CLOSE => {
                found.closing = true;
                self.close_when_sent(endpoint);
                self.set_close_deadline(endpoint);
            }
            abi::COMMAND_DATAGRAM_ABORT => self.lose_endpoint(endpoint, 0),
            abi::COMMAND_DATAGRAM_LIMITS => {
                found.limits.write_high_bytes = a as usize;
                found.limits.write_low_bytes = b as usize;
                self.update_endpoint_watermarks(endpoint);
            }
            other => debug_assert!(false, "unknown command {other} of an endpoint"),
        }
    }

    fn resume_endpoint(&mut self, endpoint: u32) {
        if self.datagrams.get(endpoint).is_some_and(|found| found.may_receive()) {
            self.datagrams.list_ready(endpoint);
        }
    }

    fn close_when_sent(&mut self, endpoint: u32) {
        if self.datagrams.get(endpoint).is_some_and(|found| found.closing && found.queue.is_empty()) {
            self.lose_endpoint(endpoint, 0);
        }
    }

    fn update_endpoint_watermarks(&mut self, endpoint: u32) {
        let Some(found) = self.datagrams.get(endpoint) else { return };
        if found.queue.bytes() > found.limits.write_high_bytes {
            found.write_paused = true;
        } else if found.queue.bytes() <= found.limits.write_low_bytes {
            found.write_paused = false;
        }
        if found.write_paused != found.told_paused {
            self.datagrams.signal(endpoint);
        }
    }

    /// Delivers events that are no datagrams. What was received before them comes first.
    pub(super) fn deliver_endpoint_signals(&mut self, sink: &mut dyn Sink) {
        while sink.room() > SIGNALS_MAX {
            let Some(&endpoint) = self.datagrams.signals.front() else { return };
            if let Some(found) = self.datagrams.get(endpoint) {
                let mut event = |kind, a, b| sink.event(Event { kind, handle: endpoint as i32, a, b });
                if let Some(Failures { reason, sent, count }) = found.failures.pop_front() {
                    event(
                        abi::EVENT_DATAGRAM_FAILED | i32::from(sent) << abi::SLAB_SHIFT,
                        reason,
                        count as i32,
                    );
                    continue; // there may be no room for the next
                }
                found.listed_signal = false;
                if !found.is_open() {
                    event(abi::EVENT_DATAGRAM_CLOSED, found.reason, 0);
                    self.datagrams.endpoints[endpoint as usize] = None;
                    self.datagrams.count -= 1;
                } else if found.write_paused != mem::replace(&mut found.told_paused, found.write_paused) {
                    let pauses = found.write_paused;
                    event(if pauses { abi::EVENT_DATAGRAM_PAUSE } else { abi::EVENT_DATAGRAM_RESUME }, 0, 0);
                }
            }
            self.datagrams.signals.pop_front();
        }
    }
}
