//! The peers' ends of the network that is made up.
#![forbid(unsafe_code)]

use crate::network::{Id, Net};
use crate::wire::{Half, Place, ResetCause, Wire};
use std::io;

impl Net {
    /// A peer connects to a port.
    pub fn connect(&mut self, port: u32, send_capacity: usize, window: usize) -> Id {
        let id = self.wires.len() as Id;
        let inbound = Half::new(send_capacity, window);
        let outbound = Half::new(send_capacity, window);
        self.wires.push(Wire::new(self.now, inbound, outbound));
        self.live.push(id);
        let port = &mut self.ports[port as usize];
        port.queue.push_back(id);
        port.edge |= port.place.is_some();
        id
    }

    /// A connection ends before anybody accepts it.
    pub fn refuse(&mut self, id: Id) {
        let wire = self.wire(id);
        wire.place = Place::Gone;
        wire.dead = true;
        wire.reset_peer(|_| ResetCause::Network);
    }

    /// Sends from a peer.
    pub fn peer_send(&mut self, id: Id, bytes: &[u8]) -> io::Result<usize> {
        let wire = self.wire(id);
        if wire.reset_to_peer.is_some() {
            return Err(io::Error::from_raw_os_error(libc::ECONNRESET));
        }
        let count = bytes.len().min(wire.inbound.room());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.inbound.send(&bytes[..count]);
        Ok(count)
    }

    /// Receives at a peer. What has come there before a reset is read first.
    pub fn peer_receive(&mut self, id: Id, into: &mut [u8]) -> io::Result<usize> {
        let wire = self.wire(id);
        let count = into.len().min(wire.outbound.unread());
        if count > 0 {
            into[..count].copy_from_slice(wire.outbound.next(count));
            wire.outbound.advance(count);
            return Ok(count);
        }
        match wire.reset_to_peer {
            Some(_) => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
            None if wire.outbound.end_arrived => Ok(0),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// A peer ends what it sends.
    pub fn peer_finish(&mut self, id: Id) {
        self.wire(id).inbound.ended = true;
    }

    /// A peer has heard the end, and closes.
    pub fn peer_close(&mut self, id: Id) {
        let wire = self.wire(id);
        wire.inbound.ended = true;
        wire.peer_gone = true;
    }

    /// A peer resets.
    pub fn peer_reset(&mut self, id: Id) {
        let loses = self.draw.chance(50);
        let wire = self.wire(id);
        wire.peer_gone = true;
        wire.reset_to_shard = true;
        if loses {
            wire.inbound.lose_in_flight();
        }
    }
}
