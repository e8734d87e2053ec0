//! System calls on connections (TCP and Unix stream sockets), each without allocation.

use super::addresses::Peer;
#[cfg(target_vendor = "apple")]
use rustix::io::Errno;
use rustix::io::retry_on_intr;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags};
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Accepts one connection, non-blocking and close-on-exec, with the peer's address.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Peer)> {
    let mut address: MaybeUninit<libc::sockaddr_storage> = MaybeUninit::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `address` and `length` are valid for writes and agree; `listener` is open, as it is borrowed. A
    // descriptor that comes back is new and ours alone.
    let fd = unsafe {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let fd = libc::accept4(
            listener.as_raw_fd(),
            address.as_mut_ptr().cast(),
            &mut length,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        );
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let fd = libc::accept(listener.as_raw_fd(), address.as_mut_ptr().cast(), &mut length);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        // macOS has no accept4. What fails here fails because the peer has reset already (macOS says EINVAL then): it
        // is that one connection's affair, not the listener's.
        let socket = SockRef::from(&fd);
        let prepared = socket.set_nonblocking(true).and_then(|()| socket.set_cloexec(true));
        #[cfg(target_vendor = "apple")]
        let prepared = prepared.and_then(|()| socket.set_nosigpipe(true));
        prepared.map_err(|_| io::Error::from_raw_os_error(libc::ECONNABORTED))?;
    }
    // SAFETY: zeroed storage is a valid value, and the kernel wrote `length` bytes of an address into it.
    let peer = unsafe { peer(address.assume_init_ref(), length) };
    Ok((fd, peer))
}

/// Whether connections wait in a listener's queue.
pub fn has_waiting(listener: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, valid for the call, which does not wait.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

/// `length` is what the kernel says of the address; of a Unix socket without a name it has the family only, or nothing.
fn peer(storage: &libc::sockaddr_storage, length: libc::socklen_t) -> Peer {
    let pointer = std::ptr::from_ref(storage);
    let ip: SocketAddr = match i32::from(storage.ss_family) {
        libc::AF_INET6 => {
            // SAFETY: the family says that a sockaddr_in6 is stored, and storage is large and aligned enough for it.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            std::net::SocketAddrV6::new(
                address.sin6_addr.s6_addr.into(),
                u16::from_be(address.sin6_port),
                u32::from_be(address.sin6_flowinfo),
                address.sin6_scope_id,
            )
            .into()
        }
        libc::AF_INET => {
            // SAFETY: as above, for sockaddr_in.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let ip = std::net::Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            SocketAddr::from((ip, u16::from_be(address.sin_port)))
        }
        _ => {
            // SAFETY: as above; we listen on these two families and on Unix sockets only.
            let name = unsafe { &(*pointer.cast::<libc::sockaddr_un>()).sun_path };
            // macOS gives an address of 16 zero bytes to one that has none.
            let named = length as usize > std::mem::offset_of!(libc::sockaddr_un, sun_path)
                && (name[0] != 0 || cfg!(any(target_os = "linux", target_os = "android")));
            return if named { Peer::NamedUnix } else { Peer::Unix };
        }
    };
    Peer::Ip(ip)
}

/// Receives into `buffer`; 0 is the peer's end. EINTR is tried again.
///
/// This and [`send`] go by rustix, whose system calls are none of libc's on Linux: those are cancellation points of a thread, which
/// took two atomic operations each, some 1 % of what a small request takes.
#[inline]
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    Ok(retry_on_intr(|| net::recv(fd, &mut *buffer, RecvFlags::empty()).map(|(_, length)| length))?)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_FLAGS: SendFlags = SendFlags::empty(); // SO_NOSIGPIPE is set when a connection is accepted

/// macOS refuses more in one call.
const SEND_MAX_BYTES: usize = i32::MAX as usize - 1;

