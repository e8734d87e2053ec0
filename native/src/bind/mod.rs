//! The binding: the only files that know Node-API. Types here are named after what JavaScript sees.

pub mod alarm;
mod callbacks;
mod caller;
pub mod children;
pub mod datagrams;
mod functions;
pub mod guardian;
mod hot_calls;
mod javascript;
pub mod listener;
pub mod log;
pub mod mailbox;
pub mod metrics;
pub mod pipes;
pub mod raw_socket;
pub mod shard;
pub mod tls;
pub mod topics;
pub mod watcher;

use crate::net::addresses::{self, Address};
use crate::uv::{self, Uv};
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// The system call by which mio opens a poll, for errors.
const POLL_CREATE: &str = if cfg!(target_os = "linux") { "epoll_create1" } else { "kqueue" };
/// The one by which it watches a descriptor.
const POLL_CONTROL: &str = if cfg!(target_os = "linux") { "epoll_ctl" } else { "kevent" };

/// A failed system call; JavaScript makes Node's own error shape of it.
#[napi(object)]
pub struct SystemFailure {
    /// As in errno.h, positive.
    pub errno: i32,
    /// The call.
    pub syscall: String,
}

impl SystemFailure {
    fn new(syscall: &str, error: &std::io::Error) -> Self {
        Self { errno: crate::error::errno(error), syscall: syscall.into() }
    }
}

impl From<crate::error::SystemError> for SystemFailure {
    fn from(error: crate::error::SystemError) -> Self {
        Self::new(error.syscall, &error.source)
    }
}

/// libuv's functions.
fn libuv() -> Result<&'static Uv> {
    uv::uv().map_err(|error| Error::new(Status::GenericFailure, error))
}

/// An end of a connection, in the shape of Node's `net.AddressInfo`.
#[napi(object)]
pub struct NativeAddress {
    /// In text.
    pub address: String,
    /// `IPv4` or `IPv6`.
    #[napi(ts_type = "'IPv4' | 'IPv6'")]
    pub family: String,
    /// The port.
    pub port: u16,
}

impl From<std::net::SocketAddr> for NativeAddress {
    fn from(address: std::net::SocketAddr) -> Self {
        let (address, family, port) = addresses::parts(address);
        Self { address, family: family.into(), port }
    }
}

/// An address as JavaScript sees it: a Unix socket's is its name, as in node:net, and empty when it has none.
fn address_value(address: &Address) -> Either<NativeAddress, String> {
    match address {
        Address::Ip(address) => Either::A((*address).into()),
        Address::Unix(name) => Either::B(String::from_utf8_lossy(name).into_owned()),
    }
}

/// Layout version of the rings; see `abi.rs`.
#[napi(catch_unwind)]
pub fn abi_version() -> i32 {
    crate::abi::ABI_VERSION
}

/// Runs once per thread that loads the addon.
#[napi(module_exports)]
pub fn initialise(_exports: Object<'_>) -> Result<()> {
    static FIRST: std::sync::Once = std::sync::Once::new();
    FIRST.call_once(|| {
        pin_library();
        crate::malloc::keep_freed_memory();
    });
    Ok(())
}

/// Keeps this library mapped for the life of the process. Loaded in a worker only, it would be unmapped when that
/// worker ends, registry, counters and all, while others use them.
fn pin_library() {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let inside: fn() = pin_library;
    // SAFETY: dladdr writes `info` when it succeeds, and the name it gives lives as long as the library. The library is
    // loaded already, so dlopen runs none of its code; the handle is not kept, so that nothing can close it.
    unsafe {
        if libc::dladdr(inside as *const libc::c_void, info.as_mut_ptr()) != 0 {
            libc::dlopen(info.assume_init().dli_fname, libc::RTLD_LAZY | libc::RTLD_NODELETE);
        }
    }
}
