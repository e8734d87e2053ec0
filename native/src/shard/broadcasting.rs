//! Broadcasts out: bytes that are for all subscribers of a topic, whoever said so.
#![forbid(unsafe_code)]

use super::writing::send;
use super::{Flags, Handle, Shard, System};
use crate::abi;
use crate::audience::Broadcast;
use crate::error::errno;
use crate::limits::{BROADCAST_SENDS_PER_TURN, WRITEV_PIECES};
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

/// What is to be sent to all.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    waiting: VecDeque<Arc<Broadcast>>,
    current: Option<Run>,
}

/// Broadcasts to one topic, behind each other: they leave each connection together.
#[derive(Debug)]
struct Run {
    messages: ArrayVec<Arc<Broadcast>, WRITEV_PIECES>,
    /// Who had subscribed when it began.
    members: Vec<Handle>,
    /// Of them, those that have it.
    sent: usize,
    /// When nothing has changed since, all of them still do.
    changes: u64,
}

impl<S: System> Shard<S> {
    /// A connection gets what is broadcast to a topic from now on. Whether broadcasts are heard here: not for a connection
    /// that is gone, or only read.
    pub fn subscribe(&mut self, handle: Handle, topic: &str) -> io::Result<bool> {
        const BARRED: Flags = Flags::LOST.and(Flags::READ_PIPE);
        let open = self.connections.get_mut(handle).filter(|connection| !connection.flags.has(BARRED));
        let Some(connection) = open else { return Ok(false) };
        self.system.sit_down()?;
        connection.flags.set(Flags::SUBSCRIBED);
        self.topics.subscribe(handle, topic);
        Ok(true)
    }

    /// It does not any more.
    pub fn unsubscribe(&mut self, handle: Handle, topic: &str) {
        self.topics.unsubscribe(handle, topic);
    }

    /// Takes in what others have broadcast. Whether there was something: commands that came before it have to be applied
    /// before it is sent.
    pub fn hear_broadcasts(&mut self) -> bool {
        let Some(seat) = self.system.seat().filter(|seat| seat.has_waiting()) else { return false };
        self.broadcasts.waiting.extend(seat.waiting());
        true
    }

    /// Whether something is to be sent or heard.
    pub fn is_broadcasting(&self) -> bool {
        self.broadcasts.current.is_some()
            || !self.broadcasts.waiting.is_empty()
            || self.system.seat().is_some_and(|seat| seat.has_waiting())
    }

    /// Sends what was heard, to as many connections as one turn allows: thousands of them must not keep others waiting.
    pub fn send_broadcasts(&mut self, now: Instant) {
        if self.broadcasts.current.is_none() && self.broadcasts.waiting.is_empty() {
            return;
        }
        self.set_time(now);
        let mut left = BROADCAST_SENDS_PER_TURN;
        while left > 0 {
            let next = self.broadcasts.current.take().or_else(|| self.next_run());
            let Some(mut run) = next else { return };
            left -= 1; // also one that is for nobody here
            while left > 0 && run.sent < run.members.len() {
                let handle = run.members[run.sent];
                run.sent += 1;
                left -= 1;
                if run.changes == self.topics.changes() || self.topics.has(handle, &run.messages[0].topic) {
                    self.send_messages(handle, &run.messages);
                }
            }
            if run.sent < run.members.len() {
                self.broadcasts.current = Some(run);
            } else if let Some(seat) = self.system.seat() {
                run.messages.iter().for_each(|message| seat.done(message));
            }
        }
    }

    fn next_run(&mut self) -> Option<Run> {
        let waiting = &mut self.broadcasts.waiting;
        let mut messages = ArrayVec::new();
        messages.push(waiting.pop_front()?);
        let first: &Arc<Broadcast> = &messages[0];
        let (members, changes) = (self.topics.members(&first.topic).to_vec(), self.topics.changes());
        let topic = first.clone();
        while !messages.is_full() && waiting.front().is_some_and(|next| next.topic == topic.topic) {
            messages.extend(waiting.pop_front());
        }
        Some(Run { messages, members, sent: 0, changes })
    }

    /// Those that are for this connection.
    fn send_messages(&mut self, handle: Handle, messages: &[Arc<Broadcast>]) {
        let Some(seat) = self.system.seat() else { return };
        if messages.iter().all(|message| seat.is_for(message, handle)) {
            return self.send_broadcast(handle, messages);
        }
        let wanted: ArrayVec<Arc<Broadcast>, WRITEV_PIECES> =
            messages.iter().filter(|message| seat.is_for(message, handle)).cloned().collect();
        if !wanted.is_empty() {
            self.send_broadcast(handle, &wanted);
        }
    }

    fn send_broadcast(&mut self, handle: Handle, messages: &[Arc<Broadcast>]) {
        const BARRED: Flags = Flags::LOST.and(Flags::CLOSING).and(Flags::WRITE_EOF);
        let Some(connection) = self.connections.get_mut(handle) else { return };
        let Some(socket) = connection.socket.as_ref().filter(|_| !connection.flags.has(BARRED)) else {
            return;
        };
        if connection.tls.is_some() {
            let mut pieces: ArrayVec<IoSlice<'_>, WRITEV_PIECES> =
                messages.iter().map(|message| IoSlice::new(&message.bytes)).collect();
            self.send_secured(handle, &mut pieces);
            self.update_watermarks(handle);
            return;
        }
        let mut sent = 0;
        if connection.queue.is_none() {
            let pieces: ArrayVec<IoSlice<'_>, WRITEV_PIECES> =
                messages.iter().map(|message| IoSlice::new(&message.bytes)).collect();
            self.metrics.add(abi::METRIC_WRITES, 1);
            match send(socket, connection.flags, &pieces) {
                Ok(bytes) => {
                    sent = bytes;
                    connection.active_at = self.tick;
                    self.metrics.add(abi::METRIC_BYTES_WRITTEN, sent as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.lose(handle, errno(&error));
                    return;
                }
            }
        }
        let length: usize = messages.iter().map(|message| message.bytes.len()).sum();
        if sent == length {
            return;
        }
        if connection.queued() + length - sent > self.write_max(handle) {
            self.reset(handle, abi::CLOSE_WRITE_OVERFLOW);
            return;
        }
        let Some(connection) = self.connections.get_mut(handle) else { return };
        if let (Some(socket), None) = (&connection.socket, &connection.queue) {
            self.system.await_room(socket);
        }
        let queue = connection.queue.get_or_insert_default();
        for message in messages {
            let bytes = &message.bytes;
            if sent < bytes.len() {
                queue.push_shared(bytes.clone(), sent);
            }
            sent = sent.saturating_sub(bytes.len());
        }
        self.update_watermarks(handle);
    }
}
