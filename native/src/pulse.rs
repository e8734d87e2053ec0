//! How long a shard's thread has been running JavaScript (or anything else) without a look at its poll, told to other
//! threads at the cost of one store per turn of the shard's loop.
//!
//! libuv counts the time that a loop spends in its poll, up to this moment, for any thread that asks
//! (`uv_metrics_idle_time`). Just before each poll the shard stores how much of its life it did not spend there; what
//! has passed since, less the poll, is how long it has been running.

use crate::uv::{self, Uv};
use parking_lot::Mutex;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The coarsest step of a monotonic clock that we know of is 42 ns (Apple silicon).
const CLOCK_STEP_NS: u64 = 200;

/// The pulse of one shard.
#[derive(Debug, Default)]
pub struct Pulse {
    /// libuv's clock at the last poll, less the time that the loop had spent in polls by then. One word, so that a
    /// reader never sees halves of two turns.
    busy_base_ns: AtomicU64,
    /// The loop to ask; none before the shard has one, and after its end.
    watched: Mutex<Option<Watched>>,
}

#[derive(Debug)]
struct Watched {
    uv: &'static Uv,
    uv_loop: NonNull<uv::Loop>,
}

// SAFETY: the loop is only asked for its idle time and its descriptor, which libuv allows from any thread, and only
// under the lock that `close` takes on the shard's thread before the loop goes.
unsafe impl Send for Watched {}

impl Pulse {
    /// Begins.
    ///
    /// # Safety
    /// `uv_loop` is the calling thread's, and lives until [`Self::close`].
    pub unsafe fn open(&self, uv: &'static Uv, uv_loop: NonNull<uv::Loop>) {
        // SAFETY: this thread's loop; a plain question.
        let idle_ns = unsafe { (uv.metrics_idle_time)(uv_loop.as_ptr()) };
        self.turned(uv.now_ns(), idle_ns);
        *self.watched.lock() = Some(Watched { uv, uv_loop });
    }

    /// The loop is about to poll. Called by the shard's thread.
    #[inline]
    pub fn turned(&self, now_ns: u64, idle_ns: u64) {
        self.busy_base_ns.store(now_ns.saturating_sub(idle_ns), Ordering::Relaxed);
    }

    /// The loop goes. Called by the shard's thread; afterwards nobody asks it any more.
    pub fn close(&self) {
        *self.watched.lock() = None;
    }

    /// How long the shard has been running; `None` while it waits in its poll, and when it has no loop. Too long during
    /// the turn after a poll that a signal interrupted (as a debugger does), since libuv then forgets what went before.
    pub fn running_for(&self) -> Option<Duration> {
        let watched = self.watched.lock();
        let Watched { uv, uv_loop } = watched.as_ref()?;
        let base_ns = self.busy_base_ns.load(Ordering::Relaxed);
        // SAFETY: the loop is alive, as we hold the lock; libuv documents the call as thread-safe.
        let idle_ns = || unsafe { (uv.metrics_idle_time)(uv_loop.as_ptr()) };
        let (before, asked_at) = (idle_ns(), uv.now_ns());
        while uv.now_ns() < asked_at + CLOCK_STEP_NS {
            std::hint::spin_loop();
        }
        let now = idle_ns();
        // In a poll that number is a clock.
        (now == before).then(|| Duration::from_nanos(uv.now_ns().saturating_sub(base_ns.saturating_add(now))))
    }

    /// Hands the descriptor of the loop's own poll to `look`: it is readable when the loop has something to do.
    pub fn with_poll<T>(&self, look: impl FnOnce(std::os::fd::RawFd) -> T) -> Option<T> {
        let watched = self.watched.lock();
        let Watched { uv, uv_loop } = watched.as_ref()?;
        // SAFETY: as above; the descriptor does not change during the loop's life.
        let fd = unsafe { (uv.backend_fd)(uv_loop.as_ptr()) };
        (fd >= 0).then(|| look(fd))
    }
}
