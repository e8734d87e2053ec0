//! Sockets of datagrams, UDP and Unix: how they are opened and tuned. Those of a server live in one process-wide registry, from
//! the supervisor's bind to its close, as listeners do; shards name them by token.
#![forbid(unsafe_code)]

use super::addresses::Address;
use super::datagrams::{self, Outgoing, Received};
use super::stream;
use super::unix::{self, SocketFile};
use crate::error::{During, SystemError};
use parking_lot::Mutex;
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};
use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

/// A socket of datagrams. The descriptor closes when the last reference goes. No call waits.
#[derive(Debug)]
pub struct DatagramSocket {
    /// Removed before the descriptor closes.
    #[allow(dead_code, reason = "held for its end")]
    file: Option<SocketFile>,
    socket: Socket,
    is_unix: bool,
    is_connected: bool,
    /// The kernel puts several datagrams into one packet.
    merges_received: bool,
    /// It takes several as one, unless it has refused that.
    merges_sent: AtomicBool,
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How to open one.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Where to be; the kernel chooses when it is left out, at the first send.
    pub local: Option<Address>,
    /// From where alone to receive, and where to send to.
    pub remote: Option<Address>,
    /// SO_REUSEADDR.
    pub reuse_address: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// Fail with EADDRINUSE when anybody is there already, though SO_REUSEPORT would share.
    pub exclusive: bool,
    /// IPV6_V6ONLY; `None`: the system's default.
    pub ipv6_only: Option<bool>,
    /// SO_BROADCAST.
    pub broadcast: bool,
    /// SO_RCVBUF in bytes; `None`: the system's default.
    pub receive_buffer_bytes: Option<u32>,
    /// SO_SNDBUF in bytes; `None`: the system's default.
    pub send_buffer_bytes: Option<u32>,
    /// GSO and GRO, where the kernel has them.
    pub offload: bool,
}

impl DatagramSocket {
    /// Opens, binds and connects one, as far as is asked for. Without an address it is a Unix socket.
    pub fn open(options: &OpenOptions) -> Result<Self, SystemError> {
        let domain = match options.local.as_ref().or(options.remote.as_ref()) {
            Some(Address::Ip(address)) => Domain::for_address(*address),
            _ => Domain::UNIX,
        };
        if options.exclusive && options.reuse_port {
            // Without SO_REUSEPORT the kernel refuses what anybody has.
            bound(domain, &OpenOptions { reuse_port: false, reuse_address: false, ..options.clone() })?;
        }
        let (socket, file) = bound(domain, options)?;
        if let Some(remote) = &options.remote {
            socket.connect(&remote.to_kernel().during("connect")?).during("connect")?;
        }
        Ok(Self::new(socket, domain == Domain::UNIX, file, options.offload))
    }

    /// Takes one that was opened elsewhere. What is no socket of datagrams is EPROTOTYPE, one of another family
    /// EAFNOSUPPORT; then it is given back.
    pub fn adopt(fd: OwnedFd, offload: bool) -> Result<Self, (OwnedFd, SystemError)> {
        let socket = Socket::from(fd);
        match inspect(&socket) {
            Ok(is_unix) => Ok(Self::new(socket, is_unix, None, offload)),
            Err(error) => Err((socket.into(), error)),
        }
    }

    fn new(socket: Socket, is_unix: bool, file: Option<SocketFile>, offload: bool) -> Self {
        let offload = offload && !is_unix;
        let merges_received = offload && datagrams::merge_received(socket.as_fd());
        let merges_sent = AtomicBool::new(offload && cfg!(any(target_os = "linux", target_os = "android")));
        let is_connected = socket.peer_addr().is_ok();
        Self { file, socket, is_unix, is_connected, merges_received, merges_sent }
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.is_unix
    }

    /// Whether there may be room for what goes to one peer and none for another's: each Unix socket has a queue of its own.
    pub fn fills_by_peer(&self) -> bool {
        self.is_unix && !self.is_connected
    }

    /// Whether the kernel tells when there is room again. Linux does so of a connected Unix socket's peer, too.
    pub fn tells_of_room(&self) -> bool {
        !self.is_unix || (self.is_connected && cfg!(any(target_os = "linux", target_os = "android")))
    }

