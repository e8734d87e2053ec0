//! The few functions of libuv that nest a loop into Node's. The Node binary exports them; they are looked up when the
//! first shard starts, so that a runtime without them gets an error rather than an addon that does not load.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// A `uv_loop_t`.
pub type Loop = c_void;
/// Any `uv_handle_t`, whose first field is `void* data`.
pub type RawHandle = c_void;

/// `UV_READABLE`.
pub const READABLE: c_int = 1;

/// Kinds of handles that need nothing but a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in libuv")]
pub enum SimpleHandle {
    Check,
    Idle,
    Prepare,
    Timer,
}

/// Handle types, from `uv_handle_type`. They are part of libuv's ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandleType {
    Check = 2,
    Idle = 6,
    Poll = 8,
    Prepare = 9,
    Timer = 13,
}

macro_rules! functions {
    ($($name:ident: $symbol:literal => fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Addresses of libuv's functions in this process.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "named as in libuv")]
        pub struct Uv { $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)* }

        impl Uv {
            fn load() -> Result<Self, &'static CStr> {
                Ok(Self { $($name: {
                    let symbol: &'static CStr = $symbol;
                    // SAFETY: a look-up by name in the whole process, which runs no foreign code.
                    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
                    if address.is_null() {
                        return Err(symbol);
                    }
                    // SAFETY: the symbol is libuv's, whose ABI has had this signature since 1.0 (1.39 for the metrics).
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(address) }
                }),* })
            }
        }
    };
}

type PollCallback = unsafe extern "C" fn(*mut RawHandle, c_int, c_int);
type Callback = unsafe extern "C" fn(*mut RawHandle);

functions! {
    handle_size: c"uv_handle_size" => fn(c_int) -> usize;
    poll_init: c"uv_poll_init" => fn(*mut Loop, *mut RawHandle, c_int) -> c_int;
    poll_start: c"uv_poll_start" => fn(*mut RawHandle, c_int, PollCallback) -> c_int;
    prepare_init: c"uv_prepare_init" => fn(*mut Loop, *mut RawHandle) -> c_int;
    prepare_start: c"uv_prepare_start" => fn(*mut RawHandle, Callback) -> c_int;
    check_init: c"uv_check_init" => fn(*mut Loop, *mut RawHandle) -> c_int;
    check_start: c"uv_check_start" => fn(*mut RawHandle, Callback) -> c_int;
    idle_init: c"uv_idle_init" => fn(*mut Loop, *mut RawHandle) -> c_int;
    idle_start: c"uv_idle_start" => fn(*mut RawHandle, Callback) -> c_int;
    idle_stop: c"uv_idle_stop" => fn(*mut RawHandle) -> c_int;
    timer_init: c"uv_timer_init" => fn(*mut Loop, *mut RawHandle) -> c_int;
    timer_start: c"uv_timer_start" => fn(*mut RawHandle, Callback, u64, u64) -> c_int;
    timer_stop: c"uv_timer_stop" => fn(*mut RawHandle) -> c_int;
    update_time: c"uv_update_time" => fn(*mut Loop);
    metrics_idle_time: c"uv_metrics_idle_time" => fn(*mut Loop) -> u64;
    backend_timeout: c"uv_backend_timeout" => fn(*mut Loop) -> c_int;
    hrtime: c"uv_hrtime" => fn() -> u64;
    backend_fd: c"uv_backend_fd" => fn(*mut Loop) -> c_int;
    close: c"uv_close" => fn(*mut RawHandle, Option<Callback>);
    reference: c"uv_ref" => fn(*mut RawHandle);
    unreference: c"uv_unref" => fn(*mut RawHandle);
    strerror: c"uv_strerror" => fn(c_int) -> *const c_char;
}

/// libuv's functions, or the name of the first that this runtime lacks.
pub fn uv() -> Result<&'static Uv, String> {
    static UV: OnceLock<Result<Uv, &'static CStr>> = OnceLock::new();
    UV.get_or_init(Uv::load).as_ref().map_err(|symbol| {
        format!("this runtime does not export {}: shardloop needs Node.js", symbol.to_string_lossy())
    })
}

impl Uv {
    /// A handle of a kind that can always be made.
    ///
    /// # Safety
    /// `uv_loop` must be the loop of the calling thread, and outlive the handle (libuv waits for it). The handle is to be
    /// given to an owner (`nested::own`), which closes it.
    pub unsafe fn handle(&self, kind: SimpleHandle, uv_loop: NonNull<Loop>) -> NonNull<RawHandle> {
        let (kind, init) = match kind {
            SimpleHandle::Check => (HandleType::Check, self.check_init),
            SimpleHandle::Idle => (HandleType::Idle, self.idle_init),
            SimpleHandle::Prepare => (HandleType::Prepare, self.prepare_init),
            SimpleHandle::Timer => (HandleType::Timer, self.timer_init),
        };
        let handle = self.allocate(kind);
        // SAFETY: the loop is this thread's (by the caller), the handle is fresh and of the right size. It cannot fail.
        unsafe { init(uv_loop.as_ptr(), handle.as_ptr()) };
        handle
    }

    /// A handle that polls a descriptor.
    ///
    /// # Safety
    /// As [`Self::handle`]. The descriptor must be open until the handle is closed.
    pub unsafe fn poll(&self, uv_loop: NonNull<Loop>, fd: RawFd) -> io::Result<NonNull<RawHandle>> {
        let handle = self.allocate(HandleType::Poll);
        // SAFETY: as in `handle`. When it fails, libuv does not know the handle, and its memory is ours still.
        unsafe {
            let result = (self.poll_init)(uv_loop.as_ptr(), handle.as_ptr(), fd);
            if result < 0 {
                libc::free(handle.as_ptr());
                return Err(io::Error::from_raw_os_error(-result));
            }
        }
        Ok(handle)
    }

    /// Whether a handle keeps its loop alive.
    ///
    /// # Safety
    /// The handle must be open, on the loop of the calling thread.
    pub unsafe fn keep_alive(&self, handle: NonNull<RawHandle>, alive: bool) {
        let change = if alive { self.reference } else { self.unreference };
        // SAFETY: by the caller.
        unsafe { change(handle.as_ptr()) };
    }

    /// Memory for a handle, zeroed. It is given to libuv by an init function, and freed in the callback of `uv_close`.
    fn allocate(&self, kind: HandleType) -> NonNull<RawHandle> {
        // SAFETY: a plain question; then zeroed memory of that size, which is at least one pointer for any handle.
        unsafe {
            let size = (self.handle_size)(kind as c_int);
            assert!(size >= size_of::<*mut c_void>(), "libuv knows no handle type {kind:?}");
            let Some(handle) = NonNull::new(libc::calloc(1, size)) else {
                std::alloc::handle_alloc_error(std::alloc::Layout::new::<[usize; 32]>())
            };
            handle
        }
    }

    /// libuv's monotonic clock, which it also measures idle time by.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        // SAFETY: a plain question, from any thread.
        unsafe { (self.hrtime)() }
    }

    /// What a call of libuv's failed with, for people.
    pub fn describe(&self, call: &str, error: &io::Error) -> String {
        // SAFETY: libuv returns a static string for every number.
        let text = unsafe { CStr::from_ptr((self.strerror)(-crate::error::errno(error))) };
        format!("{call}: {}", text.to_string_lossy())
    }
}
