//! What a run may find, and what it did until then.
#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// What a peer sent reaches JavaScript: each byte, once, in order; then the peer's end.
    Inbound,
    /// What JavaScript wrote reaches the peer: each byte, once, in order; then the end.
    Outbound,
    /// A connection opens once and is closed once, and nothing comes behind that.
    Ends,
    /// It is closed for a reason that there was.
    Reasons,
    /// Pause and resume take turns, and are told when they are due.
    Alternation,
    /// What is queued, and what tables hold, stays within bounds.
    Memory,
    /// A slot is not used again before the end of its connection is handled.
    Slots,
    /// Pinned memory is let go of once, and told as flushed when it is.
    Pins,
    /// What is to be done is done, without anybody looking for it.
    Liveness,
    /// What was opened is closed, and counted.
    Leaks,
    /// Timeouts come when they are due.
    Timeouts,
    /// The library panics.
    Panic,
}

/// One that did not.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub message: String,
}

/// Ends the run.
pub fn fail(invariant: Invariant, message: impl Into<String>) -> ! {
    // Unlike a panic it runs no hook: a shrinker sees many.
    panic::resume_unwind(Box::new(Violation { invariant, message: message.into() }))
}

/// Ends the run unless something holds.
macro_rules! ensure {
    ($holds:expr, $invariant:ident, $($message:tt)+) => {
        if !$holds {
            $crate::violation::fail($crate::violation::Invariant::$invariant, format!($($message)+));
        }
    };
}
pub(crate) use ensure;

thread_local! {
    static TRACE: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    static PANICS: RefCell<String> = const { RefCell::new(String::new()) };
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

/// Notes what happens, when somebody will read it.
pub fn note(line: impl FnOnce() -> String) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace.push(line());
        }
    });
}

/// Runs to the end or a violation.
pub fn watch(run: impl FnOnce()) -> Result<(), Violation> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if RUNS.get() {
                PANICS.with_borrow_mut(|last| *last = info.to_string());
            } else {
                usual(info);
            }
        }));
    });
    RUNS.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    RUNS.set(false);
    result.map_err(violation)
}

/// As [`watch`]; also what was noted.
pub fn watch_and_trace(run: impl FnOnce()) -> (Result<(), Violation>, Vec<String>) {
    TRACE.set(Some(Vec::new()));
    let result = watch(run);
    (result, TRACE.take().unwrap_or_default())
}

fn violation(panic: Box<dyn Any + Send>) -> Violation {
    match panic.downcast::<Violation>() {
        Ok(violation) => *violation,
        Err(_) => Violation { invariant: Invariant::Panic, message: PANICS.with_borrow(String::clone) },
    }
}
