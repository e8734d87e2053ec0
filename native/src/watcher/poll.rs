//! The kernel's poll, level-triggered: epoll on Linux, kqueue elsewhere. (mio's is edge-triggered, always.)
//!
//! A descriptor is watched under its number and, on Linux, under what it refers to: epoll keys by both. So a number that was
//! closed and given to something else is not watched any more, which [`Poll::verify`] tells. What it referred to is still
//! watched while a duplicate keeps it open, and then nothing can take it out but the end of the poll (epoll(7), questions
//! and answers).

use crate::error::{During, SystemError};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What a descriptor is watched for, or ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// To be read from: bytes, connections, an end or an error.
    pub readable: bool,
    /// To be written to: room, a connection that is made, or an error.
    pub writable: bool,
}

/// A poll of the kernel.
#[derive(Debug)]
pub struct Poll(OwnedFd);

/// Room for what the kernel tells at once.
pub struct Events(Vec<sys::Event>);

impl Events {
    /// For so many; what is more stays ready.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }
}

impl AsRawFd for Poll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The result of a system call that says -1 for an error.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod sys {
    use super::*;

    pub type Event = libc::epoll_event;

    impl Poll {
        /// An empty one.
        pub fn open() -> Result<Self, SystemError> {
            // SAFETY: a plain call; what it returns is ours alone.
            unsafe {
                let fd = checked(libc::epoll_create1(libc::EPOLL_CLOEXEC)).during("epoll_create1")?;
                Ok(Self(OwnedFd::from_raw_fd(fd)))
            }
        }

        /// Begins to watch. EPERM: it is a file that is always ready.
        pub fn add(&self, fd: RawFd, interest: Readiness, token: u64) -> io::Result<()> {
            match self.control(libc::EPOLL_CTL_ADD, fd, interest, token) {
                // It was closed while a duplicate kept it open, and then became a duplicate of that.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
                }
                result => result,
            }
        }

        /// Another interest. ENOENT or EBADF: the number is not that of what was added (any more).
        pub fn change(&self, fd: RawFd, _from: Readiness, to: Readiness, token: u64) -> io::Result<()> {
            self.control(libc::EPOLL_CTL_MOD, fd, to, token)
        }

        /// Whether the number still is that of what was added; errors as of [`Self::change`].
        pub fn verify(&self, fd: RawFd, interest: Readiness, token: u64) -> io::Result<()> {
            self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
        }

        /// Ends the watch; errors as of [`Self::change`].
        pub fn remove(&self, fd: RawFd, interest: Readiness) -> io::Result<()> {
            self.control(libc::EPOLL_CTL_DEL, fd, interest, 0)
        }

        fn control(&self, operation: i32, fd: RawFd, interest: Readiness, token: u64) -> io::Result<()> {
            let readable = if interest.readable { libc::EPOLLIN } else { 0 };
            let writable = if interest.writable { libc::EPOLLOUT } else { 0 };
            let mut event = libc::epoll_event { events: (readable | writable) as u32, u64: token };
            // SAFETY: the poll is open, as it is owned; a number that is no descriptor is EBADF; `event` is valid for the call.
            checked(unsafe { libc::epoll_ctl(self.as_raw_fd(), operation, fd, &mut event) }).map(drop)
        }

