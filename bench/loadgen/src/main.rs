//! Command line of the load generator; `loadgen --help` says what each option means.

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use loadgen::{
    address::Address,
    certificate,
    churn::{self, ChurnOptions},
    datagrams::{self, DatagramOptions},
    echo::{self, EchoOptions},
    error::LoadError,
    http::{
        self,
        arguments::{HttpArguments, Shared},
    },
    idle::{self, IdleOptions},
    listen::{ListenOptions, Listeners},
    outcome::Outcome,
    target::{Close, Target},
    tls::arguments::TlsArguments,
};

/// Loads a server, of echoes, of broadcasts or of HTTP, and checks every byte that comes.
///
/// Exits with 0 when all went well, 1 when a byte was wrong, a connection failed or a status was an error (see --tolerate), and 2 when the
/// options are wrong or the load could not be made.
#[derive(Parser)]
#[command(version, name = "loadgen")]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// N connections that each keep P messages of B bytes in flight
    Echo {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        tls: TlsArguments,
        #[command(flatten)]
        window: Window,
        /// Connections
        #[arg(long, value_name = "N", default_value_t = 64)]
        conns: usize,
        /// Bytes of a message
        #[arg(long, value_name = "B", default_value_t = 64)]
        size: usize,
        /// Messages in flight on each connection; with --rate the most that may be
        #[arg(long, value_name = "P", default_value_t = 1)]
        pipeline: u32,
        /// Messages per second in all on a fixed schedule, latency counted from the moment a message was meant to go out
        /// (corrected for coordinated omission); without it the next message follows the answer
        #[arg(long, value_name = "R")]
        rate: Option<f64>,
    },
    /// Connect, one echo, close; again and again
    Churn {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        tls: TlsArguments,
        /// Connections go on with the sessions of earlier ones; without it each makes a full handshake; TLS only
        #[arg(long)]
        tls_resume: bool,
        #[command(flatten)]
        window: Window,
        /// Connections under way at once
        #[arg(long, value_name = "N", default_value_t = 64)]
        conns: usize,
        /// Bytes echoed once on each connection
        #[arg(long, value_name = "B", default_value_t = 64)]
        size: usize,
        /// Source addresses 127.0.0.2, 127.0.0.3 ... that are taken in turn, so that ports in TIME_WAIT do not run out
        /// (28,000 per address; Linux loopback only); 0 leaves the address to the kernel
        #[arg(long, value_name = "N", default_value_t = 200)]
        sources: u32,
        /// Connections per second on a fixed schedule, latency counted from the moment a connection was meant to be opened
        /// (corrected for coordinated omission), at most --conns at once; those for which there was no room to the end are told
        /// apart; without it the next follows the end of one
        #[arg(long, value_name = "R")]
        rate: Option<f64>,
        /// Write a CSV line for every connection: when it was opened, in microseconds of the Unix epoch, and microseconds
        /// until it was echoed, empty when it failed
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
        /// How a connection ends: fin as clients do, rst leaves no port in TIME_WAIT; TCP only
        #[arg(long, value_enum, default_value_t = Close::Fin)]
        close: Close,
    },
    /// HTTP/1.1: N connections kept alive with K requests in flight each, or a new connection for each request
    ///
    /// By npm run loadtest it also takes --plot FILE, for a page (.html) or a drawing (.svg) of percentiles and of each second;
    /// without it the page is bench/results/loadtest-http.html.
    Http {
        #[command(flatten)]
        reporting: Reporting,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        http: HttpArguments,
    },
    /// Connections that only read, to a server that broadcasts to them and understands two lines on one more connection:
    /// "count", answered by the number of listeners, and "broadcast MESSAGES SIZE FIRST"
    Listen {
        #[command(flatten)]
        common: Common,
        /// Seconds to measure; without it each line "WARMUP SECS" on stdin is answered by a JSON line, after a first line
        /// "connecting to ADDRESS (N connections)", until stdin closes
        #[arg(long, value_name = "S", value_parser = seconds)]
        secs: Option<Duration>,
        /// Seconds of load before that
        #[arg(long, value_name = "S", default_value = "0.5", value_parser = seconds)]
        warmup: Duration,
        /// Process of the server, to measure its processor time in the window (Linux)
        #[arg(long, value_name = "PID")]
        server_pid: Option<u32>,
        /// Connections
        #[arg(long, value_name = "N", default_value_t = 1000)]
        conns: usize,
        /// Bytes of a broadcast
        #[arg(long, value_name = "B", default_value_t = 64)]
        size: usize,
        /// Broadcasts that are asked for at once; the next ones when all listeners have had them
        #[arg(long, value_name = "N", default_value_t = 1)]
        at_once: u32,
        /// Source addresses 127.0.0.2, 127.0.0.3 ...; at least one for every 10,000 connections
        #[arg(long, value_name = "N", default_value_t = 1)]
        sources: u32,
    },
    /// UDP: N sockets that each keep W datagrams of B bytes out; one without an answer in 100 ms is counted and replaced
    Datagrams {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        window: Window,
        /// Sockets
        #[arg(long, value_name = "N", default_value_t = 64)]
        sockets: usize,
        /// Bytes of a datagram
        #[arg(long, value_name = "B", default_value_t = 64)]
        size: usize,
        /// Datagrams that are out on each socket
        #[arg(long = "window", value_name = "W", default_value_t = 1)]
        out: usize,
    },
    /// Connections held open that do nothing
    Idle {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        tls: TlsArguments,
        /// Connections
        #[arg(long, value_name = "N", default_value_t = 1000)]
        conns: usize,
        /// Bytes echoed once on each connection before it idles; 0 sends nothing
        #[arg(long, value_name = "B", default_value_t = 0)]
        size: usize,
        /// Seconds to hold them; without it until stdin closes
        #[arg(long, value_name = "S", value_parser = seconds)]
        secs: Option<Duration>,
        /// Source addresses 127.0.0.2, 127.0.0.3 ...; at least one for every 10,000 connections
        #[arg(long, value_name = "N", default_value_t = 1)]
        sources: u32,
    },
    /// Write cert.pem, signed by itself, on P-256, for servers on this machine, and its key.pem
    Certificate {
        /// Where to; neither of the two files may be there
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Args)]
struct Common {
    /// The server: HOST:PORT, with or without tcp:// before it, or unix:PATH; with echo, churn and idle also tls://HOST:PORT
    #[arg(long, value_name = "HOST:PORT|unix:PATH")]
    addr: String,
    #[command(flatten)]
    reporting: Reporting,
}

