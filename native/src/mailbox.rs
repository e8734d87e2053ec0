//! What threads say to each other: each JavaScript thread that takes part has a mailbox, into which any thread puts parcels.
//!
//! A parcel is what one thread had to say to another in one turn: messages, one behind the other, whose form only JavaScript
//! knows (`src/messages/`). So what a message costs here is its share of one allocation, one exchange of a pointer, and of
//! one system call when the receiver sleeps.
//!
//! **Order.** Parcels of one sender arrive in the order in which it sent them.
//!
//! **Bound.** A mailbox takes [`MAILBOX_MAX_BYTES`] of what was not read yet. A sender has to have room granted
//! ([`Mailbox::reserve`]) before it puts anything down, so it knows at once when there is none; what it was granted and has not
//! used it keeps for its next messages, and gives back when it ends.
//!
//! **Ends.** A mailbox closes with its thread. Whatever is sent to it from then on comes back; and every other mailbox gets
//! a note that it is gone, behind all that its thread had sent there. So whoever waits for an answer learns that there will
//! be none.
//!
//! The registry is lock-free but for the moment in which one of its maps grows: then a thread may wait for another to copy.
#![forbid(unsafe_code)]

use crate::abi;
use crate::engine::bell::Bell;
use crate::limits::{MAIL_CREDIT_BYTES, MAIL_INBOX_BYTES, MAILBOX_MAX_BYTES, NAMES_MAX};
use crate::pipe::Sleep;
use crate::stack::Stack;
use papaya::HashMap;
use std::collections::HashMap as LocalMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, LazyLock, Weak};

/// By address. Addresses begin at 1 and are not used again: a thread that takes the place of another has one of its own. Owners and
/// senders hold a mailbox, and the registry none: it frees what was removed some time later, and a descriptor would stay open.
static MAILBOXES: LazyLock<HashMap<u32, Weak<Mailbox>>> = LazyLock::new(HashMap::new);
/// Addresses by place: a shard's number, or that of the supervisor.
static PLACES: LazyLock<HashMap<i32, u32>> = LazyLock::new(HashMap::new);
static LAST_ADDRESS: AtomicU32 = AtomicU32::new(0);
/// Numbers of names by which functions are called, the same in all threads. They begin at 1.
static NAMES: LazyLock<HashMap<Box<str>, u32>> = LazyLock::new(HashMap::new);
static LAST_NAME: AtomicU32 = AtomicU32::new(0);

/// What one thread has sent to another at once.
#[derive(Debug)]
pub struct Parcel {
    /// Messages.
    pub bytes: Box<[u8]>,
    /// What did not go among them: the payload of the only message.
    pub large: Option<Box<[u8]>>,
    /// Of the room that the mailbox has: it is free again when the parcel was read.
    pub cost: usize,
}

/// One thread's. See the module.
#[derive(Debug)]
pub struct Mailbox {
    /// Its name here.
    pub address: u32,
    /// Which thread of the process: a shard's number, or one of the PLACE_ constants.
    pub place: i32,
    parcels: Stack<Parcel>,
    /// The owner sleeps until the bell rings.
    sleep: Sleep,
    bell: Bell,
    /// Room that was granted and is not free again.
    reserved: AtomicUsize,
}

/// What came of a wish for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// So many bytes, at least as many as were asked for.
    Of(usize),
    /// There is no room for so many.
    Full,
    /// There is no such mailbox (any more).
    Gone,
}

impl Mailbox {
    /// Opens one for the calling thread, which is found under `place` from now on unless that is PLACE_NONE.
    pub fn open(place: i32) -> io::Result<Arc<Self>> {
        let mailbox = Arc::new(Self {
            address: LAST_ADDRESS.fetch_add(1, Ordering::Relaxed) + 1,
            place,
            parcels: Stack::default(),
            sleep: Sleep::default(),
            bell: Bell::new()?,
            reserved: AtomicUsize::new(0),
        });
        MAILBOXES.pin().insert(mailbox.address, Arc::downgrade(&mailbox));
        if place != abi::PLACE_NONE {
            PLACES.pin().insert(place, mailbox.address);
        }
        // Whoever it finds from now on has not closed, or will find this one when it closes and tells: one of the two sees the
        // other's change.
        fence(Ordering::SeqCst);
        // Nobody sleeps yet who could have been left sleeping: the first look comes before the first sleep.
        Ok(mailbox)
    }

