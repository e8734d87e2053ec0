//! The load of datagrams against servers that lose, change, delay or double them, and against one that does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use loadgen::datagrams::{self, DatagramOptions};
use serde_json::Value;

/// What a server does wrong with every 50th datagram.
#[derive(Clone, Copy)]
enum Fault {
    None,
    Lose,
    Double,
    Change,
    Shorten,
    Lengthen,
    Foreign,
}

fn serve(fault: Fault) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    // Ends with the test process.
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        for number in 1.. {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            let mut bytes = buffer[..length].to_vec();
            if number % 50 == 0 {
                match fault {
                    Fault::None => {}
                    Fault::Lose => continue,
                    Fault::Double => drop(socket.send_to(&bytes, peer)),
                    Fault::Change => bytes[20] ^= 1,
                    Fault::Shorten => drop(bytes.pop()),
                    Fault::Lengthen => bytes.push(0),
                    Fault::Foreign => bytes.fill(0xff),
                }
            }
            // A client that has ended refuses it.
            let _ = socket.send_to(&bytes, peer);
        }
    });
    addr
}

fn options(addr: SocketAddr) -> DatagramOptions {
    DatagramOptions {
        addr,
        sockets: 4,
        size: 64,
        out: 4,
        window: Duration::from_millis(200),
        warmup: Duration::from_millis(20),
        server_pid: None,
        progress: false,
    }
}

/// Whether the run passed, and its JSON line.
fn load(options: DatagramOptions) -> (bool, Value) {
    let outcome = datagrams::run(options).unwrap();
    (outcome.passed(), serde_json::from_str(&outcome.json_line()).unwrap())
}

#[test]
fn a_right_server_passes_with_one_and_with_many_out() {
    let addr = serve(Fault::None);
    for (size, out) in [(8, 1), (64, 16), (64, 100), (9_000, 2)] {
        let (passed, json) = load(DatagramOptions { size, out, ..options(addr) });
        assert!(passed, "{json}");
        assert!(json["requests"].as_u64().unwrap() > 0, "{json}");
        assert_eq!(json["requests"], json["latencyUs"]["count"], "{json}");
    }
}

#[test]
fn a_lost_datagram_is_counted_and_replaced() {
    let window = Duration::from_secs(1);
    let (passed, json) = load(DatagramOptions { window, ..options(serve(Fault::Lose)) });
    assert!(passed, "{json}");
    let (lost, requests) = (json["lost"].as_u64().unwrap(), json["requests"].as_u64().unwrap());
    // Were none replaced, the 16 that are out would be lost after 50 times as many.
    assert!(lost > 16 && requests > 800, "{json}");
}

#[test]
fn a_second_answer_is_counted_apart() {
    let (passed, json) = load(options(serve(Fault::Double)));
    assert!(passed, "{json}");
    assert!(json["late"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(json["requests"], json["latencyUs"]["count"], "{json}");
}

#[test]
fn a_datagram_that_was_not_sent_ends_the_run() {
    for fault in [Fault::Change, Fault::Shorten, Fault::Lengthen, Fault::Foreign] {
        let (passed, json) = load(options(serve(fault)));
        assert!(!passed, "{json}");
        assert_eq!(json["failures"]["corrupt"], 1, "{json}");
        let first = json["failures"]["first"].as_str().unwrap();
        assert!(first.contains("bytes that it has not sent"), "{first}");
    }
}

#[test]
fn what_an_earlier_run_has_sent_is_late_and_not_wrong() {
    // The first datagram is answered after the run that has sent it, and to whoever is there then.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        let (mut first, mut buffer) = (None, vec![0; 65_536]);
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            match &first {
                None => first = Some((peer, buffer[..length].to_vec())),
                Some((sender, bytes)) if *sender != peer => drop(socket.send_to(bytes, peer)),
                Some(_) => {}
            }
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
    let one = DatagramOptions { sockets: 1, ..options(addr) };
    assert!(load(one.clone()).0);
    let (passed, json) = load(one);
    assert!(passed, "{json}");
    assert!(json["late"].as_u64().unwrap() > 0, "{json}");
}

#[test]
fn a_port_that_nobody_has_is_a_failure() {
    let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (passed, json) = load(options(addr));
    assert!(!passed, "{json}");
    assert!(json["failures"]["first"].as_str().unwrap().contains("refused"), "{json}");
}

#[test]
fn options_that_cannot_be_are_refused_by_name() {
    let refusal = |options| datagrams::run(options).err().unwrap().to_string();
    let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
    assert!(refusal(DatagramOptions { sockets: 0, ..options(addr) }).starts_with("--sockets is"));
    assert!(refusal(DatagramOptions { out: 0, ..options(addr) }).contains("--window 1 to"));
    assert!(refusal(DatagramOptions { size: 7, ..options(addr) }).starts_with("--size is 8 to"));
    assert!(refusal(DatagramOptions { window: Duration::ZERO, ..options(addr) }).starts_with("--secs is"));
}
