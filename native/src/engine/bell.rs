//! Wakes a thread's libuv loop from another thread: a descriptor that becomes readable. An eventfd on Linux, elsewhere a
//! pair of sockets.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// See the module.
#[derive(Debug)]
pub struct Bell(system::Bell);

impl Bell {
    /// A silent one.
    pub fn new() -> io::Result<Self> {
        system::Bell::new().map(Self)
    }

    /// Makes it readable. From any thread.
    #[inline]
    pub fn ring(&self) {
        self.0.ring();
    }

    /// Makes it silent. Called by the thread that waits for it.
    #[inline]
    pub fn silence(&self) {
        self.0.silence();
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

    #[derive(Debug)]
    pub(super) struct Bell(OwnedFd);

    impl Bell {
        pub(super) fn new() -> io::Result<Self> {
            // SAFETY: a plain call; what it returns is ours alone.
            unsafe {
                let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
                if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
            }
        }

        #[inline]
        pub(super) fn ring(&self) {
            let one = 1u64;
            // It fails only when the counter is full, and then it is readable.
            // SAFETY: eight bytes of ours; the descriptor is open, as it is owned.
            unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        }

        #[inline]
        pub(super) fn silence(&self) {
            let mut count = 0u64;
            // It fails only when it is silent.
            // SAFETY: as in `ring`.
            unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        }
    }

    impl AsRawFd for Bell {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::net::UnixStream;

    #[derive(Debug)]
    pub(super) struct Bell {
        ringer: UnixStream,
        listener: UnixStream,
    }

    impl Bell {
        pub(super) fn new() -> io::Result<Self> {
            let (ringer, listener) = UnixStream::pair()?;
            ringer.set_nonblocking(true)?;
            listener.set_nonblocking(true)?;
            Ok(Self { ringer, listener })
        }

        pub(super) fn ring(&self) {
            // It fails only when the buffer is full, and then it is readable.
            _ = (&self.ringer).write(&[0]);
        }

        pub(super) fn silence(&self) {
            // A bell is rung once for each time that its owner sleeps, so few bytes wait.
            _ = (&self.listener).read(&mut [0; 64]);
        }
    }

    impl AsRawFd for Bell {
        fn as_raw_fd(&self) -> RawFd {
            self.listener.as_raw_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn is_readable(bell: &Bell) -> bool {
        let mut poll = libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd; it does not wait.
        unsafe { libc::poll(&mut poll, 1, 0) > 0 }
    }

    #[test]
    fn it_is_readable_from_the_first_ring_until_it_is_silenced() {
        let bell = Bell::new().unwrap();
        assert!(!is_readable(&bell));
        bell.ring();
        bell.ring();
        assert!(is_readable(&bell));
        bell.silence();
        assert!(!is_readable(&bell));
        bell.silence();
    }
}
