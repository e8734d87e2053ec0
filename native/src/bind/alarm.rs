//! The clock behind `callLater`, as its thread's JavaScript holds it; see `alarm.rs`.

use super::callbacks::Callbacks;
use super::javascript::{View, property, uv_loop};
use super::{SystemFailure, libuv};
use crate::alarm::{Alarm, Sleeper};
use crate::nested::Nested;
use napi::bindgen_prelude::*;
use napi_derive::napi;
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
    let (env, options) = (env.raw(), options.raw());
    let control = View::of(env, property(env, options, c"control")?)?;
    let uv = libuv()?;
    let callbacks = Callbacks::of(env, options, c"wake", &[&control])?;
    // SAFETY: the loop is this thread's; the callbacks keep the words, which users cannot reach, until the alarm is closed.
    let opened = unsafe { Alarm::new(uv, uv_loop(env)?, control.region(), callbacks.clone(), coarse) };
    Ok(match callbacks.opened(opened)? {
        Either::A(alarm) => Either::A(NativeAlarm { alarm }),
        Either::B(failure) => Either::B(failure),
    })
}

impl Sleeper for Callbacks {
    fn wake(&self) {
        _ = self.call();
    }
}
