//! Where native log records go. Any thread may write them, by the macros of the crate `log`; JavaScript of the right
//! thread fetches them, and hands them to the logger that the program has set there.
//!
//! - A thread of JavaScript has an [`Outlet`]: a bounded queue, and a way to wake the thread. Native threads that work for
//!   it ([`follow`]) write to the same one.
//! - What other threads write is for the supervisor's outlet, the main thread's. So is all that the guardian decides, on
//!   whatever thread: it is about several shards, and one of them may be dying. And so is what comes after the end of a
//!   thread's outlet, or was left in it: the last words of a shard.
//! - No JavaScript is called here, and nothing waits: a record that finds the queue full is dropped and counted.
//! - Each outlet has a level of its own. The most verbose of them is the `log` crate's maximum, so a record of a level that
//!   nobody wants costs the load of an atomic.
#![forbid(unsafe_code)]

use crate::limits::{LOG_RECORDS_MAX, LOG_TEXT_MAX_BYTES};
use log::kv::{self, VisitSource};
use log::{Level, LevelFilter};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Instant;

/// Records of other crates (mio traces every registration) are nobody's concern.
const OURS: &str = env!("CARGO_CRATE_NAME");
const GUARDIAN: &str = concat!(env!("CARGO_CRATE_NAME"), "::guardian");

/// One record.
#[derive(Debug)]
pub struct Record {
    /// How grave it is.
    pub level: Level,
    /// What happened, for people.
    pub message: String,
    /// Details, by name. A connection is named by its handle.
    pub fields: Vec<(String, Value)>,
    /// The shard on whose account it was written; `None` outside of a supervisor's shards.
    pub shard: Option<u32>,
    /// Whether it was written on the account of the thread that fetches it: only then a handle is of one of its connections.
    pub is_own: bool,
    /// When.
    pub at: Instant,
}

/// A detail.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// Whether something is so.
    Truth(bool),
    /// Anything else.
    Text(String),
}

/// What waited in an outlet.
#[derive(Debug, Default)]
pub struct Taken {
    /// In the order in which they were written.
    pub records: Vec<Record>,
    /// How many more there were, which did not fit.
    pub dropped: u64,
}

/// One thread's, as long as its JavaScript can run.
#[derive(Debug)]
pub struct Outlet {
    shard: Option<u32>,
    level: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<Record>,
    dropped: u64,
    /// `None` once the outlet is closed.
    wake: Option<Wake>,
}

struct Wake(Box<dyn Fn() + Send>);

impl fmt::Debug for Wake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Wake")
    }
}

/// The outlets that are open.
#[derive(Debug, Default)]
struct Outlets {
    open: Vec<Arc<Outlet>>,
    /// One of them.
    supervisor: Option<Arc<Outlet>>,
}

static OUTLETS: Mutex<Outlets> = Mutex::new(Outlets { open: Vec::new(), supervisor: None });

thread_local! {
    static OWN: RefCell<Option<Arc<Outlet>>> = const { RefCell::new(None) };
}

impl Outlet {
    /// Opens the calling thread's. `shard` is the number of the shard that runs in it; `is_supervisor` makes it the one for
    /// all that has no other. `wake` is called from any thread when the first record waits, with the queue locked: it must
    /// not write to the log.
    pub fn open(
        shard: Option<u32>,
        is_supervisor: bool,
        level: LevelFilter,
        wake: impl Fn() + Send + 'static,
    ) -> Arc<Self> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| _ = log::set_logger(&Collector)); // the crate is ours alone: nobody was before us
        let queue = Queue { wake: Some(Wake(Box::new(wake))), ..Queue::default() };
        let outlet =
            Arc::new(Self { shard, level: AtomicUsize::new(level as usize), queue: Mutex::new(queue) });
        let mut outlets = OUTLETS.lock();
        outlets.open.push(outlet.clone());
        if is_supervisor {
            outlets.supervisor = Some(outlet.clone());
        }
        outlets.settle_level();
        drop(outlets);
        follow(Some(outlet.clone()));
        outlet
    }

    /// From now on takes records of this level and graver ones.
    pub fn set_level(&self, level: LevelFilter) {
        self.level.store(level as usize, Ordering::Relaxed);
        OUTLETS.lock().settle_level();
    }

    /// What waits.
    pub fn take(&self) -> Taken {
        let mut queue = self.queue.lock();
        let records = mem::take(&mut queue.records);
        let dropped = mem::take(&mut queue.dropped);
        drop(queue);
        Taken { records: records.into(), dropped }
    }

    /// Its thread's JavaScript runs no more: what waits, and what still comes, is for the supervisor. Idempotent.
    pub fn close(self: &Arc<Self>) {
        let mut outlets = OUTLETS.lock();
        outlets.open.retain(|open| !Arc::ptr_eq(open, self));
        outlets.supervisor.take_if(|supervisor| Arc::ptr_eq(supervisor, self));
        outlets.settle_level();
        let supervisor = outlets.supervisor.clone();
        drop(outlets);
        let Queue { records, dropped, wake } = mem::take(&mut *self.queue.lock());
        drop(wake);
        let Some(supervisor) = supervisor else { return };
        for record in records.into_iter().filter(|record| supervisor.wants(record.level)) {
            _ = supervisor.push(Record { is_own: false, ..record }); // it closes as well: then there is nobody
        }
        supervisor.queue.lock().dropped += dropped;
    }

    fn wants(&self, level: Level) -> bool {
        level as usize <= self.level.load(Ordering::Relaxed)
    }

    /// Gives a record back when the outlet is closed.
    fn push(&self, record: Record) -> Result<(), Record> {
        let mut queue = self.queue.lock();
        let Queue { records, dropped, wake: Some(Wake(wake)) } = &mut *queue else { return Err(record) };
        if records.len() >= LOG_RECORDS_MAX {
            *dropped += 1;
            return Ok(());
        }
        records.push_back(record);
        if records.len() == 1 {
            // Under the lock, so that it is not called any more once the outlet is closed.
            wake();
        }
        Ok(())
    }
}

