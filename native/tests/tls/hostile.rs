//! Input of a peer that means no good: it never panics, and never makes a session keep more than it may.

use crate::made::{Made, Received, client, deliver, exchange, pair, send, server, take_outgoing};
use shardloop_native::abi;
use shardloop_native::limits::TLS_INCOMING_MAX_BYTES;
use shardloop_native::tls::client::server_name;
use shardloop_native::tls::session::{Outbox, Session};
use std::io::{Read, Write};

/// Numbers that look random, and are the same in every run.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// As the shard does it: how many bytes the session keeps, or that it has failed.
fn feed(session: &mut Session, bytes: &[u8], step: usize) -> Option<i32> {
    let failure = deliver(bytes, session, step, &mut Received::default()).err();
    let mut memory = vec![0; TLS_INCOMING_MAX_BYTES * 2];
    if failure.is_none() {
        let kept = session.lend(&mut memory);
        assert!(kept <= TLS_INCOMING_MAX_BYTES, "{kept} bytes are kept");
        session.keep(&memory[..kept]);
    }
    failure.map(|failure| failure.reason())
}

#[test]
fn what_is_no_tls_is_told_as_such() {
    let made = Made::new(|_| {});
    for text in ["GET / HTTP/1.1\r\n\r\n", "\0\0\0\0\0\0\0\0", "SSH-2.0-OpenSSH", "\x7f\x2e\x01\x03\x01"] {
        for step in [1, usize::MAX] {
            let reason = feed(&mut server(&made), text.as_bytes(), step);
            assert_eq!(reason, Some(abi::TLS_NOT_TLS), "{text:?} in pieces of {step}");
        }
    }
}

#[test]
fn records_that_are_too_long_end_a_session() {
    let made = Made::new(|_| {});
    let mut record = vec![22, 3, 1, 0xff, 0xff];
    record.resize(70_000, 0);
    assert!(feed(&mut server(&made), &record, usize::MAX).is_some());

    let (mut client, mut server) = pair(&made);
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    let mut record = vec![23, 3, 3, 0x48, 0x01];
    record.resize(0x4801 + 5, 0);
    assert_eq!(feed(&mut server, &record, usize::MAX), Some(abi::TLS_MALFORMED));
    assert!(!server.outgoing().is_empty(), "an alert says so");
}

#[test]
fn bytes_that_were_changed_on_the_way_end_a_session() {
    let made = Made::new(|_| {});
    let (mut client, mut server) = pair(&made);
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    let mut outbox = Outbox::default();
    client.encrypt(b"hello", &mut outbox).unwrap();
    let mut record = outbox.filled().to_vec();
    *record.last_mut().unwrap() ^= 1;
    assert_eq!(feed(&mut server, &record, 3), Some(abi::TLS_MALFORMED));
}

/// The fuzz target: changes, cuts, repeats and inserts bytes of a handshake and of what follows, in either direction. How many
/// sessions: SHARDLOOP_TLS_FUZZ_ROUNDS, as the long tests set it; which changes: SHARDLOOP_TLS_FUZZ_SEED.
#[test]
fn no_change_of_what_is_said_makes_a_session_panic_or_keep_too_much() {
    let mades = [("TLSv1.2", "TLSv1.2"), ("TLSv1.3", "TLSv1.3")].map(|(min, max)| {
        Made::new(move |options| {
            options.choices.min_version = min.into();
            options.choices.max_version = max.into();
        })
    });
    let rounds = std::env::var("SHARDLOOP_TLS_FUZZ_ROUNDS").map_or(400, |rounds| rounds.parse().unwrap());
    let mut draw =
        Draw(std::env::var("SHARDLOOP_TLS_FUZZ_SEED").map_or(20_260_101, |seed| seed.parse().unwrap()));
    let mut failed = 0;
    for round in 0..rounds {
        let made = &mades[round % 2];
        let (mut one, mut other) = (client(made, "localhost"), server(made));
        one.begin().unwrap();
        let when = draw.below(6);
        let mut over = false;
        for turn in 0..6 {
            let mut said = one.outgoing().to_vec();
            one.sent(said.len());
            if turn == 3 && one.is_established() {
                let mut outbox = Outbox::default();
                one.encrypt(&vec![9; draw.below(20_000) + 1], &mut outbox).unwrap();
                said.extend_from_slice(outbox.filled());
            }
            if turn == when && !said.is_empty() {
                for _ in 0..=draw.below(3) {
                    let at = draw.below(said.len());
                    match draw.below(5) {
                        0 => said[at] = draw.below(256) as u8,
                        1 => said.truncate(at.max(1)),
                        2 => drop(said.splice(at..at, vec![draw.below(256) as u8; draw.below(300)])),
                        3 => said.extend_from_within(at..),
                        _ => drop(said.drain(at..(at + draw.below(20) + 1).min(said.len()))),
                    }
                    if said.is_empty() {
                        break;
                    }
                }
            }
            let step = [1, 3, 50, usize::MAX][draw.below(4)];
            if feed(&mut other, &said, step).is_some() {
                over = true;
                break;
            }
            std::mem::swap(&mut one, &mut other);
        }
        failed += usize::from(over);
    }
    assert!(failed > rounds / 4, "only {failed} of {rounds} sessions saw that something was wrong");
}

