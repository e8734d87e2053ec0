//! Data ahead of the handshake (RFC 8446 section 2.3), from rustls' own client: ours sends none.

use crate::made::{Made, Received, deliver, server, take_outgoing};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundOpaqueMessage,
    OutboundPlainMessage, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{
    CipherSuiteCommon, ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, Error,
    Tls13CipherSuite,
};
use shardloop_native::abi;
use shardloop_native::tls::failure::Failure;
use shardloop_native::tls::provider;
use shardloop_native::tls::server::roots;
use shardloop_native::tls::session::Session;
use std::cell::Cell;
use std::io::Write as _;
use std::sync::Arc;

const EARLY_DATA_BYTES: usize = 16 * 1024;
/// What a record has beside its plaintext: the inner type and the tag.
const OVERHEAD_BYTES: usize = 17;

fn made() -> Made {
    Made::new(|options| {
        options.sessions = "stateful".into();
        options.session_cache_size = 10;
        options.early_data_bytes = EARLY_DATA_BYTES as u32;
    })
}

/// The server knows none of its sessions any more, and perhaps takes another group only.
fn forget_sessions(made: &Made, group: Option<&str>) {
    let mut options = made.options();
    options.choices.groups = group.map(|name| vec![name.to_owned()]);
    options.session_cache_size += 1;
    made.server.reload(&options).unwrap();
}

/// A client that has a session to go on with.
fn known_client(made: &Made, provider: &Arc<CryptoProvider>, fragment: Option<usize>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(std::slice::from_ref(&made.ca)).unwrap())
        .with_no_client_auth();
    config.enable_early_data = true;
    config.max_fragment_size = fragment;
    let config = Arc::new(config);
    visit(made, &config, &[], usize::MAX).unwrap();
    config
}

struct Visit {
    client: ClientConnection,
    server: Session,
    received: Received,
}

impl Visit {
    /// A connection whose client has `early` to send ahead, record by record.
    fn new(made: &Made, config: &Arc<ClientConfig>, early: &[&[u8]]) -> Self {
        let mut client = ClientConnection::new(config.clone(), "localhost".try_into().unwrap()).unwrap();
        for record in early {
            client.early_data().expect("a session to go on with").write_all(record).unwrap();
        }
        Self { client, server: server(made), received: Received::default() }
    }

    /// Each side says what it has to say; the server receives pieces of `step` bytes. False when there was nothing.
    fn talk(&mut self, step: usize) -> Result<bool, Failure> {
        let mut said = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut said).unwrap();
        }
        deliver(&said, &mut self.server, step, &mut self.received)?;
        let answered = take_outgoing(&mut self.server);
        let mut rest = &answered[..];
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            self.client.process_new_packets().unwrap();
        }
        Ok(!said.is_empty() || !answered.is_empty())
    }
}

/// A whole one, with `b"behind"` behind the handshake.
fn visit(made: &Made, config: &Arc<ClientConfig>, early: &[&[u8]], step: usize) -> Result<Visit, Failure> {
    let mut visit = Visit::new(made, config, early);
    while visit.talk(step)? {}
    visit.client.writer().write_all(b"behind").unwrap();
    while visit.talk(step)? {}
    Ok(visit)
}

const STEPS: [usize; 4] = [1, 100, 1_460, usize::MAX];

#[test]
fn what_is_accepted_comes_before_what_follows() {
    let many = [1; 100];
    for step in STEPS {
        let made = made();
        let config = known_client(&made, provider(), None);
        let early: &[&[u8]] = &[b"ahead", &[2; 10_000], &many];
        let Visit { client, server, received } = visit(&made, &config, early, step).unwrap();
        assert!(client.is_early_data_accepted() && server.facts().early_data, "pieces of {step}");
        assert_eq!(received.bytes, [&early.concat()[..], b"behind"].concat(), "pieces of {step}");
    }
}

