//! Events without bytes, and ends that are handled.
#![forbid(unsafe_code)]

use super::{Event, Flags, Handle, SIGNALS_MAX, Shard, Sink, Socket, System};
use crate::abi;
use std::mem;

impl<S: System> Shard<S> {
    /// Delivers events without bytes.
    pub(super) fn deliver_signals(&mut self, sink: &mut dyn Sink) {
        while sink.room() > SIGNALS_MAX {
            let Some((server, errno, pauses)) = self.accept_errors.pop_front() else { break };
            let event =
                Event { kind: abi::EVENT_ACCEPT_ERROR, handle: server.into(), a: errno, b: pauses.into() };
            sink.event(event);
        }
        self.tell_failed_connects(sink);
        while sink.room() > SIGNALS_MAX {
            let Some((handle, outcome)) = self.files_sent.pop_front() else { break };
            let (a, b) = match outcome {
                Ok(sent) => (sent as i32, (sent >> 32) as i32),
                Err(errno) => (0, -errno),
            };
            sink.event(Event { kind: abi::EVENT_FILE_SENT, handle: handle.word(), a, b });
        }
        while sink.room() > SIGNALS_MAX {
            let Some(handle) = self.signals.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(handle) else { continue };
            let flags = &mut connection.flags;
            flags.clear(Flags::LISTED_SIGNAL);
            if flags.has(Flags::UNANNOUNCED) && flags.has(Flags::HANDSHAKING) {
                continue; // nobody knows of it yet
            }
            if flags.has(Flags::HANDSHAKE_FAILED) {
                let (reason, request) = (connection.reason, connection.request);
                if request == 0 {
                    let kind = abi::EVENT_HANDSHAKE_FAILED;
                    let server = connection.server.into();
                    sink.event(Event { kind, handle: handle.word(), a: reason, b: server });
                    self.ended.push(handle);
                } else {
                    self.requests.remove(&request);
                    self.connections.remove(handle);
                    self.connect_failed(request, reason, abi::CALL_TLS);
                    self.tell_failed_connects(sink);
                }
                continue;
            }
            if flags.has(Flags::UNANNOUNCED) {
                flags.clear(Flags::UNANNOUNCED);
                match connection.request {
                    0 => sink.opened(handle.word(), connection.server, connection.peer),
                    request => {
                        self.requests.remove(&request);
                        sink.connected(handle.word(), request, connection.peer);
                    }
                }
            }
            let mut event = |kind, a| sink.event(Event { kind, handle: handle.word(), a, b: 0 });
            if connection.owned_flushed > 0 {
                event(abi::EVENT_OWNED_FLUSHED, mem::take(&mut connection.owned_flushed) as i32);
            }
            if flags.has(Flags::LOST) {
                event(abi::EVENT_CLOSED, connection.reason);
                self.ended.push(handle);
                continue;
            }
            if flags.has(Flags::TELL_TLS_READY) {
                flags.clear(Flags::TELL_TLS_READY);
                event(abi::EVENT_TLS_READY, 0);
            }
            if flags.has(Flags::TELL_TLS_ESTABLISHED) {
                flags.clear(Flags::TELL_TLS_ESTABLISHED);
                event(abi::EVENT_TLS_ESTABLISHED, 0);
            }
            match (flags.has(Flags::WRITE_PAUSED), flags.has(Flags::TOLD_PAUSED)) {
                (true, false) => {
                    flags.set(Flags::TOLD_PAUSED);
                    event(abi::EVENT_PAUSE_WRITING, 0);
                }
                (false, true) => {
                    flags.clear(Flags::TOLD_PAUSED);
                    event(abi::EVENT_RESUME_WRITING, 0);
                }
                _ => {}
            }
            if flags.has(Flags::IDLE) {
                flags.clear(Flags::IDLE);
                event(abi::EVENT_IDLE, 0);
            }
            if flags.has(Flags::ANSWERED) {
                flags.clear(Flags::ANSWERED);
                // What came in the meantime is read first (once reading is not paused), and answered.
                let undelivered =
                    connection.tls.as_ref().is_some_and(|session| !session.pending().is_empty());
                let unread = undelivered || connection.socket.as_ref().is_some_and(Socket::has_unread);
                if !flags.has(Flags::UNANSWERED) && !unread {
                    event(abi::EVENT_ANSWERED, 0);
                }
            }
        }
    }

    fn tell_failed_connects(&mut self, sink: &mut dyn Sink) {
        while sink.room() > SIGNALS_MAX {
            let Some((request, errno, call)) = self.connect_failures.pop_front() else { break };
            let event = Event { kind: abi::EVENT_CONNECT_FAILED, handle: request as i32, a: errno, b: call };
            sink.event(event);
        }
    }

    /// What was delivered is handled: ended connections make room.
    pub fn free_ended(&mut self) {
        for handle in self.ended.drain(..) {
            self.connections.remove(handle);
        }
    }

    /// Ends were delivered, and are freed one by one.
    pub fn forget_ended(&mut self) {
        self.ended.clear();
    }

    /// The end of one connection is handled: it makes room.
    pub fn free(&mut self, handle: Handle) {
        debug_assert!(
            self.connections.get(handle).is_none_or(|connection| connection.flags.has(Flags::LOST)),
            "a connection is freed before its end"
        );
        self.connections.remove(handle);
    }

    /// A connection has something to tell.
    pub(super) fn signal(&mut self, handle: Handle) {
        if let Some(connection) = self.connections.get_mut(handle)
            && !connection.flags.has(Flags::LISTED_SIGNAL)
        {
            connection.flags.set(Flags::LISTED_SIGNAL);
            self.signals.push_back(handle);
        }
    }
}
