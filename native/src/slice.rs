//! How long the scheduler lets others finish before a thread that serves connections runs.
//!
//! A thread that is woken by a connection has little to do, and somebody waits for it. Beside it run threads that compute:
//! a shard that starts, V8's helpers, an executor. Linux lets them finish their slice first, 3 ms and more at the default
//! settings, and with 250 ticks a second 4 ms. Asking for a shorter slice (sched_setattr(2), `sched_runtime` of
//! SCHED_OTHER; Linux 6.12 and later) brings the woken thread in at once. Its share of the processor stays the same, it
//! comes in smaller pieces. No privilege is needed. Older kernels, and those that refuse, leave all as it was.

use std::io;
use std::marker::PhantomData;

/// For a thread that serves. The shortest that Linux grants.
const SERVING_NS: u64 = 100_000;
/// For a thread that only tidies up. The longest that Linux grants.
const ENDING_NS: u64 = 100_000_000;

/// A short slice for the thread that made it; dropped there, the thread has what it had before.
#[derive(Debug)]
#[must_use = "dropped, it is undone"]
pub struct ServingSlice {
    before_ns: Option<u64>,
    /// It stays on its thread.
    _thread: PhantomData<*const ()>,
}

impl ServingSlice {
    /// For the calling thread, and for those that it starts from now on.
    pub fn begin() -> Self {
        Self { before_ns: replace(SERVING_NS).ok(), _thread: PhantomData }
    }
}

impl Drop for ServingSlice {
    fn drop(&mut self) {
        if let Some(before_ns) = self.before_ns {
            _ = replace(before_ns);
        }
    }
}

/// The calling thread serves no more and ends: what is left of its work (V8 takes its heap apart) is in nobody's way.
pub fn ending() {
    _ = replace(ENDING_NS);
}

/// Sets the calling thread's slice. What it was; 0 for the default of a kernel that knows no other.
#[cfg(target_os = "linux")]
fn replace(slice_ns: u64) -> io::Result<u64> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: the kernel writes at most `size` bytes, which the struct has; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    // The real-time policies have no slice, or mean something else by it.
    if !matches!(attributes.sched_policy.cast_signed(), libc::SCHED_OTHER | libc::SCHED_BATCH) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let before_ns = std::mem::replace(&mut attributes.sched_runtime, slice_ns);
    // SAFETY: as above; the kernel reads `attributes.size` bytes. All but the slice stays what it was told to be.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })?;
    Ok(before_ns)
}

/// Other systems have no such thing.
#[cfg(not(target_os = "linux"))]
fn replace(_slice_ns: u64) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// The slice of the calling thread, as the kernel tells it. Looking sets what is there.
    fn slice_ns() -> u64 {
        let slice_ns = replace(SERVING_NS).unwrap();
        replace(slice_ns).unwrap();
        slice_ns
    }

    #[test]
    fn serving_is_undone_by_drop_and_ending_is_not() {
        std::thread::spawn(|| {
            let before_ns = slice_ns();
            if before_ns == 0 {
                return; // a kernel before 6.12
            }
            assert!(before_ns > SERVING_NS);
            let serving = ServingSlice::begin();
            assert_eq!(slice_ns(), SERVING_NS);
            drop(serving);
            assert_eq!(slice_ns(), before_ns);
            ending();
            assert_eq!(slice_ns(), ENDING_NS);
        })
        .join()
        .unwrap();
    }
}
