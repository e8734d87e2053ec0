//! The shard layer on the shard's own thread: bytes are read straight into JavaScript's slabs and written straight from
//! them.
#![forbid(unsafe_code)]

use super::{Engine, TlsAnswer, TlsQuestion};
use crate::connection::Handle;
use crate::metrics::Metrics;
use crate::net::addresses::Peer;
use crate::shard::{Commands, ServerLimits, ServerSecurity, Shard, Sink};
use crate::system::{Left, System};
use crate::tls::session::Session;
use crate::write_queue::{Pin, PinnedMemory};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// See the module.
pub struct Local<S: System> {
    shard: Shard<S>,
}

impl<S: System> Local<S> {
    /// On this system. Time begins with `now`.
    pub fn new(system: S, metrics: Arc<Metrics>, now: Instant) -> Self {
        Self { shard: Shard::new(system, metrics, now) }
    }

    /// The shard layer.
    pub fn shard(&self) -> &Shard<S> {
        &self.shard
    }

    /// The shard layer, to change it.
    pub fn shard_mut(&mut self) -> &mut Shard<S> {
        &mut self.shard
    }
}

impl<S: System> Engine for Local<S> {
    type Listener = S::Listener;
    type Free = S::Free;

    fn add_server(&mut self, server: u16, number: u32, limits: ServerLimits) {
        self.shard.add_server(server, number, limits);
    }

    fn listen(&mut self, server: u16, listener: S::Listener) -> io::Result<()> {
        self.shard.listen(server, listener)
    }

    fn unlisten(&mut self, now: Instant, server: u16) -> u64 {
        self.shard.unlisten(now, server)
    }

    fn remove_server(&mut self, server: u16) {
        self.shard.remove_server(server);
    }

    fn retire(&mut self) -> Left<S> {
        self.shard.retire(|_| {}) // announced is handed on
    }

    fn abandon(&mut self) -> Left<S> {
        self.shard.abandon()
    }

    fn collect(&mut self, now: Instant, sink: &mut dyn Sink, memory: &dyn PinnedMemory) {
        self.shard.turn(now, sink, memory);
        self.shard.hear_broadcasts();
        self.shard.send_broadcasts(now);
    }

    fn end_batch(&mut self, _now: Instant) {
        self.shard.free_ended();
    }

    fn submit(&mut self, now: Instant, commands: &dyn Commands) {
        self.shard.submit(now, commands);
    }

    fn write(&mut self, now: Instant, handle: Handle, bytes: &[u8], commands: &dyn Commands) {
        self.shard.write(now, handle, bytes, commands);
    }

    fn write_pinned(
        &mut self,
        now: Instant,
        handle: Handle,
        pin: Pin,
        length: usize,
        memory: &dyn PinnedMemory,
    ) -> bool {
        self.shard.write_pinned(now, handle, pin, length, memory)
    }

    fn subscribe(&mut self, handle: Handle, topic: Box<str>) -> io::Result<()> {
        self.shard.subscribe(handle, &topic).map(|_| ())
    }

    fn unsubscribe(&mut self, handle: Handle, topic: Box<str>) {
        self.shard.unsubscribe(handle, &topic);
    }

    fn secure_server(&mut self, server: u16, security: ServerSecurity) {
        self.shard.secure_server(server, security);
    }

    fn secure_request(&mut self, request: u32, session: Box<Session>) {
        self.shard.secure_request(request, session);
    }

    fn abort_handshakes(&mut self, server: u16) {
        self.shard.abort_handshakes(server);
    }

    fn start_tls(&mut self, handle: Handle, session: Box<Session>, memory: &dyn PinnedMemory) {
        self.shard.start_tls(handle, session, memory);
    }

    fn feed_tls(&mut self, now: Instant, handle: Handle, bytes: Vec<u8>) {
        self.shard.feed_tls(now, handle, &bytes);
    }

    fn inspect_tls(&mut self, what: TlsQuestion) -> TlsAnswer {
        what.ask(&mut self.shard)
    }

    fn take_released_pins(&mut self, released: &mut Vec<Pin>) {
        self.shard.take_released_pins(released);
    }

    fn may_look(&self) -> bool {
        true
    }

    fn look(&mut self) -> bool {
        self.shard.look()
    }

    fn has_backlog(&self) -> bool {
        self.shard.has_backlog()
    }

    fn next_wake(&self) -> Option<Instant> {
        self.shard.next_wake()
    }

    fn is_alive(&self) -> bool {
        self.shard.is_alive()
    }

    fn queued_bytes(&mut self, handle: Handle) -> usize {
        self.shard.queued_bytes(handle)
    }

    fn peer(&self, handle: Handle) -> Option<Peer> {
        self.shard.peer(handle)
    }
}
