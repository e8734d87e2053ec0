//! The load generator against servers that lose, double, change or withhold bytes, and against one that does not.
//! One thread per connection, blocking: these servers are to be right by inspection, not fast.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use loadgen::{
    churn::{self, ChurnOptions},
    echo::{self, EchoOptions},
    idle::{self, IdleOptions},
    target::{Close, Target},
};
use serde_json::Value;

/// What a server does wrong, once per connection, when this many bytes have been echoed.
#[derive(Clone, Copy)]
enum Fault {
    None,
    Change { at: usize },
    Lose { at: usize },
    Double { at: usize },
    Close { at: usize },
    Silence { at: usize },
    Reset,
}

fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // Ends with the test process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve_one(stream.unwrap(), fault));
        }
    });
    addr
}

fn serve_one(mut stream: TcpStream, fault: Fault) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    if matches!(fault, Fault::Reset) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok()?;
        return None;
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut echoed = 0;
    loop {
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        let mut bytes = buffer[..length].to_vec();
        let now = |at: usize| (echoed..echoed + length).contains(&at);
        match fault {
            Fault::Change { at } if now(at) => bytes[at - echoed] ^= 0x20,
            Fault::Lose { at } if now(at) => drop(bytes.remove(at - echoed)),
            Fault::Double { at } if now(at) => bytes.insert(at - echoed, bytes[at - echoed]),
            Fault::Close { at } if now(at) => return None,
            Fault::Silence { at } if now(at) => bytes.truncate(at - echoed),
            Fault::Silence { at } if echoed > at => bytes.clear(),
            _ => {}
        }
        echoed += length;
        stream.write_all(&bytes).ok()?;
    }
}

fn options(addr: SocketAddr) -> EchoOptions {
    EchoOptions {
        target: Target { addr: addr.into(), sources: 0, tls: None },
        connections: 4,
        size: 100,
        pipeline: 3,
        window: Duration::from_millis(200),
        warmup: Duration::from_millis(20),
        rate_per_sec: None,
        server_pid: None,
        tolerate: false,
        progress: false,
    }
}

/// Whether the run passed, and its JSON line.
fn load(options: EchoOptions) -> (bool, Value) {
    let outcome = echo::run(options).unwrap();
    (outcome.passed(), serde_json::from_str(&outcome.json_line()).unwrap())
}

#[test]
fn a_right_server_passes_with_small_and_large_messages() {
    let addr = serve(Fault::None);
    for (size, pipeline) in [(1, 1), (100, 16), (300_000, 2)] {
        let (passed, json) = load(EchoOptions { size, pipeline, ..options(addr) });
        assert!(passed, "{json}");
        assert!(json["requests"].as_u64().unwrap() > 0, "{json}");
        assert_eq!(json["requests"], json["latencyUs"]["count"], "{json}");
    }
}

#[test]
fn a_changed_byte_is_named_by_its_position() {
    let (passed, json) = load(EchoOptions { tolerate: true, ..options(serve(Fault::Change { at: 1234 })) });
    assert!(!passed, "wrong bytes are never tolerated");
    let first = json["failures"]["first"].as_str().unwrap();
    assert!(first.contains("wrong byte at position 1234"), "{first}");
}

#[test]
fn a_lost_byte_is_seen() {
    let (passed, json) = load(options(serve(Fault::Lose { at: 5000 })));
    assert!(!passed);
    assert_eq!(json["failures"]["corrupt"], 1, "{json}");
}

#[test]
fn a_doubled_byte_is_seen() {
    let (passed, json) = load(options(serve(Fault::Double { at: 5000 })));
    assert!(!passed);
    assert_eq!(json["failures"]["corrupt"], 1, "{json}");
}

#[test]
fn a_withheld_answer_is_seen_at_the_end() {
    let (passed, json) = load(options(serve(Fault::Silence { at: 150 })));
    assert!(!passed);
    assert_eq!(json["failures"]["unanswered"], 4, "every connection misses some: {json}");
    assert!(json["failures"]["first"].as_str().unwrap().contains("is missing"), "{json}");
}

