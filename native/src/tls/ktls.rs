//! Whether this kernel would encrypt what is sent (kTLS). It is not used: see the answer of [`probe`].

use std::io;

/// None: it would. Else why not.
pub fn probe() -> Option<String> {
    let error = attach().err()?;
    let why = match error.raw_os_error() {
        Some(libc::ENOENT) => "the kernel's module tls is not loaded (modprobe tls)".to_owned(),
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => "the kernel has no kTLS (CONFIG_TLS)".to_owned(),
        _ if cfg!(not(target_os = "linux")) => "kTLS is Linux's".to_owned(),
        _ => error.to_string(),
    };
    Some(format!("kTLS is not available: {why}"))
}

/// Asks for it on a connection made for that.
#[cfg(target_os = "linux")]
fn attach() -> io::Result<()> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let client = std::net::TcpStream::connect(listener.local_addr()?)?;
    let name = b"tls";
    let length = name.len() as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&client);
    // SAFETY: the option is the bytes of a name, which are valid for the call; the descriptor is open, as `client` owns it.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_TCP, libc::TCP_ULP, name.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn attach() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT))
}
