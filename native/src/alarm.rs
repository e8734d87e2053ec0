//! Wakes a thread's JavaScript at a time of its choice: the clock behind `callLater`.
//!
//! JavaScript writes the time into shared memory and makes no call. `uv_prepare`, just before libuv blocks, looks there
//! and sets a clock: on Linux a timerfd, which `uv_poll` watches and which is exact to the nanosecond as far as the
//! scheduler lets it; elsewhere a `uv_timer`, whose time is rounded up to milliseconds.
//!
//! The clock is set anew only for an earlier time, and once it has rung: most timers are timeouts that are cancelled, and
//! the next takes their place at a later time. So a time that counts no more rings once, which JavaScript does not hear
//! of, and a system call per timer is saved.
//!
//! Everything here runs on the thread of the loop.

use crate::abi;
use crate::error::SystemError;
use crate::nested::{self, Environment, Nested};
use crate::ring::Region;
use crate::turn::{self, EndOfTurn};
use crate::uv::{self, RawHandle, SimpleHandle, Uv};
use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;

/// What an alarm needs of JavaScript.
pub trait Sleeper: Environment {
    /// The time has come.
    fn wake(&self);
}

/// The alarm.
pub struct Alarm {
    uv: &'static Uv,
    uv_loop: NonNull<uv::Loop>,
    sleeper: Rc<dyn Sleeper>,
    control: Region<f64>,
    clock: Clock,
    setting: Cell<Setting>,
    /// It alone keeps the loop alive, when something waits: unlike a timer it is always active, and then it runs.
    prepare: NonNull<RawHandle>,
    open_handles: Cell<u32>,
    closing: Cell<bool>,
}

/// What rings, with its handle.
enum Clock {
    #[cfg(target_os = "linux")]
    Exact {
        poll: NonNull<RawHandle>,
        timer: std::cell::RefCell<Option<timerfd::Timer>>,
    },
    Coarse {
        timer: NonNull<RawHandle>,
    },
}

impl Alarm {
    /// An alarm that is not set.
    ///
    /// `coarse`: by a `uv_timer` where there would be something better, for tests.
    ///
    /// # Safety
    /// `uv_loop` must be the loop of the calling thread, and outlive the alarm's handles (libuv waits for them). `control`
    /// must be valid until [`Environment::closed`].
    pub unsafe fn new(
        uv: &'static Uv,
        uv_loop: NonNull<uv::Loop>,
        control: Region<f64>,
        sleeper: Rc<dyn Sleeper>,
        coarse: bool,
    ) -> Result<Rc<Self>, SystemError> {
        assert!(control.length() >= abi::ALARM_WORDS as usize, "the words of an alarm are short");
        // SAFETY: by the caller.
        let clock = unsafe { Clock::new(uv, uv_loop, coarse)? };
        // SAFETY: by the caller; `close` closes it.
        let prepare = unsafe { uv.handle(SimpleHandle::Prepare, uv_loop) };
        let alarm = Rc::new(Self {
            uv,
            uv_loop,
            sleeper,
            control,
            clock,
            setting: Cell::new(Setting::NONE),
            prepare,
            open_handles: Cell::new(0),
            closing: Cell::new(false),
        });
        // SAFETY: the handles are new, and the callbacks have the signatures that libuv calls.
        unsafe {
            for handle in alarm.handles() {
                nested::own(&alarm, handle);
                uv.keep_alive(handle, false);
            }
            (uv.prepare_start)(prepare.as_ptr(), on_prepare);
            alarm.clock.start(uv);
        }
        turn::register(&alarm);
        Ok(alarm)
    }

    /// Keeps the loop alive, until its next turn finds that nothing is waited for.
    pub fn reference(&self) {
        if !self.closing.get() {
            self.control.write(REFERENCED, 1.0);
            // SAFETY: the handle is open (not `closing`), on this thread's loop.
            unsafe { self.uv.keep_alive(self.prepare, true) };
        }
    }

