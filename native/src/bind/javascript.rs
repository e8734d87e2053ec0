//! The host's view of JavaScript, by raw Node-API: these calls are on the path of every batch.

use super::callbacks::Callbacks;
use super::caller::{Caller, Scope, reference};
use crate::host::{Host, JavaScript};
use crate::nested::{Drained, Environment};
use crate::ring::{Attached, Region, SLABS};
use crate::write_queue::{Pin, PinnedMemory};
use napi::bindgen_prelude::{Error, Result, Status, check_status};
use napi::sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;

/// A typed array's place in memory.
pub struct View {
    base: *mut u8,
    bytes: usize,
    /// The ArrayBuffer, a handle of the scope in which it was looked up.
    pub buffer: sys::napi_value,
}

impl View {
    /// Looks a typed array up.
    pub fn of(env: sys::napi_env, value: sys::napi_value) -> Result<Self> {
        let mut kind = 0;
        let mut length = 0;
        let mut base: *mut c_void = ptr::null_mut();
        let mut buffer = ptr::null_mut();
        // SAFETY: `value` is a handle of the current scope; the out parameters are valid. Anything that is not a typed
        // array is refused by status.
        check_status!(unsafe {
            sys::napi_get_typedarray_info(
                env,
                value,
                &mut kind,
                &mut length,
                &mut base,
                &mut buffer,
                ptr::null_mut(),
            )
        })?;
        let width = match kind {
            sys::TypedarrayType::int32_array => 4,
            sys::TypedarrayType::float64_array => 8,
            _ => 1,
        };
        Ok(Self { base: base.cast(), bytes: length * width, buffer })
    }

    /// Its bytes, for as long as JavaScript does not run: it could detach them.
    ///
    /// # Safety
    /// The view must be of a value of this call into native code, from which JavaScript is not called while the slice
    /// is used.
    pub unsafe fn bytes(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[]; // an empty array has no address
        }
        // SAFETY: by the caller, the memory that the array had when it was looked up is there. If it is shared with
        // another thread that writes to it meanwhile, what is sent is what that thread made of it: the bytes are only
        // handed to the kernel or copied.
        unsafe { std::slice::from_raw_parts(self.base, self.bytes) }
    }

    /// Its bytes, to be written.
    ///
    /// # Safety
    /// As [`Self::bytes`], and nothing else refers to them meanwhile.
    pub unsafe fn room<'a>(&self) -> &'a mut [MaybeUninit<u8>] {
        if self.bytes == 0 {
            return &mut []; // an empty array has no address
        }
        // SAFETY: as in `bytes`; nobody else refers to them, by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.base.cast(), self.bytes) }
    }

    /// Its elements.
    ///
    /// # Safety
    /// The caller keeps the ArrayBuffer referenced for as long as the region is used, uses it on this thread only, and
    /// knows of its detachment. `T` is the array's element type.
    pub unsafe fn region<T>(&self) -> Region<T> {
        // SAFETY: by the caller.
        unsafe { Region::new(self.base.cast(), self.bytes / size_of::<T>()) }
    }
}

/// What native code holds of one shard's JavaScript. Used on the shard's thread only.
pub struct Bindings {
    /// `drain` and `closed`; they keep the rings and the write slab.
    callbacks: Callbacks,
    slabs: RefCell<[sys::napi_ref; SLABS]>,
    /// Weak references to chunk slabs that were replaced and may still be kept by a chunk.
    retired: RefCell<Vec<sys::napi_ref>>,
    pins: RefCell<HashMap<Pin, sys::napi_ref>>,
    next_pin: Cell<Pin>,
}

impl Bindings {
    /// Refers to everything that the shard needs of JavaScript.
    ///
    /// # Safety
    /// The values must be handles of the current scope of `env`'s thread.
    pub unsafe fn new(
        env: sys::napi_env,
        this: sys::napi_value,
        drain: sys::napi_value,
        closed: sys::napi_value,
        kept: &[&View],
        slabs: &[View],
    ) -> Result<Self> {
        let mut slab_references = [ptr::null_mut(); SLABS];
        for (place, view) in slab_references.iter_mut().zip(slabs) {
            *place = reference(env, view.buffer)?;
        }
        Ok(Self {
            // SAFETY: by the caller.
            callbacks: unsafe { Callbacks::new(env, this, drain, closed, kept)? },
            slabs: RefCell::new(slab_references),
            retired: RefCell::default(),
            pins: RefCell::default(),
            next_pin: Cell::new(0),
        })
    }

    /// Has `host` closed when the environment ends (worker.terminate, process.exit): Node waits for it.
    ///
    /// # Safety
    /// `host` must stay valid until [`Environment::closed`], which removes the hook.
    pub unsafe fn close_at_exit(&self, host: *const Host) -> Result<()> {
        // SAFETY: by the caller.
        unsafe { self.callbacks.close_at_exit(host) }
    }

    fn caller(&self) -> &Caller {
        self.callbacks.caller()
    }

