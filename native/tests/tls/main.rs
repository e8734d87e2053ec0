//! TLS sessions without a network: what one side has to send is what the other receives, in pieces of any size.

#![allow(clippy::unwrap_used, reason = "tests")]

mod early_data;
mod handover;
mod hostile;
mod made;
#[cfg(feature = "aws-lc-rs")]
mod protection;
mod reads;
mod shards;
mod turns;

use made::{Made, Received, client, exchange, pair, send, server};
use shardloop_native::abi;
use shardloop_native::tls::session::{Outbox, Session};

fn established(versions: (&'static str, &'static str), step: usize) -> (Session, Session) {
    let made = Made::new(move |options| {
        options.choices.min_version = versions.0.into();
        options.choices.max_version = versions.1.into();
    });
    let (mut client, mut server) = pair(&made);
    exchange(&mut client, &mut server, step).unwrap();
    assert!(client.is_established() && server.is_established(), "{versions:?}, pieces of {step}");
    (client, server)
}

const VERSIONS: [(&str, &str); 3] = [("TLSv1.2", "TLSv1.3"), ("TLSv1.2", "TLSv1.2"), ("TLSv1.3", "TLSv1.3")];

#[test]
fn hands_are_shaken_however_the_bytes_come() {
    for versions in VERSIONS {
        for step in [1, 2, 7, 100, 1_460, usize::MAX] {
            let (client, server) = established(versions, step);
            let facts = server.facts();
            assert_eq!(facts.version, versions.1);
            assert_eq!(facts.server_name.as_deref(), Some("localhost"));
            assert!(facts.cipher.starts_with("TLS_"), "{}", facts.cipher);
            assert_eq!(client.facts().peer_certificates.len(), 1);
            assert!(client.outgoing().is_empty() && server.outgoing().is_empty());
        }
    }
}

#[test]
fn plaintext_arrives_as_it_was_written_both_ways() {
    let text: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 251) as u8).collect();
    for versions in VERSIONS {
        for step in [1, 999, usize::MAX] {
            let (mut client, mut server) = established(versions, step);
            let sizes = [1, 0, 16_384, 16_385, 100_000, 5];
            let mut sent = 0;
            let mut received = Received::default();
            for size in sizes {
                let piece = &text[sent..sent + size];
                sent += size;
                send(&mut client, piece, &mut server, step, &mut received).unwrap();
            }
            assert_eq!(received.bytes, &text[..sent]);
            let mut back = Received::default();
            send(&mut server, &text, &mut client, step, &mut back).unwrap();
            assert_eq!(back.bytes, text);
            assert!(back.largest <= 16_384, "a record has at most 2^14 bytes (RFC 8446 section 5.1)");
        }
    }
}

#[test]
fn what_nobody_can_take_is_kept_and_comes_first() {
    let (mut client, mut server) = established(VERSIONS[0], usize::MAX);
    let mut received = Received { refuses: true, ..Received::default() };
    send(&mut client, b"kept", &mut server, usize::MAX, &mut received).unwrap();
    received.refuses = false;
    send(&mut client, b" and more", &mut server, usize::MAX, &mut received).unwrap();
    assert!(received.bytes.is_empty(), "nothing overtakes what is kept");
    assert_eq!(server.pending(), b"kept and more");
    server.take_pending(4);
    assert_eq!(server.pending(), b" and more");
    server.take_pending(9);
    assert!(!server.has_input());
}

#[test]
fn the_first_records_of_a_burst_are_small() {
    let (mut client, mut server) = established(VERSIONS[0], usize::MAX);
    let text = vec![1; 100_000];
    let mut received = Received::default();
    send(&mut server, &text, &mut client, usize::MAX, &mut received).unwrap();
    assert_eq!((received.first, received.largest), (1_369, 16_384));
    let mut later = Received::default();
    send(&mut server, &text, &mut client, usize::MAX, &mut later).unwrap();
    assert_eq!(later.first, 16_384);
    server.begin_burst();
    let mut burst = Received::default();
    send(&mut server, &text, &mut client, usize::MAX, &mut burst).unwrap();
    assert_eq!(burst.first, 1_369);
}

