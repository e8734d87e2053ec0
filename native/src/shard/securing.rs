//! TLS between a connection's socket and its plaintext: how [`Session`]s are begun, fed, flushed and ended. What they say is theirs
//! alone.
//!
//! A connection with a session goes other ways at four places of the shard layer: where bytes are read ([`Shard::read_secured`]),
//! where pieces are sent ([`Shard::send_secured`]), where the queue is ([`Shard::send_queue_secured`]), and where its sending half ends
//! ([`Shard::said_close`]). All else is as for any connection. Until its handshake is done nobody is told of it.
#![forbid(unsafe_code)]

use super::{Connection, Event, Flags, Handle, SIGNALS_MAX, Shard, Sink, Socket, System};
use crate::abi;
use crate::error::errno;
use crate::limits::{
    READS_PER_BATCH, TIMER_TICK_MS, TLS_ENCRYPT_BYTES, TLS_GATHER_BYTES, TLS_INCOMING_MAX_BYTES,
    TLS_OUTGOING_HIGH_BYTES, TLS_QUIET_MS, TLS_RECEIVE_BYTES, WRITEV_PIECES,
};
use crate::pipe::write_copy;
use crate::timer::Tick;
use crate::tls::failure::{self, Failure};
use crate::tls::scratch::Scratch;
use crate::tls::server::ServerTls;
use crate::tls::session::{Facts, Outbox, Plaintext, Session};
use crate::write_queue::{Detached, PinnedMemory, WriteQueue};
use arrayvec::ArrayVec;
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

