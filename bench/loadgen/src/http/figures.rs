//! What a run over HTTP counts: responses by status, latencies, each second of the window, errors by kind.

use std::{fs, path::Path, sync::Arc};

use serde_json::{Value, json};

use super::HttpOptions;
use crate::{
    cpu::CpuUse,
    error::{Failure, LoadError},
    outcome::{Failures, Latencies, Outcome, round, show_count, show_micros},
};

const SECOND_NS: u64 = 1_000_000_000;
/// What is left of the window after its last whole second is a point of its own from this length on.
const LAST_SECOND_MIN_NS: u64 = SECOND_NS / 4;
/// From this status on a response is an error.
const ERROR_STATUS_MIN: u16 = 400;

/// When a request was due, by the schedule, and when it was taken up; the same without a schedule.
#[derive(Clone, Copy, PartialEq)]
pub struct Sent {
    /// Nanoseconds since the start of the run, as all times here.
    pub due_ns: u64,
    /// When there was room for it on its connection.
    pub at_ns: u64,
}

/// A second of the window.
struct Second {
    secs: f64,
    requests: u64,
    p50: f64,
    p99: f64,
    errors: u64,
}

/// Failures by what they were.
#[derive(Default)]
struct Errors {
    connect: u64,
    closed: u64,
    cut_short: u64,
    malformed: u64,
    unrequested: u64,
    unanswered: u64,
    status: u64,
}

/// The counts of a run.
pub struct Figures {
    by_schedule: bool,
    /// The measured window; the end is `u64::MAX` until it has closed.
    pub window_start_ns: u64,
    /// See `window_start_ns`.
    pub window_end_ns: u64,
    /// Answered, all of the run.
    pub requests_total: u64,
    /// Due in the window, and not sent by its end for want of room.
    pub unsent: u64,
    /// Sent again, as their connection ended with an earlier response that said so.
    pub resent: u64,
    /// Connections made.
    pub opened: u64,
    /// Connections that the server closed between two responses, and others that ended with one that said so.
    pub closed_idle: u64,
    /// See `closed_idle`.
    pub closed_by_response: u64,
    /// Failures so far; responses with an error's status among them.
    pub failures: Failures,
    requests: u64,
    bytes: u64,
    /// By the hundred.
    statuses: [u64; 6],
    /// From when a request was due.
    latencies: Latencies,
    /// From when it was taken up; with a schedule only.
    uncorrected: Latencies,
    errors: Errors,
    /// Requests that failures took with them.
    lost_requests: u64,
    seconds: Vec<Second>,
    second_start_ns: u64,
    second_latencies: Latencies,
    second_failures: u64,
}

impl Figures {
    /// Nothing counted yet.
    pub fn new(by_schedule: bool) -> Self {
        Self {
            by_schedule,
            window_start_ns: u64::MAX,
            window_end_ns: u64::MAX,
            requests_total: 0,
            unsent: 0,
            resent: 0,
            opened: 0,
            closed_idle: 0,
            closed_by_response: 0,
            failures: Failures::default(),
            requests: 0,
            bytes: 0,
            statuses: [0; 6],
            latencies: Latencies::new(),
            uncorrected: Latencies::new(),
            errors: Errors::default(),
            lost_requests: 0,
            seconds: Vec::new(),
            second_start_ns: 0,
            second_latencies: Latencies::new(),
            second_failures: 0,
        }
    }

    /// The window opens.
    pub fn open_window(&mut self, now_ns: u64) {
        (self.window_start_ns, self.second_start_ns) = (now_ns, now_ns);
        self.second_failures = self.failures.count();
    }

    /// The window closes.
    pub fn close_window(&mut self, now_ns: u64) {
        self.turn_second(now_ns);
        if now_ns - self.second_start_ns >= LAST_SECOND_MIN_NS {
            self.end_second(now_ns);
        }
        self.window_end_ns = now_ns;
    }

    /// Ends the seconds that are over; asked for now and then. The time may be from before the window has opened.
    pub fn turn_second(&mut self, now_ns: u64) {
        if self.window_start_ns == u64::MAX || self.window_end_ns != u64::MAX {
            return;
        }
        while now_ns.saturating_sub(self.second_start_ns) >= SECOND_NS {
            self.end_second(self.second_start_ns + SECOND_NS);
        }
    }

    fn end_second(&mut self, end_ns: u64) {
        let (latencies, failures) = (&self.second_latencies, self.failures.count());
        self.seconds.push(Second {
            secs: (end_ns - self.second_start_ns) as f64 / 1e9,
            requests: latencies.count(),
            p50: latencies.micros(0.5),
            p99: latencies.micros(0.99),
            errors: failures - self.second_failures,
        });
        (self.second_start_ns, self.second_failures) = (end_ns, failures);
        self.second_latencies.clear();
    }