    fn handles(&self) -> [NonNull<RawHandle>; 2] {
        [self.prepare, self.clock.handle()]
    }

    /// The clock rings.
    fn ring(&self) {
        if self.closing.get() {
            return;
        }
        let mut setting = self.setting.get();
        setting.rang();
        self.setting.set(setting);
        if seconds(self.uv.now_ns()) >= self.control.read(DEADLINE) {
            self.sleeper.wake();
        }
    }
}

impl EndOfTurn for Alarm {
    fn end_of_turn(&self) {
        if self.closing.get() {
            return;
        }
        let deadline = self.control.read(DEADLINE);
        if deadline == f64::INFINITY && self.control.read(REFERENCED) != 0.0 {
            self.control.write(REFERENCED, 0.0);
            // SAFETY: the handle is open (not `closing`), on this thread's loop.
            unsafe { self.uv.keep_alive(self.prepare, false) };
        }
        let mut setting = self.setting.get();
        if let Some(time) = setting.look(deadline) {
            self.clock.set(self.uv, self.uv_loop, time);
        }
        self.setting.set(setting);
    }
}

impl Nested for Alarm {
    const NAME: &'static str = "alarm";

    fn environment(&self) -> &dyn Environment {
        &*self.sleeper
    }

    fn open_handles(&self) -> &Cell<u32> {
        &self.open_handles
    }

    /// Closes the handles and the descriptor.
    fn close(&self) {
        if self.closing.replace(true) {
            return;
        }
        // SAFETY: the handles are open, and closed here only, once (`closing`).
        self.handles().into_iter().for_each(|handle| unsafe { nested::close::<Self>(self.uv, handle) });
        self.clock.release();
    }
}

const DEADLINE: usize = abi::ALARM_DEADLINE as usize;
const REFERENCED: usize = abi::ALARM_REFERENCED as usize;

/// What the clock is set to. Pure: what JavaScript waits for in, what to set the clock to out.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Setting {
    /// Infinity: it will not ring.
    time: f64,
    /// It has rung and was not set since.
    rang: bool,
}

impl Setting {
    const NONE: Self = Self { time: f64::INFINITY, rang: false };

    fn rang(&mut self) {
        *self = Self { time: f64::INFINITY, rang: true };
    }

    /// What the clock must be set to now; `None` when it can stay as it is. Infinity silences it.
    fn look(&mut self, deadline: f64) -> Option<f64> {
        if deadline >= self.time && !self.rang {
            return None;
        }
        *self = Self { time: deadline, rang: false };
        Some(deadline)
    }
}

/// Nanoseconds of the clock as JavaScript counts it (`src/workers/clock.ts`): the same number, to the last bit, so that what is due
/// here is due there.
fn seconds(ns: u64) -> f64 {
    (ns / 1_000_000_000) as f64 + (ns % 1_000_000_000) as f64 * 1e-9
}

impl Clock {
    /// # Safety
    /// `uv_loop` must be the loop of the calling thread.
    // SAFETY: `Alarm::new` has the same condition.
    unsafe fn new(uv: &Uv, uv_loop: NonNull<uv::Loop>, coarse: bool) -> Result<Self, SystemError> {
        #[cfg(target_os = "linux")]
        if !coarse {
            // SAFETY: by the caller.
            return unsafe { Self::exact(uv, uv_loop) };
        }
        _ = coarse; // there is nothing else
        // SAFETY: by the caller; the alarm closes it.
        Ok(Self::Coarse { timer: unsafe { uv.handle(SimpleHandle::Timer, uv_loop) } })
    }

    /// # Safety
    /// As [`Self::new`].
    #[cfg(target_os = "linux")]
    // SAFETY: `Self::new` has the same condition.
    unsafe fn exact(uv: &Uv, uv_loop: NonNull<uv::Loop>) -> Result<Self, SystemError> {
        use crate::error::During;
        use std::os::fd::AsRawFd;
        let timer = timerfd::Timer::new().during("timerfd_create")?;
        // SAFETY: by the caller; the alarm closes the handle, and then the timer.
        let poll = unsafe { uv.poll(uv_loop, timer.as_raw_fd()) }.during("epoll_ctl")?;
        Ok(Self::Exact { poll, timer: std::cell::RefCell::new(Some(timer)) })
    }

