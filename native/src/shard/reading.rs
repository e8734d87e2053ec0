//! Bytes in.
#![forbid(unsafe_code)]

use super::{Event, Flags, Handle, SIGNALS_MAX, Shard, Sink, Socket, System};
use crate::abi;
use crate::error::errno;
use crate::limits::READS_PER_BATCH;
use std::io;

impl<S: System> Shard<S> {
    pub(super) fn list_ready(&mut self, handle: Handle) {
        if let Some(connection) = self.connections.get_mut(handle)
            && !connection.flags.has(Flags::LISTED_READY)
        {
            connection.flags.set(Flags::LISTED_READY);
            self.ready.push(handle);
        }
    }

    /// Reads from a connection, as far as it may and the sink can take it. False when the sink is full.
    pub(super) fn read(&mut self, handle: Handle, sink: &mut dyn Sink) -> bool {
        let Some(connection) = self.connections.get_mut(handle) else { return true };
        if connection.tls.is_some() {
            return self.read_secured(handle, sink);
        }
        const BARRED: Flags = Flags::PAUSED.and(Flags::CLOSING).and(Flags::LOST).and(Flags::EOF);
        let flags = connection.flags;
        if !flags.has(Flags::READABLE) || !flags.has(Flags::STARTED) || flags.has(BARRED) {
            return true;
        }
        let Some(socket) = connection.socket.as_ref() else { return true };
        let mut full = false;
        for reads in 0..READS_PER_BATCH {
            let buffer = if sink.room() > SIGNALS_MAX {
                sink.read_buffer(flags.has(Flags::BORROWS), connection.read_hint as usize)
            } else {
                None
            };
            let Some((slab, buffer)) = buffer else {
                if reads == 0 {
                    self.list_ready(handle);
                    return false;
                }
                full = true;
                break;
            };
            let room = buffer.len();
            self.metrics.add(abi::METRIC_READS, 1);
            let received =
                if flags.has(Flags::READ_PIPE) { socket.read(buffer) } else { socket.receive(buffer) };
            match received {
                Ok(0) => {
                    connection.flags.clear(Flags::READABLE);
                    connection.flags.set(Flags::EOF);
                    sink.event(Event { kind: abi::EVENT_EOF, handle: handle.word(), a: 0, b: 0 });
                    return true;
                }
                Ok(length) => {
                    connection.read_hint = length as u32;
                    connection.flags.set(Flags::UNANSWERED);
                    connection.active_at = self.tick;
                    self.metrics.add(abi::METRIC_BYTES_READ, length as u64);
                    sink.received(handle.word(), slab, length);
                    // A short read found the end of what there is, and more would be a new edge; but an end of
                    // stream that came with it has had its edge. A terminal gives one line at a time.
                    const READ_ON: Flags = Flags::READ_CLOSED.and(Flags::READ_PIPE);
                    if length < room && !connection.flags.has(READ_ON) {
                        connection.flags.clear(Flags::READABLE);
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.flags.clear(Flags::READABLE);
                    return true;
                }
                Err(error) => {
                    self.lose(handle, errno(&error));
                    return true;
                }
            }
        }
        // Who has read in this batch goes behind those that had nothing of it.
        connection.flags.set(Flags::LISTED_READY);
        self.exhausted.push(handle);
        !full
    }
}