    /// Becomes readable when something was put in while the owner slept.
    pub fn pollable(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Puts a parcel in; gives it back when the owner is gone. From any thread.
    pub fn put(&self, parcel: Parcel) -> Result<(), Parcel> {
        self.parcels.push(parcel)?;
        if self.sleep.needs_waking() {
            self.bell.ring();
        }
        Ok(())
    }

    /// Grants room for `least` bytes, and some more for what comes next. From any thread.
    pub fn reserve(&self, least: usize) -> Grant {
        // Nobody makes room in it any more: it would be called full, and its successor would not be looked for.
        if self.parcels.is_closed() {
            return Grant::Gone;
        }
        let most = least.max(MAIL_CREDIT_BYTES);
        let granted = |reserved: usize| {
            let free = MAILBOX_MAX_BYTES - reserved;
            (free >= least).then(|| reserved + free.min(most))
        };
        // Room is a count and nothing else: what lies there is handed over by the stack.
        match self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, granted) {
            Ok(before) => Grant::Of((MAILBOX_MAX_BYTES - before).min(most)),
            Err(_) => Grant::Full,
        }
    }

    /// Gives room back.
    pub fn release(&self, bytes: usize) {
        let before = self.reserved.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more room was given back than was granted");
    }

    /// Room that is granted or taken.
    pub fn reserved(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// What was put in, in the order of each sender. Called by the owner.
    pub fn take(&self) -> impl Iterator<Item = Parcel> {
        self.parcels.take()
    }

    /// Whether there is something to take. Called by the owner.
    pub fn has_parcels(&self) -> bool {
        !self.parcels.is_empty()
    }

    /// The owner has nothing to do; false when something came just now. Called by the owner.
    pub fn fall_asleep(&self) -> bool {
        self.sleep.fall_asleep(|| self.has_parcels())
    }

    /// The owner is up: nobody rings until it falls asleep again.
    pub fn wake_up(&self) {
        self.sleep.wake_up();
        self.bell.silence();
    }

    /// The owner is up and cannot go on now: its bell rings until it has come back.
    pub fn come_back(&self) {
        self.bell.ring();
    }

    /// The thread ends, or says and hears nothing any more. What was not read is dropped, and everybody is told.
    pub fn close(&self) {
        // First, so that nobody finds it who is not told.
        // Its successor, if it is there already, stays.
        _ = PLACES.pin().remove_if(&self.place, |_, address| *address == self.address);
        fence(Ordering::SeqCst); // see `open`
        let mailboxes = MAILBOXES.pin();
        if mailboxes.remove(&self.address).is_none() {
            return;
        }
        drop(self.parcels.close());
        for other in mailboxes.values().filter_map(Weak::upgrade) {
            // One that is just closing needs to know nothing.
            _ = other.put(self.gone_note());
        }
    }

    /// A message without a payload that says so.
    fn gone_note(&self) -> Parcel {
        let mut words = [0i32; abi::MAIL_HEADER_WORDS as usize];
        words[abi::MAIL_KIND as usize] = abi::MAIL_GONE;
        words[abi::MAIL_FROM as usize] = self.address as i32;
        words[abi::MAIL_FROM_PLACE as usize] = self.place;
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Parcel { bytes, large: None, cost: 0 }
    }
}

fn with_address(address: u32) -> Option<Arc<Mailbox>> {
    MAILBOXES.pin().get(&address)?.upgrade()
}

/// The address of who is at a place.
pub fn at(place: i32) -> Option<u32> {
    PLACES.pin().get(&place).copied()
}

/// The numbers of all shards, in their order, with their addresses.
pub fn shards() -> Vec<(i32, u32)> {
    let places = PLACES.pin();
    let mut shards: Vec<(i32, u32)> =
        places.iter().map(|(&place, &address)| (place, address)).filter(|&(place, _)| place >= 0).collect();
    shards.sort_unstable();
    shards
}

/// The number of a name. One that nobody has used yet gets one if `make` is set; `None` when it has none, or all
/// [`NAMES_MAX`] are given out.
pub fn name(text: &str, make: bool) -> Option<u32> {
    let names = NAMES.pin();
    if let Some(&number) = names.get(text) {
        return Some(number);
    }
    if !make || names.len() >= NAMES_MAX {
        return None;
    }
    Some(*names.get_or_insert_with(text.into(), || LAST_NAME.fetch_add(1, Ordering::Relaxed) + 1))
}

/// Whom a thread sends to, and what room it has there. Used on its thread.
#[derive(Debug, Default)]
pub struct Correspondence {
    peers: LocalMap<u32, Peer>,
}

#[derive(Debug)]
struct Peer {
    mailbox: Arc<Mailbox>,
    credit: usize,
}

impl Correspondence {
    /// Asks for more room in a mailbox; how much of it there is now.
    pub fn reserve(&mut self, address: u32, least: usize) -> Grant {
        let peer = match self.peers.get_mut(&address) {
            Some(peer) => peer,
            None => {
                let Some(mailbox) = with_address(address) else { return Grant::Gone };
                self.peers.entry(address).or_insert(Peer { mailbox, credit: 0 })
            }
        };
        let grant = peer.mailbox.reserve(least);
        if let Grant::Of(bytes) = grant {
            peer.credit += bytes;
        }
        grant
    }

