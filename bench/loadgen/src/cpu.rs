//! Processor time around the measured window: the server's, ours, and the machine's.
//!
//! All three are sampled at the very moments when the window opens and closes, which a parent process could not do.
//! Read from `/proc`, so on Linux only; elsewhere the report says null.

use std::io;

use crate::error::LoadError;

/// The kernel's unit in `/proc`: USER_HZ is 100 on every Linux that Node or Rust run on.
const TICKS_PER_SEC: f64 = 100.0;

/// Processor times in seconds since some point in the past; only differences mean something.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuSample {
    server_secs: Option<f64>,
    client_secs: Option<f64>,
    machine: Option<MachineTicks>,
}

/// What was used between two samples, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuUse {
    /// utime + stime of the whole server process and of those that it has started and that run; with `--server-pid` only.
    pub server_secs: Option<f64>,
    /// The same of the load generator.
    pub client_secs: Option<f64>,
    /// All processors, everything that is not idle, waiting for I/O or stolen.
    pub machine_busy_secs: Option<f64>,
    /// Time that the hypervisor gave to others.
    pub machine_steal_secs: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct MachineTicks {
    busy: u64,
    steal: u64,
}

impl CpuSample {
    /// Samples now.
    ///
    /// # Errors
    /// [`LoadError::ServerPid`] when a server was named and its time cannot be read.
    pub fn take(server_pid: Option<u32>) -> Result<Self, LoadError> {
        let server_secs = server_pid
            .map(|pid| tree_secs(&pid.to_string()).map_err(|source| LoadError::ServerPid { pid, source }))
            .transpose()?;
        Ok(Self {
            server_secs,
            client_secs: process_secs("self").ok(),
            machine: std::fs::read_to_string("/proc/stat").ok().and_then(|text| parse_machine(&text)),
        })
    }

    /// What was used from `self` to `later`.
    pub fn until(&self, later: &Self) -> CpuUse {
        let between = |start: Option<f64>, end: Option<f64>| start.zip(end).map(|(start, end)| end - start);
        let ticks = |part: fn(MachineTicks) -> u64| {
            self.machine
                .zip(later.machine)
                .map(|(start, end)| part(end).saturating_sub(part(start)) as f64 / TICKS_PER_SEC)
        };
        CpuUse {
            server_secs: between(self.server_secs, later.server_secs),
            client_secs: between(self.client_secs, later.client_secs),
            machine_busy_secs: ticks(|machine| machine.busy),
            machine_steal_secs: ticks(|machine| machine.steal),
        }
    }
}

/// A process and its children, so that a server may be several. Children that end between two samples are left out.
fn tree_secs(process: &str) -> io::Result<f64> {
    let mut secs = process_secs(process)?;
    for child in children_of(process) {
        // One that has just ended has no time to tell.
        secs += tree_secs(&child).unwrap_or(0.0);
    }
    Ok(secs)
}

/// Each thread tells its own; without CONFIG_PROC_CHILDREN none does.
fn children_of(process: &str) -> Vec<String> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let told =
        threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    told.flat_map(|text| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn process_secs(process: &str) -> io::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    parse_process(&text).map(|ticks| ticks as f64 / TICKS_PER_SEC).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has another form than expected")
    })
}

/// utime + stime, fields 14 and 15. The name in parentheses may hold spaces and parentheses itself.
fn parse_process(text: &str) -> Option<u64> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The first line: user nice system idle iowait irq softirq steal guest guest_nice; user holds guest already.
fn parse_machine(text: &str) -> Option<MachineTicks> {
    let ticks: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(MachineTicks { busy: user + nice + system + irq + softirq, steal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b) c) R 1 2 3 4 5 6 7 8 9 10 1200 345 0 0 20 0 1 0 99";
        assert_eq!(parse_process(text), Some(1545));
        assert_eq!(parse_process("42 (x) R 1"), None);
    }

    #[test]
    fn steal_is_not_busy() {
        let text = "cpu  10 1 20 1000 5 2 3 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_machine(text), Some(MachineTicks { busy: 36, steal: 7 }));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_time_of_a_servers_children_is_the_servers() {
        use std::io::{BufRead, BufReader};
        // A shell that waits for one that computes: nearly all of the time is the latter's.
        let script = "sh -c 'while [ $((n += 1)) -lt 200000 ]; do :; done; echo done; read line'; true";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let process = shell.id().to_string();
        let (own, all) = (process_secs(&process).unwrap(), tree_secs(&process).unwrap());
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(all >= own + 0.05, "{own} s, with children {all} s");
    }

    #[test]
    fn a_missing_server_is_an_error_by_name() {
        let error = CpuSample::take(Some(u32::MAX)).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}