    /// Bytes that came.
    pub fn received(&mut self, now_ns: u64, bytes: usize) {
        if self.is_in_window(now_ns) {
            self.bytes += bytes as u64;
        }
    }

    /// A response to `request`.
    pub fn response(&mut self, status: u16, request: &Arc<str>) {
        self.statuses[usize::from(status / 100)] += 1;
        if status >= ERROR_STATUS_MIN {
            self.failed(&Failure::Status { request: Arc::clone(request), status }, 0);
        }
    }

    /// `count` requests answered now.
    pub fn answered(&mut self, now_ns: u64, sent: Sent, count: u32) {
        let count = u64::from(count);
        self.requests_total += count;
        if self.is_in_window(now_ns) {
            self.requests += count;
            self.second_latencies.record(now_ns - sent.due_ns, count);
        }
        // By schedule, a request belongs to the window in which it was due, however late its response.
        if self.is_in_window(if self.by_schedule { sent.due_ns } else { now_ns }) {
            self.latencies.record(now_ns - sent.due_ns, count);
            if self.by_schedule {
                self.uncorrected.record(now_ns - sent.at_ns, count);
            }
        }
    }

    /// A request that was due and had no room until the window's end: it has waited at least so long.
    pub fn held_back(&mut self, due_ns: u64) {
        self.unsent += 1;
        if self.is_in_window(due_ns) {
            self.latencies.record(self.window_end_ns - due_ns, 1);
        }
    }

    /// Something failed, and took requests with it.
    pub fn failed(&mut self, failure: &Failure, requests: u32) {
        let errors = &mut self.errors;
        let kind = match failure {
            Failure::Connect { .. } => &mut errors.connect,
            Failure::CutShort { .. } => &mut errors.cut_short,
            Failure::Malformed { .. } => &mut errors.malformed,
            Failure::Unrequested { .. } => &mut errors.unrequested,
            Failure::NoResponse { .. } => &mut errors.unanswered,
            Failure::Status { .. } => &mut errors.status,
            _ => &mut errors.closed,
        };
        *kind += 1;
        self.lost_requests += u64::from(requests);
        self.failures.note(failure);
    }

    fn is_in_window(&self, instant_ns: u64) -> bool {
        instant_ns >= self.window_start_ns && instant_ns < self.window_end_ns
    }

    /// For the live line.
    pub fn progress(&self, elapsed_secs: f64, total_secs: f64, per_sec: f64) -> String {
        format!(
            "http {elapsed_secs:.0}/{total_secs:.0} s  {} req/s  p50 {}  p99 {}  errors {}",
            show_count(per_sec),
            show_micros(self.latencies.micros(0.5)),
            show_micros(self.latencies.micros(0.99)),
            self.failures.count()
        )
    }

    /// The whole of it. The run ended at `now_ns`.
    pub fn outcome(&self, options: &HttpOptions, used: &CpuUse, now_ns: u64) -> Outcome {
        let end_ns = if self.window_end_ns == u64::MAX { now_ns } else { self.window_end_ns };
        let secs = end_ns.saturating_sub(self.window_start_ns) as f64 / 1e9;
        let rate_of = |count: u64| if secs > 0.0 { count as f64 / secs } else { 0.0 };
        let (per_sec, bytes_per_sec) = (rate_of(self.requests), rate_of(self.bytes));
        let mut outcome = Outcome::new("http", &options.target.addr, &self.failures, options.tolerate);
        if let Some(tls) = &options.target.tls {
            tls.tell(&mut outcome, tls.handshakes());
        }
        let [_, _, ok, moved, theirs, ours] = self.statuses;
        outcome
            .field("request", &*options.request.line)
            .field("connections", options.connections)
            .field("pipeline", options.pipeline)
            .field("newConnection", options.new_connection)
            .field("ratePerSec", options.rate_per_sec)
            .field("secs", secs)
            .field("requests", self.requests)
            .field("requestsTotal", self.requests_total)
            .field("requestsPerSec", round(per_sec))
            .field("bytesPerSec", bytes_per_sec.round())
            .field("statuses", json!({ "2xx": ok, "3xx": moved, "4xx": theirs, "5xx": ours }))
            .field("errors", self.errors.json())
            .field("lostRequests", self.lost_requests)
            .field("resent", self.resent)
            .field("unsent", self.unsent)
            .field("connectionsOpened", self.opened)
            .field("closedIdle", self.closed_idle)
            .field("closedByResponse", self.closed_by_response);
        let how = if options.new_connection {
            "a new one for each request".to_owned()
        } else {
            format!("kept alive, {} in flight", options.pipeline)
        };
        outcome
            .row("load", format!("{}, {} connections, {how}", options.request.line, options.connections))
            .row("window", format!("{secs:.2} s"))
            .row(
                "requests",
                format!(
                    "{} ({}/s, {:.1} MB/s)",
                    show_count(self.requests as f64),
                    show_count(per_sec),
                    bytes_per_sec / 1e6
                ),
            )
            .row("status", format!("2xx {ok}, 3xx {moved}, 4xx {theirs}, 5xx {ours}, warm-up included"))
            .row(
                "connections",
                format!(
                    "{} made; the server closed {} with a response and {} between two",
                    self.opened, self.closed_by_response, self.closed_idle
                ),
            );
        if self.failures.count() > 0 {
            outcome.row("errors", self.errors.table(self.lost_requests));
        }
        outcome.cpu(used, secs);
        match options.rate_per_sec {
            None => outcome.latencies("latencyUs", "latency", &self.latencies).row(
                "",
                "a request follows a response, so that a stall delays few; --rate corrects for that"
                    .to_owned(),
            ),
            Some(rate) => outcome
                .row(
                    "schedule",
                    format!("{}/s; {} requests were due and found no room", show_count(rate), self.unsent),
                )
                .latencies("latencyUs", "corrected", &self.latencies)
                .latencies("uncorrectedUs", "uncorrected", &self.uncorrected)
                .row(
                    "",
                    "corrected: from when a request was due; uncorrected: from when it went out".to_owned(),
                ),
        };
        outcome
    }

