//! Where a scenario runs: an engine on a network. And the simplest: the shard layer on JavaScript's thread.
#![forbid(unsafe_code)]

use crate::made::Made;
use crate::network::Id;
use crate::site::Site;
use crate::system::SimSystem;
use shardloop_native::engine::Engine;
use shardloop_native::engine::local::Local;
use shardloop_native::metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An engine on a network.
pub trait Stage {
    /// The engine.
    type Engine: Engine<Listener = <Self::Site as Site>::Listener>;
    /// The network.
    type Site: Site;

    /// The engine.
    fn engine(&mut self) -> &mut Self::Engine;
    /// The network.
    fn site(&mut self) -> &mut Self::Site;
    /// Whether what JavaScript's loop waits for is readable.
    fn is_called(&mut self) -> bool;
    /// Lets what runs beside JavaScript work, if it has a reason. Whether it had.
    fn turn(&mut self) -> bool;
    /// Lets it work though it has none.
    fn turn_for_nothing(&mut self) {}
    /// When that has to work though nothing has happened.
    fn next_wake(&self) -> Option<Instant>;
    /// Waits until something may have happened, or so much time has passed.
    fn wait(&mut self, most: Duration) {
        self.site().pass(most);
    }
    /// Whether nothing happens by itself: what need not be done now need not be done later.
    fn is_still(&self) -> bool {
        true
    }
    /// As [`Engine::retire`]; who it was that other shards got.
    fn retire(&mut self) -> Vec<Id>;
    /// As [`Engine::abandon`].
    fn abandon(&mut self) -> Vec<Id>;
    /// Drops the engine.
    fn end(self) -> Self::Site;
    /// Whether commands are applied, and events made, when JavaScript calls: not beside it.
    fn is_immediate(&self) -> bool;
}

/// The shard layer on JavaScript's thread.
pub struct LocalStage {
    made: Made,
    engine: Local<SimSystem>,
}

impl LocalStage {
    /// On this network.
    pub fn new(made: Made, metrics: Arc<Metrics>) -> Self {
        let now = made.now();
        let engine = Local::new(made.system(), metrics, now);
        Self { made, engine }
    }
}

impl Stage for LocalStage {
    type Engine = Local<SimSystem>;
    type Site = Made;

    fn engine(&mut self) -> &mut Local<SimSystem> {
        &mut self.engine
    }

    fn site(&mut self) -> &mut Made {
        &mut self.made
    }

    fn is_called(&mut self) -> bool {
        self.made.net.lock().has_word()
    }

    fn turn(&mut self) -> bool {
        false
    }

    fn end(self) -> Made {
        self.made
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
        None
    }

    fn is_immediate(&self) -> bool {
        true
    }
}