/// Sends what the kernel takes. One piece goes by `send`, which is cheaper than `sendmsg`. EINTR is tried again.
#[inline]
pub fn send(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let sent = retry_on_intr(|| match pieces {
        [piece] => net::send(fd, &piece[..piece.len().min(SEND_MAX_BYTES)], SEND_FLAGS),
        _ => net::sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), SEND_FLAGS),
    });
    // macOS says so of a socket that its peer is just resetting.
    #[cfg(target_vendor = "apple")]
    let sent = sent.map_err(|error| if error == Errno::PROTOTYPE { Errno::CONNRESET } else { error });
    Ok(sent?)
}

/// As [`send`] of one piece, which may wait for what follows at once: more bytes, or the end of our sending half.
pub fn send_more(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Ok(retry_on_intr(|| net::send(fd, bytes, SEND_FLAGS | SendFlags::MORE))?);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    send(fd, &[IoSlice::new(bytes)])
}

/// Has the kernel send bytes of a file, from `offset` on; 0 is the file's end. EINTR is tried again. What is not in memory
/// yet the kernel reads from the disk meanwhile, and so much is read ahead.
pub fn send_file(fd: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<usize> {
    let (fd, file) = (fd.as_raw_fd(), file.as_raw_fd());
    loop {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // SAFETY: both descriptors are open, as they are borrowed, and `from` is valid for the call. (Advice that a file does
        // not take is none.)
        let result = unsafe {
            let mut from = offset as libc::off64_t;
            libc::posix_fadvise64(file, from, 2 * length as libc::off64_t, libc::POSIX_FADV_WILLNEED);
            let sent = libc::sendfile64(fd, file, &mut from, length);
            usize::try_from(sent).map_err(|_| io::Error::last_os_error())
        };
        #[cfg(target_vendor = "apple")]
        // SAFETY: both descriptors are open, as they are borrowed, and `sent` is valid for the call.
        let result = unsafe {
            let mut sent = length as libc::off_t;
            let failed =
                libc::sendfile(file, fd, offset as libc::off_t, &mut sent, std::ptr::null_mut(), 0) < 0;
            // What was sent before it failed counts (sendfile(2)).
            if failed && sent == 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
        };
        #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
        let result: io::Result<usize> = Err(io::Error::from_raw_os_error(libc::ENOSYS));
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether an error of [`send_file`] is the file's (it cannot be sent so, or not be read), not the connection's.
pub fn is_file_error(error: &io::Error) -> bool {
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    errno == libc::EOPNOTSUPP
        || matches!(
            errno,
            libc::EINVAL
                | libc::ENOSYS
                | libc::EBADF
                | libc::EIO
                | libc::EISDIR
                | libc::ESPIPE
                | libc::EOVERFLOW
        )
}

/// Leaves the choice of a local port to the connect, which needs no more than that the two addresses and ports together are
/// unique (IP_BIND_ADDRESS_NO_PORT, since Linux 4.2). Where there is no such option the bind chooses.
pub fn choose_port_late(fd: BorrowedFd<'_>) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let on: libc::c_int = 1;
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        let (fd, value) = (fd.as_raw_fd(), (&raw const on).cast());
        // SAFETY: the option is one int, which `value` points to; `fd` is open, as it is borrowed.
        _ = unsafe { libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, value, length) };
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = fd;
}

/// Makes the close of `fd` a reset: what is not sent yet is dropped, and the peer can tell it from an orderly end.
pub fn reset_on_close(fd: BorrowedFd<'_>) {
    // It fails only on a socket that is reset already.
    _ = SockRef::from(&fd).set_linger(Some(std::time::Duration::ZERO));
}

/// Whether a close now could destroy sent bytes that the peer has not acknowledged: when there are some, or when
/// unread input would make the close a reset (RFC 1122 section 4.2.2.13, RFC 9293 section 3.10.4).
pub fn close_may_lose_bytes(fd: BorrowedFd<'_>) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let unsent = byte_count(fd, libc::TIOCOUTQ as libc::c_ulong);
    #[cfg(target_vendor = "apple")]
    let unsent = unsent_bytes(fd);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    let unsent = 1; // no portable question: assume that there are
    unsent > 0 || unread_bytes(fd) > 0
}

/// Bytes that the kernel has received and nobody has read yet.
pub fn unread_bytes(fd: BorrowedFd<'_>) -> i32 {
    byte_count(fd, libc::FIONREAD as libc::c_ulong)
}

/// The answer to TIOCOUTQ or FIONREAD; 0 when there is none.
fn byte_count(fd: BorrowedFd<'_>, request: libc::c_ulong) -> libc::c_int {
    let mut count: libc::c_int = 0;
    // SAFETY: both requests write one int; `fd` is open, as it is borrowed.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &mut count) };
    if result < 0 { 0 } else { count }
}

/// The answer to SO_NWRITE: bytes that were sent and are not acknowledged. 1, to be careful, when there is none.
#[cfg(target_vendor = "apple")]
fn unsent_bytes(fd: BorrowedFd<'_>) -> libc::c_int {
    let mut count: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let (fd, into) = (fd.as_raw_fd(), (&raw mut count).cast());
    // SAFETY: the option is one int, and `count` has room for `length` bytes; `fd` is open, as it is borrowed.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_NWRITE, into, &raw mut length) };
    if result < 0 { 1 } else { count }
}

/// The error that a socket has run into (SO_ERROR), which is cleared by asking.
pub fn take_error(fd: BorrowedFd<'_>) -> Option<io::Error> {
    SockRef::from(&fd).take_error().unwrap_or_else(Some)
}

/// Ends our sending half.
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).shutdown(std::net::Shutdown::Write)
}

