//! The watch over descriptors behind `addReader`, as its thread's JavaScript holds it; see `watcher.rs`.

use super::SystemFailure;
use super::caller::{Caller, reference};
use super::javascript::{View, property, uv_loop};
use crate::uv;
use crate::watcher::{Watched, Watcher};
use napi::bindgen_prelude::*;
use napi::sys;
use napi_derive::napi;
use std::ffi::c_void;
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
    let uv = uv::uv().map_err(|error| Error::new(Status::GenericFailure, error))?;
    let (env, options) = (env.raw(), options.raw());
    let records = View::of(env, property(env, options, c"records")?)?;
    let (ready, closed) = (property(env, options, c"ready")?, property(env, options, c"closed")?);
    // SAFETY: a handle of this call's scope, an object.
    let caller = unsafe { Caller::new(env, options)? };
    let bindings = Rc::new(WatcherBindings {
        caller,
        ready: reference(env, ready)?,
        closed: reference(env, closed)?,
        records: reference(env, records.buffer)?,
    });
    // SAFETY: the loop is this thread's; the bindings keep the words, which users cannot reach, until the watcher is closed.
    let opened = unsafe { Watcher::new(uv, uv_loop(env)?, records.region(), bindings.clone()) };
    let watcher = match opened {
        Ok(watcher) => watcher,
        Err(error) => {
            bindings.dispose();
            return Ok(Either::B(error.into()));
        }
    };
    // SAFETY: the watcher lives until its handles are closed, which takes this back.
    let at_exit =
        unsafe { bindings.caller.at_exit(Some(on_env_ends), Rc::as_ptr(&watcher).cast_mut().cast()) };
    if let Err(error) = at_exit {
        watcher.close();
        return Err(error);
    }
    Ok(Either::A(NativeWatcher { watcher }))
}

/// What native code holds of a watcher's JavaScript. Used on the watcher's thread only.
struct WatcherBindings {
    caller: Caller,
    ready: sys::napi_ref,
    closed: sys::napi_ref,
    /// Keeps the words alive; never read.
    records: sys::napi_ref,
}

impl WatcherBindings {
    fn dispose(&self) {
        [self.ready, self.closed, self.records]
            .into_iter()
            .for_each(|reference| self.caller.release(reference));
        self.caller.dispose();
    }
}

impl Watched for WatcherBindings {
    fn ready(&self) {
        // Our function catches what callbacks throw. Should it throw itself, that is reported, as an uncaught exception.
        _ = self.caller.call(self.ready);
    }

    fn fatal(&self, message: &str) {
        self.caller.fatal(message);
    }

    fn environment_ends(&self) {
        self.caller.environment_ends();
    }

    fn closed(&self) {
        _ = self.caller.call(self.closed);
        self.dispose();
    }
}

unsafe extern "C" fn on_env_ends(_hook: sys::napi_async_cleanup_hook_handle, watcher: *mut c_void) {
    // SAFETY: `watcher` is valid until its handles are closed, and then the hook is gone (`Caller::at_exit`).
    let watcher = unsafe { &*watcher.cast::<Watcher>() };
    watcher.environment_ends();
}
