//! The network that is made up, as a shard sees it.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::network::{Faults, Id, Net, address};
use crate::planted::Planted;
use crate::tally;
use crate::violation::{ensure, note};
use crate::wire::Place;
use parking_lot::Mutex;
use shardloop_native::inbox::{Delivery, Unserved};
use shardloop_native::net::addresses::Peer;
use shardloop_native::system::{Readiness, Ready, Socket, Source, System};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// What the kernel says of a connection that is no more...
const BROKEN: [i32; 6] =
    [libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ENETDOWN, libc::EPIPE];
/// ... and of a call for which it had no memory.
const SHORT_OF_MEMORY: [i32; 2] = [libc::ENOBUFS, libc::ENOMEM];
const WATCH: [i32; 2] = [libc::ENOSPC, libc::ENOMEM];
const ACCEPT_EXHAUSTED: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EINVAL];
const ACCEPT_CONNECTION: [i32; 6] =
    [libc::ECONNABORTED, libc::EPROTO, libc::EINTR, libc::EPERM, libc::EHOSTUNREACH, libc::ETIMEDOUT];

/// What breaks a connection on its way.
pub fn network_errno(draw: &mut Draw) -> i32 {
    draw.pick(&BROKEN[..5])
}

fn failed<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

/// A shard's end of a connection.
#[derive(Debug)]
pub struct SimSocket {
    net: Arc<Mutex<Net>>,
    pub id: Id,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut net = self.net.lock();
        if !net.strikes(Planted::LeakSocket, 30) {
            net.close(self.id);
        }
    }
}

impl SimSocket {
    /// The call fails, if it does.
    fn fault(&self, net: &mut Net) -> io::Result<()> {
        let fails = net.faults.fail > 0 && net.draw.once_in(net.faults.fail);
        let lasting = net.draw.chance(60);
        let (lasts, passes) = (net.draw.pick(&BROKEN), net.draw.pick(&SHORT_OF_MEMORY));
        if fails && lasting {
            net.fail(self.id, lasts);
        }
        let wire = net.wire(self.id);
        let error = match wire.error.take() {
            Some(error) => error,
            None if fails && !wire.dead => passes,
            None => return Ok(()),
        };
        wire.errors.push(error);
        wire.excused = true; // should it linger, it does so no more
        tally::count("call failed", error);
        failed(error)
    }
}

impl Socket for SimSocket {
    fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        let mut net = self.net.lock();
        ensure!(!buffer.is_empty(), Inbound, "a read without a buffer");
        let unread = net.wire(self.id).inbound.unread();
        if unread == 0 || !net.wire(self.id).dead {
            // What has arrived before an error is read before it.
            self.fault(&mut net)?;
        }
        let (now, Faults { short, late, .. }) = (net.now, net.faults);
        if net.wire(self.id).place == Place::Gone {
            return failed(libc::EBADF);
        }
        if unread == 0 {
            let wire = net.wire(self.id);
            return if wire.dead || wire.inbound.end_arrived { Ok(0) } else { failed(libc::EAGAIN) };
        }
        if net.draw.chance(late) {
            net.edge(self.id);
            return failed(libc::EAGAIN);
        }
        let mut count = unread.min(buffer.len());
        if net.draw.chance(short) {
            count = net.draw.size(count);
            if count < unread {
                net.edge(self.id); // the rest has just come
            }
        }
        let skips = usize::from(count < unread && net.strikes(Planted::LoseByte, 100));
        let repeats = net.strikes(Planted::RepeatByte, 100);
        let wire = net.wire(self.id);
        for (into, &byte) in buffer.iter_mut().zip(&wire.inbound.next(count + skips)[skips..]) {
            into.write(byte);
        }
        wire.inbound.advance(if repeats { count - 1 } else { count + skips });
        wire.moved_at = now;
        note(|| format!("    receive {} → {count} of {unread}", self.id));
        Ok(count)
    }

    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut net = self.net.lock();
        self.fault(&mut net)?;
        let (now, Faults { short, late, .. }) = (net.now, net.faults);
        let room = net.wire(self.id).outbound.room();
        let offered: usize = pieces.iter().map(|piece| piece.len()).sum();
        let late = net.draw.chance(late);
        let short = net.draw.chance(short);
        let wire = net.wire(self.id);
        if wire.dead || wire.outbound.ended {
            wire.errors.push(libc::EPIPE);
            return failed(libc::EPIPE);
        }
        let mut count = offered.min(room);
        if count < offered || late {
            wire.wants_room = true;
        }
        if (room == 0 && offered > 0) || late {
            note(|| format!("    send {} → none of {offered}", self.id));
            return failed(libc::EAGAIN);
        }
        if short && count > 1 {
            wire.wants_room = true;
            count = net.draw.size(count);
        }
        let skips = net.strikes(Planted::LoseSentByte, 100);
        let wire = net.wire(self.id);
        let mut rest = count;
        for piece in pieces {
            let piece = &piece[..piece.len().min(rest)];
            wire.outbound.send(if skips && piece.len() == rest {
                &piece[piece.len().min(1)..]
            } else {
                piece
            });
            rest -= piece.len();
        }
        wire.moved_at = now;
        note(|| format!("    send {} → {count} of {offered}", self.id));
        Ok(count)
    }

    fn shutdown_write(&self) -> io::Result<()> {
        let mut net = self.net.lock();
        let wire = net.wire(self.id);
        if wire.dead {
            wire.errors.push(libc::ENOTCONN);
            return failed(libc::ENOTCONN);
        }
        wire.outbound.ended = true;
        Ok(())
    }

    fn reset_on_close(&self) {
        self.net.lock().wire(self.id).reset_on_close = true;
    }

    fn close_may_lose_bytes(&self) -> bool {
        let mut net = self.net.lock();
        let wire = net.wire(self.id);
        !wire.dead && (wire.outbound.unacknowledged() > 0 || wire.inbound.unread() > 0)
    }

    fn has_unread(&self) -> bool {
        self.net.lock().wire(self.id).inbound.unread() > 0
    }

    fn take_error(&self) -> Option<io::Error> {
        let mut net = self.net.lock();
        let wire = net.wire(self.id);
        let error = wire.error.take()?;
        wire.errors.push(error);
        Some(io::Error::from_raw_os_error(error))
    }
}

