//! A thread's mailbox, nested in its libuv loop: `uv_poll` watches the bell, and JavaScript is called once for as many
//! parcels as fit into its inbox.
//!
//! Everything here runs on the thread of the loop.

use crate::abi;
use crate::busy_poll::BusyPoll;
use crate::error::{During, SystemError};
use crate::limits::WAKE_BUDGET_US;
use crate::mailbox::{Correspondence, Mailbox, Parcel};
use crate::nested::{self, Environment, Nested};
use crate::ring::Region;
use crate::turn;
use crate::uv::{self, RawHandle, Uv};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hint;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What it needs of JavaScript.
pub trait Addressee: Environment {
    /// Reads the messages in the inbox. False when JavaScript cannot run (any more).
    fn read(&self) -> bool;
}

/// JavaScript's memory for what it reads. Users cannot reach it, so it is never detached.
pub struct Inbox {
    /// The MAIL_CONTROL_ words.
    pub control: Region<i32>,
    /// Messages.
    pub bytes: Region<u8>,
}

/// See the module.
pub struct Mail {
    uv: &'static Uv,
    addressee: Rc<dyn Addressee>,
    /// Until it is closed: JavaScript's functions, which hold this, live on until they are collected, and a descriptor is in it.
    mailbox: RefCell<Option<Arc<Mailbox>>>,
    address: u32,
    correspondence: RefCell<Correspondence>,
    inbox: Inbox,
    /// Taken out of the mailbox and not read yet.
    waiting: RefCell<VecDeque<Parcel>>,
    /// Large payloads of what is in the inbox, in its order.
    large: RefCell<VecDeque<Box<[u8]>>>,
    poll: NonNull<RawHandle>,
    uv_loop: NonNull<uv::Loop>,
    busy_poll: Cell<BusyPoll>,
    /// It has rung its own bell.
    came_back: Cell<bool>,
    open_handles: Cell<u32>,
    is_reading: Cell<bool>,
    closing: Cell<bool>,
}

impl Mail {
    /// Opens a mailbox at a place.
    ///
    /// # Safety
    /// `uv_loop` must be the loop of the calling thread, and outlive the handle (libuv waits for it). `inbox` must be valid
    /// until [`Environment::closed`].
    pub unsafe fn open(
        uv: &'static Uv,
        uv_loop: NonNull<uv::Loop>,
        place: i32,
        inbox: Inbox,
        addressee: Rc<dyn Addressee>,
    ) -> Result<Rc<Self>, SystemError> {
        assert!(
            inbox.control.length() >= abi::MAIL_CONTROL_WORDS as usize,
            "the words of an inbox are short"
        );
        assert!(inbox.bytes.length() >= abi::MAIL_INBOX_BYTES as usize, "an inbox is short");
        let mailbox = Mailbox::open(place).during("eventfd")?;
        // SAFETY: the loop is this thread's (by the caller); `close` closes the handle, and then the bell.
        let poll = unsafe { uv.poll(uv_loop, mailbox.pollable()) };
        let poll = poll.inspect_err(|_| mailbox.close()).during("epoll_ctl")?;
        let mail = Rc::new(Self {
            uv,
            addressee,
            address: mailbox.address,
            mailbox: RefCell::new(Some(mailbox.clone())),
            correspondence: RefCell::default(),
            inbox,
            waiting: RefCell::default(),
            large: RefCell::default(),
            poll,
            uv_loop,
            busy_poll: Cell::new(BusyPoll::of_threads(Instant::now())),
            came_back: Cell::new(false),
            open_handles: Cell::new(0),
            is_reading: Cell::new(false),
            closing: Cell::new(false),
        });
        // SAFETY: the handle is new, and the callback has the signature that libuv calls.
        unsafe {
            nested::own(&mail, poll);
            (uv.poll_start)(poll.as_ptr(), uv::READABLE, on_poll);
            uv.keep_alive(poll, false);
        }
        // What came before this sleep finds nobody asleep: the bell makes good for it.
        if !mailbox.fall_asleep() {
            mailbox.come_back();
        }
        Ok(mail)
    }

    /// The thread's address.
    pub fn address(&self) -> u32 {
        self.address
    }

    /// Works on what the thread sends. Once it is closed nothing can be sent.
    pub fn correspondence<T>(&self, work: impl FnOnce(&mut Correspondence) -> T) -> Option<T> {
        (!self.closing.get()).then(|| work(&mut self.correspondence.borrow_mut()))
    }

    /// The payload of the next large message in the inbox.
    pub fn take_large(&self) -> Option<Box<[u8]>> {
        self.large.borrow_mut().pop_front()
    }

    /// Whether it keeps the loop alive: somebody waits for an answer.
    pub fn keep_alive(&self, alive: bool) {
        if self.closing.get() {
            return;
        }
        // SAFETY: the handle is open (not `closing`), on this thread's loop.
        unsafe { self.uv.keep_alive(self.poll, alive) };
    }

