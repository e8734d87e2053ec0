//! The rings between two threads under loom, which tries every order in which they may run and every value that a read may
//! see: models are small, but nothing is left to luck. The code is the library's own (`src/pipe.rs`); what it is built of is
//! loom's.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "the models use parts of it")]

#[path = "loom_sync/mod.rs"]
mod sync;

#[path = "../src/pipe.rs"]
mod pipe;

use loom::thread;
use pipe::{Reader, Sleep, Wish, Writer, pipe};
use sync::Arc;

fn put(writer: &mut Writer, byte: u8) -> bool {
    if writer.room() == 0 {
        return false;
    }
    let Some(space) = writer.space(64, 64) else { return false };
    space[0].write(byte);
    writer.push([i32::from(byte), 0, 0, 0], 1);
    true
}

/// Takes what waits; the numbers must go on from `from`.
fn take(reader: &mut Reader, from: u8) -> u8 {
    let count = reader.len();
    for index in 0..count {
        let expected = from + index as u8;
        let (words, bytes) = reader.get(index);
        assert_eq!((words[0], bytes), (i32::from(expected), &[expected][..]));
    }
    reader.advance(count);
    reader.release();
    from + count as u8
}

#[test]
fn entries_and_bytes_arrive_whole_and_in_order_and_no_place_is_used_while_it_is_read() {
    loom::model(|| {
        // Two entries and two blocks: the third write waits for the reader, and wraps.
        let (mut writer, mut reader) = pipe(2, 128).unwrap();
        let writing = thread::spawn(move || {
            let mut next = 0;
            while next < 3 {
                if put(&mut writer, next) {
                    next += 1;
                }
                writer.publish();
                if next < 3 {
                    thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < 3 {
            next = take(&mut reader, next);
            if next < 3 {
                thread::yield_now();
            }
        }
        writing.join().unwrap();
    });
}

#[test]
fn several_entries_of_one_store_are_all_there() {
    loom::model(|| {
        let (mut writer, mut reader) = pipe(4, 256).unwrap();
        let writing = thread::spawn(move || {
            assert!(put(&mut writer, 0) && put(&mut writer, 1));
            writer.publish();
        });
        let seen = take(&mut reader, 0);
        assert!(seen == 0 || seen == 2, "half of what was published is there");
        writing.join().unwrap();
        assert_eq!(take(&mut reader, seen), 2);
    });
}

#[test]
fn a_sleeper_is_woken_or_sees_the_work_itself_and_is_woken_by_one() {
    loom::model(|| {
        let (mut writer, reader) = pipe(4, 256).unwrap();
        let sleep = Arc::new(Sleep::default());
        let waker = sleep.clone();
        let waking = thread::spawn(move || {
            let mut wakes = 0;
            for byte in 0..2 {
                assert!(put(&mut writer, byte));
                writer.publish();
                wakes += usize::from(waker.needs_waking());
            }
            wakes
        });
        let sleeps = sleep.fall_asleep(|| !reader.is_empty());
        let wakes = waking.join().unwrap();
        assert!(!sleeps || wakes == 1, "it sleeps, and was woken {wakes} times");
        assert!(wakes <= 1);
    });
}

#[test]
fn a_writer_that_sleeps_for_want_of_room_is_woken_by_whatever_is_given_back() {
    // Orders with so many preemptions; of all there are too many.
    let mut few = loom::model::Builder::new();
    few.preemption_bound = Some(3);
    few.check(|| {
        let (mut writer, mut reader) = pipe(2, 64).unwrap();
        writer.push([0; 4], 0);
        writer.push([0; 4], 0);
        writer.publish();
        let shared = Arc::new((Sleep::default(), Wish::default()));
        let its = shared.clone();
        let reading = thread::spawn(move || {
            let (sleep, wish) = &*its;
            assert_eq!(reader.len(), 2);
            for _ in 0..2 {
                reader.advance(1);
                if reader.release() && wish.is_said() {
                    sleep.needs_waking();
                }
            }
        });
        let (sleep, wish) = &*shared;
        let mut slept_since = None;
        // It may be up for another reason, with its wish still said.
        for _ in 0..2 {
            sleep.wake_up();
            let taken = writer.released();
            let full = taken < 2;
            wish.say(full);
            let sleeps = sleep.fall_asleep(|| !full || writer.released() != taken);
            slept_since = sleeps.then_some(taken);
        }
        reading.join().unwrap();
        if slept_since.is_some_and(|taken| writer.released() != taken) {
            assert!(!sleep.needs_waking(), "it sleeps although something was given back");
        }
    });
}
