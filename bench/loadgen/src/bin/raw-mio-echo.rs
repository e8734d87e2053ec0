//! The ceiling: an echo server on bare mio. One thread, edge-triggered, one read buffer for all connections, answers
//! written straight from it. A short read ends the read; what the socket does not take is kept, and nothing more is read
//! from that connection until it has gone out.
//!
//! Ends on SIGTERM by the signal's default action: there is nothing to clean up.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use clap::Parser;
use loadgen::{
    limits::{EVENTS_PER_POLL, READ_BUFFER_BYTES},
    raw_server::{self, Listen, announce},
    stream::Stream,
};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, UnixListener},
};

const LISTENER: Token = Token(usize::MAX);

/// Echo server on bare mio, the ceiling of the benchmark.
#[derive(Parser)]
#[command(version, name = "raw-mio-echo")]
struct Cli {
    #[command(flatten)]
    listen: Listen,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli.listen).and_then(Server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raw-mio-echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(listen: &Listen) -> io::Result<Server> {
    let (bound, addr) = listen.bind()?;
    let poll = Poll::new()?;
    let listener = match bound {
        raw_server::Listener::Tcp(listener) => {
            let mut listener = TcpListener::from_std(listener);
            poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
            Listener::Tcp(listener)
        }
        raw_server::Listener::Unix(listener) => {
            let mut listener = UnixListener::from_std(listener);
            poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
            Listener::Unix(listener)
        }
    };
    announce(&addr, "raw-mio");
    Ok(Server { poll, listener, connections: Vec::new(), free: Vec::new() })
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

struct Connection {
    stream: Stream,
    /// Bytes read that the socket has not taken yet.
    unwritten: Vec<u8>,
}

struct Server {
    poll: Poll,
    listener: Listener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

impl Server {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        loop {
            if let Err(error) = self.poll.poll(&mut events, None)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let slot = event.token().0;
                let hung_up = event.is_read_closed() || event.is_error();
                let Some(connection) = &mut self.connections[slot] else { continue };
                // An error of one connection is that connection's end; a benchmark's client sees it.
                if !connection.echo(&mut buffer, hung_up).unwrap_or(false) {
                    self.connections[slot] = None;
                    self.free.push(slot);
                }
            }
        }
    }

    /// Takes every queued connection.
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok(stream) => stream,
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
            // A client that has reset already makes this fail; the read will see it too.
            let _ = stream.set_nodelay();
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poll.registry().register(
                &mut stream,
                Token(slot),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            self.connections[slot] = Some(Connection { stream, unwritten: Vec::new() });
        }
    }
}

impl Connection {
    /// Echoes what is there; false when the connection has ended.
    fn echo(&mut self, buffer: &mut [u8], hung_up: bool) -> io::Result<bool> {
        loop {
            if !self.flush()? {
                return Ok(true);
            }
            let length = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut written = 0;
            while written < length {
                match self.stream.write(&buffer[written..length]) {
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.unwritten.extend_from_slice(&buffer[written..length]);
            if length < buffer.len() && !hung_up {
                return Ok(true);
            }
        }
    }

    /// Writes what was kept; true when nothing is left.
    fn flush(&mut self) -> io::Result<bool> {
        let mut written = 0;
        while written < self.unwritten.len() {
            match self.stream.write(&self.unwritten[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unwritten.drain(..written);
        Ok(self.unwritten.is_empty())
    }
}
