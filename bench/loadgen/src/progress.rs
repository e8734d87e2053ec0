//! The live line on stderr: once a second, over itself on a terminal, line by line elsewhere.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

/// How often the line is written.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes nothing unless stderr is a terminal or progress was asked for.
pub struct Progress {
    enabled: bool,
    terminal: bool,
    next_ns: u64,
    last_ns: u64,
    last_count: u64,
    open_line: bool,
}

impl Progress {
    /// `wanted` is `--progress`.
    pub fn new(wanted: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            enabled: wanted || terminal,
            terminal,
            next_ns: 0,
            last_ns: 0,
            last_count: 0,
            open_line: false,
        }
    }

    /// Writes a line if a second has passed. `count` is what `text(per_second)` is asked to show as a rate.
    pub fn tick(&mut self, now_ns: u64, count: u64, text: impl FnOnce(f64) -> String) {
        if !self.enabled || now_ns < self.next_ns {
            return;
        }
        if self.next_ns != 0 {
            let secs = (now_ns - self.last_ns) as f64 / 1e9;
            let line = text(count.saturating_sub(self.last_count) as f64 / secs);
            let mut stderr = std::io::stderr().lock();
            // A closed stderr must not end a measurement.
            let _ = if self.terminal { write!(stderr, "\r{line}\x1b[K") } else { writeln!(stderr, "{line}") };
            let _ = stderr.flush();
            self.open_line = self.terminal;
        }
        (self.last_ns, self.last_count) = (now_ns, count);
        self.next_ns = now_ns + INTERVAL.as_nanos() as u64;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.open_line {
            let _ = writeln!(std::io::stderr());
        }
    }
}
