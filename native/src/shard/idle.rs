//! Idle timeouts.
#![forbid(unsafe_code)]

use super::{Connection, Flags, Handle, Shard, Socket, System};
use crate::limits::{TIMER_SLOTS, TIMER_TICK_MS};
use crate::timer::Tick;
use crate::tls::failure::Failure;

impl<S: System> Shard<S> {
    pub(super) fn set_idle_timeout(&mut self, handle: Handle, milliseconds: u32) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.flags.has(Flags::HANDSHAKING.and(Flags::UPGRADING))
            && let Some(session) = &mut connection.tls
        {
            session.idle_timeout_ms = Some(milliseconds); // the handshake has a timeout of its own
            return;
        }
        self.start_idle_timer(handle, milliseconds);
    }

    pub(super) fn start_idle_timer(&mut self, handle: Handle, milliseconds: u32) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        connection.idle_ticks = u64::from(milliseconds).div_ceil(TIMER_TICK_MS) as Tick;
        connection.active_at = self.tick;
        // An entry that falls due earlier serves: it is put in again then. So a timeout that is set with every message
        // does not fill the wheel.
        if connection.idle_ticks > 0
            && (connection.timer_at == 0 || connection.timer_at > connection.idle_at())
        {
            connection.timer_at = connection.idle_at().min(self.tick + TIMER_SLOTS as Tick);
            self.timers.insert(handle, connection.timer_at);
        }
    }

    pub(super) fn timer_due(&mut self, handle: Handle, deadline: Tick) {
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if connection.timer_at != deadline {
            return; // another entry counts
        }
        connection.timer_at = 0;
        if connection.idle_ticks == 0 || connection.flags.has(Flags::LOST) {
            return;
        }
        let is_idle = connection.idle_at() <= self.tick;
        let shakes = connection.flags.has(Flags::HANDSHAKING.and(Flags::UPGRADING));
        if is_idle && shakes && !may_go_on(connection) {
            return self.fail_session(handle, Failure::Timeout);
        }
        if is_idle {
            connection.active_at = self.tick;
        }
        let tells = is_idle && !shakes;
        if tells {
            connection.flags.set(Flags::IDLE);
        }
        connection.timer_at = connection.idle_at().min(self.tick + TIMER_SLOTS as Tick);
        self.timers.insert(handle, connection.timer_at);
        if tells {
            self.signal(handle);
        }
    }
}

/// Whether a handshake whose time is up has it again: its peer has said something that was not read yet, so it may be the thread that was
/// away. Once, or a peer that says little at a time would have no limit. One that JavaScript has yet to begin waits for nobody else.
fn may_go_on<K: Socket>(connection: &mut Connection<K>) -> bool {
    connection.flags.has(Flags::UPGRADING)
        || (connection.socket.as_ref().is_some_and(Socket::has_unread)
            && connection.tls.as_mut().is_some_and(|session| session.take_respite()))
}
