//! Tells a thread's JavaScript which of the descriptors that it watches are ready: what is behind `addReader`.
//!
//! A poll of its own ([`poll`]), nested in the thread's libuv loop by one `uv_poll`. So there is one call into JavaScript for
//! all that is ready, and libuv knows nothing of the descriptors: one that libuv itself watches can be watched here, too, and
//! none can trip its assertions.
//!
//! A descriptor may be closed while it is watched, and its number given to something else. Before JavaScript is told of a
//! number, the kernel is asked whether it still is that of what was watched: a system call for each, but for the sockets of
//! our own, which are taken out before they are closed. What is found to be another's is told as gone. A file that nobody
//! watches any more and that a duplicate keeps open cannot be taken out of an epoll: then another poll takes the place of that one.
//!
//! Everything here runs on the thread of the loop.

mod poll;

use crate::abi;
use crate::error::SystemError;
use crate::limits::WATCH_RECORDS;
use crate::nested::{self, Environment, Nested};
use crate::ring::Region;
use crate::uv::{self, RawHandle, Uv};
use poll::{Events, Poll, Readiness};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;

/// What a watcher needs of JavaScript.
pub trait Watched: Environment {
    /// Descriptors are ready; the region says which.
    fn ready(&self);
}

/// What JavaScript watches under one number.
#[derive(Debug, Clone, Copy)]
struct Watch {
    /// JavaScript's name for it, so that what is told late is not taken for another.
    id: i32,
    interest: Readiness,
    /// It is taken out before it is closed, so nobody needs to ask whether the number is still its.
    owned: bool,
}

impl Watch {
    fn token(&self, fd: RawFd) -> u64 {
        u64::from(self.id as u32) << 32 | u64::from(fd as u32)
    }
}

/// The watcher.
pub struct Watcher {
    uv: &'static Uv,
    uv_loop: NonNull<uv::Loop>,
    watched: Rc<dyn Watched>,
    /// How many records there are, then the records.
    region: Region<i32>,
    /// The poll and the handle that nests it; none once it is closed.
    poll: RefCell<Option<NestedPoll>>,
    watches: RefCell<HashMap<RawFd, Watch>>,
    events: RefCell<Events>,
    /// Keeps the loop alive.
    referenced: Cell<bool>,
    open_handles: Cell<u32>,
    closing: Cell<bool>,
}

struct NestedPoll {
    poll: Poll,
    handle: NonNull<RawHandle>,
}

impl Watcher {
    /// A watcher of nothing, which does not keep the loop alive.
    ///
    /// # Safety
    /// `uv_loop` must be the loop of the calling thread, and outlive the watcher's handles (libuv waits for them). `region` must
    /// be valid until [`Environment::closed`].
    pub unsafe fn new(
        uv: &'static Uv,
        uv_loop: NonNull<uv::Loop>,
        region: Region<i32>,
        watched: Rc<dyn Watched>,
    ) -> Result<Rc<Self>, SystemError> {
        assert!(region.length() >= abi::WATCH_WORDS as usize, "the words of a watcher are short");
        let watcher = Rc::new(Self {
            uv,
            uv_loop,
            watched,
            region,
            poll: RefCell::new(None),
            watches: RefCell::new(HashMap::new()),
            events: RefCell::new(Events::with_capacity(WATCH_RECORDS / 2)),
            referenced: Cell::new(false),
            open_handles: Cell::new(0),
            closing: Cell::new(false),
        });
        watcher.nest(Poll::open()?)?;
        Ok(watcher)
    }

    /// Begins to watch, or changes what for. False when the number had been watched and was closed since: it is as if it had
    /// never been, and this watch is the number's first.
    ///
    /// Fails with EBADF, EPERM for a file that is always ready, ENOSPC, ENOMEM; then it is not watched at all.
    pub fn watch(&self, fd: RawFd, id: i32, interest: i32, owned: bool) -> Result<bool, SystemError> {
        let nested = self.poll.borrow();
        let Some(NestedPoll { poll, .. }) = nested.as_ref() else {
            return Err(failed(io::Error::from_raw_os_error(libc::ESHUTDOWN)));
        };
        let watch = Watch { id, interest: readiness(interest), owned };
        let before = self.watches.borrow_mut().remove(&fd);
        let mut is_same = true;
        if let Some(before) = before {
            match poll.change(fd, before.interest, watch.interest, watch.token(fd)) {
                Ok(()) => {
                    self.watches.borrow_mut().insert(fd, watch);
                    return Ok(true);
                }
                Err(_) => is_same = false,
            }
        }
        poll.add(fd, watch.interest, watch.token(fd)).map_err(failed)?;
        self.watches.borrow_mut().insert(fd, watch);
        Ok(is_same)
    }

    /// Ends the watch of a number.
    pub fn unwatch(&self, fd: RawFd) {
        let watch = self.watches.borrow_mut().remove(&fd);
        let nested = self.poll.borrow();
        if let (Some(watch), Some(NestedPoll { poll, .. })) = (watch, nested.as_ref()) {
            // It fails when the number was closed, which took it out; if a duplicate keeps it in, `wake` will see that.
            _ = poll.remove(fd, watch.interest);
        }
    }

    /// Whether the watcher keeps the loop alive.
    pub fn keep_alive(&self, alive: bool) {
        if self.referenced.replace(alive) == alive {
            return;
        }
        if let Some(NestedPoll { handle, .. }) = self.poll.borrow().as_ref() {
            // SAFETY: the handle is open (it is nested), on this thread's loop.
            unsafe { self.uv.keep_alive(*handle, alive) };
        }
    }