    /// Writes the outcome with what a plot needs: curves of percentiles, and each second.
    ///
    /// # Errors
    /// [`LoadError::File`].
    pub fn write(&self, outcome: &Outcome, path: &Path) -> Result<(), LoadError> {
        let mut whole = outcome.clone();
        let seconds: Vec<Value> = self
            .seconds
            .iter()
            .map(|second| {
                json!({
                    "secs": round(second.secs), "requests": second.requests, "p50": round(second.p50),
                    "p99": round(second.p99), "errors": second.errors,
                })
            })
            .collect();
        let uncorrected = self.by_schedule.then(|| self.uncorrected.curve());
        whole
            .field("curve", json!(self.latencies.curve()))
            .field("uncorrectedCurve", json!(uncorrected))
            .field("seconds", seconds);
        fs::write(path, whole.json_line() + "\n").map_err(|source| LoadError::File {
            option: "--out",
            path: path.to_owned(),
            source,
        })
    }
}

impl Errors {
    fn named(&self) -> [(&'static str, &'static str, u64); 7] {
        [
            ("connect", "not connected", self.connect),
            ("closed", "closed with requests in flight", self.closed),
            ("cutShort", "cut short", self.cut_short),
            ("malformed", "malformed", self.malformed),
            ("unrequested", "not asked for", self.unrequested),
            ("unanswered", "unanswered", self.unanswered),
            ("status", "status 400 and above", self.status),
        ]
    }

    fn json(&self) -> Value {
        Value::Object(
            self.named().into_iter().map(|(key, _, count)| (key.to_owned(), count.into())).collect(),
        )
    }

    fn table(&self, lost_requests: u64) -> String {
        let counts: Vec<String> = self
            .named()
            .iter()
            .filter(|(_, _, count)| *count > 0)
            .map(|(_, name, count)| format!("{count} {name}"))
            .collect();
        format!("{}; {lost_requests} requests lost", counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn seconds_without_a_response_are_points_too() {
        let mut figures = Figures::new(false);
        figures.open_window(500 * MS);
        figures.turn_second(499 * MS);
        let sent = |ms: u64| Sent { due_ns: ms * MS, at_ns: ms * MS };
        figures.answered(600 * MS, sent(599), 3);
        figures.turn_second(700 * MS);
        figures.turn_second(3_600 * MS);
        figures.answered(3_700 * MS, sent(3_600), 1);
        figures.close_window(4_000 * MS);
        let found: Vec<(f64, u64)> =
            figures.seconds.iter().map(|second| (second.secs, second.requests)).collect();
        assert_eq!(found, [(1.0, 3), (1.0, 0), (1.0, 0), (0.5, 1)]);
        assert!((figures.seconds[3].p99 - 100_000.0).abs() < 200.0);
    }

    #[test]
    fn by_schedule_a_response_counts_where_it_was_due_and_from_when() {
        let mut figures = Figures::new(true);
        figures.open_window(0);
        figures.answered(30 * MS, Sent { due_ns: 10 * MS, at_ns: 25 * MS }, 1);
        figures.close_window(100 * MS);
        figures.answered(150 * MS, Sent { due_ns: 90 * MS, at_ns: 140 * MS }, 1);
        figures.answered(160 * MS, Sent { due_ns: 110 * MS, at_ns: 140 * MS }, 1);
        figures.held_back(60 * MS);
        assert_eq!((figures.requests, figures.requests_total, figures.unsent), (1, 3, 1));
        assert_eq!((figures.latencies.count(), figures.uncorrected.count()), (3, 2));
        assert!((figures.latencies.micros(1.0) - 60_000.0).abs() < 100.0);
        assert!((figures.uncorrected.micros(1.0) - 10_000.0).abs() < 100.0);
    }
}