#[derive(Args)]
struct Reporting {
    /// Allow an address that is not this machine's loopback
    #[arg(long)]
    allow_remote: bool,
    /// Print one JSON line and nothing else on stdout
    #[arg(long)]
    json: bool,
    /// Go on, and exit with 0, when connections fail (wrong bytes still end the run)
    #[arg(long)]
    tolerate: bool,
    /// Write the progress line also when stderr is no terminal
    #[arg(long)]
    progress: bool,
}

#[derive(Args)]
struct Window {
    /// Seconds to measure
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    secs: Duration,
    /// Seconds of load before that
    #[arg(long, value_name = "S", default_value = "0.5", value_parser = seconds)]
    warmup: Duration,
    /// Process of the server, to measure its processor time in the window (Linux)
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let secs: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(secs).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = match &cli.mode {
        Mode::Echo { common, .. }
        | Mode::Churn { common, .. }
        | Mode::Listen { common, .. }
        | Mode::Datagrams { common, .. }
        | Mode::Idle { common, .. } => common.reporting.json,
        Mode::Http { reporting, .. } => reporting.json,
        Mode::Certificate { .. } => false,
    };
    match run(cli.mode) {
        Ok(Some(outcome)) => {
            println!("{}", if json { outcome.json_line() } else { outcome.table() });
            if outcome.passed() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::from(2)
        }
    }
}

