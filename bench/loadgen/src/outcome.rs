//! What a run found: failures, latencies and rates; as one JSON line or as a table for people.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::{cpu::CpuUse, error::Failure, limits::LATENCY_MAX_NS};

/// Significant decimal digits that a histogram keeps.
const HISTOGRAM_DIGITS: u8 = 3;
/// Percentiles in the report: JSON key, label, quantile.
const PERCENTILES: [(&str, &str, f64); 5] = [
    ("p50", "p50", 0.5),
    ("p90", "p90", 0.9),
    ("p99", "p99", 0.99),
    ("p999", "p99.9", 0.999),
    ("p9999", "p99.99", 0.9999),
];

/// Counted failures, and the first of them in words.
#[derive(Debug, Default)]
pub struct Failures {
    connect: u64,
    lost: u64,
    corrupt: u64,
    unanswered: u64,
    /// Requests that were answered, but by an error of the server's.
    status: u64,
    first: Option<String>,
}

impl Failures {
    /// Counts one failure.
    pub fn note(&mut self, failure: &Failure) {
        match failure {
            Failure::Connect { .. } => self.connect += 1,
            Failure::Closed { .. }
            | Failure::Broken { .. }
            | Failure::DatagramsRefused { .. }
            | Failure::ClosedInFlight { .. }
            | Failure::CutShort { .. } => self.lost += 1,
            Failure::WrongByte { .. }
            | Failure::Surplus { .. }
            | Failure::WrongDatagram { .. }
            | Failure::Malformed { .. }
            | Failure::Unrequested { .. } => self.corrupt += 1,
            Failure::Unanswered { .. } | Failure::NoResponse { .. } => self.unanswered += 1,
            Failure::Status { .. } => self.status += 1,
        }
        self.first.get_or_insert_with(|| failure.to_string());
    }

    /// All failures.
    pub fn count(&self) -> u64 {
        self.connect + self.lost + self.corrupt + self.unanswered + self.status
    }

    /// True when the run may exit with 0: nothing was corrupt, and no connection failed unless that is tolerated.
    pub fn pass(&self, tolerate: bool) -> bool {
        self.corrupt == 0 && (tolerate || self.count() == 0)
    }

    fn json(&self) -> Value {
        json!({
            "connect": self.connect, "lost": self.lost, "corrupt": self.corrupt, "unanswered": self.unanswered,
            "status": self.status, "first": self.first,
        })
    }

    fn table(&self) -> String {
        match &self.first {
            None => "none".to_owned(),
            Some(first) => {
                let kinds = [
                    (self.connect, "connect"),
                    (self.lost, "lost"),
                    (self.corrupt, "corrupt"),
                    (self.unanswered, "unanswered"),
                    (self.status, "by status"),
                ];
                let counts: Vec<String> = kinds
                    .iter()
                    .filter(|(count, _)| *count > 0)
                    .map(|(count, kind)| format!("{count} {kind}"))
                    .collect();
                format!("{}; first: {first}", counts.join(", "))
            }
        }
    }
}

