//! What the raw echo servers have in common: where they listen, and the line that says that they are ready.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::reserve_descriptors;

/// As shardloop's default; the kernel caps it by net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Options of every raw server.
#[derive(Args)]
pub struct Listen {
    /// IP address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 lets the kernel choose
    #[arg(long, default_value_t = 0)]
    port: u16,
}

impl Listen {
    /// A listener that does not block, and as many descriptors as the process may have.
    ///
    /// # Errors
    /// The system's, as it was.
    pub fn bind(&self) -> io::Result<TcpListener> {
        // Raises the limit as far as it goes; how many connections will come is not known here.
        reserve_descriptors(0).map_err(io::Error::other)?;
        let addr = SocketAddr::new(self.host, self.port);
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    }
}

/// Prints the line that the benchmark waits for.
pub fn announce(addr: SocketAddr, engine: &str) {
    println!("listening on tcp://{addr} (shards 1, engine {engine})");
}