    /// The bell has rung.
    fn wake(&self) {
        // Held while it is read, which may close it.
        let Some(mailbox) = self.mailbox.borrow().clone() else { return };
        if self.is_reading.replace(true) {
            return; // a nested run of the loop
        }
        mailbox.wake_up();
        let began = Instant::now();
        let mut policy = self.busy_poll.get();
        // It says nothing of the senders when this thread has woken itself.
        if !self.came_back.replace(false) {
            policy.found(began);
        }
        loop {
            self.waiting.borrow_mut().extend(mailbox.take());
            let (parcels, cost) = self.fill();
            if parcels == 0 {
                if mailbox.fall_asleep() {
                    break;
                }
                continue;
            }
            let can_run = self.addressee.read();
            mailbox.release(cost);
            if !can_run || self.closing.get() {
                break;
            }
            // What it has written leaves now, not when nothing more is found.
            turn::end();
            let now = Instant::now();
            if now.duration_since(began) >= Duration::from_micros(WAKE_BUDGET_US) {
                self.came_back.set(true);
                mailbox.come_back();
                break;
            }
            let until = policy.until(now, began, parcels, ANY);
            if let Some(until) = until.filter(|_| self.waiting.borrow().is_empty()) {
                self.look_ahead(&mailbox, &mut policy, until);
            }
        }
        self.busy_poll.set(policy);
        self.is_reading.set(false);
    }

    /// Looks until then for the next parcel, for as long as the thread's loop has nothing else to do.
    fn look_ahead(&self, mailbox: &Mailbox, policy: &mut BusyPoll, until: Instant) {
        while !self.loop_has_work() {
            for _ in 0..LOOKS {
                if mailbox.has_parcels() {
                    policy.hit(Instant::now());
                    return;
                }
                hint::spin_loop();
            }
            if Instant::now() >= until {
                policy.missed();
                return;
            }
        }
    }

    /// Whether libuv has something to do at once, or something that it waits for has become ready.
    fn loop_has_work(&self) -> bool {
        let uv_loop = self.uv_loop.as_ptr();
        // SAFETY: this thread's loop, which runs; plain questions. A poll's descriptor is readable when one of those in it is ready.
        unsafe {
            let mut backend =
                libc::pollfd { fd: (self.uv.backend_fd)(uv_loop), events: libc::POLLIN, revents: 0 };
            (self.uv.backend_timeout)(uv_loop) == 0 || libc::poll(&mut backend, 1, 0) != 0
        }
    }

    /// Puts what fits into the inbox, which was read; how many parcels, and how much of the mailbox's room they had.
    fn fill(&self) -> (usize, usize) {
        let (mut waiting, mut large) = (self.waiting.borrow_mut(), self.large.borrow_mut());
        large.clear();
        let (mut end, mut cost, mut parcels) = (0, 0, 0);
        while let Some(parcel) = waiting.front() {
            if end + parcel.bytes.len() > self.inbox.bytes.length() {
                break;
            }
            self.inbox.bytes.copy_from(end, &parcel.bytes);
            end += parcel.bytes.len();
            cost += parcel.cost;
            parcels += 1;
            large.extend(waiting.pop_front().and_then(|parcel| parcel.large));
        }
        self.inbox.control.write(END, end as i32);
        (parcels, cost)
    }
}

impl Nested for Mail {
    const NAME: &'static str = "mailbox";

    fn environment(&self) -> &dyn Environment {
        &*self.addressee
    }

    fn open_handles(&self) -> &Cell<u32> {
        &self.open_handles
    }

    /// Closes the mailbox, and gives back what room it had elsewhere.
    fn close(&self) {
        if self.closing.replace(true) {
            return;
        }
        let mailbox = self.mailbox.take();
        if let Some(mailbox) = &mailbox {
            mailbox.close();
        }
        drop(self.correspondence.take());
        // The functions that JavaScript has may keep this for a while. (A batch that is read has neither borrowed.)
        drop((self.waiting.take(), self.large.take()));
        // SAFETY: the handle is open, and closed here only, once (`closing`). libuv lets go of the descriptor at once.
        unsafe { nested::close::<Self>(self.uv, self.poll) };
        drop(mailbox);
    }
}

/// Whose a message is does not count.
const ANY: i32 = 0;
const END: usize = abi::MAIL_CONTROL_END as usize;
/// Looks into the mailbox for each system call that looks at the rest of the loop.
const LOOKS: u32 = 32;

unsafe extern "C" fn on_poll(handle: *mut RawHandle, _status: i32, _events: i32) {
    // SAFETY: libuv calls with the handle that was started.
    unsafe { nested::called::<Mail>(handle, |mail| mail.wake()) };
}