/// Turns for which tickets wait. On the shard's thread JavaScript hears of the connection at the end of one, of its first bytes in the
/// next, and has answered them when the one after that begins. (On a thread of its own turns are shorter, and fewer tickets meet an answer.)
const LATE_TURNS: u32 = 2;
/// Ticks after which a connection that sent nothing begins with small records again.
const QUIET_TICKS: Tick = (TLS_QUIET_MS / TIMER_TICK_MS) as Tick;

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
        let Some(session) = connection.tls.as_ref() else { return };
        let timeout_ms = session.handshake_timeout().as_millis() as u32;
        let is_client = session.is_client();
        connection.flags.set(Flags::HANDSHAKING);
        connection.active_at = tick;
        if let Some(server) = self.servers.get_mut(&connection.server) {
            server.handshakes += 1;
        }
        self.start_idle_timer(handle, timeout_ms);
        if is_client {
            let begun = self.with_session(handle, |session, _| session.begin());
            self.advance_handshake(handle, begun);
        }
    }

    /// Gives a session a word with what the shard shares.
    fn with_session<T>(
        &mut self,
        handle: Handle,
        talk: impl FnOnce(&mut Session, &mut Outbox) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self.connections.get_mut(handle).and_then(|connection| connection.tls.as_deref_mut()) {
            Some(session) => talk(session, &mut self.securing.outbox),
            None => Err(Failure::Internal("the connection has no session")),
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

    /// A turn begins: tickets that have waited for long enough are sent.
    pub(super) fn send_late(&mut self) {
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

    /// It took too long.
    pub(super) fn handshake_timed_out(&mut self, handle: Handle) {
        self.fail_session(handle, Failure::Timeout);
    }

    /// Ends a connection whose session has failed. What the session has to say of it (an alert) is sent if there is room.
    fn fail_session(&mut self, handle: Handle, failure: Failure) {
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

    /// Sends the records that are made already. False when some are left, or the connection is lost.
    fn flush_records(&mut self, handle: Handle) -> bool {
        self.flush_records_by(handle, |socket, bytes| socket.send(&[IoSlice::new(bytes)]))
    }

    fn flush_records_by(
        &mut self,
        handle: Handle,
        send: impl Fn(&S::Socket, &[u8]) -> io::Result<usize>,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(handle) else { return false };
        let (Some(socket), Some(session)) = (connection.socket.as_ref(), connection.tls.as_mut()) else {
            return false;
        };
        // A peer that has said its last word need not be there to hear ours.
        let is_over = session.is_close_sent() && session.is_peer_closed() && connection.queue.is_none();
        while !session.outgoing().is_empty() {
            self.metrics.add(abi::METRIC_WRITES, 1);
            match send(socket, session.outgoing()) {
                Err(error) if is_over && is_gone(&error) => session.sent(session.outgoing().len()),
                Ok(sent) => {
                    session.sent(sent);
                    if !connection.flags.has(Flags::HANDSHAKING) {
                        connection.active_at = self.tick;
                    }
                    self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.system.await_room(socket);
                    return false;
                }
                Err(error) => {
                    self.lose(handle, errno(&error));
                    return false;
                }
            }
        }
        true
    }

    /// Reads from a connection with TLS, as far as it may and the sink can take it. False when the sink is full.
    pub(super) fn read_secured(&mut self, handle: Handle, sink: &mut dyn Sink) -> bool {
        let mut turns = 0;
        loop {
            let Some(connection) = self.connections.get_mut(handle) else { return true };
            let flags = connection.flags;
            const OVER: Flags = Flags::LOST.and(Flags::EOF).and(Flags::UPGRADING);
            const BARRED: Flags = Flags::PAUSED.and(Flags::CLOSING);
            let shakes = flags.has(Flags::HANDSHAKING);
            if flags.has(OVER) || (!shakes && (flags.has(BARRED) || !flags.has(Flags::STARTED))) {
                return true;
            }
            let (Some(socket), Some(session)) = (connection.socket.as_ref(), connection.tls.as_mut()) else {
                return true;
            };
            if flags.has(Flags::TELL_TLS_ESTABLISHED) {
                self.list_ready(handle); // that is told first
                return true;
            }
            if !shakes {
                // What was decrypted when nobody could take it, and an end behind it.
                let mut to = Deliver { sink, handle, borrows: flags.has(Flags::BORROWS), took: 0 };
                while !session.pending().is_empty() {
                    let length = session.pending().len().min(TLS_GATHER_BYTES);
                    if !to.take(&session.pending()[..length]) {
                        self.list_ready(handle);
                        return false;
                    }
                    session.take_pending(length);
                    connection.flags.set(Flags::UNANSWERED);
                }
                if session.is_peer_closed() {
                    connection.flags.clear(Flags::READABLE);
                    connection.flags.set(Flags::EOF);
                    sink.event(Event { kind: abi::EVENT_EOF, handle: handle.word(), a: 0, b: 0 });
                    return true;
                }
            }
            // Who asks for answers of TLS itself, and does not read them, is not read from.
            if !flags.has(Flags::READABLE) || session.outgoing().len() > TLS_OUTGOING_HIGH_BYTES {
                return true;
            }
            if turns == READS_PER_BATCH {
                break;
            }
            if !shakes && sink.room() <= SIGNALS_MAX {
                self.list_ready(handle);
                return false;
            }
            turns += 1;
            let scratch = self.securing.received.get_or_insert_with(new_scratch);
            let kept = session.lend(scratch.bytes());
            self.metrics.add(abi::METRIC_READS, 1);
            let received = scratch.receive(kept, TLS_RECEIVE_BYTES, |buffer| socket.receive(buffer));
            let length = match received {
                Ok(0) => {
                    let failure = if shakes { Failure::Abandoned } else { Failure::Truncated };
                    self.fail_session(handle, failure);
                    return true;
                }
                Ok(length) => length,
                Err(error) => {
                    session.keep(&scratch.bytes()[..kept]);
                    if error.kind() == io::ErrorKind::WouldBlock {
                        connection.flags.clear(Flags::READABLE);
                    } else {
                        self.lose(handle, errno(&error));
                    }
                    return true;
                }
            };
            self.metrics.add(abi::METRIC_BYTES_READ, length as u64);
            if !shakes {
                connection.active_at = self.tick;
            }
            if length < TLS_RECEIVE_BYTES && !flags.has(Flags::READ_CLOSED) {
                connection.flags.clear(Flags::READABLE);
            }
            self.work_through(handle, kept + length, sink);
        }
        if let Some(connection) = self.connections.get_mut(handle)
            && !connection.flags.has(Flags::LISTED_READY)
        {
            connection.flags.set(Flags::LISTED_READY);
            self.exhausted.push(handle);
        }
        true
    }

    /// Of a connection that came from another shard: what that had not sent yet.
    pub(super) fn send_left_records(&mut self, handle: Handle) {
        let session = self.connections.get(handle).and_then(|connection| connection.tls.as_ref());
        if session.is_some_and(|session| !session.outgoing().is_empty()) {
            self.flush_records(handle);
        }
    }

    /// Has a session work through what lies in the shared memory.
    fn work_through(&mut self, handle: Handle, length: usize, sink: &mut dyn Sink) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let flags = connection.flags;
        let Some(session) = connection.tls.as_mut() else { return };
        let shakes = flags.has(Flags::HANDSHAKING);
        let bytes = &mut self.securing.received.get_or_insert_with(new_scratch).bytes()[..length];
        let mut to = Deliver { sink, handle, borrows: flags.has(Flags::BORROWS), took: 0 };
        let step = if shakes { session.receive(bytes, &mut Later) } else { session.receive(bytes, &mut to) };
        let took = to.took;
        let step = step.and_then(|consumed| match &bytes[consumed..] {
            rest if rest.len() > TLS_INCOMING_MAX_BYTES => {
                Err(Failure::Refused(rustls::Error::PeerSentOversizedRecord))
            }
            rest => {
                session.keep(rest);
                Ok(())
            }
        });
        if took > 0 {
            connection.flags.set(Flags::UNANSWERED);
        }
        if !shakes && step.is_ok() && (session.outgoing().is_empty() || session.is_late()) {
            // No news but plaintext, as nearly always.
            if took == 0 && flags.has(Flags::FINISHING) && !flags.has(Flags::UNANSWERED) {
                self.after_write(handle);
            }
            return;
        }
        if shakes && step.is_ok() && session.is_peer_closed() && !session.is_established() {
            return self.fail_session(handle, Failure::Abandoned);
        }
        self.advance_handshake(handle, step);
    }

    /// Encrypts pieces and sends them if nothing waits before them; queues a copy of what is left.
    pub(super) fn send_secured(&mut self, handle: Handle, pieces: &mut [IoSlice<'_>]) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let (Some(socket), Some(session)) = (connection.socket.as_ref(), connection.tls.as_mut()) else {
            return;
        };
        let mut rest = pieces;
        IoSlice::advance_slices(&mut rest, 0);
        const BARRED: Flags = Flags::HANDSHAKING.and(Flags::UPGRADING);
        let waits = !session.outgoing().is_empty() && !session.is_late();
        if connection.queue.is_none() && !waits && !connection.flags.has(BARRED) {
            if session.sent_at.saturating_add(QUIET_TICKS) <= self.tick {
                session.begin_burst();
            }
            while !rest.is_empty() {
                let Securing { outbox, gathered, .. } = &mut self.securing;
                outbox.clear();
                session.move_late(outbox);
                let encrypted = encrypt_some(session, rest, gathered, outbox);
                let count = match encrypted {
                    Ok(count) => count,
                    Err(failure) => return self.fail_session(handle, failure),
                };
                IoSlice::advance_slices(&mut rest, count);
                self.metrics.add(abi::METRIC_WRITES, 1);
                let records = outbox.filled();
                let sent = match socket.send(&[IoSlice::new(records)]) {
                    Ok(sent) => sent,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return self.lose(handle, errno(&error)),
                };
                if sent > 0 {
                    connection.active_at = self.tick;
                    session.sent_at = self.tick;
                }
                self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
                if sent < records.len() {
                    session.keep_outgoing(&records[sent..]);
                    self.system.await_room(socket);
                    break;
                }
            }
        }
        self.queue_copy(handle, rest);
    }

    /// Sends records, and encrypts what is queued, until the kernel takes no more.
    pub(super) fn send_queue_secured(&mut self, handle: Handle, memory: &dyn PinnedMemory) {
        loop {
            if !self.flush_records(handle) {
                break;
            }
            let Some(connection) = self.connections.get_mut(handle) else { return };
            let Some(session) = connection.tls.as_mut() else { return };
            // It was perhaps not read from while records waited.
            if connection.flags.has(Flags::READABLE) && !connection.flags.has(Flags::LISTED_READY) {
                connection.flags.set(Flags::LISTED_READY);
                self.ready.push(handle);
            }
            if connection.flags.has(Flags::HANDSHAKING.and(Flags::UPGRADING)) {
                break;
            }
            let Some(queue) = connection.queue.as_mut() else { break };
            if queue.first_file().is_some() {
                // The kernel cannot send what it cannot encrypt: JavaScript reads it, and writes it.
                queue.end_file();
                self.files_sent.push_back((handle, Err(libc::ENOSYS)));
            } else {
                let Securing { outbox, gathered, .. } = &mut self.securing;
                match encrypt_first(session, queue, memory, gathered, outbox) {
                    Ok(Ok(count)) => {
                        queue.advance(count, &mut self.flushed_pins);
                        let records = outbox.filled();
                        self.metrics.add(abi::METRIC_WRITES, u64::from(!records.is_empty()));
                        let sent = match connection.socket.as_ref() {
                            Some(socket) if !records.is_empty() => socket.send(&[IoSlice::new(records)]),
                            _ => Ok(0),
                        };
                        match sent {
                            Ok(sent) => {
                                if sent > 0 {
                                    connection.active_at = self.tick;
                                    session.sent_at = self.tick;
                                }
                                self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
                                session.keep_outgoing(&records[sent..]);
                            }
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                                session.keep_outgoing(records);
                            }
                            Err(error) => return self.lose(handle, errno(&error)),
                        }
                    }
                    Ok(Err(failure)) => return self.fail_session(handle, failure),
                    Err(Detached) => return self.reset(handle, abi::CLOSE_DETACHED),
                }
            }
            if queue.is_empty() {
                connection.queue = None;
            }
            self.tell_flushed_pins(handle);
        }
        self.after_write(handle);
    }

    /// Says to the peer that nothing more is sent. False while that is not with the kernel, or the connection is lost.
    pub(super) fn said_close(&mut self, handle: Handle) -> bool {
        let Some(connection) = self.connections.get_mut(handle) else { return false };
        let Some(session) = connection.tls.as_mut() else { return true };
        if !session.is_established() {
            // Who closes does not wait for a session; who only ends the sending half says so in it.
            return connection.flags.has(Flags::CLOSING) && session.outgoing().is_empty();
        }
        if session.is_close_sent() {
            return session.outgoing().is_empty();
        }
        let outbox = &mut self.securing.outbox;
        outbox.clear();
        // It fails when the session is over already.
        if session.close(outbox).is_ok() {
            session.keep_outgoing(outbox.filled());
        }
        outbox.clear();
        // The end of the sending half follows at once: both are one segment.
        self.flush_records_by(handle, |socket, bytes| socket.send_more(bytes))
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

/// Encrypts some of the pieces, behind what is in `outbox`: how many bytes of them.
fn encrypt_some(
    session: &mut Session,
    pieces: &[IoSlice<'_>],
    gathered: &mut Vec<u8>,
    outbox: &mut Outbox,
) -> Result<usize, Failure> {
    let mut count = 0;
    let mut pieces = pieces.iter().map(|piece| &piece[..]).filter(|piece| !piece.is_empty()).peekable();
    while let Some(piece) = pieces.next() {
        let mut plaintext = piece;
        if plaintext.len() < TLS_GATHER_BYTES && pieces.peek().is_some() {
            // Small ones share a record: to copy them costs less than a record of each.
            gathered.clear();
            gathered.extend_from_slice(plaintext);
            while let Some(next) = pieces.next_if(|next| gathered.len() + next.len() <= TLS_GATHER_BYTES) {
                gathered.extend_from_slice(next);
            }
            plaintext = gathered;
        }
        while !plaintext.is_empty() {
            if outbox.filled().len() >= TLS_ENCRYPT_BYTES {
                return Ok(count);
            }
            let done = session.encrypt(plaintext, outbox)?;
            plaintext = &plaintext[done..];
            count += done;
        }
    }
    Ok(count)
}

/// Encrypts the first pieces of a queue: how many bytes of them.
fn encrypt_first(
    session: &mut Session,
    queue: &WriteQueue,
    memory: &dyn PinnedMemory,
    gathered: &mut Vec<u8>,
    outbox: &mut Outbox,
) -> Result<Result<usize, Failure>, Detached> {
    let mut pieces: ArrayVec<IoSlice<'_>, WRITEV_PIECES> = ArrayVec::new();
    queue.slices(memory, &mut pieces)?;
    outbox.clear();
    Ok(encrypt_some(session, &pieces, gathered, outbox))
}

/// Whether an error says that the peer has ended the connection.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN))
}

fn new_scratch() -> Scratch {
    Scratch::new(TLS_INCOMING_MAX_BYTES + TLS_RECEIVE_BYTES)
}

/// Plaintext into events.
struct Deliver<'a> {
    sink: &'a mut dyn Sink,
    handle: Handle,
    borrows: bool,
    /// Bytes that were taken.
    took: usize,
}

impl Plaintext for Deliver<'_> {
    fn take(&mut self, bytes: &[u8]) -> bool {
        if self.sink.room() <= SIGNALS_MAX {
            return false;
        }
        // One byte more than the hint is asked for.
        let Some((slab, buffer)) = self.sink.read_buffer(self.borrows, bytes.len() - 1) else { return false };
        if buffer.len() < bytes.len() {
            return false;
        }
        write_copy(&mut buffer[..bytes.len()], bytes);
        self.sink.received(self.handle.word(), slab, bytes.len());
        self.took += bytes.len();
        true
    }
}

/// Plaintext of a connection that nobody knows of yet.
struct Later;

impl Plaintext for Later {
    fn take(&mut self, _bytes: &[u8]) -> bool {
        false
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
