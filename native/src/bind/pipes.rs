//! Pipes, as their thread's JavaScript holds them before a shard has them.

use super::SystemFailure;
use super::shard::NativeShard;
use crate::engine::Start;
use crate::error::{During, SystemError};
use crate::net::addresses::Peer;
use crate::net::pipes::{self, Direction};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

/// A new pipe. Either end closes once: by `closeEnd`, with the connection that it becomes, or when this is collected or its
/// environment ends.
#[napi]
pub struct NativePipe {
    read_end: RefCell<Option<OwnedFd>>,
    write_end: RefCell<Option<OwnedFd>>,
}

#[napi]
impl NativePipe {
    /// The number of an end's descriptor; -1 once it is closed or given away.
    #[napi(catch_unwind)]
    pub fn descriptor(&self, writes: bool) -> i32 {
        self.end(writes).borrow().as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Closes an end, if it is here still.
    #[napi(catch_unwind)]
    pub fn close_end(&self, writes: bool) {
        self.end(writes).take();
    }

    fn end(&self, writes: bool) -> &RefCell<Option<OwnedFd>> {
        if writes { &self.write_end } else { &self.read_end }
    }
}

/// Opens a pipe, close-on-exec; both ends wait.
#[napi(catch_unwind)]
pub fn open_pipe() -> Either<NativePipe, SystemFailure> {
    match pipes::open() {
        Ok((read_end, write_end)) => Either::A(NativePipe {
            read_end: RefCell::new(Some(read_end)),
            write_end: RefCell::new(Some(write_end)),
        }),
        Err(error) => Either::B(error.into()),
    }
}

#[napi]
impl NativeShard {
    /// Begins with whatever can be read or written as a pipe, on behalf of a server of this thread's own; as `adopt`.
    #[napi(catch_unwind)]
    pub fn adopt_pipe(
        &self,
        request: u32,
        server: u16,
        fd: i32,
        writes: bool,
        duplicate: bool,
    ) -> Option<SystemFailure> {
        match take(fd, direction(writes), duplicate) {
            Ok(fd) => self.begin_pipe(request, server, fd, writes),
            Err(error) => Some(error.into()),
        }
    }

    /// The same with an end of a new pipe.
    #[napi(catch_unwind)]
    pub fn adopt_pipe_end(
        &self,
        request: u32,
        server: u16,
        pipe: &NativePipe,
        writes: bool,
    ) -> Option<SystemFailure> {
        let mut end = pipe.end(writes).borrow_mut();
        let inspected = match end.as_ref() {
            Some(fd) => pipes::inspect(fd.as_fd(), direction(writes)),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)).during("fcntl"),
        };
        match inspected {
            Ok(()) => end.take().and_then(|fd| self.begin_pipe(request, server, fd, writes)),
            Err(error) => Some(error.into()),
        }
    }

    fn begin_pipe(&self, request: u32, server: u16, fd: OwnedFd, writes: bool) -> Option<SystemFailure> {
        let peer = if writes { Peer::Reader } else { Peer::Writer };
        let start = Start::With(fd, peer);
        self.host.with_engine(|engine| engine.connect(Instant::now(), request, server, start));
        None
    }
}

fn direction(writes: bool) -> Direction {
    if writes { Direction::Write } else { Direction::Read }
}

/// A descriptor that JavaScript names, or a duplicate of it. What is refused stays the caller's.
fn take(fd: i32, direction: Direction, duplicate: bool) -> std::result::Result<OwnedFd, SystemError> {
    // SAFETY: a question that a closed descriptor answers by EBADF.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error()).during("fcntl");
    }
    // SAFETY: it is open, and its owner keeps it open for this call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    pipes::inspect(borrowed, direction)?;
    if duplicate {
        return borrowed.try_clone_to_owned().during("fcntl");
    }
    // SAFETY: JavaScript's caller gives it away.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
