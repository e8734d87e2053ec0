//! The clock behind `callLater`, as its thread's JavaScript holds it; see `alarm.rs`.

use super::SystemFailure;
use super::caller::{Caller, reference};
use super::javascript::{View, property, uv_loop};
use crate::alarm::{Alarm, Sleeper};
use crate::uv;
use napi::bindgen_prelude::*;
use napi::sys;
use napi_derive::napi;
use std::ffi::c_void;
use std::rc::Rc;

/// One alarm, nested in this thread's libuv loop.
#[napi]
pub struct NativeAlarm {
    alarm: Rc<Alarm>,
}

#[napi]
impl NativeAlarm {
    /// Keeps the loop alive, until its next turn finds that nothing is waited for.
    #[napi(catch_unwind)]
    pub fn reference(&self) {
        self.alarm.reference();
    }

    /// Closes everything; `closed` is called when it is done. Idempotent.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.alarm.close();
    }
}

/// Makes an alarm. `control` has its words (ALARM_), by which it is set; `wake` is called when the time has come, `closed` when
/// nothing native is left after `close`. `coarse` takes a clock of milliseconds where there is a better one, for tests.
#[napi(
    catch_unwind,
    ts_args_type = "options: { control: Float64Array, wake: () => void, closed: () => void, coarse: boolean }"
)]
pub fn open_alarm(env: Env, options: Object<'_>) -> Result<Either<NativeAlarm, SystemFailure>> {
    let coarse: bool = options.get_named_property("coarse")?;
    let uv = uv::uv().map_err(|error| Error::new(Status::GenericFailure, error))?;
    let (env, options) = (env.raw(), options.raw());
    let control = View::of(env, property(env, options, c"control")?)?;
    let (wake, closed) = (property(env, options, c"wake")?, property(env, options, c"closed")?);
    // SAFETY: a handle of this call's scope, an object.
    let caller = unsafe { Caller::new(env, options)? };
    let bindings = Rc::new(AlarmBindings {
        caller,
        wake: reference(env, wake)?,
        closed: reference(env, closed)?,
        control: reference(env, control.buffer)?,
    });
    // SAFETY: the loop is this thread's; the bindings keep the words, which users cannot reach, until the alarm is closed.
    let opened = unsafe { Alarm::new(uv, uv_loop(env)?, control.region(), bindings.clone(), coarse) };
    let alarm = match opened {
        Ok(alarm) => alarm,
        Err(error) => {
            bindings.dispose();
            return Ok(Either::B(error.into()));
        }
    };
    // SAFETY: the alarm lives until its handles are closed, which takes this back.
    let at_exit = unsafe { bindings.caller.at_exit(Some(on_env_ends), Rc::as_ptr(&alarm).cast_mut().cast()) };
    if let Err(error) = at_exit {
        alarm.close();
        return Err(error);
    }
    Ok(Either::A(NativeAlarm { alarm }))
}

/// What native code holds of an alarm's JavaScript. Used on the alarm's thread only.
struct AlarmBindings {
    caller: Caller,
    wake: sys::napi_ref,
    closed: sys::napi_ref,
    /// Keeps the words alive; never read.
    control: sys::napi_ref,
}

impl AlarmBindings {
    fn dispose(&self) {
        [self.wake, self.closed, self.control]
            .into_iter()
            .for_each(|reference| self.caller.release(reference));
        self.caller.dispose();
    }
}

impl Sleeper for AlarmBindings {
    fn wake(&self) {
        // Our function catches what callbacks throw. Should it throw itself, that is reported, as an uncaught exception.
        _ = self.caller.call(self.wake);
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

unsafe extern "C" fn on_env_ends(_hook: sys::napi_async_cleanup_hook_handle, alarm: *mut c_void) {
    // SAFETY: `alarm` is valid until its handles are closed, and then the hook is gone (`Caller::at_exit`).
    let alarm = unsafe { &*alarm.cast::<Alarm>() };
    alarm.environment_ends();
}