    /// Sends a parcel, whose cost comes out of the room there. False when the mailbox is gone.
    pub fn send(&mut self, address: u32, parcel: Parcel) -> bool {
        assert!(parcel.bytes.len() <= MAIL_INBOX_BYTES, "a parcel is larger than an inbox");
        if parcel.cost == 0 && !self.peers.contains_key(&address) {
            // An answer, for which no room is needed.
            return with_address(address).is_some_and(|mailbox| mailbox.put(parcel).is_ok());
        }
        let Some(peer) = self.peers.get_mut(&address) else { return false };
        assert!(parcel.cost <= peer.credit, "more was sent than there is room for");
        peer.credit -= parcel.cost;
        match peer.mailbox.put(parcel) {
            Ok(()) => true,
            Err(parcel) => {
                peer.mailbox.release(parcel.cost);
                false
            }
        }
    }

    /// A mailbox is gone.
    pub fn forget(&mut self, address: u32) {
        if let Some(peer) = self.peers.remove(&address) {
            peer.mailbox.release(peer.credit);
        }
    }
}

impl Drop for Correspondence {
    /// The room that was not used is for others.
    fn drop(&mut self) {
        for (_, peer) in self.peers.drain() {
            peer.mailbox.release(peer.credit);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::limits::MAIL_MESSAGE_BYTES;
    use std::thread;

    fn open() -> Arc<Mailbox> {
        Mailbox::open(abi::PLACE_NONE).unwrap()
    }

    fn parcel(first: u8, cost: usize) -> Parcel {
        Parcel { bytes: Box::new([first]), large: None, cost }
    }

    fn kind_and_sender(parcel: &Parcel) -> (i32, u32) {
        let word = |at: i32| {
            let at = at as usize * 4;
            i32::from_ne_bytes(parcel.bytes[at..at + 4].try_into().unwrap())
        };
        (word(abi::MAIL_KIND), word(abi::MAIL_FROM) as u32)
    }

    #[test]
    fn room_is_granted_up_to_the_bound_and_never_past_it() {
        let mailbox = open();
        assert_eq!(mailbox.reserve(1), Grant::Of(MAIL_CREDIT_BYTES), "some more for what comes next");
        assert_eq!(mailbox.reserve(MAILBOX_MAX_BYTES), Grant::Full);
        let rest = MAILBOX_MAX_BYTES - MAIL_CREDIT_BYTES;
        assert_eq!(mailbox.reserve(rest - 10), Grant::Of(rest - 10));
        assert_eq!(mailbox.reserve(11), Grant::Full);
        assert_eq!(mailbox.reserve(9), Grant::Of(10), "what is left");
        assert_eq!(mailbox.reserve(1), Grant::Full);
        mailbox.release(MAILBOX_MAX_BYTES);
        assert_eq!(mailbox.reserved(), 0);
        mailbox.close();
        assert_eq!(mailbox.reserve(1), Grant::Gone);
    }

    #[test]
    fn threads_that_send_and_one_that_reads_never_exceed_the_bound_and_give_all_of_it_back() {
        const SENDERS: u8 = 4;
        const PARCELS: usize = 3_000;
        let mailbox = open();
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let mailbox = mailbox.clone();
                thread::spawn(move || {
                    let mut correspondence = Correspondence::default();
                    let (mut credit, mut sent, mut refused) = (0, 0, 0u64);
                    while sent < PARCELS {
                        let cost = MAIL_MESSAGE_BYTES + (sent * 7919 + usize::from(sender)) % (1 << 20);
                        if credit < cost {
                            match correspondence.reserve(mailbox.address, cost - credit) {
                                Grant::Of(bytes) => credit += bytes,
                                Grant::Full => {
                                    refused += 1;
                                    thread::yield_now();
                                    continue;
                                }
                                Grant::Gone => panic!("it is open"),
                            }
                        }
                        credit -= cost;
                        assert!(correspondence.send(mailbox.address, parcel(sender, cost)));
                        sent += 1;
                    }
                    refused
                })
            })
            .collect();
        let (mut read, mut of_each) = (0, [0; SENDERS as usize]);
        while read < PARCELS * usize::from(SENDERS) {
            assert!(mailbox.reserved() <= MAILBOX_MAX_BYTES);
            // Notes come, too, of mailboxes that the tests beside this one close.
            for parcel in mailbox.take().filter(|parcel| parcel.cost > 0) {
                of_each[usize::from(parcel.bytes[0])] += 1;
                mailbox.release(parcel.cost);
                read += 1;
            }
        }
        senders.into_iter().for_each(|sender| _ = sender.join().unwrap());
        assert_eq!(of_each, [PARCELS; SENDERS as usize]);
        assert_eq!(mailbox.reserved(), 0, "also what they had not used");
        mailbox.close();
    }