    /// Receives up to `most` packets into `received`; how many.
    #[inline]
    pub fn receive(&self, received: &mut Received, most: usize) -> io::Result<usize> {
        datagrams::receive(self.as_fd(), received, most, self.merges_received)
    }

    /// Sends datagrams; how many the kernel took, or why it did not take the first.
    #[inline]
    pub fn send(&self, outgoing: &[Outgoing<'_>]) -> io::Result<usize> {
        let merges = self.merges_sent.load(Ordering::Relaxed) && outgoing.len() > 1;
        match datagrams::send(self.as_fd(), outgoing, merges) {
            // The same without it is sent, or tells what is wrong otherwise.
            Err(error) if merges && may_be_of_merging(&error) => {
                let result = datagrams::send(self.as_fd(), outgoing, false);
                if result.is_ok() && error.raw_os_error() == Some(libc::EIO) {
                    self.merges_sent.store(false, Ordering::Relaxed);
                    log::debug!("segments are sent one by one, as the device does not take several: {error}");
                }
                result
            }
            result => result,
        }
    }

    /// The error that it has run into, which is cleared by asking.
    pub fn take_error(&self) -> Option<io::Error> {
        stream::take_error(self.as_fd())
    }

    /// Where it is.
    pub fn local_address(&self) -> io::Result<Address> {
        self.socket.local_addr().map(|address| Address::of(&address))
    }

    /// What it is connected to.
    pub fn peer_address(&self) -> io::Result<Address> {
        self.socket.peer_addr().map(|address| Address::of(&address))
    }

    /// Reads an option that only sockets of datagrams have; `None` for another. Switches are 0 or 1.
    pub fn option(&self, name: &str) -> Option<io::Result<u32>> {
        let socket = &self.socket;
        let is_ipv6 = || socket.local_addr().map(|address| address.is_ipv6());
        Some(match name {
            "broadcast" => socket.broadcast().map(u32::from),
            "multicastTtl" => is_ipv6().and_then(|ipv6| match ipv6 {
                true => socket.multicast_hops_v6(),
                false => socket.multicast_ttl_v4(),
            }),
            "multicastLoop" => is_ipv6()
                .and_then(|ipv6| match ipv6 {
                    true => socket.multicast_loop_v6(),
                    false => socket.multicast_loop_v4(),
                })
                .map(u32::from),
            "drops" => datagrams::kernel_drops(self.as_fd()),
            _ => return None,
        })
    }

    /// Sets one; as `option`.
    pub fn set_option(&self, name: &str, value: u32) -> Option<io::Result<()>> {
        let socket = &self.socket;
        let is_ipv6 = || socket.local_addr().map(|address| address.is_ipv6());
        Some(match name {
            "broadcast" => socket.set_broadcast(value != 0),
            "multicastTtl" => is_ipv6().and_then(|ipv6| match ipv6 {
                true => socket.set_multicast_hops_v6(value),
                false => socket.set_multicast_ttl_v4(value),
            }),
            "multicastLoop" => is_ipv6().and_then(|ipv6| match ipv6 {
                true => socket.set_multicast_loop_v6(value != 0),
                false => socket.set_multicast_loop_v4(value != 0),
            }),
            _ => return None,
        })
    }

    /// Joins or leaves a group on an interface: an address that it has (IPv4 only), its name or its number; empty, the system
    /// chooses.
    pub fn set_membership(&self, group: IpAddr, interface: &str, joins: bool) -> io::Result<()> {
        let socket = &self.socket;
        match group {
            IpAddr::V4(group) => {
                let interface = match interface.parse::<Ipv4Addr>() {
                    Ok(address) => InterfaceIndexOrAddress::Address(address),
                    Err(_) => InterfaceIndexOrAddress::Index(interface_index(interface)?),
                };
                match joins {
                    true => socket.join_multicast_v4_n(&group, &interface),
                    false => socket.leave_multicast_v4_n(&group, &interface),
                }
            }
            IpAddr::V6(group) => {
                let index = interface_index(interface)?;
                match joins {
                    true => socket.join_multicast_v6(&group, index),
                    false => socket.leave_multicast_v6(&group, index),
                }
            }
        }
    }

    /// What is sent to a group leaves by this interface; as in `set_membership`.
    pub fn set_multicast_interface(&self, interface: &str) -> io::Result<()> {
        if self.socket.local_addr()?.is_ipv6() {
            return self.socket.set_multicast_if_v6(interface_index(interface)?);
        }
        match interface.parse::<Ipv4Addr>() {
            Ok(address) => self.socket.set_multicast_if_v4(&address),
            Err(_) => Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)),
        }
    }
}

