//! Sending: at once, or from the queue when there is room again.

use super::queue::{Waiting, cost_of};
use super::{Again, Commands, Shard, System};
use crate::abi;
use crate::error::errno;
use crate::limits::{DATAGRAM_BATCH, DATAGRAM_CLOSE_MS};
use crate::net::datagram_address;
use crate::net::datagrams::Outgoing;
use crate::net::udp::{self, Failure};
use arrayvec::ArrayVec;
use std::io;
use std::mem;
use std::time::Duration;

impl<S: System> Shard<S> {
    /// Sends the datagrams of this endpoint that begin at `first`, and stand one behind the other.
    pub(super) fn send_datagrams(&mut self, endpoint: u32, first: usize, commands: &dyn Commands) {
        let [operation, word, ..] = commands.record(first);
        let mut next = first;
        while next < commands.len() {
            let mut batch: ArrayVec<Outgoing<'_>, DATAGRAM_BATCH> = ArrayVec::new();
            while next < commands.len() && !batch.is_full() && commands.record(next)[..2] == [operation, word]
            {
                let parts = commands.bytes(next).and_then(datagram_address::split);
                debug_assert!(parts.is_some(), "a datagram has no address in front of it");
                if let Some((destination, payload)) = parts {
                    batch.push(Outgoing { destination, payload });
                }
                next += 1;
            }
            if batch.is_empty() {
                break;
            }
            self.send_or_queue_datagrams(endpoint, &batch);
        }
        self.update_endpoint_watermarks(endpoint);
    }

