//! Runs by their seeds: many of them, or one again; what fails is made small and told.
#![forbid(unsafe_code)]

use crate::draw::Draw;
use crate::loopback::LoopbackStage;
use crate::made::Made;
use crate::network::Net;
use crate::planted::Planted;
use crate::remote::RemoteStage;
use crate::scenario::Scenario;
use crate::shrink::shrink;
use crate::stage::LocalStage;
use crate::violation::{self, Violation};
use crate::world::World;
use shardloop_native::engine::SocketEngine;
use shardloop_native::metrics::Metrics;
use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which engine runs the shard layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Local,
    Remote,
}

/// One run: all that happens in it follows from this.
#[derive(Debug, Clone)]
pub struct Run {
    pub kind: Kind,
    pub seed: u64,
    pub planted: Option<Planted>,
    /// A seed for each step. Taking one out leaves the others as they are.
    pub steps: Vec<u64>,
}

impl Run {
    /// Of a seed.
    pub fn of(kind: Kind, seed: u64, planted: Option<Planted>, steps: usize) -> Self {
        let mut draw = Draw::new(!seed);
        Self { kind, seed, planted, steps: (0..steps).map(|_| draw.word()).collect() }
    }

    /// To the end, or to a violation.
    pub fn go(&self) -> Result<(), Violation> {
        violation::watch(|| self.go_through())
    }

    /// As [`Run::go`]; also what happened.
    pub fn go_and_trace(&self) -> (Result<(), Violation>, Vec<String>) {
        violation::watch_and_trace(|| self.go_through())
    }

    fn go_through(&self) {
        let scenario = Scenario::of(self.seed, self.planted);
        // Far from the zero of its clock, as it would be on a machine that has just started.
        let now = Instant::now() + Duration::from_secs(1);
        let net = Net::new(now, scenario.style, scenario.faults, self.planted);
        let made = Made::new(net);
        let metrics = Arc::<Metrics>::default();
        match self.kind {
            Kind::Local => {
                let stage = LocalStage::new(made, metrics.clone());
                World::new(scenario, stage, metrics).go(&self.steps);
            }
            Kind::Remote => {
                let stage = RemoteStage::new(made, metrics.clone(), scenario.eager, scenario.pipes);
                World::new(scenario, stage, metrics).go(&self.steps);
            }
        }
    }
}

/// The number that an environment variable has.
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} takes a number, not {text}")))
}

/// Runs so many seeds, or the one that SHARDLOOP_SIM_SEED names, or as many as SHARDLOOP_SIM_SEEDS says; each for so many
/// steps, or for SHARDLOOP_SIM_STEPS. Whether neither was named.
pub fn run_all(kind: Kind, seeds: u64, steps: usize) -> bool {
    let steps = number("SHARDLOOP_SIM_STEPS").map_or(steps, |steps| steps as usize);
    let first = number("SHARDLOOP_SIM_SEED");
    let seeds = if first.is_some() { 1 } else { number("SHARDLOOP_SIM_SEEDS").unwrap_or(seeds) };
    for seed in (0..seeds).map(|index| first.unwrap_or(0) + index) {
        let run = Run::of(kind, seed, None, steps);
        if let Err(violation) = run.go() {
            panic!("{}", report(run, violation));
        }
    }
    first.is_none() && number("SHARDLOOP_SIM_SEEDS").is_none() && number("SHARDLOOP_SIM_STEPS").is_none()
}

/// The same scenario on the kernel's sockets. How it goes is not in our hands, so a run does not come again as it was.
pub fn run_on_loopback<E: SocketEngine>(
    open: impl Fn(Arc<Metrics>) -> E,
    is_immediate: bool,
    seeds: u64,
    steps: usize,
) {
    for seed in 0..seeds {
        let Run { steps, .. } = Run::of(Kind::Local, seed, None, steps);
        let scenario = Scenario { dies: false, ..Scenario::of(seed, None) };
        let metrics = Arc::<Metrics>::default();
        let stage = LoopbackStage::new(open(metrics.clone()), is_immediate);
        let (result, trace) = violation::watch_and_trace(|| World::new(scenario, stage, metrics).go(&steps));
        if let Err(violation) = result {
            let last = &trace[trace.len().saturating_sub(200)..];
            panic!("seed {seed}: {violation:?}\n{}", last.join("\n"));
        }
    }
}

/// What failed, how to see it again, and the smallest run that fails so.
pub fn report(run: Run, violation: Violation) -> String {
    let (seed, steps) = (run.seed, run.steps.len());
    let test = format!("{:?}", run.kind).to_lowercase();
    let (small, found) = shrink(run, violation.clone());
    let (_, trace) = small.go_and_trace();
    format!(
        "seed {seed}: {:?}: {}\n\
         again: SHARDLOOP_SIM_SEED={seed} SHARDLOOP_SIM_STEPS={steps} cargo test -p shardloop-native --test simulation {test}\n\
         {} of its {steps} steps are enough:\n{}\n{:?}: {}",
        violation.invariant,
        violation.message,
        small.steps.len(),
        trace.join("\n"),
        found.invariant,
        found.message,
    )
}
