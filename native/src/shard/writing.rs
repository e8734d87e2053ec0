//! Commands in: writes and switches of connections.
#![forbid(unsafe_code)]

use super::{Commands, Flags, Handle, NO_RECORD, Shard, Socket, System};
use crate::abi;
use crate::error::errno;
use crate::limits::{SEND_FILE_BYTES, SEND_FILE_BYTES_PER_TURN, WRITEV_PIECES};
use crate::net::stream;
use crate::write_queue::{Detached, FileRange, Pin, PinnedMemory, WriteQueue};
use arrayvec::ArrayVec;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::AsFd;
use std::time::Instant;

impl<S: System> Shard<S> {
    /// Applies commands; writes to one connection leave together.
    pub fn submit(&mut self, now: Instant, commands: &dyn Commands) {
        self.apply(now, commands);
        self.send_dirty(commands, None);
    }

    /// Applies commands, and sends bytes behind what they write to that connection, together with it.
    pub fn write(&mut self, now: Instant, handle: Handle, bytes: &[u8], commands: &dyn Commands) {
        self.apply(now, commands);
        if let Some(connection) = self.connections.get_mut(handle) {
            connection.flags.clear(Flags::UNANSWERED);
        }
        self.dirty.push(handle);
        self.send_dirty(commands, Some((handle, bytes)));
    }

    /// What has to be sent, or looked after, is in `dirty` afterwards.
    fn apply(&mut self, now: Instant, commands: &dyn Commands) {
        self.set_time(now);
        self.chain.clear();
        self.chain.resize(commands.len(), NO_RECORD);
        for index in 0..commands.len() {
            let [operation, handle, a, b] = commands.record(index);
            if let abi::COMMAND_DATAGRAM..=abi::COMMAND_DATAGRAM_LIMITS = operation {
                self.submit_datagrams(index, commands);
                continue;
            }
            let handle = Handle::from_word(handle);
            // A command to a connection that is gone, or to a slot that is another's by now, does nothing.
            let Some(connection) = self.connections.get_mut(handle) else { continue };
            if connection.flags.has(Flags::LOST) {
                continue;
            }
            match operation & abi::KIND_MASK {
                abi::COMMAND_WRITE | abi::COMMAND_WRITE_SLAB => {
                    connection.flags.clear(Flags::UNANSWERED);
                    let index = index as u32;
                    if connection.chain_last == NO_RECORD {
                        connection.chain_first = index;
                        self.dirty.push(handle);
                    } else {
                        self.chain[connection.chain_last as usize] = index;
                    }
                    connection.chain_last = index;
                }
                abi::COMMAND_START => {
                    connection.flags.set(Flags::STARTED);
                    self.set_mode(handle, a != 0);
                    self.resume(handle);
                }
                abi::COMMAND_MODE => self.set_mode(handle, a != 0),
                abi::COMMAND_PAUSE => connection.flags.set(Flags::PAUSED),
                abi::COMMAND_RESUME => {
                    connection.flags.clear(Flags::PAUSED);
                    self.resume(handle);
                }
                abi::COMMAND_CLOSE => {
                    connection.flags.set(Flags::CLOSING);
                    self.dirty.push(handle);
                }
                abi::COMMAND_WRITE_EOF => {
                    connection.flags.set(Flags::WRITE_EOF);
                    connection.flags.clear(Flags::UNANSWERED); // an end is an answer, and the last
                    self.dirty.push(handle);
                }
                abi::COMMAND_ABORT => {
                    self.reset(handle, a);
                }
                abi::COMMAND_WRITE_LIMITS => {
                    connection.write_high = a as u32;
                    connection.write_low = b as u32;
                    self.update_watermarks(handle);
                }
                abi::COMMAND_FINISH => {
                    if a != 0 {
                        connection.flags.clear(Flags::UNANSWERED);
                    }
                    connection.flags.set(Flags::FINISHING);
                    self.dirty.push(handle);
                }
                abi::COMMAND_UNANSWERED => connection.flags.set(Flags::UNANSWERED),
                abi::COMMAND_IDLE_TIMEOUT => self.set_idle_timeout(handle, a as u32),
                other => debug_assert!(false, "unknown command {other}"),
            }
        }
    }

