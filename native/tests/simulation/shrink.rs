//! Makes a run that fails small: takes steps out as long as it fails in the same way.
#![forbid(unsafe_code)]

use crate::runs::Run;
use crate::violation::Violation;

/// Most runs that it takes.
const ATTEMPTS: usize = 1_500;

/// A run with as few steps as it finds that ends in the same invariant's violation, and that violation.
pub fn shrink(mut run: Run, mut violation: Violation) -> (Run, Violation) {
    let invariant = violation.invariant;
    let mut attempts = 0;
    let mut fails = |run: &Run| {
        attempts += 1;
        if attempts > ATTEMPTS {
            return None;
        }
        run.go().err().filter(|violation| violation.invariant == invariant)
    };
    // What comes behind the failing step does not matter: half of the rest, while that fails.
    let mut chunk = run.steps.len().div_ceil(2);
    while chunk > 0 && !run.steps.is_empty() {
        let mut at = run.steps.len();
        let mut shorter = false;
        // From the end: later steps hang on earlier ones.
        while at > 0 {
            let start = at.saturating_sub(chunk);
            let mut attempt = run.clone();
            attempt.steps.drain(start..at);
            if let Some(found) = fails(&attempt) {
                (run, violation, shorter) = (attempt, found, true);
            }
            at = start;
        }
        if !shorter || chunk > 1 {
            chunk /= 2;
        }
    }
    (run, violation)
}
