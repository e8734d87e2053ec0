//! Sockets of the program's own, and the system calls of `sockRecv` and its like.
//!
//! The calls take a descriptor's number, as they do for descriptors that are not ours; what they say is a number, not below 0
//! for a result and the negative errno for an error: they are the path of bytes, and errors (EAGAIN) are half of it.

use super::hot_calls::ip;
use super::javascript::View;
use super::{NativeAddress, SystemFailure, address_value};
use crate::error::{During, SystemError, errno};
use crate::net::addresses::Address;
use crate::net::{options, raw, stream};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use socket2::{Domain, Type};
use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// A socket that JavaScript owns. Its descriptor closes with `close`, when it is collected, or with its thread.
#[napi]
pub struct NativeSocket {
    fd: RefCell<Option<OwnedFd>>,
    /// Of an accepted one: the peer, as the kernel told it then.
    peer: Option<Address>,
}

#[napi]
impl NativeSocket {
    fn new(fd: OwnedFd, peer: Option<Address>) -> Self {
        Self { fd: RefCell::new(Some(fd)), peer }
    }

    /// The descriptor's number; -1 when it is closed or given away.
    #[napi(getter, catch_unwind)]
    pub fn fd(&self) -> i32 {
        self.fd.borrow().as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Where an accepted one's peer was.
    #[napi(getter, catch_unwind)]
    pub fn accepted_from(&self) -> Option<Either<NativeAddress, String>> {
        self.peer.as_ref().map(address_value)
    }

    /// To an IP address and port, or, with port -1, to the name of a Unix socket; null when it is bound.
    #[napi(catch_unwind)]
    pub fn bind(&self, address: String, port: i32) -> Result<Option<SystemFailure>> {
        let address = target(&address, port)?;
        Ok(self.look("bind", |fd| raw::bind(fd, &address)).err().map(SystemFailure::from))
    }

    /// Null when it listens.
    #[napi(catch_unwind)]
    pub fn listen(&self, backlog: i32) -> Option<SystemFailure> {
        self.look("listen", |fd| raw::listen(fd, backlog)).err().map(SystemFailure::from)
    }

    /// Ends the half that sends, or that receives, or both; null when that is so.
    #[napi(catch_unwind)]
    pub fn shutdown(&self, read: bool, write: bool) -> Option<SystemFailure> {
        let how = match (read, write) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            _ => Shutdown::Write,
        };
        self.look("shutdown", |fd| raw::shutdown(fd, how)).err().map(SystemFailure::from)
    }

    /// Our end.
    #[napi(catch_unwind)]
    pub fn local_address(&self) -> Either3<NativeAddress, String, SystemFailure> {
        told(self.look("getsockname", raw::local_address))
    }

    /// The peer's.
    #[napi(catch_unwind)]
    pub fn peer_address(&self) -> Either3<NativeAddress, String, SystemFailure> {
        told(self.look("getpeername", raw::peer_address))
    }

    /// A socket option, as a number.
    #[napi(catch_unwind)]
    pub fn get_option(&self, name: String) -> Either<u32, SystemFailure> {
        let result = self.look("getsockopt", |fd| options::read(fd, &name));
        result.map_or_else(|error| Either::B(error.into()), Either::A)
    }

    /// Sets a socket option; null when it is set.
    #[napi(catch_unwind)]
    pub fn set_option(&self, name: String, value: u32) -> Option<SystemFailure> {
        self.look("setsockopt", |fd| options::write(fd, &name, value)).err().map(SystemFailure::from)
    }

    /// Gives the descriptor away: its number, or -1 when there is none any more.
    #[napi(catch_unwind)]
    pub fn detach(&self) -> i32 {
        self.fd.take().map_or(-1, IntoRawFd::into_raw_fd)
    }