/// None: everything was told already.
fn run(mode: Mode) -> Result<Option<Outcome>, LoadError> {
    let outcome = match mode {
        Mode::Certificate { directory } => return certificate::write(&directory).map(|()| None),
        Mode::Echo { common, tls, window, conns, size, pipeline, rate } => {
            let (addr, tls) = tls.resolve(&common.addr, common.reporting.allow_remote, false)?;
            echo::run(EchoOptions {
                target: Target { addr, sources: 0, tls },
                connections: conns,
                size,
                pipeline,
                window: window.secs,
                warmup: window.warmup,
                rate_per_sec: rate,
                server_pid: window.server_pid,
                tolerate: common.reporting.tolerate,
                progress: common.reporting.progress,
            })
        }
        Mode::Listen { common, secs, warmup, server_pid, conns, size, at_once, sources } => {
            let addr = Address::resolve(&common.addr, common.reporting.allow_remote)?;
            let mut listeners = Listeners::connect(ListenOptions {
                target: Target { addr, sources, tls: None },
                connections: conns,
                size,
                at_once,
                server_pid,
                progress: common.reporting.progress,
            })?;
            match secs {
                Some(secs) => listeners.measure(warmup, secs),
                None => return measure_as_told(&mut listeners).map(|()| None),
            }
        }
        Mode::Datagrams { common, window, sockets, size, out } => datagrams::run(DatagramOptions {
            addr: Address::resolve_ip(&common.addr, common.reporting.allow_remote)?,
            sockets,
            size,
            out,
            window: window.secs,
            warmup: window.warmup,
            server_pid: window.server_pid,
            progress: common.reporting.progress,
        }),
        Mode::Http { reporting, window, http } => http
            .options(Shared {
                allow_remote: reporting.allow_remote,
                tolerate: reporting.tolerate,
                progress: reporting.progress,
                window: window.secs,
                warmup: window.warmup,
                server_pid: window.server_pid,
            })
            .and_then(http::run),
        Mode::Churn { common, tls, tls_resume, window, conns, size, sources, rate, trace, close } => {
            let (addr, tls) = tls.resolve(&common.addr, common.reporting.allow_remote, tls_resume)?;
            churn::run(ChurnOptions {
                target: Target { sources: Target::sources_possible(&addr, sources), addr, tls },
                concurrency: conns,
                size,
                close,
                rate_per_sec: rate,
                trace,
                window: window.secs,
                warmup: window.warmup,
                server_pid: window.server_pid,
                tolerate: common.reporting.tolerate,
                progress: common.reporting.progress,
            })
        }
        Mode::Idle { common, tls, conns, size, secs, sources } => {
            let (addr, tls) = tls.resolve(&common.addr, common.reporting.allow_remote, false)?;
            idle::run(IdleOptions {
                target: Target { addr, sources, tls },
                connections: conns,
                size,
                hold: secs,
                tolerate: common.reporting.tolerate,
                progress: common.reporting.progress,
                json: common.reporting.json,
            })
        }
    };
    outcome.map(Some)
}

/// Measures once for each line `WARMUP SECS` on stdin.
fn measure_as_told(listeners: &mut Listeners) -> Result<(), LoadError> {
    let tell = |line: String| {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(LoadError::system("write"))
    };
    tell(format!("connecting to tcp://{} ({} connections)", listeners.addr(), listeners.count()))?;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(LoadError::system("read"))?;
        let wrong =
            |reason: String| LoadError::Option(format!("stdin: {line:?} is not WARMUP SECS: {reason}"));
        let (warmup, secs) =
            line.split_once(' ').ok_or_else(|| wrong("there is one space in it".to_owned()))?;
        let (warmup, secs) = (seconds(warmup).map_err(wrong)?, seconds(secs).map_err(wrong)?);
        let outcome = listeners.measure(warmup, secs)?;
        tell(outcome.json_line())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seconds_are_read_strictly() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert!(seconds("-1").is_err());
        assert!(seconds("soon").is_err());
        assert!(seconds("NaN").is_err());
    }
}
