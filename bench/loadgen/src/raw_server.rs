//! What the raw servers have in common: where they listen, and the line that says that they are ready.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::PathBuf,
};

use clap::Args;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{address::Address, limits::reserve_descriptors};

/// As shardloop's default; the kernel caps it by net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Options of every raw echo server.
#[derive(Args)]
pub struct Listen {
    /// IP address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 lets the kernel choose
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Listen on a Unix socket instead, at this path, which must not exist
    #[arg(long, conflicts_with_all = ["host", "port"])]
    path: Option<PathBuf>,
}

/// A listener that does not block.
pub enum Listener {
    /// Over TCP.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

impl Listen {
    /// A listener, its address, and as many descriptors as the process may have.
    ///
    /// # Errors
    /// The system's, as it was.
    pub fn bind(&self) -> io::Result<(Listener, Address)> {
        // Raises the limit as far as it goes; how many connections will come is not known here.
        reserve_descriptors(0).map_err(io::Error::other)?;
        if let Some(path) = &self.path {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::unix(path)?)?;
            socket.listen(BACKLOG)?;
            return Ok((Listener::Unix(socket.into()), Address::Unix(path.clone())));
        }
        let listener = bind_tcp(SocketAddr::new(self.host, self.port))?;
        let addr = listener.local_addr()?.into();
        Ok((Listener::Tcp(listener), addr))
    }
}

/// A TCP listener that does not block.
///
/// # Errors
/// The system's, as it was.
pub fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Prints the line that the benchmark waits for.
pub fn announce(addr: &Address, engine: &str) {
    announce_with(if matches!(addr, Address::Tcp(_)) { "tcp://" } else { "" }, addr, engine);
}

/// The same with what stands before the address.
pub fn announce_with(scheme: &str, addr: &Address, engine: &str) {
    println!("listening on {scheme}{addr} (shards 1, engine {engine})");
}
