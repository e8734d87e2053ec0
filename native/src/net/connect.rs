//! Connecting, without waiting for it.
#![forbid(unsafe_code)]

use super::addresses::Address;
use super::stream;
use crate::error::{During, SystemError};
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Whereto, and from where.
#[derive(Debug, Clone)]
pub struct Target {
    /// The peer's.
    pub address: Address,
    /// Ours; `None`: the kernel chooses.
    pub local: Option<Address>,
    /// TCP_NODELAY.
    pub no_delay: bool,
    /// SO_KEEPALIVE.
    pub keep_alive: bool,
}

/// A socket that connects, or is connected already.
#[derive(Debug)]
pub struct Connecting {
    /// Non-blocking.
    pub fd: OwnedFd,
    /// It is connected. Otherwise it gets writable when it is, or has failed.
    pub done: bool,
}

/// Begins to connect. EAGAIN: the queue of a Unix listener is full, and nothing tells when there is room (unix(7)).
pub fn start(target: &Target) -> Result<Connecting, SystemError> {
    let address = target.address.to_kernel().during("connect")?;
    let (domain, is_ip) = match &target.address {
        Address::Ip(address) => (Domain::for_address(*address), true),
        Address::Unix(_) => (Domain::UNIX, false),
    };
    let socket = open(domain).during("socket")?;
    if let Some(local) = &target.local {
        bind(&socket, local)?;
    }
    if is_ip && target.no_delay {
        socket.set_tcp_nodelay(true).during("setsockopt")?;
    }
    if target.keep_alive {
        socket.set_keepalive(true).during("setsockopt")?;
    }
    let done = match socket.connect(&address) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => false,
        // POSIX: it goes on as if it had not been interrupted.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
        Err(error) => return Err(error).during("connect"),
    };
    Ok(Connecting { fd: socket.into(), done })
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM.nonblocking(), None)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind(socket: &Socket, local: &Address) -> Result<(), SystemError> {
    if let Address::Ip(address) = local {
        if address.port() == 0 {
            stream::choose_port_late(socket.as_fd());
        } else {
            // As node:net: a port whose last connection lingers in TIME_WAIT can be used again.
            socket.set_reuse_address(true).during("setsockopt")?;
        }
    }
    socket.bind(&local.to_kernel().during("bind")?).during("bind")
}

/// Checks that a socket from elsewhere is connected, and makes it non-blocking. The peer's address.
pub fn inspect(fd: &OwnedFd) -> Result<Address, SystemError> {
    let socket = SockRef::from(fd);
    if socket.r#type().during("getsockopt")? != Type::STREAM {
        return Err(io::Error::from_raw_os_error(libc::EPROTOTYPE)).during("getsockopt");
    }
    let peer = Address::of(&socket.peer_addr().during("getpeername")?);
    socket.set_nonblocking(true).during("fcntl")?;
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true).during("setsockopt")?;
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn target(address: std::net::SocketAddr, local: Option<std::net::SocketAddr>) -> Target {
        Target {
            address: Address::Ip(address),
            local: local.map(Address::Ip),
            no_delay: true,
            keep_alive: true,
        }
    }

    #[test]
    fn a_socket_connects_from_where_it_was_told_with_its_options() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = "127.0.0.2:0".parse().unwrap();
        let connecting = start(&target(listener.local_addr().unwrap(), Some(local))).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), "127.0.0.2".parse::<std::net::IpAddr>().unwrap());
        let socket = SockRef::from(&connecting.fd);
        assert!(
            socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap() && socket.nonblocking().unwrap()
        );
    }

    #[test]
    fn what_cannot_be_bound_or_is_not_connected_is_told_with_its_call() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let foreign = "192.0.2.1:0".parse().unwrap(); // RFC 5737: nobody's
        let error = start(&target(listener.local_addr().unwrap(), Some(foreign))).unwrap_err();
        assert_eq!((error.syscall, error.errno()), ("bind", libc::EADDRNOTAVAIL));
        let error = inspect(&listener.into()).unwrap_err();
        assert_eq!((error.syscall, error.errno()), ("getpeername", libc::ENOTCONN));
    }
}