/// Whether the kernel may have refused several datagrams as one, each of which it would take: EIO for a device that cannot
/// (udp(7), UDP_SEGMENT); EMSGSIZE, of older kernels EINVAL, for a destination whose path has a smaller MTU.
fn may_be_of_merging(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// ENODEV for a name of no interface.
fn interface_index(interface: &str) -> io::Result<u32> {
    if interface.is_empty() {
        return Ok(0);
    }
    if let Ok(index) = interface.parse() {
        return Ok(index);
    }
    match CString::new(interface).map_or(0, |name| datagrams::interface_index(&name)) {
        0 => Err(io::Error::from_raw_os_error(libc::ENODEV)),
        index => Ok(index),
    }
}

fn bound(domain: Domain, options: &OpenOptions) -> Result<(Socket, Option<SocketFile>), SystemError> {
    let socket = Socket::new(domain, Type::DGRAM, None).during("socket")?;
    socket.set_nonblocking(true).during("fcntl")?;
    if domain != Domain::UNIX {
        if options.reuse_address {
            socket.set_reuse_address(true).during("setsockopt")?;
        }
        if options.reuse_port {
            socket.set_reuse_port(true).during("setsockopt")?;
        }
        if options.broadcast {
            socket.set_broadcast(true).during("setsockopt")?;
        }
        if let (Some(only), true) = (options.ipv6_only, domain == Domain::IPV6) {
            socket.set_only_v6(only).during("setsockopt")?;
        }
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes as usize).during("setsockopt")?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize).during("setsockopt")?;
    }
    let file = match &options.local {
        Some(Address::Unix(name)) => unix::bind_name(&socket, name, Type::DGRAM)?,
        Some(address) => {
            socket.bind(&address.to_kernel().during("bind")?).during("bind")?;
            None
        }
        None => None,
    };
    Ok((socket, file))
}

/// Checks a socket from elsewhere, and makes it non-blocking and no other program's. Whether it is a Unix socket.
fn inspect(socket: &Socket) -> Result<bool, SystemError> {
    if socket.r#type().during("getsockopt")? != Type::DGRAM {
        return Err(io::Error::from_raw_os_error(libc::EPROTOTYPE)).during("getsockopt");
    }
    let address = socket.local_addr().during("getsockname")?;
    let family = i32::from(address.family());
    if !matches!(family, libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX) {
        return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)).during("getsockname");
    }
    socket.set_nonblocking(true).during("fcntl")?;
    socket.set_cloexec(true).during("fcntl")?;
    Ok(family == libc::AF_UNIX)
}

/// What an error of a call on a socket of datagrams means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing is there, or there is no room, and readiness tells when that changes.
    Later,
    /// There is no room, and nothing tells when there is.
    Again,
    /// That of one datagram, or of the network: the next may do better.
    One,
    /// The socket's.
    Socket,
}

/// Classifies an error of a socket of which the kernel tells, or does not tell, when it can go on.
pub fn failure(error: &io::Error, tells: bool) -> Failure {
    let Some(errno) = error.raw_os_error() else { return Failure::One }; // a name that no kernel takes
    if errno == libc::EAGAIN || errno == libc::EWOULDBLOCK {
        return if tells { Failure::Later } else { Failure::Again };
    }
    match errno {
        libc::ENOBUFS | libc::ENOMEM => Failure::Again,
        libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::EOPNOTSUPP => Failure::Socket,
        _ => Failure::One,
    }
}