/// Names a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct SimListener(pub u32);

/// The other shards.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// What they hand over.
    pub inbox: VecDeque<Delivery<SimSocket, SimListener>>,
    /// What was left to them.
    pub left: Vec<Unserved<SimSocket>>,
    /// They serve what this shard serves, by the server's number, and it serves that, too.
    pub servers: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub struct SimSystem {
    pub net: Arc<Mutex<Net>>,
    pub elsewhere: Arc<Mutex<Elsewhere>>,
}

impl System for SimSystem {
    type Socket = SimSocket;
    type Free = SimSocket;
    type Listener = SimListener;

    fn poll(&mut self, ready: &mut Ready) {
        self.net.lock().poll(ready);
        note(|| format!("    poll → {ready:?}"));
    }

    fn look(&mut self, socket: &SimSocket, told: Readiness) -> Readiness {
        self.net.lock().look(socket.id, told)
    }

    fn watch(&mut self, socket: SimSocket, source: Source) -> io::Result<SimSocket> {
        let mut net = self.net.lock();
        let rate = net.faults.watch;
        if net.draw.chance(rate) {
            net.wire(socket.id).excused = true;
            tally::count("watch failed", 0);
            let error = net.draw.pick(&WATCH);
            drop(net); // the socket is closed
            return failed(error);
        }
        net.name(socket.id, source);
        drop(net);
        Ok(socket)
    }

    fn await_room(&mut self, socket: &SimSocket) {
        let mut net = self.net.lock();
        net.wire(socket.id).awaits_room = true;
    }

    fn watch_listener(&mut self, listener: &SimListener, place: u32) -> io::Result<()> {
        let mut net = self.net.lock();
        let rate = net.faults.watch;
        if net.draw.chance(rate) {
            return failed(net.draw.pick(&WATCH));
        }
        let port = &mut net.ports[listener.0 as usize];
        ensure!(port.place.is_none(), Leaks, "a listener is watched twice");
        port.place = Some(place);
        port.edge = false;
        Ok(())
    }

    fn unwatch_listener(&mut self, listener: &SimListener, place: u32) {
        let mut net = self.net.lock();
        let was = net.ports[listener.0 as usize].place.take();
        ensure!(was == Some(place), Leaks, "a listener was watched in place {was:?}, not {place}");
    }

    fn accept(&mut self, listener: &SimListener) -> io::Result<(SimSocket, Peer)> {
        let accepted = self.accept_from(listener);
        match &accepted {
            Ok((socket, _)) => note(|| format!("    accept from {} → {}", listener.0, socket.id)),
            Err(error) => {
                tally::count("accept failed", error.raw_os_error().unwrap_or(0));
                note(|| format!("    accept from {} → {error}", listener.0));
            }
        }
        accepted
    }

    fn is_away(&self) -> bool {
        self.net.lock().is_away()
    }

    fn release(&mut self, socket: SimSocket) -> SimSocket {
        let mut net = self.net.lock();
        let wire = net.wire(socket.id);
        wire.source = None;
        wire.edge = false;
        drop(net);
        socket
    }

    fn delivery(&mut self) -> Option<Delivery<SimSocket, SimListener>> {
        self.elsewhere.lock().inbox.pop_front()
    }

    fn relieve(&mut self, server: u32, socket: SimSocket, peer: Peer) -> Result<(), (SimSocket, u64)> {
        let mut elsewhere = self.elsewhere.lock();
        let mut net = self.net.lock();
        let (rate, ask_again_in) = (net.faults.relieve, net.draw.size(8) as u64);
        if !elsewhere.servers.contains(&server) || !net.draw.chance(rate) {
            return Err((socket, ask_again_in));
        }
        net.accepted -= 1; // it never was this shard's
        tally::count("relieved", 0);
        elsewhere.left.push(Unserved { server, fd: socket, peer, tls: None });
        Ok(())
    }

    fn adopt(&mut self, socket: SimSocket) -> SimSocket {
        tally::count("adopted", 0);
        self.net.lock().accepted += 1;
        socket
    }
}

impl SimSystem {
    fn accept_from(&mut self, listener: &SimListener) -> io::Result<(SimSocket, Peer)> {
        let mut net = self.net.lock();
        let rate = net.faults.accept;
        if net.draw.chance(rate) {
            if net.draw.chance(50) {
                return failed(net.draw.pick(&ACCEPT_EXHAUSTED));
            }
            if net.draw.chance(50)
                && let Some(id) = net.ports[listener.0 as usize].queue.pop_front()
            {
                net.refuse(id);
            }
            return failed(net.draw.pick(&ACCEPT_CONNECTION));
        }
        if net.open >= net.open_max {
            return failed(libc::EMFILE);
        }
        let Some(id) = net.ports[listener.0 as usize].queue.pop_front() else {
            return failed(libc::EAGAIN);
        };
        net.open += 1;
        net.open_most = net.open_most.max(net.open);
        net.accepted += 1;
        net.wire(id).place = Place::Open;
        Ok((SimSocket { net: self.net.clone(), id }, address(id)))
    }
}
