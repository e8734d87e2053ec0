//! Sockets of the program's own (`RawSocket`): one system call at a time, none of which waits.
#![forbid(unsafe_code)]

use super::addresses::{Address, Peer};
use super::stream::{self, AcceptFailure};
use crate::error::{During, SystemError};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Opens one, non-blocking and close-on-exec.
pub fn open(domain: Domain, kind: Type) -> Result<OwnedFd, SystemError> {
    let socket = Socket::new(domain, kind, None).during("socket")?;
    prepare(&socket)?;
    Ok(socket.into())
}

/// Two Unix sockets that are connected to each other.
pub fn pair(kind: Type) -> Result<(OwnedFd, OwnedFd), SystemError> {
    let (one, other) = Socket::pair(Domain::UNIX, kind, None).during("socketpair")?;
    prepare(&one)?;
    prepare(&other)?;
    Ok((one.into(), other.into()))
}

/// Makes a descriptor from elsewhere fit. ENOTSOCK: it is none of a socket. EAFNOSUPPORT: its addresses are none of ours.
pub fn take_over(fd: BorrowedFd<'_>) -> Result<(), SystemError> {
    let socket = SockRef::from(&fd);
    socket.r#type().during("getsockopt")?;
    family(fd).during("getsockname")?;
    socket.set_cloexec(true).during("fcntl")?;
    prepare(&socket)
}

fn prepare(socket: &Socket) -> Result<(), SystemError> {
    socket.set_nonblocking(true).during("fcntl")?;
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true).during("setsockopt")?;
    Ok(())
}

/// The family of a socket in JavaScript's words. EAFNOSUPPORT for any other, as of netlink.
pub fn family(fd: BorrowedFd<'_>) -> io::Result<&'static str> {
    match i32::from(SockRef::from(&fd).local_addr()?.family()) {
        libc::AF_INET => Ok("IPv4"),
        libc::AF_INET6 => Ok("IPv6"),
        libc::AF_UNIX => Ok("unix"),
        _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
}

/// Receives with the sender's address, of which the kernel knows none on a stream over IP.
pub fn receive_from(
    fd: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
) -> io::Result<(usize, Option<Address>)> {
    let socket = SockRef::from(&fd);
    let (length, address) = uninterrupted(|| socket.recv_from(buffer))?;
    if address.is_ipv4() || address.is_ipv6() {
        return Ok((length, Some(Address::of(&address))));
    }
    // A sender without a name is told by nothing at all.
    let is_unix = address.is_unix() || socket.local_addr()?.is_unix();
    Ok((length, is_unix.then(|| Address::of(&address))))
}

/// Sends one datagram.
pub fn send_to(fd: BorrowedFd<'_>, bytes: &[u8], to: &Address) -> io::Result<usize> {
    let address = to.to_kernel()?;
    let socket = SockRef::from(&fd);
    uninterrupted(|| socket.send_to_with_flags(bytes, &address, SEND_FLAGS))
}

/// Sends what the kernel takes.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    stream::send(fd, &[IoSlice::new(bytes)])
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_FLAGS: i32 = 0; // SO_NOSIGPIPE is set when a socket is made

/// Accepts one connection, non-blocking and close-on-exec, with the peer's address. One that failed before it could be accepted is
/// left out.
pub fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, Address)> {
    let (accepted, peer) = loop {
        match stream::accept(fd) {
            // Each takes one out of the queue, so this ends.
            Err(error) if stream::accept_failure(&error) == AcceptFailure::Connection => {}
            result => break result?,
        }
    };
    let address = match peer {
        Peer::Ip(address) => Address::Ip(address),
        Peer::Unix | Peer::Writer | Peer::Reader => Address::Unix(Vec::new()),
        Peer::NamedUnix => Address::of(&SockRef::from(&accepted).peer_addr()?),
    };
    Ok((accepted, address))
}

/// Begins to connect. EINPROGRESS: it gets writable when it is connected, or has failed.
pub fn connect(fd: BorrowedFd<'_>, to: &Address) -> io::Result<()> {
    let result = SockRef::from(&fd).connect(&to.to_kernel()?);
    match result {
        // POSIX: it goes on as if it had not been interrupted.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            Err(io::Error::from_raw_os_error(libc::EINPROGRESS))
        }
        result => result,
    }
}

/// Binds.
pub fn bind(fd: BorrowedFd<'_>, to: &Address) -> io::Result<()> {
    SockRef::from(&fd).bind(&to.to_kernel()?)
}

/// Whether a descriptor's calls do not wait.
pub fn is_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    SockRef::from(&fd).nonblocking()
}

/// Ends one half or both.
pub fn shutdown(fd: BorrowedFd<'_>, how: std::net::Shutdown) -> io::Result<()> {
    SockRef::from(&fd).shutdown(how)
}

/// Listens.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    SockRef::from(&fd).listen(backlog)
}

/// Its address.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    SockRef::from(&fd).local_addr().map(|address| Address::of(&address))
}

/// The peer's.
pub fn peer_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    SockRef::from(&fd).peer_addr().map(|address| Address::of(&address))
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_pair_is_connected_and_does_not_wait() {
        let (one, other) = pair(Type::STREAM).unwrap();
        let mut room = [MaybeUninit::uninit(); 8];
        let error = stream::receive(other.as_fd(), &mut room).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(send(one.as_fd(), b"four").unwrap(), 4);
        let (length, address) = receive_from(other.as_fd(), &mut room).unwrap();
        assert_eq!((length, address), (4, Some(Address::Unix(Vec::new()))));
        assert_eq!(family(one.as_fd()).unwrap(), "unix");
    }

    #[test]
    fn what_is_taken_over_must_be_a_socket() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = take_over(file.as_fd()).unwrap_err();
        assert_eq!((error.syscall, error.errno()), ("getsockopt", libc::ENOTSOCK));
    }
    #[test]
    #[cfg(target_os = "linux")]
    fn a_socket_with_addresses_of_another_kind_is_refused_and_left_as_it_is() {
        let netlink = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, None).unwrap();
        let error = take_over(netlink.as_fd()).unwrap_err();
        assert_eq!((error.syscall, error.errno()), ("getsockname", libc::EAFNOSUPPORT));
        assert!(!netlink.nonblocking().unwrap());
        assert_eq!(family(netlink.as_fd()).unwrap_err().raw_os_error(), Some(libc::EAFNOSUPPORT));
        for (domain, name) in [(Domain::IPV4, "IPv4"), (Domain::IPV6, "IPv6"), (Domain::UNIX, "unix")] {
            if let Ok(socket) = open(domain, Type::STREAM) {
                assert_eq!(family(socket.as_fd()).unwrap(), name);
            }
        }
    }
}
