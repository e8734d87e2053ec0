//! Socket options by the names that JavaScript uses.
#![forbid(unsafe_code)]

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

fn unknown(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("unknown socket option {name}"))
}

/// SO_LINGER is off; -1 in JavaScript.
const LINGER_OFF: u32 = u32::MAX;

/// Reads an option; switches are 0 or 1, sizes bytes, times seconds.
pub fn read(fd: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let socket = SockRef::from(&fd);
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let bytes = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    Ok(match name {
        "noDelay" => socket.tcp_nodelay()?.into(),
        "keepAlive" => socket.keepalive()?.into(),
        "keepAliveTime" => seconds(socket.tcp_keepalive_time()?),
        "keepAliveInterval" => seconds(socket.tcp_keepalive_interval()?),
        "keepAliveRetries" => socket.tcp_keepalive_retries()?,
        "receiveBufferSize" => bytes(socket.recv_buffer_size()?),
        "sendBufferSize" => bytes(socket.send_buffer_size()?),
        "linger" => socket.linger()?.map_or(LINGER_OFF, seconds),
        "ttl" if is_ipv6(&socket)? => socket.unicast_hops_v6()?,
        "ttl" => socket.ttl_v4()?,
        "reuseAddress" => socket.reuse_address()?.into(),
        "reusePort" => socket.reuse_port()?.into(),
        "ipv6Only" => socket.only_v6()?.into(),
        "broadcast" => socket.broadcast()?.into(),
        _ => return Err(unknown(name)),
    })
}

/// Sets an option; units as in [`read`].
pub fn write(fd: BorrowedFd<'_>, name: &str, value: u32) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    let seconds = Duration::from_secs(value.into());
    match name {
        "noDelay" => socket.set_tcp_nodelay(value != 0),
        "keepAlive" => socket.set_keepalive(value != 0),
        "keepAliveTime" => keepalive(&socket, TcpKeepalive::new().with_time(seconds)),
        "keepAliveInterval" => keepalive(&socket, TcpKeepalive::new().with_interval(seconds)),
        "keepAliveRetries" => keepalive(&socket, TcpKeepalive::new().with_retries(value)),
        "receiveBufferSize" => socket.set_recv_buffer_size(value as usize),
        "sendBufferSize" => socket.set_send_buffer_size(value as usize),
        "linger" => socket.set_linger((value != LINGER_OFF).then_some(seconds)),
        "ttl" if is_ipv6(&socket)? => socket.set_unicast_hops_v6(value),
        "ttl" => socket.set_ttl_v4(value),
        "reuseAddress" => socket.set_reuse_address(value != 0),
        "reusePort" => socket.set_reuse_port(value != 0),
        "ipv6Only" => socket.set_only_v6(value != 0),
        "broadcast" => socket.set_broadcast(value != 0),
        _ => Err(unknown(name)),
    }
}

/// `set_tcp_keepalive` also switches keep-alive on; setting a time alone must not.
fn keepalive(socket: &SockRef<'_>, parameters: TcpKeepalive) -> io::Result<()> {
    let on = socket.keepalive()?;
    socket.set_tcp_keepalive(&parameters)?;
    socket.set_keepalive(on)
}

fn is_ipv6(socket: &SockRef<'_>) -> io::Result<bool> {
    Ok(socket.local_addr()?.is_ipv6())
}