#[test]
fn each_side_says_once_that_it_sends_no_more() {
    for versions in VERSIONS {
        let (mut client, mut server) = established(versions, usize::MAX);
        let mut outbox = Outbox::default();
        assert!(client.close(&mut outbox).unwrap());
        assert!(!client.close(&mut Outbox::default()).unwrap());
        made::deliver(outbox.filled(), &mut server, 1, &mut Received::default()).unwrap();
        assert!(server.is_peer_closed() && !client.is_peer_closed());
        // The other direction is still open.
        let mut received = Received::default();
        send(&mut server, b"after the peer's end", &mut client, 3, &mut received).unwrap();
        assert_eq!(received.bytes, b"after the peer's end");
    }
}

#[test]
fn a_session_goes_on_with_either_kind_of_memory_and_after_a_reload() {
    for (kind, goes_on) in [("tickets", true), ("stateful", true), ("none", false)] {
        for versions in VERSIONS {
            let made = Made::new(move |options| {
                options.choices.min_version = versions.0.into();
                options.choices.max_version = versions.1.into();
                options.sessions = kind.into();
                options.session_cache_size = 100;
            });
            for round in 0..3 {
                let (mut client, mut server) = pair(&made);
                exchange(&mut client, &mut server, usize::MAX).unwrap();
                send(&mut server, b"with the tickets", &mut client, 9, &mut Received::default()).unwrap();
                assert_eq!(server.is_resumed(), goes_on && round > 0, "{kind}, {versions:?}, round {round}");
                assert_eq!(client.is_resumed(), server.is_resumed());
                made.server.reload(&made.options()).unwrap();
            }
        }
    }
}

#[test]
fn a_bad_reload_leaves_what_there_was() {
    let made = Made::new(|_| {});
    let mut bad = made.options();
    bad.certificates[0].key = Made::new(|_| {}).options().certificates[0].key.clone();
    let error = made.server.reload(&bad).unwrap_err();
    assert!(error.0.contains("does not belong"), "{error}");
    bad.certificates[0].cert = b"-----BEGIN CERTIFICATE-----\nrubbish".to_vec();
    assert!(made.server.reload(&bad).is_err());
    let (mut client, mut server) = pair(&made);
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    assert!(server.is_established());
}

/// Whoever has seen a certificate can send it along: it proves nothing.
#[test]
fn a_pin_is_of_the_certificate_that_the_server_has_the_key_of() {
    let (ours, pinned) = (Made::new(|_| {}), Made::new(|_| {}));
    let mut options = ours.options();
    options.certificates[0].cert.extend_from_slice(&pinned.options().certificates[0].cert);
    ours.server.reload(&options).unwrap();
    for (pin, reason) in [(&pinned.key_hash, Some(abi::TLS_CERT_PIN)), (&ours.key_hash, None)] {
        let made = ours.client_with_pin(pin);
        let mut client =
            Session::client(&made, shardloop_native::tls::client::server_name("localhost").unwrap()).unwrap();
        let failed = exchange(&mut client, &mut server(&ours), usize::MAX).err();
        assert_eq!(failed.and_then(|failed| failed.by_client).map(|failure| failure.reason()), reason);
    }
}

#[test]
fn an_idle_session_holds_no_buffer_and_is_small() {
    let (client, server) = established(VERSIONS[0], usize::MAX);
    assert!(size_of::<Session>() <= 256, "{} bytes", size_of::<Session>());
    assert!(!client.has_input() && server.outgoing().is_empty());
}

#[test]
fn failures_have_the_reasons_that_javascript_knows() {
    let made = Made::new(|_| {});
    let other = Made::new(|_| {});
    let mut strange = client(&other, "localhost");
    let mut ours = server(&made);
    let failure = exchange(&mut strange, &mut ours, usize::MAX).unwrap_err();
    assert_eq!(failure.by_client.unwrap().reason(), abi::TLS_CERT_UNTRUSTED);
    assert_eq!(failure.by_server.unwrap().reason(), abi::TLS_ALERT - 48); // unknown_ca

    let mut misled = client(&made, "other.test");
    let failure = exchange(&mut misled, &mut server(&made), 5).unwrap_err();
    assert_eq!(failure.by_client.unwrap().reason(), abi::TLS_CERT_NAME);
}
