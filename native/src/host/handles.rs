//! The handles by which a host is nested in libuv, and what they are set to.

use super::Host;
use crate::guardian;
use crate::nested;
use crate::uv::{self, RawHandle, SimpleHandle, Uv};
use std::cell::Cell;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Instant;

pub(super) struct Handles {
    uv: &'static Uv,
    uv_loop: NonNull<uv::Loop>,
    poll: NonNull<RawHandle>,
    prepare: NonNull<RawHandle>,
    check: NonNull<RawHandle>,
    idle: NonNull<RawHandle>,
    timer: NonNull<RawHandle>,
    idle_armed: Cell<bool>,
    referenced: Cell<bool>,
    timer_at: Cell<Option<Instant>>,
}

impl Handles {
    /// Handles that do nothing yet.
    ///
    /// # Safety
    /// `uv_loop` must be the loop of the calling thread, and outlive the handles (libuv waits for them). What is pollable must
    /// stay open until they are closed.
    pub(super) unsafe fn open(
        uv: &'static Uv,
        uv_loop: NonNull<uv::Loop>,
        pollable: RawFd,
    ) -> Result<Self, String> {
        // SAFETY: by the caller; `start` gives them to the host. Only the poll can fail, while there is none of the others.
        unsafe {
            let poll = uv.poll(uv_loop, pollable).map_err(|error| uv.describe("uv_poll_init", &error))?;
            Ok(Self {
                uv,
                uv_loop,
                poll,
                prepare: uv.handle(SimpleHandle::Prepare, uv_loop),
                check: uv.handle(SimpleHandle::Check, uv_loop),
                idle: uv.handle(SimpleHandle::Idle, uv_loop),
                timer: uv.handle(SimpleHandle::Timer, uv_loop),
                idle_armed: Cell::new(false),
                referenced: Cell::new(false),
                timer_at: Cell::new(None),
            })
        }
    }

    /// From now on libuv calls the host, whose handles these are. They do not keep the loop alive: an empty shard does not.
    ///
    /// # Safety
    /// Called once, with handles that are new.
    pub(super) unsafe fn start(&self, host: &Rc<Host>, supervised: bool) {
        // SAFETY: by the caller; the callbacks have the signatures that libuv calls.
        unsafe {
            self.each(|handle| nested::own(host, handle));
            (self.uv.poll_start)(self.poll.as_ptr(), uv::READABLE, on_poll);
            (self.uv.prepare_start)(self.prepare.as_ptr(), on_prepare);
            if supervised {
                (self.uv.check_start)(self.check.as_ptr(), on_check);
            }
            self.each(|handle| self.uv.keep_alive(handle, false));
        }
    }

    /// Brings them in line with what the engine waits for: whether it has a backlog, whether it keeps the loop alive, and when
    /// time alone makes something to do.
    ///
    /// # Safety
    /// They must be started and not closed, on this thread's loop.
    pub(super) unsafe fn align(&self, backlog: bool, alive: bool, next_wake: Option<Instant>) {
        // SAFETY: by the caller.
        unsafe {
            if backlog != self.idle_armed.replace(backlog) {
                if backlog {
                    (self.uv.idle_start)(self.idle.as_ptr(), on_idle);
                } else {
                    (self.uv.idle_stop)(self.idle.as_ptr());
                }
            }
            if alive != self.referenced.replace(alive) {
                for handle in [self.poll, self.idle] {
                    self.uv.keep_alive(handle, alive);
                }
            }
            if next_wake != self.timer_at.replace(next_wake) {
                match next_wake {
                    Some(at) => {
                        // Rounded up, so that it is due when libuv calls.
                        let wait = at.saturating_duration_since(Instant::now()).as_millis() as u64 + 1;
                        (self.uv.update_time)(self.uv_loop.as_ptr());
                        (self.uv.timer_start)(self.timer.as_ptr(), on_timer, wait, 0);
                    }
                    None => {
                        (self.uv.timer_stop)(self.timer.as_ptr());
                    }
                }
            }
        }
    }

    /// Closes them; `all_closed` of the host follows in a later turn.
    ///
    /// # Safety
    /// They must be started; called once.
    pub(super) unsafe fn close(&self) {
        // SAFETY: by the caller.
        self.each(|handle| unsafe { nested::close::<Host>(self.uv, handle) });
    }

    /// Whether libuv would wait now: it has nothing to do at once.
    pub(super) fn libuv_waits(&self) -> bool {
        // SAFETY: this thread's loop, which runs; a plain question.
        unsafe { (self.uv.backend_timeout)(self.uv_loop.as_ptr()) != 0 }
    }

    /// The time, and for how long the loop has waited in all by then.
    pub(super) fn turn(&self) -> Turn {
        // SAFETY: this thread's loop; a plain question.
        let idle_ns = unsafe { (self.uv.metrics_idle_time)(self.uv_loop.as_ptr()) };
        Turn { prepared_at_ns: self.uv.now_ns(), idle_ns }
    }

    fn each(&self, work: impl FnMut(NonNull<RawHandle>)) {
        [self.poll, self.prepare, self.check, self.idle, self.timer].into_iter().for_each(work);
    }
}

/// When the last turn of libuv's loop began to wait, and how long it had waited in all by then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) prepared_at_ns: u64,
    pub(super) idle_ns: u64,
}

unsafe extern "C" fn on_poll(handle: *mut RawHandle, _status: i32, _events: i32) {
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called::<Host>(handle, |host| host.wake()) };
}

unsafe extern "C" fn on_idle(handle: *mut RawHandle) {
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called::<Host>(handle, |host| host.wake()) };
}

unsafe extern "C" fn on_timer(handle: *mut RawHandle) {
    let ring = |host: &Rc<Host>| {
        host.handles.timer_at.set(None);
        host.wake();
    };
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called(handle, ring) };
}

unsafe extern "C" fn on_prepare(handle: *mut RawHandle) {
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called::<Host>(handle, |host| host.prepare()) };
}

/// The loop has left its poll.
// SAFETY: it has libuv's signature, and touches no handle.
unsafe extern "C" fn on_check(_handle: *mut RawHandle) {
    guardian::wake_if_asleep();
}
