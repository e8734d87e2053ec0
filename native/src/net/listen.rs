//! Listening sockets. They live in one process-wide registry, from the supervisor's bind to its close; shards name
//! them by token, hold a reference while they are registered, and never close them.
#![forbid(unsafe_code)]

use crate::error::{During, SystemError};
use crate::net::addresses::Address;
use crate::net::unix::SocketFile;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, LazyLock};

/// A listening socket. The descriptor closes when the last reference goes.
#[derive(Debug)]
pub struct Listener {
    /// Removed before the descriptor closes, so that who starts anew finds none.
    #[allow(dead_code, reason = "held for its end")]
    file: Option<SocketFile>,
    socket: Socket,
    address: Address,
    token: u32,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A listener is the same as itself only.
impl PartialEq for Listener {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Listener {
    /// Of a socket that listens; `file` is the one that its bind has made.
    pub(super) fn new(socket: Socket, file: Option<SocketFile>) -> Result<Self, SystemError> {
        let address = Address::of(&socket.local_addr().during("getsockname")?);
        Ok(Self { file, socket, address, token: 0 })
    }

    /// Its name in every thread; 0 while it is not registered.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// Where it listens; the port is the real one.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// How to bind.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// An IP address.
    pub host: IpAddr,
    /// 0 lets the kernel choose.
    pub port: u16,
    /// Length of the accept queue; the kernel caps it (net.core.somaxconn).
    pub backlog: i32,
    /// SO_REUSEPORT: several listeners share the port, and the kernel spreads connections over them (Linux).
    pub reuse_port: bool,
    /// IPV6_V6ONLY; without it an IPv6 listener on `::` takes IPv4 too.
    pub ipv6_only: bool,
    /// TCP_NODELAY, which accepted sockets inherit on Linux and macOS: no system call per connection.
    pub no_delay: bool,
    /// Fail with EADDRINUSE when anybody listens there already, though SO_REUSEPORT would share.
    pub exclusive: bool,
}

/// Whether SO_REUSEPORT spreads connections over the listeners. On macOS the newest one gets all.
pub const fn balances_reuse_port() -> bool {
    cfg!(any(target_os = "linux", target_os = "android"))
}

/// Binds and listens.
pub fn bind(options: &ListenOptions) -> Result<Listener, SystemError> {
    let address = SocketAddr::new(options.host, options.port);
    if options.exclusive && options.reuse_port && options.port != 0 {
        // The kernel refuses a plain SO_REUSEADDR bind where a socket listens already, SO_REUSEPORT or not.
        bound_socket(address, options, false)?;
    }
    let socket = bound_socket(address, options, options.reuse_port)?;
    socket.listen(options.backlog).during("listen")?;
    Listener::new(socket, None)
}

fn bound_socket(
    address: SocketAddr,
    options: &ListenOptions,
    reuse_port: bool,
) -> Result<Socket, SystemError> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).during("socket")?;
    socket.set_nonblocking(true).during("fcntl")?; // accepted sockets and polls rely on it
    socket.set_reuse_address(true).during("setsockopt")?;
    if reuse_port {
        socket.set_reuse_port(true).during("setsockopt")?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(options.ipv6_only).during("setsockopt")?;
    }
    socket.set_tcp_nodelay(options.no_delay).during("setsockopt")?;
    socket.bind(&address.into()).during("bind")?;
    Ok(socket)
}

#[derive(Default)]
struct Registry {
    next: u32,
    listeners: HashMap<u32, Arc<Listener>>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// Enters a listener; the token names it in every thread until [`unregister`].
pub fn register(listener: Listener) -> u32 {
    let mut registry = REGISTRY.lock();
    registry.next += 1;
    let token = registry.next;
    let address = listener.address.clone();
    registry.listeners.insert(token, Arc::new(Listener { token, ..listener }));
    drop(registry);
    log::debug!(listener = token, address:% = address; "a listener is registered");
    token
}

/// The listener of a token.
pub fn find(token: u32) -> Option<Arc<Listener>> {
    REGISTRY.lock().listeners.get(&token).cloned()
}

/// Drops the registry's reference: the descriptor closes once no shard has it registered.
pub fn unregister(token: u32) {
    let listener = REGISTRY.lock().listeners.remove(&token);
    if let Some(listener) = listener {
        // It closes here, outside the lock, or with its last shard.
        log::debug!(listener = token, address:% = listener.address; "a listener is unregistered");
    }
}

/// Held while a process binds a port, so that of two that start at once exactly one gets it: both could otherwise
/// pass the exclusive probe before either listens.
#[derive(Debug)]
pub struct StartLock(#[allow(dead_code, reason = "held for its descriptor")] Option<Socket>);

/// Takes the lock of a port; `None` while another process holds it.
pub fn start_lock(port: u16) -> Result<Option<StartLock>, SystemError> {
    lock(&format!("shardloop-start-{port}"))
}

/// Takes the lock of that name, an abstract Unix socket: it cannot outlive its process, and needs no file. Only Linux has
/// them. Elsewhere two starts on a port exclude each other without, since listeners are not shared by SO_REUSEPORT; of two on
/// a socket file that is stale the later one may win.
pub(super) fn lock(name: &str) -> Result<Option<StartLock>, SystemError> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).during("socket")?;
        let address = Address::Unix(format!("\0{name}").into_bytes()).to_kernel().during("bind")?;
        match socket.bind(&address) {
            Ok(()) => Ok(Some(StartLock(Some(socket)))),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error).during("bind"),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = name;
        Ok(Some(StartLock(None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(listener: &Listener) -> SocketAddr {
        listener.address().ip().unwrap()
    }

    fn options(port: u16) -> ListenOptions {
        ListenOptions {
            host: IpAddr::from([127, 0, 0, 1]),
            port,
            backlog: 16,
            reuse_port: true,
            ipv6_only: false,
            no_delay: true,
            exclusive: true,
        }
    }

    #[test]
    fn an_exclusive_bind_fails_where_a_listener_shares_its_port_and_succeeds_once_it_is_gone() {
        let first = bind(&options(0)).unwrap();
        let port = ip(&first).port();
        assert_ne!(port, 0);
        let error = bind(&options(port)).unwrap_err();
        assert_eq!((error.errno(), error.syscall), (libc::EADDRINUSE, "bind"));
        let second = bind(&ListenOptions { exclusive: false, ..options(port) });
        assert_eq!(second.is_ok(), cfg!(unix), "SO_REUSEPORT shares among one's own");
        drop((first, second));
        bind(&options(port)).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_start_lock_is_held_by_one_at_a_time() {
        let port = 65_431;
        let lock = start_lock(port).unwrap().unwrap();
        assert!(start_lock(port).unwrap().is_none());
        assert!(start_lock(port - 1).unwrap().is_some());
        drop(lock);
        assert!(start_lock(port).unwrap().is_some());
    }

    #[test]
    fn a_listener_stays_open_while_somebody_holds_it() {
        let listener = bind(&options(0)).unwrap();
        let address = ip(&listener);
        let token = register(listener);
        let held = find(token).unwrap();
        unregister(token);
        assert!(find(token).is_none());
        std::net::TcpStream::connect(address).unwrap();
        drop(held);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