    /// Refers to memory for a write.
    pub fn pin(&self, value: sys::napi_value) -> Result<(Pin, usize)> {
        let view = View::of(self.caller().env(), value)?;
        let mut pins = self.pins.borrow_mut();
        let mut pin = self.next_pin.get();
        while pins.contains_key(&pin) {
            pin = pin.wrapping_add(1); // after four billion, one of the first may still wait
        }
        self.next_pin.set(pin.wrapping_add(1));
        pins.insert(pin, reference(self.caller().env(), value)?);
        Ok((pin, view.bytes))
    }

    /// Refers to another slab in the place of one, which is followed until it is collected. How many are followed.
    pub fn replace_slab(&self, index: usize, view: &View) -> Result<usize> {
        let new = reference(self.caller().env(), view.buffer)?;
        let old = std::mem::replace(&mut self.slabs.borrow_mut()[index], new);
        // Weak from now on. Not a WeakRef of JavaScript's: V8's scavenger takes those for strong, and every slab would
        // live until the next full collection, by which time its memory is cold.
        // SAFETY: a reference of ours with a count of one.
        check_status!(unsafe { sys::napi_reference_unref(self.caller().env(), old, std::ptr::null_mut()) })?;
        let mut retired = self.retired.borrow_mut();
        retired.push(old);
        Ok(retired.len())
    }

    /// How many replaced slabs may still be kept by a chunk. Exact when more than `limit`: only then it looks.
    pub fn retained_slabs(&self, limit: usize) -> usize {
        let mut retired = self.retired.borrow_mut();
        if retired.len() > limit {
            let _scope = Scope::open(self.caller().env());
            retired.retain(|&reference| {
                let alive = !self.caller().value(reference).is_null();
                if !alive {
                    self.caller().release(reference);
                }
                alive
            });
        }
        retired.len()
    }
}

impl Attached for Bindings {
    #[inline]
    fn is_attached(&self, index: usize) -> bool {
        let _scope = Scope::open(self.caller().env());
        let mut detached = true;
        // SAFETY: the reference is to an ArrayBuffer; the handle lives in this scope.
        unsafe {
            let buffer = self.caller().value(self.slabs.borrow()[index]);
            sys::napi_is_detached_arraybuffer(self.caller().env(), buffer, &mut detached);
        }
        !detached
    }
}

impl PinnedMemory for Bindings {
    fn bytes(&self, pin: Pin, start: usize, end: usize) -> Option<&[u8]> {
        let reference = *self.pins.borrow().get(&pin)?;
        let _scope = Scope::open(self.caller().env());
        // Looked up each time: detached or shrunk, the array is shorter than what was to be written.
        let view = View::of(self.caller().env(), self.caller().value(reference)).ok()?;
        if end > view.bytes {
            return None;
        }
        if start == end {
            return Some(&[]); // an empty array has no address
        }
        // SAFETY: within the array, which the reference keeps; it cannot be detached before JavaScript runs again, and
        // the slice is used before that.
        Some(unsafe { std::slice::from_raw_parts(view.base.add(start), end - start) })
    }
}

impl JavaScript for Bindings {
    fn drain(&self) -> Drained {
        self.callbacks.call()
    }

    fn unpin(&self, pin: Pin) {
        let reference = self.pins.borrow_mut().remove(&pin);
        if let Some(reference) = reference {
            self.caller().release(reference);
        }
    }
}

impl Environment for Bindings {
    fn fatal(&self, message: &str) {
        self.callbacks.fatal(message);
    }

    fn environment_ends(&self) {
        self.callbacks.environment_ends();
    }

    fn closed(&self) {
        self.callbacks.tell_closed();
        let pins = self.pins.take();
        let (slabs, retired) = (self.slabs.borrow(), self.retired.borrow());
        let own = pins.values().chain(slabs.iter()).chain(retired.iter());
        own.for_each(|&reference| self.caller().release(reference));
        self.callbacks.dispose();
    }
}

/// A property of the constructor's argument.
pub fn property(
    env: sys::napi_env,
    object: sys::napi_value,
    name: &std::ffi::CStr,
) -> Result<sys::napi_value> {
    let mut value = ptr::null_mut();
    // SAFETY: `object` is a handle of the current scope.
    check_status!(unsafe { sys::napi_get_named_property(env, object, name.as_ptr(), &mut value) })?;
    Ok(value)
}

/// An element of an array.
pub fn element(env: sys::napi_env, array: sys::napi_value, index: usize) -> Result<sys::napi_value> {
    let mut value = ptr::null_mut();
    // SAFETY: `array` is a handle of the current scope.
    check_status!(unsafe { sys::napi_get_element(env, array, index as u32, &mut value) })?;
    Ok(value)
}

/// The libuv loop of this thread.
pub fn uv_loop(env: sys::napi_env) -> Result<ptr::NonNull<c_void>> {
    let mut uv_loop = ptr::null_mut();
    // SAFETY: a plain call.
    check_status!(unsafe { sys::napi_get_uv_event_loop(env, &mut uv_loop) })?;
    ptr::NonNull::new(uv_loop.cast())
        .ok_or_else(|| Error::new(Status::GenericFailure, "this thread has no libuv loop"))
}
