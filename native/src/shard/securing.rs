//! TLS between a connection's socket and its plaintext: how [`Session`]s are begun, fed, flushed and ended. What they say is theirs
//! alone.
//!
//! A connection with a session goes other ways at four places of the shard layer: where bytes are read ([`Shard::read_secured`]),
//! where pieces are sent ([`Shard::send_secured`]), where the queue is ([`Shard::send_queue_secured`]), and where its sending half ends
//! ([`Shard::said_close`]); those are in [`records`]. All else is as for any connection. Until its handshake is done nobody is told of it.
#![forbid(unsafe_code)]

mod records;

use super::{Connection, Event, Flags, Handle, Shard, Sink, Socket, System};
use crate::abi;
use crate::limits::{
    TIMER_TICK_MS, TLS_HANDSHAKE_STEP_US, TLS_HANDSHAKE_STEPS_MAX, TLS_HANDSHAKE_STEPS_PER_TURN,
    TLS_RECEIVE_BYTES, WRITEV_PIECES,
};
use crate::timer::Tick;
use crate::tls::failure::{self, Failure};
use crate::tls::scratch::Scratch;
use crate::tls::server::ServerTls;
use crate::tls::session::{Facts, Outbox, Session};
use crate::write_queue::{Detached, PinnedMemory};
use arrayvec::ArrayVec;
use records::new_scratch;
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

/// Turns for which tickets wait. On the shard's thread JavaScript hears of the connection at the end of one, of its first bytes in the
/// next, and has answered them when the one after that begins. (On a thread of its own turns are shorter, and fewer tickets meet an answer.)
const LATE_TURNS: u32 = 2;

/// What a shard has for TLS.
#[derive(Default)]
pub(super) struct Securing {
    /// Received bytes, those of one connection at a time; made for the first that needs it.
    received: Option<Scratch>,
    /// Small writes, to be one record.
    gathered: Vec<u8>,
    outbox: Outbox,
    /// Connections whose tickets wait for what is sent first, and the turn that ends that.
    late: VecDeque<(u32, Handle)>,
    /// Turns, starting over at the end.
    turn: u32,
    /// Steps of handshakes that this turn has left, and when it began.
    steps_left: u64,
    turn_at: Option<Instant>,
    /// For connections that are asked for, by the request's number.
    requests: HashMap<u32, Box<Session>>,
    /// Of requests that failed: why, in words.
    details: HashMap<u32, String>,
}

/// How a server's connections get TLS.
#[derive(Debug, Clone)]
pub struct ServerSecurity {
    /// Its configuration.
    pub tls: Arc<ServerTls>,
    /// They begin without: JavaScript says when.
    pub upgrade: bool,
}

impl<S: System> Shard<S> {
    /// The server's connections get TLS from now on.
    pub fn secure_server(&mut self, server: u16, security: ServerSecurity) {
        if let Some(server) = self.servers.get_mut(&server) {
            server.security = Some(security);
        }
    }

    /// The connection of a request that is made next gets TLS.
    pub fn secure_request(&mut self, request: u32, session: Box<Session>) {
        self.securing.requests.insert(request, session);
    }

    pub(super) fn session_of_request(&mut self, request: u32) -> Option<Box<Session>> {
        self.securing.requests.remove(&request)
    }

    /// A session for a new connection of a server.
    pub(super) fn server_session(&self, server: u16) -> Option<Result<Box<Session>, Failure>> {
        let security = self.servers.get(&server)?.security.as_ref().filter(|security| !security.upgrade)?;
        Some(Session::server(&security.tls).map(Box::new))
    }

    /// Whether a server has as many handshakes as it may.
    pub(super) fn shakes_enough(&self, server: u16) -> bool {
        self.servers.get(&server).is_some_and(|server| {
            server.security.as_ref().is_some_and(|security| server.handshakes >= security.tls.max_handshakes)
        })
    }

    /// The handshake of a connection begins.
    pub(super) fn begin_handshake(&mut self, handle: Handle) {
        let tick = self.tick;
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let Some(session) = connection.tls.as_mut() else { return };
        let timeout_ms = session.handshake_timeout().as_millis() as u32;
        let begun = session.is_client().then(|| session.begin());
        connection.flags.set(Flags::HANDSHAKING);
        connection.active_at = tick;
        if let Some(server) = self.servers.get_mut(&connection.server) {
            server.handshakes += 1;
        }
        self.start_idle_timer(handle, timeout_ms);
        if let Some(begun) = begun {
            self.advance_handshake(handle, begun);
        }
    }

    /// A step of a session that may have something to send now, or be done with its handshake, or have failed.
    fn advance_handshake<T>(&mut self, handle: Handle, step: Result<T, Failure>) {
        if let Err(failure) = step {
            self.fail_session(handle, failure);
            return;
        }
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let Some(session) = connection.tls.as_mut() else { return };
        let is_done = session.is_established() && connection.flags.has(Flags::HANDSHAKING);
        if is_done && session.waits_for_first_write() {
            session.delay_outgoing();
            if session.is_late() {
                self.securing.late.push_back((self.securing.turn.wrapping_add(LATE_TURNS), handle));
            }
        } else if self.flush_records(handle) {
            self.after_write(handle);
        }
        if is_done && self.connections.get(handle).is_some_and(|c| !c.flags.has(Flags::LOST)) {
            self.is_secured(handle);
        }
    }

