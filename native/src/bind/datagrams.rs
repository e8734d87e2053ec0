//! Sockets of datagrams, as a thread's JavaScript, or the supervisor, holds them.

use super::shard::NativeShard;
use super::{NativeAddress, SystemFailure, address_value};
use crate::error::{During, SystemError};
use crate::net::addresses::Address;
use crate::net::options;
use crate::net::udp::{self, DatagramSocket, OpenOptions};
use crate::shard::EndpointLimits;
use napi::bindgen_prelude::*;
use napi_derive::napi;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// How to open one.
#[napi(object)]
pub struct DatagramOpenOptions {
    /// Where to be: an IP address, or the name of a Unix socket (with port -1). Null: nowhere, or where the kernel chooses.
    pub local: Option<String>,
    /// -1 for a Unix socket.
    pub local_port: i32,
    /// What to connect to. Null for neither: a Unix socket without a name.
    pub remote: Option<String>,
    /// -1 for a Unix socket.
    pub remote_port: i32,
    /// SO_REUSEADDR.
    pub reuse_address: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// Fail when anybody is there already, though SO_REUSEPORT would share.
    pub exclusive: bool,
    /// IPV6_V6ONLY; null: the system's default.
    pub ipv6_only: Option<bool>,
    /// SO_BROADCAST.
    pub broadcast: bool,
    /// SO_RCVBUF; null: the system's default.
    pub receive_buffer_bytes: Option<u32>,
    /// SO_SNDBUF; null: the system's default.
    pub send_buffer_bytes: Option<u32>,
    /// GSO and GRO.
    pub offload: bool,
}

/// How an endpoint starts.
#[napi(object)]
pub struct NativeEndpointLimits {
    /// High watermark.
    pub write_high_bytes: u32,
    /// Low watermark.
    pub write_low_bytes: u32,
    /// Most bytes that may be queued.
    pub write_max_bytes: u32,
}

/// A socket of datagrams. Its descriptor closes when nobody holds it any more: neither this, nor an endpoint, nor, once it has
/// a token, the process.
#[napi]
pub struct NativeDatagramSocket {
    socket: Option<Arc<DatagramSocket>>,
    /// 0: none.
    token: u32,
}

#[napi]
impl NativeDatagramSocket {
    /// Names it in every thread from now on, until this object is closed.
    #[napi(catch_unwind)]
    pub fn share(&mut self) -> u32 {
        if let (0, Some(socket)) = (self.token, &self.socket) {
            self.token = udp::register(socket.clone());
        }
        self.token
    }

    /// The descriptor's number; -1 once closed.
    #[napi(getter)]
    pub fn fd(&self) -> i32 {
        self.socket.as_ref().map_or(-1, |socket| socket.as_fd().as_raw_fd())
    }

    /// Where it is.
    #[napi(catch_unwind)]
    pub fn local_address(&self) -> Either3<NativeAddress, String, SystemFailure> {
        told("getsockname", self.open().and_then(|socket| socket.local_address()))
    }

    /// What it is connected to.
    #[napi(catch_unwind)]
    pub fn peer_address(&self) -> Either3<NativeAddress, String, SystemFailure> {
        told("getpeername", self.open().and_then(|socket| socket.peer_address()))
    }

    /// A socket option, as a number.
    #[napi(catch_unwind)]
    pub fn get_option(&self, name: String) -> Either<u32, SystemFailure> {
        let result = self
            .open()
            .and_then(|socket| socket.option(&name).unwrap_or_else(|| options::read(socket.as_fd(), &name)));
        result.map_or_else(|error| Either::B(SystemFailure::new("getsockopt", &error)), Either::A)
    }

    /// Sets a socket option; null when it is set.
    #[napi(catch_unwind)]
    pub fn set_option(&self, name: String, value: u32) -> Option<SystemFailure> {
        failed(self.open().and_then(|socket| {
            let set = socket.set_option(&name, value);
            set.unwrap_or_else(|| options::write(socket.as_fd(), &name, value))
        }))
    }

    /// Joins or leaves a group; null when that is done. Empty: the system chooses the interface.
    #[napi(catch_unwind)]
    pub fn set_membership(&self, group: String, interface: String, joins: bool) -> Option<SystemFailure> {
        failed(self.open().and_then(|socket| {
            let group: IpAddr = group.parse().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            socket.set_membership(group, &interface, joins)
        }))
    }

    /// By which interface what is sent to groups leaves; null when it is set.
    #[napi(catch_unwind)]
    pub fn set_multicast_interface(&self, interface: String) -> Option<SystemFailure> {
        failed(self.open().and_then(|socket| socket.set_multicast_interface(&interface)))
    }