impl Outlets {
    fn settle_level(&self) {
        let levels = self.open.iter().map(|outlet| outlet.level.load(Ordering::Relaxed));
        let most = levels.max().unwrap_or(0);
        let filters = LevelFilter::iter();
        log::set_max_level(
            filters.filter(|&filter| filter as usize == most).last().unwrap_or(LevelFilter::Off),
        );
    }
}

/// Has the calling thread write to this outlet.
pub fn follow(outlet: Option<Arc<Outlet>>) {
    OWN.set(outlet);
}

/// The calling thread's, for a native thread that it starts.
pub fn own() -> Option<Arc<Outlet>> {
    // None while the thread's own memory is torn down.
    OWN.try_with(|own| own.try_borrow().ok()?.clone()).ok().flatten()
}

/// The number of the shard on whose account the calling thread works; `None` outside of a supervisor's shards.
pub fn shard() -> Option<u32> {
    own()?.shard
}

/// The logger of the crate `log`.
struct Collector;

impl Collector {
    /// Who gets records of this kind that the calling thread writes, whether that is the thread's own, and the shard.
    fn outlet_for(target: &str, level: Level) -> Option<(Arc<Outlet>, bool, Option<u32>)> {
        let is_ours = target.strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        if !is_ours {
            return None;
        }
        let own = own();
        let shard = own.as_ref().and_then(|outlet| outlet.shard);
        let is_open = |outlet: &Arc<Outlet>| outlet.queue.lock().wake.is_some();
        match own.filter(|own| !target.starts_with(GUARDIAN) && is_open(own)) {
            Some(own) => Some((own, true, shard)),
            None => OUTLETS.lock().supervisor.clone().map(|supervisor| (supervisor, false, shard)),
        }
        .filter(|(outlet, ..)| outlet.wants(level))
    }
}

impl log::Log for Collector {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        Self::outlet_for(metadata.target(), metadata.level()).is_some()
    }

    fn log(&self, record: &log::Record<'_>) {
        let Some((outlet, is_own, shard)) = Self::outlet_for(record.target(), record.level()) else { return };
        let mut fields = Fields(Vec::new());
        _ = record.key_values().visit(&mut fields); // ours does not fail
        let sent = outlet.push(Record {
            level: record.level(),
            message: Bounded::of(record.args()),
            fields: fields.0,
            // What the guardian does is the supervisor's, whoever's thread it does it on.
            shard: if record.target().starts_with(GUARDIAN) { None } else { shard },
            is_own,
            at: Instant::now(),
        });
        // It was closed just now.
        if let Err(record) = sent
            && let Some(supervisor) = OUTLETS.lock().supervisor.clone()
            && supervisor.wants(record.level)
        {
            _ = supervisor.push(Record { is_own: false, ..record });
        }
    }

    fn flush(&self) {}
}

struct Fields(Vec<(String, Value)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let number = value.to_f64().map(Value::Number).or_else(|| value.to_bool().map(Value::Truth));
        let value = number.unwrap_or_else(|| Value::Text(Bounded::of(&value)));
        self.0.push((key.as_str().to_owned(), value));
        Ok(())
    }
}

/// Text up to a bound; the rest is cut, which three dots say.
struct Bounded(String);

