//! How long the scheduler lets others finish before a thread that serves connections runs.
//!
//! A thread that is woken by a connection has little to do, and somebody waits for it. Beside it run threads that compute:
//! a shard that starts, V8's helpers, an executor. Linux lets them finish their slice first, 3 ms and more at the default
//! settings, and with 250 ticks a second 4 ms. Asking for a shorter slice (sched_setattr(2), `sched_runtime` of
//! SCHED_OTHER; Linux 6.12 and later) brings the woken thread in at once. Its share of the processor stays the same, it
//! comes in smaller pieces. No privilege is needed. Older kernels, and those that refuse, leave all as it was; where system
//! calls are filtered (systemd's `SystemCallFilter`, most containers) nothing is asked, for the answer may be the end.
//!
//! What such a thread starts has the default slice again, but where its nice value is negative: "reset on fork", which
//! does that, would take that value from it, too.

use std::cell::Cell;
use std::marker::PhantomData;

/// For a thread that serves. The shortest that Linux grants.
const SERVING_NS: u64 = 100_000;
/// For a thread that only tidies up. The longest that Linux grants.
const ENDING_NS: u64 = 100_000_000;

/// A short slice for the thread that made it; when the last one is dropped there, the thread has what it had before.
#[derive(Debug)]
#[must_use = "dropped, it is undone"]
pub struct ServingSlice {
    /// It stays on its thread.
    _thread: PhantomData<*const ()>,
}

#[derive(Clone, Copy)]
struct Held {
    slices: u32,
    /// The thread's before the first of them; `None` when it could not be changed.
    before_ns: Option<u64>,
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held { slices: 0, before_ns: None }) };
}

impl ServingSlice {
    /// For the calling thread.
    pub fn begin() -> Self {
        let Held { slices, mut before_ns } = HELD.get();
        if slices == 0 {
            let before = system::own_slice_ns().and_then(|own_ns| system::set(SERVING_NS).map(|()| own_ns));
            match &before {
                Ok(own_ns) => {
                    log::debug!("beforeNs" = own_ns; "the thread has the scheduler's slice of one that serves")
                }
                Err(error) => log::debug!("the thread keeps its scheduler's slice: {error}"),
            }
            before_ns = before.ok();
        }
        HELD.set(Held { slices: slices + 1, before_ns });
        Self { _thread: PhantomData }
    }
}

impl Drop for ServingSlice {
    fn drop(&mut self) {
        let Held { slices, before_ns } = HELD.get();
        HELD.set(Held { slices: slices - 1, before_ns });
        if slices == 1
            && let Some(before_ns) = before_ns
        {
            _ = system::set(before_ns);
        }
    }
}

/// The calling thread serves no more and ends: what is left of its work (V8 takes its heap apart) is in nobody's way.
pub fn ending() {
    _ = system::set(ENDING_NS);
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;

    /// The slice that the calling thread asked for; 0 when it has the default.
    pub(super) fn own_slice_ns() -> io::Result<u64> {
        let own_ns = slice_ns()?;
        set(0)?;
        let default_ns = slice_ns()?;
        if own_ns == default_ns {
            return Ok(0);
        }
        set(own_ns)?;
        Ok(own_ns)
    }

    /// The slice of the calling thread.
    pub(super) fn slice_ns() -> io::Result<u64> {
        attributes().map(|attributes| attributes.sched_runtime)
    }

    /// Asks for one; 0 for the default.
    pub(super) fn set(slice_ns: u64) -> io::Result<()> {
        let mut attributes = attributes()?;
        attributes.sched_runtime = slice_ns;
        if attributes.sched_nice >= 0 {
            // Never taken back, which takes a privilege.
            attributes.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
        }
        // SAFETY: the kernel reads `attributes.size` bytes, as many as it wrote; 0 is the calling thread.
        check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
    }

    /// Those of the calling thread, when it may be asked and has a slice.
    fn attributes() -> io::Result<libc::sched_attr> {
        // A filter of system calls may end the process for a call instead of refusing it. It may come at any time, and for
        // some threads only. A slice is asked for a few times in a thread's life.
        if is_filtered() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // SAFETY: plain numbers, for which zero is a value.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>() as libc::c_uint;
        // SAFETY: the kernel writes at most `size` bytes, which the struct has; 0 is the calling thread.
        check(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
        // The real-time policies have no slice, or mean something else by it; older kernels have one for all.
        let has_slice =
            matches!(attributes.sched_policy.cast_signed(), libc::SCHED_OTHER | libc::SCHED_BATCH)
                && attributes.sched_runtime != 0;
        if has_slice { Ok(attributes) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// Whether system calls of the calling thread are filtered (seccomp(2)); to be careful, also when nobody says.
    fn is_filtered() -> bool {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim) != Some("0")
    }

    fn check(result: libc::c_long) -> io::Result<()> {
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Other systems have no such thing.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    pub(super) fn own_slice_ns() -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn set(_slice_ns: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::system::{set, slice_ns};
    use super::*;

    /// On a thread of its own; not where a thread has no slice, or must not ask (see the module).
    fn on_a_thread(test: impl FnOnce(u64) + Send + 'static) {
        std::thread::spawn(|| {
            if let Ok(default_ns) = slice_ns() {
                assert!(default_ns > SERVING_NS);
                test(default_ns);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_last_one_dropped_undoes_it_and_ending_stays() {
        on_a_thread(|default_ns| {
            let first = ServingSlice::begin();
            assert_eq!(slice_ns().unwrap(), SERVING_NS);
            let second = ServingSlice::begin();
            drop(first);
            assert_eq!(slice_ns().unwrap(), SERVING_NS);
            drop(second);
            assert_eq!(slice_ns().unwrap(), default_ns);
            ending();
            assert_eq!(slice_ns().unwrap(), ENDING_NS);
        });
    }

    #[test]
    fn a_slice_that_the_program_asked_for_is_there_again_afterwards() {
        on_a_thread(|_| {
            set(5_000_000).unwrap();
            drop(ServingSlice::begin());
            assert_eq!(slice_ns().unwrap(), 5_000_000);
        });
    }

    #[test]
    fn what_a_serving_thread_starts_has_the_default_again() {
        on_a_thread(|default_ns| {
            let _serving = ServingSlice::begin();
            let started = std::thread::spawn(|| slice_ns().unwrap()).join().unwrap();
            assert_eq!(started, default_ns);
        });
    }
}