    /// Closes the descriptor. Idempotent.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        drop(self.fd.take());
    }

    fn look<T>(
        &self,
        syscall: &'static str,
        look: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> std::result::Result<T, SystemError> {
        match self.fd.borrow().as_ref() {
            Some(fd) => look(fd.as_fd()),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
        .during(syscall)
    }
}

fn told(address: std::result::Result<Address, SystemError>) -> Either3<NativeAddress, String, SystemFailure> {
    match address.map(|address| address_value(&address)) {
        Ok(Either::A(address)) => Either3::A(address),
        Ok(Either::B(name)) => Either3::B(name),
        Err(error) => Either3::C(error.into()),
    }
}

/// An IP address and port, or, with port -1, the name of a Unix socket.
fn target(address: &str, port: i32) -> Result<Address> {
    match u16::try_from(port) {
        Ok(port) => ip(address.as_bytes(), port),
        Err(_) => Ok(Address::Unix(address.as_bytes().to_vec())),
    }
}

/// Opens a socket: `IPv4`, `IPv6` or `unix`, for datagrams or else a stream.
#[napi(catch_unwind)]
pub fn open_socket(family: String, datagram: bool) -> Either<NativeSocket, SystemFailure> {
    let domain = match family.as_str() {
        "IPv6" => Domain::IPV6,
        "unix" => Domain::UNIX,
        _ => Domain::IPV4,
    };
    made(raw::open(domain, kind(datagram)))
}

/// Two Unix sockets that are connected to each other.
#[napi(catch_unwind, ts_return_type = "NativeSocket[] | SystemFailure")]
pub fn open_socket_pair(datagram: bool) -> Either<Vec<NativeSocket>, SystemFailure> {
    match raw::pair(kind(datagram)) {
        Ok((one, other)) => Either::A(vec![NativeSocket::new(one, None), NativeSocket::new(other, None)]),
        Err(error) => Either::B(error.into()),
    }
}

/// Takes a socket's descriptor over: it is the result's from now on, and does not wait any more. When it fails it stays the
/// caller's.
#[napi(catch_unwind)]
pub fn adopt_socket(fd: i32) -> Either<NativeSocket, SystemFailure> {
    match with(fd, |fd| Ok(raw::take_over(fd))) {
        // SAFETY: it is open; that it is given away is JavaScript's word.
        Ok(Ok(())) => Either::A(NativeSocket::new(unsafe { OwnedFd::from_raw_fd(fd) }, None)),
        Ok(Err(error)) => Either::B(error.into()),
        Err(error) => Either::B(SystemFailure::new("fcntl", &error)),
    }
}

fn kind(datagram: bool) -> Type {
    if datagram { Type::DGRAM } else { Type::STREAM }
}

fn made(fd: std::result::Result<OwnedFd, SystemError>) -> Either<NativeSocket, SystemFailure> {
    match fd {
        Ok(fd) => Either::A(NativeSocket::new(fd, None)),
        Err(error) => Either::B(error.into()),
    }
}

/// Calls with a descriptor that JavaScript names.
fn with<T>(fd: RawFd, call: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: used for system calls within this call only, to which a number that is no descriptor is EBADF. Whose it is, is
    // JavaScript's word, as with every descriptor that it names.
    call(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// The result of a call as one number.
fn number(result: io::Result<usize>) -> i32 {
    result.map_or_else(|error| -errno(&error), |count| count as i32)
}

/// Room that JavaScript lends for the length of a call; none of a detached array.
///
/// # Safety
/// `data` must be of an argument of this call, from which JavaScript is not called while the room is used.
// SAFETY: both callers are calls from JavaScript that end with their one system call.
unsafe fn room<'a>(env: &Env, data: &Unknown<'_>) -> Result<&'a mut [MaybeUninit<u8>]> {
    let view = View::of(env.raw(), data.raw())?;
    // SAFETY: by the caller. Bytes may be written as if they were not initialised; should other threads share the memory they see
    // what the kernel writes.
    Ok(unsafe { view.room() })
}

/// Receives into memory: bytes, 0 at the end, or the negative errno.
#[napi(catch_unwind, ts_args_type = "fd: number, data: Uint8Array")]
pub fn socket_receive(env: Env, fd: i32, data: Unknown<'_>) -> Result<i32> {
    // SAFETY: the room is of an argument of this call, and used by one system call.
    let room = unsafe { room(&env, &data)? };
    Ok(number(with(fd, |fd| stream::receive(fd, room))))
}

/// What was received, and from where.
#[napi(object)]
pub struct ReceivedFrom {
    /// How many bytes.
    pub bytes: u32,
    /// Null on a stream over IP, of which the kernel tells no address.
    pub address: Option<Either<NativeAddress, String>>,
}

/// As `socketReceive`, with the sender's address.
#[napi(catch_unwind, ts_args_type = "fd: number, data: Uint8Array")]
pub fn socket_receive_from(env: Env, fd: i32, data: Unknown<'_>) -> Result<Either<ReceivedFrom, i32>> {
    // SAFETY: as in `socket_receive`.
    let room = unsafe { room(&env, &data)? };
    Ok(match with(fd, |fd| raw::receive_from(fd, room)) {
        Ok((bytes, address)) => {
            Either::A(ReceivedFrom { bytes: bytes as u32, address: address.as_ref().map(address_value) })
        }
        Err(error) => Either::B(-errno(&error)),
    })
}

/// Sends the bytes from `start` on: how many the kernel took, or the negative errno.
#[napi(catch_unwind, ts_args_type = "fd: number, data: Uint8Array, start: number")]
pub fn socket_send(env: Env, fd: i32, data: Unknown<'_>, start: u32) -> Result<i32> {
    let view = View::of(env.raw(), data.raw())?;
    // SAFETY: the view is of an argument of this call, during which JavaScript does not run.
    let bytes = unsafe { view.bytes() };
    let rest = bytes.get(start as usize..).unwrap_or_default();
    Ok(number(with(fd, |fd| raw::send(fd, rest))))
}

/// Sends one datagram; as `socketSend`. Port -1: to the name of a Unix socket.
#[napi(catch_unwind, ts_args_type = "fd: number, data: Uint8Array, address: string, port: number")]
pub fn socket_send_to(env: Env, fd: i32, data: Unknown<'_>, address: String, port: i32) -> Result<i32> {
    let (view, address) = (View::of(env.raw(), data.raw())?, target(&address, port)?);
    // SAFETY: as in `socket_send`.
    let bytes = unsafe { view.bytes() };
    Ok(number(with(fd, |fd| raw::send_to(fd, bytes, &address))))
}

/// Begins to connect: 0 when it is connected, or the negative errno. Port -1: to the name of a Unix socket.
#[napi(catch_unwind)]
pub fn socket_connect(fd: i32, address: String, port: i32) -> Result<i32> {
    let address = target(&address, port)?;
    Ok(number(with(fd, |fd| raw::connect(fd, &address).map(|()| 0))))
}

/// The error that a socket has run into, which is cleared by asking: 0, or its negative number.
#[napi(catch_unwind)]
pub fn socket_error(fd: i32) -> i32 {
    number(with(fd, |fd| stream::take_error(fd).map_or(Ok(0), Err)))
}

/// Accepts a connection, or the negative errno.
#[napi(catch_unwind)]
pub fn socket_accept(fd: i32) -> Either<NativeSocket, i32> {
    match with(fd, raw::accept) {
        Ok((fd, peer)) => Either::A(NativeSocket::new(fd, Some(peer))),
        Err(error) => Either::B(-errno(&error)),
    }
}

/// Whether calls on a descriptor return at once: 1 or 0, or the negative errno.
#[napi(catch_unwind)]
pub fn is_nonblocking(fd: i32) -> i32 {
    number(with(fd, |fd| raw::is_nonblocking(fd).map(usize::from)))
}

/// `IPv4`, `IPv6` or `unix`, or the negative errno.
#[napi(catch_unwind)]
pub fn socket_family(fd: i32) -> Either<String, i32> {
    match with(fd, raw::family) {
        Ok(family) => Either::A(family.into()),
        Err(error) => Either::B(-errno(&error)),
    }
}
