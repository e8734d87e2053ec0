//! Pipes: the two ends of a new one, and the calls on whatever is read or written as one: a FIFO, a terminal or another
//! character device, a socket.

use crate::error::{During, SystemError};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Opens a pipe, close-on-exec: the end to read, and the end to write.
pub fn open() -> Result<(OwnedFd, OwnedFd), SystemError> {
    let mut ends = [0; 2];
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: `ends` has room for two descriptors.
    let failed = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    // SAFETY: as above.
    let failed = unsafe { libc::pipe(ends.as_mut_ptr()) } < 0;
    if failed {
        return Err(io::Error::last_os_error()).during("pipe");
    }
    // SAFETY: both are new, and ours alone.
    let ends = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    for end in [&ends.0, &ends.1] {
        // SAFETY: a plain call on a descriptor of ours.
        if unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error()).during("fcntl");
        }
    }
    Ok(ends)
}

/// Which way the bytes of a pipe go, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It is read.
    Read,
    /// It is written.
    Write,
}

/// Checks that a descriptor can be read, or written, as a pipe, and makes it non-blocking: with it all its duplicates, in
/// other processes, too. ENOTSUP: a regular file, a directory, or a block device, which never makes anybody wait. EBADF:
/// it is not open that way.
pub fn inspect(fd: BorrowedFd<'_>, direction: Direction) -> Result<(), SystemError> {
    let mut status: MaybeUninit<libc::stat> = MaybeUninit::uninit();
    // SAFETY: `status` is valid for the call, and `fd` is open, as it is borrowed.
    if unsafe { libc::fstat(fd.as_raw_fd(), status.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error()).during("fstat");
    }
    // SAFETY: fstat has written it.
    let kind = unsafe { status.assume_init() }.st_mode & libc::S_IFMT;
    if !matches!(kind, libc::S_IFIFO | libc::S_IFSOCK | libc::S_IFCHR) {
        return Err(io::Error::from_raw_os_error(libc::ENOTSUP)).during("fstat");
    }
    // SAFETY: a plain call.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error()).during("fcntl");
    }
    let (barred, call) = match direction {
        Direction::Read => (libc::O_WRONLY, "read"),
        Direction::Write => (libc::O_RDONLY, "write"),
    };
    if flags & libc::O_ACCMODE == barred {
        return Err(io::Error::from_raw_os_error(libc::EBADF)).during(call);
    }
    // SAFETY: a plain call.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error()).during("fcntl");
    }
    Ok(())
}

/// Reads into `buffer`; 0 is the writer's end. EINTR is tried again.
#[inline]
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer is valid for writes of its length, and the descriptor is open, as it is borrowed.
        let length = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(length).map_err(|_| io::Error::last_os_error()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes what the kernel takes. EINTR is tried again. EPIPE comes without a signal: Node ignores SIGPIPE.
#[inline]
pub fn write(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        // SAFETY: an IoSlice has the layout of an iovec (std says so), the bytes are borrowed, and the descriptor is open.
        let length =
            unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr().cast(), pieces.len() as libc::c_int) };
        match usize::try_from(length).map_err(|_| io::Error::last_os_error()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether nobody can read any more what is written: the last reader has closed its end. Linux says POLLERR of it, macOS
/// POLLHUP, as either says of a socket whose peer is gone.
pub fn is_broken(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one entry, valid for the call, which does not wait.
    let told = unsafe { libc::poll(&mut poll, 1, 0) } > 0;
    // macOS answers POLLNVAL for terminals and devices, which says nothing.
    told && poll.revents & (libc::POLLERR | libc::POLLHUP) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_pipe_is_broken_once_its_reader_is_gone_and_not_before() {
        let (reader, writer) = open().unwrap();
        inspect(reader.as_fd(), Direction::Read).unwrap();
        inspect(writer.as_fd(), Direction::Write).unwrap();
        while write(writer.as_fd(), &[IoSlice::new(&[1; 4096])]).is_ok() {}
        assert!(!is_broken(writer.as_fd()), "it is full only");
        drop(reader);
        assert!(is_broken(writer.as_fd()));
        let error = write(writer.as_fd(), &[IoSlice::new(b"late")]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn what_is_no_pipe_or_goes_the_other_way_is_refused_by_its_call() {
        let (reader, writer) = open().unwrap();
        let refusal = |fd: BorrowedFd<'_>, direction| {
            let error = inspect(fd, direction).unwrap_err();
            (error.syscall, error.errno())
        };
        assert_eq!(refusal(reader.as_fd(), Direction::Write), ("write", libc::EBADF));
        assert_eq!(refusal(writer.as_fd(), Direction::Read), ("read", libc::EBADF));
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(refusal(file.as_fd(), Direction::Read), ("fstat", libc::ENOTSUP));
    }
}
