//! Listening sockets, as the supervisor holds them.

use super::{NativeAddress, SystemFailure, address_value};
use crate::error::SystemError;
use crate::net::addresses::Address;
use crate::net::{listen, options, unix};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use std::os::fd::{AsFd, AsRawFd};

/// How to bind.
#[napi(object)]
pub struct BindOptions {
    /// An IP address.
    pub host: String,
    /// 0 lets the kernel choose.
    pub port: u16,
    /// Length of the accept queue.
    pub backlog: i32,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// IPV6_V6ONLY.
    pub ipv6_only: bool,
    /// TCP_NODELAY for accepted connections.
    pub no_delay: bool,
    /// Fail when anybody listens there already, though SO_REUSEPORT would share.
    pub exclusive: bool,
}

/// A listening socket. It is the process's, not the thread's: shards accept from it by its token.
#[napi]
pub struct Listener {
    token: u32,
    address: Address,
}

#[napi]
impl Listener {
    /// Names it in every thread.
    #[napi(getter)]
    pub fn token(&self) -> u32 {
        self.token
    }

    /// The descriptor's number; -1 once closed.
    #[napi(getter)]
    pub fn fd(&self) -> i32 {
        listen::find(self.token).map_or(-1, |listener| listener.as_fd().as_raw_fd())
    }

    /// Where it listens, or listened.
    #[napi(catch_unwind)]
    pub fn address(&self) -> Either<NativeAddress, String> {
        address_value(&self.address)
    }

    /// A socket option, as a number.
    #[napi(catch_unwind)]
    pub fn get_option(&self, name: String) -> Either<u32, SystemFailure> {
        let result = listen::find(self.token)
            .ok_or_else(|| std::io::Error::from_raw_os_error(libc::EBADF))
            .and_then(|listener| options::read(listener.as_fd(), &name));
        result.map_or_else(|error| Either::B(SystemFailure::new("getsockopt", &error)), Either::A)
    }

    /// Lets go of it: it closes once no shard accepts from it.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        listen::unregister(self.token);
    }
}

impl Drop for Listener {
    /// JavaScript has forgotten it, or its thread has ended: nobody else would take it out of the registry.
    fn drop(&mut self) {
        self.close();
    }
}

/// Binds and listens.
#[napi(catch_unwind)]
pub fn bind_tcp(options: BindOptions) -> Result<Either<Listener, SystemFailure>> {
    let host = options
        .host
        .parse()
        .map_err(|_| Error::new(Status::InvalidArg, format!("{} is not an IP address", options.host)))?;
    let bound = listen::bind(&listen::ListenOptions {
        host,
        port: options.port,
        backlog: options.backlog,
        reuse_port: options.reuse_port,
        ipv6_only: options.ipv6_only,
        no_delay: options.no_delay,
        exclusive: options.exclusive,
    });
    Ok(registered(bound))
}

/// How to bind to a Unix socket.
#[napi(object)]
pub struct UnixBindOptions {
    /// A path, or an abstract name behind a zero character.
    pub path: String,
    /// Length of the accept queue.
    pub backlog: i32,
    /// Permissions of the file; null: what the umask leaves.
    pub mode: Option<u32>,
}

/// Binds to a Unix socket and listens. A file that nobody listens on any more is replaced.
#[napi(catch_unwind)]
pub fn bind_unix(options: UnixBindOptions) -> Either<Listener, SystemFailure> {
    let UnixBindOptions { path, backlog, mode } = options;
    registered(unix::bind(&unix::UnixListenOptions { name: path.into_bytes(), backlog, mode }))
}

fn registered(bound: std::result::Result<listen::Listener, SystemError>) -> Either<Listener, SystemFailure> {
    match bound {
        Ok(listener) => {
            let address = listener.address().clone();
            Either::A(Listener { token: listen::register(listener), address })
        }
        Err(error) => Either::B(error.into()),
    }
}

/// Held by a process while it binds a port.
#[napi]
pub struct StartLock {
    lock: Option<listen::StartLock>,
}

#[napi]
impl StartLock {
    /// Lets the next process bind. Idempotent.
    #[napi(catch_unwind)]
    pub fn release(&mut self) {
        self.lock = None;
    }
}

/// Takes the lock of a port; null while another process holds it.
#[napi(catch_unwind)]
pub fn try_start_lock(port: u16) -> Option<Either<StartLock, SystemFailure>> {
    taken(listen::start_lock(port))
}

/// Takes the lock of a Unix socket's path; null while another process holds it.
#[napi(catch_unwind)]
pub fn try_unix_start_lock(path: String) -> Option<Either<StartLock, SystemFailure>> {
    taken(unix::start_lock(path.as_bytes()))
}

fn taken(
    lock: std::result::Result<Option<listen::StartLock>, SystemError>,
) -> Option<Either<StartLock, SystemFailure>> {
    match lock {
        Ok(lock) => lock.map(|lock| Either::A(StartLock { lock: Some(lock) })),
        Err(error) => Some(Either::B(error.into())),
    }
}

/// Whether the kernel spreads connections over listeners that share a port by SO_REUSEPORT.
#[napi(catch_unwind)]
pub fn balances_reuse_port() -> bool {
    listen::balances_reuse_port()
}
