//! Records of connections with TLS, in and out: what is read is decrypted and told, what is written is encrypted and sent.
#![forbid(unsafe_code)]

use super::super::{Event, Flags, Handle, SIGNALS_MAX, Shard, Sink, Socket, System};
use super::Securing;
use crate::abi;
use crate::error::errno;
use crate::limits::{
    READS_PER_BATCH, TIMER_TICK_MS, TLS_ENCRYPT_BYTES, TLS_GATHER_BYTES, TLS_INCOMING_MAX_BYTES,
    TLS_OUTGOING_HIGH_BYTES, TLS_QUIET_MS, TLS_RECEIVE_BYTES, WRITEV_PIECES,
};
use crate::timer::Tick;
use crate::tls::failure::Failure;
use crate::tls::scratch::Scratch;
use crate::tls::session::{Later, Outbox, Plaintext, Session};
use crate::write_queue::{Detached, PinnedMemory, WriteQueue};
use arrayvec::ArrayVec;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;

/// Ticks after which a connection that sent nothing begins with small records again.
const QUIET_TICKS: Tick = (TLS_QUIET_MS / TIMER_TICK_MS) as Tick;

impl<S: System> Shard<S> {
    /// Sends the records that are made already. False when some are left, or the connection is lost.
    pub(super) fn flush_records(&mut self, handle: Handle) -> bool {
        self.flush_records_by(handle, |socket, bytes| socket.send(&[IoSlice::new(bytes)]))
    }