    /// A turn begins: handshakes may go on, and tickets that have waited for long enough are sent.
    pub(super) fn begin_securing(&mut self) {
        let since =
            self.now.saturating_duration_since(self.securing.turn_at.replace(self.now).unwrap_or(self.now));
        let earned = since.as_micros() as u64 / TLS_HANDSHAKE_STEP_US;
        self.securing.steps_left = earned.clamp(TLS_HANDSHAKE_STEPS_PER_TURN, TLS_HANDSHAKE_STEPS_MAX);
        if self.securing.late.is_empty() {
            return; // their turns are only counted while some wait
        }
        self.securing.turn = self.securing.turn.wrapping_add(1);
        while self.securing.late.front().is_some_and(|&(until, _)| until == self.securing.turn) {
            let Some((_, handle)) = self.securing.late.pop_front() else { return };
            let session = self.connections.get(handle).and_then(|connection| connection.tls.as_ref());
            if session.is_some_and(|session| session.is_late()) && self.flush_records(handle) {
                self.after_write(handle);
            }
        }
    }

    /// Whether there are such.
    pub(super) fn has_late(&self) -> bool {
        !self.securing.late.is_empty()
    }

    fn is_secured(&mut self, handle: Handle) {
        self.ended_handshake(handle);
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let Some(session) = connection.tls.as_mut() else { return };
        self.metrics.add(abi::METRIC_TLS_HANDSHAKES, 1);
        self.metrics.add(abi::METRIC_TLS_RESUMED, session.is_resumed().into());
        let asked_timeout_ms = session.idle_timeout_ms.take();
        connection.active_at = self.tick;
        if !connection.flags.has(Flags::UNANNOUNCED) {
            connection.flags.set(Flags::TELL_TLS_ESTABLISHED);
        }
        if connection.queue.is_some() && !connection.flags.has(Flags::LISTED_SENDING) {
            connection.flags.set(Flags::LISTED_SENDING);
            self.sending.push(handle);
        }
        let limits = self.servers.get(&connection.server).map(|server| server.limits.idle_timeout_ms);
        self.signal(handle);
        self.set_idle_timeout(handle, asked_timeout_ms.or(limits).unwrap_or(0));
        self.resume(handle);
        self.after_write(handle); // it may have been closed meanwhile
    }

    /// It is done, or over: another may have its place.
    fn ended_handshake(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.flags.clear(Flags::HANDSHAKING);
        if let Some(server) = self.servers.get_mut(&connection.server) {
            server.handshakes = server.handshakes.saturating_sub(1);
        }
    }

    /// The connection of a handshake is over: it is counted, and whoever asked for it will be told.
    pub(super) fn handshake_is_over(&mut self, handle: Handle, reason: i32) -> i32 {
        self.ended_handshake(handle);
        // The peer has gone, or the network: what it was about is that there is no session.
        let reason =
            if matches!(reason, libc::ECONNRESET | libc::EPIPE) { abi::TLS_ABANDONED } else { reason };
        if !matches!(reason, 0 | libc::ECANCELED | abi::CLOSE_SERVER | abi::CLOSE_PROGRAM) {
            self.metrics.add(failure::failure_metric(reason), 1);
        }
        let Some(connection) = self.connections.get_mut(handle) else { return reason };
        let text = connection.tls.as_ref().and_then(|session| session.failure()).map(ToString::to_string);
        let unannounced = connection.flags.has(Flags::UNANNOUNCED);
        let peer = connection.peer;
        let why = text.unwrap_or_else(|| "the connection ended".to_owned());
        log::debug!(connection = handle.word(), peer:% = peer; "a TLS handshake failed: {why}");
        if unannounced {
            connection.flags.set(Flags::HANDSHAKE_FAILED);
            if connection.request != 0 && reason != libc::ECANCELED {
                self.securing.details.insert(connection.request, why);
            }
        }
        reason
    }

    /// Ends the handshakes of a server, as that ends.
    pub fn abort_handshakes(&mut self, server: u16) {
        let of_server = |(handle, connection): (Handle, &Connection<S::Socket>)| {
            let shakes = connection.server == server && connection.flags.has(Flags::HANDSHAKING);
            shakes.then_some(handle)
        };
        let shaking: Vec<Handle> = self.connections.iter().filter_map(of_server).collect();
        for handle in shaking {
            self.reset(handle, abi::CLOSE_SERVER);
        }
    }

