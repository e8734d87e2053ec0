//! Listeners against servers that lose, change or withhold broadcasts, close connections or miscount, and against one
//! that does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use loadgen::{
    broadcast::Script,
    error::LoadError,
    listen::{ListenOptions, Listeners},
    target::Target,
};
use serde_json::Value;

const LISTENERS: usize = 20;

/// What a server does wrong, with the second listener and message 5.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Change,
    Lose,
    Double,
    Close,
    /// Says that it has so many more than it has.
    Miscount(usize),
}

fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // Ends with the test process.
    thread::spawn(move || {
        let control = listener.accept().unwrap().0;
        let listeners = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::clone(&listeners);
        thread::spawn(move || obey(control, &accepted, fault));
        for stream in listener.incoming() {
            listeners.lock().unwrap().push(stream.unwrap());
        }
    });
    addr
}

fn obey(control: TcpStream, listeners: &Mutex<Vec<TcpStream>>, fault: Fault) -> Option<()> {
    let mut answers = control.try_clone().unwrap();
    for line in BufReader::new(control).lines() {
        let line = line.ok()?;
        let mut listeners = listeners.lock().unwrap();
        if line == "count" {
            let more = if let Fault::Miscount(more) = fault { more } else { 0 };
            writeln!(answers, "{}", listeners.len() + if listeners.is_empty() { 0 } else { more }).ok()?;
            continue;
        }
        let numbers: Vec<u32> = line
            .strip_prefix("broadcast ")
            .unwrap()
            .split(' ')
            .map(|number| number.parse().unwrap())
            .collect();
        let [count, size, first] = numbers[..] else { panic!("{line}") };
        let mut script = Script::new(size as usize);
        for number in first..first + count {
            for (index, stream) in listeners.iter_mut().enumerate() {
                let mut message = script.message(number).to_vec();
                if index == 1 && number == 5 {
                    match fault {
                        Fault::Change => message[7] ^= 1,
                        Fault::Lose => message.clear(),
                        Fault::Double => message.extend(script.message(number).to_vec()),
                        Fault::Close => stream.shutdown(std::net::Shutdown::Both).unwrap(),
                        _ => {}
                    }
                }
                // A listener that has seen a fault is gone.
                let _ = stream.write_all(&message);
            }
        }
    }
    None
}

fn options(addr: SocketAddr) -> ListenOptions {
    ListenOptions {
        target: Target { addr: addr.into(), sources: 0, tls: None },
        connections: LISTENERS,
        size: 64,
        at_once: 1,
        server_pid: None,
        progress: false,
    }
}

/// Whether the run passed, and its JSON line.
fn measure(listeners: &mut Listeners) -> (bool, Value) {
    let outcome = listeners.measure(Duration::from_millis(10), Duration::from_millis(50)).unwrap();
    (outcome.passed(), serde_json::from_str(&outcome.json_line()).unwrap())
}

#[test]
fn every_broadcast_reaches_every_listener_time_after_time() {
    for (size, at_once) in [(64, 1), (64, 16), (4, 3), (100_000, 2)] {
        let mut listeners =
            Listeners::connect(ListenOptions { size, at_once, ..options(serve(Fault::None)) }).unwrap();
        assert_eq!(listeners.count(), LISTENERS);
        for _ in 0..2 {
            let (passed, json) = measure(&mut listeners);
            assert!(passed, "{json}");
            let broadcasts = json["broadcasts"].as_u64().unwrap();
            assert!(broadcasts > 0 && broadcasts.is_multiple_of(u64::from(at_once)), "{json}");
            assert_eq!(json["requests"], broadcasts * LISTENERS as u64, "{json}");
            assert!(json["requestsTotal"].as_u64().unwrap() >= json["requests"].as_u64().unwrap(), "{json}");
            assert_eq!(json["latencyUs"]["count"], broadcasts / u64::from(at_once), "{json}");
        }
    }
}

#[test]
fn what_a_server_does_wrong_is_seen_and_named() {
    // What follows a lost broadcast is found in its place, as what follows the number of a doubled one is.
    for (fault, at_once, expected) in [
        (Fault::Change, 1, "connection 1 got a wrong byte at position 327: 0x06 instead of 0x07"),
        (Fault::Lose, 8, "connection 1 got a wrong byte at position 320: 0x06 instead of 0x05"),
        (Fault::Double, 8, "connection 1 got a wrong byte at position 384: 0x05 instead of 0x06"),
        (Fault::Double, 6, "connection 1 got a wrong byte at position 384: 0x05 instead of 0x06"),
        (Fault::Close, 1, "connection 1 was closed by the server after 320 of 384 bytes"),
    ] {
        let mut listeners = Listeners::connect(ListenOptions { at_once, ..options(serve(fault)) }).unwrap();
        let (passed, json) = measure(&mut listeners);
        assert!(!passed, "{json}");
        assert_eq!(json["failures"]["first"], expected, "{json}");
    }
}

#[test]
fn a_server_that_counts_others_than_ours_is_not_measured() {
    match Listeners::connect(options(serve(Fault::Miscount(1)))) {
        Err(LoadError::NotAccepted { accepted, wanted: LISTENERS }) => assert!(accepted > LISTENERS),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn options_that_cannot_be_are_refused_by_name() {
    let refusal = |options| Listeners::connect(options).err().unwrap().to_string();
    let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
    assert!(refusal(ListenOptions { connections: 0, ..options(addr) }).starts_with("--conns is"));
    assert!(refusal(ListenOptions { size: 3, ..options(addr) }).starts_with("--size is 4 to"));
    assert!(refusal(ListenOptions { at_once: 0, ..options(addr) }).starts_with("--at-once is 1 to"));
    let text = refusal(ListenOptions { connections: 1 << 40, ..options(addr) });
    assert!(text.contains("descriptors are needed") && text.contains("ulimit"), "{text}");
}
