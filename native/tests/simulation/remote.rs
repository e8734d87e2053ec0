//! The two halves of the shard layer in one thread: the seed says when the back runs, also in the middle of what the front
//! does.
#![forbid(unsafe_code)]

use crate::made::Made;
use crate::network::{Id, Net};
use crate::planted::Planted;
use crate::site::Site;
use crate::stage::Stage;
use crate::system::{Elsewhere, SimSystem};
use crate::tally;
use crate::violation::{ensure, note};
use parking_lot::Mutex;
use shardloop_native::engine::Engine;
use shardloop_native::engine::remote::{Back, Caller, Driver, Front, Neighbours, PipeSizes, Take, halves};
use shardloop_native::limits::TURNS_PER_POLL;
use shardloop_native::metrics::Metrics;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// How the two reach each other.
#[derive(Debug, Default)]
struct Bells {
    /// The back is to run.
    woken: Cell<bool>,
    /// The front's loop is to turn.
    rung: Cell<bool>,
    /// The front need not wait any more.
    resumed: Cell<bool>,
}

/// What runs the back.
struct Thread {
    net: Arc<Mutex<Net>>,
    bells: Rc<Bells>,
    back: RefCell<Option<Back<SimSystem>>>,
    /// It has turned, and has not looked yet whether it may sleep.
    turned: Cell<bool>,
    /// In percent of the moments at which it may run in the middle of what the front does: it does.
    eager: u32,
}

impl Thread {
    fn strikes(&self, planted: Planted) -> bool {
        let mut net = self.net.lock();
        !net.wires.is_empty() && net.strikes(planted, 20)
    }

    /// Whether it has a reason to run.
    fn is_runnable(&self) -> bool {
        let net = self.net.lock();
        let due = self.next_wake().is_some_and(|at| at <= net.now);
        self.bells.woken.get() || due || (net.has_word() && !net.word_heard)
    }

    fn next_wake(&self) -> Option<Instant> {
        self.back.borrow().as_ref().and_then(Back::next_wake)
    }

    /// Runs it, if it has a reason. Whether it had.
    fn run(&self) -> bool {
        if !self.is_runnable() {
            return false;
        }
        self.run_now();
        true
    }

    /// Runs it, up to a moment at which the front may come in between.
    fn run_now(&self) {
        let mut back = self.back.borrow_mut();
        let Some(back) = back.as_mut() else { return };
        note(|| "  the back runs".into());
        self.bells.woken.set(false);
        if self.turned.take() {
            if back.fall_asleep() {
                return;
            }
        } else {
            back.wake_up();
        }
        let turns = {
            let mut net = self.net.lock();
            net.word_heard = net.has_word();
            1 + net.draw.below(TURNS_PER_POLL)
        };
        for _ in 0..turns {
            let now = self.net.lock().now;
            back.turn(now);
            let comes_between = self.net.lock().draw.chance(self.eager);
            if comes_between {
                self.turned.set(true);
                break;
            }
            if back.fall_asleep() {
                return;
            }
        }
        self.bells.woken.set(true); // there is more to do
    }

    /// It may run now, as a thread of its own would.
    fn may_run(&self, percent: u32) {
        let runs = self.net.lock().draw.chance(percent);
        if runs {
            self.run();
        }
    }
}

/// The thread as the front has it.
pub struct Beside(Rc<Thread>);

impl Driver for Beside {
    fn wake(&self) {
        if !self.0.strikes(Planted::LoseWake) {
            self.0.bells.woken.set(true);
        }
        self.0.may_run(self.0.eager);
    }

    fn wait(&mut self) {
        tally::count("front waited", 0);
        while !self.0.bells.resumed.take() {
            let early = self.0.net.lock().draw.once_in(50);
            if early && self.0.is_runnable() {
                return;
            }
            ensure!(self.0.run(), Liveness, "the front waits, and the back has no reason to run");
        }
    }

    fn silence(&self) {
        self.0.may_run(self.0.eager);
        self.0.bells.rung.set(false);
        self.0.may_run(self.0.eager);
    }
}

/// The front as the back has it.
struct Above {
    bells: Rc<Bells>,
    net: Arc<Mutex<Net>>,
}

impl Caller for Above {
    fn ring(&self) {
        if !self.net.lock().strikes(Planted::LoseRing, 20) {
            self.bells.rung.set(true);
        }
    }

    fn resume(&self) {
        self.bells.resumed.set(true);
    }
}

/// The other shards, as the back has them.
struct Others(Arc<Mutex<Elsewhere>>);

impl Neighbours<SimSystem> for Others {
    fn give(&self, take: &mut Take<'_, SimSystem>) {
        let servers = self.0.lock().servers.clone();
        let left = take(&|server| servers.contains(&server));
        note(|| format!("    {} are given to others", left.len()));
        tally::add("given", 0, left.len() as u64);
        self.0.lock().left.extend(left);
    }
}

/// See the module.
pub struct RemoteStage {
    // Dropped first: its driver ends the thread.
    engine: Front<SimSystem, Beside>,
    thread: Rc<Thread>,
    made: Made,
}

impl RemoteStage {
    /// On this network.
    pub fn new(made: Made, metrics: Arc<Metrics>, eager: u32, pipes: PipeSizes) -> Self {
        let (net, bells) = (made.net.clone(), Rc::<Bells>::default());
        bells.woken.set(true); // a new thread runs
        let thread = Rc::new(Thread {
            net: net.clone(),
            bells: bells.clone(),
            back: RefCell::new(None),
            turned: Cell::new(false),
            eager,
        });
        let (engine, seed) = halves(Beside(thread.clone()), pipes).expect("memory for two pipes");
        let others = Box::new(Others(made.elsewhere.clone()));
        let above = Box::new(Above { bells, net });
        let back = seed.grow(made.system(), metrics, Some(others), above, made.now());
        *thread.back.borrow_mut() = Some(back);
        Self { engine, thread, made }
    }
}

impl Stage for RemoteStage {
    type Engine = Front<SimSystem, Beside>;
    type Site = Made;

    fn engine(&mut self) -> &mut Self::Engine {
        &mut self.engine
    }

    fn site(&mut self) -> &mut Made {
        &mut self.made
    }

    fn is_called(&mut self) -> bool {
        self.thread.bells.rung.get()
    }

    fn turn(&mut self) -> bool {
        self.thread.run()
    }

    fn turn_for_nothing(&mut self) {
        self.thread.run_now();
        while self.thread.run() {}
    }

    fn end(self) -> Made {
        let Self { engine, thread, made } = self;
        drop(engine);
        *thread.back.borrow_mut() = None;
        made
    }

    fn retire(&mut self) -> Vec<Id> {
        let left = self.engine.retire();
        self.made.leave(left)
    }

    fn abandon(&mut self) -> Vec<Id> {
        let left = self.engine.abandon();
        self.made.leave(left)
    }

    fn next_wake(&self) -> Option<Instant> {
        self.thread.next_wake()
    }

    fn is_immediate(&self) -> bool {
        false
    }
}