    fn handle(&self) -> NonNull<RawHandle> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Exact { poll, .. } => *poll,
            Self::Coarse { timer } => *timer,
        }
    }

    /// # Safety
    /// The handle's data must be set, and it must be open, on the loop of the calling thread.
    // SAFETY: `Alarm::new` calls it, once, when that is so.
    unsafe fn start(&self, uv: &Uv) {
        match self {
            #[cfg(target_os = "linux")]
            // SAFETY: by the caller.
            Self::Exact { poll, .. } => unsafe {
                (uv.poll_start)(poll.as_ptr(), uv::READABLE, on_poll);
            },
            Self::Coarse { .. } => _ = uv,
        }
    }

    /// Has it ring at a time, in seconds of the monotonic clock, and only then; Infinity for never. It must be open.
    fn set(&self, uv: &Uv, uv_loop: NonNull<uv::Loop>, time: f64) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Exact { timer, .. } => {
                let timer = timer.borrow();
                let timer = timer.as_ref().expect("the timer is closed with the alarm");
                timer.set(time).expect("the kernel takes any time");
            }
            // SAFETY: the handle is open (by the caller), on this thread's loop, as all of an alarm.
            Self::Coarse { timer } => unsafe {
                if time == f64::INFINITY {
                    (uv.timer_stop)(timer.as_ptr());
                    return;
                }
                // One more than the whole milliseconds, so that it is due when libuv calls. What is longer than libuv's
                // counter stays at its end.
                let wait_ms = ((time - seconds(uv.now_ns())).max(0.0) * 1e3) as u64;
                (uv.update_time)(uv_loop.as_ptr());
                (uv.timer_start)(timer.as_ptr(), on_timer, wait_ms.saturating_add(1), 0);
            },
        }
    }

    /// Closes the descriptor; the handle that polls it is closing.
    fn release(&self) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Exact { timer, .. } => drop(timer.take()),
            Self::Coarse { .. } => {}
        }
    }
}

#[cfg(target_os = "linux")]
mod timerfd {
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
    use std::ptr;

    /// A descriptor that is readable from a time on, until it is set anew.
    pub(super) struct Timer(OwnedFd);

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            // SAFETY: a plain call; what it returns is ours alone.
            unsafe {
                let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
                let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, flags);
                if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
            }
        }

        /// Sets the time, in seconds of the monotonic clock; Infinity for never. Until then it is not readable (any more):
        /// setting it also forgets that it has rung, so nobody needs to read it.
        pub(super) fn set(&self, time: f64) -> io::Result<()> {
            // SAFETY: plain numbers, of which zero is one.
            let mut value: libc::itimerspec = unsafe { std::mem::zeroed() };
            if time != f64::INFINITY {
                value.it_value = timespec(time);
            }
            // SAFETY: the descriptor is open, as it is owned; the value is ours, and the old one is not asked for.
            let result = unsafe {
                libc::timerfd_settime(self.0.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &value, ptr::null_mut())
            };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
    }

    impl AsRawFd for Timer {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }

    /// Rounded up to nanoseconds. What is past the largest time is that; the kernel's clock ends before.
    pub(super) fn timespec(time: f64) -> libc::timespec {
        let whole = time.floor();
        let ns = ((time - whole) * 1e9).ceil() as i64;
        let carry = ns / 1_000_000_000;
        libc::timespec {
            tv_sec: (whole as libc::time_t).saturating_add(carry as libc::time_t),
            tv_nsec: (ns % 1_000_000_000) as _,
        }
    }
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn on_poll(handle: *mut RawHandle, _status: i32, _events: i32) {
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called::<Alarm>(handle, |alarm| alarm.ring()) };
}

