//! Child processes, as told by the JavaScript of the threads that start them; see `children.rs`.

use crate::children;
use napi::bindgen_prelude::*;
use napi::sys;
use napi_derive::napi;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

thread_local! {
    /// The end of this thread's environment is waited for.
    static HOOKED: Cell<bool> = const { Cell::new(false) };
}

/// Makes room for a child process that this thread is about to start; `childStarted` or `childNotStarted` follows. False when
/// there are too many in the process. What the thread leaves at its end is killed and reaped.
#[napi(catch_unwind)]
pub fn reserve_child(env: Env) -> Result<bool> {
    if !HOOKED.replace(true) {
        // SAFETY: the hook needs nothing, and runs once, on this thread.
        check_status!(unsafe {
            sys::napi_add_env_cleanup_hook(env.raw(), Some(environment_ends), ptr::null_mut())
        })?;
    }
    Ok(children::reserve())
}

/// It runs, under this number.
#[napi(catch_unwind)]
pub fn child_started(pid: i32) {
    children::started(pid);
}

/// It could not be started.
#[napi(catch_unwind)]
pub fn child_not_started() {
    children::not_started();
}

/// It has ended, and was reaped.
#[napi(catch_unwind)]
pub fn child_reaped(pid: i32) {
    children::reaped(pid);
}

/// Kills this thread's child processes, and has them reaped: nothing else of the thread will see to them any more. How many.
#[napi(catch_unwind)]
pub fn end_children() -> u32 {
    children::end_of_thread() as u32
}

/// How many child processes there may be. Only tests call it. Returns what it was.
#[napi(catch_unwind)]
pub fn limit_children(limit: u32) -> u32 {
    children::set_limit(limit as usize) as u32
}

// SAFETY: called by Node only, on the thread whose environment ends; the data is not looked at.
unsafe extern "C" fn environment_ends(_data: *mut c_void) {
    // A panic must not leave a C function.
    _ = std::panic::catch_unwind(children::end_of_thread);
}