    /// Lets go of it. Idempotent.
    #[napi(catch_unwind)]
    pub fn close(&mut self) {
        if self.token != 0 {
            udp::unregister(self.token);
            self.token = 0;
        }
        self.socket = None;
    }

    fn open(&self) -> io::Result<&Arc<DatagramSocket>> {
        self.socket.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl Drop for NativeDatagramSocket {
    /// JavaScript has forgotten it, or its thread has ended: nobody else would take it out of the registry.
    fn drop(&mut self) {
        self.close();
    }
}

fn told(syscall: &str, address: io::Result<Address>) -> Either3<NativeAddress, String, SystemFailure> {
    match address.map(|address| address_value(&address)) {
        Ok(Either::A(address)) => Either3::A(address),
        Ok(Either::B(name)) => Either3::B(name),
        Err(error) => Either3::C(SystemFailure::new(syscall, &error)),
    }
}

fn failed(result: io::Result<()>) -> Option<SystemFailure> {
    result.err().map(|error| SystemFailure::new("setsockopt", &error))
}

fn held(
    opened: std::result::Result<DatagramSocket, SystemError>,
) -> Either<NativeDatagramSocket, SystemFailure> {
    match opened {
        Ok(socket) => Either::A(NativeDatagramSocket { socket: Some(Arc::new(socket)), token: 0 }),
        Err(error) => Either::B(error.into()),
    }
}

/// An address with which a socket is opened.
fn address(name: Option<String>, port: i32) -> Result<Option<Address>> {
    let Some(name) = name else { return Ok(None) };
    let address = match u16::try_from(port) {
        Ok(port) => super::hot_calls::ip(name.as_bytes(), port)?,
        Err(_) => Address::Unix(name.into_bytes()),
    };
    Ok(Some(address))
}

/// Opens, binds and connects a socket, as far as is asked for.
#[napi(catch_unwind)]
pub fn open_datagram_socket(
    options: DatagramOpenOptions,
) -> Result<Either<NativeDatagramSocket, SystemFailure>> {
    Ok(held(DatagramSocket::open(&OpenOptions {
        local: address(options.local, options.local_port)?,
        remote: address(options.remote, options.remote_port)?,
        reuse_address: options.reuse_address,
        reuse_port: options.reuse_port,
        exclusive: options.exclusive,
        ipv6_only: options.ipv6_only,
        broadcast: options.broadcast,
        receive_buffer_bytes: options.receive_buffer_bytes,
        send_buffer_bytes: options.send_buffer_bytes,
        offload: options.offload,
    })))
}

/// Takes a socket that was opened elsewhere: its descriptor is this object's from now on, unless it is refused.
#[napi(catch_unwind)]
pub fn adopt_datagram_socket(fd: i32, offload: bool) -> Either<NativeDatagramSocket, SystemFailure> {
    // SAFETY: a question that a closed descriptor answers by EBADF.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return held(Err(io::Error::last_os_error()).during("fcntl"));
    }
    // SAFETY: it is open; whose it is, is JavaScript's word: its caller gives it away.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    held(DatagramSocket::adopt(fd, offload).map_err(|(fd, error)| {
        _ = fd.into_raw_fd(); // stays the caller's
        error
    }))
}

/// The socket that a token names; null when there is none (any more).
#[napi(catch_unwind)]
pub fn find_datagram_socket(token: u32) -> Option<NativeDatagramSocket> {
    udp::find(token).map(|socket| NativeDatagramSocket { socket: Some(socket), token: 0 })
}

#[napi]
impl NativeShard {
    /// Sends and receives by a socket, under a number of no endpoint whose end is still to be told. One closed event follows,
    /// unless it is refused: EMFILE past ENDPOINTS_MAX, EEXIST for a number that is in use.
    #[napi(catch_unwind)]
    pub fn add_endpoint(
        &self,
        endpoint: u32,
        socket: &NativeDatagramSocket,
        limits: NativeEndpointLimits,
    ) -> Option<SystemFailure> {
        let socket = socket.socket.clone()?;
        // Commands that wait may be for an endpoint that had this number, and must find none.
        self.host().flush();
        let limits = EndpointLimits {
            write_high_bytes: limits.write_high_bytes as usize,
            write_low_bytes: limits.write_low_bytes as usize,
            write_max_bytes: limits.write_max_bytes as usize,
        };
        let added =
            self.host().with_engine(|engine| engine.add_endpoint(Instant::now(), endpoint, socket, limits));
        added?.err().map(|error| SystemFailure::new("socket", &error))
    }

    /// Bytes of an endpoint's datagrams that are not sent yet.
    #[napi(catch_unwind)]
    pub fn endpoint_buffered_bytes(&self, endpoint: u32) -> i64 {
        self.host().buffered_datagram_bytes(endpoint) as i64
    }
}