/// Latencies in nanoseconds, 1 ns to an hour.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty histogram.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_NS, HISTOGRAM_DIGITS)
            .expect("the bounds are constants that the histogram accepts");
        Self(histogram)
    }

    /// Records `count` messages that took `ns`.
    pub fn record(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns.max(1), count);
    }

    /// The latency below which the share `quantile` lies, in microseconds; 0 when nothing was recorded.
    pub fn micros(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// Points of the curve of percentiles, each a share of the messages and the microseconds that these took at most: ten
    /// for each nine, as far as there are messages, and the longest.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let count = self.0.len() as f64;
        let mut points: Vec<(f64, f64)> = (0..)
            .map(|step| 10_f64.powf(-f64::from(step) / 10.0))
            .take_while(|beyond| count > 0.0 && beyond * count >= 1.0)
            .map(|beyond| (1.0 - beyond, self.micros(1.0 - beyond)))
            .collect();
        if count > 0.0 {
            points.push((1.0, self.0.max() as f64 / 1e3));
        }
        points
    }

    fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("count".to_owned(), json!(self.0.len()));
        fields.insert("mean".to_owned(), json!(round(self.0.mean() / 1e3)));
        for (key, _, quantile) in PERCENTILES {
            fields.insert(key.to_owned(), json!(round(self.micros(quantile))));
        }
        fields.insert("max".to_owned(), json!(round(self.0.max() as f64 / 1e3)));
        Value::Object(fields)
    }

    fn table(&self) -> String {
        let mut parts: Vec<String> = PERCENTILES
            .iter()
            .map(|(_, label, quantile)| format!("{label} {}", show_micros(self.micros(*quantile))))
            .collect();
        parts.push(format!("max {}", show_micros(self.0.max() as f64 / 1e3)));
        parts.join("  ")
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// What a run found, in the order in which it is shown. Keys are the JSON's names.
#[derive(Clone)]
pub struct Outcome {
    fields: Map<String, Value>,
    rows: Vec<(String, String)>,
    passed: bool,
}

impl Outcome {
    /// `mode` is the subcommand's name.
    pub fn new(mode: &str, addr: impl ToString, failures: &Failures, tolerate: bool) -> Self {
        let passed = failures.pass(tolerate);
        let mut outcome = Self { fields: Map::new(), rows: Vec::new(), passed };
        outcome.field("mode", mode).field("addr", addr.to_string()).field("ok", passed);
        outcome.fields.insert("failures".to_owned(), failures.json());
        outcome.rows.push(("failures".to_owned(), failures.table()));
        outcome
    }

    /// Adds a value to the JSON only.
    pub fn field(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.fields.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a line to the table only.
    pub fn row(&mut self, label: &str, text: String) -> &mut Self {
        self.rows.push((label.to_owned(), text));
        self
    }

    /// Adds latencies, in microseconds.
    pub fn latencies(&mut self, key: &str, label: &str, latencies: &Latencies) -> &mut Self {
        self.fields.insert(key.to_owned(), latencies.json());
        self.row(label, latencies.table())
    }

    /// Adds processor times of the measured window, which lasted `window_secs`.
    pub fn cpu(&mut self, used: &CpuUse, window_secs: f64) -> &mut Self {
        self.fields.insert(
            "cpu".to_owned(),
            json!({
                "serverSecs": used.server_secs.map(round), "clientSecs": used.client_secs.map(round),
                "machineBusySecs": used.machine_busy_secs.map(round),
                "machineStealSecs": used.machine_steal_secs.map(round),
            }),
        );
        let share = |secs: Option<f64>| {
            secs.map_or("unknown".to_owned(), |secs| format!("{:.0} %", 100.0 * secs / window_secs))
        };
        self.row(
            "processor",
            format!("server {}, load generator {}", share(used.server_secs), share(used.client_secs)),
        )
    }

    /// True when the process may exit with 0.
    pub fn passed(&self) -> bool {
        self.passed
    }

    /// The whole outcome in one line.
    pub fn json_line(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }

    /// The same for people.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let lines: Vec<String> =
            self.rows.iter().map(|(label, text)| format!("{label:width$}  {text}")).collect();
        lines.join("\n")
    }
}

/// Three decimals are more than the clock is worth.
pub fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// `980 us`, `12.3 ms` or `4.56 s`.
pub fn show_micros(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.0} us"),
        1e3..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// `1,234,567`.
pub fn show_count(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corruption_is_never_tolerated() {
        let mut failures = Failures::default();
        assert!(failures.pass(false));
        failures.note(&Failure::Unanswered { connection: 3, missing: 64, waited_secs: 5 });
        assert!(!failures.pass(false));
        assert!(failures.pass(true));
        failures.note(&Failure::Surplus { connection: 3, received: 2, sent: 1 });
        assert!(!failures.pass(true));
        assert!(failures.table().contains("connection 3 is missing 64 bytes"), "{}", failures.table());
    }

    #[test]
    fn the_json_is_one_line() {
        let mut latencies = Latencies::new();
        latencies.record(1_500_000, 10);
        let mut outcome = Outcome::new("echo", "127.0.0.1:1", &Failures::default(), false);
        outcome
            .field("requests", 10)
            .latencies("latencyUs", "latency", &latencies)
            .cpu(&CpuUse::default(), 1.0);
        let line = outcome.json_line();
        assert!(!line.contains('\n'));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["latencyUs"]["count"], 10);
        assert!((value["latencyUs"]["p50"].as_f64().unwrap() - 1500.0).abs() < 2.0);
        assert_eq!(value["ok"], true);
    }

    #[test]
    fn latencies_beyond_the_bounds_are_kept() {
        let mut latencies = Latencies::new();
        latencies.record(0, 1);
        latencies.record(u64::MAX, 1);
        assert_eq!(latencies.0.len(), 2);
    }

    #[test]
    fn the_curve_has_ten_points_for_each_nine_and_the_longest() {
        assert_eq!(Latencies::new().curve(), []);
        let mut latencies = Latencies::new();
        for ms in 1..=100 {
            latencies.record(ms * 1_000_000, 1);
        }
        let curve = latencies.curve();
        assert_eq!(curve.len(), 22);
        assert!((curve[10].0 - 0.9).abs() < 1e-9 && (curve[10].1 - 90_000.0).abs() < 100.0, "{curve:?}");
        assert!(curve.is_sorted_by(|one, other| one.1 <= other.1), "{curve:?}");
        assert!((curve[21].1 - 100_000.0).abs() < 100.0, "{curve:?}");
    }

    #[test]
    fn figures_are_grouped() {
        assert_eq!(show_count(1_234_567.4), "1,234,567");
        assert_eq!(show_count(999.0), "999");
        assert_eq!(show_micros(12_345.0), "12.3 ms");
    }
}