#[test]
fn what_is_rejected_is_skipped_however_it_comes() {
    let full = vec![1; EARLY_DATA_BYTES - OVERHEAD_BYTES];
    let (third, small) = (vec![2; EARLY_DATA_BYTES / 3 - OVERHEAD_BYTES], vec![3; 100]);
    // With fragments of 40 bytes the end of the client's handshake comes in two records.
    let cases: [(&[&[u8]], Option<usize>); 5] = [
        (&[b"ahead"], None),
        (&[&full], None),
        (&[&third, &third, &third], None),
        (&[&small[..]; 100], None),
        (&[&small[..]; 100], Some(40)),
    ];
    for (early, fragment) in cases {
        // With a group that the client has not expected it begins anew, and its early data comes in front of that.
        for group in [None, Some("P-384")] {
            for step in STEPS {
                let what = format!("{} records, {fragment:?}, {group:?}, pieces of {step}", early.len());
                let made = made();
                let config = known_client(&made, provider(), fragment);
                forget_sessions(&made, group);
                let Visit { client, server, received } = visit(&made, &config, early, step).expect(&what);
                assert!(!client.is_early_data_accepted() && !server.facts().early_data, "{what}");
                assert!(server.is_established(), "{what}");
                assert_eq!(received.bytes, b"behind", "{what}");
            }
        }
    }
}

#[test]
fn more_than_may_be_skipped_ends_the_session() {
    // rustls counts what encrypts them, too.
    let full = vec![1; EARLY_DATA_BYTES];
    for step in STEPS {
        let made = made();
        let config = known_client(&made, provider(), None);
        forget_sessions(&made, None);
        let failure = visit(&made, &config, &[&full], step).err().map(|failure| failure.reason());
        assert_eq!(failure, Some(abi::TLS_MALFORMED), "pieces of {step}");
    }
}

thread_local! {
    static EMPTIES: Cell<bool> = const { Cell::new(false) };
}

/// A client's encryption that can send empty messages for those of its handshake.
struct Emptying<T>(T);

impl Tls13AeadAlgorithm for Emptying<&'static dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Emptying(self.0.encrypter(key, iv)))
    }
    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.0.decrypter(key, iv)
    }
    fn key_len(&self) -> usize {
        self.0.key_len()
    }
    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }
}

impl MessageEncrypter for Emptying<Box<dyn MessageEncrypter>> {
    fn encrypt(
        &mut self,
        mut message: OutboundPlainMessage<'_>,
        number: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        if EMPTIES.get() && message.typ == ContentType::Handshake {
            message.payload = OutboundChunks::Single(&[]);
        }
        self.0.encrypt(message, number)
    }
    fn encrypted_payload_len(&self, length: usize) -> usize {
        self.0.encrypted_payload_len(length)
    }
}

fn emptying_provider() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider::clone(provider());
    let suite = provider.cipher_suites[0].tls13().unwrap();
    let emptying: &'static _ = Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: suite.hkdf_provider,
        aead_alg: Box::leak(Box::new(Emptying(suite.aead_alg))),
        quic: None,
    }));
    provider.cipher_suites = vec![emptying.into()];
    Arc::new(provider)
}

/// rustls keeps a place behind the empty message, in bytes that must be there still when it looks again.
#[test]
fn what_cannot_be_decrypted_behind_an_empty_message_makes_no_session_panic() {
    for step in STEPS {
        let made = made();
        EMPTIES.set(false);
        let config = known_client(&made, &emptying_provider(), None);
        forget_sessions(&made, None);
        EMPTIES.set(true);
        let mut visit = Visit::new(&made, &config, &[b"ahead"]);
        for _ in 0..2 {
            assert!(visit.talk(step).unwrap());
        }
        let mut record = vec![23, 3, 3, 0, 40];
        record.resize(45, 7);
        deliver(&record.repeat(3), &mut visit.server, step, &mut visit.received).unwrap();
        assert!(!visit.server.is_established());
    }
}
