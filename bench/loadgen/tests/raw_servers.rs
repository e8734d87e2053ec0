//! The raw echo servers as programs: they say where they listen, echo every byte, and end on SIGTERM.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    thread,
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
    fn start(program: &str, engine: &str) -> Self {
        let mut child = Command::new(program).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("listening on tcp://").and_then(|rest| rest.split(' ').next()).unwrap();
        assert!(line.ends_with(&format!("(shards 1, engine {engine})\n")), "{line}");
        Self { addr: addr.to_owned(), child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echoes_and_ends(program: &str, engine: &str) {
    let mut server = Server::start(program, engine);
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let expected = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == expected, "{} bytes came back of {BYTES}", received.len());

    kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
    assert_eq!(server.child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn raw_mio_echoes_every_byte_and_ends_on_sigterm() {
    echoes_and_ends(env!("CARGO_BIN_EXE_raw-mio-echo"), "raw-mio");
}

#[test]
fn raw_tokio_echoes_every_byte_and_ends_on_sigterm() {
    echoes_and_ends(env!("CARGO_BIN_EXE_raw-tokio-echo"), "raw-tokio");
}
