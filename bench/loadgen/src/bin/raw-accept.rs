//! The other side of the benchmark of connecting: accepts, waits for the client's end and closes. The client closes first,
//! always, so what it pays for a connection does not depend on who was faster.
//!
//! That leaves a port in TIME_WAIT with the client, so there are several addresses to connect to, 127.0.0.1, 127.0.0.2 and
//! on, all with the same port: a client that takes them in turn has 28,000 ports towards each.
//!
//! Ends on SIGTERM by the signal's default action: there is nothing to clean up.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use clap::Parser;
use loadgen::{
    limits::{EVENTS_PER_POLL, reserve_descriptors},
    raw_server::{announce, bind_tcp},
};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

/// Ports that are tried before it is given up: one that is free on the first address may be taken on another.
const PORT_TRIES: u32 = 20;
/// What a client sends is not looked at; a few bytes at once are enough to find its end.
const READ_BUFFER_BYTES: usize = 4096;

/// Accepts connections and closes each when its client has, for the benchmark of connecting.
#[derive(Parser)]
#[command(version, name = "raw-accept")]
struct Cli {
    /// Port to listen on, on every address; 0 lets the kernel choose
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Addresses to listen on: 127.0.0.1, 127.0.0.2 and on (more than one on Linux only)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=250))]
    addresses: u8,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli).and_then(Server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raw-accept: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> io::Result<Server> {
    reserve_descriptors(0).map_err(io::Error::other)?;
    let poll = Poll::new()?;
    let mut listeners = bind_all(cli)?;
    for (index, listener) in listeners.iter_mut().enumerate() {
        poll.registry().register(listener, Token(index), Interest::READABLE)?;
    }
    let Some(first) = listeners.first() else { unreachable!("there is at least one address") };
    announce(&first.local_addr()?.into(), "raw-accept");
    Ok(Server { poll, listeners, connections: Vec::new(), free: Vec::new() })
}

fn bind_all(cli: &Cli) -> io::Result<Vec<TcpListener>> {
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_each(cli.port, cli.addresses) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && cli.port == 0 && tries < PORT_TRIES => {
            }
            other => return other,
        }
    }
}

fn bind_each(port: u16, addresses: u8) -> io::Result<Vec<TcpListener>> {
    let mut port = port;
    (1..=addresses)
        .map(|last| {
            let listener = bind_tcp(SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), port))?;
            port = listener.local_addr()?.port();
            Ok(TcpListener::from_std(listener))
        })
        .collect()
}

struct Server {
    poll: Poll,
    /// Their places are their tokens; connections have the tokens behind them.
    listeners: Vec<TcpListener>,
    connections: Vec<Option<TcpStream>>,
    free: Vec<usize>,
}

impl Server {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        loop {
            if let Err(error) = self.poll.poll(&mut events, None)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            for event in &events {
                let Token(token) = event.token();
                match token.checked_sub(self.listeners.len()) {
                    None => self.accept(token)?,
                    Some(slot) => self.close_if_ended(slot),
                }
            }
        }
    }

    /// Takes every queued connection of a listener.
    fn accept(&mut self, listener: usize) -> io::Result<()> {
        loop {
            let mut stream = match self.listeners[listener].accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let token = Token(self.listeners.len() + slot);
            self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
            self.connections[slot] = Some(stream);
        }
    }

    fn close_if_ended(&mut self, slot: usize) {
        let Some(stream) = &mut self.connections[slot] else { return };
        let mut buffer = [0; READ_BUFFER_BYTES];
        loop {
            match stream.read(&mut buffer) {
                Ok(length) if length > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The client has closed, or has reset the connection: over either way.
                Ok(_) | Err(_) => break,
            }
        }
        self.connections[slot] = None;
        self.free.push(slot);
    }
}
