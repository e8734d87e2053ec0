//! Records that are decrypted into lent memory, and encrypted into it, beside rustls' own cipher suites: nobody can tell which it was.

use crate::hostile::{Draw, hear, said};
use crate::made::{Made, Received, client, deliver, server, take_outgoing};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, UnboundKey};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{AeadKey, Iv, Nonce, make_tls13_aad};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite,
};
use shardloop_native::abi;
use shardloop_native::tls::client::server_name;
use shardloop_native::tls::identity::IdentityOptions;
use shardloop_native::tls::session::{Outbox, Session};
use std::io::Write;
use std::sync::Arc;

const APPLICATION_DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
/// Application data of one record at most.
const RECORD: usize = 1 << 14;

/// The suites of TLS 1.3, as rustls has them itself.
fn suites() -> Vec<SupportedCipherSuite> {
    let suites = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
    suites.into_iter().filter(|suite| suite.tls13().is_some()).collect()
}

/// Rustls' provider, with one of its suites.
fn provider(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    provider.into()
}

/// A client of rustls, and a session of ours that it has shaken hands with.
fn client_of_rustls(made: &Made, suite: SupportedCipherSuite) -> (rustls::Connection, Session) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&made.ca).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider(suite))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    let peer = ClientConnection::new(config.into(), server_name("localhost").unwrap()).unwrap();
    shake(peer.into(), server(made))
}

/// A server of rustls that sends no tickets, and a session of ours that has shaken hands with it.
fn server_of_rustls(made: &Made, suite: SupportedCipherSuite) -> (rustls::Connection, Session) {
    let IdentityOptions { cert, key, .. } = &made.options().certificates[0];
    let cert = CertificateDer::from_pem_slice(cert).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider(suite))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], PrivateKeyDer::from_pem_slice(key).unwrap())
        .unwrap();
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    let mut ours = client(made, "localhost");
    ours.begin().unwrap();
    shake(ServerConnection::new(config.into()).unwrap().into(), ours)
}

fn shake(mut peer: rustls::Connection, mut ours: Session) -> (rustls::Connection, Session) {
    while peer.is_handshaking() || !ours.is_established() {
        deliver(&said(&mut peer), &mut ours, usize::MAX, &mut Received::default()).unwrap();
        hear(&mut peer, &take_outgoing(&mut ours));
    }
    (peer, ours)
}

/// Makes records of what no implementation says.
struct Forger {
    key: LessSafeKey,
    iv: Iv,
    number: u64,
}

impl Forger {
    fn new(peer: rustls::Connection) -> Self {
        let (number, secrets) = peer.dangerous_extract_secrets().unwrap().tx;
        let key =
            |algorithm, key: &AeadKey| LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        let (key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key: bytes, iv } => (key(&aead::AES_128_GCM, &bytes), iv),
            ConnectionTrafficSecrets::Aes256Gcm { key: bytes, iv } => (key(&aead::AES_256_GCM, &bytes), iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key: bytes, iv } => {
                (key(&aead::CHACHA20_POLY1305, &bytes), iv)
            }
            _ => unreachable!(),
        };
        Self { key, iv, number }
    }

    /// One of this inner plaintext (RFC 8446 section 5.2).
    fn record(&mut self, content: &[u8], of: u8, padding: usize) -> Vec<u8> {
        let mut payload = content.to_vec();
        payload.push(of);
        payload.resize(payload.len() + padding, 0);
        let nonce = aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, self.number).0);
        self.number += 1;
        let length = payload.len() + 16;
        self.key.seal_in_place_append_tag(nonce, Aad::from(make_tls13_aad(length)), &mut payload).unwrap();
        let mut record = vec![APPLICATION_DATA, 3, 3];
        record.extend((length as u16).to_be_bytes());
        record.extend(payload);
        record
    }
}

/// How records come.
#[derive(Debug, Clone, Copy)]
enum Pieces {
    Of(usize),
    /// So many of them first.
    CutAt(usize),
}

/// What became of records that were forged: what was told, the failure's code, whether the peer has ended, and whether an alert is sent.
#[derive(Debug, PartialEq)]
struct Outcome {
    bytes: Vec<u8>,
    reason: Option<i32>,
    has_end: bool,
    answers: bool,
}

fn outcome(ours: &mut Session, records: &[Vec<u8>], pieces: Pieces, copies: bool) -> Outcome {
    let mut received = Received { copies, ..Received::default() };
    let failure = match pieces {
        Pieces::Of(step) => deliver(&records.concat(), ours, step, &mut received),
        Pieces::CutAt(cut) => deliver(&records[..cut].concat(), ours, usize::MAX, &mut received)
            .and_then(|()| deliver(&records[cut..].concat(), ours, usize::MAX, &mut received)),
    }
    .err();
    Outcome {
        bytes: received.bytes,
        reason: failure.map(|failure| failure.reason()),
        has_end: ours.is_peer_closed(),
        answers: !ours.outgoing().is_empty(),
    }
}