impl Bounded {
    fn of(text: &impl fmt::Display) -> String {
        let mut bounded = Self(String::new());
        if write!(bounded, "{text}").is_err() {
            bounded.0.push('…');
        }
        bounded.0
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LOG_TEXT_MAX_BYTES - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        self.0.push_str(&text[..end]);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::sync::atomic::AtomicU32;

    /// The level and the supervisor are the process's: one test at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    /// An outlet of this thread, with the number of times it was woken.
    fn outlet(shard: Option<u32>, is_supervisor: bool, level: LevelFilter) -> (Arc<Outlet>, Arc<AtomicU32>) {
        let woken = Arc::new(AtomicU32::new(0));
        let counted = woken.clone();
        let wake = move || _ = counted.fetch_add(1, Ordering::Relaxed);
        (Outlet::open(shard, is_supervisor, level, wake), woken)
    }

    fn messages(outlet: &Outlet) -> Vec<String> {
        outlet.take().records.into_iter().map(|record| record.message).collect()
    }

    #[test]
    fn a_thread_writes_to_its_own_outlet_with_fields_and_its_shard() {
        let _alone = ALONE.lock();
        let (own, woken) = outlet(Some(3), false, LevelFilter::Debug);
        log::debug!(connection = 7, peer:% = "somebody", flushed = true; "of {}", "note");
        log::warn!("and more");
        log::trace!("too verbose");
        assert_eq!(woken.load(Ordering::Relaxed), 1, "once for all that waits");
        let records = own.take().records;
        assert_eq!(records.len(), 2);
        let Record { level, message, fields, shard, .. } = &records[0];
        assert_eq!((*level, message.as_str(), *shard), (Level::Debug, "of note", Some(3)));
        assert!(records[0].is_own);
        let text = Value::Text("somebody".into());
        let expected = [("connection", Value::Number(7.0)), ("peer", text), ("flushed", Value::Truth(true))];
        assert_eq!(*fields, expected.map(|(key, value)| (key.to_owned(), value)));
        log::warn!("again");
        assert_eq!(woken.load(Ordering::Relaxed), 2);
        own.close();
    }

    #[test]
    fn a_native_thread_follows_another_and_one_that_does_not_is_the_supervisors() {
        let _alone = ALONE.lock();
        let (supervisor, _) = outlet(None, true, LevelFilter::Info);
        let (shard, _) = outlet(Some(0), false, LevelFilter::Info);
        let of_shard = own();
        std::thread::spawn(move || {
            log::info!("of nobody's");
            follow(of_shard);
            log::info!("of the shard's");
            log::info!(target: "shardloop_native::guardian::watch", "of the guardian's");
            log::info!(target: "mio::poll", "of others'");
        })
        .join()
        .unwrap();
        assert_eq!(messages(&shard), ["of the shard's"]);
        let records = supervisor.take().records;
        let expected = [("of nobody's", None), ("of the guardian's", None)];
        let seen: Vec<_> = records.iter().map(|record| (record.message.as_str(), record.shard)).collect();
        assert_eq!(seen, expected);
        shard.close();
        supervisor.close();
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_once() {
        let _alone = ALONE.lock();
        let (own, woken) = outlet(None, false, LevelFilter::Debug);
        for number in 0..LOG_RECORDS_MAX + 5 {
            log::debug!("{number}");
        }
        let Taken { records, dropped } = own.take();
        assert_eq!((records.len(), dropped), (LOG_RECORDS_MAX, 5));
        assert_eq!(records[0].message, "0", "the first are kept: they tell how it began");
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert_eq!(own.take().dropped, 0);
        own.close();
    }

    #[test]
    fn the_last_words_of_a_shard_reach_the_supervisor_as_far_as_it_wants_them() {
        let _alone = ALONE.lock();
        let (supervisor, woken) = outlet(None, true, LevelFilter::Warn);
        let (shard, _) = outlet(Some(2), false, LevelFilter::Debug);
        log::debug!("waited, of no interest");
        log::warn!("waited");
        shard.close();
        shard.close();
        log::warn!("came later");
        log::info!("came later, of no interest");
        let records = supervisor.take().records;
        let seen: Vec<_> = records.iter().map(|record| (record.message.as_str(), record.shard)).collect();
        assert_eq!(seen, [("waited", Some(2)), ("came later", Some(2))]);
        assert!(records.iter().all(|record| !record.is_own));
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        supervisor.close();
        log::error!("nobody is there");
        follow(None);
    }

    #[test]
    fn the_level_of_the_process_is_the_most_verbose_that_anybody_wants() {
        let _alone = ALONE.lock();
        assert_eq!(log::max_level(), LevelFilter::Off);
        let (first, _) = outlet(None, true, LevelFilter::Warn);
        let (second, _) = outlet(Some(0), false, LevelFilter::Trace);
        assert_eq!(log::max_level(), LevelFilter::Trace);
        follow(Some(first.clone()));
        log::debug!("not wanted here");
        assert!(messages(&first).is_empty());
        first.set_level(LevelFilter::Debug);
        log::debug!("wanted");
        assert_eq!(messages(&first), ["wanted"]);
        second.close();
        assert_eq!(log::max_level(), LevelFilter::Debug);
        first.close();
        assert_eq!(log::max_level(), LevelFilter::Off);
        follow(None);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(Bounded::of(&"short"), "short");
        let long = "x".repeat(LOG_TEXT_MAX_BYTES - 1) + "éé";
        let cut = Bounded::of(&long);
        assert_eq!(cut, "x".repeat(LOG_TEXT_MAX_BYTES - 1) + "…");
    }
}