    #[test]
    fn whoever_is_there_when_one_closes_is_told_behind_all_that_it_sent() {
        let others: Vec<_> = (0..3).map(|_| open()).collect();
        let mailbox = open();
        for other in &others {
            other.put(parcel(1, 0)).unwrap();
        }
        mailbox.put(parcel(2, 0)).unwrap();
        mailbox.close();
        mailbox.close();
        for other in &others {
            let parcels: Vec<_> = other.take().collect();
            let notes: Vec<_> = parcels[1..].iter().map(kind_and_sender).collect();
            // Tests that run beside this one close mailboxes, too.
            let of_ours = notes.iter().filter(|&&note| note == (abi::MAIL_GONE, mailbox.address)).count();
            assert_eq!((parcels[0].bytes[0], of_ours), (1, 1));
            other.close();
        }
        assert!(mailbox.put(parcel(3, 0)).is_err());
        assert_eq!(mailbox.take().count(), 0);
    }

    #[test]
    fn a_mailbox_that_is_closed_is_freed_with_the_last_who_sent_to_it() {
        let (mailbox, mut correspondence) = (open(), Correspondence::default());
        let (address, left) = (mailbox.address, Arc::downgrade(&mailbox));
        assert!(matches!(correspondence.reserve(address, 100), Grant::Of(_)));
        assert!(correspondence.send(address, parcel(1, 100)));
        mailbox.close();
        drop(mailbox);
        assert!(!correspondence.send(address, parcel(2, 100)));
        assert_eq!(correspondence.reserve(address, MAIL_CREDIT_BYTES), Grant::Gone);
        assert_eq!(
            left.upgrade().map(|mailbox| mailbox.reserved()),
            Some(MAIL_CREDIT_BYTES - 100),
            "what died unread"
        );
        correspondence.forget(address);
        assert_eq!(Weak::strong_count(&left), 0, "the registry holds none");
        assert_eq!(correspondence.reserve(address, 1), Grant::Gone);
        assert!(!correspondence.send(address, parcel(3, 0)));
    }

    #[test]
    fn a_place_is_its_latest_ones_and_stays_when_an_older_one_closes() {
        const PLACE: i32 = 1_000_001;
        let older = Mailbox::open(PLACE).unwrap();
        assert_eq!(at(PLACE), Some(older.address));
        let newer = Mailbox::open(PLACE).unwrap();
        older.close();
        assert_eq!(at(PLACE), Some(newer.address));
        assert!(shards().contains(&(PLACE, newer.address)));
        newer.close();
        assert_eq!(at(PLACE), None);
    }

    #[test]
    fn a_name_has_one_number_in_all_threads() {
        assert_eq!(name("of nobody", false), None);
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(|| name("of a test", true).unwrap())).collect();
        let numbers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(numbers, [numbers[0]; 4]);
        assert_eq!(name("of a test", false), Some(numbers[0]));
        assert_ne!(name("of another test", true), Some(numbers[0]));
    }

    #[test]
    fn mailboxes_that_open_and_close_beside_those_that_send_leave_nothing() {
        let receiver = open();
        let threads: Vec<_> = (0..4u8)
            .map(|number| {
                let address = receiver.address;
                thread::spawn(move || {
                    for _ in 0..200 {
                        let (own, mut correspondence) = (open(), Correspondence::default());
                        assert!(matches!(correspondence.reserve(address, 64), Grant::Of(_)));
                        assert!(correspondence.send(address, parcel(number, 64)));
                        own.close();
                    }
                })
            })
            .collect();
        let (mut sent, mut notes) = (0, 0);
        while sent < 800 || notes < 800 {
            for parcel in receiver.take() {
                receiver.release(parcel.cost);
                if parcel.cost > 0 { sent += 1 } else { notes += 1 }
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(sent, 800);
        assert_eq!(receiver.reserved(), 0);
        receiver.close();
    }
}