type Shake = fn(&Made, SupportedCipherSuite) -> (rustls::Connection, Session);

/// The same for memory that is lent and for copies, whole and in pieces, with each suite.
fn same_outcome(shake: Shake, what: &str, forge: impl Fn(&mut Forger) -> Vec<Vec<u8>>) -> Outcome {
    let made = Made::new(|_| {});
    let mut outcomes = Vec::new();
    for suite in suites() {
        for pieces in
            [Pieces::Of(usize::MAX), Pieces::Of(1_000), Pieces::Of(7), Pieces::CutAt(1), Pieces::CutAt(2)]
        {
            for copies in [false, true] {
                let (peer, mut ours) = shake(&made, suite);
                let outcome = outcome(&mut ours, &forge(&mut Forger::new(peer)), pieces, copies);
                outcomes.push((outcome, format!("{:?}, {pieces:?}, copies: {copies}", suite.suite())));
            }
        }
    }
    let (first, _) = outcomes.remove(0);
    for (outcome, how) in outcomes {
        assert!(outcome == first, "{what}, {how}: {}; else {}", brief(&outcome), brief(&first));
    }
    first
}

fn brief(outcome: &Outcome) -> String {
    let Outcome { bytes, reason, has_end, answers } = outcome;
    format!("{} bytes, reason {reason:?}, end {has_end}, answers {answers}", bytes.len())
}

/// Bytes of which no two neighbourhoods are alike.
fn text(length: usize) -> Vec<u8> {
    let mut draw = Draw(length as u64);
    (0..length).map(|_| draw.below(256) as u8).collect()
}

#[test]
fn what_a_record_has_is_told_however_it_is_padded() {
    let ends = [
        text(300),
        vec![APPLICATION_DATA; 2],
        vec![0; 5],
        vec![0, APPLICATION_DATA, 0],
        text(1),
        text(RECORD),
    ];
    for content in &ends {
        for padding in [0, 1, 2, 500, RECORD - content.len()] {
            let padding = padding.min(RECORD - content.len());
            let outcome = same_outcome(client_of_rustls, "padded", |forger| {
                vec![
                    forger.record(content, APPLICATION_DATA, padding),
                    forger.record(b"behind it", APPLICATION_DATA, 0),
                ]
            });
            let expected = [content, &b"behind it"[..]].concat();
            assert!(
                outcome.bytes == expected && outcome.reason.is_none() && !outcome.answers,
                "{}",
                brief(&outcome)
            );
        }
    }
}

#[test]
fn records_of_nothing_are_told_nothing_of_and_end_a_session_when_they_do_not_end() {
    for (count, reason) in [(5, None), (100, Some(abi::TLS_MALFORMED))] {
        for padding in [0, 1, 100, RECORD] {
            let outcome = same_outcome(client_of_rustls, "nothing", |forger| {
                let mut records = vec![forger.record(b"before", APPLICATION_DATA, 0)];
                for _ in 0..count {
                    records.push(forger.record(b"", APPLICATION_DATA, padding));
                }
                records.push(forger.record(b", behind", APPLICATION_DATA, 0));
                records
            });
            assert_eq!(outcome.reason, reason);
            assert_eq!(outcome.bytes, if reason.is_none() { &b"before, behind"[..] } else { b"before" });
        }
    }
}