    /// Sends datagrams, each unless something to the same place waits already; those that the kernel has no room for wait.
    fn send_or_queue_datagrams(&mut self, endpoint: u32, mut rest: &[Outgoing<'_>]) {
        while let Some(first) = rest.first() {
            let Some(found) = self.datagrams.get(endpoint).filter(|found| found.is_open()) else { return };
            let waits = |outgoing: &&Outgoing<'_>| found.queue.holds(outgoing.destination);
            let free = rest.iter().take_while(|outgoing| !waits(outgoing)).count();
            let sent = if free > 0 { self.send_batch(endpoint, &rest[..free]) } else { 0 };
            rest = &rest[sent..];
            if sent == free && free > 0 {
                continue;
            }
            // There is no room for the next, or others wait in front of it.
            let next = if free == 0 { first } else { &rest[0] };
            self.queue_datagram(endpoint, next);
            rest = &rest[1..];
        }
    }

    /// Sends datagrams until the kernel has no room. How many are done with: taken, or failed and told.
    fn send_batch(&mut self, endpoint: u32, batch: &[Outgoing<'_>]) -> usize {
        let Some(socket) = self.datagrams.get(endpoint).and_then(|found| found.socket.clone()) else {
            return batch.len();
        };
        let mut done = 0;
        // The error of an earlier one was told by the call that was to send this one.
        let mut excused = None;
        while done < batch.len() {
            self.metrics.add(abi::METRIC_WRITES, 1);
            let error = match socket.send(&batch[done..]) {
                Ok(count) => {
                    let sent = &batch[done..done + count];
                    let bytes: usize = sent.iter().map(|outgoing| outgoing.payload.len()).sum();
                    self.metrics.add(abi::METRIC_DATAGRAMS_SENT, count as u64);
                    self.metrics.add(abi::METRIC_BYTES_WRITTEN, bytes as u64);
                    done += count;
                    continue;
                }
                Err(error) => error,
            };
            match udp::failure(&error, socket.tells_of_room()) {
                Failure::Later => {
                    if self.await_endpoint_room(endpoint) {
                        return done;
                    }
                    break;
                }
                Failure::Again => {
                    self.retry_endpoint_later(endpoint, Again::Send);
                    return done;
                }
                Failure::Socket => {
                    self.lose_endpoint(endpoint, errno(&error));
                    break;
                }
                Failure::One => {
                    self.datagram_failed(endpoint, send_errno(&error), true);
                    let is_of_earlier = error.raw_os_error() == Some(libc::ECONNREFUSED) && !socket.is_unix();
                    if is_of_earlier && excused.replace(done) != Some(done) {
                        continue;
                    }
                    self.metrics.add(abi::METRIC_DATAGRAMS_DROPPED, 1);
                    done += 1;
                }
            }
        }
        // It is lost when some are left.
        self.metrics.add(abi::METRIC_DATAGRAMS_DROPPED, (batch.len() - done) as u64);
        batch.len()
    }

    /// To be told when there is room. False when the endpoint is lost.
    fn await_endpoint_room(&mut self, endpoint: u32) -> bool {
        let Some(found) = self.datagrams.get(endpoint) else { return false };
        if !mem::replace(&mut found.awaits_room, true) {
            self.rewatch_endpoint(endpoint);
        }
        self.datagrams.get(endpoint).is_some_and(|found| found.is_open())
    }

    fn queue_datagram(&mut self, endpoint: u32, outgoing: &Outgoing<'_>) {
        let Some(found) = self.datagrams.get(endpoint).filter(|found| found.is_open()) else { return };
        if !found.queue.push(outgoing, found.limits.write_max_bytes) {
            self.metrics.add(abi::METRIC_DATAGRAMS_DROPPED, 1);
            self.datagram_failed(endpoint, abi::DATAGRAM_OVERFLOW, true);
        }
    }

    /// There may be room again.
    pub(super) fn send_queued_datagrams(&mut self, endpoint: u32) {
        let Some(found) = self.datagrams.get(endpoint).filter(|found| found.is_open()) else { return };
        let mut waiting = found.queue.take();
        let mut freed_bytes = 0;
        waiting.retain(|_, datagrams| {
            freed_bytes += self.send_waiting(endpoint, datagrams);
            !datagrams.is_empty()
        });
        let Some(found) = self.datagrams.get(endpoint) else { return };
        if !found.is_open() {
            // Lost meanwhile, with what was taken out of it.
            let dropped: usize = waiting.values().map(Waiting::len).sum();
            self.metrics.add(abi::METRIC_DATAGRAMS_DROPPED, dropped as u64);
            return;
        }
        found.queue.put_back(waiting, freed_bytes);
        if freed_bytes > 0 {
            found.retry.succeeded();
            self.set_close_deadline(endpoint);
        }
        self.update_endpoint_watermarks(endpoint);
        self.close_when_sent(endpoint);
    }

    /// Sends from the front as long as there is room. What those that are done with counted for.
    fn send_waiting(&mut self, endpoint: u32, datagrams: &mut Waiting) -> usize {
        let mut freed_bytes = 0;
        loop {
            let (done, count) = {
                let parts =
                    datagrams.iter().take(DATAGRAM_BATCH).filter_map(|bytes| datagram_address::split(bytes));
                let batch: ArrayVec<Outgoing<'_>, DATAGRAM_BATCH> =
                    parts.map(|(destination, payload)| Outgoing { destination, payload }).collect();
                (self.send_batch(endpoint, &batch), batch.len())
            };
            freed_bytes += datagrams.drain(..done).map(|bytes| cost_of(bytes.len())).sum::<usize>();
            if done < count || datagrams.is_empty() {
                return freed_bytes;
            }
        }
    }

    /// One that closes waits no longer than this for something to be sent.
    pub(super) fn set_close_deadline(&mut self, endpoint: u32) {
        let at = self.now + Duration::from_millis(DATAGRAM_CLOSE_MS);
        if let Some(found) = self.datagrams.get(endpoint).filter(|found| found.closing && found.is_open()) {
            found.closes_at = Some(at);
            self.datagrams.list_timed(endpoint, at);
        }
    }
}

/// Of an error without a number: a name that no kernel takes.
fn send_errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EINVAL)
}
