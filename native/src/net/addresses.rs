//! Socket addresses as JavaScript sees them.
#![forbid(unsafe_code)]

use socket2::SockAddr;
use std::net::SocketAddr;

/// The IP address of a socket address; an IPv4-mapped IPv6 address stays IPv6, as in node:net.
/// Anything but IP is a defect: shardloop made the socket.
pub fn ip(address: &SockAddr) -> SocketAddr {
    address.as_socket().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// Address in text, family in Node's words, and port.
pub fn parts(address: SocketAddr) -> (String, &'static str, u16) {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    (address.ip().to_string(), family, address.port())
}
