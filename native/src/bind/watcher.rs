//! The watch over descriptors behind `addReader`, as its thread's JavaScript holds it; see `watcher.rs`.

use super::callbacks::Callbacks;
use super::javascript::{View, property, uv_loop};
use super::{SystemFailure, libuv};
use crate::nested::Nested;
use crate::watcher::{Watched, Watcher};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use std::rc::Rc;

/// One watcher, nested in this thread's libuv loop.
#[napi]
pub struct NativeWatcher {
    watcher: Rc<Watcher>,
}

#[napi]
impl NativeWatcher {
    /// Begins to watch a descriptor, or changes what for (WATCH_ bits, not 0). `id` names the watch in what is told of it; `owned`:
    /// `unwatch` is called before it is closed. False when the number had been watched and was closed since: what was
    /// watched under it is no more.
    #[napi(catch_unwind)]
    pub fn watch(&self, fd: i32, id: i32, interest: i32, owned: bool) -> Either<bool, SystemFailure> {
        match self.watcher.watch(fd, id, interest, owned) {
            Ok(is_same) => Either::A(is_same),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Ends the watch of a descriptor.
    #[napi(catch_unwind)]
    pub fn unwatch(&self, fd: i32) {
        self.watcher.unwatch(fd);
    }

    /// Whether it keeps the loop alive; from the start it does not.
    #[napi(catch_unwind)]
    pub fn keep_alive(&self, alive: bool) {
        self.watcher.keep_alive(alive);
    }

    /// Closes everything; `closed` is called when it is done. Idempotent.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.watcher.close();
    }
}

/// Makes a watcher. Before `ready` is called `records` is filled: how many there are, then of each the descriptor, the name of the
/// watch, and WATCH_ bits. `closed` is called when nothing native is left after `close`.
#[napi(
    catch_unwind,
    ts_args_type = "options: { records: Int32Array, ready: () => void, closed: () => void }"
)]
pub fn open_watcher(env: Env, options: Object<'_>) -> Result<Either<NativeWatcher, SystemFailure>> {
    let (env, options) = (env.raw(), options.raw());
    let records = View::of(env, property(env, options, c"records")?)?;
    let uv = libuv()?;
    let callbacks = Callbacks::of(env, options, c"ready", &[&records])?;
    // SAFETY: the loop is this thread's; the callbacks keep the words, which users cannot reach, until the watcher is closed.
    let opened = unsafe { Watcher::new(uv, uv_loop(env)?, records.region(), callbacks.clone()) };
    Ok(match callbacks.opened(opened)? {
        Either::A(watcher) => Either::A(NativeWatcher { watcher }),
        Either::B(failure) => Either::B(failure),
    })
}

impl Watched for Callbacks {
    fn ready(&self) {
        _ = self.call();
    }
}
