//! Where the load goes, and from which source addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::LoadError;

/// How the load generator ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Close {
    /// Orderly, as clients do; the port stays in TIME_WAIT for a minute.
    Fin,
    /// By reset (SO_LINGER 0): no TIME_WAIT, but the server sees ECONNRESET.
    Rst,
}

/// A resolved server address and the source addresses to connect from.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The server.
    pub addr: SocketAddr,
    /// Number of source addresses 127.0.0.2, 127.0.0.3 and on; 0 leaves the choice to the kernel.
    pub sources: u32,
}

impl Target {
    /// Reads HOST:PORT, with or without `tcp://` before it (as in a server's ready line), and takes the first address.
    ///
    /// # Errors
    /// [`LoadError::Address`], and [`LoadError::Remote`] for another machine's address without `allow_remote`.
    pub fn resolve(given: &str, allow_remote: bool) -> Result<SocketAddr, LoadError> {
        let refuse = |reason: String| LoadError::Address { given: given.to_owned(), reason };
        let name = given.strip_prefix("tcp://").unwrap_or(given);
        let addr = name
            .to_socket_addrs()
            .map_err(|error| refuse(error.to_string()))?
            .next()
            .ok_or_else(|| refuse("no address found".to_owned()))?;
        if addr.port() == 0 {
            return Err(refuse("port 0 cannot be connected to".to_owned()));
        }
        if !addr.ip().to_canonical().is_loopback() && !allow_remote {
            return Err(LoadError::Remote { addr });
        }
        Ok(addr)
    }

    /// The number of source addresses that can be used: Linux routes all of 127.0.0.0/8 to itself, other systems and
    /// IPv6 have one loopback address, and a remote server would not reach a loopback source.
    pub fn sources_possible(addr: SocketAddr, wanted: u32) -> u32 {
        let usable = cfg!(target_os = "linux") && addr.is_ipv4() && addr.ip().is_loopback();
        if usable { wanted } else { 0 }
    }

    /// Starts a connect without waiting for it. `number` picks the source address in turn.
    ///
    /// # Errors
    /// What the system says; `AddrNotAvailable` when the source address has no port left.
    pub fn connect(&self, number: u64, close: Close) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if self.sources > 0 {
            bind_address_without_port(&socket)?;
            socket.bind(&SocketAddr::new(source_address(number, self.sources), 0).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        if close == Close::Rst {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        match socket.connect(&self.addr.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }
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
    fn addresses_are_read_with_and_without_scheme() {
        for given in ["127.0.0.1:7000", "tcp://127.0.0.1:7000"] {
            assert_eq!(Target::resolve(given, false).unwrap(), "127.0.0.1:7000".parse().unwrap());
        }
        assert!(Target::resolve("[::1]:80", false).unwrap().is_ipv6());
    }

    #[test]
    fn remote_addresses_need_consent() {
        assert!(matches!(Target::resolve("192.0.2.1:80", false), Err(LoadError::Remote { .. })));
        assert!(Target::resolve("192.0.2.1:80", true).is_ok());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for given in ["127.0.0.1", "127.0.0.1:99999", "127.0.0.1:0", ""] {
            let error = Target::resolve(given, false).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--addr {given}: ")), "{error}");
        }
    }

    #[test]
    fn sources_go_round_through_the_loopback_block() {
        let addresses: Vec<String> = (0..4).map(|number| source_address(number, 3).to_string()).collect();
        assert_eq!(addresses, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]);
        assert_eq!(source_address(252, 1000).to_string(), "127.0.0.254");
        assert_eq!(source_address(253, 1000).to_string(), "127.0.1.1");
    }

    #[test]
    fn sources_are_for_ipv4_loopback() {
        assert_eq!(Target::sources_possible("[::1]:1".parse().unwrap(), 5), 0);
        assert_eq!(Target::sources_possible("192.0.2.1:1".parse().unwrap(), 5), 0);
    }
}