unsafe extern "C" fn on_timer(handle: *mut RawHandle) {
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called::<Alarm>(handle, |alarm| alarm.ring()) };
}

unsafe extern "C" fn on_prepare(handle: *mut RawHandle) {
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called::<Alarm>(handle, |alarm| alarm.end_of_turn()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_set_for_an_earlier_time_only() {
        let mut setting = Setting::NONE;
        assert_eq!(setting.look(f64::INFINITY), None, "nothing is waited for");
        assert_eq!(setting.look(30.0), Some(30.0));
        assert_eq!(setting.look(30.0), None, "it is set already");
        assert_eq!(setting.look(31.0), None, "the first was cancelled");
        assert_eq!(setting.look(f64::INFINITY), None, "and the second");
        assert_eq!(setting.look(20.0), Some(20.0));
    }

    #[test]
    fn a_clock_that_has_rung_is_set_anew_or_silenced() {
        let mut setting = Setting::NONE;
        assert_eq!(setting.look(20.0), Some(20.0));
        setting.rang();
        assert_eq!(setting.look(20.0), Some(20.0), "not due by JavaScript's clock");
        setting.rang();
        assert_eq!(setting.look(25.0), Some(25.0));
        setting.rang();
        assert_eq!(setting.look(f64::INFINITY), Some(f64::INFINITY), "else it would ring on");
        assert_eq!(setting.look(f64::INFINITY), None);
    }

    #[test]
    fn seconds_are_whole_ones_and_a_fraction_as_javascript_adds_them() {
        assert_eq!(seconds(0), 0.0);
        assert_eq!(seconds(12_345_678_901), 12.0 + 345_678_901.0 * 1e-9);
        let times = (0..2_000_000_000).step_by(999_983).map(seconds).collect::<Vec<_>>();
        assert!(times.is_sorted());
    }

    #[cfg(target_os = "linux")]
    mod exact {
        use super::super::timerfd::{Timer, timespec};
        use std::os::fd::AsRawFd;
        use std::time::Instant;

        fn parts(time: f64) -> (i64, i64) {
            let libc::timespec { tv_sec, tv_nsec } = timespec(time);
            (tv_sec, tv_nsec)
        }

        #[test]
        fn times_are_rounded_up_to_nanoseconds() {
            assert_eq!(parts(5.0), (5, 0));
            assert_eq!(parts(5.25), (5, 250_000_000));
            assert_eq!(parts(2.0f64.powi(-40)), (0, 1));
            assert_eq!(parts(6.0 - 2.0f64.powi(-40)), (6, 0));
            assert_eq!(parts(f64::MAX), (i64::MAX, 0));
        }

        fn now() -> f64 {
            // SAFETY: plain numbers, of which zero is one; the call writes them.
            let time = unsafe {
                let mut time: libc::timespec = std::mem::zeroed();
                assert_eq!(libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time), 0);
                time
            };
            time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
        }

        fn rings_within(timer: &Timer, ms: i32) -> bool {
            let mut poll = libc::pollfd { fd: timer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry of ours.
            unsafe { libc::poll(&mut poll, 1, ms) == 1 }
        }

        #[test]
        fn it_rings_at_its_time_and_until_it_is_set_anew() {
            let timer = Timer::new().unwrap();
            assert!(!rings_within(&timer, 0));
            let began = Instant::now();
            timer.set(now() + 0.02).unwrap();
            assert!(!rings_within(&timer, 0));
            assert!(rings_within(&timer, 10_000));
            assert!(began.elapsed().as_millis() >= 20);
            assert!(rings_within(&timer, 0), "nobody reads it");
            timer.set(now() + 1e4).unwrap();
            assert!(!rings_within(&timer, 0));
            timer.set(now() - 1.0).unwrap();
            assert!(rings_within(&timer, 10_000), "a time that has passed");
            timer.set(f64::INFINITY).unwrap();
            assert!(!rings_within(&timer, 0));
            timer.set(f64::MAX).unwrap();
            assert!(!rings_within(&timer, 0));
        }
    }
}
