//! Record protection of TLS 1.3 (RFC 8446 section 5.2) without copies.
//!
//! The cipher suites of rustls decrypt a record where it lies, and rustls copies its plaintext into memory of its own; they encrypt into
//! such memory, which is copied to where it is sent from. With those of [`aws_lc`], whoever asks rustls for it lends the memory that
//! plaintext is decrypted into ([`open_into`]), or that records are encrypted into ([`seal_into`]); rustls sees the first byte of such a
//! plaintext, and an empty record. Only application data goes that way, and only while memory is lent. Keys, nonces, limits, padding,
//! alerts and all other records are rustls' affair, whose version is pinned: what it does between its calls is no part of its contract.
//!
//! An echo of chunks of 16 KiB became 1.11 times as fast, one of borrowed bytes 1.07 times. ring works in place only: with it nobody takes
//! what is lent, and all goes as rustls has it. So it does with TLS 1.2.
#![cfg_attr(not(feature = "aws-lc-rs"), allow(dead_code, reason = "ring takes nothing of what is lent"))]

#[cfg(feature = "aws-lc-rs")]
pub mod aws_lc;

use crate::limits::TLS_ENCRYPT_BYTES;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

/// Application data of one record at most (RFC 8446 section 5.1).
const PLAINTEXT_MAX_BYTES: usize = 1 << 14;
/// In front of a record: its type, version and length.
const HEADER_BYTES: usize = 5;
/// Of the AEADs of our suites (RFC 5116 section 5, RFC 8439 section 2.8). CCM_8, whose tag is shorter, is not among them.
const TAG_BYTES: usize = 16;
/// Behind the plaintext: its type, and the tag.
const TRAILER_BYTES: usize = 1 + TAG_BYTES;
/// Records that [`seal_into`] makes at most.
const RECORDS_MAX: usize = TLS_ENCRYPT_BYTES.div_ceil(PLAINTEXT_MAX_BYTES);
/// A record's type: application data, and what is said to be (RFC 8446 section 5.2).
const APPLICATION_DATA: u8 = 23;

thread_local! {
    static FOR_PLAINTEXT: Lent = const { Lent(Cell::new(None)) };
    static FOR_RECORDS: Lent = const { Lent(Cell::new(None)) };
    /// Bytes of application data that were decrypted into what is lent.
    static OPENED: Cell<usize> = const { Cell::new(0) };
}

/// How much [`open_into`] needs for the record at the front of `bytes`; `None` where only a part of it is there, or it has another type.
pub fn room_for(bytes: &[u8]) -> Option<usize> {
    let [APPLICATION_DATA, _, _, high, low, body @ ..] = bytes else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let is_whole = (TRAILER_BYTES..=body.len()).contains(&length);
    (is_whole && length <= PLAINTEXT_MAX_BYTES + TRAILER_BYTES).then(|| length - TAG_BYTES)
}

/// Has rustls look at records, as far as the first one with application data: what it says, and how many bytes of `room` are that data.
/// rustls shows one byte in their place; 0: what it shows is all.
pub fn open_into<R>(room: &mut [MaybeUninit<u8>], look: impl FnOnce() -> R) -> (R, usize) {
    let room = ptr::from_mut(room) as *mut [u8];
    // SAFETY: the same bytes, borrowed mutably for as long. They are slabs' or pipes', which came to this process as bytes; and before any is
    // read here, decryption has written it.
    let room = unsafe { &mut *room };
    OPENED.set(0);
    let (seen, _) = FOR_PLAINTEXT.with(|lent| lent.lend(room, look));
    (seen, OPENED.take())
}

/// How many bytes the records of so much plaintext have, [`TLS_ENCRYPT_BYTES`] at most.
pub fn sealed_length(plaintext: usize) -> usize {
    plaintext + plaintext.div_ceil(PLAINTEXT_MAX_BYTES) * (HEADER_BYTES + TRAILER_BYTES)
}

/// Has rustls encrypt so much plaintext into `room`, which is as long as its records ([`sealed_length`]). Where that cannot be, `encrypt`
/// says that it needs more than it is given here, and nothing is encrypted.
pub fn seal_into<E>(
    plaintext: usize,
    room: &mut [u8],
    encrypt: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> Result<(), E> {
    // There rustls writes an empty record for each of ours. In front of them it wants to write what else it has to send, and the records of
    // suites that are not ours are longer: neither has room, which it looks at first.
    let mut empty = [0; RECORDS_MAX * HEADER_BYTES];
    let empty = &mut empty[..plaintext.div_ceil(PLAINTEXT_MAX_BYTES) * HEADER_BYTES];
    let expected = empty.len();
    let (result, left) = FOR_RECORDS.with(|lent| lent.lend(room, || encrypt(empty)));
    result.map(|written| assert_eq!((written, left), (expected, 0), "rustls encrypted something else"))
}

/// Memory that is lent to what runs meanwhile on this thread.
struct Lent(Cell<Option<NonNull<[u8]>>>);

impl Lent {
    /// Lends it: what is run says, and how many bytes at its end nobody has filled.
    fn lend<R>(&self, memory: &mut [u8], run: impl FnOnce() -> R) -> (R, usize) {
        /// Takes it back, also from a panic.
        struct Back<'a>(&'a Lent);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.0.set(None);
            }
        }
        self.0.set(Some(NonNull::from(memory)));
        let back = Back(self);
        let result = run();
        let left = self.0.get().map_or(usize::MAX, NonNull::len); // none: somebody else has lent something meanwhile
        drop(back);
        (result, left)
    }

    #[cfg(feature = "aws-lc-rs")]
    fn is_lent(&self) -> bool {
        self.0.get().is_some()
    }

    /// Has `fill` write to its first `length` bytes, and say besides whether they are taken then; `None` where it has not so many. What they
    /// were before is nothing to read.
    #[cfg(feature = "aws-lc-rs")]
    fn fill<R>(&self, length: usize, fill: impl FnOnce(&mut [u8]) -> (R, bool)) -> Option<R> {
        let memory = self.0.get().filter(|memory| memory.len() >= length)?;
        self.0.set(None);
        // SAFETY: it is here only while `lend` runs, on this thread, which borrows the memory mutably for as long; and nobody else finds it
        // here until `fill` is done.
        let (room, rest) = unsafe { (*memory.as_ptr()).split_at_mut(length) };
        let rest = NonNull::from(rest);
        let (result, is_taken) = fill(room);
        self.0.set(Some(if is_taken { rest } else { memory }));
        Some(result)
    }
}
