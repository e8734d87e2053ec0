//! The stack that mailboxes are made of, under loom; see `rings.rs`. The code is the library's own (`src/stack.rs`).

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "the models use parts of it")]

#[path = "loom_sync/mod.rs"]
mod sync;

#[path = "../src/stack.rs"]
mod stack;

use loom::thread;
use stack::Stack;
use sync::{Arc, AtomicBool, Ordering, fence};

/// Whose item it is, and which.
type Item = (u8, u8);

/// Those of each sender must come in the order in which it sent them.
fn check_order(seen: &[Item]) {
    for sender in 0..3 {
        let numbers: Vec<u8> = seen.iter().filter(|item| item.0 == sender).map(|item| item.1).collect();
        assert!(numbers.is_sorted(), "items of sender {sender} came as {numbers:?}");
    }
}

fn pushing(stack: &Arc<Stack<Item>>, sender: u8, count: u8) -> thread::JoinHandle<usize> {
    let stack = stack.clone();
    thread::spawn(move || (0..count).filter(|&number| stack.push((sender, number)).unwrap()).count())
}

/// Orders with so many preemptions; of all there are too many.
fn few(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn nothing_is_lost_or_doubled_and_each_senders_items_keep_their_order() {
    few(3, || {
        let stack = Arc::new(Stack::default());
        let pushing = [pushing(&stack, 0, 2), pushing(&stack, 1, 2)];
        let mut seen: Vec<Item> = stack.take().collect();
        seen.extend(stack.take());
        for thread in pushing {
            thread.join().unwrap();
        }
        seen.extend(stack.take());
        check_order(&seen);
        seen.sort_unstable();
        assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1)]);
    });
}

#[test]
fn one_that_finds_it_empty_is_told_for_each_time_that_it_was_emptied() {
    loom::model(|| {
        let stack = Arc::new(Stack::default());
        let pushing = [pushing(&stack, 0, 1), pushing(&stack, 1, 1)];
        let taken = stack.take().count();
        let firsts: usize = pushing.into_iter().map(|thread| thread.join().unwrap()).sum();
        // Once for the items that wait now, if any, and once for those that were taken, if any.
        let expected = usize::from(taken > 0) + usize::from(!stack.is_empty());
        assert_eq!(firsts, expected, "{taken} were taken");
    });
}

#[test]
fn what_is_pushed_when_it_closes_comes_out_or_back() {
    loom::model(|| {
        let stack = Arc::new(Stack::<Item>::default());
        let its = stack.clone();
        let pushing =
            thread::spawn(move || (0..2).map(|number| its.push((0, number)).is_ok()).collect::<Vec<_>>());
        let seen: Vec<Item> = stack.close().collect();
        let accepted = pushing.join().unwrap();
        assert_eq!(seen.len(), accepted.iter().filter(|&&accepted| accepted).count());
        assert!(accepted != [false, true], "it took something in after it was closed");
        assert_eq!(stack.take().count() + stack.close().count(), 0);
    });
}

#[test]
fn an_owner_that_sleeps_is_woken_for_what_comes() {
    few(3, || {
        // As `pipe::Sleep` does it, which `rings.rs` has the models of: here with several who push.
        let shared = Arc::new((Stack::<Item>::default(), AtomicBool::new(false)));
        let threads: Vec<_> = (0..2)
            .map(|sender| {
                let shared = shared.clone();
                thread::spawn(move || {
                    shared.0.push((sender, 0)).unwrap();
                    fence(Ordering::SeqCst);
                    shared.1.load(Ordering::Relaxed) && shared.1.swap(false, Ordering::Relaxed)
                })
            })
            .collect();
        let (stack, asleep) = &*shared;
        stack.take().count();
        asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let sleeps = stack.is_empty();
        let woken: usize = threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum();
        if sleeps && !stack.is_empty() {
            assert!(woken >= 1, "it sleeps although something waits");
        }
        assert!(woken <= 1, "it is woken {woken} times");
    });
}