#[test]
fn what_no_record_may_have_ends_a_session_behind_what_came_before() {
    type Forge = fn(&mut Forger) -> Vec<u8>;
    let wrong: [(&str, Forge); 8] = [
        ("no type", |forger| forger.record(b"", 0, 20)),
        ("a type that there is not", |forger| forger.record(b"text", 99, 3)),
        ("change_cipher_spec", |forger| forger.record(&[1], 20, 0)),
        ("a byte too many", |forger| forger.record(&text(RECORD + 1), APPLICATION_DATA, 0)),
        ("padding beyond the limit", |forger| forger.record(&text(10), APPLICATION_DATA, RECORD)),
        ("a handshake message that is none", |forger| forger.record(&[99, 0, 0, 1, 0], HANDSHAKE, 0)),
        ("a changed tag", |forger| {
            let mut record = forger.record(&text(1_000), APPLICATION_DATA, 0);
            *record.last_mut().unwrap() ^= 1;
            record
        }),
        ("less than a tag", |_| {
            vec![APPLICATION_DATA, 3, 3, 0, 15, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        }),
    ];
    for (what, forge) in wrong {
        let outcome = same_outcome(client_of_rustls, what, |forger| {
            let mut records = vec![forger.record(b"before", APPLICATION_DATA, 0)];
            records.push(forge(forger));
            records.push(forger.record(b"behind", APPLICATION_DATA, 0));
            records
        });
        assert!(outcome.reason.is_some(), "{what}");
        assert_eq!(outcome.bytes, b"before", "{what}");
    }
}

#[test]
fn an_end_is_one_however_it_is_padded() {
    for padding in [0, 1, 3_000] {
        let outcome = same_outcome(client_of_rustls, "close_notify", |forger| {
            let mut records = vec![forger.record(b"the last", APPLICATION_DATA, 9)];
            records.push(forger.record(&[1, 0], ALERT, padding));
            records.push(forger.record(b"nobody hears that", APPLICATION_DATA, 0));
            records
        });
        assert_eq!((outcome.bytes, outcome.reason, outcome.has_end), (b"the last".to_vec(), None, true));
    }
}

/// A part of a message stays in front of what follows it until its rest has come: the record that is looked at next is not the one at the
/// front, for whose size there is room.
#[test]
fn application_data_behind_a_message_in_parts_is_told() {
    let mut ticket = vec![4, 0, 0, 49, 0, 0, 0, 100, 1, 2, 3, 4, 1, 7, 0, 35];
    ticket.extend(text(35));
    ticket.extend([0, 0]);
    assert_eq!(ticket.len(), 4 + 49);
    for (at, padding) in [(1, 0), (3, 0), (4, 900), (20, 0), (20, 200), (50, RECORD - 50), (52, 0)] {
        for length in [1, 20, 60, 700, RECORD] {
            let expected = text(length);
            let whole = same_outcome(server_of_rustls, "in parts", |forger| {
                let mut records = vec![forger.record(&ticket[..at], HANDSHAKE, padding)];
                records.push(forger.record(&ticket[at..], HANDSHAKE, 0));
                records.push(forger.record(&expected, APPLICATION_DATA, 3.min(RECORD - length)));
                records
            });
            assert!(
                whole.bytes == expected && whole.reason.is_none(),
                "at {at}, {padding}: {}",
                brief(&whole)
            );
            let torn = same_outcome(server_of_rustls, "in the middle", |forger| {
                let mut records = vec![forger.record(&ticket[..at], HANDSHAKE, padding)];
                records.push(forger.record(&expected, APPLICATION_DATA, 3.min(RECORD - length)));
                records
            });
            assert!(torn.bytes.is_empty() && torn.reason == Some(abi::TLS_MALFORMED), "{}", brief(&torn));
        }
    }
}

#[test]
fn what_is_written_in_pieces_of_any_size_comes_with_new_keys_in_between() {
    let made = Made::new(|_| {});
    let sides: [Shake; 2] = [client_of_rustls, server_of_rustls];
    for (suite, shake) in suites().into_iter().flat_map(|suite| sides.map(|shake| (suite, shake))) {
        let (mut peer, mut ours) = shake(&made, suite);
        let mut draw = Draw(7);
        let sizes =
            [1, 2, 1_369, RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, 3 * RECORD + 5, 4 * RECORD, 100_000];
        for round in 0..200 {
            let plaintext = text(if round < sizes.len() { sizes[round] } else { draw.below(70_000) + 1 });
            let has_new_keys = round % 3 == 1;
            if has_new_keys {
                peer.refresh_traffic_keys().unwrap(); // and ours are asked for
            }
            for piece in plaintext.chunks(RECORD) {
                peer.writer().write_all(piece).unwrap();
                let mut received = Received::default();
                deliver(&said(&mut peer), &mut ours, draw.below(20_000) + 1, &mut received).unwrap();
                // Behind a key update, for which the memory was lent, there is a copy.
                assert!(has_new_keys || received.copied == 0, "what was lent is not used");
                assert!(
                    received.bytes == piece,
                    "{:?}, {} bytes in round {round}",
                    suite.suite(),
                    piece.len()
                );
            }
            let mut outbox = Outbox::default();
            let mut rest = &plaintext[..];
            let mut heard = Vec::new();
            while !rest.is_empty() {
                rest = &rest[ours.encrypt(rest, &mut outbox).unwrap()..];
                if draw.below(2) == 0 || rest.is_empty() {
                    heard.extend(hear(&mut peer, outbox.filled()));
                    outbox.clear();
                }
            }
            assert!(
                heard == plaintext,
                "{:?}, {} bytes back in round {round}",
                suite.suite(),
                plaintext.len()
            );
        }
    }
}
