//! What the runs of a test came by: a simulation that no longer reaches something would pass, and say nothing.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static COUNTS: RefCell<BTreeMap<(&'static str, i32), u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts something, by a name and a number.
pub fn count(name: &'static str, number: i32) {
    add(name, number, 1);
}

/// Counts several.
pub fn add(name: &'static str, number: i32, times: u64) {
    COUNTS.with_borrow_mut(|counts| *counts.entry((name, number)).or_default() += times);
}

/// What this thread has counted so far, which begins anew.
pub fn take() -> BTreeMap<(&'static str, i32), u64> {
    COUNTS.take()
}
