//! The same scenario on the kernel's sockets, by the engines that JavaScript gets.

use crate::draw::Draw;
use crate::network::Id;
use crate::site::{Counts, Facts, Site};
use crate::stage::Stage;
use shardloop_native::engine::SocketEngine;
use shardloop_native::net::addresses::Peer;
use shardloop_native::net::listen::{ListenOptions, Listener, bind};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The loopback interface.
#[derive(Default)]
pub struct Loopback {
    ports: Vec<Option<Arc<Listener>>>,
    peers: Vec<Option<TcpStream>>,
    ids: HashMap<SocketAddr, Id>,
    lent: Vec<u32>,
}

impl Loopback {
    fn peer(&mut self, id: Id) -> io::Result<&mut TcpStream> {
        self.peers[id as usize].as_mut().ok_or(io::ErrorKind::NotConnected.into())
    }

    /// A socket with an address that no peer had before: by it a connection is told from all others. The kernel
    /// promises less: it gives a port again when its peer is gone, and to peers of different listeners at once.
    fn bind_peer(&self) -> io::Result<(Socket, SocketAddr)> {
        let mut had_before = Vec::new(); // held meanwhile, so that the kernel gives another
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
            let local = socket.local_addr()?.as_socket().expect("an address of IPv4");
            if !self.ids.contains_key(&local) {
                return Ok((socket, local));
            }
            had_before.push(socket);
        }
    }
}

impl Site for Loopback {
    type Listener = Arc<Listener>;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn pass(&mut self, _time: Duration) {}

    fn begin(&mut self, _draw: Draw) {}

    fn disturb(&mut self, _draw: &mut Draw) -> bool {
        false
    }

    fn settle(&mut self) -> bool {
        false
    }

    fn hush(&mut self, _hush: bool) {}

    fn calm(&mut self) {}

    fn set_away(&mut self, _away: bool) {}

    fn open_port(&mut self) -> u32 {
        let options = ListenOptions {
            host: [127, 0, 0, 1].into(),
            port: 0,
            backlog: 512,
            reuse_port: false,
            ipv6_only: false,
            no_delay: true,
            exclusive: false,
        };
        self.ports.push(Some(Arc::new(bind(&options).expect("a port of the loopback interface"))));
        (self.ports.len() - 1) as u32
    }

    fn close_port(&mut self, port: u32) -> usize {
        self.ports[port as usize] = None;
        0
    }

    fn listener(&self, port: u32) -> Arc<Listener> {
        self.ports[port as usize].clone().expect("a port that is listened at is open")
    }

    fn connect(&mut self, port: u32, draw: &mut Draw) -> Option<Id> {
        let address = self.ports[port as usize].as_ref()?.address().to_kernel().ok()?;
        let (socket, local) = self.bind_peer().expect("a port for a peer");
        if draw.chance(50) {
            // Small buffers fill; they are set before the window is told.
            socket.set_recv_buffer_size(1 << 12).ok()?;
            socket.set_send_buffer_size(1 << 12).ok()?;
        }
        socket.connect(&address).ok()?;
        socket.set_nonblocking(true).ok()?;
        let id = self.peers.len() as Id;
        self.ids.insert(local, id);
        self.peers.push(Some(TcpStream::from(socket)));
        Some(id)
    }

    fn send(&mut self, id: Id, bytes: &[u8]) -> io::Result<usize> {
        self.peer(id)?.write(bytes)
    }

    fn receive(&mut self, id: Id, into: &mut [u8]) -> io::Result<usize> {
        self.peer(id)?.read(into)
    }

    fn finish(&mut self, id: Id) {
        if let Ok(peer) = self.peer(id) {
            _ = peer.shutdown(Shutdown::Write); // it fails when the shard has reset it, which is heard by reading
        }
    }

    fn close(&mut self, id: Id) {
        self.peers[id as usize] = None;
    }

    fn reset(&mut self, id: Id) {
        if let Some(peer) = self.peers[id as usize].take() {
            _ = Socket::from(peer).set_linger(Some(Duration::ZERO));
        }
    }

    fn id(&self, peer: Peer) -> Id {
        peer.ip().and_then(|peer| self.ids.get(&peer).copied()).unwrap_or(Id::MAX)
    }

    fn facts(&self, _id: Id) -> Option<Facts> {
        None
    }

    fn counts(&self) -> Option<Counts> {
        None
    }

    fn lingering_unread(&self) -> usize {
        0
    }

    fn is_elsewhere(&self, _id: Id) -> bool {
        false
    }

    fn queues_are_empty(&self) -> bool {
        true
    }

    fn serve_elsewhere(&mut self, _number: u32, _serve: bool) {}

    fn stir_elsewhere(&mut self, _draw: &mut Draw) -> bool {
        false
    }

    fn lend_listener(&mut self, _number: u32) {}

    fn close_inbox(&mut self) {}

    fn lent_ports(&mut self) -> &mut Vec<u32> {
        &mut self.lent
    }
}

/// An engine on it.
pub struct LoopbackStage<E> {
    engine: E,
    site: Loopback,
    is_immediate: bool,
}

impl<E: SocketEngine> LoopbackStage<E> {
    /// `is_immediate` when it runs on this thread.
    pub fn new(engine: E, is_immediate: bool) -> Self {
        Self { engine, site: Loopback::default(), is_immediate }
    }

    fn poll(&self, most: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.engine.pollable(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd; the descriptor is the engine's, which lives.
        unsafe { libc::poll(&mut poll, 1, most.as_millis() as i32) > 0 }
    }
}

impl<E: SocketEngine> Stage for LoopbackStage<E> {
    type Engine = E;
    type Site = Loopback;

    fn engine(&mut self) -> &mut E {
        &mut self.engine
    }

    fn site(&mut self) -> &mut Loopback {
        &mut self.site
    }

    fn is_called(&mut self) -> bool {
        self.poll(Duration::ZERO)
    }

    fn turn(&mut self) -> bool {
        false
    }

    fn next_wake(&self) -> Option<Instant> {
        None
    }

    /// Peers are looked at again soon: what they wait for does not call anybody here.
    fn wait(&mut self, most: Duration) {
        self.poll(most.min(Duration::from_millis(1)));
    }

    fn is_still(&self) -> bool {
        false
    }

    fn is_immediate(&self) -> bool {
        self.is_immediate
    }

    fn retire(&mut self) -> Vec<Id> {
        self.engine.retire().iter().map(|connection| self.site.id(connection.peer)).collect()
    }

    fn abandon(&mut self) -> Vec<Id> {
        self.engine.abandon().iter().map(|connection| self.site.id(connection.peer)).collect()
    }

    fn end(self) -> Loopback {
        self.site
    }
}
