//! What the two halves of an engine owe each other.

#![allow(clippy::unwrap_used, reason = "tests")]

mod endpoints;
mod world;

#[path = "../taken/mod.rs"]
mod taken;

use shardloop_native::abi;
use shardloop_native::audience::{Seat, broadcast};
use shardloop_native::engine::Engine;
use shardloop_native::engine::remote::{Back, Caller, Driver, Front, PipeSizes, halves};
use shardloop_native::limits::DATAGRAM_FAILURES_MAX;
use shardloop_native::net::addresses::Address;
use shardloop_native::net::datagram_address::AddressForm;
use shardloop_native::net::udp::{DatagramSocket, OpenOptions};
use shardloop_native::shard::EndpointLimits;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use taken::{NothingPinned, Taken};
use world::{Edges, Given};

/// Both in one thread, which runs the back when it likes.
struct ByHand;

impl Driver for ByHand {
    fn wake(&self) {}
    fn wait(&mut self) {
        panic!("nothing waits for the back here");
    }
    fn silence(&self) {}
}

impl Caller for ByHand {
    fn ring(&self) {}
    fn resume(&self) {}
}

/// An endpoint of this number that has failed in so many ways, one after the other.
fn failed_endpoint(back: &mut Back<Edges>, number: u32, failures: usize) {
    let local = Some(Address::Ip("127.0.0.1:0".parse().unwrap()));
    let socket = DatagramSocket::open(&OpenOptions { local, ..OpenOptions::default() }).unwrap();
    let limits = EndpointLimits { write_high_bytes: 1 << 20, write_low_bytes: 0, write_max_bytes: 1 << 20 };
    back.shard_mut().add_endpoint(Instant::now(), number, Arc::new(socket), limits).unwrap();
    let to = AddressForm::of(&Address::Ip("127.0.0.1:9".parse().unwrap()));
    let nowhere = AddressForm::of(&Address::Ip("127.0.0.1:0".parse().unwrap()));
    for failure in 0..failures {
        let (to, length) = if failure % 2 == 0 { (&to, 65_508) } else { (&nowhere, 1) };
        let bytes = [to.as_bytes(), &vec![0; length]].concat();
        let record = [abi::COMMAND_DATAGRAM, number as i32, 0, bytes.len() as i32];
        back.shard_mut().submit(Instant::now(), &Given(vec![(record, bytes)]));
    }
}

#[test]
fn the_back_sleeps_when_there_is_no_room_for_all_that_an_endpoint_has_to_tell_and_tells_the_rest_later() {
    // However much of it fits, and however many endpoints there are.
    for entries in [8, 16, 32, 64] {
        let sizes = PipeSizes { entries, event_bytes: 1 << 12, command_bytes: 1 << 20 };
        let (mut front, seed) = halves(ByHand, sizes).unwrap();
        let mut back = seed.grow(Edges::default(), Arc::default(), None, Box::new(ByHand), Instant::now());
        let most = DATAGRAM_FAILURES_MAX;
        for number in 0..4 {
            failed_endpoint(&mut back, number, most);
        }
        let mut taken = Taken::default();
        let deadline = Instant::now() + Duration::from_secs(10);
        while taken.0.len() < 4 * most {
            back.wake_up();
            let mut turns = 0;
            while {
                back.turn(Instant::now());
                !back.fall_asleep()
            } {
                turns += 1;
                assert!(turns < 20, "it turns for nothing, with {} told and {entries} places", taken.0.len());
            }
            front.collect(Instant::now(), &mut taken, &NothingPinned);
            front.end_batch(Instant::now());
            assert!(Instant::now() < deadline, "only {} were told", taken.0.len());
        }
        for number in 0..4 {
            let its: Vec<_> =
                taken.0.iter().filter(|event| event.handle == number).map(|event| event.a).collect();
            // For a port that nobody can have each system has an errno of its own.
            let expected: Vec<_> = (0..most).map(|n| [libc::EMSGSIZE, its[1]][n % 2]).collect();
            assert_eq!(its, expected, "in order, each once");
        }
    }
}

/// The back on a thread of its own, as the front has it.
struct Apart {
    back: Thread,
    /// The front sleeps, or is about to.
    waits: Arc<AtomicBool>,
}

impl Driver for Apart {
    fn wake(&self) {
        self.back.unpark();
    }
    fn wait(&mut self) {
        self.waits.store(true, Ordering::SeqCst);
        let began = Instant::now();
        thread::park_timeout(Duration::from_secs(10));
        assert!(began.elapsed() < Duration::from_secs(10), "nobody has woken the front");
    }
    fn silence(&self) {}
}

struct FrontThread(Thread);

impl Caller for FrontThread {
    fn ring(&self) {}
    fn resume(&self) {
        self.0.unpark();
    }
}

#[test]
fn a_call_that_is_answered_only_because_a_broadcast_was_heard_is_told_to_who_waits_for_it() {
    let (waits, ends) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (turn_began, turn_begins) = mpsc::channel();
    let (send_seed, take_seed) = mpsc::channel();
    let front_thread = thread::current();
    let (waits_too, ends_too) = (waits.clone(), ends.clone());
    let back_thread = thread::spawn(move || {
        let seed: shardloop_native::engine::remote::Seed<Edges> = take_seed.recv().unwrap();
        // It wakes nobody: the turn that it would wake for is the first one.
        let seat = Seat::take(Seat::number(), || {});
        assert_eq!(broadcast("a topic", b"bytes", None).refused, 0);
        let armed = ends_too.clone();
        let mut is_first = true;
        // In the middle of the first turn, which has applied what there was and has yet to hear: the front calls, and waits.
        let between = move || {
            if !std::mem::take(&mut is_first) {
                return;
            }
            turn_began.send(()).unwrap();
            while !waits_too.load(Ordering::SeqCst) && !armed.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        };
        let edges = Edges { between: Some(Box::new(between)), seat: Some(seat), ..Edges::default() };
        let caller = Box::new(FrontThread(front_thread));
        let mut back = seed.grow(edges, Arc::default(), None, caller, Instant::now());
        while !ends_too.load(Ordering::SeqCst) {
            back.wake_up();
            back.turn(Instant::now());
            if back.fall_asleep() {
                thread::park();
            }
        }
    });
    let driver = Apart { back: back_thread.thread().clone(), waits };
    let (mut front, seed): (Front<Edges, Apart>, _) = halves(driver, PipeSizes::default()).unwrap();
    send_seed.send(seed).map_err(|_| "the back is gone").unwrap();
    turn_begins.recv().unwrap();
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| front.call(|_| 7)));
    ends.store(true, Ordering::SeqCst);
    back_thread.thread().unpark();
    back_thread.join().unwrap();
    assert_eq!(answer.unwrap(), 7);
}