    /// Nests a poll in the loop.
    fn nest(self: &Rc<Self>, poll: Poll) -> Result<(), SystemError> {
        // SAFETY: the loop is this thread's (`new`); `unnest` closes the handle, and then the poll.
        let handle = unsafe { self.uv.poll(self.uv_loop, poll.as_raw_fd()).map_err(failed)? };
        // SAFETY: the handle is new, and the callback has the signature that libuv calls.
        unsafe {
            nested::own(self, handle);
            (self.uv.poll_start)(handle.as_ptr(), uv::READABLE, on_ready);
            self.uv.keep_alive(handle, self.referenced.get());
        }
        *self.poll.borrow_mut() = Some(NestedPoll { poll, handle });
        Ok(())
    }

    fn unnest(&self) {
        if let Some(NestedPoll { poll, handle }) = self.poll.borrow_mut().take() {
            // SAFETY: the handle is open (it was nested), and closed here only. libuv forgets the poll before it is closed.
            unsafe { nested::close::<Self>(self.uv, handle) };
            drop(poll);
        }
    }

    /// Something is ready. JavaScript is called once, with no more than it has room for: the rest stays ready.
    fn wake(self: &Rc<Self>) {
        if self.closing.get() {
            return;
        }
        self.region.write(0, 0);
        if self.collect() {
            self.replace();
        }
        if self.region.read(0) > 0 && !self.closing.get() {
            self.watched.ready();
        }
    }

    /// Writes down what is ready. Whether the poll told of what nobody watches, and will again.
    fn collect(&self) -> bool {
        let mut strangers = false;
        let nested = self.poll.borrow();
        let Some(NestedPoll { poll, .. }) = nested.as_ref() else { return false };
        let mut watches = self.watches.borrow_mut();
        // EINTR: it stays readable, and libuv calls again. Nothing else can fail here: the descriptor and the buffer are ours.
        _ = poll.ready(&mut self.events.borrow_mut(), |token, ready| {
            let (fd, id) = (token as u32 as RawFd, (token >> 32) as u32 as i32);
            let Some(watch) = watches.get(&fd).filter(|watch| watch.id == id) else {
                strangers = true;
                return;
            };
            if !watch.owned && poll.verify(fd, watch.interest, token).is_err() {
                watches.remove(&fd);
                self.record([fd, id, abi::WATCH_GONE]);
                strangers = true;
                return;
            }
            let readable = if ready.readable && watch.interest.readable { abi::WATCH_READABLE } else { 0 };
            let writable = if ready.writable && watch.interest.writable { abi::WATCH_WRITABLE } else { 0 };
            self.record([fd, id, readable | writable]);
        });
        strangers
    }

    /// Adds a record for JavaScript, if there is room: there always is for what is ready, and what is gone and not told is found
    /// to be so when its number is to be watched again.
    fn record(&self, record: [i32; abi::WATCH_RECORD_WORDS as usize]) {
        let count = self.region.read(0) as usize;
        if count < WATCH_RECORDS {
            let at = 1 + count * record.len();
            record.into_iter().enumerate().for_each(|(word, value)| self.region.write(at + word, value));
            self.region.write(0, count as i32 + 1);
        }
    }

    /// Puts another poll into the place of this one, with all that is still what was to be watched.
    fn replace(self: &Rc<Self>) {
        if let Some(NestedPoll { poll, .. }) = self.poll.borrow().as_ref() {
            self.watches.borrow_mut().retain(|&fd, watch| {
                let is_same = poll.verify(fd, watch.interest, watch.token(fd)).is_ok();
                if !is_same {
                    self.record([fd, watch.id, abi::WATCH_GONE]);
                }
                is_same
            });
        }
        // In this order, for the process may be out of descriptors.
        self.unnest();
        let replaced = Poll::open().and_then(|poll| {
            let mut lost = Vec::new();
            for (&fd, watch) in self.watches.borrow().iter() {
                match poll.add(fd, watch.interest, watch.token(fd)) {
                    // Another thread has closed the number, or it is a file's by now.
                    Err(error)
                        if matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOENT | libc::EPERM)) =>
                    {
                        self.record([fd, watch.id, abi::WATCH_GONE]);
                        lost.push(fd);
                    }
                    added => added.map_err(failed)?,
                }
            }
            self.watches.borrow_mut().retain(|fd, _| !lost.contains(fd));
            self.nest(poll)
        });
        if let Err(error) = replaced {
            self.close();
            self.watched.fatal(&format!("descriptors cannot be watched any more: {error}"));
        }
    }
}

impl Nested for Watcher {
    const NAME: &'static str = "watcher";

    fn environment(&self) -> &dyn Environment {
        &*self.watched
    }

    fn open_handles(&self) -> &Cell<u32> {
        &self.open_handles
    }

    /// Closes the handle and the descriptor of the poll; those that are watched are others' affair.
    fn close(&self) {
        if !self.closing.replace(true) {
            self.unnest();
            self.watches.borrow_mut().clear();
        }
    }
}

fn readiness(interest: i32) -> Readiness {
    Readiness { readable: interest & abi::WATCH_READABLE != 0, writable: interest & abi::WATCH_WRITABLE != 0 }
}

fn failed(source: io::Error) -> SystemError {
    let syscall = if cfg!(any(target_os = "linux", target_os = "android")) { "epoll_ctl" } else { "kevent" };
    SystemError { syscall, source }
}

unsafe extern "C" fn on_ready(handle: *mut RawHandle, _status: i32, _events: i32) {
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called::<Watcher>(handle, Watcher::wake) };
}
