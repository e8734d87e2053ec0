//! A seeded simulation of the shard layer on a network that is made up.

#![allow(clippy::unwrap_used, reason = "tests")]

mod draw;
mod far_end;
mod javascript;
mod ledger;
mod loopback;
mod made;
mod memory;
mod network;
mod peers;
mod planted;
mod program;
mod remote;
mod runs;
mod scenario;
mod shrink;
mod site;
mod stage;
mod system;
mod tally;
mod transport;
mod violation;
mod wire;
mod world;

use planted::Planted;
use runs::{Kind, Run, report, run_all, run_on_loopback};
use shardloop_native::abi;
use shardloop_native::engine::mio::MioEngine;
use shardloop_native::engine::tokio::TokioEngine;
use violation::Invariant;

/// Of each kind of engine. The steps of all are more than a million.
const SEEDS: u64 = 60;
const STEPS: usize = 10_000;

/// What has to come up in the runs of either kind: a name and an event, a reason or an errno.
const USUAL: [(&str, i32); 36] = [
    ("event", abi::EVENT_OPEN),
    ("event", abi::EVENT_DATA),
    ("event", abi::EVENT_EOF),
    ("event", abi::EVENT_CLOSED),
    ("event", abi::EVENT_PAUSE_WRITING),
    ("event", abi::EVENT_RESUME_WRITING),
    ("event", abi::EVENT_OWNED_FLUSHED),
    ("event", abi::EVENT_IDLE),
    ("event", abi::EVENT_ACCEPT_ERROR),
    ("event", abi::EVENT_ANSWERED),
    ("closed", 0),
    ("closed", abi::CLOSE_WRITE_OVERFLOW),
    ("closed", abi::CLOSE_DETACHED),
    ("closed", abi::CLOSE_PROGRAM),
    ("closed", abi::CLOSE_SERVER),
    ("closed", abi::CLOSE_IDLE),
    ("closed", libc::ENOMEM),
    ("closed", libc::ENOBUFS),
    ("closed", libc::EPIPE),
    ("closed", libc::ECONNRESET),
    ("closed", libc::ETIMEDOUT),
    ("closed", libc::EHOSTUNREACH),
    ("accept failed", libc::EAGAIN),
    ("accept failed", libc::EINTR),
    ("accept failed", libc::EPERM),
    ("accept failed", libc::EPROTO),
    ("accept failed", libc::ECONNABORTED),
    ("accept failed", libc::EINVAL),
    ("accept failed", libc::EMFILE),
    ("accept failed", libc::ENFILE),
    ("accept failed", libc::ENOMEM),
    ("accept failed", libc::ENOBUFS),
    ("watch failed", 0),
    ("lingered", 0),
    ("relieved", 0),
    ("adopted", 0),
];

fn run(kind: Kind, unusual: &[(&str, i32)]) {
    if !run_all(kind, SEEDS, STEPS) {
        return; // fewer need not come by everything
    }
    let seen = tally::take();
    let missing: Vec<_> = USUAL.iter().chain(unusual).filter(|&what| !seen.contains_key(what)).collect();
    assert!(missing.is_empty(), "the runs came by everything but {missing:?}: {seen:#?}");
}

#[test]
fn local() {
    run(Kind::Local, &[]);
}

#[test]
fn remote() {
    run(Kind::Remote, &[("front waited", 0), ("given", 0)]);
}

#[test]
fn mio_over_loopback() {
    run_on_loopback(|metrics| MioEngine::open(metrics, None).unwrap(), true, 40, 5_000);
}

#[test]
fn tokio_over_loopback() {
    run_on_loopback(|metrics| TokioEngine::open(metrics, None).unwrap(), false, 40, 5_000);
}

/// A planted bug is found within some seeds, and what is left of the run is short and still fails.
fn finds(kind: Kind, planted: Planted, invariants: &[Invariant]) {
    let runs = (0..200).map(|seed| Run::of(kind, seed, Some(planted), 1_000));
    let found = runs.filter_map(|run| run.go().err().map(|violation| (run, violation))).next();
    let (run, violation) = found.unwrap_or_else(|| panic!("{planted:?} was not found"));
    assert!(invariants.contains(&violation.invariant), "{planted:?} was found as {violation:?}");
    let (small, found) = shrink::shrink(run.clone(), violation.clone());
    println!("{planted:?}: {:?}, {} steps", found.invariant, small.steps.len());
    assert_eq!(found.invariant, violation.invariant);
    assert!(small.steps.len() <= 100, "{}", report(run, violation));
    assert_eq!(
        small.go().unwrap_err().invariant,
        violation.invariant,
        "it is not the same when it runs again"
    );
}

macro_rules! planted_bugs_are_found {
    ($($name:ident: $kind:ident, $planted:ident => $($invariant:ident)|+;)*) => {
        mod planted_bug { use super::*; $(
            #[test]
            fn $name() { finds(Kind::$kind, Planted::$planted, &[$(Invariant::$invariant),+]); }
        )* }
    };
}

planted_bugs_are_found! {
    a_read_that_loses_a_byte: Local, LoseByte => Inbound;
    a_read_that_gives_a_byte_twice: Remote, RepeatByte => Inbound;
    a_send_that_loses_a_byte: Remote, LoseSentByte => Outbound | Pins;
    a_lost_edge_on_the_own_thread: Local, LoseEdge => Liveness;
    a_lost_edge_on_another_thread: Remote, LoseEdge => Liveness;
    a_socket_that_stays_open: Local, LeakSocket => Leaks | Liveness;
    a_closed_event_that_gets_lost: Local, SwallowClosed => Liveness | Slots | Ends;
    a_closed_event_that_comes_twice: Remote, RepeatClosed => Ends;
    a_resume_that_gets_lost: Local, SwallowResume => Alternation | Liveness;
    a_slot_that_is_freed_early: Local, FreeEarly => Slots;
    a_pin_that_is_let_go_twice: Local, ReleaseTwice => Pins;
    a_back_that_is_not_woken: Remote, LoseWake => Liveness;
    a_front_that_is_not_woken: Remote, LoseRing => Liveness;
}
