//! A thread's log, as its JavaScript fetches it; see `log.rs`.

use crate::log::{Outlet, Record, Value};
use log::LevelFilter;
use napi::bindgen_prelude::*;
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;
use std::sync::Arc;

/// One record.
#[napi(object)]
pub struct NativeLogRecord {
    /// How grave it is.
    #[napi(ts_type = "'trace' | 'debug' | 'info' | 'warn' | 'error'")]
    pub level: String,
    /// What happened, for people.
    pub message: String,
    /// Names of details. A connection is named by its handle.
    pub keys: Vec<String>,
    /// The details.
    pub values: Vec<Either3<f64, bool, String>>,
    /// The shard on whose account it was written; none outside of a supervisor's shards.
    pub shard: Option<u32>,
    /// Whether it was written on this thread's account: only then a handle is of one of its connections.
    pub is_own: bool,
    /// Milliseconds since it was written.
    pub waited_ms: f64,
}

/// What waited.
#[napi(object)]
pub struct NativeLogRecords {
    /// In the order in which they were written.
    pub records: Vec<NativeLogRecord>,
    /// How many more there were, which did not fit.
    pub dropped: f64,
}

/// The native log records of one thread. One per thread; open until the thread's environment ends, without keeping it.
#[napi]
pub struct NativeLog {
    outlet: Arc<Outlet>,
}

#[napi]
impl NativeLog {
    /// `shard`: the number of the shard that runs in this thread, if one does. `isSupervisor`: what belongs to no thread
    /// comes here. `wake` is called on this thread when records wait. Nothing comes before `setLevel`.
    #[napi(
        constructor,
        catch_unwind,
        ts_args_type = "shard: number | null, isSupervisor: boolean, wake: () => void"
    )]
    pub fn new(
        env: Env,
        shard: Option<u32>,
        is_supervisor: bool,
        wake: Function<'_, (), ()>,
    ) -> Result<Self> {
        // Other threads wake us by it. It does not keep the loop, and Node closes it when the environment ends.
        let wake = wake.build_threadsafe_function::<()>().weak::<true>().build()?;
        let wake = move || _ = wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
        let outlet = Outlet::open(shard, is_supervisor, LevelFilter::Off, wake);
        // Runs before the hook of the threadsafe function, which was made earlier: from then on nobody calls it.
        env.add_env_cleanup_hook(outlet.clone(), |outlet| outlet.close())?;
        Ok(Self { outlet })
    }

    /// Records of this level and graver ones come from now on; none for `fatal`, which native code does not know, and
    /// `silent`.
    #[napi(
        catch_unwind,
        ts_args_type = "level: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent'"
    )]
    pub fn set_level(&self, level: String) {
        self.outlet.set_level(level.parse().unwrap_or(LevelFilter::Off));
    }

    /// Fetches what waits.
    #[napi(catch_unwind)]
    pub fn take(&self) -> NativeLogRecords {
        let taken = self.outlet.take();
        let records = taken.records.into_iter().map(NativeLogRecord::from).collect();
        NativeLogRecords { records, dropped: taken.dropped as f64 }
    }
}

impl From<Record> for NativeLogRecord {
    fn from(record: Record) -> Self {
        let waited_ms = record.at.elapsed().as_secs_f64() * 1e3;
        let Record { level, message, fields, shard, is_own, .. } = record;
        let fields = fields.into_iter().map(|(key, value)| match value {
            Value::Number(number) => (key, Either3::A(number)),
            Value::Truth(truth) => (key, Either3::B(truth)),
            Value::Text(text) => (key, Either3::C(text)),
        });
        let (keys, values) = fields.unzip();
        Self { level: level.as_str().to_ascii_lowercase(), message, keys, values, shard, is_own, waited_ms }
    }
}
