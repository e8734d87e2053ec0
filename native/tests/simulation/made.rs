//! The network that is made up, as a site; with it, the other shards.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::network::{Faults, Id, Net, address};
use crate::site::{Counts, Facts, Site};
use crate::system::{Elsewhere, SimListener, SimSocket, SimSystem, network_errno};
use crate::violation::note;
use crate::wire::{Place, ResetCause, Wire};
use parking_lot::Mutex;
use shardloop_native::inbox::{Delivery, Unserved};
use shardloop_native::net::addresses::Peer;
use shardloop_native::system::Source;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The network that is made up.
pub struct Made {
    pub net: Arc<Mutex<Net>>,
    pub elsewhere: Arc<Mutex<Elsewhere>>,
    lent: Vec<u32>,
    hushed: Option<Faults>,
}

impl Made {
    /// On this network.
    pub fn new(net: Net) -> Self {
        Self { net: Arc::new(Mutex::new(net)), elsewhere: Arc::default(), lent: Vec::new(), hushed: None }
    }

    /// As a shard sees it.
    pub fn system(&self) -> SimSystem {
        SimSystem { net: self.net.clone(), elsewhere: self.elsewhere.clone() }
    }

    /// Connections are left to other shards.
    pub fn leave(&self, left: Vec<Unserved<SimSocket>>) -> Vec<Id> {
        let ids = left.iter().map(|connection| connection.fd.id).collect();
        self.elsewhere.lock().left.extend(left);
        ids
    }
}

impl Site for Made {
    type Listener = SimListener;

    fn now(&self) -> Instant {
        self.net.lock().now
    }

    fn pass(&mut self, time: Duration) {
        self.net.lock().now += time;
    }

    fn begin(&mut self, draw: Draw) {
        self.net.lock().draw = draw;
    }

    fn disturb(&mut self, draw: &mut Draw) -> bool {
        let mut net = self.net.lock();
        if draw.once_in(64) {
            let Net { live, wires, .. } = &mut *net;
            live.retain(|&id| !wires[id as usize].is_over());
        }
        for _ in 0..draw.size(8) {
            if net.live.is_empty() {
                return false;
            }
            let id = draw.pick(&net.live);
            let most = draw.size(1 << 17);
            match draw.below(40) {
                0..=13 => _ = net.deliver_inbound(id, most),
                14..=24 => _ = net.deliver_outbound(id, most),
                25..=36 => _ = net.acknowledge(id, most),
                37 => _ = net.deliver_reset(id),
                38 if net.faults.fail > 0 && draw.once_in(40) => {
                    let errno = network_errno(draw);
                    note(|| format!("  the network fails {id}: errno {errno}"));
                    net.fail(id, errno);
                }
                39 if net.faults.accept > 0 && draw.once_in(10) => {
                    net.open_max = if draw.chance(50) { net.open + draw.below(3) } else { usize::MAX };
                }
                _ => {}
            }
        }
        true
    }

    fn settle(&mut self) -> bool {
        self.net.lock().settle()
    }

    fn hush(&mut self, hush: bool) {
        let mut net = self.net.lock();
        if hush {
            self.hushed = Some(std::mem::take(&mut net.faults));
        } else if let Some(faults) = self.hushed.take() {
            net.faults = faults;
        }
    }

    fn calm(&mut self) {
        let mut net = self.net.lock();
        (net.faults, net.open_max, net.planted) = (Default::default(), usize::MAX, None);
    }

    fn set_away(&mut self, away: bool) {
        let mut net = self.net.lock();
        let now = net.now;
        net.away_since = away.then_some(net.away_since.unwrap_or(now));
    }

    fn open_port(&mut self) -> u32 {
        let mut net = self.net.lock();
        net.ports.push(Default::default());
        (net.ports.len() - 1) as u32
    }

    fn close_port(&mut self, port: u32) -> usize {
        let mut net = self.net.lock();
        let may_stay = net.faults.accept > 0 || net.open_max < usize::MAX;
        let left = if may_stay { 0 } else { net.ports[port as usize].queue.len() };
        while let Some(id) = net.ports[port as usize].queue.pop_front() {
            net.refuse(id);
        }
        left
    }

    fn listener(&self, port: u32) -> SimListener {
        SimListener(port)
    }

    fn connect(&mut self, port: u32, draw: &mut Draw) -> Option<Id> {
        let capacity = 256 + draw.size(1 << 18);
        let window = 256 + draw.size(1 << 18);
        Some(self.net.lock().connect(port, capacity, window))
    }

