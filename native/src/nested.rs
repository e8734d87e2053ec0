//! What is nested in a thread's libuv loop (a shard's host, an alarm, a mailbox, a watcher): whose its handles are, what a
//! panic in one of their callbacks does, and how it ends.
//!
//! Each handle has a reference to its owner in its data pointer, which it gives back when libuv has closed it. So an owner
//! lives until the last of its handles is closed, and a callback finds it alive.
//!
//! Everything here runs on the thread of the loop.

use crate::error::panic_text;
use crate::uv::{RawHandle, Uv};
use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::rc::Rc;

/// How a call into JavaScript ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All records were handled.
    All,
    /// It threw (which our own code does not do), after handling some.
    Threw,
    /// JavaScript cannot run (any more): the thread is being terminated.
    Unable,
}

/// What all that is nested in a loop needs of the thread's JavaScript.
pub trait Environment {
    /// Ends the thread with this error, as an uncaught exception.
    fn fatal(&self, message: &str);
    /// The thread's environment ends: JavaScript must not be called any more.
    fn environment_ends(&self);
    /// All handles are closed; nothing native is left of what was nested.
    fn closed(&self);
}

/// An owner of handles.
pub trait Nested: 'static {
    /// What it is, for messages.
    const NAME: &'static str;

    /// The thread's JavaScript.
    fn environment(&self) -> &dyn Environment;

    /// How many of its handles are not closed yet; [`own`] and [`close`] count them.
    fn open_handles(&self) -> &Cell<u32>;

    /// Closes all that it has. Idempotent.
    fn close(&self);

    /// The thread ends (`worker.terminate`, `process.exit`): as [`Self::close`], and JavaScript is not called again.
    fn environment_ends(&self) {
        self.close();
        self.environment().environment_ends();
    }

    /// A callback panicked with this text. It ends the owner and the thread, not the process.
    fn panicked(&self, text: &str) {
        self.close();
        self.environment().fatal(&format!("the native {} panicked: {text}", Self::NAME));
    }

    /// The last of its handles is closed.
    fn all_closed(&self) {
        self.environment().closed();
    }
}

/// Gives a handle to its owner.
///
/// # Safety
/// `handle` must be new, from [`Uv::handle`] or [`Uv::poll`], and closed by [`close`] with the same type of owner.
pub unsafe fn own<T: Nested>(owner: &Rc<T>, handle: NonNull<RawHandle>) {
    let data: *const T = Rc::into_raw(owner.clone());
    // SAFETY: the handle is initialised and nobody's (by the caller); `data` is the first field of every handle.
    unsafe { handle.cast::<*mut c_void>().write(data.cast_mut().cast()) };
    owner.open_handles().set(owner.open_handles().get() + 1);
}

/// Runs the work of a callback of libuv's on the owner, which is held meanwhile; a panic ends it.
///
/// # Safety
/// `handle` must be one of a `T`'s own, given to a callback by libuv.
#[inline]
pub unsafe fn called<T: Nested>(handle: *mut RawHandle, work: impl FnOnce(&Rc<T>)) {
    // SAFETY: the data pointer is the handle's own reference (`own`), and libuv calls nothing of a handle whose close callback
    // has run; counting another one up keeps it the handle's.
    let owner = unsafe {
        let owner: *const T = data(handle);
        Rc::increment_strong_count(owner);
        Rc::from_raw(owner)
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&owner))) {
        owner.panicked(panic_text(&*panic));
    }
}

/// Closes a handle. libuv lets go of what it polls at once, and of the handle in a later turn; then its memory is freed.
///
/// # Safety
/// `handle` must be one of a `T`'s own, on the loop of the calling thread, and closed here only, once.
pub unsafe fn close<T: Nested>(uv: &Uv, handle: NonNull<RawHandle>) {
    // SAFETY: by the caller.
    unsafe { (uv.close)(handle.as_ptr(), Some(on_closed::<T>)) };
}

unsafe extern "C" fn on_closed<T: Nested>(handle: *mut RawHandle) {
    // SAFETY: libuv calls with a handle of a `T`'s own (`close`), which it does not touch afterwards: its memory is ours again, and
    // the reference that it had.
    let owner: Rc<T> = unsafe {
        let owner = Rc::from_raw(data(handle));
        libc::free(handle);
        owner
    };
    let left = owner.open_handles().get() - 1;
    owner.open_handles().set(left);
    if left == 0 {
        // Whatever panics here, the rest is done.
        _ = catch_unwind(AssertUnwindSafe(|| owner.all_closed()));
    }
}

/// The data pointer of a handle.
///
/// # Safety
/// `handle` must be one of a `T`'s own, not freed.
// SAFETY: every caller is a callback of the handle.
unsafe fn data<T>(handle: *mut RawHandle) -> *const T {
    // SAFETY: by the caller; `data` is the first field of every handle.
    unsafe { (*handle.cast::<*mut c_void>()).cast_const().cast() }
}
