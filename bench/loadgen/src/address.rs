//! Addresses of servers as the options and the servers' ready lines write them.

use std::{
    fmt,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use socket2::SockAddr;

use crate::error::LoadError;

/// What stands before the path of a Unix socket.
const UNIX: &str = "unix:";

/// How long an address of a name that has several may take to accept a connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads HOST:PORT, with or without `tcp://` before it (as in a server's ready line), or unix:PATH. Of the addresses of a name,
    /// as localhost has two, it takes the first that accepts a connection, and the first of all when none does.
    ///
    /// # Errors
    /// [`LoadError::Address`], and [`LoadError::Remote`] for another machine's address without `allow_remote`.
    pub fn resolve(given: &str, allow_remote: bool) -> Result<Self, LoadError> {
        let refuse = |reason: String| LoadError::Address { given: given.to_owned(), reason };
        if let Some(path) = given.strip_prefix(UNIX) {
            if path.is_empty() {
                return Err(refuse("the path is empty".to_owned()));
            }
            // What is longer than the system's bound is refused here, by the option's name.
            SockAddr::unix(path).map_err(|error| refuse(error.to_string()))?;
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let name = given.strip_prefix("tcp://").unwrap_or(given);
        let found: Vec<SocketAddr> =
            name.to_socket_addrs().map_err(|error| refuse(error.to_string()))?.collect();
        let Some(&first) = found.first() else { return Err(refuse("no address found".to_owned())) };
        if first.port() == 0 {
            return Err(refuse("port 0 cannot be connected to".to_owned()));
        }
        let is_allowed = |addr: &SocketAddr| addr.ip().to_canonical().is_loopback() || allow_remote;
        if let Some(&addr) = found.iter().find(|addr| !is_allowed(addr)) {
            return Err(LoadError::Remote { addr });
        }
        let accepts = |addr: &&SocketAddr| TcpStream::connect_timeout(addr, PROBE_TIMEOUT).is_ok();
        let addr = if found.len() > 1 { *found.iter().find(accepts).unwrap_or(&first) } else { first };
        Ok(Self::Tcp(addr))
    }

    /// The same for datagrams: HOST:PORT, with or without `udp://` before it.
    ///
    /// # Errors
    /// As [`Address::resolve`]; a Unix socket is refused.
    pub fn resolve_ip(given: &str, allow_remote: bool) -> Result<SocketAddr, LoadError> {
        match Self::resolve(given.strip_prefix("udp://").unwrap_or(given), allow_remote)? {
            Self::Tcp(addr) => Ok(addr),
            Self::Unix(_) => Err(LoadError::Address {
                given: given.to_owned(),
                reason: "a Unix socket is no address for UDP".to_owned(),
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(formatter, "{addr}"),
            Self::Unix(path) => write!(formatter, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme() {
        for given in ["127.0.0.1:7000", "tcp://127.0.0.1:7000"] {
            let addr: SocketAddr = "127.0.0.1:7000".parse().unwrap();
            assert_eq!(Address::resolve(given, false).unwrap(), addr.into());
        }
        let Address::Tcp(addr) = Address::resolve("[::1]:80", false).unwrap() else {
            panic!("no TCP address")
        };
        assert!(addr.is_ipv6());
    }

    #[test]
    fn of_a_names_addresses_the_one_that_is_listened_on_is_taken() {
        for host in ["127.0.0.1", "[::1]"] {
            // Some systems have no IPv6, or know localhost by one address only.
            let Ok(listener) = std::net::TcpListener::bind(format!("{host}:0")) else { continue };
            let addr = listener.local_addr().unwrap();
            let name = format!("localhost:{}", addr.port());
            if name.to_socket_addrs().is_ok_and(|mut found| found.any(|one| one == addr)) {
                assert_eq!(Address::resolve(&name, false).unwrap(), addr.into());
            }
        }
    }

    #[test]
    fn unix_addresses_are_read_and_written_alike() {
        let address = Address::resolve("unix:/tmp/x.sock", false).unwrap();
        assert_eq!(address, Address::Unix("/tmp/x.sock".into()));
        assert_eq!(address.to_string(), "unix:/tmp/x.sock");
    }

    #[test]
    fn addresses_for_datagrams_are_no_unix_sockets() {
        assert_eq!(Address::resolve_ip("udp://127.0.0.1:7", false).unwrap().port(), 7);
        let error = Address::resolve_ip("unix:/tmp/x.sock", false).unwrap_err().to_string();
        assert!(error.contains("--addr unix:/tmp/x.sock: a Unix socket is no"), "{error}");
    }

    #[test]
    fn remote_addresses_need_consent() {
        assert!(matches!(Address::resolve("192.0.2.1:80", false), Err(LoadError::Remote { .. })));
        assert!(Address::resolve("192.0.2.1:80", true).is_ok());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let long = format!("unix:/{}", "x".repeat(200));
        for given in ["127.0.0.1", "127.0.0.1:99999", "127.0.0.1:0", "", "unix:", &long] {
            let error = Address::resolve(given, false).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--addr {given}: ")), "{error}");
        }
    }
}
