//! The load generator by TLS, against raw-tokio-rustls-echo and the load generator's own certificate, and against a server
//! that speaks none.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use loadgen::{
    certificate,
    churn::{self, ChurnOptions},
    echo::{self, EchoOptions},
    idle::{self, IdleOptions},
    outcome::Outcome,
    target::{Close, Target},
    tls::{TlsClient, TlsVersion, arguments::TlsArguments},
};
use serde_json::Value;

const VERSIONS: [TlsVersion; 2] = [TlsVersion::V1_2, TlsVersion::V1_3];

/// Killed with the test, also when that fails; its certificate goes, too.
struct Server {
    child: Child,
    directory: PathBuf,
    /// With its scheme.
    addr: String,
}

impl Server {
    fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("loadgen-tls-{}-{name}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        certificate::write(&directory).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_raw-tokio-rustls-echo"))
            .arg("--tls-cert")
            .arg(directory.join("cert.pem"))
            .arg("--tls-key")
            .arg(directory.join("key.pem"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next()).unwrap();
        Self { addr: addr.to_owned(), child, directory }
    }

    fn target(&self, version: TlsVersion, resumes: bool) -> Target {
        let (addr, tls) = TlsArguments::default().resolve(&self.addr, false, false).unwrap();
        assert!(tls.is_some(), "{} says that it speaks TLS", self.addr);
        Target { addr, sources: 0, tls: Some(TlsClient::new(version, resumes).unwrap()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Each fails only when there is nothing left to end or remove.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn echoed(target: Target, connections: usize, size: usize, pipeline: u32) -> Outcome {
    echo::run(EchoOptions {
        target,
        connections,
        size,
        pipeline,
        window: Duration::from_millis(200),
        warmup: Duration::ZERO,
        rate_per_sec: None,
        server_pid: None,
        tolerate: false,
        progress: false,
    })
    .unwrap()
}

fn churned(target: Target) -> Outcome {
    churn::run(ChurnOptions {
        target,
        concurrency: 4,
        size: 64,
        close: Close::Fin,
        rate_per_sec: None,
        trace: None,
        window: Duration::from_millis(200),
        warmup: Duration::from_millis(50),
        server_pid: None,
        tolerate: false,
        progress: false,
    })
    .unwrap()
}

fn idled(target: Target, connections: usize, size: usize) -> Outcome {
    idle::run(IdleOptions {
        target,
        connections,
        size,
        hold: Some(Duration::from_millis(10)),
        tolerate: false,
        progress: false,
        json: true,
    })
    .unwrap()
}

/// The outcome's part about TLS, of a run without failures.
fn tls(outcome: &Outcome) -> Value {
    assert!(outcome.passed(), "{}", outcome.table());
    let value: Value = serde_json::from_str(&outcome.json_line()).unwrap();
    value["tls"].clone()
}

#[test]
fn every_byte_is_echoed_in_both_versions() {
    let server = Server::start("echo");
    for version in VERSIONS {
        // Less than a record, a record, and many of them, more than the sockets hold.
        for (size, pipeline) in [(64, 1), (16_384, 1), (300_000, 2)] {
            let outcome = echoed(server.target(version, false), 8, size, pipeline);
            let told = tls(&outcome);
            assert_eq!((told["handshakes"].as_u64(), told["resumed"].as_u64()), (Some(8), Some(0)), "{told}");
            let value: Value = serde_json::from_str(&outcome.json_line()).unwrap();
            assert!(value["requests"].as_u64().unwrap() > 0, "{value}");
        }
    }
}

#[test]
fn sessions_are_resumed_only_when_that_is_asked_for() {
    let server = Server::start("churn");
    for version in VERSIONS {
        let full = tls(&churned(server.target(version, false)));
        assert!(full["handshakes"].as_u64() > Some(0), "{full}");
        assert_eq!(full["resumed"], 0, "{full}");
        let resumed = tls(&churned(server.target(version, true)));
        assert!(resumed["handshakes"].as_u64() > Some(0), "{resumed}");
        assert_eq!(resumed["resumed"], resumed["handshakes"], "{resumed}");
    }
}

#[test]
fn idle_connections_have_made_their_handshakes() {
    let server = Server::start("idle");
    for size in [0, 100] {
        let told = tls(&idled(server.target(TlsVersion::V1_3, false), 20, size));
        assert_eq!(told["handshakes"], 20, "{told}");
    }
}

#[test]
fn a_server_that_speaks_no_tls_is_a_failure_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let answering = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 no TLS here\r\n").unwrap();
        stream
    });
    let client = TlsClient::new(TlsVersion::V1_3, false).unwrap();
    let outcome = echoed(Target { addr: addr.into(), sources: 0, tls: Some(client) }, 1, 64, 1);
    drop(answering.join().unwrap());
    assert!(!outcome.passed());
    let table = outcome.table();
    assert!(table.contains("connection 0 was not established: received corrupt message"), "{table}");
}