    pub(super) fn flush_records_by(
        &mut self,
        handle: Handle,
        send: impl Fn(&S::Socket, &[u8]) -> io::Result<usize>,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(handle) else { return false };
        let (Some(socket), Some(session)) = (connection.socket.as_ref(), connection.tls.as_mut()) else {
            return false;
        };
        // A peer that has said its last word need not be there to hear ours.
        let last = session.is_close_sent() || session.is_late();
        let is_over = last && session.has_peer_parted() && connection.queue.is_none();
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
    pub(in crate::shard) fn read_secured(&mut self, handle: Handle, sink: &mut dyn Sink) -> bool {
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
            if !shakes && let Some(has_room) = self.tell_kept(handle, sink) {
                return has_room;
            }
            let Some(connection) = self.connections.get_mut(handle) else { return true };
            let (Some(socket), Some(session)) = (connection.socket.as_ref(), connection.tls.as_mut()) else {
                return true;
            };
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
            if shakes && self.securing.steps_left == 0 {
                if turns == 0 {
                    self.list_ready(handle); // in front of those that had some
                    return true;
                }
                break;
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

    /// Tells what was decrypted when nobody could take it, and the peer's end behind it. `None` when that is done, and more may be read; else
    /// whether the sink has room for others.
    fn tell_kept(&mut self, handle: Handle, sink: &mut dyn Sink) -> Option<bool> {
        let connection = self.connections.get_mut(handle)?;
        let session = connection.tls.as_mut()?;
        if connection.flags.has(Flags::TELL_TLS_ESTABLISHED) {
            self.list_ready(handle); // that is told first
            return Some(true);
        }
        if !session.has_input() {
            return None;
        }
        let borrows = connection.flags.has(Flags::BORROWS);
        while !session.pending().is_empty() {
            let length = session.pending().len().min(TLS_GATHER_BYTES);
            let mut to = Deliver { sink, handle, borrows, slab: 0, took: 0 };
            if !to.take(&session.pending()[..length]) {
                self.list_ready(handle);
                return Some(false);
            }
            session.take_pending(length);
            connection.flags.set(Flags::UNANSWERED);
        }
        if !session.is_peer_closed() {
            return None;
        }
        if sink.room() <= SIGNALS_MAX {
            self.list_ready(handle);
            return Some(false);
        }
        connection.flags.clear(Flags::READABLE);
        connection.flags.set(Flags::EOF);
        sink.event(Event { kind: abi::EVENT_EOF, handle: handle.word(), a: 0, b: 0 });
        Some(true)
    }

    /// Of a connection that came from another shard: what that had not sent yet.
    pub(in crate::shard) fn send_left_records(&mut self, handle: Handle) {
        let session = self.connections.get(handle).and_then(|connection| connection.tls.as_ref());
        if session.is_some_and(|session| !session.outgoing().is_empty()) {
            self.flush_records(handle);
        }
    }

    /// Has a session work through what lies in the shared memory.
    pub(super) fn work_through(&mut self, handle: Handle, length: usize, sink: &mut dyn Sink) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let flags = connection.flags;
        let Some(session) = connection.tls.as_mut() else { return };
        let shakes = flags.has(Flags::HANDSHAKING);
        let bytes = &mut self.securing.received.get_or_insert_with(new_scratch).bytes()[..length];
        let mut to = Deliver { sink, handle, borrows: flags.has(Flags::BORROWS), slab: 0, took: 0 };
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
        // One that only had a part of a message costs hardly more than to receive it.
        if shakes && (step.is_err() || session.is_established() || !session.outgoing().is_empty()) {
            self.securing.steps_left = self.securing.steps_left.saturating_sub(1);
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
    pub(in crate::shard) fn send_secured(&mut self, handle: Handle, pieces: &mut [IoSlice<'_>]) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let Some(session) = connection.tls.as_mut() else { return };
        let mut rest = pieces;
        IoSlice::advance_slices(&mut rest, 0);
        const BARRED: Flags = Flags::HANDSHAKING.and(Flags::UPGRADING);
        let waits = !session.outgoing().is_empty() && !session.is_late();
        let mut has_room = connection.queue.is_none() && !waits && !connection.flags.has(BARRED);
        if has_room && session.sent_at.saturating_add(QUIET_TICKS) <= self.tick {
            session.begin_burst();
        }
        while has_room && !rest.is_empty() {
            let session = self.connections.get_mut(handle).and_then(|connection| connection.tls.as_mut());
            let Some(session) = session else { return };
            let Securing { outbox, gathered, .. } = &mut self.securing;
            outbox.clear();
            session.move_late(outbox);
            match encrypt_some(session, rest, gathered, outbox) {
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
                Err(failure) => return self.fail_session(handle, failure),
            }
            match self.send_outbox(handle) {
                Sent::All => {}
                Sent::Part => has_room = false,
                Sent::Lost => return,
            }
        }
        self.queue_copy(handle, rest);
    }

    /// Sends the records in the outbox; the session keeps what the kernel does not take.
    fn send_outbox(&mut self, handle: Handle) -> Sent {
        let Some(connection) = self.connections.get_mut(handle) else { return Sent::Lost };
        let (Some(socket), Some(session)) = (connection.socket.as_ref(), connection.tls.as_mut()) else {
            return Sent::Lost;
        };
        let records = self.securing.outbox.filled();
        if records.is_empty() {
            return Sent::All; // of empty pins there are none
        }
        self.metrics.add(abi::METRIC_WRITES, 1);
        let sent = match socket.send(&[IoSlice::new(records)]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.lose(handle, errno(&error));
                return Sent::Lost;
            }
        };
        if sent > 0 {
            connection.active_at = self.tick;
            session.sent_at = self.tick;
        }
        self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
        if sent == records.len() {
            return Sent::All;
        }
        session.keep_outgoing(&records[sent..]);
        self.system.await_room(socket);
        Sent::Part
    }

    /// Sends records, and encrypts what is queued, until the kernel takes no more.
    pub(in crate::shard) fn send_queue_secured(&mut self, handle: Handle, memory: &dyn PinnedMemory) {
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
                self.securing.outbox.clear();
                queue.end_file();
                self.files_sent.push_back((handle, Err(libc::ENOSYS)));
            } else {
                let Securing { outbox, gathered, .. } = &mut self.securing;
                match encrypt_first(session, queue, memory, gathered, outbox) {
                    Ok(Ok(count)) => queue.advance(count, &mut self.flushed_pins),
                    Ok(Err(failure)) => return self.fail_session(handle, failure),
                    Err(Detached) => return self.reset(handle, abi::CLOSE_DETACHED),
                }
            }
            if queue.is_empty() {
                connection.queue = None;
            }
            self.tell_flushed_pins(handle);
            match self.send_outbox(handle) {
                Sent::All => {}
                Sent::Part => break,
                Sent::Lost => return,
            }
        }
        self.after_write(handle);
    }

    /// Says to the peer that nothing more is sent. False while that is not with the kernel, or the connection is lost.
    pub(in crate::shard) fn said_close(&mut self, handle: Handle) -> bool {
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
}

/// What became of records.
enum Sent {
    All,
    /// The kernel has no more room.
    Part,
    /// The connection is lost.
    Lost,
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

pub(super) fn new_scratch() -> Scratch {
    Scratch::new(TLS_INCOMING_MAX_BYTES + TLS_RECEIVE_BYTES)
}

/// Plaintext into events.
struct Deliver<'a> {
    sink: &'a mut dyn Sink,
    handle: Handle,
    borrows: bool,
    /// Where the room is that was asked for last.
    slab: usize,
    /// Bytes that were taken.
    took: usize,
}

impl Plaintext for Deliver<'_> {
    fn room(&mut self, length: usize) -> Option<&mut [MaybeUninit<u8>]> {
        if self.sink.room() <= SIGNALS_MAX {
            return None;
        }
        // One byte more than the hint is asked for.
        let (slab, buffer) = self.sink.read_buffer(self.borrows, length - 1)?;
        self.slab = slab;
        buffer.get_mut(..length)
    }

    fn took(&mut self, length: usize) {
        self.sink.received(self.handle.word(), self.slab, length);
        self.took += length;
    }
}