/// What a failed `accept` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptFailure {
    /// The queue is empty.
    Empty,
    /// That one connection failed; the next may not (accept(2), "Error handling").
    Connection,
    /// Out of descriptors or memory: wait, then try again.
    Exhausted,
    /// Anything else.
    Other,
}

/// Classifies an error of `accept`.
pub fn accept_failure(error: &io::Error) -> AcceptFailure {
    let Some(errno) = error.raw_os_error() else { return AcceptFailure::Other };
    // EAGAIN and EWOULDBLOCK are one number on some systems and two on others.
    if errno == libc::EAGAIN || errno == libc::EWOULDBLOCK {
        return AcceptFailure::Empty;
    }
    match errno {
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => AcceptFailure::Exhausted,
        libc::EINTR
        | libc::ECONNABORTED
        | libc::ECONNRESET
        | libc::EPROTO
        | libc::EPERM
        | libc::ENETDOWN
        | libc::ENOPROTOOPT
        | libc::EHOSTDOWN
        | libc::EHOSTUNREACH
        | libc::ENETUNREACH
        | libc::ETIMEDOUT => AcceptFailure::Connection,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        libc::ENONET => AcceptFailure::Connection,
        _ => AcceptFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn accept_errors_are_classified() {
        let class = |errno| accept_failure(&io::Error::from_raw_os_error(errno));
        assert_eq!(class(libc::EAGAIN), AcceptFailure::Empty);
        assert_eq!(class(libc::EMFILE), AcceptFailure::Exhausted);
        assert_eq!(class(libc::ENFILE), AcceptFailure::Exhausted);
        assert_eq!(class(libc::ECONNABORTED), AcceptFailure::Connection);
        assert_eq!(class(libc::EBADF), AcceptFailure::Other);
    }

    #[test]
    fn accept_tells_the_peer_and_inherits_no_delay() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(host) else { continue };
            SockRef::from(&listener).set_tcp_nodelay(true).unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (fd, peer) = accept(listener.as_fd()).unwrap();
            assert_eq!(peer, Peer::Ip(client.local_addr().unwrap()));
            assert!(SockRef::from(&fd).tcp_nodelay().unwrap());
            assert!(SockRef::from(&fd).nonblocking().unwrap());
        }
    }
}
