//! Calls from native code into JavaScript, made from libuv's callbacks, until the environment ends.

use crate::nested::Drained;
use napi::bindgen_prelude::{Result, check_status};
use napi::sys;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

/// Calls functions of ours in Node's callback scope, in an async context of its own. Used on its thread only.
pub struct Caller {
    env: sys::napi_env,
    context: sys::napi_async_context,
    this: sys::napi_ref,
    hook: Cell<sys::napi_async_cleanup_hook_handle>,
    env_ends: Cell<bool>,
}

impl Caller {
    /// `this` is what the functions are called on.
    ///
    /// # Safety
    /// `this` must be a handle of the current scope of `env`'s thread, an object.
    pub unsafe fn new(env: sys::napi_env, this: sys::napi_value) -> Result<Self> {
        let mut name = ptr::null_mut();
        let mut context = ptr::null_mut();
        let text = "SHARDLOOP";
        // SAFETY: plain calls with handles of the current scope.
        unsafe {
            check_status!(sys::napi_create_string_utf8(
                env,
                text.as_ptr().cast(),
                text.len() as isize,
                &mut name
            ))?;
            check_status!(sys::napi_async_init(env, this, name, &mut context))?;
        }
        let this = reference(env, this)?;
        Ok(Self { env, context, this, hook: Cell::new(ptr::null_mut()), env_ends: Cell::new(false) })
    }

    /// The thread's environment.
    pub fn env(&self) -> sys::napi_env {
        self.env
    }

    /// Has `callback` called with `data` when the environment ends (worker.terminate, process.exit). Node waits then until
    /// [`Self::dispose`] was called.
    ///
    /// # Safety
    /// `data` must stay valid for `callback` until [`Self::dispose`], which takes this back.
    pub unsafe fn at_exit(&self, callback: sys::napi_async_cleanup_hook, data: *mut c_void) -> Result<()> {
        let mut hook = ptr::null_mut();
        // SAFETY: by the caller.
        check_status!(unsafe { sys::napi_add_async_cleanup_hook(self.env, callback, data, &mut hook) })?;
        self.hook.set(hook);
        Ok(())
    }

    /// JavaScript must not be called any more.
    pub fn environment_ends(&self) {
        self.env_ends.set(true);
    }

    /// Calls a function of ours inside Node's callback scope: next ticks and microtasks run when it returns.
    pub fn call(&self, function: sys::napi_ref) -> Drained {
        if self.env_ends.get() {
            return Drained::Unable;
        }
        let _scope = Scope::open(self.env);
        let mut result = ptr::null_mut();
        // SAFETY: all values are alive in this scope.
        let status = unsafe {
            let (this, function) = (self.value(self.this), self.value(function));
            sys::napi_make_callback(self.env, self.context, this, function, 0, ptr::null(), &mut result)
        };
        if status == sys::Status::napi_ok {
            return Drained::All;
        }
        let mut pending = false;
        let mut exception = ptr::null_mut();
        // SAFETY: plain calls; the exception, when there is one, is a handle of this scope.
        unsafe {
            sys::napi_is_exception_pending(self.env, &mut pending);
            if !pending {
                return Drained::Unable;
            }
            sys::napi_get_and_clear_last_exception(self.env, &mut exception);
            sys::napi_fatal_exception(self.env, exception);
        }
        Drained::Threw
    }

    /// Ends the thread with this error, as an uncaught exception.
    pub fn fatal(&self, message: &str) {
        if self.env_ends.get() {
            return;
        }
        let _scope = Scope::open(self.env);
        let mut text = ptr::null_mut();
        let mut error = ptr::null_mut();
        // SAFETY: plain calls with handles of this scope.
        unsafe {
            sys::napi_create_string_utf8(
                self.env,
                message.as_ptr().cast(),
                message.len() as isize,
                &mut text,
            );
            sys::napi_create_error(self.env, ptr::null_mut(), text, &mut error);
            sys::napi_fatal_exception(self.env, error);
        }
    }

    /// The value of a reference, as a handle of the caller's scope.
    pub fn value(&self, reference: sys::napi_ref) -> sys::napi_value {
        let mut value = ptr::null_mut();
        // SAFETY: a reference of ours; the handle belongs to the caller's scope.
        unsafe { sys::napi_get_reference_value(self.env, reference, &mut value) };
        value
    }

    /// Gives a reference back.
    pub fn release(&self, reference: sys::napi_ref) {
        if !self.env_ends.get() {
            // SAFETY: created by `reference`, deleted once. At the end of an environment Node frees them itself.
            unsafe { sys::napi_delete_reference(self.env, reference) };
        }
    }

    /// Nothing is called any more, and an environment that ends need not wait. Called once, last.
    pub fn dispose(&self) {
        self.release(self.this);
        if !self.env_ends.get() {
            // SAFETY: made in `new`, destroyed once, by the caller. At the end of an environment Node frees it itself.
            unsafe { sys::napi_async_destroy(self.env, self.context) };
        }
        let hook = self.hook.replace(ptr::null_mut());
        if !hook.is_null() {
            // SAFETY: ours, removed once. Node waits for this when the environment ends.
            unsafe { sys::napi_remove_async_cleanup_hook(hook) };
        }
    }
}

/// A handle scope for the length of a block.
pub struct Scope {
    env: sys::napi_env,
    scope: sys::napi_handle_scope,
}

impl Scope {
    /// On the thread of `env`.
    pub fn open(env: sys::napi_env) -> Self {
        let mut scope = ptr::null_mut();
        // SAFETY: `env` is alive on this thread; a null scope (out of memory) is not closed.
        unsafe { sys::napi_open_handle_scope(env, &mut scope) };
        Self { env, scope }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if !self.scope.is_null() {
            // SAFETY: opened by `open`, closed once, in reverse order (scopes are locals).
            unsafe { sys::napi_close_handle_scope(self.env, self.scope) };
        }
    }
}

/// A strong reference to a value.
pub fn reference(env: sys::napi_env, value: sys::napi_value) -> Result<sys::napi_ref> {
    let mut reference = ptr::null_mut();
    // SAFETY: `value` is a handle of the current scope, an object.
    check_status!(unsafe { sys::napi_create_reference(env, value, 1, &mut reference) })?;
    Ok(reference)
}
