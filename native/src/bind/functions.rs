//! Plain Node-API functions, whose data is what they work on.
//!
//! A method of a napi-rs class looks its object up, checks the object's type and lends a typed array through a table with
//! references and locks: 1.2 µs a call on the machine of the README's figures.

use crate::error::panic_text;
use napi::bindgen_prelude::{Error, Result, Status, check_status};
use napi::sys;
use std::ffi::{CStr, CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;

/// What Node calls.
pub type Callback = unsafe extern "C" fn(sys::napi_env, sys::napi_callback_info) -> sys::napi_value;

/// An object with these functions, each with a reference to `data`. They may outlive whoever made them.
///
/// # Safety
/// The callbacks must take their data by [`arguments`], as this type; it is used on the thread of `env`.
pub unsafe fn object<T>(
    env: sys::napi_env,
    data: &Rc<T>,
    functions: &[(&CStr, Callback)],
) -> Result<sys::napi_value> {
    let mut object = ptr::null_mut();
    // SAFETY: a plain call.
    check_status!(unsafe { sys::napi_create_object(env, &mut object) })?;
    for &(name, callback) in functions {
        let function = function(env, data, name, callback)?;
        // SAFETY: handles of the current scope.
        check_status!(unsafe { sys::napi_set_named_property(env, object, name.as_ptr(), function) })?;
    }
    Ok(object)
}

fn function<T>(env: sys::napi_env, data: &Rc<T>, name: &CStr, callback: Callback) -> Result<sys::napi_value> {
    let length = name.count_bytes() as isize;
    let data = Rc::into_raw(data.clone()).cast_mut().cast::<c_void>();
    let (hint, reference) = (ptr::null_mut(), ptr::null_mut());
    let mut function = ptr::null_mut();
    // The data is a reference of the function's own; the finalizer gives it back when the function is collected or
    // the environment ends, once. (Should making it fail, which takes memory running out, the reference stays.)
    // SAFETY: handles of the current scope; the data outlives the function, and both stay on the thread.
    unsafe {
        check_status!(sys::napi_create_function(
            env,
            name.as_ptr(),
            length,
            Some(callback),
            data,
            &mut function
        ))?;
        check_status!(sys::napi_add_finalizer(env, function, data, Some(let_go::<T>), hint, reference))?;
    }
    Ok(function)
}

// SAFETY: Node calls it once for each function, on its thread, with the data that `function` gave it.
unsafe extern "C" fn let_go<T>(_env: sys::napi_env, data: *mut c_void, _hint: *mut c_void) {
    // SAFETY: made by `function`, given back once.
    drop(unsafe { Rc::from_raw(data.cast_const().cast::<T>()) });
}

/// The arguments of a call (undefined where there is none) and what it works on.
///
/// # Safety
/// `info` must be that of a call to a function that [`object`] made of this type; the result is not used after the call.
// SAFETY: every caller is such a function's callback, which Node calls on its thread and which ends before its function.
pub unsafe fn arguments<'a, T, const COUNT: usize>(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> ([sys::napi_value; COUNT], &'a T) {
    let mut values = [ptr::null_mut(); COUNT];
    let mut count = COUNT;
    let mut data = ptr::null_mut();
    // SAFETY: by the caller; the function that is being called holds its data.
    unsafe {
        sys::napi_get_cb_info(env, info, &mut count, values.as_mut_ptr(), ptr::null_mut(), &mut data);
        (values, &*data.cast_const().cast::<T>())
    }
}

/// An argument that is a number.
pub fn integer(env: sys::napi_env, value: sys::napi_value) -> Result<i32> {
    let mut integer = 0;
    // SAFETY: a handle of the current scope; what is no number is refused by status.
    check_status!(unsafe { sys::napi_get_value_int32(env, value, &mut integer) })?;
    Ok(integer)
}

/// A result that is a number.
pub fn number(env: sys::napi_env, number: i32) -> Result<sys::napi_value> {
    let mut result = ptr::null_mut();
    // SAFETY: a plain call.
    check_status!(unsafe { sys::napi_create_int32(env, number, &mut result) })?;
    Ok(result)
}

/// What a call returns; an error is thrown, and a panic was reported.
pub fn returned(env: sys::napi_env, result: Option<Result<sys::napi_value>>) -> sys::napi_value {
    match result {
        Some(Ok(value)) => value,
        Some(Err(error)) => {
            throw(env, &error);
            ptr::null_mut()
        }
        None => ptr::null_mut(),
    }
}

/// Runs the work of a call; a panic becomes its exception.
pub fn contained<T>(work: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
    Some(catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::new(Status::GenericFailure, format!("native code panicked: {}", panic_text(&*panic))))
    }))
}

/// Makes an error the exception of the call that is being made.
fn throw(env: sys::napi_env, error: &Error) {
    let text = CString::new(format!("{}: {}", error.status, error.reason)).unwrap_or_default();
    // SAFETY: a plain call; the text is copied.
    unsafe { sys::napi_throw_error(env, ptr::null(), text.as_ptr()) };
}
