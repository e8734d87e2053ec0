//! The guardian, as the supervisor commands it; see `guardian.rs`.

use super::{POLL_CREATE, SystemFailure};
use crate::guardian;
use crate::limits::STALL_MS;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;
use std::time::Duration;

/// Reports that wait for the supervisor's thread. Past it a report is lost; what it told can be asked for.
const REPORTS_MAX: usize = 1024;

/// Starts the guardian's thread; null when it runs. `report` is called on this thread, with a shard's metrics token,
/// the number of its life (see `shardLives`), for how many milliseconds it has been stuck, and whether that is over. It
/// does not keep the process alive.
#[napi(
    catch_unwind,
    ts_args_type = "report: (token: number, life: number, stalledMs: number, over: boolean) => void"
)]
pub fn start_guardian(
    report: Function<'_, FnArgs<(u32, u32, f64, bool)>, ()>,
) -> Result<Option<SystemFailure>> {
    let report = report
        .build_threadsafe_function::<FnArgs<(u32, u32, f64, bool)>>()
        .weak::<true>()
        .max_queue_size::<REPORTS_MAX>()
        .build()?;
    let started = guardian::start(move |stall| {
        let arguments = (stall.token, stall.life, milliseconds(stall.stuck_for), stall.over);
        report.call(FnArgs::from(arguments), ThreadsafeFunctionCallMode::NonBlocking);
    });
    Ok(started.err().map(|error| SystemFailure::new(POLL_CREATE, &error)))
}

/// Ends the guardian's thread, and waits for it. Connections that still wait for a shard are reset.
#[napi(catch_unwind)]
pub fn stop_guardian() {
    guardian::stop();
}

/// Milliseconds after which a stuck shard is reported; 0 for never.
#[napi(catch_unwind)]
pub fn report_stalls_after(ms: u32) {
    guardian::report_after((ms > 0).then(|| Duration::from_millis(ms.into())));
}

/// Sees to it that the connections of a server, by its number in the process, find a shard while their own is stuck or
/// down. `listeners`: tokens of those that one shard at a time accepts from; none when all shards share one.
#[napi(catch_unwind)]
pub fn guard_server(server: u32, listeners: Vec<u32>) {
    guardian::guard(server, &listeners);
}

/// The server takes no more connections: what waits for shards that are stuck or down is handed to the others, once.
#[napi(catch_unwind)]
pub fn unguard_server(server: u32) {
    guardian::unguard(server);
}

/// Whether a shard, by its metrics token, is still in this life, of which a report told.
#[napi(catch_unwind)]
pub fn shard_lives(token: u32, life: u32) -> bool {
    guardian::lives(token, life)
}

/// Milliseconds for which a shard, by its metrics token, has been stuck: running without a look at its poll. 0 while it
/// turns as it should, and when there is no such shard.
#[napi(catch_unwind)]
pub fn stalled_ms(token: u32) -> f64 {
    let stuck = guardian::running_for(token).filter(|running| running.as_millis() >= u128::from(STALL_MS));
    stuck.map_or(0.0, milliseconds)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