#[test]
fn a_closed_connection_fails_unless_tolerated() {
    let addr = serve(Fault::Close { at: 1000 });
    let (passed, json) = load(options(addr));
    assert!(!passed);
    assert_eq!(json["failures"]["lost"], 1, "the first failure ends the run: {json}");
    let (passed, json) = load(EchoOptions { tolerate: true, ..options(addr) });
    assert!(passed);
    assert_eq!(json["failures"]["lost"], 4, "{json}");
}

#[test]
fn a_refused_connect_is_a_failure_by_name() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (passed, json) = load(options(addr));
    assert!(!passed);
    assert!(json["failures"]["first"].as_str().unwrap().contains("was not established"), "{json}");
}

#[test]
fn a_rate_is_kept() {
    let (passed, json) = load(EchoOptions {
        rate_per_sec: Some(2000.0),
        window: Duration::from_millis(500),
        ..options(serve(Fault::None))
    });
    assert!(passed, "{json}");
    let count = json["latencyUs"]["count"].as_f64().unwrap();
    // A busy machine may close the window late, and answer late; every message that was due in it counts all the same.
    let due = 2000.0 * json["secs"].as_f64().unwrap();
    assert!((count - due).abs() <= 10.0, "{due} messages were due: {json}");
}

#[test]
fn what_falls_due_while_the_window_closes_is_counted() {
    // Many more are due than can be sent: each look finds thousands, the last one too.
    let rate = 2_000_000.0;
    let (_, json) = load(EchoOptions {
        rate_per_sec: Some(rate),
        window: Duration::from_millis(100),
        ..options(serve(Fault::None))
    });
    let count = json["latencyUs"]["count"].as_f64().unwrap();
    let due = rate * json["secs"].as_f64().unwrap();
    assert!((count - due).abs() <= 2.0, "{due} messages were due: {json}");
}

#[test]
fn a_stall_delays_every_message_behind_it_when_a_rate_is_set() {
    // Answers stop for good after a few messages: in a closed loop nobody would notice how long the others waited.
    let (_, json) = load(EchoOptions {
        connections: 1,
        pipeline: 1,
        rate_per_sec: Some(1000.0),
        warmup: Duration::ZERO,
        window: Duration::from_millis(400),
        tolerate: true,
        ..options(serve(Fault::Silence { at: 1050 }))
    });
    assert!(json["unsent"].as_u64().unwrap() > 300, "{json}");
    assert!(json["latencyUs"]["p50"].as_f64().unwrap() > 100_000.0, "{json}");
}

fn churn_options(addr: SocketAddr) -> ChurnOptions {
    ChurnOptions {
        target: Target { addr: addr.into(), sources: Target::sources_possible(&addr.into(), 8), tls: None },
        concurrency: 4,
        size: 100,
        close: Close::Fin,
        rate_per_sec: None,
        trace: None,
        window: Duration::from_millis(200),
        warmup: Duration::ZERO,
        server_pid: None,
        tolerate: false,
        progress: false,
    }
}

fn churn(options: ChurnOptions) -> (bool, Value) {
    let outcome = churn::run(options).unwrap();
    (outcome.passed(), serde_json::from_str(&outcome.json_line()).unwrap())
}

#[test]
fn churn_counts_connections_and_sees_wrong_bytes() {
    for close in [Close::Fin, Close::Rst] {
        let (passed, json) = churn(ChurnOptions { close, ..churn_options(serve(Fault::None)) });
        assert!(passed, "{json}");
        assert!(json["requests"].as_u64().unwrap() > 4, "{json}");
    }
    let (passed, json) = churn(churn_options(serve(Fault::Change { at: 50 })));
    assert!(!passed);
    assert_eq!(json["failures"]["corrupt"], 1, "{json}");
}