    fn send(&mut self, id: Id, bytes: &[u8]) -> io::Result<usize> {
        self.net.lock().peer_send(id, bytes)
    }

    fn receive(&mut self, id: Id, into: &mut [u8]) -> io::Result<usize> {
        self.net.lock().peer_receive(id, into)
    }

    fn finish(&mut self, id: Id) {
        self.net.lock().peer_finish(id);
    }

    fn close(&mut self, id: Id) {
        self.net.lock().peer_close(id);
    }

    fn reset(&mut self, id: Id) {
        self.net.lock().peer_reset(id);
    }

    fn id(&self, peer: Peer) -> Id {
        let Peer::Ip(SocketAddr::V4(ip)) = peer else { return Id::MAX };
        let id = u32::from_be_bytes(ip.ip().octets()) & 0xff_ffff;
        if address(id) == peer { id } else { Id::MAX }
    }

    fn facts(&self, id: Id) -> Option<Facts> {
        let net = self.net.lock();
        let wire = net.wires.get(id as usize)?;
        let lost = match wire.reset_to_peer {
            Some(ResetCause::Closed { lost }) => lost,
            _ => 0,
        };
        Some(Facts {
            taken: wire.outbound.taken,
            errors: wire.errors.clone(),
            excused: wire.excused,
            moved_at: Some(wire.moved_at),
            unread: wire.inbound.unread() + usize::from(wire.error.is_some()),
            lost,
        })
    }

    fn counts(&self) -> Option<Counts> {
        let net = self.net.lock();
        Some(Counts { open: net.open, open_most: net.open_most, accepted: net.accepted })
    }

    fn lingering_unread(&self) -> usize {
        let net = self.net.lock();
        let lingers = |wire: &&Wire| matches!(wire.source, Some(Source::Lingering(_)));
        net.wires.iter().filter(lingers).filter(|wire| wire.inbound.unread() > 0).count()
    }

    fn is_elsewhere(&self, id: Id) -> bool {
        self.net.lock().wires[id as usize].place == Place::Gone
    }

    fn queues_are_empty(&self) -> bool {
        let net = self.net.lock();
        net.ports.iter().all(|port| port.queue.is_empty()) && self.elsewhere.lock().inbox.is_empty()
    }

    fn serve_elsewhere(&mut self, number: u32, serve: bool) {
        let mut elsewhere = self.elsewhere.lock();
        elsewhere.servers.retain(|&other| other != number);
        if serve {
            elsewhere.servers.push(number);
        }
    }

    /// They close some of what was left to them, and hand some over.
    fn stir_elsewhere(&mut self, draw: &mut Draw) -> bool {
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.left.is_empty() {
            return false;
        }
        let index = draw.below(elsewhere.left.len());
        let connection = elsewhere.left.swap_remove(index);
        if elsewhere.servers.contains(&connection.server) && draw.chance(60) {
            note(|| format!("  {} is handed over", connection.fd.id));
            let first = elsewhere.inbox.is_empty();
            elsewhere.inbox.push_back(Delivery::Connection(connection));
            let mut net = self.net.lock();
            net.inbox_edge |= first;
        } else {
            drop(elsewhere);
            note(|| format!("  {} ends elsewhere", connection.fd.id));
            drop(connection);
        }
        true
    }

    fn lend_listener(&mut self, number: u32) {
        if !self.elsewhere.lock().servers.contains(&number) {
            return;
        }
        let delivery = match self.lent.pop() {
            Some(port) => {
                _ = self.close_port(port); // it is theirs to serve what waits there
                Delivery::Release(SimListener(port))
            }
            None => {
                let port = self.open_port();
                self.lent.push(port);
                Delivery::Adopt { server: number, listener: SimListener(port) }
            }
        };
        note(|| format!("  another shard: {delivery:?}"));
        let mut elsewhere = self.elsewhere.lock();
        self.net.lock().inbox_edge |= elsewhere.inbox.is_empty();
        elsewhere.inbox.push_back(delivery);
    }

    fn close_inbox(&mut self) {
        let mut elsewhere = self.elsewhere.lock();
        for delivery in std::mem::take(&mut elsewhere.inbox) {
            if let Delivery::Connection(connection) = delivery {
                elsewhere.left.push(connection);
            }
        }
    }

    fn lent_ports(&mut self) -> &mut Vec<u32> {
        &mut self.lent
    }
}