    /// Ends a connection whose session has failed. What the session has to say of it (an alert) is sent if there is room.
    pub(super) fn fail_session(&mut self, handle: Handle, failure: Failure) {
        let reason = failure.reason();
        // An end is nothing that an answer is waited for.
        let gone = matches!(failure, Failure::Truncated | Failure::Abandoned | Failure::Timeout);
        let Some(connection) = self.connections.get_mut(handle).filter(|c| !c.flags.has(Flags::LOST)) else {
            return;
        };
        if connection.flags.has(Flags::UPGRADING) {
            self.metrics.add(failure::failure_metric(reason), 1);
        } else if !connection.flags.has(Flags::HANDSHAKING) && matches!(failure, Failure::Truncated) {
            self.metrics.add(abi::METRIC_TLS_TRUNCATED, 1);
        }
        if let Some(session) = connection.tls.as_mut() {
            session.fail(failure);
        }
        // Whatever becomes of it, the failure is what there is to tell.
        self.flush_records_by(handle, |socket, bytes| match socket.send(&[IoSlice::new(bytes)]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(bytes.len()),
            result => result,
        });
        if gone {
            self.reset(handle, reason);
        } else {
            self.close_for(handle, reason);
        }
    }

    /// A connection gets TLS: what was written until now goes out as it is, and JavaScript is told when nothing more is received as
    /// plain text. False when it is lost, or has TLS.
    pub fn start_tls(
        &mut self,
        handle: Handle,
        mut session: Box<Session>,
        memory: &dyn PinnedMemory,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(handle) else { return false };
        if connection.flags.has(Flags::LOST) || connection.tls.is_some() {
            return false;
        }
        if let Some(mut queue) = connection.queue.take() {
            while !queue.is_empty() {
                let length = {
                    let mut pieces: ArrayVec<IoSlice<'_>, WRITEV_PIECES> = ArrayVec::new();
                    if queue.slices(memory, &mut pieces) == Err(Detached) || pieces.is_empty() {
                        // A file, which JavaScript has to wait for.
                        self.reset(handle, abi::CLOSE_DETACHED);
                        return false;
                    }
                    pieces.iter().for_each(|piece| session.keep_outgoing(piece));
                    pieces.iter().map(|piece| piece.len()).sum()
                };
                queue.advance(length, &mut self.flushed_pins);
            }
        }
        // The handshake's timeout counts from now on; the connection's own, or what JavaScript asks for meanwhile, behind it.
        let timeout_ms = session.handshake_timeout().as_millis() as u32;
        session.idle_timeout_ms = Some(connection.idle_ticks.saturating_mul(TIMER_TICK_MS as Tick));
        connection.tls = Some(session);
        connection.flags.set(Flags::UPGRADING);
        connection.flags.set(Flags::TELL_TLS_READY);
        self.start_idle_timer(handle, timeout_ms);
        self.tell_flushed_pins(handle);
        self.signal(handle);
        true
    }

    /// What JavaScript received of a connection's TLS: its handshake begins with that.
    pub fn feed_tls(&mut self, now: Instant, handle: Handle, bytes: &[u8]) {
        self.set_time(now);
        let Some(connection) = self.connections.get_mut(handle) else { return };
        const UPGRADES: Flags = Flags::UPGRADING;
        if connection.flags.has(Flags::LOST) || !connection.flags.has(UPGRADES) {
            return;
        }
        connection.flags.clear(UPGRADES);
        let ended = connection.flags.has(Flags::EOF);
        self.begin_handshake(handle);
        for piece in bytes.chunks(TLS_RECEIVE_BYTES) {
            let Some(connection) = self.connections.get_mut(handle) else { return };
            let Some(session) = connection.tls.as_mut().filter(|_| !connection.flags.has(Flags::LOST)) else {
                return;
            };
            let memory = self.securing.received.get_or_insert_with(new_scratch).bytes();
            let kept = session.lend(memory);
            memory[kept..kept + piece.len()].copy_from_slice(piece);
            // Nothing of it is told before JavaScript has heard that the handshake is done.
            self.work_through(handle, kept + piece.len(), &mut NoSink);
        }
        if ended && self.connections.get(handle).is_some_and(|c| c.flags.has(Flags::HANDSHAKING)) {
            return self.fail_session(handle, Failure::Abandoned);
        }
        self.resume(handle);
    }

    /// What a connection's session is; `None` without one, or before it is established.
    pub fn tls_facts(&self, handle: Handle) -> Option<Facts> {
        let session = self.connections.get(handle)?.tls.as_ref()?;
        session.is_established().then(|| session.facts())
    }

    /// Why a connection's session failed, in words.
    pub fn tls_detail(&self, handle: Handle) -> Option<String> {
        self.connections.get(handle)?.tls.as_ref()?.failure().map(ToString::to_string)
    }

    /// The same of a request, once.
    pub fn request_detail(&mut self, request: u32) -> Option<String> {
        self.securing.details.remove(&request)
    }
}

/// There is nobody to tell.
struct NoSink;

impl Sink for NoSink {
    fn room(&self) -> usize {
        0
    }
    fn event(&mut self, _event: Event) {
        debug_assert!(false, "there is no room");
    }
    fn read_buffer(
        &mut self,
        _borrows: bool,
        _hint: usize,
    ) -> Option<(usize, &mut [std::mem::MaybeUninit<u8>])> {
        None
    }
    fn received(&mut self, _handle: i32, _slab: usize, _length: usize) {
        debug_assert!(false, "there is no room");
    }
}