#[derive(Default)]
struct Registry {
    next: u32,
    sockets: HashMap<u32, Arc<DatagramSocket>>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// Enters a socket; the token names it in every thread until [`unregister`].
pub fn register(socket: Arc<DatagramSocket>) -> u32 {
    let mut registry = REGISTRY.lock();
    registry.next += 1;
    let token = registry.next;
    registry.sockets.insert(token, socket);
    token
}

/// The socket of a token.
pub fn find(token: u32) -> Option<Arc<DatagramSocket>> {
    REGISTRY.lock().sockets.get(&token).cloned()
}

/// Drops the registry's reference: the descriptor closes once no shard has it.
pub fn unregister(token: u32) {
    let socket = REGISTRY.lock().sockets.remove(&token);
    drop(socket); // outside the lock
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(port: u16) -> OpenOptions {
        let local = Some(Address::Ip(([127, 0, 0, 1], port).into()));
        OpenOptions { local, reuse_port: true, exclusive: true, ..OpenOptions::default() }
    }

    fn port(socket: &DatagramSocket) -> u16 {
        socket.local_address().unwrap().ip().unwrap().port()
    }

    #[test]
    fn an_exclusive_bind_fails_where_a_socket_shares_its_port_and_succeeds_once_it_is_gone() {
        let first = DatagramSocket::open(&options(0)).unwrap();
        let error = DatagramSocket::open(&options(port(&first))).unwrap_err();
        assert_eq!((error.errno(), error.syscall), (libc::EADDRINUSE, "bind"));
        let shared = OpenOptions { exclusive: false, ..options(port(&first)) };
        let second = DatagramSocket::open(&shared).unwrap();
        let chosen = port(&first);
        drop((first, second));
        DatagramSocket::open(&options(chosen)).unwrap();
    }

    #[test]
    fn options_are_set_and_what_is_no_socket_of_datagrams_is_given_back() {
        let open = OpenOptions { broadcast: true, offload: true, ..options(0) };
        let socket = DatagramSocket::open(&open).unwrap();
        assert_eq!(socket.option("broadcast").unwrap().unwrap(), 1);
        socket.set_option("multicastTtl", 3).unwrap().unwrap();
        assert_eq!(socket.option("multicastTtl").unwrap().unwrap(), 3);
        assert!(socket.option("other").is_none());
        let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (_fd, error) = DatagramSocket::adopt(stream.into(), true).unwrap_err();
        assert_eq!(error.errno(), libc::EPROTOTYPE);
    }

    #[test]
    fn what_a_path_refuses_of_several_may_be_of_merging_and_what_waits_is_not() {
        for (errno, may_be) in [(libc::EMSGSIZE, true), (libc::EINVAL, true), (libc::EAGAIN, false)] {
            assert_eq!(may_be_of_merging(&io::Error::from_raw_os_error(errno)), may_be);
        }
    }

    #[test]
    fn an_error_of_one_datagram_leaves_the_socket_and_want_of_room_or_memory_leaves_the_datagram() {
        let meaning = |errno, tells| failure(&io::Error::from_raw_os_error(errno), tells);
        assert_eq!(meaning(libc::EAGAIN, true), Failure::Later);
        assert_eq!(meaning(libc::EAGAIN, false), Failure::Again);
        for tells in [true, false] {
            for errno in [libc::ENOBUFS, libc::ENOMEM] {
                assert_eq!(meaning(errno, tells), Failure::Again);
            }
            for errno in [
                libc::EMSGSIZE,
                libc::EACCES,
                libc::EPERM,
                libc::ENETUNREACH,
                libc::ECONNREFUSED,
                libc::EINVAL,
            ] {
                assert_eq!(meaning(errno, tells), Failure::One);
            }
            assert_eq!(meaning(libc::EBADF, tells), Failure::Socket);
        }
        let unnumbered = io::Error::from(io::ErrorKind::InvalidInput);
        assert_eq!(failure(&unnumbered, true), Failure::One, "a name that no kernel takes");
    }

    #[test]
    fn a_registered_socket_stays_open_while_somebody_holds_it() {
        let socket = Arc::new(DatagramSocket::open(&options(0)).unwrap());
        let chosen = port(&socket);
        let token = register(socket);
        let held = find(token).unwrap();
        unregister(token);
        assert!(find(token).is_none());
        assert!(DatagramSocket::open(&options(chosen)).is_err());
        drop(held);
        DatagramSocket::open(&options(chosen)).unwrap();
    }
}
