//! Where the load goes, and from which source addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use mio::net::{TcpStream, UnixStream};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    address::Address,
    limits::CONNECT_TIMEOUT,
    stream::Stream,
    tls::{TlsClient, TlsStream},
};

/// How the load generator ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Close {
    /// Orderly, as clients do; the port stays in TIME_WAIT for a minute.
    Fin,
    /// By reset (SO_LINGER 0): no TIME_WAIT, but the server sees ECONNRESET.
    Rst,
}

/// A resolved server address and the source addresses to connect from.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub addr: Address,
    /// Number of source addresses 127.0.0.2, 127.0.0.3 and on; 0 leaves the choice to the kernel. TCP only.
    pub sources: u32,
    /// How to speak TLS to it; none: not.
    pub tls: Option<TlsClient>,
}

impl Target {
    /// The number of source addresses that can be used: Linux routes all of 127.0.0.0/8 to itself, other systems and
    /// IPv6 have one loopback address, a remote server would not reach a loopback source, and Unix sockets have no ports
    /// that could run out.
    pub fn sources_possible(addr: &Address, wanted: u32) -> u32 {
        let usable = match addr {
            Address::Tcp(addr) => cfg!(target_os = "linux") && addr.is_ipv4() && addr.ip().is_loopback(),
            Address::Unix(_) => false,
        };
        if usable { wanted } else { 0 }
    }

    /// Starts a connect, without waiting for it over TCP. `number` picks the source address in turn.
    ///
    /// # Errors
    /// What the system says; `AddrNotAvailable` when the source address has no port left.
    pub fn connect(&self, number: u64, close: Close) -> io::Result<Stream> {
        let stream = match &self.addr {
            Address::Tcp(addr) => self.connect_tcp(*addr, number, close),
            Address::Unix(path) => connect_unix(path),
        }?;
        match &self.tls {
            None => Ok(stream),
            Some(tls) => Ok(Stream::Tls(Box::new(TlsStream::new(stream, tls)?))),
        }
    }

    fn connect_tcp(&self, addr: SocketAddr, number: u64, close: Close) -> io::Result<Stream> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if self.sources > 0 {
            bind_address_without_port(&socket)?;
            socket.bind(&SocketAddr::new(source_address(number, self.sources), 0).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        if close == Close::Rst {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Stream::Tcp(TcpStream::from_std(socket.into()))),
        }
    }
}

/// A Unix socket connects at once, or has to wait while the server's queue is full. Linux tells nobody when there is room
/// again (a connect that does not block says EAGAIN and is over), so this one blocks, as long as a connect may take.
fn connect_unix(path: &Path) -> io::Result<Stream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // On Linux this bounds connect, too.
    socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })?;
    socket.set_nonblocking(true)?;
    Ok(Stream::Unix(UnixStream::from_std(socket.into())))
}

/// 127.0.0.2 for the first, and on through 127.0.0.0/8, skipping the addresses that end in 0 or 255.
fn source_address(number: u64, sources: u32) -> IpAddr {
    let index = (number % u64::from(sources)) as u32 + 1;
    let (block, last) = (index / 254, index % 254 + 1);
    IpAddr::V4(Ipv4Addr::new(127, (block >> 8) as u8, block as u8, last as u8))
}

/// Leaves the port to `connect`, which may take one that another connection from this address has towards another
/// server; `bind` alone would need a port that nobody has, and search for it.
#[cfg(target_os = "linux")]
fn bind_address_without_port(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option's value is an int that lives
    // across the call, given with its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn bind_address_without_port(_socket: &Socket) -> io::Result<()> {
    unreachable!("sources_possible allows source addresses on Linux only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_go_round_through_the_loopback_block() {
        let addresses: Vec<String> = (0..4).map(|number| source_address(number, 3).to_string()).collect();
        assert_eq!(addresses, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]);
        assert_eq!(source_address(252, 1000).to_string(), "127.0.0.254");
        assert_eq!(source_address(253, 1000).to_string(), "127.0.1.1");
    }

    #[test]
    fn sources_are_for_ipv4_loopback() {
        for given in ["[::1]:1", "192.0.2.1:1", "unix:/tmp/x.sock"] {
            let addr = Address::resolve(given, true).unwrap();
            assert_eq!(Target::sources_possible(&addr, 5), 0);
        }
    }
}