#[test]
fn warnings_without_end_are_not_taken() {
    let made = Made::new(|_| {});
    let (mut client, mut server) = pair(&made);
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    send(&mut client, b"x", &mut server, usize::MAX, &mut Received::default()).unwrap();
    // Warnings without end (no_renegotiation) are none that an established session of TLS 1.3 may send.
    let mut said = Vec::new();
    for _ in 0..1_000 {
        said.extend_from_slice(&[21, 3, 3, 0, 2, 1, 100]);
    }
    assert_eq!(feed(&mut server, &said, usize::MAX), Some(abi::TLS_MALFORMED));
}

/// Either side by rustls' own buffers, which can ask for new keys, and has shaken hands with a session of ours.
fn other_side(made: &Made, is_client: bool) -> (rustls::Connection, Session) {
    let (mut peer, mut ours): (rustls::Connection, _) = if is_client {
        let name = server_name("localhost").unwrap();
        (rustls::ClientConnection::new(made.client.config(), name).unwrap().into(), server(made))
    } else {
        (rustls::ServerConnection::new(made.server.config()).unwrap().into(), client(made, "localhost"))
    };
    if !is_client {
        ours.begin().unwrap();
    }
    while peer.is_handshaking() || !ours.is_established() {
        deliver(&said(&mut peer), &mut ours, usize::MAX, &mut Received::default()).unwrap();
        hear(&mut peer, &take_outgoing(&mut ours));
    }
    (peer, ours)
}

pub fn said(peer: &mut rustls::Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).unwrap();
    }
    bytes
}

pub fn hear(peer: &mut rustls::Connection, mut bytes: &[u8]) -> Vec<u8> {
    let mut plaintext = Vec::new();
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).unwrap();
        let state = peer.process_new_packets().unwrap();
        let start = plaintext.len();
        plaintext.resize(start + state.plaintext_bytes_to_read(), 0);
        peer.reader().read_exact(&mut plaintext[start..]).unwrap();
    }
    plaintext
}

/// As many requests for new keys, and what came before them.
fn key_updates(peer: &mut rustls::Connection, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        peer.refresh_traffic_keys().unwrap();
        bytes.extend(said(peer));
    }
    bytes
}

/// As rustls and BoringSSL have it.
const KEY_UPDATES_MAX: usize = 32;

#[test]
fn requests_for_new_keys_without_end_end_a_session() {
    let made = Made::new(|_| {});
    for is_client in [true, false] {
        let (mut peer, mut ours) = other_side(&made, is_client);
        let bytes = key_updates(&mut peer, KEY_UPDATES_MAX);
        assert_eq!(feed(&mut ours, &bytes, usize::MAX), None);
        assert!(ours.outgoing().is_empty(), "an answer waits for the next write");
        let bytes = key_updates(&mut peer, 1_000);
        assert_eq!(feed(&mut ours, &bytes, 7), Some(abi::TLS_MALFORMED));
        assert!(ours.outgoing().is_empty(), "rustls has no alert for that");
    }
}

#[test]
fn requests_for_new_keys_between_data_are_answered_by_one_with_the_next_write_however_many_they_are() {
    let made = Made::new(|_| {});
    for is_client in [true, false] {
        let (mut peer, mut ours) = other_side(&made, is_client);
        for round in 0..3 {
            let mut received = Received::default();
            for _ in 0..200 {
                let mut bytes = key_updates(&mut peer, KEY_UPDATES_MAX);
                peer.writer().write_all(b"x").unwrap();
                bytes.extend(said(&mut peer));
                deliver(&bytes, &mut ours, usize::MAX, &mut received).unwrap();
                assert!(ours.outgoing().is_empty(), "nothing waits for a peer that does not read");
            }
            assert_eq!(received.bytes, [b'x'; 200]);
            let mut outbox = Outbox::default();
            let text = format!("round {round}");
            ours.encrypt(text.as_bytes(), &mut outbox).unwrap();
            assert!(outbox.filled().len() < 100, "{} bytes", outbox.filled().len());
            assert_eq!(hear(&mut peer, outbox.filled()), text.as_bytes(), "with new keys");
        }
    }
}
