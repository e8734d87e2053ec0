//! The JavaScript of what is nested in a thread's loop: the function that is called when there is something to do, the one
//! that is called when nothing native is left, and the end of the thread's environment.

use super::SystemFailure;
use super::caller::{Caller, reference};
use super::javascript::{View, property};
use crate::error::SystemError;
use crate::nested::{Drained, Environment, Nested};
use napi::bindgen_prelude::{Either, Result};
use napi::sys;
use std::ffi::{CStr, c_void};
use std::rc::Rc;

/// Used on its thread only.
pub struct Callbacks {
    caller: Caller,
    function: sys::napi_ref,
    closed: sys::napi_ref,
    /// Keep memory alive; never read.
    kept: Vec<sys::napi_ref>,
}

impl Callbacks {
    /// Refers to the functions, which are called on `this`, and to the memory of what is kept.
    ///
    /// # Safety
    /// The values must be handles of the current scope of `env`'s thread.
    pub unsafe fn new(
        env: sys::napi_env,
        this: sys::napi_value,
        function: sys::napi_value,
        closed: sys::napi_value,
        kept: &[&View],
    ) -> Result<Self> {
        Ok(Self {
            // SAFETY: by the caller.
            caller: unsafe { Caller::new(env, this)? },
            function: reference(env, function)?,
            closed: reference(env, closed)?,
            kept: kept.iter().map(|view| reference(env, view.buffer)).collect::<Result<_>>()?,
        })
    }

    /// The same with the functions of options: one of this name, and `closed`.
    pub fn of(
        env: sys::napi_env,
        options: sys::napi_value,
        function: &CStr,
        kept: &[&View],
    ) -> Result<Rc<Self>> {
        let (function, closed) = (property(env, options, function)?, property(env, options, c"closed")?);
        // SAFETY: handles of this call's scope.
        unsafe { Self::new(env, options, function, closed, kept) }.map(Rc::new)
    }

    /// Makes other calls into the same JavaScript.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Calls the function. Ours catches what others throw; should it throw itself, that is reported, as an uncaught exception.
    pub fn call(&self) -> Drained {
        self.caller.call(self.function)
    }

    /// Says that nothing native is left.
    pub fn tell_closed(&self) {
        self.caller.call(self.closed);
    }

    /// Gives all references back. Called once, last.
    pub fn dispose(&self) {
        let own = [self.function, self.closed];
        own.iter().chain(&self.kept).for_each(|&reference| self.caller.release(reference));
        self.caller.dispose();
    }

    /// Has what is nested closed when the environment ends (worker.terminate, process.exit): Node waits for it.
    ///
    /// # Safety
    /// `nested` must stay valid until [`Self::dispose`].
    pub unsafe fn close_at_exit<T: Nested>(&self, nested: *const T) -> Result<()> {
        // SAFETY: by the caller.
        unsafe { self.caller.at_exit(Some(on_env_ends::<T>), nested.cast_mut().cast()) }
    }

    /// What these are the callbacks of was opened, or could not be.
    pub fn opened<T: Nested>(
        &self,
        opened: std::result::Result<Rc<T>, SystemError>,
    ) -> Result<Either<Rc<T>, SystemFailure>> {
        let nested = match opened {
            Ok(nested) => nested,
            Err(error) => {
                self.dispose();
                return Ok(Either::B(error.into()));
            }
        };
        // SAFETY: its handles hold it until the last of them is closed, which calls `closed`, and so `dispose`.
        if let Err(error) = unsafe { self.close_at_exit(Rc::as_ptr(&nested)) } {
            nested.close();
            return Err(error);
        }
        Ok(Either::A(nested))
    }
}

impl Environment for Callbacks {
    fn fatal(&self, message: &str) {
        self.caller.fatal(message);
    }

    fn environment_ends(&self) {
        self.caller.environment_ends();
    }

    fn closed(&self) {
        self.tell_closed();
        self.dispose();
    }
}

unsafe extern "C" fn on_env_ends<T: Nested>(_hook: sys::napi_async_cleanup_hook_handle, nested: *mut c_void) {
    // SAFETY: it is valid until `dispose`, and then the hook is gone (`close_at_exit`).
    let nested = unsafe { &*nested.cast::<T>() };
    nested.environment_ends();
}
