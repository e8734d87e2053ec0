//! Socket addresses as JavaScript sees them.
#![forbid(unsafe_code)]

use socket2::SockAddr;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

/// Where a socket is, or is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket's name, in bytes: a path; on Linux one that begins with a zero byte is abstract (unix(7)). Empty: it
    /// has none.
    Unix(Vec<u8>),
}

impl Address {
    /// As the kernel told it. Anything but these two families is a defect: shardloop opens and takes over no other.
    pub fn of(address: &SockAddr) -> Self {
        if let Some(address) = address.as_socket() {
            return Self::Ip(address);
        }
        if let Some(path) = address.as_pathname() {
            return Self::Unix(path.as_os_str().as_bytes().to_vec());
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(name) = address.as_abstract_namespace() {
            return Self::Unix([&[0], name].concat());
        }
        Self::Unix(Vec::new())
    }

    /// That of a TCP socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// For the kernel. A name that is too long, or a path with a zero byte in it, is refused with EINVAL.
    pub fn to_kernel(&self) -> io::Result<SockAddr> {
        match self {
            Self::Ip(address) => Ok((*address).into()),
            Self::Unix(name) => SockAddr::unix(OsStr::from_bytes(name)),
        }
    }
}

impl fmt::Display for Address {
    /// A zero byte, with which an abstract name begins, is shown as in ss(8).
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(formatter),
            Self::Unix(name) => formatter.write_str(&String::from_utf8_lossy(name).replacen('\0', "@", 1)),
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over TCP.
    Ip(SocketAddr),
    /// A Unix socket without a name, as most clients are.
    Unix,
    /// A Unix socket with a name, which the kernel tells.
    NamedUnix,
    /// Whoever writes to a pipe that we read.
    Writer,
    /// Whoever reads from a pipe that we write to.
    Reader,
}

impl Peer {
    /// Its address over TCP.
    pub fn ip(self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix | Self::NamedUnix | Self::Writer | Self::Reader => None,
        }
    }

    /// Whether it is on a Unix socket.
    pub fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::NamedUnix)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(formatter),
            Self::Unix | Self::NamedUnix => formatter.write_str("a Unix socket"),
            Self::Writer | Self::Reader => formatter.write_str("a pipe"),
        }
    }
}

impl From<&Address> for Peer {
    fn from(address: &Address) -> Self {
        match address {
            Address::Ip(address) => Self::Ip(*address),
            Address::Unix(name) if name.is_empty() => Self::Unix,
            Address::Unix(_) => Self::NamedUnix,
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// Address in text, family in Node's words, and port. An IPv4-mapped IPv6 address stays IPv6, as in node:net.
pub fn parts(address: SocketAddr) -> (String, &'static str, u16) {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    (address.ip().to_string(), family, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_trip_to_the_kernel_and_back() {
        let mut addresses = vec![
            Address::Ip(([127, 0, 0, 1], 80).into()),
            Address::Ip("[::1]:80".parse().unwrap()),
            Address::Unix(b"/tmp/a socket".to_vec()),
        ];
        if cfg!(target_os = "linux") {
            addresses.push(Address::Unix(b"\0abstract".to_vec()));
        }
        for address in addresses {
            assert_eq!(Address::of(&address.to_kernel().unwrap()), address);
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        assert!(Address::Unix(vec![b'a'; 200]).to_kernel().is_err());
    }
}