        /// What is ready now, by tokens; it does not wait. An error of the descriptor is both.
        pub fn ready(&self, room: &mut Events, mut each: impl FnMut(u64, Readiness)) -> io::Result<()> {
            let events = &mut room.0;
            events.clear();
            let (into, length) = (events.as_mut_ptr(), events.capacity() as libc::c_int);
            // SAFETY: there is room for as many events as the capacity, and the kernel writes as many as it says.
            unsafe {
                let count = checked(libc::epoll_wait(self.as_raw_fd(), into, length, 0))?;
                events.set_len(count as usize);
            }
            for event in events {
                // Copied, for the structure is packed.
                let (flags, token) = (event.events as i32, event.u64);
                // As asyncio's selector: EPOLLERR and EPOLLHUP, which come unasked, are for whoever waits.
                let readable = flags & !libc::EPOLLOUT != 0;
                let writable = flags & !libc::EPOLLIN != 0;
                each(token, Readiness { readable, writable });
            }
            Ok(())
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod sys {
    use super::*;
    use std::ptr;

    pub type Event = libc::kevent;

    impl Poll {
        /// An empty one.
        pub fn open() -> Result<Self, SystemError> {
            // SAFETY: plain calls; what kqueue returns is ours alone.
            unsafe {
                let fd = checked(libc::kqueue()).during("kqueue")?;
                let poll = Self(OwnedFd::from_raw_fd(fd));
                checked(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)).during("fcntl")?;
                Ok(poll)
            }
        }

        /// Begins to watch.
        pub fn add(&self, fd: RawFd, interest: Readiness, token: u64) -> io::Result<()> {
            let none = Readiness { readable: false, writable: false };
            self.update(fd, none, interest, token)
        }

        /// Another interest. ENOENT or EBADF: the number is not that of what was added (any more). A kqueue forgets a
        /// descriptor when its number is closed, whatever else refers to the same.
        pub fn change(&self, fd: RawFd, from: Readiness, to: Readiness, token: u64) -> io::Result<()> {
            self.verify(fd, from, token)?;
            self.update(fd, from, to, token)
        }

        /// Whether the number still is that of what was added; errors as of [`Self::change`].
        pub fn verify(&self, fd: RawFd, interest: Readiness, token: u64) -> io::Result<()> {
            if interest.readable {
                self.control(fd, libc::EVFILT_READ, libc::EV_ENABLE, token)?;
            }
            if interest.writable {
                self.control(fd, libc::EVFILT_WRITE, libc::EV_ENABLE, token)?;
            }
            Ok(())
        }

        /// Ends the watch; errors as of [`Self::change`].
        pub fn remove(&self, fd: RawFd, interest: Readiness) -> io::Result<()> {
            let none = Readiness { readable: false, writable: false };
            self.update(fd, interest, none, 0)
        }

        fn update(&self, fd: RawFd, from: Readiness, to: Readiness, token: u64) -> io::Result<()> {
            let filters = [
                (libc::EVFILT_READ, from.readable, to.readable),
                (libc::EVFILT_WRITE, from.writable, to.writable),
            ];
            for (filter, was, is) in filters {
                match (was, is) {
                    (_, true) => self.control(fd, filter, libc::EV_ADD, token)?,
                    (true, false) => self.control(fd, filter, libc::EV_DELETE, token)?,
                    (false, false) => {}
                }
            }
            Ok(())
        }

        fn control(&self, fd: RawFd, filter: i16, flags: u16, token: u64) -> io::Result<()> {
            let change = libc::kevent {
                ident: fd as usize,
                filter,
                flags,
                fflags: 0,
                data: 0,
                udata: token as usize as *mut libc::c_void,
            };
            let (none, now) = (ptr::null_mut(), ptr::null());
            // SAFETY: the queue is open, as it is owned; one change is valid for the call, and no event is asked for.
            checked(unsafe { libc::kevent(self.as_raw_fd(), &change, 1, none, 0, now) }).map(drop)
        }

        /// What is ready now, by tokens; it does not wait.
        pub fn ready(&self, room: &mut Events, mut each: impl FnMut(u64, Readiness)) -> io::Result<()> {
            let events = &mut room.0;
            events.clear();
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let (into, length) = (events.as_mut_ptr(), events.capacity() as libc::c_int);
            // SAFETY: there is room for as many events as the capacity, and the kernel writes as many as it says.
            unsafe {
                let count = checked(libc::kevent(self.as_raw_fd(), ptr::null(), 0, into, length, &now))?;
                events.set_len(count as usize);
            }
            for event in events {
                let readable = event.filter == libc::EVFILT_READ;
                each(event.udata as usize as u64, Readiness { readable, writable: !readable });
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    const READ: Readiness = Readiness { readable: true, writable: false };
    const WRITE: Readiness = Readiness { readable: false, writable: true };

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn ready(poll: &Poll) -> Vec<(u64, Readiness)> {
        let mut found = Vec::new();
        poll.ready(&mut Events::with_capacity(8), |token, readiness| found.push((token, readiness))).unwrap();
        found
    }

    #[test]
    fn what_is_not_read_is_told_again_and_an_interest_can_be_changed() {
        let (mut client, server) = pair();
        let poll = Poll::open().unwrap();
        let fd = server.as_raw_fd();
        poll.add(fd, READ, 7).unwrap();
        assert_eq!(ready(&poll), []);
        client.write_all(b"bytes").unwrap();
        while ready(&poll).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(ready(&poll), [(7, READ)], "again, as it is level-triggered");
        poll.change(fd, READ, WRITE, 8).unwrap();
        assert_eq!(ready(&poll), [(8, WRITE)]);
        poll.remove(fd, WRITE).unwrap();
        assert_eq!(ready(&poll), []);
        assert!(poll.remove(fd, WRITE).is_err());
    }

    #[test]
    fn a_number_that_is_another_ones_now_is_told() {
        let (client, server) = pair();
        let poll = Poll::open().unwrap();
        let fd = server.as_raw_fd();
        poll.add(fd, WRITE, 7).unwrap();
        assert!(poll.verify(fd, WRITE, 7).is_ok());
        drop(server);
        let error = poll.verify(fd, WRITE, 7).unwrap_err().raw_os_error();
        // Other tests of this process may have the number by now.
        assert!(matches!(error, Some(libc::EBADF | libc::ENOENT)), "{error:?}");
        drop(client);
    }
}