#[test]
fn churn_by_schedule_opens_as_many_as_are_due_and_traces_each() {
    let trace = std::env::temp_dir().join(format!("loadgen-trace-{}.csv", std::process::id()));
    let began_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let (passed, json) = churn(ChurnOptions {
        rate_per_sec: Some(500.0),
        trace: Some(trace.clone()),
        ..churn_options(serve(Fault::None))
    });
    assert!(passed, "{json}");
    let requests = json["requests"].as_u64().unwrap();
    let due = requests + json["unopened"].as_u64().unwrap();
    let wanted = 500.0 * json["secs"].as_f64().unwrap();
    assert!(requests > 50 && (due as f64 - wanted).abs() <= 2.0, "{json}");
    let text = std::fs::read_to_string(&trace).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("opened_unix_us,until_echoed_us"));
    let opened: Vec<u64> = lines
        .map(|line| {
            let (opened, until_echoed) = line.split_once(',').unwrap();
            assert!(until_echoed.parse::<f64>().unwrap() > 0.0, "{line}");
            opened.parse().unwrap()
        })
        .collect();
    assert_eq!(opened.len() as u64, json["requestsTotal"].as_u64().unwrap());
    assert!(opened.iter().all(|&us| (began_us..began_us + 10_000_000).contains(&us)), "{opened:?}");
    std::fs::remove_file(trace).unwrap();
}

#[test]
fn churn_by_schedule_counts_the_time_that_a_connection_could_not_be_opened() {
    // One at once, never answered for as long as it would take the next ones to be due.
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = slow.local_addr().unwrap();
    thread::spawn(move || {
        for stream in slow.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 100];
            stream.read_exact(&mut buffer).unwrap();
            thread::sleep(Duration::from_millis(20));
            stream.write_all(&buffer).unwrap();
        }
    });
    let (passed, json) =
        churn(ChurnOptions { concurrency: 1, rate_per_sec: Some(200.0), ..churn_options(addr) });
    assert!(passed, "{json}");
    // Due every 5 ms, served every 20: the tenth waits for some 150 ms.
    assert!(json["latencyUs"]["p99"].as_f64().unwrap() > 100_000.0, "{json}");
    assert!(json["unopened"].as_u64().unwrap() > 10, "{json}");
}

#[test]
fn churn_traces_connections_that_fail_without_a_latency() {
    let trace = std::env::temp_dir().join(format!("loadgen-failures-{}.csv", std::process::id()));
    let (passed, json) = churn(ChurnOptions {
        rate_per_sec: Some(100.0),
        trace: Some(trace.clone()),
        tolerate: true,
        ..churn_options(serve(Fault::Reset))
    });
    assert!(passed, "{json}");
    let text = std::fs::read_to_string(&trace).unwrap();
    assert!(text.lines().count() > 10 && text.lines().skip(1).all(|line| line.ends_with(',')), "{text}");
    std::fs::remove_file(trace).unwrap();
}

#[test]
fn a_rate_or_trace_that_cannot_be_is_refused_by_name() {
    let refusal = |options| churn::run(options).err().unwrap().to_string();
    let addr = "127.0.0.1:1".parse().unwrap();
    assert!(
        refusal(ChurnOptions { rate_per_sec: Some(0.0), ..churn_options(addr) }).starts_with("--rate is")
    );
    let trace = Some("/nowhere/at/all".into());
    assert!(
        refusal(ChurnOptions { trace, ..churn_options(addr) })
            .starts_with("--trace /nowhere/at/all: No such")
    );
}

#[test]
fn idle_holds_its_connections_and_notices_when_they_go() {
    let idle = |fault, tolerate| {
        let outcome = idle::run(IdleOptions {
            target: Target { addr: serve(fault).into(), sources: 2, tls: None },
            connections: 50,
            size: 10,
            hold: Some(Duration::from_millis(50)),
            tolerate,
            progress: false,
            json: true,
        })
        .unwrap();
        (outcome.passed(), serde_json::from_str::<Value>(&outcome.json_line()).unwrap())
    };
    let (passed, json) = idle(Fault::None, false);
    assert!(passed, "{json}");
    assert_eq!(json["connections"], 50, "{json}");
    let (passed, json) = idle(Fault::Close { at: 5 }, true);
    assert!(passed, "{json}");
    assert_eq!(json["connections"], 0, "{json}");
    let (passed, _) = idle(Fault::Reset, false);
    assert!(!passed);
}

#[test]
fn more_connections_than_descriptors_is_an_error_with_advice() {
    let error = echo::run(EchoOptions { connections: 1 << 40, ..options("127.0.0.1:1".parse().unwrap()) })
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(text.contains("descriptors are needed") && text.contains("ulimit"), "{text}");
}
