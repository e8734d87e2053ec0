//! The fixed schedule of a run with `--rate`: message `k` belongs at `k / rate` and to connection `k mod connections`; with
//! churn, connection `k` is opened at `k / rate`.
//!
//! Latency is counted from that moment, not from the moment the message could be sent: a server that stalls delays the
//! messages behind the stall too, and leaving them out (coordinated omission) would hide it.

use std::time::Duration;

/// Times are nanoseconds since the start of the run.
pub struct Schedule {
    rate_per_sec: f64,
    start_ns: u64,
    next: u64,
}

impl Schedule {
    /// A schedule of `rate_per_sec` messages in all, the first at `start_ns`.
    pub fn new(rate_per_sec: f64, start_ns: u64) -> Self {
        assert!(rate_per_sec > 0.0, "the rate was checked when the options were read");
        Self { rate_per_sec, start_ns, next: 0 }
    }

    /// When message `number` is meant to be sent.
    pub fn at_ns(&self, number: u64) -> u64 {
        self.start_ns + (number as f64 * 1e9 / self.rate_per_sec) as u64
    }

    /// The number of the next message if its time has come.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        if self.at_ns(self.next) > now_ns {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// How long to poll so as not to miss the next message.
    ///
    /// epoll counts in milliseconds and rounds up, so the last stretch is spent polling without waiting.
    pub fn poll_timeout(&self, now_ns: u64, longest: Duration) -> Duration {
        let until = Duration::from_nanos(self.at_ns(self.next).saturating_sub(now_ns));
        let whole_millis = until.as_millis() as u64;
        Duration::from_millis(whole_millis.saturating_sub(1)).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(100);

    #[test]
    fn messages_fall_due_at_the_rate() {
        let mut schedule = Schedule::new(1000.0, 5_000_000);
        assert_eq!(schedule.take_due(4_999_999), None);
        assert_eq!(schedule.take_due(5_000_000), Some(0));
        assert_eq!(schedule.take_due(5_000_000), None);
        assert_eq!(schedule.take_due(7_500_000), Some(1));
        assert_eq!(schedule.take_due(7_500_000), Some(2));
        assert_eq!(schedule.take_due(7_500_000), None);
    }

    #[test]
    fn a_rate_that_is_no_divisor_of_a_second_does_not_drift() {
        let schedule = Schedule::new(3.0, 0);
        assert_eq!(schedule.at_ns(3_000_000), 1_000_000_000_000_000);
    }

    #[test]
    fn the_poll_ends_before_the_next_message() {
        let schedule = Schedule::new(10.0, 50_000_000);
        assert_eq!(schedule.poll_timeout(0, LONGEST), Duration::from_millis(49));
        assert_eq!(schedule.poll_timeout(48_500_000, LONGEST), Duration::ZERO);
        assert_eq!(schedule.poll_timeout(60_000_000, LONGEST), Duration::ZERO);
        assert_eq!(Schedule::new(1.0, 10_000_000_000).poll_timeout(0, LONGEST), LONGEST);
    }
}
