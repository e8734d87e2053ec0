//! The load generator by TLS, against raw-tokio-rustls-echo and the load generator's own certificate, and against a server
//! that speaks none.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use loadgen::{
    certificate,
    churn::{self, ChurnOptions},
    echo::{self, EchoOptions},
    http::{
        self,
        arguments::{HttpArguments, Shared},
    },
    idle::{self, IdleOptions},
    outcome::Outcome,
    target::{Close, Target},
    tls::{TlsClient, TlsVersion, arguments::TlsArguments},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;

const VERSIONS: [TlsVersion; 2] = [TlsVersion::V1_2, TlsVersion::V1_3];

/// A directory with a certificate, removed with its content.
struct Certificate(PathBuf);

impl Certificate {
    fn make(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("loadgen-tls-{}-{name}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        certificate::write(&directory).unwrap();
        Self(directory)
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // A leftover in the temporary directory fails no test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Killed with the test, also when that fails.
struct Server {
    child: Child,
    _certificate: Certificate,
    /// With its scheme.
    addr: String,
}

impl Server {
    fn start(name: &str) -> Self {
        let certificate = Certificate::make(name);
        let mut child = Command::new(env!("CARGO_BIN_EXE_raw-tokio-rustls-echo"))
            .arg("--tls-cert")
            .arg(certificate.0.join("cert.pem"))
            .arg("--tls-key")
            .arg(certificate.0.join("key.pem"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next()).unwrap();
        Self { addr: addr.to_owned(), child, _certificate: certificate }
    }

    fn target(&self, version: TlsVersion, resumes: bool) -> Target {
        let (addr, tls) = TlsArguments::default().resolve(&self.addr, false, false).unwrap();
        assert!(tls.is_some(), "{} says that it speaks TLS", self.addr);
        Target { addr, sources: 0, tls: Some(TlsClient::new(version, resumes).unwrap()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// Answers requests of 1,000 bytes of body; ends with the test process.
fn https_server(certificate: &Certificate) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_file(certificate.0.join("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate.0.join("key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = BufReader::new(StreamOwned::new(session, stream.unwrap()));
            thread::spawn(move || -> std::io::Result<()> {
                let mut line = String::new();
                while stream.read_line(&mut line)? > 0 {
                    if line == "\r\n" {
                        stream.read_exact(&mut [0; 1000])?;
                        let body = "y".repeat(50_000);
                        let head = "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n";
                        stream.get_mut().write_all(format!("{head}{body}").as_bytes())?;
                    }
                    line.clear();
                }
                Ok(())
            });
        }
    });
    addr
}

#[test]
fn requests_go_by_tls() {
    let certificate = Certificate::make("https");
    let addr = https_server(&certificate);
    let shared = Shared {
        allow_remote: false,
        tolerate: false,
        progress: false,
        window: Duration::from_millis(200),
        warmup: Duration::ZERO,
        server_pid: None,
    };
    for new_connection in [false, true] {
        let arguments = HttpArguments {
            url: format!("https://{addr}/"),
            path: None,
            conns: 4,
            pipeline: if new_connection { 1 } else { 3 },
            new_connection,
            rate: None,
            method: "POST".to_owned(),
            headers: Vec::new(),
            body_bytes: 1000,
            sources: None,
            out: None,
        };
        let outcome = http::run(arguments.options(shared).unwrap()).unwrap();
        let told = tls(&outcome);
        let value: Value = serde_json::from_str(&outcome.json_line()).unwrap();
        let (handshakes, requests) = (told["handshakes"].as_u64(), value["requestsTotal"].as_u64());
        assert!(requests > Some(4), "{value}");
        assert!(if new_connection { handshakes >= requests } else { handshakes == Some(4) }, "{value}");
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