    /// `behind` follows one connection's writes.
    fn send_dirty(&mut self, commands: &dyn Commands, mut behind: Option<(Handle, &[u8])>) {
        let mut dirty = mem::take(&mut self.dirty);
        for handle in dirty.drain(..) {
            // A connection may be listed more than once.
            let last = behind.take_if(|(other, _)| *other == handle).map_or(&[] as &[u8], |(_, bytes)| bytes);
            self.send_chain(handle, commands, last);
        }
        self.dirty = dirty;
    }

    pub(super) fn set_mode(&mut self, handle: Handle, borrows: bool) {
        if let Some(connection) = self.connections.get_mut(handle) {
            if borrows {
                connection.flags.set(Flags::BORROWS);
            } else {
                connection.flags.clear(Flags::BORROWS);
            }
        }
    }

    pub(super) fn resume(&mut self, handle: Handle) {
        if self.connections.get(handle).is_some_and(|c| c.has_input()) {
            self.list_ready(handle);
        }
    }

    /// Sends this flush's writes of a connection and what is last, then does what waited for them.
    fn send_chain(&mut self, handle: Handle, commands: &dyn Commands, last: &[u8]) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let mut next = mem::replace(&mut connection.chain_first, NO_RECORD);
        connection.chain_last = NO_RECORD;
        let mut last = Some(last).filter(|bytes| !bytes.is_empty());
        while next != NO_RECORD || last.is_some() {
            let mut pieces: ArrayVec<IoSlice<'_>, WRITEV_PIECES> = ArrayVec::new();
            while next != NO_RECORD && !pieces.is_full() {
                let Some(bytes) = commands.bytes(next as usize) else {
                    self.reset(handle, abi::CLOSE_DETACHED);
                    return;
                };
                pieces.push(IoSlice::new(bytes));
                next = self.chain[next as usize];
            }
            if !pieces.is_full()
                && let Some(bytes) = last.take()
            {
                pieces.push(IoSlice::new(bytes));
            }
            self.send_or_queue(handle, &mut pieces);
        }
        self.after_write(handle);
    }

    /// Sends at once; the rest stays where it is.
    pub fn write_pinned(
        &mut self,
        now: Instant,
        handle: Handle,
        pin: Pin,
        length: usize,
        memory: &dyn PinnedMemory,
    ) -> bool {
        self.set_time(now);
        let write_max = self.write_max(handle);
        let open = self.connections.get_mut(handle).filter(|c| !c.flags.has(Flags::LOST));
        let Some(connection) = open else {
            self.released_pins.push(pin);
            return false;
        };
        connection.flags.clear(Flags::UNANSWERED);
        let queue = connection.queue.get_or_insert_default();
        let idle = queue.is_empty();
        queue.push_pinned(pin, 0, length);
        if idle {
            self.send_queue(handle, memory);
        }
        if self.queued_bytes(handle) > write_max {
            self.reset(handle, abi::CLOSE_WRITE_OVERFLOW);
        }
        self.update_watermarks(handle);
        true
    }

    /// Sends a range of a file behind what waits. False when there is no such connection (any more).
    pub fn send_file(
        &mut self,
        now: Instant,
        handle: Handle,
        file: FileRange,
        memory: &dyn PinnedMemory,
    ) -> bool {
        self.set_time(now);
        let open = self.connections.get_mut(handle).filter(|c| !c.flags.has(Flags::LOST));
        let Some(connection) = open else { return false };
        connection.flags.clear(Flags::UNANSWERED);
        let queue = connection.queue.get_or_insert_default();
        let idle = queue.is_empty();
        queue.push_file(file);
        if idle {
            self.send_queue(handle, memory);
        }
        true
    }

    pub(super) fn write_max(&self, handle: Handle) -> usize {
        let server = self.connections.get(handle).map(|connection| connection.server);
        server.and_then(|server| self.servers.get(&server)).map_or(0, |server| server.limits.write_max_bytes)
    }

    /// Sends pieces if nothing waits before them; queues a copy of what the kernel does not take.
    pub(super) fn send_or_queue(&mut self, handle: Handle, pieces: &mut [IoSlice<'_>]) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.flags.has(Flags::LOST) {
            return;
        }
        if connection.tls.is_some() {
            return self.send_secured(handle, pieces);
        }
        let Some(socket) = connection.socket.as_ref() else { return };
        let mut rest = pieces;
        if connection.queue.is_none() {
            self.metrics.add(abi::METRIC_WRITES, 1);
            match send(socket, connection.flags, rest) {
                Ok(sent) => {
                    connection.active_at = self.tick;
                    self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
                    IoSlice::advance_slices(&mut rest, sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.lose(handle, errno(&error));
                    return;
                }
            }
        }
        self.queue_copy(handle, rest);
    }

    /// Queues a copy of what is left of pieces.
    pub(super) fn queue_copy(&mut self, handle: Handle, rest: &[IoSlice<'_>]) {
        let length: usize = rest.iter().map(|piece| piece.len()).sum();
        if length == 0 {
            return;
        }
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.queued() + length > self.write_max(handle) {
            self.reset(handle, abi::CLOSE_WRITE_OVERFLOW);
            return;
        }
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if let (Some(socket), None) = (&connection.socket, &connection.queue) {
            self.system.await_room(socket);
        }
        let queue = connection.queue.get_or_insert_with(|| Box::new(WriteQueue::default()));
        for piece in rest.iter() {
            queue.push(piece);
        }
    }

    /// Sends what is queued until the kernel takes no more.
    pub(super) fn send_queue(&mut self, handle: Handle, memory: &dyn PinnedMemory) {
        if self.connections.get(handle).is_some_and(|connection| connection.tls.is_some()) {
            return self.send_queue_secured(handle, memory);
        }
        let mut of_files = 0;
        loop {
            let Some(connection) = self.connections.get_mut(handle) else { return };
            let (Some(socket), Some(queue)) = (connection.socket.as_ref(), connection.queue.as_mut()) else {
                return;
            };
            if let Some(file) = queue.first_file() {
                if of_files >= SEND_FILE_BYTES_PER_TURN {
                    if !connection.flags.has(Flags::LISTED_SENDING) {
                        connection.flags.set(Flags::LISTED_SENDING);
                        self.sending.push(handle);
                    }
                    break;
                }
                let length = (file.end - file.offset).min(SEND_FILE_BYTES as u64) as usize;
                let result =
                    if length == 0 { Ok(0) } else { socket.send_file(file.fd.as_fd(), file.offset, length) };
                self.metrics.add(abi::METRIC_WRITES, u64::from(length > 0));
                match result {
                    Ok(sent @ 1..) => {
                        file.offset += sent as u64;
                        file.sent += sent as u64;
                        of_files += sent;
                        connection.active_at = self.tick;
                        self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
                        continue;
                    }
                    Ok(0) => {
                        let sent = queue.end_file();
                        self.files_sent.push_back((handle, Ok(sent)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.system.await_room(socket);
                        break;
                    }
                    Err(error) if stream::is_file_error(&error) => {
                        queue.end_file();
                        self.files_sent.push_back((handle, Err(errno(&error))));
                    }
                    Err(error) => {
                        self.lose(handle, errno(&error));
                        return;
                    }
                }
                if queue.is_empty() {
                    connection.queue = None;
                    break;
                }
                continue;
            }
            let (length, result) = match send_first(socket, connection.flags, queue, memory) {
                Ok(outcome) => outcome,
                Err(Detached) => {
                    self.reset(handle, abi::CLOSE_DETACHED);
                    return;
                }
            };
            self.metrics.add(abi::METRIC_WRITES, u64::from(length > 0));
            let sent = match result {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.system.await_room(socket);
                    break;
                }
                Err(error) => {
                    self.lose(handle, errno(&error));
                    return;
                }
            };
            if sent < length {
                self.system.await_room(socket);
            }
            connection.active_at = self.tick;
            self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
            queue.advance(sent, &mut self.flushed_pins);
            self.tell_flushed_pins(handle);
            let Some(connection) = self.connections.get_mut(handle) else { return };
            if connection.queue.as_ref().is_none_or(|queue| queue.is_empty()) {
                connection.queue = None; // an idle connection holds no buffer
                break;
            }
            if sent < length {
                break;
            }
        }
        self.after_write(handle);
    }

    /// Owned writes were flushed: their memory is let go, and JavaScript told.
    #[inline]
    pub(super) fn tell_flushed_pins(&mut self, handle: Handle) {
        if self.flushed_pins.is_empty() {
            return;
        }
        if let Some(connection) = self.connections.get_mut(handle) {
            connection.owned_flushed += self.flushed_pins.len() as u32;
        }
        self.released_pins.append(&mut self.flushed_pins);
        self.signal(handle);
    }

    pub(super) fn after_write(&mut self, handle: Handle) {
        self.update_watermarks(handle);
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let flags = connection.flags;
        if flags.has(Flags::LOST) {
            return;
        }
        if flags.has(Flags::FINISHING) && !flags.has(Flags::UNANSWERED.and(Flags::CLOSING)) {
            self.told_when_answered(handle);
        }
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.flags.has(Flags::CLOSING) && connection.flags.has(Flags::UPGRADING) {
            // Closed between `startTls` and its first bytes: what is still to be encrypted never will be.
            if connection.tls.as_ref().is_some_and(|session| session.outgoing().is_empty()) {
                self.close(handle);
            }
            return;
        }
        if connection.waits_to_send() {
            return;
        }
        if connection.tls.is_some()
            && connection.flags.has(Flags::CLOSING.and(Flags::WRITE_EOF))
            && !self.said_close(handle)
        {
            return;
        }
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.flags.has(Flags::CLOSING) {
            self.close(handle);
        } else if connection.flags.has(Flags::WRITE_EOF) && !connection.flags.has(Flags::WRITE_CLOSED) {
            connection.flags.set(Flags::WRITE_CLOSED);
            let result = connection.socket.as_ref().map_or(Ok(()), Socket::shutdown_write);
            if let Err(error) = result {
                if connection.has_parted() {
                    self.take_socket(handle, 0);
                } else {
                    self.lose(handle, errno(&error));
                }
            }
        }
    }

    /// It has written since it last received. Whether that was all is looked at when the event is delivered.
    fn told_when_answered(&mut self, handle: Handle) {
        if let Some(connection) = self.connections.get_mut(handle) {
            connection.flags.set(Flags::ANSWERED);
            self.signal(handle);
        }
    }

    pub(super) fn update_watermarks(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let queued = connection.queued();
        if connection.flags.has(Flags::WRITE_PAUSED) {
            if queued <= connection.write_low as usize {
                connection.flags.clear(Flags::WRITE_PAUSED);
                self.signal(handle);
            }
        } else if queued > connection.write_high as usize {
            connection.flags.set(Flags::WRITE_PAUSED);
            self.signal(handle);
        }
    }
}

/// Offers the kernel the first pieces of a queue: how many bytes, and how many of them it took.
fn send_first<K: Socket>(
    socket: &K,
    flags: Flags,
    queue: &WriteQueue,
    memory: &dyn PinnedMemory,
) -> Result<(usize, io::Result<usize>), Detached> {
    let mut pieces: ArrayVec<IoSlice<'_>, WRITEV_PIECES> = ArrayVec::new();
    queue.slices(memory, &mut pieces)?;
    let length = pieces.iter().map(|piece| piece.len()).sum();
    Ok((length, if length == 0 { Ok(0) } else { send(socket, flags, &pieces) }))
}

/// By the call that fits: what is written to as a pipe need not be a socket.
#[inline]
pub(super) fn send<K: Socket>(socket: &K, flags: Flags, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    if flags.has(Flags::WRITE_PIPE) { socket.write(pieces) } else { socket.send(pieces) }
}
