//! Counters, read by the supervisor without asking a shard.

use crate::metrics;
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// Makes the counters of a new shard; the token names them in every thread.
#[napi(catch_unwind)]
pub fn allocate_metrics() -> u32 {
    metrics::allocate()
}

/// Copies a shard's counters into `out`, by the METRIC_ indexes; false when there is no such token.
#[napi(catch_unwind)]
pub fn read_metrics(token: u32, mut out: BigUint64Array) -> bool {
    let Some(found) = metrics::find(token) else { return false };
    // SAFETY: the array is JavaScript's, on this thread, which runs nothing else during the call.
    found.snapshot(unsafe { out.as_mut() });
    true
}

/// Forgets a token.
#[napi(catch_unwind)]
pub fn free_metrics(token: u32) {
    metrics::free(token);
}
