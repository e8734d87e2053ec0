//! Pipes that are only written. (Those that are only read are like any other connection, but for the calls.)
#![forbid(unsafe_code)]

use super::{Handle, Shard, Socket, Source, System};
use crate::error::errno;
use crate::system::Readiness;
use crate::write_queue::PinnedMemory;

impl<S: System> Shard<S> {
    /// The kernel has something to say of a pipe that is written: that there is room, or that nobody reads any more. What
    /// comes the other way, over a socket, is nobody's.
    pub(super) fn on_write_pipe(&mut self, handle: Handle, readiness: Readiness, memory: &dyn PinnedMemory) {
        let waits = self.connections.get(handle).is_some_and(|connection| connection.queue.is_some());
        if readiness.writable && waits {
            self.send_queue(handle, memory); // a write that nobody can read says so
        }
        let Some(connection) = self.connections.get(handle) else { return };
        let Some(socket) = connection.socket.as_ref() else { return };
        // kqueue tells of an end beside room, not as an error.
        let may_be_broken = readiness.failed || readiness.read_closed || cfg!(target_vendor = "apple");
        if may_be_broken && socket.is_broken() {
            // As in asyncio: that the reader has gone is an error only for what it has not taken.
            let reason = if connection.queue.is_some() { libc::EPIPE } else { 0 };
            self.take_socket(handle, reason);
            return;
        }
        if readiness.failed && S::FAILURE_STAYS {
            return self.rewatch_pipe(handle); // that of a FIFO has come back
        }
        self.system.await_room(socket);
    }

    /// Watches anew what was told to have no reader and has one.
    fn rewatch_pipe(&mut self, handle: Handle) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let Some(socket) = connection.socket.take() else { return };
        let socket = self.system.release(socket);
        let socket = self.system.adopt(socket);
        match self.system.watch(socket, Source::Connection(handle)) {
            Ok(socket) => {
                self.system.await_room(&socket);
                connection.socket = Some(socket);
            }
            Err(error) => self.without_socket(handle, errno(&error)),
        }
    }
}
