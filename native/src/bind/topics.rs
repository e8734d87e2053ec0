//! Broadcasts, as any thread's JavaScript makes them; see `audience.rs`.

use super::javascript::View;
use crate::audience;
use crate::connection::Handle;
use napi::bindgen_prelude::*;
use napi_derive::napi;

/// What came of a broadcast.
#[napi(object)]
pub struct BroadcastOutcome {
    /// Shards that have subscribers of anything.
    pub shards: u32,
    /// Of them, those that had no room for it.
    pub refused: u32,
}

/// Gives a copy of the bytes to every thread's subscribers of a topic, but for one connection when `seat` is not -1: that of
/// this handle on the shard with this seat.
#[napi(catch_unwind, ts_args_type = "topic: string, data: Uint8Array, seat: number, handle: number")]
pub fn broadcast(
    env: Env,
    topic: String,
    data: Unknown<'_>,
    seat: i32,
    handle: i32,
) -> Result<BroadcastOutcome> {
    let data = View::of(env.raw(), data.raw())?;
    let except = u32::try_from(seat).ok().map(|seat| (seat, Handle::from_word(handle)));
    // SAFETY: the view is of an argument of this call, in which JavaScript does not run.
    let outcome = audience::broadcast(&topic, unsafe { data.bytes() }, except);
    Ok(BroadcastOutcome { shards: outcome.shards as u32, refused: outcome.refused as u32 })
}
