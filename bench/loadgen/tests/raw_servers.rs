//! The raw servers as programs: they say where they listen, do their work, and end on SIGTERM; and the load generator
//! against those on Unix sockets.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{net::UnixStream, process::ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use loadgen::{
    address::Address,
    churn::{self, ChurnOptions},
    echo::{self, EchoOptions},
    idle::{self, IdleOptions},
    target::{Close, Target},
};
use rustix::process::{Pid, Signal, kill_process};

/// More than the sockets' buffers hold, so that the server also meets a socket that takes no more.
const BYTES: usize = 32 * 1024 * 1024;

/// Killed with the test, also when that fails.
struct Server {
    child: Child,
    addr: String,
}

impl Server {
    fn start(program: &str, engine: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next()).unwrap();
        assert!(line.ends_with(&format!("(shards 1, engine {engine})\n")), "{line}");
        Self { addr: addr.to_owned(), child }
    }

    /// HOST:PORT of a server that listens over TCP.
    fn tcp(&self) -> &str {
        self.addr.strip_prefix("tcp://").unwrap()
    }

    fn ends_on_sigterm(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for a socket, removed with its content.
struct SocketDirectory(PathBuf);

impl SocketDirectory {
    fn make(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("loadgen-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> String {
        self.0.join("echo.sock").to_str().unwrap().to_owned()
    }
}

impl Drop for SocketDirectory {
    fn drop(&mut self) {
        // A leftover in the temporary directory fails no test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

trait Duplex: Read + Write + Sized + Send + 'static {
    fn clone_handle(&self) -> Self;
    fn end(&self);
}

impl Duplex for TcpStream {
    fn clone_handle(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Duplex for UnixStream {
    fn clone_handle(&self) -> Self {
        self.try_clone().unwrap()
    }
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

fn echoes_every_byte(mut stream: impl Duplex) {
    let mut writer = stream.clone_handle();
    let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let expected = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.end();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == expected, "{} bytes came back of {BYTES}", received.len());
}

fn echoes_over_tcp(program: &str, engine: &str) {
    let mut server = Server::start(program, engine, &[]);
    echoes_every_byte(TcpStream::connect(server.tcp()).unwrap());
    server.ends_on_sigterm();
}

/// By hand, and under every kind of load.
fn echoes_over_a_unix_socket(program: &str, engine: &str) {
    let directory = SocketDirectory::make(engine);
    let path = directory.socket();
    let mut server = Server::start(program, engine, &["--path", &path]);
    assert_eq!(server.addr, format!("unix:{path}"));
    echoes_every_byte(UnixStream::connect(&path).unwrap());

    let target = Target { addr: Address::resolve(&server.addr, false).unwrap(), sources: 0, tls: None };
    let window = Duration::from_millis(200);
    let echoed = echo::run(EchoOptions {
        target: target.clone(),
        connections: 8,
        size: 300_000,
        pipeline: 2,
        window,
        warmup: Duration::ZERO,
        rate_per_sec: None,
        server_pid: None,
        tolerate: false,
        progress: false,
    })
    .unwrap();
    assert!(echoed.passed(), "{}", echoed.table());
    assert!(echoed.json_line().contains(&format!("\"addr\":\"unix:{path}\"")), "{}", echoed.json_line());
    let churned = churn::run(ChurnOptions {
        target: target.clone(),
        concurrency: 4,
        size: 100,
        close: Close::Fin,
        rate_per_sec: None,
        trace: None,
        window,
        warmup: Duration::ZERO,
        server_pid: None,
        tolerate: false,
        progress: false,
    })
    .unwrap();
    assert!(churned.passed(), "{}", churned.table());
    let idled = idle::run(IdleOptions {
        target,
        connections: 20,
        size: 10,
        hold: Some(Duration::from_millis(10)),
        tolerate: false,
        progress: false,
        json: true,
    })
    .unwrap();
    assert!(idled.passed(), "{}", idled.table());
    server.ends_on_sigterm();
}

#[test]
fn raw_mio_echoes_every_byte_and_ends_on_sigterm() {
    echoes_over_tcp(env!("CARGO_BIN_EXE_raw-mio-echo"), "raw-mio");
}

#[test]
fn raw_tokio_echoes_every_byte_and_ends_on_sigterm() {
    echoes_over_tcp(env!("CARGO_BIN_EXE_raw-tokio-echo"), "raw-tokio");
}

#[test]
fn raw_mio_echoes_over_a_unix_socket() {
    echoes_over_a_unix_socket(env!("CARGO_BIN_EXE_raw-mio-echo"), "raw-mio");
}

#[test]
fn raw_tokio_echoes_over_a_unix_socket() {
    echoes_over_a_unix_socket(env!("CARGO_BIN_EXE_raw-tokio-echo"), "raw-tokio");
}

#[test]
fn a_unix_socket_where_nobody_listens_is_a_failure_by_name() {
    let directory = SocketDirectory::make("nobody");
    let addr = Address::Unix(directory.socket().into());
    let outcome = echo::run(EchoOptions {
        target: Target { addr, sources: 0, tls: None },
        connections: 2,
        size: 1,
        pipeline: 1,
        window: Duration::from_millis(10),
        warmup: Duration::ZERO,
        rate_per_sec: None,
        server_pid: None,
        tolerate: false,
        progress: false,
    })
    .unwrap();
    assert!(!outcome.passed());
    assert!(outcome.table().contains("was not established"), "{}", outcome.table());
}

#[test]
fn a_reset_over_a_unix_socket_is_refused_by_name() {
    let error = churn::run(ChurnOptions {
        target: Target { addr: Address::Unix("/nowhere.sock".into()), sources: 0, tls: None },
        concurrency: 1,
        size: 1,
        close: Close::Rst,
        rate_per_sec: None,
        trace: None,
        window: Duration::from_millis(10),
        warmup: Duration::ZERO,
        server_pid: None,
        tolerate: false,
        progress: false,
    })
    .err()
    .unwrap();
    assert!(error.to_string().starts_with("--close rst is for TCP"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn raw_accept_closes_after_its_client_on_every_address() {
    let mut server = Server::start(env!("CARGO_BIN_EXE_raw-accept"), "raw-accept", &["--addresses", "3"]);
    let port = server.tcp().strip_prefix("127.0.0.1:").unwrap().to_owned();
    for last in 1..=3 {
        let mut stream = TcpStream::connect(format!("127.0.0.{last}:{port}")).unwrap();
        stream.write_all(b"not looked at").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let waited = stream.read(&mut [0; 16]);
        assert!(waited.is_err(), "it closes only after its client, and sends nothing: {waited:?}");
        stream.set_read_timeout(None).unwrap();
        stream.end();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
    }
    server.ends_on_sigterm();
}
